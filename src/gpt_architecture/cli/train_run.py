"""Le déroulement de `train` : préparer, entraîner ou reprendre, enregistrer, conclure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpt_architecture.cli.bar import ProgressBar
from gpt_architecture.cli.command import read_prompt, say
from gpt_architecture.cli.finetune_options import check_shape, starting_point
from gpt_architecture.cli.launch import (
    ScaleOptions,
    check_alone,
    check_share,
    gathered,
    on_main,
    shared_checkpoint,
    shared_store,
    sharing_of,
    training_world,
)
from gpt_architecture.cli.opening import choose_prompt
from gpt_architecture.cli.outputs import (
    PLOT_NAME,
    check_no_checkpoint,
    check_output,
    check_same_training,
    check_same_vocabulary,
    checkpoints_kept,
    erase_checkpoints,
    plot,
)
from gpt_architecture.cli.products import Product, product_of
from gpt_architecture.cli.progress import TrainingProgress
from gpt_architecture.cli.signals import StopRequest
from gpt_architecture.cli.train_data import load_data, training_of
from gpt_architecture.cli.train_options import (
    RunOptions,
    TrainOptions,
    learned_tokenizer,
    resumable,
    saved_options,
)
from gpt_architecture.cli.train_report import (
    announce,
    announce_resume,
    report_best,
    report_estimate,
    report_interruption,
    report_product,
)
from gpt_architecture.config import VERSION

if TYPE_CHECKING:
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.data.datasets import TrainingData
    from gpt_architecture.training.callbacks import Callback
    from gpt_architecture.training.checkpoint import Checkpoint, CheckpointStore
    from gpt_architecture.training.distributed.world import World
    from gpt_architecture.training.session import Settings
    from gpt_architecture.training.state import TrainingState

SIGTERM_CODE = 128 + signal.SIGTERM


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Un entraînement prêt à partir : ses options, ses données, son dossier, ses processus."""

    run: RunOptions
    scale: ScaleOptions
    settings: Settings
    data: TrainingData
    store: CheckpointStore
    output_dir: Path
    world: World
    reads: tuple[object, ...]
    """Ce qu'il lit, et n'écrasera pas."""

    @cached_property
    def product(self) -> Product:
        """Ce qu'il produira."""
        return product_of(self.settings)


def run_training(options: TrainOptions, *, stop: StopRequest) -> int:
    """Entraîne selon les options, du début ou d'un point de reprise ; rend le code de sortie.

    Chaque processus l'appelle : le premier seul écrit et parle.
    """
    from gpt_architecture.core.device import describe_device
    from gpt_architecture.core.memory import return_freed_memory
    from gpt_architecture.training.session import deterministic_algorithms

    return_freed_memory()
    with ExitStack() as stack:
        world = stack.enter_context(training_world(options.scale, options.run.device))
        job = _prepare(options, world)
        settings, data = job.settings, job.data
        if job.run.estimate:
            return _estimate(job)
        if settings.compute.deterministic:
            stack.enter_context(deterministic_algorithms())
        checkpoint = _claim(job, stack)
        announce(settings, data)
        processes = f", {world.size} processus ({job.scale.parallel})" if world.size > 1 else ""
        say(f"Périphérique {describe_device(settings.device)}{processes}\n")
        if checkpoint is not None:
            announce_resume(checkpoint, settings, data)
        trained, state, complete = _train(job, checkpoint, stop)
        if complete:
            model = gathered(trained)
            on_main(world, lambda: _conclude(job, state, model))
            report_best(state, job.store)
            return 0
    report_interruption(state, job.store, job.output_dir)
    return stop.exit_code or SIGTERM_CODE  # le signal a pu n'atteindre qu'un autre processus


def _prepare(options: TrainOptions, world: World) -> _Job:
    """Lit les données et fixe les réglages ; rien n'est encore écrit."""
    from gpt_architecture.core.device import resolve_device
    from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore
    from gpt_architecture.training.session import Settings

    run, window, finetune = options.run, options.shape.context_length, options.finetune
    check_alone(world, {"--estimate": run.estimate})
    device = getattr(world, "device", None) or resolve_device(run.device)
    output_dir = run.output_dir if run.resume is None else run.resume
    store = CheckpointStore(output_dir / CHECKPOINTS, keep_last=options.saving.keep)
    if options.scale.resumes_alone and not run.estimate and run.resume is None and store.steps():
        run = replace(run, resume=output_dir)

    start = None if finetune.start is None else starting_point(finetune.start)
    training = training_of(options)

    def load() -> TrainingData:
        vocabulary = learned_tokenizer(run) if start is None else start.tokenizer
        return load_data(run, finetune, training, window, vocabulary)

    data = on_main(world, load) or load()  # le premier télécharge, les autres relisent
    asked = None if run.prompt is None else read_prompt(run.prompt)
    prompt = choose_prompt(asked, data)
    vocab_size = data.tokenizer.vocab_size if start is None else start.content.config.vocab_size
    model = options.shape.to_config(vocab_size)
    if start is not None:
        check_shape(model, start)
        model = replace(model, **start.content.config.variants())
    settings = Settings(
        model=model,
        window=window,
        device=device,
        prompt=prompt,
        training=training,
        optimizer=options.optimizer,
        schedule=options.schedule,
        checkpoints=options.saving,
        compute=options.compute,
        options=saved_options(options, asked),
        start=start,
        lora=finetune.lora(),
    )
    check_share(settings.sequences, world)
    return _Job(
        run=run,
        scale=options.scale,
        settings=settings,
        data=data,
        store=store,
        output_dir=output_dir,
        world=world,
        reads=(run.data, run.tokenizer, finetune, _start_file(finetune.start)),
    )


def _start_file(start: Path | None) -> Path | None:
    """Le fichier du modèle de départ, s'il est nommé par son dossier."""
    from gpt_architecture.formats.source import locate

    return locate(start) if start is not None and start.is_dir() else None


def _claim(job: _Job, stack: ExitStack) -> Checkpoint | None:
    """Prend le dossier de sortie ; rend le point à reprendre, le même pour tous les processus.

    Args:
        job: l'entraînement.
        stack: garde le verrou du dossier.
    """
    store = job.store

    def claim() -> Checkpoint | None:
        if not job.output_dir.exists():
            stack.callback(_remove_empty, job.output_dir)  # un refus ne laisse rien
        checkpoint = _check_output_dir(job)
        stack.enter_context(store.lock())
        stack.callback(store.remove_if_empty)
        store.sweep()
        if checkpoint is None:
            check_no_checkpoint(store, job.output_dir, force=job.run.force)  # le verrou est à nous
            erase_checkpoints(store)
        elif not checkpoint.path.exists():  # rendu à son nom par le rangement
            resumable.cache_clear()
            checkpoint = resumable(job.output_dir)
        return checkpoint

    return shared_checkpoint(on_main(job.world, claim), store, job.world)


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):  # il n'est pas vide, ou n'a pas été créé
        directory.rmdir()


def _check_output_dir(job: _Job) -> Checkpoint | None:
    """Vérifie le dossier de sortie ; rend le point à reprendre, s'il y en a un."""
    run, settings, store = job.run, job.settings, job.store
    identity = settings.identity(job.data)
    replaceable: list[Mapping[str, Any]] = [identity]
    checkpoint = None
    if run.resume is not None:
        checkpoint = resumable(run.resume)
        if run.override:
            check_same_vocabulary(checkpoint, identity)
        else:
            check_same_training(checkpoint, identity, settings.options)
        replaceable.append(checkpoint.state["identity"])
    else:
        check_no_checkpoint(store, job.output_dir, force=run.force)
    written = checkpoints_kept(settings.checkpoints) + 1  # et celui qui s'écrit
    check_output(
        job.output_dir,
        replaceable,
        job.product,
        checkpoints=max(written - len(store.steps()), 1),
        reads=job.reads,
        force=run.force,
    )
    return checkpoint


def _train(
    job: _Job, checkpoint: Checkpoint | None, stop: StopRequest
) -> tuple[GPTModel, TrainingState, bool]:
    """Construit l'entraînement et le mène jusqu'au bout, ou jusqu'à l'arrêt.

    Returns:
        Le modèle, l'état atteint, et vrai si c'est le terme. Moteur, gradients et moments sont
        rendus : enregistrer et tracer ne s'y ajoutent pas.
    """
    from gpt_architecture.training.session import build_trainer

    with ExitStack() as stack:
        listeners = _listeners(job, stack) if job.world.is_main else []
        trainer = build_trainer(
            job.settings,
            job.data,
            store=stack.enter_context(shared_store(job.store, job.world)),
            checkpoint=checkpoint,
            callbacks=listeners,
            world=job.world,
            sharing=sharing_of(job.scale, job.world),
            should_stop=stop,
            other_engine=job.run.override,
        )
        state = trainer.run()
    return cast("GPTModel", trainer.model), state, trainer.complete


def _listeners(job: _Job, stack: ExitStack) -> list[Callback]:
    """Ceux qui racontent l'entraînement ; `stack` ferme la barre."""
    from gpt_architecture.formats.journal import JOURNAL, Journal, TensorBoardLog
    from gpt_architecture.training.estimate import flops_per_token, measure_peak_flops
    from gpt_architecture.training.step import training_precision

    settings = job.settings
    flops = flops_per_token(settings.model, settings.window)
    dtype = training_precision(settings.compute, settings.device)
    peak = measure_peak_flops(settings.device, dtype)
    bar = stack.enter_context(ProgressBar("Entraînement"))
    progress = TrainingProgress(bar, flops_per_token=flops, peak_flops=peak)
    listeners = [
        cast("Callback", progress),  # sans PyTorch
        Journal(job.output_dir / JOURNAL, flops_per_token=flops, peak_flops=peak),
    ]
    if job.run.tensorboard:
        listeners.append(TensorBoardLog(job.output_dir / "tensorboard"))
    return listeners


def _estimate(job: _Job) -> int:
    """Mesure quelques étapes et dit ce que l'entraînement demandera."""
    from gpt_architecture.training.estimate import PROBED_STEPS, estimate_training
    from gpt_architecture.training.session import build_trainer

    settings, data = job.settings, job.data
    checkpoint = None if job.run.resume is None else resumable(job.run.resume)
    announce(settings, data)
    say(f"Mesure de {PROBED_STEPS} étapes, après une d'échauffement…\n")
    report_estimate(
        estimate_training(build_trainer(settings, data, checkpoint=checkpoint, other_engine=True)),
        product=job.product,
        kept=checkpoints_kept(settings.checkpoints),
        price_per_hour=job.run.price_per_hour,
    )
    return 0


def _conclude(job: _Job, state: TrainingState, model: GPTModel) -> None:
    """Écrit le modèle, ou les adaptateurs, et les courbes ; dit comment s'en servir."""
    import torch

    from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, keep_prompt

    settings, data = job.settings, job.data
    product, plot_path = job.product, job.output_dir / PLOT_NAME
    path = job.output_dir / product.file_name
    template = _template_of(job)
    metadata = {
        **settings.identity(data),
        **keep_prompt(settings.prompt, data.tokenizer),
        "train_losses": state.train_losses,
        "val_losses": state.val_losses,
        "tokens_seen": state.tokens_seen,
        "eval_steps": state.eval_steps,
        "steps": state.step,
        "skipped_steps": state.skipped,
        "seconds": state.seconds,
        "complete": True,
        "versions": {"gpt-architecture": VERSION, "torch": str(torch.__version__)},
    }
    if template is not None:
        metadata[CHAT_TEMPLATE] = template
    product.save(path, model, data.tokenizer, metadata)
    report_product(state, product, path)
    sampler = settings.sampler(data.train.num_tokens)
    if plot(plot_path, state, sampler.num_windows / sampler.batch_size):
        say(f"Courbes : {plot_path}")
    chats = data.chat_template is not None
    say(f"Ensuite : {product.next_command(path, settings.prompt, chats=chats)}")


def _template_of(job: _Job) -> str | None:
    """Le gabarit à garder : celui des conversations apprises, sinon celui du modèle de départ."""
    from gpt_architecture.data.texts.chat import CHAT_TEMPLATE

    start = job.settings.start
    if job.data.chat_template is not None or start is None:
        return job.data.chat_template
    found = start.content.metadata.get(CHAT_TEMPLATE)  # gardé tel quel : il n'a pas servi
    return found if isinstance(found, str) else None
