"""Ce qu'un entraînement apprend : la même invite, à chacun de ses points de reprise.

Un point de reprise à la fois est en mémoire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Any

import torch

from gpt_architecture.config import check_int
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.distribution import next_token_logits
from gpt_architecture.evaluation.likelihood import Span, score_spans
from gpt_architecture.formats.checkpoint import (
    CHECKPOINTS,
    MANIFEST,
    CheckpointFolder,
    read_checkpoint,
)
from gpt_architecture.formats.door import read_any
from gpt_architecture.formats.journal import finite_number
from gpt_architecture.formats.model_file import ModelFile

MOST_MOMENTS = 12
"""Points de reprise lus, au plus ; s'il y en a davantage, ils sont pris à pas réguliers."""

MOST_TOKENS = 400


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Un modèle, à un moment de son entraînement.

    Attributes:
        step: étapes faites.
        train_loss: perte d'entraînement de la dernière évaluation, en nats ; None : inconnue.
        val_loss: perte de validation, de même.
        text: ce qu'il écrit après l'invite, au plus probable.
        probability: probabilité qu'il donne au texte suivi, juste après l'invite.
        rank: rang du premier token de ce texte parmi ceux du vocabulaire, depuis 1.
        candidates: (token, probabilité) des tokens les plus probables après l'invite.
    """

    step: int
    train_loss: float | None
    val_loss: float | None
    text: str
    probability: float
    rank: int
    candidates: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Learning:
    """La même invite, au fil d'un entraînement.

    Attributes:
        prompt: l'invite.
        follow: le texte dont la probabilité est suivie.
        moments: du premier point de reprise au dernier.
        skipped: points de reprise qui ne sont pas montrés.
        tokenizer: celui de l'entraînement.
    """

    prompt: str
    follow: str
    moments: tuple[Moment, ...]
    skipped: int
    tokenizer: Tokenizer


def follow_learning(
    folder: Path | str,
    prompt: str,
    *,
    follow: str | None = None,
    max_tokens: int = 24,
    top: int = 5,
    most: int = MOST_MOMENTS,
    device: str | torch.device = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
) -> Learning:
    """Donne la même invite à chaque point de reprise d'un entraînement.

    Args:
        folder: dossier de l'entraînement, ou des `step-*` ; ou son modèle, ou l'un d'eux.
        prompt: l'invite.
        follow: texte dont suivre la probabilité, juste après l'invite ; None : le token le plus
            probable pour le dernier point de reprise. Il est codé seul : avec un BPE, l'espace qui
            précède un mot en fait partie.
        max_tokens: tokens écrits à chaque moment.
        top: candidats gardés.
        most: points de reprise lus, au plus ; le premier et le dernier en sont toujours.
        device: où calculer.
        on_progress: appelé avec (points lus, points à lire).

    Raises:
        ConfigurationError: aucun point de reprise, réglage hors bornes, texte vide ou trop long.
        CheckpointError, ModelFileError: un point de reprise est abîmé.
    """
    check_int("max_tokens", max_tokens, minimum=0, maximum=MOST_TOKENS)
    check_int("top", top, minimum=1, maximum=100)
    check_int("most", most, minimum=2)
    store = folder_of(folder)
    steps = store.steps()
    if not steps:
        raise ConfigurationError(
            f"{folder} n'a pas de point de reprise",
            expected="un dossier d'entraînement qui en a gardé plusieurs",
            remedy="entraînez en les gardant, par exemple save_every=20 et keep=50",
        )
    chosen = spread(steps, most)
    moments = list[Moment]()
    followed: list[int] | None = None
    tokenizer: Tokenizer | None = None
    for done, step in enumerate(reversed(chosen), start=1):  # le dernier choisit le texte suivi
        path = store.path_of(step)
        content, state = read_any(path), read_checkpoint(path, verify=False).state
        tokenizer = tokenizer_from_dict(content.tokenizer)
        generator = _generator(content, tokenizer, device)
        ids = generator.encode(prompt)
        logits = next_token_logits(generator.model, torch.tensor([ids], device=device)).float()
        shares = logits.softmax(-1).cpu()[: tokenizer.vocab_size]  # ceux qui ont un texte
        if followed is None:
            followed = [int(shares.argmax())] if follow is None else tokenizer.encode(follow)
            _check(ids, followed, generator.window)
        moments.append(
            Moment(
                step=step,
                **_losses(state),
                text=_text(generator, ids, max_tokens),
                probability=_probability(generator, ids, followed),
                rank=1 + int((shares > shares[followed[0]]).sum()),
                candidates=tuple(_best(shares, top)),
            )
        )
        if on_progress is not None:
            on_progress(done, len(chosen))
    assert tokenizer is not None and followed is not None  # noqa: S101, PT018 — un point au moins
    return Learning(
        prompt=prompt,
        follow=tokenizer.decode(followed),
        moments=tuple(reversed(moments)),
        skipped=len(steps) - len(chosen),
        tokenizer=tokenizer,
    )


def folder_of(folder: Path | str) -> CheckpointFolder:
    """Les points de reprise d'un entraînement, par son dossier, le leur, son modèle ou un point."""
    place = Path(folder)
    if place.is_file() or (place / MANIFEST).is_file():
        place = place.parent
    inner = place / CHECKPOINTS
    return CheckpointFolder(inner if inner.is_dir() else place)


def spread(steps: Sequence[int], most: int) -> list[int]:
    """Au plus `most` étapes, à pas réguliers ; la première et la dernière en sont."""
    if len(steps) <= most:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(place * last / (most - 1))] for place in range(most)]


def _generator(content: ModelFile, tokenizer: Tokenizer, device: str | torch.device) -> Generator:
    """Le modèle d'un point de reprise, prêt à écrire, sur son contexte d'entraînement."""
    learned, limit = content.metadata.get("window"), content.config.context_length
    window = min(learned, limit) if isinstance(learned, int) and learned > 0 else limit
    return Generator(content.build(torch.device(device)), tokenizer, window=window)


def _check(prompt: Sequence[int], followed: Sequence[int], window: int) -> None:
    if not followed or len(prompt) + len(followed) > window:
        raise ConfigurationError(
            f"invite de {len(prompt)} tokens et texte suivi de {len(followed)}",
            expected=f"au moins un chacun, et {window} ensemble au plus",
            remedy="donnez des textes plus courts" if followed else "donnez un texte à suivre",
        )


def _text(generator: Generator, ids: Sequence[int], max_tokens: int) -> str:
    """Ce que le modèle écrit au plus probable."""
    if not max_tokens:
        return ""
    config = GenerationConfig(strategy="greedy", max_tokens=max_tokens)
    ((found,),) = generator.generate([ids], config)
    return found.text


def _probability(generator: Generator, ids: Sequence[int], followed: Sequence[int]) -> float:
    """Le produit des probabilités des tokens suivis, l'un après l'autre."""
    span = Span(tokens=[*ids, *followed], scored=len(followed))
    (score,) = score_spans(generator.model, [span])
    return exp(score.log_prob)


def _best(shares: torch.Tensor, top: int) -> list[tuple[int, float]]:
    """(token, probabilité) des plus probables ; ex æquo par identifiant."""
    values, ids = shares.sort(descending=True, stable=True)
    return list(zip(ids[:top].tolist(), values[:top].tolist(), strict=True))


def _losses(state: Mapping[str, Any]) -> dict[str, float | None]:
    """Les pertes de la dernière évaluation d'un point de reprise."""
    known = state.get("trainer")
    kept = known if isinstance(known, Mapping) else {}
    found = {}
    for name, column in (("train_loss", "train_losses"), ("val_loss", "val_losses")):
        values = kept.get(column)
        found[name] = finite_number(values[-1]) if isinstance(values, list) and values else None
    return found
