"""Ce qu'un entraînement coûtera, mesuré sur quelques étapes ; ce que la machine fait au mieux."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.machine import peak_resident
from gpt_architecture.kernels.runtime.matmul import fastest_matmul
from gpt_architecture.training.trainer import Trainer

PROBED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Une étendue du mesuré au reste de l'entraînement ; les points de reprise n'y sont pas.

    Attributes:
        steps: étapes qui restent.
        evaluations: évaluations qui restent.
        samples: exemples qui restent.
        step_seconds: durée d'une étape, médiane des étapes mesurées.
        evaluation_seconds: durée d'une évaluation.
        sample_seconds: durée d'un exemple.
        tokens_per_second: débit d'une étape.
        peak_bytes: mémoire au plus haut, du processus ou de la carte ; 0 : inconnue du système.
    """

    steps: int
    evaluations: int
    samples: int
    step_seconds: float
    evaluation_seconds: float
    sample_seconds: float
    tokens_per_second: float
    peak_bytes: int

    @property
    def seconds(self) -> float:
        """Durée du reste de l'entraînement."""
        return (
            self.steps * self.step_seconds
            + self.evaluations * self.evaluation_seconds
            + self.samples * self.sample_seconds
        )


def estimate_training(trainer: Trainer) -> Estimate:
    """Fait quelques étapes, une évaluation et un exemple, et en déduit le reste.

    L'entraînement de `trainer` est consommé : il ne doit pas être poursuivi.
    """
    first, total = trainer.state.step, trainer.config.total_steps
    trainer.advance()  # échauffement : allocations, compilation
    records = [trainer.advance() for _ in range(PROBED_STEPS)]
    start = time.perf_counter()
    if trainer.evaluate is not None:
        trainer.evaluate(_never)
    evaluated = time.perf_counter()
    if trainer.sample is not None:
        trainer.sample(_never)
    sampled = time.perf_counter()
    step_seconds = statistics.median(record.seconds for record in records)
    frequency, epoch_of = trainer.config.eval_freq, trainer.batches.epoch_of
    extra = total > first and (total - 1) % frequency > 0  # celle de la dernière étape
    return Estimate(
        steps=total - first,
        evaluations=-(-total // frequency) - -(-first // frequency) + extra,
        samples=epoch_of(total - 1) - epoch_of(first) + 1 if total > first else 0,
        step_seconds=step_seconds,
        evaluation_seconds=evaluated - start,
        sample_seconds=sampled - evaluated,
        tokens_per_second=records[0].tokens / step_seconds,
        peak_bytes=peak_memory(next(trainer.model.parameters()).device),
    )


def peak_memory(device: torch.device) -> int:
    """Mémoire au plus haut, en octets : celle de la carte, sinon celle du processus."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident()


def _never() -> bool:
    return False


_SIDES = {"cpu": 1024, "cuda": 8192, "mps": 4096}
_PRODUCTS = 4


def flops_per_token(config: GPTConfig, window: int) -> int:
    """Opérations flottantes de l'entraînement d'un token, aller et retour.

    Six par poids des matrices (Kaplan et al., 2020), tête comprise, embeddings lus par indice
    non ; plus l'attention causale, qui voit en moyenne la moitié des `window` positions.
    """
    d = config.emb_dim
    matrices = config.n_layers * (4 * d + 2 * config.inner_width) * d + config.vocab_size * d
    attention = config.n_layers * window * d
    return 6 * (matrices + attention)


@fastest_matmul()
def measure_peak_flops(device: torch.device, dtype: torch.dtype | None = None) -> float:
    """Opérations par seconde du meilleur de quelques produits de matrices carrées.

    Args:
        device: où mesurer.
        dtype: type des matrices ; None : fp32.
    """
    side = _SIDES.get(device.type, 1024)
    a = torch.ones(side, side, device=device, dtype=dtype or torch.float32)
    out = a @ a
    best = float("inf")
    for _ in range(_PRODUCTS):
        _synchronize(device)
        start = time.perf_counter()
        torch.mm(a, a, out=out)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return float(2 * side**3 / best)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
