"""Ce qu'un modèle récite, et la page qui le montre : les options de `evaluate`, leur calcul."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.config import TrainingConfig, check_int
from gpt_architecture.errors import ConfigurationError, OutputError
from gpt_architecture.scripts._cli import say_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gpt_architecture.api import GPT
    from gpt_architecture.data.shards import TokenSource
    from gpt_architecture.evaluation.attention_maps import AttentionMaps
    from gpt_architecture.evaluation.calibration import Calibration
    from gpt_architecture.evaluation.comparison import VariantResult
    from gpt_architecture.evaluation.loss_curves import LossCurves
    from gpt_architecture.evaluation.memorisation import MemorisationReport
    from gpt_architecture.evaluation.model_page import TextScore

    Progress = Callable[[int, int], None]

_OPENINGS = 3  # débuts pris dans chaque texte
_OPENING_TOKENS = 12
_SENTENCE_WORDS = 14
_CALIBRATION_TOKENS = 4096


@Parameter(name="*", group=Group("Mémorisation et page du modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Ce qu'il récite, et la page qui le montre."""

    memorisation: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Données de l'entraînement (celles de train --data) : mesure ce que le modèle en récite."""

    length: int = 64
    """Tokens de chaque suite écrite pour la mémorisation et la page."""

    report: Path | None = None
    """Page HTML à écrire : pertes, mémorisation, textes, calibration, attention."""

    sentence: str | None = None
    """Phrase dont la page montre l'attention ; sans elle, un début de texte."""

    @property
    def is_asked(self) -> bool:
        """Vrai s'il faut écrire des suites."""
        return bool(self.memorisation) or self.report is not None

    def check(self) -> None:
        """Refuse, avant de lire quoi que ce soit, ce qui échouerait après.

        Raises:
            ConfigurationError: longueur hors bornes, ou phrase sans page.
            OutputError: la page ne peut pas avoir ce nom.
        """
        check_int("--length", self.length, minimum=2, maximum=4096)
        if self.sentence is not None and self.report is None:
            raise ConfigurationError(
                "--sentence est donné sans --report",
                expected="la page où montrer l'attention de cette phrase",
                remedy="ajoutez --report page.html",
            )
        if self.report is not None and self.report.is_dir():
            raise OutputError(
                f"{self.report} est un dossier",
                expected="un nom de fichier",
                remedy="corrigez --report",
            )


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Les textes d'une étude.

    Attributes:
        training: ce que le modèle a appris ; None : inconnu.
        unseen: ce qu'il n'a pas appris ; None : inconnu.
    """

    training: TokenSource | None
    unseen: TokenSource | None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Ce qui a été écrit et mesuré."""

    results: tuple[VariantResult, ...]
    memorisation: MemorisationReport | None


def read_texts(
    gpt: GPT, options: StudyOptions, held_out: Sequence[Sequence[int]], *, offline: bool
) -> Texts:
    """Retrouve la part que le modèle a apprise, et celle qu'il n'a pas vue.

    Args:
        gpt: le modèle.
        options: les données de l'entraînement.
        held_out: tokens des documents de `--data`, l'inédit quand la coupe n'est pas connue.
        offline: interdit tout téléchargement.

    Raises:
        DataError: données absentes, abîmées ou trop courtes.
        ConfigurationError: fragments codés par un autre tokenizer.
    """
    import numpy as np

    from gpt_architecture.data.shards import TokenArray
    from gpt_architecture.training.datasets import load_training_data

    joined = [token for document in held_out for token in document]
    given = TokenArray(joined) if joined else None
    if not options.memorisation:
        return Texts(training=None, unseen=given)
    ratio = _recorded(gpt, "training").get("train_ratio", TrainingConfig.train_ratio)
    data = load_training_data(
        options.memorisation,
        gpt.tokenizer.name,
        window=1,
        training=TrainingConfig(train_ratio=ratio, batch_size=1),
        vocabulary=gpt.tokenizer,
        offline=offline,
    )
    if data.tokenizer.to_dict() != gpt.tokenizer.to_dict():
        raise ConfigurationError(
            f"{options.memorisation[0]} est codé par {data.tokenizer.name}",
            expected=f"des fragments codés par {gpt.tokenizer.name}, le tokenizer du modèle",
            remedy="donnez les données de son entraînement",
        )
    if data.sha256 == _recorded(gpt, "data").get("sha256"):
        return Texts(training=data.train, unseen=data.val)
    say_aside(
        "avertissement : --memorisation n'est pas exactement le texte de l'entraînement (autre "
        "empreinte) ; tout ce texte est tenu pour appris, et l'inédit est celui de --data"
        + ("" if given else ", qui n'est pas donné")
    )
    parts = [part.read(0, part.num_tokens).numpy() for part in (data.train, data.val)]
    return Texts(training=TokenArray(np.concatenate(parts)), unseen=given)


def study(
    gpt: GPT, options: StudyOptions, texts: Texts, progress: Callable[[str], Progress]
) -> Study:
    """Écrit les suites, et cherche ce qu'elles récitent.

    Args:
        gpt: le modèle.
        options: longueur des suites.
        texts: voir `read_texts`.
        progress: rend, pour une étape de ce nom, ce qui en reçoit l'avancement.

    Raises:
        ConfigurationError: aucun début de texte à continuer.
    """
    from dataclasses import replace

    from gpt_architecture.evaluation.comparison import SIX_VARIANTS, compare_strategies
    from gpt_architecture.evaluation.memorisation import measure_memorisation, openings

    sources = [each for each in (texts.training, texts.unseen) if each is not None]
    prompts = [
        opening
        for source in sources
        for opening in openings(source, gpt.tokenizer, count=_OPENINGS, length=_OPENING_TOKENS)
    ]
    prompts = list(dict.fromkeys([*_own_prompt(gpt), *prompts]))
    if not prompts:
        raise ConfigurationError(
            "aucun début de texte à continuer",
            expected="un texte, ou un modèle qui garde le début de ses exemples",
            remedy="donnez --data ou --memorisation",
        )
    variants = [
        (label, replace(config, max_tokens=options.length)) for label, config in SIX_VARIANTS
    ]
    seeds, results = [TrainingConfig.seed], list[Any]()
    advance, total = progress("Suites"), len(prompts) * len(variants)
    for result in compare_strategies(gpt.generator, prompts, variants, seeds=seeds):
        results.append(result)
        advance(options.length * len(results), options.length * total)
    memory = None
    if texts.training is not None:
        memory = measure_memorisation(
            results, texts.training, unseen=texts.unseen, on_progress=progress("Recherche")
        )
    return Study(results=tuple(results), memorisation=memory)


def write_page(
    path: Path,
    model_path: Path,
    gpt: GPT,
    study: Study,
    texts: Texts,
    *,
    scores: Sequence[TextScore],
    sentence: str | None,
    progress: Callable[[str], Progress],
) -> None:
    """Mesure ce que la page demande encore, et l'écrit.

    Args:
        path: la page.
        model_path: le modèle ; son journal est lu à côté.
        scores: pertes déjà mesurées.
        sentence: phrase dont montrer l'attention ; None : celle d'un début de texte.
    """
    from gpt_architecture.evaluation.comparison import summarize
    from gpt_architecture.evaluation.model_page import ModelPage, TextScore, write_model_page

    calibrations = _calibrations(gpt, texts, progress)
    measured = [
        TextScore(label=label, tokens=each.tokens, nll=each.nll) for label, each in calibrations
    ]
    page = ModelPage(
        name=str(model_path),
        facts=_facts(gpt),
        curves=_curves(model_path, gpt),
        scores=[*scores, *measured],
        memorisation=study.memorisation,
        samples=summarize(study.results),
        calibrations=calibrations,
        sentence=_attention(gpt, study, sentence),
    )
    write_model_page(path, page, gpt.tokenizer)
    say_aside(f"Page : {path}")


def _recorded(gpt: GPT, name: str) -> Mapping[str, Any]:
    """Ce que le fichier du modèle dit de son entraînement ; vide pour un modèle importé."""
    found = gpt.metadata.get(name)
    return found if isinstance(found, dict) else {}


def _own_prompt(gpt: GPT) -> list[tuple[int, ...]]:
    """Le début des exemples de l'entraînement, s'il est gardé."""
    prompt = gpt.metadata.get("prompt")
    return [tuple(gpt.generator.encode(prompt))] if isinstance(prompt, str) and prompt else []


def _calibrations(
    gpt: GPT, texts: Texts, progress: Callable[[str], Progress]
) -> list[tuple[str, Calibration]]:
    from gpt_architecture.evaluation.calibration import calibrate

    named = (("texte inédit", texts.unseen), ("texte d'entraînement", texts.training))
    return [
        (
            label,
            calibrate(
                gpt.model,
                source.read(0, min(_CALIBRATION_TOKENS + 1, source.num_tokens)),
                window=gpt.window,
                on_progress=progress("Calibration"),
            ),
        )
        for label, source in named
        if source is not None and source.num_tokens > 1
    ]


def _facts(gpt: GPT) -> list[tuple[str, str]]:
    from gpt_architecture.evaluation.numbers import thousands

    config = gpt.config
    facts = [
        ("paramètres", thousands(config.num_parameters())),
        ("couches", str(config.n_layers)),
        ("têtes", str(config.n_heads)),
        ("largeur", thousands(config.emb_dim)),
        ("contexte appris", thousands(gpt.window)),
        ("vocabulaire", f"{gpt.tokenizer.name}, {thousands(gpt.tokenizer.vocab_size)} tokens"),
    ]
    data = _recorded(gpt, "data").get("name")
    return [*facts, ("données", str(data))] if data else facts


def _curves(model_path: Path, gpt: GPT) -> LossCurves:
    """Les pertes du journal, sinon celles que le modèle garde."""
    from gpt_architecture.evaluation.loss_curves import curves_from_journal, curves_from_metadata
    from gpt_architecture.training.journal import JOURNAL

    journal = model_path.resolve().parent / JOURNAL
    curves = curves_from_metadata(gpt.metadata)
    if not journal.is_file():
        return curves
    found = curves_from_journal(journal)
    # Un journal d'un autre entraînement, resté là, ne raconte pas ce modèle.
    is_own = curves.is_empty or found.validation[-1:] == curves.validation[-1:]
    return found if is_own and not found.is_empty else curves


def _attention(gpt: GPT, study: Study, sentence: str | None) -> AttentionMaps | None:
    """Les cartes de la phrase demandée ; un modèle quantifié n'en a pas, et la page s'en passe."""
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.evaluation.attention_maps import attention_maps

    if sentence is None:
        if not isinstance(gpt.model, GPTModel):
            return None
        first = study.results[0]
        sentence = " ".join(f"{first.prompt}{first.text}".split()[:_SENTENCE_WORDS])
    return attention_maps(gpt.model, gpt.tokenizer, sentence)
