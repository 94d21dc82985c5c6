"""Pénalités : ce qui déplace des logits, d'après le texte déjà là ou à la demande.

Aucune ne retire de token, et aucune ne rend NaN : un logit fini reste fini, un token déjà
retiré le reste. Le texte (B, T) est complété à gauche par −1 ; « les N derniers tokens » sont
donc les N dernières colonnes.

Formes : B lot, T tokens, V vocabulaire, L longueur d'une séquence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.decoding.processors import Processor
from gpt_architecture.errors import ConfigurationError

FLOAT32_LOG_MAX = 88.7228391
"""ln du plus grand float32 : au-delà, la pénalité de DRY ne croît plus, comme dans llama.cpp."""


def repetition_penalty(penalty: float, *, window: int | None = None) -> Processor:
    """Divise les logits positifs des tokens déjà vus, multiplie les négatifs (Keskar et al., 2019).

    Le début compte comme la suite, et le nombre d'occurrences ne compte pas.

    Args:
        penalty: > 0 ; 1 est sans effet, au-delà on décourage.
        window: ne regarde que les derniers tokens ; None : tout le texte.

    Raises:
        ConfigurationError: valeur hors bornes.
    """
    check_float("repetition_penalty", penalty, above=0.0)
    _check_window(window)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        limits = torch.finfo(logits.dtype)
        factor = min(max(penalty, limits.tiny), limits.max)
        columns = _columns(_last(token_ids, window), logits.size(-1))
        padded = torch.nn.functional.pad(logits, (0, 1))  # (B, V + 1) : le −1 a sa colonne
        seen = padded.gather(1, columns)
        moved = _finite(torch.where(seen < 0, seen * factor, seen / factor), seen)
        return padded.scatter(1, columns, moved)[:, :-1]

    return process


def presence_penalty(
    penalty: float, *, prompt_length: int = 0, window: int | None = None
) -> Processor:
    """Ôte `penalty` aux logits des tokens déjà présents (API d'OpenAI).

    Args:
        penalty: négative, elle encourage.
        prompt_length: colonnes de tête qui ne comptent pas. La longueur du début donne l'usage
            d'OpenAI et de vLLM, où seule la suite compte ; 0, celui de llama.cpp.
        window: ne regarde que les derniers tokens ; None : tous.

    Raises:
        ConfigurationError: valeur hors bornes.
    """
    check_float("presence_penalty", penalty)
    strength = _single(penalty)
    return _count_penalty(lambda counts: strength * (counts > 0), prompt_length, window)


def frequency_penalty(
    penalty: float, *, prompt_length: int = 0, window: int | None = None
) -> Processor:
    """Ôte `penalty` aux logits autant de fois que le token est apparu (API d'OpenAI).

    Args:
        penalty, prompt_length, window: voir `presence_penalty`.

    Raises:
        ConfigurationError: valeur hors bornes.
    """
    check_float("frequency_penalty", penalty)
    strength = _single(penalty)
    return _count_penalty(lambda counts: strength * counts, prompt_length, window)


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

    Raises:
        ConfigurationError: valeur hors bornes, ou séparateur vide.
    """
    check_float("dry_multiplier", multiplier, minimum=0.0)
    check_float("dry_base", base, minimum=1.0)
    check_int("dry_allowed_length", allowed_length, minimum=1)
    _check_window(window, "dry_range")
    check_sequences("dry_breakers", breakers)
    single = torch.tensor([breaker[0] for breaker in breakers if len(breaker) == 1])
    growth = math.log(base)
    highest = int(FLOAT32_LOG_MAX / growth) if growth > 1e-6 else None

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        text = _last(token_ids, window)
        if text.size(1) <= allowed_length:
            return logits
        stops = _breaker_ends(text, breakers) | (text < 0)
        longest = None if highest is None else allowed_length + highest
        lengths = _repeated_lengths(text, stops, longest)  # (B, T − 1)
        following = text[:, 1:]
        punished = (lengths >= allowed_length) & ~torch.isin(following, single.to(text.device))
        if not bool(punished.any()):
            return logits
        exponent = (lengths - allowed_length).to(torch.float32)
        penalties = (multiplier * torch.pow(base, exponent)).masked_fill(~punished, 0)
        largest = torch.zeros(logits.size(0), logits.size(-1) + 1, device=logits.device)
        largest.scatter_reduce_(1, _columns(following, logits.size(-1)), penalties, "amax")
        return _finite(logits - largest[:, :-1], logits)

    return process


def logit_bias(bias: Mapping[int, float]) -> Processor:
    """Ajoute à chaque token nommé son biais (API d'OpenAI).

    Raises:
        ConfigurationError: identifiant négatif, ou biais qui n'est pas un nombre fini.
    """
    for token, value in bias.items():
        check_int("logit_bias", token, minimum=0)
        check_float(f"logit_bias[{token}]", value)
    tokens = torch.tensor(list(bias), dtype=torch.int64)
    values = torch.tensor(list(bias.values()), dtype=torch.float64)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        columns = tokens.to(logits.device)
        chosen = logits[:, columns]
        moved = _finite(chosen + values.to(logits.device, logits.dtype), chosen)
        return logits.index_copy(1, columns, moved)

    return process


def check_sequences(name: str, sequences: Collection[Sequence[int]]) -> None:
    """Vérifie des suites d'identifiants, dont aucune n'est vide.

    Raises:
        ConfigurationError: suite vide, ou identifiant négatif.
    """
    for sequence in sequences:
        if not sequence:
            raise ConfigurationError(
                f"{name} contient une suite vide",
                expected="au moins un token par suite",
                remedy=f"corrigez {name}",
            )
        for token in sequence:
            check_int(name, token, minimum=0)


def _count_penalty(
    delta: Callable[[Tensor], Tensor], prompt_length: int, window: int | None
) -> Processor:
    """Ôte `delta(occurrences)` ; les occurrences sont (B, V), en float32."""
    check_int("prompt_length", prompt_length, minimum=0)
    _check_window(window)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        text = _last(token_ids[:, prompt_length:], window)
        if text.size(1) == 0:
            return logits
        columns = _columns(text, logits.size(-1))
        counts = torch.zeros(logits.size(0), logits.size(-1) + 1, device=logits.device)
        counts.scatter_add_(1, columns, torch.ones_like(columns, dtype=counts.dtype))
        return _finite(logits - delta(counts[:, :-1]), logits)

    return process


def _single(value: float) -> float:
    """`value` ramené aux bornes de float32 : infinie, elle rendrait NaN où le compte est nul."""
    highest = torch.finfo(torch.float32).max
    return min(max(value, -highest), highest)


def _check_window(window: int | None, name: str = "penalty_window") -> None:
    if window is not None:
        check_int(name, window, minimum=1)


def _last(token_ids: Tensor, window: int | None) -> Tensor:
    return token_ids if window is None else token_ids[:, -window:]


def _columns(text: Tensor, vocab_size: int) -> Tensor:
    """Colonne de chaque token ; celle de rang V recueille les −1."""
    return text.masked_fill(text < 0, vocab_size).clamp(max=vocab_size)


def _finite(moved: Tensor, logits: Tensor) -> Tensor:
    """`moved` dans le type de `logits` ; un logit fini le reste, un −∞ aussi."""
    limits = torch.finfo(logits.dtype)
    bounded = moved.clamp(limits.min, limits.max).to(logits.dtype)
    return torch.where(logits == -torch.inf, logits, bounded)


def _breaker_ends(text: Tensor, breakers: Collection[Sequence[int]]) -> Tensor:
    """(B, T) booléen : vrai où finit un séparateur."""
    ends = torch.zeros_like(text, dtype=torch.bool)
    for breaker in breakers:
        length = len(breaker)
        if length <= text.size(1):
            pattern = torch.tensor(breaker, device=text.device)
            windows = text.unfold(1, length, 1)  # (B, T − L + 1, L)
            ends[:, length - 1 :] |= (windows == pattern).all(dim=-1)
    return ends


def _repeated_lengths(text: Tensor, stops: Tensor, longest: int | None) -> Tensor:
    """Longueur du plus long suffixe du texte qui finit aussi à chaque position : (B, T − 1).

    Le suffixe s'allonge d'un token par tour, tant qu'une position le suit encore ; il ne
    contient pas de position marquée par `stops` (B, T).
    """
    last = text.size(1) - 1
    lengths = torch.zeros_like(text[:, :-1])
    alive = torch.ones_like(lengths, dtype=torch.bool)
    for size in range(last if longest is None else min(last, longest)):
        newest = slice(last - size, last - size + 1)  # la position dont le suffixe s'allonge
        alive[:, :size] = False
        alive[:, size:] &= (text[:, : last - size] == text[:, newest]) & ~stops[:, newest]
        if not bool(alive.any()):
            break
        lengths += alive
    return lengths
