"""Le déroulement de `train`, et ce qu'il dit : ce qui commence, où il en est, ce qu'il a écrit."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gpt_architecture.interop  # noqa: F401 — les formats d'ailleurs s'inscrivent à la porte
from gpt_architecture.cli.command import MODEL_NAME, read_prompt, say
from gpt_architecture.cli.launch import ScaleOptions, StopRequest, check_alone, joined_world
from gpt_architecture.cli.train.options import RunOptions
from gpt_architecture.config import TrainingRequest
from gpt_architecture.core.lora import adapter_parameters
from gpt_architecture.core.machine import describe_device
from gpt_architecture.data.canaries import CANARIES
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.labelled import LabelledData
from gpt_architecture.data.masking import original
from gpt_architecture.data.mixtures import SourceUse, mixture_use
from gpt_architecture.data.preferences import PairTokens
from gpt_architecture.data.texts.conversations import ConversationTokens
from gpt_architecture.errors import GPTArchitectureError, on_one_line
from gpt_architecture.french import (
    counted,
    decimal,
    french_duration,
    french_number,
    french_size,
    percent,
    plural,
    short,
    significant,
)
from gpt_architecture.reports.console import ProgressBar, output_console
from gpt_architecture.reports.training import TrainingBar, loss_verdict, measures_said
from gpt_architecture.training.callbacks import (
    Callback,
    EvaluationRecord,
    OngoingTraining,
)
from gpt_architecture.training.checkpoint import Checkpoint, TrainingState
from gpt_architecture.training.diagnosis import Finding
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.outputs import checkpoints_kept
from gpt_architecture.training.preparation import PROBED_STEPS, TrainingRun, estimate, prepare
from gpt_architecture.training.run import TrainingReporter, train_model
from gpt_architecture.training.session import Settings
from gpt_architecture.training.simple import format_evaluation

SIGTERM_CODE = 128 + signal.SIGTERM
_READ = ("chat", "chat_template", "classify", "val", "preferences", "from", "distill")


def run_training(
    request: TrainingRequest,
    options: RunOptions,
    scale: ScaleOptions,
    *,
    origins: Origins | None,
    stop: StopRequest,
) -> int:
    """Entraîne, du début ou d'un point de reprise ; rend le code de sortie.

    Chaque processus l'appelle : le premier seul écrit et parle.

    Args:
        request: ce qui est demandé.
        options: le même groupe, avec ce qui ne vaut que pour cet appel.
        scale: sur combien de processus.
        origins: ce qui est déjà lu.
        stop: un signal demande-t-il l'arrêt ?
    """
    if options.prompt is not None:
        run_config = replace(request.run, prompt=read_prompt(options.prompt))
        request = replace(request, run=run_config)
    with joined_world(scale.dist_timeout, options.device) as world:
        check_alone(world, {"--estimate": options.estimate})
        run = prepare(
            request,
            origins,
            world=world,
            strategy=scale.parallel,
            resumes_alone=scale.resumes_alone and not options.estimate,
        )
        if options.estimate:
            _report_estimate(run, options.price_per_hour)
            return 0
        outcome = train_model(run, TerminalReporter(), should_stop=stop)
        if outcome.model is not None:
            return 0
    path = run.store.path_of(outcome.state.step)
    say(f"\nInterrompu à l'étape {outcome.state.step} ; rien n'est perdu : {path}")
    command = ["gpt-architecture", "train", "--resume", str(run.output_dir)]
    say(f"Pour reprendre : {shlex.join(command)}")
    return stop.exit_code or SIGTERM_CODE  # le signal a pu n'atteindre qu'un autre processus


class TerminalReporter(TrainingReporter):
    """Raconte un entraînement au terminal."""

    def announce(self, run: TrainingRun, checkpoint: Checkpoint | None) -> None:
        """Dit ce qui commence, où, et d'où l'on repart."""
        _announce(run.settings, run.data)
        if run.data.canaries is not None:
            planted = run.data.canaries.canaries
            times = sum(each.repetitions for each in planted)
            say(
                f"Canaris      {counted(len(planted), 'canari')}, {times} phrases en tout ; leurs "
                f"secrets : {run.output_dir / CANARIES}"
            )
        size = run.world.size
        processes = f", {size} processus ({run.strategy})" if size > 1 else ""
        products = "" if run.dtype is None else ", produits en bf16"
        say(f"Périphérique {describe_device(run.settings.device)}{products}{processes}\n")
        if checkpoint is not None:
            _announce_resume(checkpoint, run.settings, run.data)

    def examined(self, run: TrainingRun, findings: Sequence[Finding]) -> None:
        """Dit ce que les données laissent craindre, avant d'y passer des heures."""
        del run
        for each in findings:
            say(f"Attention : {_with_options(each)}")
        if findings:
            say()

    @contextmanager
    def listening(self, run: TrainingRun) -> Iterator[Callback]:
        """La barre, ou des lignes simples."""
        flops, peak = run.pace
        with ProgressBar("Entraînement") as bar:
            yield TrainingProgress(bar, flops_per_token=flops, peak_flops=peak)

    def saved(self, run: TrainingRun, state: TrainingState) -> None:
        """Dit que c'est fini, et où est ce qui a été produit."""
        say(f"\nTerminé en {french_duration(state.seconds)}.")
        if state.skipped:
            say(f"Étapes sautées ou incomplètes, faute d'un gradient fini : {state.skipped}")
        for name, use in run.mixture_after(state.sequences).items():
            say(f"Source {name} : {_use(use)}")
        say(f"{run.product.title} : {run.path} ({french_size(run.path.stat().st_size)})")

    def conclude(
        self,
        run: TrainingRun,
        state: TrainingState,
        plotted: Path | str | None,
        findings: Sequence[Finding],
    ) -> None:
        """Dit où sont les courbes, ce que vaut la perte, et comment se servir du produit."""
        if plotted is not None:
            say(f"Courbes : {plotted}")
        baselines = run.survey.baselines
        if baselines is not None and (verdict := loss_verdict(baselines, state)) is not None:
            say(verdict)
        for each in findings:
            say(f"Diagnostic : {_with_options(each)}")
        if run.data.labelled is not None:
            _show_measures(run)
        say(f"Ensuite : {_next_command(run)}")
        best = run.store.path_of(state.best_step + 1)
        if state.best_loss is not None and best.is_dir():
            say(f"Meilleure validation ({decimal(state.best_loss, 3)}) : {best}")


def _with_options(finding: Finding) -> str:
    """Une faute, ses réglages sous le nom de leur option : `clip=1` devient --clip 1."""

    def option(found: re.Match[str]) -> str:
        value = "" if found[2] is None else f" {found[2]}"
        return f"--{found[1].replace('_', '-')}{value}"

    return re.sub(r"`(\w+)(?:=([^`]+))?`", option, str(finding))


def _use(use: SourceUse) -> str:
    """Ce qu'un entraînement lit d'une source : « 70,0 % du mélange, 1 024 tokens, 1,40 époque »."""
    return (
        f"{percent(use.share)} du mélange, {counted(use.tokens, 'token')}, {decimal(use.epochs)} "
        f"{plural(int(use.epochs), 'époque')}"
    )


def _show_measures(run: TrainingRun) -> None:
    """Ce que vaut le modèle sur sa validation, et une référence à côté."""
    from gpt_architecture.api import evaluate

    labels = run.request.labels
    reference = None if labels.val is None else labels.classify
    place = str(run.settings.device)
    try:
        found = evaluate(
            run.path,
            classify=labels.val or labels.classify,
            reference=reference,
            device=place,
            progress=False,
        )
    except GPTArchitectureError as error:  # le modèle, lui, est écrit
        say(f"Validation non mesurée : {error}")
        return
    say()
    found.show(output_console())


def _next_command(run: TrainingRun) -> str:
    """La commande qui se sert de ce qui est écrit, à copier."""
    settings, path = run.settings, run.path
    if settings.lora is not None and settings.start is not None:
        out = path.with_name("gpt-model-affine.pt")
        command = ["gpt-architecture", "merge", settings.start.name, str(path), "--out", str(out)]
        return shlex.join(command)
    chosen = [] if path == Path(MODEL_NAME) else ["--model", str(path)]
    command = ["gpt-architecture", "infer", *chosen]
    if run.data.labelled is not None:
        return f'{shlex.join([*command, "--prompt"])} "…"'
    if run.data.chat_template is not None:
        return f'{shlex.join([*command, "--chat"])} "…"'
    return f"{shlex.join([*command, '--strategy', 'top_p', '--prompt'])} {_quoted(settings.prompt)}"


def _quoted(text: str) -> str:
    """Le texte entre guillemets pour un terminal, protégé s'il contient de quoi l'abuser."""
    return shlex.quote(text) if set(text) & set('"$`\\!\n') else f'"{text}"'


def _announce(settings: Settings, data: TrainingData) -> None:
    """Dit ce qui va être entraîné, et sur quoi."""
    training, window = settings.training, settings.window
    sampler = settings.sampler(data.train)
    train, val, rows, unit = data.train.num_tokens, data.val.num_tokens, "", "tokens"
    rows_read, rows_held = original(data.train), original(data.val)
    if isinstance(data.train, PairTokens) and isinstance(data.val, PairTokens):
        unit, train, val = "paires", data.train.count, data.val.count
    elif isinstance(rows_read, ConversationTokens) and isinstance(rows_held, ConversationTokens):
        count = train // (window + 1)
        unit, train, val = "conversations", rows_read.count, rows_held.count
        rows = f", les premières en {counted(count, 'rangée')}" if count < train else ""
    if data.labelled is not None:
        unit, train, val = "exemples", len(data.labelled.train), len(data.labelled.val)
    if data.split is not None or (data.labelled is not None and data.labelled.split):
        rows = f" (tirage de graine {training.seed}){rows}"
    say(
        f"Texte        {data.name} ({data.tokenizer.name}) : {french_number(train)} {unit} "
        f"d'entraînement, {french_number(val)} de validation{rows}"
    )
    if data.labelled is not None:
        say(f"À apprendre  {data.labelled.head.said}{_counts(data.labelled)}")
    if data.removal is not None:
        say(f"Retrait      {counted(data.removal.tokens, 'token')} d'entraînement")
    sequences = settings.total_steps(sampler) * settings.sequences
    for name, use in mixture_use(sampler, sequences).items():
        say(f"Source       {name} : {_use(use)}, en tout")
    say(
        f"Modèle       {french_number(settings.model.num_parameters())} paramètres, "
        f"contexte d'entraînement {french_number(window)} sur "
        f"{french_number(settings.model.context_length)} positions"
    )
    if settings.start is not None:
        say(f"Départ       {settings.start.name}{_adapters(settings)}")
    for line in _objective(settings):
        say(line)
    alone = ", chaque document seul dans sa fenêtre" if training.document_mask else ""
    batches = f"lots de {french_number(training.batch_size)} × {french_number(window)} tokens"
    if training.accumulate > 1:
        batches += (
            f", {training.accumulate} par étape : "
            f"{french_number(settings.sequences * window)} tokens effectifs"
        )
    total = settings.total_steps(sampler)
    whole = total == sampler.steps_in(training.epochs)
    said = f"{french_number(total)} en tout" if whole else f"arrêtées après {french_number(total)}"
    say(
        f"Entraînement {counted(training.epochs, 'époque')} de "
        f"{counted(sampler.steps_per_epoch, 'étape')}, {said}, {batches}{alone}"
    )


def _objective(settings: Settings) -> Iterator[str]:
    """Ce qui s'apprend à la place du seul token suivant."""
    asked, teacher = settings.objective, settings.teacher
    if asked.preferences is not None:
        margin = f", marge visée {short(asked.margin)}" if asked.preference_loss == "simpo" else ""
        yield (
            f"Préférences  {asked.preference_loss}, beta {short(asked.strength)}{margin}, sans "
            "dropout"
        )
    if teacher is not None:
        size = french_number(teacher.content.config.num_parameters())
        yield (
            f"Professeur   {teacher.name}, {size} paramètres, température "
            f"{short(asked.distill_temperature)}, {percent(asked.distill_alpha, 0)} de la perte"
        )


def _counts(labelled: LabelledData) -> str:
    """Les effectifs des classes, et leur équilibre."""
    if labelled.head.is_regression:
        center, scale = labelled.head.center, labelled.head.scale
        return f", de moyenne {significant(center)} et d'écart type {significant(scale)}"
    low, high = min(labelled.counts.values()), max(labelled.counts.values())
    balanced = ", de même poids" if labelled.balance else ""
    span = "" if low == high else f"de {low} à "
    return f" ; {span}{counted(high, 'exemple')} chacune{balanced}"


def _adapters(settings: Settings) -> str:
    """Les adaptateurs qui apprennent, s'il y en a."""
    if settings.lora is None:
        return ""
    lora = settings.lora
    return (
        f", adaptateurs de rang {lora.rank} sur {', '.join(lora.targets)} : "
        f"{french_number(adapter_parameters(settings.model, lora))} paramètres apprennent"
    )


def _announce_resume(checkpoint: Checkpoint, settings: Settings, data: TrainingData) -> None:
    """Dit d'où l'on repart, ce qui est relu, et si le taux suit un programme d'autre longueur."""
    options = settings.options
    read = [*(options.get("data") or ()), *(options.get("source") or ())]
    read += [options[name] for name in _READ if options.get(name)]
    say(f"Reprise à l'étape {checkpoint.step}, lu : {on_one_line(', '.join(map(str, read)))}")
    before = checkpoint.state.get("total_steps")
    total = settings.total_steps(settings.sampler(data.train))
    if before != total and settings.schedule.schedule != "constant":
        say(
            f"Le programme du taux ({settings.schedule.schedule}) s'étend désormais sur {total} "
            f"étapes, et non {before} : le taux fait un saut."
        )


def _report_estimate(run: TrainingRun, price_per_hour: float | None) -> None:
    """Mesure quelques étapes, et dit durée, débit, mémoire, disque et coût.

    Args:
        run: l'entraînement.
        price_per_hour: prix d'une heure ; None : le coût n'est pas dit.
    """
    _announce(run.settings, run.data)
    say(f"Mesure de {PROBED_STEPS} étapes, après une étape d'échauffement…\n")
    found, product, kept = estimate(run), run.product, checkpoints_kept(run.settings.checkpoints)
    written = ""  # qui classe n'écrit pas
    if run.data.labelled is None:
        written = f", {counted(found.samples, 'exemple')} de {decimal(found.sample_seconds)} s"
    say(
        f"Durée    {french_duration(found.seconds)} : {counted(found.steps, 'étape')} de "
        f"{decimal(found.step_seconds)} s, {counted(found.evaluations, 'évaluation')} de "
        f"{decimal(found.evaluation_seconds)} s{written}"
    )
    say(f"Débit    {french_number(round(found.tokens_per_second))} tokens/s")
    peak = french_size(found.peak_bytes) if found.peak_bytes else "que ce système ne dit pas"
    say(f"Mémoire  {peak} au plus haut")
    say(
        f"Disque   {french_size(product.nbytes + (kept + 1) * product.checkpoint_bytes)} au plus : "
        f"{product.title.lower()} {french_size(product.nbytes)}, {kept} "
        f"{plural(kept, 'point')} de reprise de "
        f"{french_size(product.checkpoint_bytes)} et celui qui s'écrit"
    )
    if price_per_hour is not None:
        cost = found.seconds / 3600 * price_per_hour
        say(f"Coût     {cost:.2f}, à {price_per_hour:g} l'heure".replace(".", ","))


class TrainingProgress(TrainingBar):
    """Raconte l'entraînement : pertes et exemples sur stdout, avancement sur stderr."""

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Affiche les pertes ; hors d'un terminal, le débit et le temps restant aussi."""
        del trainer
        line = format_evaluation(record.epoch, record.step, record.train_loss, record.val_loss)
        pace = "" if self.bar.is_live else self.pace()
        say(f"{line} | {pace}" if pace else line)
        losses = {
            name: use["val_loss"] for name, use in record.sources.items() if "val_loss" in use
        }
        if losses:
            each = [f"{name} {decimal(loss, 3)}" for name, loss in losses.items()]
            say(f"  Validation par source : {', '.join(each)}")
        if record.measures:
            say(f"  Préférences : {measures_said(record.measures)}")

    def on_sample(self, step: int, epoch: int, text: str) -> None:
        """Affiche l'exemple de l'époque, sur une ligne."""
        del step, epoch
        say(f"  Exemple : {' '.join(text.split())}")

    def on_save(self, step: int, path: str) -> None:
        """Dit où est le point de reprise."""
        del step
        self.bar.say(f"Point de reprise : {path}")

    def on_event(self, step: int, message: str) -> None:
        """Dit ce qui mérite de l'être."""
        del step
        say(f"  {message}")
