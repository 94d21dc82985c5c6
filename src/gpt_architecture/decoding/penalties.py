"""Pénalités : ce qui déplace des logits, d'après le texte déjà là ou à la demande.

Aucune ne retire de token, et aucune ne rend NaN : un logit fini reste fini, un token déjà retiré le
reste. Un réglage hors bornes est refusé dès la construction (`ConfigurationError`). Le texte (B, T)
est complété à gauche par −1 ; « les N derniers tokens » sont donc les N dernières colonnes. Le coût
suit la longueur du texte, non celle du vocabulaire.

Formes : B lot, T tokens, V vocabulaire.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.decoding.processors import Processor, check_sequences

FLOAT32_LOG_MAX = 88.7228391
"""ln du plus grand float32 : au-delà, la pénalité de DRY ne croît plus, comme dans llama.cpp."""


def repetition_penalty(penalty: float, *, window: int | None = None) -> Processor:
    """Divise les logits positifs des tokens déjà vus, multiplie les négatifs (Keskar et al., 2019).

    L'invite compte comme le texte généré, et le nombre d'occurrences ne compte pas.

    Args:
        penalty: > 0 ; 1 est sans effet, au-delà on décourage.
        window: ne regarde que les derniers tokens ; None : tout le texte.
    """
    check_float("repetition_penalty", penalty, above=0.0)

    def move(seen: Tensor, counts: Tensor) -> Tensor:
        limits = torch.finfo(seen.dtype)
        factor = min(max(penalty, limits.tiny), limits.max)
        return torch.where(seen < 0, seen * factor, seen / factor)

    return _on_seen(move, prompt_length=0, window=window)


def presence_penalty(
    penalty: float, *, prompt_length: int = 0, window: int | None = None
) -> Processor:
    """Ôte `penalty` aux logits des tokens déjà présents (API d'OpenAI).

    Args:
        penalty: négative, elle encourage.
        prompt_length: colonnes de tête qui ne comptent pas. La longueur de l'invite donne l'usage
            d'OpenAI et de vLLM, où seul le texte généré compte ; 0, celui de llama.cpp.
        window: ne regarde que les derniers tokens ; None : tous.
    """
    check_float("presence_penalty", penalty)
    strength = _single(penalty)
    return _on_seen(
        lambda seen, counts: seen - strength * counts.clamp(max=1),
        prompt_length=prompt_length,
        window=window,
    )


def frequency_penalty(
    penalty: float, *, prompt_length: int = 0, window: int | None = None
) -> Processor:
    """Ôte `penalty` aux logits autant de fois que le token est apparu (API d'OpenAI).

    Args:
        penalty, prompt_length, window: voir `presence_penalty`.
    """
    check_float("frequency_penalty", penalty)
    strength = _single(penalty)
    return _on_seen(
        lambda seen, counts: seen - strength * counts, prompt_length=prompt_length, window=window
    )


def dry(
    multiplier: float,
    *,
    base: float,
    allowed_length: int,
    breakers: Collection[Sequence[int]] = (),
    window: int | None = None,
) -> Processor:
    """Décourage le token qui prolongerait une répétition : « don't repeat yourself » (p-e-w, 2024).

    Si les L derniers tokens du texte s'y trouvent déjà, suivis du token x, alors x perd
    multiplier · base^(L − allowed_length), pour le plus grand L ≥ allowed_length. Mêmes règles
    que llama.cpp : une répétition ne traverse pas un séparateur, et un séparateur d'un seul
    token n'est jamais pénalisé.

    Args:
        multiplier: ≥ 0 ; 0 est sans effet.
        base: ≥ 1.
        allowed_length: longueur à partir de laquelle on pénalise, ≥ 1.
        breakers: séparateurs, chacun une suite d'identifiants.
        window: ne cherche que dans les derniers tokens ; None : tout le texte.
    """
    check_float("dry_multiplier", multiplier, minimum=0.0)
    check_float("dry_base", base, minimum=1.0)
    check_int("dry_allowed_length", allowed_length, minimum=1)
    _check_window(window, "dry_range")
    check_sequences("dry_breakers", breakers)
    by_end = defaultdict[int, list[list[int]]](list)
    for breaker in breakers:
        by_end[breaker[-1]].append(list(breaker))
    alone = {breaker[0] for breaker in breakers if len(breaker) == 1}
    growth = math.log(base)
    highest = int(FLOAT32_LOG_MAX / growth) if growth > 1e-6 else math.inf

    def punish(text: list[int]) -> dict[int, float]:
        """Token → pénalité."""
        limit = _length_since_breaker(text, by_end)
        if limit < allowed_length:
            return {}
        longest = dict[int, int]()
        for distance, length in enumerate(_repeated_lengths(text)):
            following = text[-distance] if distance else -1
            if length >= allowed_length and following not in alone:
                longest[following] = max(min(length, limit), longest.get(following, 0))
        return {
            token: multiplier * base ** min(length - allowed_length, highest)
            for token, length in longest.items()
        }

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        found = [
            (row, token, amount)
            for row, text in enumerate(_last(token_ids, window).tolist())
            for token, amount in punish([token for token in text if token >= 0]).items()
        ]
        if not found:
            return logits
        rows, columns, amounts = (torch.tensor(each) for each in zip(*found, strict=True))
        rows, columns = rows.to(logits.device), columns.to(logits.device)
        seen = logits[rows, columns]
        moved = _finite(seen - amounts.to(logits.device), seen)
        return logits.index_put((rows, columns), moved)

    return process


def logit_bias(bias: Mapping[int, float]) -> Processor:
    """Ajoute à chaque token nommé son biais (API d'OpenAI)."""
    for token, value in bias.items():
        check_int("logit_bias", token, minimum=0)
        check_float(f"logit_bias[{token}]", value)
    tokens = torch.tensor(list(bias), dtype=torch.int64)
    values = torch.tensor([_single(value) for value in bias.values()])

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        columns = tokens.to(logits.device)
        chosen = logits[:, columns]
        return logits.index_copy(1, columns, _finite(chosen + values.to(logits.device), chosen))

    return process


def _on_seen(
    move: Callable[[Tensor, Tensor], Tensor], *, prompt_length: int, window: int | None
) -> Processor:
    """Déplace les logits des tokens déjà vus.

    Args:
        move: logits (B, T) des tokens du texte, nombre d'occurrences (B, T) → logits (B, T).
        prompt_length: colonnes de tête qui ne comptent pas.
        window: ne regarde que les derniers tokens ; None : tous.
    """
    check_int("prompt_length", prompt_length, minimum=0)
    _check_window(window)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        text = _last(token_ids[:, prompt_length:], window)
        if text.size(1) == 0:
            return logits
        vocab_size = logits.size(-1)  # une colonne de plus, de ce rang, recueille les −1
        columns = text.masked_fill(text < 0, vocab_size).clamp(max=vocab_size)
        padded = torch.nn.functional.pad(logits, (0, 1))  # (B, V + 1)
        counts = torch.zeros(padded.shape, device=logits.device)
        counts.scatter_add_(1, columns, torch.ones_like(columns, dtype=counts.dtype))
        seen = padded.gather(1, columns)
        moved = _finite(move(seen, counts.gather(1, columns)), seen)
        return padded.scatter(1, columns, moved)[:, :-1]

    return process


def _single(value: float) -> float:
    """`value` ramené aux bornes de float32, où se font les sommes."""
    highest = torch.finfo(torch.float32).max
    return min(max(value, -highest), highest)


def _check_window(window: int | None, name: str = "penalty_window") -> None:
    if window is not None:
        check_int(name, window, minimum=1)


def _last(token_ids: Tensor, window: int | None) -> Tensor:
    return token_ids if window is None else token_ids[:, -window:]


def _finite(moved: Tensor, logits: Tensor) -> Tensor:
    """`moved` dans le type de `logits` ; un logit fini le reste, un −∞ aussi."""
    limits = torch.finfo(logits.dtype)
    bounded = moved.clamp(limits.min, limits.max).to(logits.dtype)
    return torch.where(logits == -torch.inf, logits, bounded)


def _length_since_breaker(text: list[int], by_end: Mapping[int, Collection[list[int]]]) -> int:
    """Nombre de tokens après le dernier séparateur ; `by_end` les range par dernier token."""
    for length in range(len(text)):
        end = len(text) - length
        if any(
            text[max(end - len(breaker), 0) : end] == breaker
            for breaker in by_end.get(text[end - 1], ())
        ):
            return length
    return len(text)


def _repeated_lengths(text: list[int]) -> list[int]:
    """Longueur de la fin commune au texte et au texte privé de ses d derniers tokens, pour tout d.

    C'est la fonction Z du texte retourné, en temps linéaire ; à la distance 0, elle vaut 0.
    """
    backwards = text[::-1]
    size = len(text)
    lengths = [0] * size
    left = right = 0  # le dernier intervalle qui répète le début
    for start in range(1, size):
        length = min(lengths[start - left], right - start) if start < right else 0
        while start + length < size and backwards[length] == backwards[start + length]:
            length += 1
        lengths[start] = length
        if start + length > right:
            left, right = start, start + length
    return lengths
