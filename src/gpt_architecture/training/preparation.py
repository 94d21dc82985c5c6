"""Un entraînement prêt à partir : sa demande, ses réglages, ses données ; et ce qu'il coûtera."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gpt_architecture.config import (
    EXAMPLES,
    GPTConfig,
    TrainingRequest,
    check_origin,
    kept_settings,
)
from gpt_architecture.core.machine import peak_resident, resolve_device, return_freed_memory
from gpt_architecture.data.datasets import TrainingData, preset_settings
from gpt_architecture.data.mixtures import SourceUse, mixture_use
from gpt_architecture.errors import GPTArchitectureError, reason
from gpt_architecture.kernels import shape_obstacle
from gpt_architecture.kernels.runtime.matmul import fastest_matmul
from gpt_architecture.training.backends import same_engine, setting_obstacle
from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore
from gpt_architecture.training.distributed.world import World, check_share, on_main
from gpt_architecture.training.inputs import Origins, choose_prompt, load_data
from gpt_architecture.training.outputs import Product, product_of
from gpt_architecture.training.saved import saved_options
from gpt_architecture.training.session import Settings, build_trainer
from gpt_architecture.training.spread import Spread
from gpt_architecture.training.step import resolve_precision
from gpt_architecture.training.survey import UNEXAMINED, Survey, survey
from gpt_architecture.training.tasks import check_teacher
from gpt_architecture.training.trainer import Trainer

if TYPE_CHECKING:
    from gpt_architecture.training.distributed.parallel import Strategy

logger = logging.getLogger(__name__)

PROBED_STEPS = 3

_FIELDS = {"from": "start", "source": "sources"}
"""Les options qui n'ont pas le nom de leur réglage."""

_SIDES = {"cpu": 1024, "cuda": 8192, "mps": 4096}
_PRODUCTS = 4


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Un entraînement prêt à partir : ses réglages, ses données, son dossier, ses processus.

    Attributes:
        request: ce qui est demandé.
        origins: d'où il part.
        settings: ses réglages.
        data: ses données.
        store: ses points de reprise.
        output_dir: où il écrit.
        world: les processus qui se le partagent.
        strategy: comment ils se partagent les poids.
    """

    request: TrainingRequest
    origins: Origins
    settings: Settings
    data: TrainingData
    store: CheckpointStore
    output_dir: Path
    world: World
    strategy: Strategy

    @cached_property
    def product(self) -> Product:
        """Ce qu'il produira."""
        return product_of(self.settings)

    @property
    def path(self) -> Path:
        """Le fichier du produit."""
        return self.output_dir / self.product.file_name

    @cached_property
    def survey(self) -> Survey:
        """Ce que disent ses données ; un examen en panne ne dit rien, et n'arrête rien."""
        try:
            return survey(self.data, self.settings)
        except GPTArchitectureError:
            raise
        except (RuntimeError, MemoryError, ArithmeticError, ValueError, LookupError) as error:
            logger.warning("examen des données non fait : %s", reason(error))
            return UNEXAMINED

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """Type des produits de matrices : None pour fp32."""
        settings, device = self.settings, self.settings.device
        compute = same_engine(settings.compute, self.origins.checkpoint, device)
        whole = self.world.size == 1 or self.strategy == "ddp"
        fits = settings.lora is None and shape_obstacle(settings.model) is None
        fused = (
            fits
            and compute.engine != "autograd"
            and setting_obstacle(compute, device, whole=whole) is None
        )
        return resolve_precision(compute.precision, device, fused=fused)

    def mixture_after(self, sequences: int) -> Mapping[str, SourceUse]:
        """Ce que les `sequences` premières séquences lisent de chaque source d'un mélange."""
        return mixture_use(self.settings.sampler(self.data.train), sequences)

    @cached_property
    def pace(self) -> tuple[int, float]:
        """Opérations d'un token, et opérations par seconde que la machine atteint."""
        settings = self.settings
        flops = flops_per_token(settings.model, settings.window)
        return flops, measure_peak_flops(settings.device, self.dtype)


def request_of(settings: Mapping[str, Any], origins: Origins) -> TrainingRequest:
    """La demande de ces réglages à plat, complétée de ceux que `preset`, `resume` ou `start` dit.

    Args:
        settings: voir `TrainingRequest.of` ; `preset` nomme un préréglage.
        origins: retient ce qui est lu.

    Raises:
        ConfigurationError: réglage inconnu, hors bornes, ou qui ne va pas avec un autre.
    """
    asked = dict(settings)
    preset = asked.pop("preset", None)
    resume, start = (
        None if asked.get(name) is None else Path(asked[name]) for name in ("resume", "start")
    )
    check_origin(
        preset=preset,
        resume=resume,
        start=start,
        tokenizer=asked.get("tokenizer"),
        teacher=asked.get("distill"),
    )
    implied = origins.implied(resume=resume, start=start)
    if preset is not None:
        implied = preset_settings(preset, asked.get("data"))
    kept = kept_settings(
        implied,
        data=asked.get("data") is not None,
        sources=bool(asked.get("sources")),
        examples=preset is not None and any(asked.get(each) is not None for each in EXAMPLES),
    )
    known = {_FIELDS.get(name, name): value for name, value in kept.items() if value is not None}
    return TrainingRequest.of(known | asked)


def prepare(
    request: TrainingRequest,
    origins: Origins | None = None,
    *,
    world: World | None = None,
    strategy: Strategy = "ddp",
    resumes_alone: bool = False,
    data: TrainingData | None = None,
) -> TrainingRun:
    """Lit les données et fixe les réglages ; rien n'est encore écrit.

    Args:
        request: ce qui est demandé.
        origins: ce qui en est déjà lu.
        world: les processus qui se le partagent ; None : celui-ci seul.
        strategy: comment ils se partagent les poids.
        resumes_alone: reprend ce que le dossier de sortie contient, s'il contient quelque chose.
        data: les données, déjà lues ; None : celles de la demande.

    Raises:
        GPTArchitectureError: données, modèle de départ ou réglages qui ne conviennent pas.
    """
    request.shape.to_config()  # refuse une forme impossible avant tout travail
    return_freed_memory()
    world = World() if world is None else world
    run, output_dir = request.run, request.run.output_dir
    if run.resume is not None:
        output_dir = run.resume
    store = CheckpointStore(output_dir / CHECKPOINTS, keep_last=request.checkpoints.keep)
    if resumes_alone and run.resume is None and store.steps():
        request = replace(request, run=replace(run, resume=output_dir))
    device = world.device or resolve_device(run.device)
    resolve_precision(request.compute.precision, device, fused=False)  # un refus n'attend pas
    origins = (origins or Origins()).of_request(request)
    start, training = origins.start, request.learning
    known = origins

    def load() -> TrainingData:
        return load_data(request, training, known)

    if data is None:
        data = on_main(world, load) or load()  # le premier télécharge, les autres relisent
    vocab_size = data.tokenizer.vocab_size if start is None else start.content.config.vocab_size
    model = request.shape.to_config(vocab_size)
    if start is not None:
        start.check_shape(model)
        start.check_task(data)
        model = replace(model, **start.content.config.variants())
    if request.objective.preferences is not None:  # la référence n'a pas de dropout
        model = replace(model, drop_rate=0.0)
    if origins.teacher is not None:
        check_teacher(origins.teacher, data.tokenizer, model)
    if data.labelled is not None:
        model = model.with_head(data.labelled.head)
    settings = Settings(
        model=model,
        window=request.shape.context_length,
        device=device,
        prompt=choose_prompt(run.prompt, data),
        training=training,
        optimizer=request.optimizer,
        schedule=request.schedule,
        checkpoints=request.checkpoints,
        compute=request.compute,
        options=saved_options(request, run.prompt),
        start=start,
        lora=request.finetuning.lora(),
        objective=request.objective,
        teacher=origins.teacher,
    )
    check_share(settings.sequences, world)
    if request.checkpoints.keep_spread is not None:
        sampler = settings.sampler(data.train)
        store.spread = Spread(
            count=request.checkpoints.keep_spread,
            total=settings.total_steps(sampler),
            first_epoch=sampler.steps_per_epoch,
        )
    return TrainingRun(
        request=request,
        origins=origins,
        settings=settings,
        data=data,
        store=store,
        output_dir=output_dir,
        world=world,
        strategy=strategy,
    )


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


def estimate(run: TrainingRun) -> Estimate:
    """Mesure quelques étapes de l'entraînement, sans rien écrire."""
    checkpoint = run.origins.checkpoint
    return estimate_training(
        build_trainer(
            run.settings, run.data, checkpoint=checkpoint, other_engine=True, rehearsal=True
        )
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
        trainer.evaluate(lambda: False)
    evaluated = time.perf_counter()
    if trainer.sample is not None:
        trainer.sample(lambda: False)
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


def flops_per_token(config: GPTConfig, window: int) -> int:
    """Opérations flottantes de l'entraînement d'un token, aller et retour.

    Six par poids des matrices (Kaplan et al., 2020), tête comprise, embeddings lus par indice
    non ; plus l'attention causale, qui voit en moyenne la moitié des `window` positions.
    """
    d = config.emb_dim
    matrices = config.n_layers * (4 * d + 2 * config.inner_width) * d + config.outputs * d
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
