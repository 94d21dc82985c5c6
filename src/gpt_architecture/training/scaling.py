"""La loi de perte d'un corpus, ajustée sur quelques entraînements, et ce qu'elle prédit d'un autre.

L(N, D, U) = E + √((A / N^α)² + (B / D'^β)²) + C · (N / U)^κ · R^δ : N paramètres, D tokens lus, U
tokens différents, R = D / U − 1 relectures. Ce que coûte un petit modèle et ce que coûte le manque
de tokens s'additionnent chez Hoffmann et al., 2022 ; chez Kaplan et al., 2020, une norme d'ordre
dix ne garde que le plus grand des deux, ou presque. Celle d'ordre deux est entre les leurs : à
tokens égaux, ce qu'une grande taille gagne sur une petite croît avec eux. Un texte relu n'apprend
pas autant qu'un texte neuf, et D' = U + U·R*·(1 − exp(−R / R*)) (Muennighoff et al., 2023). Le
dernier terme est le surapprentissage : il croît avec les relectures, d'autant plus que le modèle
est grand pour son texte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.errors import DataError

REREADING = 15.39
"""R* de Muennighoff et al. : relectures au-delà desquelles un texte n'apprend presque plus rien."""

MIN_RUNS = 6
"""Entraînements qu'il faut, au moins."""

RESAMPLES = 24
"""Lois ajustées de nouveau, sur des pertes rééchantillonnées."""

_USUAL = np.log([0.34, 0.28, 0.05, 1.0, 1.0])
"""Logarithmes de α et β (Hoffmann et al.), puis de C, κ et δ, vers lesquels on penche."""

_PRIOR = np.array([1.0, 2.0, 2.0, 0.05, 1.0, 1.0])
"""Poids de ces penchants, et d'abord de celui d'E vers la moitié de la plus basse perte : assez
pour trancher ce que quelques essais, bien plus courts que l'entraînement, ne tranchent pas."""

_HUBER = 1e-2  # écart (en logarithme) au-delà duquel une mesure pèse moins
_ROUNDS, _REFITS = 150, 25
_STEP = 1e-5  # des dérivées par différences finies
_COVERED, _SIGMA = 1.96, 0.683
_DOUBT = 0.3  # écart type de chaque penchant, quand les pertes sont rééchantillonnées
_CENTERED = np.zeros(_PRIOR.size)
_NOTHING = -60.0  # le logarithme d'un surapprentissage nul
_NEAR = math.log(3.0)  # portée, en logarithme, de ce qu'un essai dit de ses voisins
_LEAST_NOISE = 0.01  # une graine, et une loi qui n'est jamais exacte, valent au moins cette part
_TRUSTED = 0.1  # part de l'écart d'un essai à la loi qui n'est que du bruit

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TrialRun:
    """Un entraînement d'essai : sa taille, ce qu'il a lu, où il a fini.

    Attributes:
        parameters: paramètres du modèle (N).
        tokens: tokens lus, relectures comprises (D).
        unique: tokens d'entraînement différents (U).
        loss: perte de validation à la fin, en bits par octet.
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
    """Une loi ajustée : E, A, B, α, β, et C, κ, δ du surapprentissage."""

    floor: float
    size: float
    data: float
    alpha: float
    beta: float
    excess: float = 0.0
    kappa: float = 1.0
    delta: float = 1.0

    def loss(self, parameters: float, tokens: float, unique: float) -> float:
        """La perte attendue, en bits par octet."""
        read = effective_tokens(tokens, unique)
        limits = math.hypot(self.size / parameters**self.alpha, self.data / read**self.beta)
        rereads = max(0.0, tokens / unique - 1)
        overfit = (parameters / unique) ** self.kappa * rereads**self.delta
        return float(self.floor + limits + self.excess * overfit)


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """La loi des essais, et celles de pertes rééchantillonnées.

    Attributes:
        law: la loi des essais.
        resampled: les lois ajustées de nouveau.
        noise: écart type relatif des essais à la loi.
        runs: les essais.
        gaps: ce que dit chaque essai, autour de lui, de plus que la loi (krigeage des résidus).
    """

    law: LossLaw
    resampled: tuple[LossLaw, ...]
    noise: float
    runs: tuple[TrialRun, ...] = ()
    gaps: tuple[float, ...] = ()

    def loss(self, parameters: float, tokens: float, unique: float) -> float:
        """La perte attendue : celle de la loi, corrigée par les essais voisins."""
        asked = TrialRun(parameters=parameters, tokens=tokens, unique=unique, loss=0.0)
        near = sum(
            gap * math.exp(-_distance(asked, run) / 2)
            for run, gap in zip(self.runs, self.gaps, strict=True)
        )
        return self.law.loss(parameters, tokens, unique) * math.exp(near)

    def expected(
        self, parameters: float, tokens: float, unique: float
    ) -> tuple[float, float, float]:
        """La perte attendue et les bornes de son intervalle à 95 %.

        Leur écart est celui des lois rééchantillonnées (« bootstrap » des résidus et des
        penchants), auquel le bruit d'un essai s'ajoute : plus on extrapole, plus elles divergent,
        plus l'intervalle s'ouvre.
        """
        place = (parameters, tokens, unique)
        center, base = self.loss(*place), math.log(self.law.loss(*place))
        others = [abs(math.log(each.loss(*place)) - base) for each in self.resampled]
        spread = float(np.quantile(others, _SIGMA)) if others else 0.0  # sourd aux lois folles
        width = math.exp(_COVERED * math.hypot(spread, self.noise))
        return center, center / width, center * width


def _distance(first: TrialRun, second: TrialRun) -> float:
    """Le carré de la distance de deux places, en portées."""
    pairs = zip(_place(first), _place(second), strict=True)
    return sum((math.log(a / b) / _NEAR) ** 2 for a, b in pairs)


def fit_law(runs: Sequence[TrialRun]) -> FittedLaw:
    """Ajuste la loi, en logarithme, par moindres écarts de Huber (Hoffmann et al., annexe D.3).

    Le plancher et les exposants sont tirés vers des valeurs connues : quelques essais courts, de
    tailles proches, ne les fixent pas à eux seuls. La descente est celle de Levenberg et Marquardt.

    Raises:
        DataError: trop peu d'essais, tous de la même taille ou de la même durée, ou une perte qui
            n'est pas un nombre strictement positif.
    """
    _check(runs)
    places = _Places.of(runs)
    losses = np.log([each.loss for each in runs])
    fits = [places.minimize(losses, places.guess(losses, p), _ROUNDS) for p in (0.3, 0.6, 0.9)]
    best = min(fits, key=lambda fit: fit[0])[1]
    law = places.law(best)
    residuals = losses - places.expected(best)
    free = max(len(runs) / 3, len(runs) - 5)
    noise = max(_LEAST_NOISE, math.sqrt(float(np.square(residuals).sum()) / free))
    generator = np.random.default_rng(0)
    scaled = (residuals - residuals.mean()) * math.sqrt(len(runs) / free)
    resampled = list[LossLaw]()
    for _ in range(RESAMPLES):
        drawn = losses - residuals + generator.choice(scaled, len(runs))
        leaning = _DOUBT * generator.standard_normal(_PRIOR.size)
        resampled.append(places.law(places.minimize(drawn, best, _REFITS, leaning)[1]))
    likeness = np.exp([[-_distance(a, b) / 2 for b in runs] for a in runs])
    gaps = np.linalg.solve(likeness + _TRUSTED * np.eye(len(runs)), residuals)
    return FittedLaw(
        law=law,
        resampled=tuple(resampled),
        noise=noise,
        runs=tuple(runs),
        gaps=tuple(gaps.tolist()),
    )


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


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Les essais, en logarithmes ; inconnues : ln E, A, B centrés, puis celles de `_USUAL`."""

    sizes: Floats
    reads: Floats
    crowding: Floats
    rereads: Floats

    @classmethod
    def of(cls, runs: Sequence[TrialRun]) -> _Places:
        return cls(
            sizes=np.log([each.parameters for each in runs]),
            reads=np.log([effective_tokens(each.tokens, each.unique) for each in runs]),
            crowding=np.log([each.parameters / each.unique for each in runs]),
            rereads=np.array([max(0.0, each.tokens / each.unique - 1) for each in runs]),
        )

    def guess(self, losses: Floats, share: float) -> Floats:
        """Un départ : une part de la plus basse perte pour E, le reste partagé."""
        lowest = math.exp(losses.min())
        left = math.log((1 - share) * lowest / math.sqrt(2))
        return np.array([math.log(share * lowest), left, left, *_USUAL])

    def expected(self, unknowns: Floats) -> Floats:
        """Le logarithme de la perte de chaque essai."""
        floor, size, data, excess = unknowns[[0, 1, 2, 5]]
        alpha, beta, kappa, delta = np.exp(unknowns[[3, 4, 6, 7]])
        again = self.rereads > 0
        powers = np.log(np.where(again, self.rereads, 1.0))
        # Centrés, A et α (B et β) ne se compensent plus l'un l'autre : la descente est courte.
        small = size - alpha * (self.sizes - self.sizes.mean())
        short = data - beta * (self.reads - self.reads.mean())
        terms = [
            np.full_like(self.sizes, floor),
            np.logaddexp(2 * small, 2 * short) / 2,
            np.where(again, excess + kappa * self.crowding + delta * powers, _NOTHING),
        ]
        found: Floats = np.logaddexp.reduce(terms, axis=0)
        return found

    def _gaps(self, unknowns: Floats, losses: Floats, shift: Floats) -> Floats:
        """Ce dont la somme des carrés est à réduire : écarts de Huber, puis penchants."""
        gaps = (self.expected(unknowns) - losses) / _HUBER
        size = np.abs(gaps)
        root = np.sqrt(np.where(size > 1, 2 * size - 1, 1.0)) / np.maximum(size, 1.0)
        usual = np.concatenate([[math.log(0.5) + losses.min()], _USUAL]) + shift
        leaning = np.sqrt(_PRIOR) * (unknowns[[0, 3, 4, 5, 6, 7]] - usual)
        gaps = np.where(size > 1, root * gaps, gaps)
        return np.concatenate([gaps, leaning])

    def minimize(
        self, losses: Floats, start: Floats, rounds: int, shift: Floats = _CENTERED
    ) -> tuple[float, Floats]:
        """Descend depuis `start` ; rend l'écart, et les inconnues où il est le plus bas.

        `shift` déplace les penchants.
        """
        unknowns, damping = start.copy(), 1e-2
        gaps = self._gaps(unknowns, losses, shift)
        lowest = float(gaps @ gaps)
        for _ in range(rounds):
            moved = [
                self._gaps(unknowns + _STEP * axis, losses, shift) for axis in np.eye(unknowns.size)
            ]
            slopes = (np.stack(moved, axis=1) - gaps[:, None]) / _STEP
            normal = slopes.T @ slopes
            before = lowest
            for _ in range(10):
                damped = normal + damping * (np.diag(np.diag(normal)) + 1e-9 * np.eye(len(normal)))
                asked = unknowns - np.clip(np.linalg.solve(damped, slopes.T @ gaps), -1, 1)
                tried = self._gaps(asked, losses, shift)
                if (found := float(tried @ tried)) < lowest:
                    unknowns, gaps, lowest, damping = asked, tried, found, damping / 5
                    break
                damping *= 4
            if before - lowest < 1e-9 * before:
                break
        return lowest, unknowns

    def law(self, unknowns: Floats) -> LossLaw:
        """La loi de ces inconnues."""
        floor, size, data = unknowns[:3]
        alpha, beta, excess, kappa, delta = np.exp(unknowns[3:]).tolist()
        return LossLaw(
            floor=math.exp(floor),
            size=math.exp(size + alpha * float(self.sizes.mean())),
            data=math.exp(data + beta * float(self.reads.mean())),
            alpha=alpha,
            beta=beta,
            excess=excess,
            kappa=kappa,
            delta=delta,
        )
