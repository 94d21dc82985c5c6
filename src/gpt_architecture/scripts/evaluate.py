"""`gpt-architecture evaluate` : ce que vaut un modèle, mesuré."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 evaluate.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import (
    CommonOptions,
    ProgressBar,
    output_console,
    say_aside,
)
from gpt_architecture.cli.evaluate import StudyOptions, study_model
from gpt_architecture.cli.options import ModelSource, QuantName, ResultOptions, model_path
from gpt_architecture.config import check_int
from gpt_architecture.errors import ConfigurationError, reason
from gpt_architecture.french import french_duration
from gpt_architecture.storage import check_outputs, json_of, page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from gpt_architecture.api import GPT
    from gpt_architecture.evaluation.perplexity import TokenDocument
    from gpt_architecture.evaluation.tasks import LastWord, MultipleChoice

_LINE_EVERY_S = 5.0


@Parameter(name="*", group=Group("Mesures", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Que mesurer."""

    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True, metavar="SOURCE…")] = ()
    """Textes dont mesurer la perplexité : fichiers, dossiers, fragments ou corpus connus."""

    lambada: Path | None = None
    """Exemples JSONL {"text": "…"} : deviner le dernier mot."""

    choices: Path | None = None
    """Exemples JSONL au format de HellaSwag : choisir la bonne
    fin."""

    lm_eval: Annotated[tuple[str, ...], Parameter(consume_multiple=True, metavar="ÉPREUVE…")] = ()
    """Épreuves de lm-eval : une des siennes, ou une des nôtres, qui se passent de réseau
    (dernier_mot_fr, prose_fr, serie_fr, suite_fr)."""

    limit: int | None = None
    """Nombre maximal de documents ou d'exemples mesurés dans chaque fichier."""

    tokens: int | None = None
    """Nombre maximal de tokens mesurés dans chaque document."""

    field: str = "text"
    """Champ du texte des documents JSONL et Parquet."""

    offline: bool = False
    """Interdit tout téléchargement."""


@Parameter(name="*", group=Group("Calcul", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Comment mesurer."""

    stride: int | None = None
    """Nombre de tokens notés par fenêtre ; sans lui, la moitié du contexte d'entraînement."""

    batch_size: int = 64
    """Nombre maximal de séquences lues ensemble ; la mémoire en décide aussi."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Mesure le modèle quantifié au chargement (CPU)."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Une mesure faite : ce qui s'écrit en JSON, et ce qui s'affiche."""

    record: dict[str, Any]
    show: Callable[[Console], None]


def evaluate(
    model: ModelSource = None,
    *,
    options: EvaluateOptions = EvaluateOptions(),
    study: StudyOptions = StudyOptions(),  # noqa: B008
    compute: MeasureOptions = MeasureOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Mesure un modèle : perplexité et bits par octet, épreuves, mémorisation ; en fait une page.

    Les intervalles sont à 95 %. Si le modèle est dans le dossier d'un entraînement, son journal
    reçoit une ligne.
    """
    _check(options, study, compute)
    source = model_path(model)
    check_outputs(
        {
            "--json-file": (output.json_file, json_of("evaluate")),
            "--report": (study.report, page_of("model")),
        },
        reads=(source, options, study, common),
        force=output.force,
    )
    from gpt_architecture.api import load, locate
    from gpt_architecture.evaluation.perplexity import read_token_documents
    from gpt_architecture.evaluation.tasks import read_choices, read_last_words
    from gpt_architecture.reports.terminal import show_memorisation

    path, limit = locate(source), options.limit
    lambada, choices = options.lambada, options.choices  # un mauvais fichier n'attend pas le modèle
    words = [] if lambada is None else read_last_words(lambada, limit=limit)
    questions = [] if choices is None else read_choices(choices, limit=limit)
    gpt = load(
        path,
        device=compute.device,
        quant=compute.quant,
        engine="auto" if compute.quant or study.is_asked else "torch",
    )
    start = time.perf_counter()
    documents = read_token_documents(
        options.data,
        gpt.tokenizer,
        field=options.field,
        limit=limit,
        max_tokens=options.tokens,
        offline=options.offline,
    )
    with ProgressBar("Évaluation", width=40) as bar:
        results = _measure(gpt, documents, words, questions, options, compute, bar)
        memory = None
        if study.is_asked:
            memory = study_model(
                *(gpt, path, study),
                held_out=[document.tokens for document in documents],
                losses=results["text"].record["documents"] if "text" in results else [],
                field=options.field,
                offline=options.offline,
                progress=lambda name: _Progress(bar, name),
            )
    if memory is not None:
        results["memorisation"] = _Measured(
            record=memory.to_dict(),
            show=lambda console: show_memorisation(console, memory, gpt.tokenizer),
        )
    record = {
        "model": str(path),
        "parameters": gpt.config.num_parameters(),
        "tokenizer": gpt.tokenizer.name,
        "vocab_size": gpt.tokenizer.vocab_size,
        "window": gpt.window,
        "quant": compute.quant,
        **{name: result.record for name, result in results.items()},
        "seconds": time.perf_counter() - start,
    }
    if not output.emit([record], "evaluate", indent=1):
        console = output_console()
        for result in results.values():
            result.show(console)
    _note(path, gpt, record)


def _check(options: EvaluateOptions, study: StudyOptions, compute: MeasureOptions) -> None:
    """Refuse, avant de lire quoi que ce soit, ce qui échouerait après."""
    study.check()
    asked = options.data or options.lambada or options.choices or options.lm_eval
    if not (asked or study.is_asked):
        raise ConfigurationError(
            "rien à mesurer",
            expected="--data FICHIER…, --lambada FICHIER, --choices FICHIER, --lm-eval ÉPREUVE…, "
            "--memorisation FICHIER… ou --report PAGE",
            remedy="donnez au moins l'un d'eux",
        )
    for name in ("limit", "tokens"):
        if getattr(options, name) is not None:
            check_int(f"--{name}", getattr(options, name), minimum=1)
    if compute.stride is not None:
        check_int("--stride", compute.stride, minimum=1)
    check_int("--batch-size", compute.batch_size, minimum=1)


def _measure(
    gpt: GPT,
    documents: Sequence[TokenDocument],
    words: Sequence[LastWord],
    questions: Sequence[MultipleChoice],
    options: EvaluateOptions,
    compute: MeasureOptions,
    bar: ProgressBar,
) -> dict[str, _Measured]:
    """Textes et épreuves, dans l'ordre où ils s'affichent."""
    from functools import partial

    from gpt_architecture.evaluation.perplexity import measure_documents
    from gpt_architecture.evaluation.tasks import measure_choices, measure_last_words
    from gpt_architecture.reports import terminal

    model = gpt.runner if compute.quant and gpt.runner is not None else gpt.model
    results: dict[str, _Measured] = {}

    def add(
        name: str,
        run: Callable[..., Any],
        on_progress: Callable[..., None],
        record: Callable[[Any], dict[str, Any]],
        show: Callable[[Console, Any], None],
    ) -> None:
        found = run(window=gpt.window, max_rows=compute.batch_size, on_progress=on_progress)
        results[name] = _Measured(record=record(found), show=lambda console: show(console, found))

    if documents:
        prefix = gpt.tokenizer.eos_id
        add(
            "text",
            partial(measure_documents, model, documents, stride=compute.stride, prefix=prefix),
            _Progress(bar, "Textes"),
            terminal.text_record,
            terminal.show_text,
        )
    if words:
        add(
            "last_word",
            partial(measure_last_words, model, gpt.tokenizer, words),
            _Progress(bar, "Dernier mot"),
            terminal.last_word_record,
            terminal.show_last_word,
        )
    if questions:
        add(
            "choices",
            partial(measure_choices, model, gpt.tokenizer, questions),
            _Progress(bar, "Choix multiple"),
            terminal.choices_record,
            terminal.show_choices,
        )
    if options.lm_eval:
        from gpt_architecture.evaluation.lm_eval import run_tasks

        run = partial(run_tasks, options.lm_eval, model, gpt.tokenizer, offline=options.offline)
        add(
            "lm_eval",
            partial(run, limit=options.limit),
            _progress_by_kind(bar),
            terminal.harness_record,
            terminal.show_harness,
        )
    return results


def _note(path: Path, gpt: GPT, record: dict[str, Any]) -> None:
    """Une ligne dans le journal de l'entraînement, si le modèle est dans son dossier."""
    from gpt_architecture.formats.journal import JOURNAL, append_record
    from gpt_architecture.reports.terminal import journal_record
    from gpt_architecture.training.checkpoint import CHECKPOINTS

    resolved = path.resolve()
    folder, step = resolved.parent, gpt.metadata.get("steps")
    if folder.name == CHECKPOINTS:
        folder = folder.parent
        if resolved.is_dir():  # step-000040
            step = int(resolved.name.rpartition("-")[2])
    journal = folder / JOURNAL
    if not journal.is_file():
        return
    try:
        append_record(journal, "measures", step=step or 0, **journal_record(record))
    except OSError as error:
        say_aside(f"avertissement : {journal} n'est pas écrit : {reason(error)}")


def _progress_by_kind(bar: ProgressBar) -> Callable[[str, int, int], None]:
    """L'avancement de lm-eval : chaque nature de requêtes a le sien."""
    from gpt_architecture.evaluation.lm_eval import UNITS

    started: dict[str, _Progress] = {}

    def advance(kind: str, done: int, total: int) -> None:
        if kind not in started:
            started[kind] = _Progress(bar, f"lm-eval, {kind}", UNITS.get(kind, "tokens"))
        started[kind](done, total)

    return advance


class _Progress:
    """Avancement d'une mesure : la barre au terminal, une ligne de temps en temps ailleurs."""

    def __init__(self, bar: ProgressBar, name: str, unit: str = "tokens") -> None:
        self._bar, self._name, self._unit = bar, name, unit
        self._start = self._last_line = time.perf_counter()
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        """Avance jusqu'à `done` unités sur `total`."""
        if not self._started:
            self._bar.start(total, 0)
            self._started = True
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        left = french_duration(elapsed / done * (total - done))
        pace = f"{self._name}, {done / elapsed:.0f} {self._unit}/s, reste {left}"
        self._bar.update(done, pace)
        if not self._bar.is_live and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._bar.say(f"Évaluation {100 * done / total:.0f} % | {pace}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["evaluate", *sys.argv[1:]])
