"""Le choix du moteur : l'étape fusionnée là où il convient, autograd partout ailleurs.

Les deux calculent la même chose, masques de dropout compris (`kernels.train.keyed_dropout`) : sur
processeur, un masque ne dépend que de la graine et du numéro de la séquence.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gpt_architecture.config import ComputeConfig, OptimizerConfig, TrainingConfig
from gpt_architecture.core.machine import drop_library_code
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch, evaluation_mode
from gpt_architecture.errors import CheckpointError, ConfigurationError, MissingDependencyError
from gpt_architecture.kernels import NO_NUMBA, loading_obstacle
from gpt_architecture.kernels.train.keyed_dropout import DropoutKeys, use_keyed_dropout_
from gpt_architecture.training.checkpoint import Checkpoint
from gpt_architecture.training.losses import EvaluationLoss
from gpt_architecture.training.objectives import Objective, Scorer
from gpt_architecture.training.optim import (
    build_optimizer,
    parameter_groups,
    remember_peak_lr_,
    without_dynamo,
)
from gpt_architecture.training.step import (
    AutogradEngine,
    Batch,
    TrainingEngine,
    autocast,
    checkpoint_activations_,
    resolve_precision,
    spans_of,
)

if TYPE_CHECKING:
    from gpt_architecture.training.distributed.parallel import ModelSharing, ParallelModel

_READ_ONCE = ("libllvmlite.so", "libtorch_python.so", "libtorch_cpu.so")
"""Bibliothèques dont presque tout le code ne sert qu'au chargement : 54 Mo pour le compilateur de
Numba, autant pour PyTorch ; ce qui sert encore est relu, sans le disque."""

BackendName = Literal["fused", "autograd"]
"""Le moteur, tel que les points de reprise le nomment."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """De quoi faire un pas.

    Attributes:
        engine: pertes et gradients.
        optimizer: mise à jour des poids.
        loss: perte d'évaluation.
        score: logits de certains tokens, sans dropout ni gradient.
        name: le moteur ; d'un moteur à l'autre, les poids diffèrent aux arrondis près.
        parallel: le modèle partagé ; None : un seul processus le garde.
    """

    engine: TrainingEngine
    optimizer: torch.optim.Optimizer
    loss: EvaluationLoss
    score: Scorer
    name: BackendName
    parallel: ParallelModel | None = None


@dataclass(frozen=True)
class KeyedEngine:
    """Un moteur dont les masques de dropout suivent les séquences du lot."""

    engine: TrainingEngine
    keys: DropoutKeys
    held_back: ClassVar[Sequence[str]] = ()

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Voir `TrainingEngine.forward_backward`."""
        with self.keys.sequences(batch.sequence_ids):
            return self.engine.forward_backward(batch, scale=scale)


class LeanEngine:
    """Le moteur du mode économe, qui met à jour les poids lui-même.

    Args:
        engine: le moteur fusionné, avec `optimizer` pour le mode économe.
        model: ses poids.
        optimizer: compte les mises à jour de chaque paramètre.

    Attributes:
        held_back: voir `TrainingEngine.held_back`.
    """

    def __init__(
        self, engine: TrainingEngine, model: GPTModel, optimizer: torch.optim.Optimizer
    ) -> None:
        self._engine, self._optimizer = engine, optimizer
        self._parameters = dict(model.named_parameters())
        self.held_back: Sequence[str] = ()

    def forward_backward(self, batch: Batch, *, scale: float) -> Tensor:
        """Voir `TrainingEngine.forward_backward` ; NaN si un gradient n'était pas fini."""
        before = self._updates()
        loss = self._engine.forward_backward(batch, scale=scale)
        after = self._updates()
        self.held_back = [name for name, count in after.items() if count == before[name]]
        return loss

    def _updates(self) -> dict[str, int]:
        state = self._optimizer.state
        return {
            name: int(state[parameter]["step"]) if parameter in state else 0
            for name, parameter in self._parameters.items()
        }


def fused_obstacle(
    model: nn.Module, compute: ComputeConfig, device: torch.device, *, whole: bool = True
) -> str | None:
    """La raison pour laquelle le moteur fusionné ne convient pas ; None s'il convient.

    Args:
        whole: vrai si ce processus garde tous les poids.
    """
    obstacle = setting_obstacle(compute, device, whole=whole)
    return _load_why_not_fused()(model) if obstacle is None else obstacle


def setting_obstacle(
    compute: ComputeConfig, device: torch.device, *, whole: bool = True
) -> str | None:
    """Ce qui, avant même le modèle, écarte le moteur fusionné ; None : rien.

    Args:
        whole: vrai si ce processus garde tous les poids.
    """
    if device.type != "cpu":
        return f"le calcul se fait sur {device.type}"
    if not whole:
        return "les poids sont répartis entre plusieurs processus"
    if compute.compile or compute.checkpoint_activations:
        return "`compile` et `checkpoint_activations` demandent autograd"
    return kernel_obstacle()


def kernel_obstacle() -> str | None:
    """Ce qui empêche ici les noyaux du moteur fusionné ; None : ils se chargent."""
    return loading_obstacle(_load_why_not_fused)


def _load_why_not_fused() -> Callable[[nn.Module], str | None]:
    from gpt_architecture.kernels.train.fused_step import why_not_fused

    return why_not_fused


def build_backend(
    model: GPTModel,
    compute: ComputeConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    *,
    sharing: ModelSharing | None = None,
    objective: Objective | None = None,
) -> Backend:
    """Le moteur et l'optimiseur que demandent les réglages.

    Args:
        objective: la perte ; None : l'entropie croisée.
        sharing: partage le modèle entre des processus, au besoin en le modifiant sur place.

    Raises:
        ConfigurationError: le moteur ou le mode demandé ne convient pas.
        MissingDependencyError: le mode économe demande numba, absent.
    """
    device = next(model.parameters()).device
    whole = sharing is None or sharing.replicates
    without_dynamo()
    obstacle = None  # autograd se passe des noyaux : les lire serait les compiler
    if compute.wants_fused or compute.engine == "auto":
        obstacle = fused_obstacle(model, compute, device, whole=whole)
    if compute.wants_fused and obstacle is not None:
        if obstacle == NO_NUMBA:
            raise MissingDependencyError("numba", purpose="le moteur fusionné")
        asked = "`engine=fused`" if compute.engine == "fused" else "`memory=lean`"
        raise ConfigurationError(
            f"{asked} : {obstacle}",
            expected="des poids entiers, en fp32, sur CPU",
            remedy=f"retirez {asked}",
        )
    if compute.wants_fused or (compute.engine == "auto" and obstacle is None):
        return _fused(model, compute, optimizer, training, sharing, objective)
    if compute.engine == "auto" and obstacle is not None and obstacle == kernel_obstacle():
        logger.warning("%s : moteur autograd, plus lent", obstacle)
    return _autograd(model, compute, optimizer, training, sharing, objective)


def _fused(
    model: GPTModel,
    compute: ComputeConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    sharing: ModelSharing | None,
    objective: Objective | None,
) -> Backend:
    from gpt_architecture.kernels.train.fused_step import FusedStep
    from gpt_architecture.kernels.train.gradients import LeanAdamW

    for library in _READ_ONCE:  # les noyaux viennent d'être lus
        drop_library_code(library)
    dtype = resolve_precision(compute.precision, torch.device("cpu"), fused=True) or torch.float32
    if compute.memory != "lean":
        parallel = None if sharing is None else sharing(model, autograd=False)
        engine = FusedStep(model, seed=training.seed, dtype=dtype, objective=objective)
        built = build_optimizer(model, optimizer, training)
        exchanging = engine if parallel is None else parallel.wrap(engine)
        return Backend(
            engine=exchanging,
            optimizer=built,
            loss=engine.loss,
            score=engine.logits,
            name="fused",
            parallel=parallel,
        )
    problems = {
        "`optimizer=muon`": optimizer.optimizer != "adamw",
        "`clip`": optimizer.clip is not None,
        "`accumulate`": training.accumulate > 1,
        "plusieurs processus": sharing is not None,
    }
    refused = [name for name, found in problems.items() if found]
    if refused:
        raise ConfigurationError(
            f"`memory=lean` avec {' et '.join(refused)}",
            expected="AdamW, un lot par étape et un gradient non réduit : il n'est pas gardé",
            remedy=f"retirez {' et '.join(refused)}, ou `memory=lean`",
        )
    lean = LeanAdamW(
        parameter_groups(model.parameters(), training),
        lr=training.lr,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
    )
    remember_peak_lr_(lean)
    engine = FusedStep(model, seed=training.seed, lean=lean, dtype=dtype, objective=objective)
    watched = LeanEngine(engine, model, lean)
    return Backend(
        engine=watched, optimizer=lean, loss=engine.loss, score=engine.logits, name="fused"
    )


def _autograd(
    model: GPTModel,
    compute: ComputeConfig,
    optimizer: OptimizerConfig,
    training: TrainingConfig,
    sharing: ModelSharing | None,
    objective: Objective | None,
) -> Backend:
    device = next(model.parameters()).device
    dtype = resolve_precision(compute.precision, device, fused=False)
    keys = None
    if device.type == "cpu" and model.cfg.drop_rate > 0:
        keys = use_keyed_dropout_(model, training.seed)
    if compute.checkpoint_activations:
        checkpoint_activations_(model)
    parallel = None if sharing is None else sharing(model)  # avant l'optimiseur : change les poids
    built = build_optimizer(model, optimizer, training)
    module = model if parallel is None else parallel.module
    n_layers = model.cfg.n_layers
    engine: TrainingEngine = AutogradEngine(
        module,
        device,
        dtype=dtype,
        compiled=compute.compile,
        n_layers=n_layers,
        objective=objective,
    )
    if parallel is not None:
        engine = parallel.wrap(engine)
    if keys is not None:
        engine = KeyedEngine(engine, keys)

    def loss(inputs: Tensor, targets: Tensor, document_starts: Tensor | None = None) -> Tensor:
        documents = spans_of(document_starts, n_layers, device)
        with autocast(device, dtype):
            return calc_loss_batch(inputs, targets, model, device, documents=documents)

    return Backend(
        engine=engine,
        optimizer=built,
        loss=loss,
        score=_plain_scorer(model, device, dtype, n_layers),
        name="autograd",
        parallel=parallel,
    )


def scorer_of(model: GPTModel, compute: ComputeConfig) -> Scorer:
    """Les logits d'un modèle qui n'apprend pas, par le calcul le plus rapide qui lui convient."""
    device = next(model.parameters()).device
    if compute.engine != "autograd" and fused_obstacle(model, compute, device) is None:
        from gpt_architecture.kernels.train.fused_step import FusedStep

        products = resolve_precision(compute.precision, device, fused=True) or torch.float32
        return FusedStep(model, seed=0, dtype=products, trains=False).logits
    dtype = resolve_precision(compute.precision, device, fused=False)
    return _plain_scorer(model, device, dtype, model.cfg.n_layers)


def _plain_scorer(
    model: nn.Module, device: torch.device, dtype: torch.dtype | None, n_layers: int
) -> Scorer:
    def score(inputs: Tensor, positions: Tensor, document_starts: Tensor | None = None) -> Tensor:
        documents = spans_of(document_starts, n_layers, device)
        seen = () if documents is None else (documents,)
        with torch.no_grad(), evaluation_mode(model), autocast(device, dtype):
            logits: Tensor = model(inputs.to(device), *seen).flatten(0, 1)
        return logits[positions.to(device)].float()

    return score


_NAMES = {"engine": "moteur", "device": "périphérique", "precision": "précision"}


def calculation_of(
    backend: Backend, compute: ComputeConfig, device: torch.device
) -> dict[str, str]:
    """Moteur, périphérique et précision, tels qu'un point de reprise les garde."""
    dtype = resolve_precision(compute.precision, device, fused=backend.name == "fused")
    precision = "fp32" if dtype is None else "bf16"
    return {"engine": backend.name, "device": device.type, "precision": precision}


def same_engine(
    compute: ComputeConfig, checkpoint: Checkpoint | None, device: torch.device
) -> ComputeConfig:
    """Les réglages du calcul ; `auto` garde autograd et la précision du point de reprise.

    Un point qui ne dit rien de son calcul, sur processeur, vient d'une version en fp32.
    """
    before = _saved(checkpoint)
    if checkpoint is None or before.get("device", device.type) != device.type:
        return compute
    if before.get("engine") == "autograd" and not compute.wants_fused and compute.engine == "auto":
        compute = replace(compute, engine="autograd")
    unsaid = "fp32" if device.type == "cpu" else None
    if before.get("precision", unsaid) == "fp32" and compute.precision == "auto":
        compute = replace(compute, precision="fp32")
    return compute


def check_calculation(
    checkpoint: Checkpoint, calculation: Mapping[str, str], *, accepted: bool
) -> None:
    """Refuse de finir sans ses noyaux ce qu'ils ont commencé ; annonce tout autre changement.

    Args:
        calculation: celle d'ici (voir `calculation_of`).
        accepted: vrai si la personne accepte l'absence des noyaux.

    Raises:
        CheckpointError: les noyaux du point de reprise manquent ici.
    """
    before = _saved(checkpoint)
    changes = [
        f"{_NAMES[name]} {before[name]} puis {value}"
        for name, value in calculation.items()
        if before.get(name, value) != value
    ]
    if not changes:
        return
    found = f"les arrondis ne seront plus ceux de {checkpoint.path} ({', '.join(changes)})"
    lost = before.get("engine") == "fused" != calculation["engine"]
    obstacle = kernel_obstacle() if lost else None
    if obstacle is not None and not accepted:
        raise CheckpointError(
            f"{found} : {obstacle}",
            expected="le même moteur, sans quoi la reprise n'est plus exacte au bit près",
            remedy="rendez-lui ses noyaux, ou ajoutez `override` pour l'accepter",
        )
    logger.warning("%s", found)


def _saved(checkpoint: Checkpoint | None) -> Mapping[str, Any]:
    """Vide pour un point d'une version qui ne le gardait pas."""
    saved = None if checkpoint is None else checkpoint.state.get("calculation")
    return saved if isinstance(saved, Mapping) else {}
