"""La loi de perte d'un corpus, ajustée sur quelques entraînements, et ce qu'elle prédit d'un autre.

L(N, D) = E + A / N^α + B / D^β (Hoffmann et al., 2022), N paramètres et D tokens lus. Un texte relu
n'apprend pas autant qu'un texte neuf : D compte alors pour U + U·R*·(1 − exp(−R / R*)), U tokens
différents et R relectures (Muennighoff et al., 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.errors import DataError

REREADING = 15.39
"""R* de Muennighoff et al. : relectures au-delà desquelles un texte n'apprend presque plus rien."""

MIN_RUNS = 6
"""Entraînements qu'il faut pour cinq inconnues, au moins."""

_USUAL = {"alpha": 0.34, "beta": 0.28}  # exposants de Hoffmann et al.
_PRIOR = 0.02  # poids de ces exposants : assez pour trancher ce que les mesures ne tranchent pas
_HUBER = 1e-2  # écart (en logarithme) au-delà duquel une mesure pèse moins
_ROUNDS = 200
_COVERED = 1.96


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """Un entraînement d'essai : sa taille, ce qu'il a lu, où il a fini.

    Attributes:
        parameters: paramètres du modèle (N).
        tokens: tokens lus, relectures comprises (D).
        unique: tokens d'entraînement différents (U).
        loss: perte de validation à la fin, en nats par token.
    """

    parameters: float
    tokens: float
    unique: float
    loss: float


def effective_tokens(tokens: float, unique: float) -> float:
    """Ce que valent `tokens` lus, en tokens neufs, dans un texte qui en a `unique`."""
    if tokens <= unique:
        return tokens
    rereads = tokens / unique - 1
    return unique + unique * REREADING * (1 - math.exp(-rereads / REREADING))


@dataclass(frozen=True, kw_only=True)
class LossLaw:
    """Une loi ajustée : E, A, B, α, β."""

    floor: float
    size: float
    data: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float, unique: float) -> float:
        """La perte attendue, en nats par token."""
        read = effective_tokens(tokens, unique)
        expected: float = self.floor + self.size / parameters**self.alpha
        return expected + float(self.data / read**self.beta)


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """La loi de tous les essais, et celles qu'on ajuste en laissant chacun de côté.

    Attributes:
        law: la loi de tous.
        without: une loi par essai laissé de côté.
        noise: écart type relatif des essais à la loi.
    """

    law: LossLaw
    without: tuple[LossLaw, ...]
    noise: float

    def expected(
        self, parameters: float, tokens: float, unique: float
    ) -> tuple[float, float, float]:
        """La perte attendue et les bornes de son intervalle à 95 %.

        L'étendue est celle du « jackknife », à laquelle le bruit des essais s'ajoute : plus on
        extrapole, plus les lois laissées de côté divergent, plus l'intervalle s'ouvre.
        """
        center = self.law.loss(parameters, tokens, unique)
        others = [each.loss(parameters, tokens, unique) for each in self.without]
        mean = sum(others) / len(others)
        count = len(others)
        variance = (count - 1) / count * sum((each - mean) ** 2 for each in others)
        width = _COVERED * math.hypot(math.sqrt(variance), self.noise * center)
        return center, center - width, center + width


def fit_law(runs: Sequence[TrialRun]) -> FittedLaw:
    """Ajuste la loi, en logarithme, par moindres écarts de Huber (Hoffmann et al., annexe D.3).

    Les exposants sont tirés, faiblement, vers ceux du domaine : quelques essais de tailles proches
    ne les fixent pas à eux seuls.

    Raises:
        DataError: trop peu d'essais, tous de la même taille ou de la même durée, ou une perte qui
            n'est pas un nombre strictement positif.
    """
    _check(runs)
    law = _fit(runs)
    without = tuple(
        _fit([*runs[:index], *runs[index + 1 :]], start=law) for index in range(len(runs))
    )
    gaps = [math.log(each.loss / law.loss(*_place(each))) for each in runs]
    noise = math.sqrt(sum(gap**2 for gap in gaps) / max(1, len(gaps) - 5))
    return FittedLaw(law=law, without=without, noise=noise)


def _check(runs: Sequence[TrialRun]) -> None:
    sizes = {each.parameters for each in runs}
    lengths = {each.tokens for each in runs}
    odd = [each.loss for each in runs if not (math.isfinite(each.loss) and each.loss > 0)]
    if odd:
        raise DataError(
            f"une perte d'essai vaut {odd[0]}",
            expected="un nombre strictement positif",
            remedy="retirez cet essai, ou réduisez son taux d'apprentissage",
        )
    if len(runs) < MIN_RUNS or len(sizes) < 2 or len(lengths) < 2:
        raise DataError(
            f"{len(runs)} essais, de {len(sizes)} tailles et de {len(lengths)} durées",
            expected=f"au moins {MIN_RUNS} essais, de deux tailles et de deux durées",
            remedy="faites d'autres essais",
        )


def _place(run: TrialRun) -> tuple[float, float, float]:
    return run.parameters, run.tokens, run.unique


def _fit(runs: Sequence[TrialRun], start: LossLaw | None = None) -> LossLaw:
    """La meilleure loi de quelques départs ; d'un seul, si une loi proche est connue."""
    sizes = torch.tensor([each.parameters for each in runs], dtype=torch.float64).log()
    reads = torch.tensor(
        [effective_tokens(each.tokens, each.unique) for each in runs], dtype=torch.float64
    ).log()
    losses = torch.tensor([each.loss for each in runs], dtype=torch.float64).log()
    lowest = float(losses.min().exp())
    starts = [start] if start is not None else [_guess(lowest, runs, p) for p in (0.3, 0.6, 0.9)]
    fits = [_minimize(sizes, reads, losses, each) for each in starts]
    return min(fits, key=lambda fit: fit[0])[1]


def _guess(lowest: float, runs: Sequence[TrialRun], share: float) -> LossLaw:
    """Un départ : une part de la plus basse perte pour E, le reste partagé."""
    alpha, beta = _USUAL["alpha"], _USUAL["beta"]
    best = min(runs, key=lambda each: each.loss)
    left = (1 - share) * lowest / 2
    read = effective_tokens(best.tokens, best.unique)
    return LossLaw(
        floor=share * lowest,
        size=left * best.parameters**alpha,
        data=left * read**beta,
        alpha=alpha,
        beta=beta,
    )


def _minimize(
    sizes: Tensor, reads: Tensor, losses: Tensor, start: LossLaw
) -> tuple[float, LossLaw]:
    """Descend depuis `start`, tous les nombres en logarithme ; rend l'écart et la loi."""
    # Centrés, A et α (B et β) ne se compensent plus l'un l'autre : la descente est courte.
    middle, span = sizes.mean(), reads.mean()
    first = [
        math.log(start.floor),
        math.log(start.size) - start.alpha * float(middle),
        math.log(start.data) - start.beta * float(span),
        math.log(start.alpha),
        math.log(start.beta),
    ]
    unknowns = torch.tensor(first, dtype=torch.float64, requires_grad=True)
    usual = torch.tensor([_USUAL["alpha"], _USUAL["beta"]], dtype=torch.float64).log()
    optimizer = torch.optim.LBFGS(
        [unknowns],
        max_iter=_ROUNDS,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def gap() -> Tensor:
        floor, size, data = unknowns[0], unknowns[1], unknowns[2]
        alpha, beta = unknowns[3].exp(), unknowns[4].exp()
        terms = [size - alpha * (sizes - middle), data - beta * (reads - span)]
        found = torch.logsumexp(torch.stack([*terms, floor.expand_as(sizes)]), dim=0)
        misfit = torch.nn.functional.huber_loss(found, losses, reduction="sum", delta=_HUBER)
        return misfit / _HUBER**2 + _PRIOR * (unknowns[3:] - usual).square().sum()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = gap()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    value = float(gap().detach())
    floor, size, data, alpha, beta = unknowns.detach().tolist()
    alpha, beta = math.exp(alpha), math.exp(beta)
    return value, LossLaw(
        floor=math.exp(floor),
        size=math.exp(size + alpha * float(middle)),
        data=math.exp(data + beta * float(span)),
        alpha=alpha,
        beta=beta,
    )
