"""La page d'un modèle, assemblée : les mesures déjà faites, et celles qu'elle demande encore."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.attention_maps import AttentionMaps, attention_of
from gpt_architecture.evaluation.comparison import VariantResult, summarize
from gpt_architecture.evaluation.memorisation import MemorisationReport
from gpt_architecture.evaluation.reliability import calibrate
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.french import thousands
from gpt_architecture.reports.loss_curves import (
    LossCurves,
    curves_from_journal,
    curves_from_metadata,
)
from gpt_architecture.reports.model_page import ModelPage, TextScore

_SENTENCE_TOKENS = 16
_CALIBRATION_TOKENS = 4096
_SHOWN_DOCUMENTS = 20


class StudiedModel(Protocol):
    """Ce que la page demande à un modèle chargé : `api.GPT` en est un."""

    @property
    def model(self) -> CausalLM:
        """Le réseau, en évaluation."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Celui de l'entraînement."""
        ...

    @property
    def config(self) -> GPTConfig:
        """Forme du modèle."""
        ...

    @property
    def window(self) -> int:
        """Longueur de contexte apprise, en tokens."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Provenance et résultats de l'entraînement."""
        ...


def assemble_page(
    path: Path | str,
    studied: StudiedModel,
    results: Sequence[VariantResult],
    *,
    memorisation: MemorisationReport | None = None,
    training: TokenSource | None = None,
    unseen: TokenSource | None = None,
    losses: Sequence[Mapping[str, Any]] = (),
    sentence: AttentionMaps | None = None,
    progress: Callable[[str], Callable[[int, int], None]],
) -> ModelPage:
    """Mesure ce que la page demande encore, et la compose.

    Args:
        path: le fichier du modèle ; son journal est lu à côté.
        studied: le même, chargé.
        results: les suites qu'il a écrites.
        memorisation: ce qu'elles récitent ; None : non mesuré.
        training: ce qu'il a appris ; None : inconnu.
        unseen: ce qu'il n'a pas vu ; None : inconnu.
        losses: pertes déjà mesurées, telles que la commande les écrit en JSON.
        sentence: attention de la phrase demandée ; None : celle d'un début de texte.
        progress: rend, pour une étape de ce nom, ce qui en reçoit l'avancement.
    """
    path = Path(path)
    named = (("texte inédit", unseen), ("texte d'entraînement", training))
    calibrations = [
        (
            label,
            calibrate(
                studied.model,
                source.read(0, min(_CALIBRATION_TOKENS + 1, source.num_tokens)),
                window=studied.window,
                on_progress=progress("Calibration"),
            ),
        )
        for label, source in named
        if source is not None and source.num_tokens > 1
    ]
    return ModelPage(
        name="/".join(path.resolve().parts[-2:]),
        facts=_facts(studied),
        curves=_curves(path, studied.metadata),
        scores=[
            *(_score(each) for each in losses[:_SHOWN_DOCUMENTS]),
            *(
                TextScore(label=label, tokens=each.tokens, nll=each.nll)
                for label, each in calibrations
            ),
        ],
        memorisation=memorisation,
        samples=summarize(results),
        calibrations=calibrations,
        sentence=_attention(studied, results[0]) if sentence is None else sentence,
    )


def _score(loss: Mapping[str, Any]) -> TextScore:
    interval = loss["perplexity_interval"]
    return TextScore(
        label=loss["name"],
        tokens=loss["tokens"],
        nll=loss["loss"],
        bits_per_byte=loss["bits_per_byte"],
        interval=None if interval is None or None in interval else tuple(interval),
    )


def _facts(studied: StudiedModel) -> list[tuple[str, str]]:
    config, tokenizer = studied.config, studied.tokenizer
    facts = [
        ("paramètres", thousands(config.num_parameters())),
        ("couches", str(config.n_layers)),
        ("têtes", str(config.n_heads)),
        ("largeur", thousands(config.emb_dim)),
        ("contexte appris", thousands(studied.window)),
        ("vocabulaire", f"{tokenizer.name}, {thousands(tokenizer.vocab_size)} tokens"),
    ]
    data = studied.metadata.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return [*facts, ("données", str(name))] if name else facts


def _curves(path: Path, metadata: Mapping[str, Any]) -> LossCurves:
    """Les pertes du journal, sinon celles que le modèle garde."""
    journal = path.resolve().parent / JOURNAL
    curves = curves_from_metadata(metadata)
    if not journal.is_file():
        return curves
    found = curves_from_journal(journal)
    # Un journal d'un autre entraînement, resté là, ne raconte pas ce modèle.
    is_own = curves.is_empty or found.validation[-1:] == curves.validation[-1:]
    return found if is_own and not found.is_empty else curves


def _attention(studied: StudiedModel, first: VariantResult) -> AttentionMaps | None:
    """Les cartes des premiers mots écrits ; un modèle quantifié n'en a pas."""
    if not isinstance(studied.model, GPTModel):
        return None
    ids = (*first.prompt_ids, *first.tokens)[: min(_SENTENCE_TOKENS, studied.window)]
    return AttentionMaps(
        pieces=tuple(studied.tokenizer.decode([token]) for token in ids),
        weights=attention_of(studied.model, ids, window=studied.window),
    )
