"""Un entraînement prêt à partir : ce qui est demandé, d'où il part, ses réglages, ses données."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.config import TRAINING_PRESETS, TrainingRequest, check_origin
from gpt_architecture.core.machine import resolve_device, return_freed_memory
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore
from gpt_architecture.training.distributed.sharing import (
    check_share,
    on_main,
)
from gpt_architecture.training.distributed.world import SingleProcess, World
from gpt_architecture.training.estimate import (
    flops_per_token,
    measure_peak_flops,
)
from gpt_architecture.training.inputs import (
    Origins,
    choose_prompt,
    load_data,
    saved_options,
)
from gpt_architecture.training.outputs import (
    Product,
    product_of,
)
from gpt_architecture.training.session import Settings
from gpt_architecture.training.step import training_precision

if TYPE_CHECKING:
    from gpt_architecture.training.distributed.parallel import Strategy


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
    def pace(self) -> tuple[int, float]:
        """Opérations d'un token, et opérations par seconde que la machine atteint."""
        settings = self.settings
        dtype = training_precision(settings.compute, settings.device)
        flops = flops_per_token(settings.model, settings.window)
        return flops, measure_peak_flops(settings.device, dtype)


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
    check_origin(preset=preset, resume=resume, start=start, tokenizer=asked.get("tokenizer"))
    implied = origins.implied(resume=resume, start=start)
    if preset is not None:
        implied = TRAINING_PRESETS[preset]
    known = {
        "start" if name == "from" else name: value
        for name, value in implied.items()
        if value is not None
    }
    return TrainingRequest.of(known | asked)


def prepare(
    request: TrainingRequest,
    origins: Origins | None = None,
    *,
    world: World | None = None,
    strategy: Strategy = "ddp",
    resumes_alone: bool = False,
) -> TrainingRun:
    """Lit les données et fixe les réglages ; rien n'est encore écrit.

    Args:
        request: ce qui est demandé.
        origins: ce qui en est déjà lu.
        world: les processus qui se le partagent ; None : celui-ci seul.
        strategy: comment ils se partagent les poids.
        resumes_alone: reprend ce que le dossier de sortie contient, s'il contient quelque chose.

    Raises:
        GPTArchitectureError: données, modèle de départ ou réglages qui ne conviennent pas.
    """
    request.shape.to_config()  # refuse une forme impossible avant tout travail
    return_freed_memory()
    world = SingleProcess() if world is None else world
    run, output_dir = request.run, request.run.output_dir
    if run.resume is not None:
        output_dir = run.resume
    store = CheckpointStore(output_dir / CHECKPOINTS, keep_last=request.checkpoints.keep)
    if resumes_alone and run.resume is None and store.steps():
        request = replace(request, run=replace(run, resume=output_dir))
    device = world.device or resolve_device(run.device)
    origins = (origins or Origins()).of_request(request)
    start, training = origins.start, request.learning
    known = origins

    def load() -> TrainingData:
        return load_data(request, training, known)

    data = on_main(world, load) or load()  # le premier télécharge, les autres relisent
    vocab_size = data.tokenizer.vocab_size if start is None else start.content.config.vocab_size
    model = request.shape.to_config(vocab_size)
    if start is not None:
        start.check_shape(model)
        model = replace(model, **start.content.config.variants())
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
    )
    check_share(settings.sequences, world)
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
