"""La page d'un modèle, assemblée pour la commande evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt_architecture.cli.study import recorded
from gpt_architecture.french import thousands

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gpt_architecture.api import GPT
    from gpt_architecture.cli.study import Progress, Study, Texts
    from gpt_architecture.evaluation.attention_maps import AttentionMaps
    from gpt_architecture.evaluation.calibration import Calibration
    from gpt_architecture.reports.loss_curves import LossCurves
    from gpt_architecture.reports.model_page import ModelPage, TextScore

_SENTENCE_TOKENS = 16
_CALIBRATION_TOKENS = 4096
_SHOWN_DOCUMENTS = 20


def assemble_page(
    model_path: Path,
    gpt: GPT,
    study: Study,
    texts: Texts,
    losses: Sequence[Mapping[str, Any]],
    sentence: AttentionMaps | None,
    progress: Callable[[str], Progress],
) -> ModelPage:
    """Mesure ce que la page demande encore, et la compose.

    Args:
        model_path: le modèle ; son journal est lu à côté.
        gpt: le même, chargé.
        study: suites et mémorisation.
        texts: ce qu'il a appris, et ce qu'il n'a pas vu.
        losses: pertes déjà mesurées, telles que la commande les écrit en JSON.
        sentence: attention de la phrase demandée ; None : celle d'un début de texte.
        progress: rend, pour une étape de ce nom, ce qui en reçoit l'avancement.
    """
    from gpt_architecture.evaluation.comparison import summarize
    from gpt_architecture.reports.model_page import ModelPage, TextScore

    calibrations = _calibrations(gpt, texts, progress)
    measured = [
        TextScore(label=label, tokens=each.tokens, nll=each.nll) for label, each in calibrations
    ]
    return ModelPage(
        name="/".join(model_path.resolve().parts[-2:]),
        facts=_facts(gpt),
        curves=_curves(model_path, gpt),
        scores=[*(_score(each) for each in losses[:_SHOWN_DOCUMENTS]), *measured],
        memorisation=study.memorisation,
        samples=summarize(study.results),
        calibrations=calibrations,
        sentence=_attention(gpt, study) if sentence is None else sentence,
    )


def _score(loss: Mapping[str, Any]) -> TextScore:
    from gpt_architecture.reports.model_page import TextScore

    interval = loss["perplexity_interval"]
    return TextScore(
        label=loss["name"],
        tokens=loss["tokens"],
        nll=loss["loss"],
        bits_per_byte=loss["bits_per_byte"],
        interval=None if interval is None or None in interval else tuple(interval),
    )


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

    config = gpt.config
    facts = [
        ("paramètres", thousands(config.num_parameters())),
        ("couches", str(config.n_layers)),
        ("têtes", str(config.n_heads)),
        ("largeur", thousands(config.emb_dim)),
        ("contexte appris", thousands(gpt.window)),
        ("vocabulaire", f"{gpt.tokenizer.name}, {thousands(gpt.tokenizer.vocab_size)} tokens"),
    ]
    data = recorded(gpt, "data").get("name")
    return [*facts, ("données", str(data))] if data else facts


def _curves(model_path: Path, gpt: GPT) -> LossCurves:
    """Les pertes du journal, sinon celles que le modèle garde."""
    from gpt_architecture.formats.journal import JOURNAL
    from gpt_architecture.reports.loss_curves import curves_from_journal, curves_from_metadata

    journal = model_path.resolve().parent / JOURNAL
    curves = curves_from_metadata(gpt.metadata)
    if not journal.is_file():
        return curves
    found = curves_from_journal(journal)
    # Un journal d'un autre entraînement, resté là, ne raconte pas ce modèle.
    is_own = curves.is_empty or found.validation[-1:] == curves.validation[-1:]
    return found if is_own and not found.is_empty else curves


def _attention(gpt: GPT, study: Study) -> AttentionMaps | None:
    """Les cartes des premiers mots écrits ; un modèle quantifié n'en a pas."""
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.evaluation.attention_maps import AttentionMaps, attention_of

    if not isinstance(gpt.model, GPTModel):
        return None
    first = study.results[0]
    ids = (*first.prompt_ids, *first.tokens)[: min(_SENTENCE_TOKENS, gpt.window)]
    return AttentionMaps(
        pieces=tuple(gpt.tokenizer.decode([token]) for token in ids),
        weights=attention_of(gpt.model, ids, window=gpt.window),
    )
