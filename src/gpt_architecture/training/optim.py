"""Comment les poids bougent : AdamW fusionné, Muon, le taux au fil des étapes, l'état nommé."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gpt_architecture.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from gpt_architecture.core.utils import gradients_of
from gpt_architecture.french import counted
from gpt_architecture.training.step import has_bf16

_ADAM_STATE = frozenset({"step", "exp_avg", "exp_avg_sq"})
_MUON_STATE = frozenset({"momentum_buffer"})

logger = logging.getLogger(__name__)

NamedParameters = list[tuple[str, nn.Parameter]]


@runtime_checkable
class KeepsMoments(Protocol):
    """Un optimiseur qui garde ses moments dans un autre type que celui des poids."""

    moment_dtype: torch.dtype


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, training: TrainingConfig
) -> torch.optim.Optimizer:
    """L'optimiseur de `config` sur les paramètres de `model`.

    Les matrices et les embeddings décroissent (`weight_decay`), les biais et les normes non.
    Chaque groupe porte `initial_lr`, son taux le plus haut, que le programme module.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return _adamw(named, config, training)
    matrices = [(name, p) for name, p in named if _is_block_matrix(name, p)]
    chosen = {name for name, _ in matrices}
    others = [(name, p) for name, p in named if name not in chosen]
    muon = Muon(
        [p for _, p in matrices],
        dtype=torch.bfloat16 if has_bf16(matrices[0][1].device) else None,
        lr=config.muon_lr,
        weight_decay=training.weight_decay,
        momentum=config.muon_momentum,
    )
    remember_peak_lr_(muon)
    return JointOptimizer([muon, _adamw(others, config, training)])


def parameter_groups(
    parameters: Iterable[nn.Parameter], training: TrainingConfig
) -> list[dict[str, Any]]:
    """Deux groupes : les matrices, qui décroissent, puis les vecteurs, qui ne décroissent pas."""
    known = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in known if p.dim() >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in known if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw(
    named: NamedParameters, config: OptimizerConfig, training: TrainingConfig
) -> torch.optim.AdamW:
    optimizer = _AdamW(
        parameter_groups([p for _, p in named], training),
        lr=training.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )
    remember_peak_lr_(optimizer)
    return optimizer


class _AdamW(torch.optim.AdamW):
    """Celui de PyTorch, dont l'étape ne passe pas par le compilateur (voir `without_dynamo`)."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Une étape, comme `torch.optim.AdamW.step`."""
        loss: float | None = inspect.unwrap(torch.optim.AdamW.step)(self, closure)
        return loss


def without_dynamo() -> None:
    """Permet de construire un optimiseur sans importer torch._dynamo.

    PyTorch l'importe à cette occasion pour que torch.compile, s'il compile un jour l'optimiseur,
    saute quatre méthodes : 76 Mo et plus d'une seconde, pour rien ici. Les méthodes sont marquées
    d'avance comme il le ferait ; une version qui s'y prendrait autrement l'importerait encore.
    """
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        method = inspect.unwrap(getattr(torch.optim.Optimizer, name))
        if not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method


def _is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Une matrice d'un bloc : ni un embedding, ni la tête."""
    return parameter.dim() == 2 and name.startswith("trf_blocks.")


def remember_peak_lr_(optimizer: torch.optim.Optimizer) -> None:
    """Note dans chaque groupe son taux le plus haut, que le programme module."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]


def set_lr_(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Règle chaque groupe à `factor` × son taux le plus haut ; rend le plus grand."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


class JointOptimizer(torch.optim.Optimizer):
    """Plusieurs optimiseurs, sur des paramètres disjoints, vus comme un seul.

    Attributes:
        parts: les optimiseurs ; leurs groupes et leur état sont partagés avec celui-ci.
    """

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Fait avancer chaque optimiseur ; `closure` n'est pas employée."""
        del closure
        for part in self.parts:
            part.step()


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """L'état de l'optimiseur, à plat : `paramètre/grandeur` → tenseur, sans copie."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Rend à l'optimiseur l'état de `optimizer_tensors`, moments au type qu'il leur donne.

    Un paramètre dont l'état est celui d'un autre optimiseur repart sans lui, et c'est dit.

    Raises:
        KeyError: un tenseur porte le nom d'un paramètre inconnu.
    """
    parameters = dict(model.named_parameters())
    own_dtype = optimizer.moment_dtype if isinstance(optimizer, KeepsMoments) else None
    state: dict[Tensor, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        parameter = parameters[owner]
        dtype = (own_dtype or parameter.dtype) if key.startswith("exp_avg") else None
        state.setdefault(parameter, {})[key] = tensor.to(parameter.device, dtype)
    expected = _state_keys(optimizer)
    fitting = {p: values for p, values in state.items() if values.keys() == expected.get(p)}
    if len(fitting) < len(state):
        logger.warning(
            "état remis à zéro pour %s : celui qui est enregistré vient d'un autre optimiseur",
            counted(len(state) - len(fitting), "paramètre"),
        )
    optimizer.state.update(fitting)


def _state_keys(optimizer: torch.optim.Optimizer) -> dict[Tensor, frozenset[str]]:
    """Les grandeurs que l'optimiseur garde de chaque paramètre."""
    parts = optimizer.parts if isinstance(optimizer, JointOptimizer) else [optimizer]
    return {
        parameter: _MUON_STATE if isinstance(part, torch.optim.Muon) else _ADAM_STATE
        for part in parts
        for group in part.param_groups
        for parameter in group["params"]
    }


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan, 2024), qui orthogonalise en `dtype`.

    Args:
        params: matrices, ou groupes de matrices.
        dtype: type de l'itération ; None : celui du gradient.
        options: celles de `torch.optim.Muon`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(params, **options)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Met à jour chaque matrice dans la direction orthogonale la plus proche de son inertie."""
        del closure
        for parameter, gradient, group in gradients_of(self):
            self._apply_(parameter, gradient, group)

    def _apply_(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        update = orthogonalize(
            update if self._dtype is None else update.to(self._dtype),
            coefficients=group["ns_coefficients"],
            steps=group["ns_steps"],
            eps=group["eps"],
        )
        rows, columns = parameter.shape
        lr = group["lr"]
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(update, alpha=-lr * math.sqrt(max(1.0, rows / columns)))


def orthogonalize(
    matrix: Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Rapproche de 1 les valeurs singulières de `matrix`, par Newton et Schulz, dans son type.

    Le polynôme, du cinquième degré, monte vite depuis 0 sans converger tout à fait : les valeurs
    finissent entre 0,7 et 1,2 environ, et Muon s'en contente.

    Args:
        matrix: (lignes, colonnes).
        coefficients: du polynôme, degrés 1, 3 et 5.
        steps: itérations.
        eps: plancher de la norme.
    """
    a, b, c = coefficients
    is_tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


Schedule = Callable[[int], float]
"""Étape (depuis 0) → part du taux le plus haut, dans [0, 1]."""


def make_schedule(config: ScheduleConfig, total_steps: int) -> Schedule:
    """Le programme de `config` sur `total_steps` étapes.

    La montée est linéaire : l'étape 0 apprend déjà un peu, l'étape `warmup_steps` au plus
    haut. La descente part du plus haut et finit à `final_lr` à la dernière étape ; WSD (Hu et
    al., 2024) garde un palier avant de descendre.
    """
    warmup, final = config.warmup_steps, config.final_lr
    last = max(total_steps - 1, 1)
    start = warmup
    if config.schedule == "wsd":
        start = max(warmup, round(last * (1 - config.decay_fraction)))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - start) / max(last - start, 1)
        progress = min(max(progress, 0.0), 1.0)
        if config.schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return 1.0 if config.schedule == "constant" else 1 - (1 - final) * progress

    return factor
