"""Ce qu'un modèle récite de passages désignés : leur début lui est donné, il continue.

Formes : B essais de la même longueur, T tokens d'un essai.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.decoding.generator import generate_text_simple

RECALL_PREFIX, RECALL_LENGTH, RECALLED_PLACES = 16, 32, 24
"""D'une place d'un passage : tokens donnés, tokens attendus ; et places, au plus."""


def recalled(
    model: CausalLM,
    source: TokenSource,
    spans: Sequence[tuple[int, int]],
    *,
    window: int,
    stride: int = 1,
    most: int = RECALLED_PLACES,
) -> float | None:
    """La part de ces passages que le modèle continue mot pour mot, au plus probable.

    En des places également réparties, `RECALL_PREFIX` tokens du passage, ou la moitié s'il est plus
    court, sont l'invite ; de ce que le modèle en continue ne compte que ce qui précède sa première
    faute (Carlini et al., 2023). Les places sont, s'il se peut, des débuts de fenêtres : un modèle
    aux positions apprises ne récite guère qu'où il a lu (voir `extraction`).

    Args:
        model: le modèle, en évaluation.
        source: la suite de tokens.
        spans: morceaux [début, fin[ de la suite.
        window: contexte d'entraînement, en tokens.
        stride: tokens entre deux débuts de fenêtre, à l'entraînement.
        most: places, au plus.

    Returns:
        None : aucun passage n'a deux tokens.
    """
    trials = _recall_trials(spans, window, stride, most)
    groups = dict[tuple[int, int], list[int]]()
    for start, prefix, length in trials:
        groups.setdefault((prefix, length), []).append(start)
    right = total = 0
    for (prefix, length), starts in groups.items():
        rows = torch.stack([source.read(start, prefix + length) for start in starts])  # (B, T)
        device = next(iter(model.parameters())).device if isinstance(model, nn.Module) else "cpu"
        prompt = rows[:, :prefix].to(device)
        found = generate_text_simple(model, prompt, length, window)[:, prefix:].cpu()
        exact = (found == rows[:, prefix:]).long().cumprod(dim=1)
        right, total = right + int(exact.sum()), total + exact.numel()
    return right / total if total else None


def witness_spans(
    spans: Sequence[tuple[int, int]],
    apart: Sequence[tuple[int, int]],
    num_tokens: int,
    window: int,
    stride: int = 1,
    most: int = RECALLED_PLACES,
) -> list[tuple[int, int]]:
    """Des passages témoins, aussi longs que ceux de `spans`, répartis loin de `apart`.

    Args:
        spans: ceux à imiter.
        apart: ceux à éviter, d'au moins une fenêtre.
        num_tokens: longueur de la suite.
        window: contexte d'entraînement, en tokens.
        stride: tokens entre deux débuts de fenêtre, à l'entraînement.
        most: places, au plus.
    """
    found = list[tuple[int, int]]()
    trials = _recall_trials(spans, window, stride, most)
    for index, (_, prefix, length) in enumerate(trials):
        start = (2 * index + 1) * num_tokens // (2 * len(trials)) // stride * stride
        stop = start + prefix + length
        near = any(first - window < stop and last + window > start for first, last in apart)
        if stop <= num_tokens and not near:
            found.append((start, stop))
    return found


def _recall_trials(
    spans: Sequence[tuple[int, int]], window: int, stride: int, most: int
) -> list[tuple[int, int, int]]:
    """(début, tokens donnés, tokens attendus) de chaque essai, répartis sur les passages."""
    room = min(RECALL_PREFIX + RECALL_LENGTH, window)
    unit = -(-room // stride) * stride
    pieces = []
    for first, stop in spans:
        begin = -(-first // stride) * stride
        if stop - begin < min(room, stop - first):
            begin = first  # trop court pour contenir un début de fenêtre et sa suite
        pieces += [
            (start, min(room, stop - start))
            for start in range(begin, stop, unit)
            if stop - start >= 2 and (stop - start >= room or start == begin)
        ]
    count = min(most, len(pieces))
    chosen = [pieces[number * len(pieces) // count] for number in range(count)]
    trials = []
    for start, size in chosen:
        prefix = min(RECALL_PREFIX, size // 2)
        trials.append((start, prefix, size - prefix))
    return trials
