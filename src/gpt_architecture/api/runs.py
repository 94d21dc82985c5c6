"""Entraîner d'un appel, et ce qu'un entraînement laisse : un modèle, une histoire, des courbes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.loading import assembled, load
from gpt_architecture.api.options import checked_options
from gpt_architecture.api.views import Table, displayed
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.journal import JOURNAL, read_records
from gpt_architecture.french import decimal, french_duration, plural, thousands
from gpt_architecture.storage import open_regular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpt_architecture.training.baselines import Baselines
    from gpt_architecture.training.callbacks import Callback
    from gpt_architecture.training.checkpoint import TrainingState
    from gpt_architecture.training.diagnosis import Finding

_STEP_COLUMNS = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_second")
_MEASURES = (
    *("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy"),
    *("cross_entropy", "kl"),
)
"""Ce qu'un objectif mesure de plus, s'il y en a un."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """Un entraînement, fini ou arrêté en chemin.

    Attributes:
        model: le modèle, prêt à écrire ; arrêté en chemin, celui du point de reprise.
        state: où il en est : étapes, tokens lus, pertes.
        path: le fichier du modèle, ou le point de reprise.
        output_dir: dossier de l'entraînement.
        complete: vrai s'il est allé à son terme ; sinon `train(resume=run)` le poursuit.
        steps_per_epoch: étapes d'une époque.
        baselines: pertes de repère, sur le même texte de validation ; None : inconnues.
        diagnosis: les fautes que l'entraînement montre ; vide : rien d'anormal.
    """

    model: GPT
    state: TrainingState
    path: Path
    output_dir: Path
    complete: bool
    steps_per_epoch: float
    baselines: Baselines | None = None
    diagnosis: Sequence[Finding] = ()

    def __iter__(self) -> Iterator[Any]:
        """Le modèle, puis l'état : `gpt, state = train(…)`."""
        return iter((self.model, self.state))

    @cached_property
    def history(self) -> Table:
        """Les évaluations : étape, époques et tokens vus, pertes (nats par token)."""
        state = self.state
        return Table(
            {
                "step": state.eval_steps,
                "epoch": self._epochs,
                "tokens": state.tokens_seen,
                "train_loss": state.train_losses,
                "val_loss": state.val_losses,
            },
            title="Évaluations",
        )

    @cached_property
    def steps(self) -> Table:
        """Les étapes, telles que le journal les garde : perte du lot, taux, gradient, débit."""
        records = [each for each in self._journal if each["kind"] == "step"]
        more = [name for name in _MEASURES if any(name in each for each in records)]
        columns = {name: [each.get(name) for each in records] for name in (*_STEP_COLUMNS, *more)}
        return Table(columns, title="Étapes")

    @cached_property
    def samples(self) -> list[str]:
        """Les exemples écrits pendant l'entraînement, du premier au dernier."""
        return [str(each.get("text", "")) for each in self._journal if each["kind"] == "sample"]

    def plot(self, path: Path | str | None = None) -> Figure:
        """Les courbes de perte de la commande `train`, et leurs repères.

        Args:
            path: fichier à écrire en plus ; son extension fixe le format.

        Raises:
            MissingDependencyError: matplotlib n'est pas installé.
            ConfigurationError: l'extension n'est pas celle d'une figure.
            OutputError: le fichier ne peut pas être écrit.
        """
        from gpt_architecture.training.simple import loss_figure, plot_losses

        state = self.state
        series = (self._epochs, state.tokens_seen, state.train_losses, state.val_losses)
        levels = {} if self.baselines is None else self.baselines.levels
        if path is not None:
            plot_losses(*series, path, levels=levels)
        return displayed(loss_figure(*series, levels=levels))

    @property
    def _epochs(self) -> list[float]:
        return [(step + 1) / self.steps_per_epoch for step in self.state.eval_steps]

    @cached_property
    def _journal(self) -> list[dict[str, Any]]:
        try:
            with open_regular(self.output_dir / JOURNAL) as lines:
                return list(read_records(lines))
        except OSError:  # il a pu être déplacé depuis
            return []

    @property
    def _facts(self) -> list[tuple[str, str]]:
        state = self.state
        facts = [
            ("étapes", thousands(state.step)),
            ("tokens lus", thousands(state.tokens)),
            ("durée", french_duration(state.seconds)),
        ]
        if state.train_losses:
            facts.append(("perte d'entraînement", decimal(state.train_losses[-1], 3)))
            facts.append(("perte de validation", decimal(state.val_losses[-1], 3)))
        if state.best_loss is not None:
            best = f"{decimal(state.best_loss, 3)}, étape {thousands(state.best_step)}"
            facts.append(("meilleure validation", best))
        return facts

    @property
    def _title(self) -> str:
        return "Entraînement terminé" if self.complete else "Entraînement interrompu"

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Run({self._title.lower()}, {facts} ; {self.path})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.curves import curves_of
        from gpt_architecture.reports.notebook import facts_cell
        from gpt_architecture.reports.training import loss_verdict

        kept = {
            "baselines": None if self.baselines is None else self.baselines.to_dict(),
            "train_losses": self.state.train_losses,
            "val_losses": self.state.val_losses,
            "tokens_seen": self.state.tokens_seen,
        }
        notes = [f"Modèle : {self.path}"]
        if not self.complete:
            notes.append("Pour continuer : train(resume=run).")
        if self.state.skipped:
            count = self.state.skipped
            notes.append(f"{thousands(count)} {plural(count, 'étape')} sans gradient fini.")
        if self.baselines is not None and (found := loss_verdict(self.baselines, self.state)):
            notes.append(found)
        notes += map(str, self.diagnosis)
        curves = curves_of(self.output_dir / "journal", kept)
        return facts_cell(self._title, self._facts, curves=curves, notes=notes)


@checked_options
def train(
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    preset: str | None = None,
    callbacks: Sequence[Callback] = (),
    should_stop: Callable[[], bool] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Run:
    """Entraîne comme `gpt-architecture train`, d'un appel, et écrit les mêmes fichiers.

    Interrompre (Ctrl-C, ou l'arrêt du noyau d'un carnet) écrit un point de reprise et rend la
    main ; interrompre de nouveau quitte aussitôt.

    Args:
        data: texte, dossier, fragments ou nom connu ; None : celui de la commande.
        preset: préréglage : `verdict`, `express`, `eclair` ou `petit`.
        callbacks: écoutent la boucle (voir `training.callbacks`).
        should_stop: interrogé souvent ; vrai : écrit un point de reprise et rend la main.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.
        settings: les options de la commande, en soulignés (`epochs`, `emb_dim`, `output_dir`,
            `force`…) ; `resume` poursuit un `Run` ou son dossier, `start` (`--from`) affine un
            modèle.

    Returns:
        L'entraînement : son modèle prêt à écrire, son histoire, ses courbes. Arrêté en chemin, le
        modèle est celui du point de reprise.

    Raises:
        GPTArchitectureError: réglage inconnu, données absentes, dossier qui contient un autre
            entraînement… : les refus de la commande.

    Examples:
        >>> from gpt_architecture import train
        >>> run = train("la-lampe-du-passeur", tokenizer="char", context_length=16, emb_dim=16,
        ...             n_heads=2, n_layers=1, max_steps=3, eval_freq=1, output_dir="essai")
        >>> run.history["step"]
        [0, 1, 2]
        >>> run.model.generate("Un soir", max_tokens=4).startswith("Un soir")
        True
        >>> train(resume=run, max_steps=5).state.step
        5
    """
    from gpt_architecture.training.inputs import Origins
    from gpt_architecture.training.preparation import prepare, request_of
    from gpt_architecture.training.run import train_model

    asked = {"data": data, "preset": preset, **settings}
    for name, wanted in {"resume": "output_dir", "start": "path", "distill": "path"}.items():
        if isinstance(asked.get(name), Run):
            asked[name] = getattr(asked[name], wanted)
    places = {"resume", "start", "output_dir", "chat", "chat_template", "sign_key"}
    places |= {"preferences", "distill", "classify", "val"}
    for name in places & settings.keys():
        if not isinstance(asked[name], (str, Path, type(None))):
            raise ConfigurationError.wrong(f"`{name}`", asked[name], expected="un chemin")
    origins = Origins()
    given = {name: each for name, each in asked.items() if name in settings or each is not None}
    run = prepare(request_of(given, origins), origins)
    with interruptible(should_stop) as stops:
        outcome = train_model(run, bar_reporter(progress), callbacks=callbacks, should_stop=stops)
    path = run.path if outcome.model is not None else run.store.path_of(outcome.state.step)
    start, device = run.settings.start, run.settings.device
    if run.settings.lora is None or start is None:
        model = load(path, device=str(device))
    else:  # rien à retrouver, fût-il venu du Hub
        model = assembled(read_adapter(path).merged(start.content), path, device)
    sampler = run.settings.sampler(run.data.train)
    return Run(
        model=model,
        state=outcome.state,
        path=path,
        output_dir=run.output_dir,
        complete=outcome.model is not None,
        steps_per_epoch=sampler.num_windows / sampler.batch_size,
        baselines=run.survey.baselines,
        diagnosis=tuple(outcome.findings),
    )


def bar_reporter(progress: bool | None) -> Any:
    """Ne montre qu'une barre ; les pertes et les exemples sont dans le `Run`."""
    from gpt_architecture.reports.console import ProgressBar
    from gpt_architecture.reports.training import TrainingBar
    from gpt_architecture.training.preparation import TrainingRun
    from gpt_architecture.training.run import TrainingReporter

    class BarReporter(TrainingReporter):
        def listening(self, run: TrainingRun) -> AbstractContextManager[Callback]:
            @contextmanager
            def shown() -> Iterator[Callback]:
                flops, peak = run.pace
                with ProgressBar("Entraînement", shown=progress) as bar:
                    yield TrainingBar(bar, flops_per_token=flops, peak_flops=peak)

            return shown()

    return BarReporter()


@contextmanager
def interruptible(should_stop: Callable[[], bool] | None) -> Iterator[Callable[[], bool]]:
    """De quoi demander l'arrêt : la question de l'appelant, ou le premier SIGINT.

    Hors du thread principal, ou si l'appelant a déjà pris le signal, il lui est laissé.
    """
    asked = threading.Event()

    def stops() -> bool:
        return asked.is_set() or (should_stop is not None and should_stop())

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            signal.default_int_handler(number, frame)
        asked.set()

    free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not free or threading.current_thread() is not threading.main_thread():
        yield stops
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield stops
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
