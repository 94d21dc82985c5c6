"""Log-probabilité de la fin d'une séquence sachant son début : le calcul de toutes les mesures.

Perplexité, dernier mot, choix multiple et lm-eval ne diffèrent que par les séquences qu'ils
notent ; leurs intervalles de confiance sont à 95 %. Formes : B lot, T tokens, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.errors import DataError, NonFiniteError
from gpt_architecture.kernels.runtime.matmul import fastest_matmul

MAX_LOGITS = 1 << 26
"""Logits d'un lot, au plus : 256 Mio en fp32."""

MAX_ROWS = 64
"""Séquences d'un lot, au plus."""

Interval = tuple[float, float]

_RESAMPLES = 1000
_MAX_UNITS = 1000  # au-delà, des unités voisines sont réunies : le tirage reste court
_MAX_DRAWN = 20_000_000  # exemples tirés pour une statistique quelconque : quelques secondes
_TAIL = (1 - 0.95) / 2  # de chaque côté de l'intervalle
_NORMAL_QUANTILE = 1.959963984540054  # 97,5 % de la loi normale


@dataclass(frozen=True, kw_only=True)
class Span:
    """Une séquence dont seule la fin est notée.

    Attributes:
        tokens: identifiants ; le modèle lit tous les tokens sauf le dernier.
        scored: combien des derniers sont notés, au plus `len(tokens) - 1`.
    """

    tokens: Sequence[int]
    scored: int


@dataclass(frozen=True, kw_only=True)
class SpanScore:
    """La note d'une fin de séquence.

    Attributes:
        log_prob: somme des log p de ses tokens, en nats.
        is_greedy: chacun est le token le plus probable à sa place.
    """

    log_prob: float
    is_greedy: bool


class Crew(Protocol):
    """Les processus qui se partagent des notes : `training.distributed.world.World` en est un."""

    @property
    def rank(self) -> int:
        """Rang de ce processus, depuis 0."""
        ...

    @property
    def size(self) -> int:
        """Nombre de processus."""
        ...

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Somme d'un tenseur sur tous les processus."""
        ...


class Alone:
    """Ce seul processus."""

    rank, size = 0, 1

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Le tenseur lui-même."""
        return value


ALONE = Alone()


@fastest_matmul()
def score_spans(
    model: CausalLM,
    spans: Sequence[Span],
    *,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int], None] | None = None,
    crew: Crew = ALONE,
) -> list[SpanScore]:
    """Note chaque séquence, par lots de longueurs voisines ; l'ordre rendu est celui donné.

    Args:
        model: rend des logits (B, T, V).
        spans: les séquences, d'au plus `context_length + 1` tokens.
        max_rows: séquences d'un lot, au plus.
        on_progress: appelé après chaque lot avec le nombre de tokens notés dans ce lot.
        crew: les processus qui se partagent les lots, toujours les mêmes : les notes sont celles
            d'un seul.

    Raises:
        NonFiniteError: logits NaN ou infinis.
    """
    scores = [SpanScore(log_prob=0.0, is_greedy=True)] * len(spans)
    with torch.inference_mode(), evaluation_mode(model), blaming_weights(model):
        batches = _batches(spans, model.cfg.vocab_size, max_rows)
        while turn := list(islice(batches, crew.size)):
            own = turn[crew.rank] if crew.rank < len(turn) else []
            found = shared_scores(crew, [*map(len, turn)], _read(model, spans, own))
            rows = [row for batch in turn for row in batch]
            for row, score in zip(rows, found, strict=True):
                scores[row] = score
            if on_progress is not None:
                on_progress(sum(spans[row].scored for row in rows))
    return scores


def _read(model: CausalLM, spans: Sequence[Span], rows: Sequence[int]) -> list[SpanScore]:
    """Les notes d'un lot."""
    if not rows:
        return []
    read = [torch.tensor(spans[row].tokens[:-1], dtype=torch.int64) for row in rows]
    # À droite, le remplissage n'est jamais vu : l'attention est causale.
    logits = model(pad_sequence(read, batch_first=True).to(model.device))  # (B, T, V)
    scores = []
    for place, row in enumerate(rows):
        tokens, scored = spans[row].tokens, spans[row].scored
        end = len(tokens) - 1
        scores.append(_score(logits[place, end - scored : end], tokens[end - scored + 1 :]))
    return scores


def shared_scores(crew: Crew, counts: Sequence[int], own: Sequence[SpanScore]) -> list[SpanScore]:
    """Les notes de tous les processus à la suite, d'après les siennes.

    Chacun ne remplit que ses places d'un tableau nul, dont la somme est donc exacte.

    Args:
        counts: notes de chaque processus ; ceux d'après le dernier n'en ont pas.
        own: celles de ce processus.
    """
    if crew.size == 1:
        return list(own)
    values = torch.zeros(2, sum(counts), dtype=torch.float64)
    if own:
        start = sum(counts[: crew.rank])
        pairs = [(score.log_prob, float(score.is_greedy)) for score in own]
        values[:, start : start + len(own)] = torch.tensor(pairs, dtype=torch.float64).T
    return [
        SpanScore(log_prob=log_prob, is_greedy=greedy > 0)
        for log_prob, greedy in crew.sum(values).T.tolist()
    ]


def shared_texts(crew: Crew, count: int, own: dict[int, str]) -> list[str]:
    """Les textes de tous les processus, dans l'ordre ; chacun donne les siens par leur rang."""
    if crew.size == 1:
        return [own[number] for number in range(count)]
    coded = {number: text.encode("utf-8") for number, text in own.items()}
    sizes = torch.zeros(count, dtype=torch.int64)
    for number, data in coded.items():
        sizes[number] = len(data)
    ends = list(accumulate(crew.sum(sizes).tolist(), initial=0))
    values = torch.zeros(ends[-1], dtype=torch.int32)
    for number, data in coded.items():
        values[ends[number] : ends[number + 1]] = torch.tensor(list(data), dtype=torch.int32)
    whole = bytes(crew.sum(values).tolist())
    return [whole[ends[n] : ends[n + 1]].decode("utf-8") for n in range(count)]


def cumulated(total: int, on_progress: Callable[[int, int], None] | None) -> Callable[[int], None]:
    """Ce qui, appelé avec les tokens d'un lot, dit (tokens notés jusque-là, `total`)."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    return advance


def _score(logits: torch.Tensor, targets: Sequence[int]) -> SpanScore:
    """La note des tokens `targets` (T,) sous les logits (T, V) de leurs places."""
    wanted = torch.tensor(targets, dtype=torch.int64, device=logits.device)
    values = logits.float()
    chosen = values.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)  # (T,)
    log_probs = chosen - values.logsumexp(dim=-1)
    log_prob = log_probs.double().sum().item()
    if not math.isfinite(log_prob):
        raise NonFiniteError(f"le modèle donne à un token la log-probabilité {log_prob}")
    return SpanScore(
        log_prob=log_prob,
        is_greedy=bool((values.argmax(dim=-1) == wanted).all()),
    )


def _batches(spans: Sequence[Span], vocab_size: int, max_rows: int) -> Iterator[list[int]]:
    """Rangs des séquences de chaque lot, les plus longues d'abord ; rien à noter : omises."""
    order = sorted(
        (row for row, span in enumerate(spans) if span.scored > 0),
        key=lambda row: -len(spans[row].tokens),
    )
    start = 0
    while start < len(order):
        width = len(spans[order[start]].tokens) - 1
        rows = max(1, min(max_rows, MAX_LOGITS // (width * vocab_size)))
        yield order[start : start + rows]
        start += rows


def encode_pair(
    encode: Callable[[str], list[int]], context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Un contexte et sa suite, codés comme un seul texte puis séparés.

    Les blancs qui finissent le contexte passent à la suite : un BPE colle l'espace au mot qu'elle
    précède. C'est la règle de lm-eval (Gao et al., 2021).

    Args:
        encode: texte → identifiants.
        context: ce qui est donné, non vide.
        continuation: ce qui est noté.
    """
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    context_ids = encode(kept)
    return context_ids, encode(kept + continuation)[len(context_ids) :]


def continuation_span(
    encode: Callable[[str], list[int]],
    context: str,
    continuation: str,
    *,
    prefix: int | None,
    window: int,
) -> Span:
    """La séquence qui note `continuation` après `context`.

    Un contexte trop long perd son début. Sans contexte, la suite est notée après `prefix`, ou,
    s'il manque, depuis son deuxième token.

    Args:
        encode: texte → identifiants.
        prefix: token de début de texte ; None : le vocabulaire n'en a pas.
        window: tokens que le modèle lit à la fois.

    Raises:
        DataError: la suite est plus longue que le contexte du modèle, ou ne donne aucun token.
    """
    start = [] if prefix is None else [prefix]
    if context.strip():
        given, scored = encode_pair(encode, context, continuation)
    else:
        given, scored = start, encode(context + continuation)
        if scored[:1] == start:  # le texte porte déjà son début
            scored = scored[1:]
    given = given or start
    if not 0 < len(scored) <= window:
        raise DataError(
            f"la suite {continuation[:40]!r} donne {len(scored)} tokens",
            expected=f"de 1 à {window} tokens, ce que le modèle lit à la fois",
            remedy="raccourcissez-la ou prenez un modèle de plus long contexte",
        )
    tokens = [*given, *scored][-(window + 1) :]
    return Span(tokens=tokens, scored=min(len(scored), len(tokens) - 1))


def perplexity_of(loss: float) -> float:
    """exp(perte), ou l'infini."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bootstrap_interval(totals: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """Intervalle de Σ totals / Σ weights, par tirage des unités avec remise (Efron, 1979).

    Le tirage est toujours le même : deux appels donnent le même intervalle.

    Args:
        totals: somme de la grandeur dans chaque unité (document, fenêtre, exemple).
        weights: taille de chaque unité, strictement positive.

    Returns:
        Les quantiles à 2,5 % et 97,5 %, ou None s'il y a moins de deux unités.
    """
    if len(totals) < 2:
        return None
    blocks = _blocks(np.asarray(totals, np.float64)), _blocks(np.asarray(weights, np.float64))
    count = len(blocks[0])
    drawn = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    ratios = blocks[0][drawn].sum(axis=1) / blocks[1][drawn].sum(axis=1)
    low, high = np.quantile(ratios, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def resampled_interval(
    count: int,
    statistic: Callable[[NDArray[np.int64]], float],
    *,
    strata: NDArray[np.int64] | None = None,
) -> Interval | None:
    """Intervalle d'une statistique quelconque, par le même tirage que `bootstrap_interval`.

    Args:
        count: nombre d'exemples.
        statistic: rangs tirés (count,), avec remise → valeur ; NaN : sans objet, le tirage est
            laissé.
        strata: strate de chaque exemple, (count,) ; chacune garde son effectif. None : une seule.

    Returns:
        Les quantiles à 2,5 % et 97,5 %, ou None si le tirage ne dit rien : une strate n'a qu'un
        exemple, ou tous les tirages donnent la même valeur, qui n'est pas sûre pour autant.
    """
    groups = np.zeros(count, np.int64) if strata is None else strata
    order = np.argsort(groups, kind="stable")
    _, firsts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    if count == 0 or sizes.min() < 2:
        return None
    begins, ends = np.repeat(firsts, sizes), np.repeat(firsts + sizes, sizes)
    generator, times = np.random.default_rng(0), max(200, min(_RESAMPLES, _MAX_DRAWN // count))
    found = [statistic(order[generator.integers(begins, ends)]) for _ in range(times)]
    known = [each for each in found if not math.isnan(each)]
    if not known or min(known) == max(known):
        return None
    low, high = np.quantile(known, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def _blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Les sommes d'au plus `_MAX_UNITS` blocs d'unités voisines."""
    parts = np.array_split(values, min(len(values), _MAX_UNITS))
    return np.array([part.sum() for part in parts])


def wilson_interval(successes: float, trials: int) -> Interval:
    """Intervalle d'une proportion (Wilson, 1927), qui reste dans [0, 1].

    Args:
        successes: réussites ; une demie se compte.
        trials: essais, au moins un.
    """
    share, z = successes / trials, _NORMAL_QUANTILE
    center = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    spread = share * (1 - share) / trials + z * z / (4 * trials * trials)
    margin = z / (1 + z * z / trials) * math.sqrt(spread)
    low = 0.0 if successes == 0 else max(0.0, center - margin)  # l'arrondi n'y laisse pas 1e-18
    high = 1.0 if successes == trials else min(1.0, center + margin)
    return low, high
