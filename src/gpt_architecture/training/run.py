"""Un entraînement entier : commencer ou reprendre, mener au bout, enregistrer.

`train_model` fait tout d'un appel, comme la commande, qui n'y ajoute que sa voix
(`TrainingReporter`), ses signaux (`should_stop`) et ses processus (`world`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from gpt_architecture.config import VERSION
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.labelled import labels_of
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.tokenizers.marked_text import keep_prompt
from gpt_architecture.errors import reason
from gpt_architecture.formats.door import locate
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.training.arithmetic import deterministic_algorithms
from gpt_architecture.training.baselines import BaselineNotice
from gpt_architecture.training.callbacks import Callback, StopCheck, Store
from gpt_architecture.training.certificate import CertificateWriter
from gpt_architecture.training.checkpoint import Checkpoint, TrainingState, read_checkpoint
from gpt_architecture.training.diagnosis import Case, Finding, dead_units, step_losses
from gpt_architecture.training.distributed.world import World, on_main
from gpt_architecture.training.faults import check_targets, diagnose
from gpt_architecture.training.journals import JournalWriter, TensorBoardLog
from gpt_architecture.training.outputs import (
    PLOT_NAME,
    check_no_checkpoint,
    check_output,
    check_same_training,
    check_same_vocabulary,
    checkpoints_kept,
    erase_checkpoints,
    plot,
    write_canaries,
)
from gpt_architecture.training.preparation import TrainingRun
from gpt_architecture.training.saved import resumable
from gpt_architecture.training.session import build_trainer

if TYPE_CHECKING:
    from gpt_architecture.training.distributed.group import DistributedWorld
    from gpt_architecture.training.distributed.parallel import ModelSharing


logger = logging.getLogger(__name__)


class TrainingReporter:
    """Raconte un entraînement ; celui-ci se tait.

    Chaque processus l'appelle pour annoncer, le premier seul pour le reste.
    """

    def announce(self, run: TrainingRun, checkpoint: Checkpoint | None) -> None:
        """L'entraînement va commencer, ou reprendre à `checkpoint`."""

    def examined(self, run: TrainingRun, findings: Sequence[Finding]) -> None:
        """Les données sont examinées ; `findings` dit les fautes qu'elles montrent déjà."""

    def listening(self, run: TrainingRun) -> AbstractContextManager[Callback]:
        """Celui qui écoute la boucle, le temps qu'elle tourne."""
        del run
        return nullcontext(Callback())

    def saved(self, run: TrainingRun, state: TrainingState) -> None:
        """Le produit est écrit ; ses courbes ne sont pas encore tracées."""

    def conclude(
        self,
        run: TrainingRun,
        state: TrainingState,
        plotted: Path | str | None,
        findings: Sequence[Finding],
    ) -> None:
        """Tout est fini ; `plotted` désigne les courbes, si elles ont pu être tracées.

        Args:
            findings: les fautes que l'entraînement montre.
        """


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Où un entraînement en est quand il rend la main.

    Attributes:
        model: le modèle, entier ; None s'il a été interrompu.
        state: l'état atteint, pertes comprises.
        findings: les fautes que l'entraînement montre ; vide pour les processus qui suivent.
    """

    model: GPTModel | None
    state: TrainingState
    findings: Sequence[Finding] = ()


def train_model(
    run: TrainingRun,
    reporter: TrainingReporter | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    should_stop: StopCheck | None = None,
) -> Outcome:
    """Mène un entraînement au bout, ou jusqu'à l'arrêt demandé ; chaque processus l'appelle.

    Args:
        run: voir `prepare`.
        reporter: qui le raconte ; None : personne.
        callbacks: d'autres qui écoutent la boucle.
        should_stop: interrogé souvent ; vrai : enregistre un point de reprise et rend la main.

    Raises:
        GPTArchitectureError: dossier de sortie pris, ou qui contient un autre entraînement ;
            données dont rien ne s'apprend ; étapes non finies ; mémoire ou place insuffisante.
    """
    reporter = TrainingReporter() if reporter is None else reporter
    with ExitStack() as stack:
        if run.settings.compute.deterministic:
            stack.enter_context(deterministic_algorithms())
        certificate = on_main(run.world, lambda: CertificateWriter(run))  # refuse d'abord la clé
        checkpoint = _claim(run, stack)
        reporter.announce(run, checkpoint)

        def examine() -> None:
            check_targets(run.survey)
            reporter.examined(run, _diagnosed(run))

        on_main(run.world, examine)
        trained, state = _train(run, checkpoint, reporter, callbacks, should_stop, certificate)
        if trained is None:
            found = on_main(run.world, lambda: _diagnosed(run, state))
            return Outcome(model=None, state=state, findings=found or ())
        model = _gathered(trained, run.world)

        def conclude() -> list[Finding]:
            findings = _diagnosed(run, state, model)
            run.product.save(run.path, model, run.data.tokenizer, _metadata(run, state, findings))
            if certificate is not None:
                certificate.conclude(model, state)
            reporter.saved(run, state)
            sampler = run.settings.sampler(run.data.train)
            drawn, baselines = run.output_dir / PLOT_NAME, run.survey.baselines
            is_plotted = plot(
                drawn,
                state,
                sampler.num_windows / sampler.batch_size,
                levels={} if baselines is None else baselines.levels,
            )
            reporter.conclude(run, state, drawn if is_plotted else None, findings)
            return findings

        return Outcome(model=model, state=state, findings=on_main(run.world, conclude) or ())


def _diagnosed(
    run: TrainingRun, state: TrainingState | None = None, model: GPTModel | None = None
) -> list[Finding]:
    """Les fautes que l'entraînement montre ; un docteur en panne ne coûte pas le modèle."""
    try:
        return diagnose(_case(run, state, model))
    except (RuntimeError, MemoryError, ArithmeticError, ValueError, LookupError) as error:
        logger.warning("diagnostic non fait : %s", reason(error))
        return []


def _case(
    run: TrainingRun, state: TrainingState | None = None, model: GPTModel | None = None
) -> Case:
    """Ce que le docteur lit de l'entraînement : ses données, puis son cours, puis ses poids."""
    train, window = run.data.train, run.settings.window
    return Case(
        settings=run.settings,
        survey=run.survey,
        train_tokens=train.num_tokens,
        total_steps=run.settings.total_steps(run.settings.sampler(train)),
        losses=() if state is None else step_losses(run.output_dir / JOURNAL),
        state=state,
        dead=None if model is None else dead_units(model, train, window),
    )


def _claim(run: TrainingRun, stack: ExitStack) -> Checkpoint | None:
    """Prend le dossier de sortie ; rend le point à reprendre, le même pour tous les processus.

    Args:
        run: l'entraînement.
        stack: garde le verrou du dossier.
    """
    store, output_dir = run.store, run.output_dir

    def claim() -> Checkpoint | None:
        if not output_dir.exists():
            stack.callback(_remove_empty, output_dir)  # un refus ne laisse rien
        checkpoint = _check_output_dir(run)
        stack.enter_context(store.lock())
        stack.callback(store.remove_if_empty)
        store.sweep()
        if checkpoint is None:
            check_no_checkpoint(store, output_dir, force=run.request.run.force)  # verrou à nous
            erase_checkpoints(store)
        elif not checkpoint.path.exists():  # rendu à son nom par le rangement
            checkpoint = resumable(output_dir)
        seed, force = run.settings.training.seed, run.request.run.force
        write_canaries(output_dir, run.data.canaries, seed, force=force)
        return checkpoint

    checkpoint = on_main(run.world, claim)
    if _is_joint(run.world):
        chosen = torch.tensor(-1 if checkpoint is None else checkpoint.step)
        step = int(run.world.broadcast(chosen))
        if step >= 0 and not run.world.is_main:  # le premier l'a vérifié
            return read_checkpoint(store.path_of(step), verify=False)
    return checkpoint


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):  # il n'est pas vide, ou n'a pas été créé
        directory.rmdir()


def _check_output_dir(run: TrainingRun) -> Checkpoint | None:
    """Vérifie le dossier de sortie ; rend le point à reprendre, s'il y en a un."""
    asked, finetuning, store = run.request.run, run.request.finetuning, run.store
    identity = run.settings.identity(run.data)
    replaceable: list[Mapping[str, Any]] = [identity]
    checkpoint = run.origins.checkpoint
    if checkpoint is None:
        check_no_checkpoint(store, run.output_dir, force=asked.force)
    else:
        if asked.override:
            check_same_vocabulary(checkpoint, identity)
        else:
            check_same_training(checkpoint, identity, run.settings.options)
        replaceable.append(checkpoint.state["identity"])
    start = finetuning.start
    named = locate(start) if start is not None and start.is_dir() else None  # par son dossier
    sources = [each.path for each in asked.mixture]
    written = checkpoints_kept(run.settings.checkpoints) + 1  # et celui qui s'écrit
    check_output(
        run.output_dir,
        replaceable,
        run.product,
        checkpoints=max(written - len(store.steps()), 1),
        reads=(asked.data, sources, asked.tokenizer, finetuning, run.request.labels, named),
        force=asked.force,
    )
    return checkpoint


def _train(
    run: TrainingRun,
    checkpoint: Checkpoint | None,
    reporter: TrainingReporter,
    callbacks: Sequence[Callback],
    should_stop: StopCheck | None,
    certificate: CertificateWriter | None,
) -> tuple[GPTModel | None, TrainingState]:
    """Construit l'entraînement et le mène jusqu'au bout, ou jusqu'à l'arrêt.

    Returns:
        Le modèle, None avant le terme, et l'état atteint. Moteur, gradients et moments sont
        rendus : enregistrer et tracer ne s'y ajoutent pas.
    """
    with ExitStack() as stack:
        listeners: list[Callback] = []
        if run.world.is_main:
            flops, peak = run.pace
            listeners.append(stack.enter_context(reporter.listening(run)))
            journal = run.output_dir / JOURNAL
            listeners.append(JournalWriter(journal, flops_per_token=flops, peak_flops=peak))
            if run.survey.baselines is not None:
                listeners.append(BaselineNotice(run.survey.baselines))
            if run.request.run.tensorboard:
                listeners.append(TensorBoardLog(run.output_dir / "tensorboard"))
            listeners += callbacks
        store, sharing = _shared(run, stack)
        trainer = build_trainer(
            run.settings,
            run.data,
            store=store,
            checkpoint=checkpoint,
            callbacks=listeners,
            world=run.world,
            sharing=sharing,
            should_stop=should_stop,
            other_engine=run.request.run.override,
            folder=run.output_dir,
        )
        if certificate is not None:
            certificate.watch(trainer)
            trainer.listen(certificate)
        state = trainer.run()
    model = trainer.model
    return (model if trainer.complete and isinstance(model, GPTModel) else None), state


def _is_joint(world: World) -> TypeGuard[DistributedWorld]:
    return world.size > 1


def _shared(run: TrainingRun, stack: ExitStack) -> tuple[Store, ModelSharing | None]:
    """Les points de reprise et le modèle, tels que les processus se les partagent.

    Ce que PyTorch demande à plusieurs n'est importé que là : c'est long.

    Args:
        run: l'entraînement ; seul, il écrit lui-même et ne partage rien.
        stack: achève la dernière écriture.
    """
    if not _is_joint(run.world):
        return run.store, None
    from gpt_architecture.training.distributed.parallel import ModelSharing
    from gpt_architecture.training.distributed.store import DistributedStore

    store = stack.enter_context(DistributedStore(run.store, run.world))
    return store, ModelSharing(world=run.world, strategy=run.strategy)


def _gathered(model: GPTModel, world: World) -> GPTModel:
    """Le modèle entier ; tous les processus l'appellent ensemble."""
    if not _is_joint(world):
        return model
    from gpt_architecture.training.distributed.parallel import whole_model

    return whole_model(model)


def _mixture_read(run: TrainingRun, state: TrainingState) -> dict[str, Any]:
    """Ce qui a été lu de chaque source d'un mélange ; rien pour un texte seul."""
    used = run.mixture_after(state.sequences)
    return {"mixture_read": {name: asdict(use) for name, use in used.items()}} if used else {}


def _metadata(
    run: TrainingRun, state: TrainingState, findings: Sequence[Finding]
) -> dict[str, Any]:
    """Ce que le produit dit de lui-même."""
    settings, data, baselines = run.settings, run.data, run.survey.baselines
    template = data.chat_template
    if template is None and settings.start is not None:
        found = settings.start.content.metadata.get(CHAT_TEMPLATE)  # tel quel : il n'a pas servi
        template = found if isinstance(found, str) else None
    return {
        **settings.identity(data),
        **(keep_prompt(settings.prompt, data.tokenizer) if data.labelled is None else {}),
        "train_losses": state.train_losses,
        "val_losses": state.val_losses,
        "tokens_seen": state.tokens_seen,
        "eval_steps": state.eval_steps,
        "baselines": None if baselines is None else baselines.to_dict(),
        "diagnosis": [each.to_dict() for each in findings],
        "steps": state.step,
        "skipped_steps": state.skipped,
        "seconds": state.seconds,
        **_mixture_read(run, state),
        **labels_of(data.labelled, settings.training),
        "complete": True,
        "versions": {"gpt-architecture": VERSION, "torch": str(torch.__version__)},
        **({} if template is None else {CHAT_TEMPLATE: template}),
    }
