"""Ce qu'un modèle récite, et la page qui le montre."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_architecture.api.gpt import GPT
from gpt_architecture.config import TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData, load_training_data
from gpt_architecture.data.masking import without
from gpt_architecture.data.removal import REMOVAL_NAME, Removal, read_removal
from gpt_architecture.data.shards.reader import TokenArray, TokenSource
from gpt_architecture.data.tokenizers.marked_text import own_prompt
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.attention_maps import AttentionMaps
from gpt_architecture.evaluation.comparison import (
    SIX_VARIANTS,
    VariantResult,
    summarize,
    write_samples,
)
from gpt_architecture.evaluation.memorisation import (
    MemorisationReport,
    measure_memorisation,
    openings,
)
from gpt_architecture.evaluation.reliability import Calibration, calibrate
from gpt_architecture.training.inputs import with_canaries

if TYPE_CHECKING:
    from gpt_architecture.reports.model_page import TextScore

Progress = Callable[[int, int], None]

logger = logging.getLogger(__name__)

_OPENINGS = 3  # invites prises dans chaque texte
_OPENING_TOKENS = 12
_SENTENCE_TOKENS = 16
_CALIBRATION_TOKENS = 4096
_SHOWN_DOCUMENTS = 20
_MEASURED = "texte mesuré"
_UNSEEN = "celui de `data`"


def study_model(
    gpt: GPT,
    model_path: Path | str,
    *,
    memorisation: Sequence[str],
    length: int,
    report: Path | str | None,
    sentence: str | None,
    held_out: Sequence[Sequence[int]],
    losses: Sequence[Mapping[str, Any]],
    field: str | None,
    offline: bool,
    skip_bad: bool,
    progress: Callable[[str], Progress],
) -> MemorisationReport | None:
    """Génère des textes, cherche ce qu'ils récitent, et fait la page si elle est demandée.

    Args:
        gpt: le modèle, chargé.
        model_path: son fichier ; le journal de l'entraînement est lu à côté.
        memorisation: données de l'entraînement, dont chercher ce que le modèle récite.
        length: tokens de chaque texte.
        report: page à écrire.
        sentence: phrase dont la page montre l'attention ; None : des premiers mots.
        held_out: tokens des documents de `data`, l'inédit quand la coupe n'est pas connue.
        losses: leurs pertes, telles que la commande les écrit en JSON.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        offline: interdit tout téléchargement.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.
        progress: rend, pour une étape de ce nom, ce qui en reçoit l'avancement.

    Returns:
        La mémorisation ; None si les données de l'entraînement ne sont pas données.

    Raises:
        ConfigurationError: phrase trop longue, ou demandée d'un modèle quantifié ; fragments codés
            par un autre tokenizer ; aucune invite à continuer.
        DataError: données de l'entraînement absentes, abîmées ou trop courtes.
        OutputError: la page ne peut pas être écrite.
    """
    from gpt_architecture.reports.curves import curves_of
    from gpt_architecture.reports.model_page import ModelPage, TextScore, write_model_page

    looked = None if sentence is None else gpt.attention(sentence)  # elle n'attend pas les textes
    training, unseen = read_texts(
        gpt, memorisation, held_out, field=field, offline=offline, skip_bad=skip_bad
    )
    results = _write_texts(gpt, length, [training, unseen], progress("Textes"))
    recited = None
    if training is not None:
        recited = measure_memorisation(
            results, training, unseen=unseen, on_progress=progress("Recherche")
        )
    if report is not None:
        calibrations = _calibrations(gpt, training, unseen, progress)
        page = ModelPage(
            name="/".join(Path(model_path).resolve().parts[-2:]),
            facts=gpt.facts,
            curves=curves_of(model_path, gpt.metadata),
            scores=[
                *map(_score, losses[:_SHOWN_DOCUMENTS]),
                *(
                    TextScore(label=label, tokens=each.tokens, nll=each.nll)
                    for label, each in calibrations
                    if label != _MEASURED  # sa perte est déjà parmi celles des textes donnés
                ),
            ],
            memorisation=recited,
            samples=summarize(results),
            calibrations=calibrations,
            sentence=_first_words(gpt, results[0]) if looked is None else looked,
        )
        write_model_page(report, page, gpt.tokenizer)
        logger.info("Page : %s", report)
    return recited


def read_texts(
    gpt: GPT,
    memorisation: Sequence[str],
    held_out: Sequence[Sequence[int]] | None,
    *,
    field: str | None,
    offline: bool,
    skip_bad: bool,
    setting: str = "memorisation",
) -> tuple[TokenSource | None, TokenSource | None]:
    """Ce que le modèle a appris, et ce qu'il n'a pas vu ; None : inconnu.

    Args:
        gpt: le modèle.
        memorisation: données de son entraînement ; vide : on ne sait pas ce qu'il a appris.
        held_out: tokens de textes qu'il n'a pas appris, quand la coupe n'est pas connue ; None : on
            n'en a pas.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        offline: interdit tout téléchargement.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.
        setting: le réglage qui donne ces données, pour les messages.

    Raises:
        ConfigurationError: fragments codés par un autre tokenizer.
        DataError: données absentes, abîmées ou trop courtes.
    """
    joined = [token for document in held_out or () for token in document]
    given = TokenArray(joined) if joined else None
    if not memorisation:
        return None, given
    data, is_exact = learned_data(
        gpt, memorisation, field=field, offline=offline, skip_bad=skip_bad
    )
    if is_exact:
        return data.train, data.val
    logger.warning(
        "`%s` n'est pas exactement le texte de l'entraînement (autre empreinte) ; tout "
        "ce texte est tenu pour appris, et l'inédit est %s",
        setting,
        "inconnu" if held_out is None else _UNSEEN if given else f"{_UNSEEN}, qui n'est pas donné",
    )
    parts = [part.read(0, part.num_tokens).numpy() for part in (data.train, data.val)]
    return TokenArray(np.concatenate(parts)), given


def learned_data(
    gpt: GPT, sources: Sequence[str], *, field: str | None, offline: bool, skip_bad: bool
) -> tuple[TrainingData, bool]:
    """Les données d'un entraînement, relues : coupées comme alors, canaris plantés, retrait fait.

    Args:
        gpt: le modèle.
        sources: celles données à l'entraînement.
        field, offline, skip_bad: voir `load_training_data`.

    Returns:
        Les données, et vrai si leur empreinte est celle que le modèle garde.

    Raises:
        ConfigurationError: des fragments codés par un autre tokenizer, ou un oubli dont le retrait
            n'est pas à côté du modèle.
        DataError: données absentes, abîmées ou trop courtes.
    """
    known = _recorded(gpt, "training")
    kept = {name: known[name] for name in ("train_ratio", "seed", "canaries") if name in known}
    training = TrainingConfig(batch_size=1, **kept)
    data = load_training_data(
        sources,
        gpt.tokenizer.name,
        window=1,
        training=training,
        vocabulary=gpt.tokenizer,
        field=field,
        offline=offline,
        skip_bad=skip_bad,
    )
    if data.tokenizer.to_dict() != gpt.tokenizer.to_dict():
        raise ConfigurationError(
            f"{sources[0]} est codé par {data.tokenizer.name}",
            expected=f"des fragments codés par {gpt.tokenizer.name}, le tokenizer du modèle",
            remedy="donnez les données de son entraînement",
        )
    data, told = with_canaries(data, training), _recorded(gpt, "data")
    is_exact = data.sha256 == told.get("sha256")
    if is_exact and told.get("removed") is not None:
        data = without(data, _removal(gpt, told["removed"]))
    return data, is_exact


def _removal(gpt: GPT, sha256: object) -> Removal:
    """Le retrait d'un modèle qui a oublié des textes.

    Raises:
        ConfigurationError: il n'est pas à côté de lui.
    """
    path = None if gpt.folder is None else gpt.folder / REMOVAL_NAME
    found = read_removal(path) if path is not None and path.is_file() else None
    if found is None or found.sha256 != sha256:
        raise ConfigurationError(
            "ce modèle a oublié des textes, et le retrait qui dit lesquels n'est pas à côté de lui",
            expected=f"{REMOVAL_NAME}, tel que « gpt-architecture forget » l'a écrit",
            remedy="rendez ce fichier au dossier du modèle",
        )
    return found


def _write_texts(
    gpt: GPT, length: int, sources: Sequence[TokenSource | None], advance: Progress
) -> list[VariantResult]:
    """Les textes de `length` tokens des six stratégies, d'invites prises dans ces sources."""
    own = own_prompt(gpt.metadata)
    prompts = [] if own is None else [tuple(gpt.generator.encode(own))]
    for source in sources:
        if source is not None:
            prompts += openings(source, gpt.tokenizer, count=_OPENINGS, length=_OPENING_TOKENS)
    prompts = list(dict.fromkeys(prompts))
    if not prompts:
        raise ConfigurationError(
            "aucune invite à continuer",
            expected="un texte, ou un modèle qui garde l'invite de ses exemples",
            remedy="donnez `data` ou `memorisation`",
        )
    variants = [(label, replace(config, max_tokens=length)) for label, config in SIX_VARIANTS]
    results: list[VariantResult] = []
    size = length * len(prompts)
    for number, samples in enumerate(
        write_samples(gpt.generator, prompts, variants, seed=TrainingConfig.seed), start=1
    ):
        results += samples
        advance(number * size, len(variants) * size)
    return results


def _calibrations(
    gpt: GPT,
    training: TokenSource | None,
    unseen: TokenSource | None,
    progress: Callable[[str], Progress],
) -> list[tuple[str, Calibration]]:
    """La calibration sur le début de chaque texte, sous son nom.

    Sans les données de l'entraînement, rien ne dit qu'un texte donné n'a pas été appris.
    """
    label = _MEASURED if training is None else "texte inédit"
    return [
        (
            label,
            calibrate(
                gpt.measured,
                source.read(0, min(_CALIBRATION_TOKENS + 1, source.num_tokens)),
                window=gpt.window,
                on_progress=progress("Calibration"),
            ),
        )
        for label, source in ((label, unseen), ("texte d'entraînement", training))
        if source is not None and source.num_tokens > 1
    ]


def _score(loss: Mapping[str, Any]) -> TextScore:
    """Une perte, telle que la commande l'écrit en JSON, comme la page la montre."""
    from gpt_architecture.reports.model_page import TextScore

    interval = loss["perplexity_interval"]
    return TextScore(
        label=loss["name"],
        tokens=loss["tokens"],
        nll=loss["loss"],
        bits_per_byte=loss["bits_per_byte"],
        interval=None if interval is None or None in interval else tuple(interval),
    )


def _first_words(gpt: GPT, first: VariantResult) -> AttentionMaps | None:
    """Les cartes des premiers mots écrits ; un modèle quantifié n'en a pas."""
    if gpt.quant is not None or not isinstance(gpt.model, GPTModel):
        return None
    ids = (*first.prompt_ids, *first.tokens)[: min(_SENTENCE_TOKENS, gpt.window)]
    return gpt.attention(ids)


def _recorded(gpt: GPT, name: str) -> Mapping[str, Any]:
    """Ce que le fichier du modèle dit de son entraînement ; vide pour un modèle importé."""
    found = gpt.metadata.get(name)
    return found if isinstance(found, dict) else {}
