"""Le déroulement de `train` : préparer, entraîner ou reprendre, enregistrer, conclure."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpt_architecture import __version__
from gpt_architecture.config import (
    CheckpointConfig,
    ComputeConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from gpt_architecture.scripts._cli import (
    MODEL_NAME,
    french_duration,
    french_size,
    say,
)
from gpt_architecture.scripts._launch import (
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
from gpt_architecture.scripts._opening import choose_prompt
from gpt_architecture.scripts._outputs import (
    PLOT_NAME,
    check_no_checkpoint,
    check_output,
    check_same_training,
    checkpoint_bytes,
    checkpoints_kept,
    erase_checkpoints,
    plot,
    save,
)
from gpt_architecture.scripts._progress import TrainingProgress
from gpt_architecture.scripts._signals import StopRequest
from gpt_architecture.scripts._training_options import (
    ModelOptions,
    RunOptions,
    resumable,
    saved_options,
)

if TYPE_CHECKING:
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.training.callbacks import Callback
    from gpt_architecture.training.checkpoint import Checkpoint, CheckpointStore
    from gpt_architecture.training.datasets import TrainingData
    from gpt_architecture.training.session import Settings
    from gpt_architecture.training.state import TrainingState
    from gpt_architecture.training.world import World

SIGTERM_CODE = 128 + signal.SIGTERM


def run_training(
    run: RunOptions,
    shape: ModelOptions,
    training: TrainingConfig,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    saving: CheckpointConfig,
    compute: ComputeConfig,
    scale: ScaleOptions,
    *,
    stop: StopRequest,
) -> int:
    """Entraîne selon les options, du début ou d'un point de reprise ; rend le code de sortie.

    Chaque processus l'appelle : le premier seul écrit et parle.
    """
    from gpt_architecture.core.device import describe_device, resolve_device
    from gpt_architecture.core.memory import return_freed_memory
    from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore
    from gpt_architecture.training.datasets import load_training_data
    from gpt_architecture.training.session import Settings, deterministic_algorithms

    return_freed_memory()
    with ExitStack() as stack:
        world = stack.enter_context(training_world(scale, run.device))
        check_alone(world, {"--estimate": run.estimate})
        device = getattr(world, "device", None) or resolve_device(run.device)
        window = shape.context_length

        def load() -> TrainingData:
            return load_training_data(
                run.data, run.tokenizer, window=window, training=training, offline=run.offline
            )

        data = on_main(world, load) or load()  # le premier télécharge, les autres relisent
        prompt = choose_prompt(run.prompt, data)
        settings = Settings(
            model=shape.to_config(data.tokenizer.vocab_size),
            window=window,
            device=device,
            prompt=prompt,
            training=training,
            optimizer=optimizer,
            schedule=schedule,
            checkpoints=saving,
            compute=compute,
            options=saved_options(
                run, prompt, shape, training, optimizer, schedule, saving, compute
            ),
        )
        check_share(settings.sequences, world)
        output_dir = run.output_dir if run.resume is None else run.resume
        store = CheckpointStore(output_dir / CHECKPOINTS, keep_last=saving.keep)
        if run.estimate:
            return _estimate(settings, data, run)
        if scale.resumes_alone and run.resume is None and store.steps():
            run = replace(run, resume=output_dir)
        if compute.deterministic:
            stack.enter_context(deterministic_algorithms())

        def claim() -> Checkpoint | None:
            checkpoint = _prepare_output(run, settings, data, store, output_dir)
            stack.enter_context(store.lock())
            store.sweep()
            if checkpoint is None:
                check_no_checkpoint(store, output_dir, force=run.force)  # le verrou est à nous
                erase_checkpoints(store)
            elif not checkpoint.path.exists():  # rendu à son nom par le rangement
                resumable.cache_clear()
                checkpoint = resumable(output_dir)
            return checkpoint

        checkpoint = shared_checkpoint(on_main(world, claim), store, world)
        _announce(settings, data)
        processes = f", {world.size} processus ({scale.parallel})" if world.size > 1 else ""
        say(f"Périphérique {describe_device(device)}{processes}\n")
        if checkpoint is not None:
            _announce_resume(checkpoint, settings, data)
        trained, state, complete = _train(
            settings, data, store, checkpoint, output_dir, run, scale, world, stop
        )
        if complete:
            model = gathered(trained)
            on_main(world, lambda: _conclude(state, model, settings, data, output_dir))
            _say_best(state, store)
            if world.is_main and not store.steps():  # seul le verrou est resté
                shutil.rmtree(store.root, ignore_errors=True)
            return 0
        path = store.root / f"step-{state.step:06d}"
    say(f"\nInterrompu à l'étape {state.step} ; rien n'est perdu : {path}")
    say(
        f"Pour reprendre : {shlex.join(['gpt-architecture', 'train', '--resume', str(output_dir)])}"
    )
    return stop.exit_code or SIGTERM_CODE  # le signal a pu n'atteindre qu'un autre processus


def _prepare_output(
    run: RunOptions,
    settings: Settings,
    data: TrainingData,
    store: CheckpointStore,
    output_dir: Path,
) -> Checkpoint | None:
    """Vérifie le dossier de sortie ; rend le point à reprendre, s'il y en a un."""
    identity = settings.identity(data)
    replaceable: list[Mapping[str, Any]] = [identity]
    checkpoint = None
    if run.resume is not None:
        checkpoint = resumable(run.resume)
        if not run.override:
            check_same_training(checkpoint, identity, settings.options)
        replaceable.append(checkpoint.state["identity"])
    else:
        check_no_checkpoint(store, output_dir, force=run.force)
    written = checkpoints_kept(settings.checkpoints) + 1  # et celui qui s'écrit
    check_output(
        output_dir,
        replaceable,
        settings.model,
        checkpoints=max(written - len(store.steps()), 1),
        force=run.force,
    )
    return checkpoint


def _train(
    settings: Settings,
    data: TrainingData,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
    output_dir: Path,
    run: RunOptions,
    scale: ScaleOptions,
    world: World,
    stop: StopRequest,
) -> tuple[GPTModel, TrainingState, bool]:
    """Construit l'entraînement et le mène jusqu'au bout, ou jusqu'à l'arrêt.

    Returns:
        Le modèle, l'état atteint, et vrai si c'est le terme. Moteur, gradients et moments sont
        rendus : enregistrer et tracer ne s'y ajoutent pas.
    """
    from gpt_architecture.training.engine import resolve_precision
    from gpt_architecture.training.journal import JOURNAL, Journal, TensorBoardLog
    from gpt_architecture.training.metrics import flops_per_token, measure_peak_flops
    from gpt_architecture.training.session import build_trainer

    listeners: list[Callback] = []
    with ExitStack() as stack:
        if world.is_main:
            flops = flops_per_token(settings.model, settings.window)
            dtype = resolve_precision(settings.compute.precision, settings.device)
            peak = measure_peak_flops(settings.device, dtype)
            progress = TrainingProgress(flops_per_token=flops, peak_flops=peak)
            listeners.append(cast("Callback", stack.enter_context(progress)))  # sans PyTorch
            listeners.append(Journal(output_dir / JOURNAL, flops_per_token=flops, peak_flops=peak))
            if run.tensorboard:
                listeners.append(TensorBoardLog(output_dir / "tensorboard"))
        trainer = build_trainer(
            settings,
            data,
            store=stack.enter_context(shared_store(store, world)),
            checkpoint=checkpoint,
            callbacks=listeners,
            world=world,
            sharing=sharing_of(scale, world),
            should_stop=stop,
        )
        state = trainer.run()
    return cast("GPTModel", trainer.model), state, trainer.complete


def _estimate(settings: Settings, data: TrainingData, run: RunOptions) -> int:
    """Mesure quelques étapes et dit ce que l'entraînement demandera."""
    from gpt_architecture.training.estimate import PROBED_STEPS, estimate_training
    from gpt_architecture.training.session import build_trainer

    checkpoint = None if run.resume is None else resumable(run.resume)
    _announce(settings, data)
    say(f"Mesure de {PROBED_STEPS} étapes, après une d'échauffement…\n")
    found = estimate_training(build_trainer(settings, data, checkpoint=checkpoint))
    kept = checkpoints_kept(settings.checkpoints)
    model_size, saved_size = 4 * settings.model.num_parameters(), checkpoint_bytes(settings.model)
    say(
        f"Durée    {french_duration(found.seconds)} : {_spaced(found.steps)} étape(s) de "
        f"{_seconds(found.step_seconds)}, {found.evaluations} évaluation(s) de "
        f"{_seconds(found.evaluation_seconds)}, {found.samples} exemple(s) de "
        f"{_seconds(found.sample_seconds)}"
    )
    say(f"Débit    {found.tokens_per_second:.0f} tokens/s")
    say(f"Mémoire  {french_size(found.peak_bytes)} au plus haut")
    say(
        f"Disque   {french_size(model_size + (kept + 1) * saved_size)} au plus : modèle "
        f"{french_size(model_size)}, {kept} point(s) de reprise de {french_size(saved_size)} "
        "et celui qui s'écrit"
    )
    if run.price_per_hour is not None:
        cost = found.seconds / 3600 * run.price_per_hour
        say(f"Coût     {cost:.2f}, à {run.price_per_hour:g} l'heure".replace(".", ","))
    return 0


def _seconds(value: float) -> str:
    return f"{value:.2f} s".replace(".", ",")


def _conclude(
    state: TrainingState,
    model: GPTModel,
    settings: Settings,
    data: TrainingData,
    output_dir: Path,
) -> None:
    """Écrit le modèle et les courbes, et dit comment s'en servir."""
    import torch

    model_path, plot_path = output_dir / MODEL_NAME, output_dir / PLOT_NAME
    metadata = {
        **settings.identity(data),
        "prompt": settings.prompt,
        "train_losses": state.train_losses,
        "val_losses": state.val_losses,
        "tokens_seen": state.tokens_seen,
        "steps": state.step,
        "skipped_steps": state.skipped,
        "seconds": state.seconds,
        "complete": True,
        "versions": {"gpt-architecture": __version__, "torch": str(torch.__version__)},
    }
    save(model_path, model, settings.model, data.tokenizer, metadata)
    say(f"\nTerminé en {french_duration(state.seconds)}.")
    if state.skipped:
        say(f"Étapes sautées, faute d'un gradient fini : {state.skipped}")
    say(f"Modèle : {model_path} ({french_size(model_path.stat().st_size)})")
    sampler = settings.sampler(data.train.num_tokens)
    if plot(plot_path, state, sampler.num_windows / sampler.batch_size):
        say(f"Courbes : {plot_path}")
    chosen = [] if model_path == Path(MODEL_NAME) else ["--model", str(model_path)]
    command = ["gpt-architecture", "infer", *chosen, "--strategy", "top_p", "--prompt"]
    say(f"Ensuite : {shlex.join(command)} {_quoted(settings.prompt)}")


def _say_best(state: TrainingState, store: CheckpointStore) -> None:
    """Dit où sont les poids de la meilleure validation, s'ils ont été gardés."""
    path = store.root / f"step-{state.best_step + 1:06d}"
    if state.best_loss is not None and path.is_dir():
        loss = f"{state.best_loss:.3f}".replace(".", ",")
        say(f"Meilleure validation ({loss}) : {path}")


def _announce(settings: Settings, data: TrainingData) -> None:
    """Dit ce qui va être entraîné, et sur quoi."""
    training, window = settings.training, settings.window
    sampler = settings.sampler(data.train.num_tokens)
    say(
        f"Texte        {data.name} ({data.tokenizer.name}) : {_spaced(data.train.num_tokens)} "
        f"tokens d'entraînement, {_spaced(data.val.num_tokens)} de validation"
    )
    say(
        f"Modèle       {_spaced(settings.model.num_parameters())} paramètres, "
        f"contexte appris {window} sur {_spaced(settings.model.context_length)} positions"
    )
    batches = f"lots de {training.batch_size} × {window} tokens"
    if training.accumulate > 1:
        batches += (
            f", {training.accumulate} par étape : "
            f"{_spaced(settings.sequences * window)} tokens effectifs"
        )
    say(
        f"Entraînement {training.epochs} époque(s) de {sampler.steps_per_epoch} étape(s), "
        f"{_spaced(settings.total_steps(sampler))} en tout, {batches}"
    )


def _announce_resume(checkpoint: Checkpoint, settings: Settings, data: TrainingData) -> None:
    """Dit d'où l'on repart, et si le programme du taux s'étend sur un autre nombre d'étapes."""
    say(f"Reprise à l'étape {checkpoint.step}.")
    before = checkpoint.state.get("total_steps")
    total = settings.total_steps(settings.sampler(data.train.num_tokens))
    if before != total and settings.schedule.schedule != "constant":
        say(
            f"Le programme du taux ({settings.schedule.schedule}) s'étend désormais sur {total} "
            f"étapes, et non {before} : le taux fait un saut."
        )


def _quoted(text: str) -> str:
    """Le texte entre guillemets pour un terminal, protégé s'il contient de quoi l'abuser."""
    return shlex.quote(text) if set(text) & set('"$`\\!\n') else f'"{text}"'


def _spaced(number: int) -> str:
    """Milliers séparés par une espace : « 163 009 536 »."""
    return f"{number:,}".replace(",", " ")
