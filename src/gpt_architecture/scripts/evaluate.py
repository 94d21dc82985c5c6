"""`gpt-architecture evaluate` : ce que vaut un modèle, mesuré."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 evaluate.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.cli.command import (
    CommonOptions,
    ProgressBar,
    output_console,
    say_aside,
)
from gpt_architecture.cli.evaluate.measures import (
    EvaluateOptions,
    Examples,
    Measured,
    MeasureOptions,
    MeasureProgress,
    measure,
    read_measured,
)
from gpt_architecture.cli.evaluate.study import StudyOptions
from gpt_architecture.cli.options import ModelSource, ResultOptions, model_path
from gpt_architecture.config import check_int
from gpt_architecture.errors import ConfigurationError, reason
from gpt_architecture.overwriting import check_outputs, json_of, page_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt_architecture.api import GPT
    from gpt_architecture.evaluation.perplexity import TokenDocument


def evaluate(
    model: ModelSource = None,
    *,
    options: EvaluateOptions = EvaluateOptions(),  # noqa: B008 — immuable
    study: StudyOptions = StudyOptions(),  # noqa: B008
    compute: MeasureOptions = MeasureOptions(),  # noqa: B008
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

    path = locate(source)

    examples = Examples.read(options)  # une mauvaise ligne n'attend pas le modèle
    gpt = load(
        path,
        device=compute.device,
        quant=compute.quant,
        engine="auto" if compute.quant or study.is_asked else "torch",
    )
    start = time.perf_counter()
    documents = read_measured(gpt, options) if options.data else []
    with ProgressBar("Évaluation", width=40) as bar:
        results = measure(gpt, documents, examples, options, compute, bar)
        if study.is_asked:
            results |= _study(gpt, path, documents, options, study, results, bar)
    record = {
        **_header(gpt, path, compute),
        **{name: result.record for name, result in results.items()},
        "seconds": time.perf_counter() - start,
    }
    _write(record, results, output)
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


def _study(
    gpt: GPT,
    path: Path,
    documents: Sequence[TokenDocument],
    options: EvaluateOptions,
    study: StudyOptions,
    results: dict[str, Measured],
    bar: ProgressBar,
) -> dict[str, Measured]:
    """La mémorisation, et la page si elle est demandée."""
    from functools import partial

    from gpt_architecture.cli.evaluate.study import study_model
    from gpt_architecture.reports.measures import show_memorisation

    report = study_model(
        *(gpt, path, study),
        held_out=[document.tokens for document in documents],
        losses=results["text"].record["documents"] if "text" in results else [],
        field=options.field,
        offline=options.offline,
        progress=partial(MeasureProgress, bar),
    )
    if report is None:
        return {}
    show = partial(show_memorisation, report=report, tokenizer=gpt.tokenizer)
    return {"memorisation": Measured(record=report.to_dict(), show=show)}


def _header(gpt: GPT, path: Path, compute: MeasureOptions) -> dict[str, Any]:
    return {
        "model": str(path),
        "parameters": gpt.config.num_parameters(),
        "tokenizer": gpt.tokenizer.name,
        "vocab_size": gpt.tokenizer.vocab_size,
        "window": gpt.window,
        "quant": compute.quant,
    }


def _write(record: dict[str, Any], results: dict[str, Measured], output: ResultOptions) -> None:
    """Le tableau sur stdout, ou le JSON ; le fichier JSON s'il est demandé."""
    if output.emit([record], "evaluate", indent=1):
        return
    console = output_console()
    for result in results.values():
        result.show(console)


def _note(path: Path, gpt: GPT, record: dict[str, Any]) -> None:
    """Une ligne dans le journal de l'entraînement, si le modèle est dans son dossier."""
    from gpt_architecture.formats.journal import JOURNAL, append_record
    from gpt_architecture.reports.measures import journal_record
    from gpt_architecture.training.checkpoint import CHECKPOINTS

    resolved = path.resolve()
    folder = resolved.parent.parent if resolved.parent.name == CHECKPOINTS else resolved.parent
    journal = folder / JOURNAL
    if not journal.is_file():
        return
    step = gpt.metadata.get("steps")
    if resolved.is_dir() and resolved.parent.name == CHECKPOINTS:  # step-000040
        step = int(resolved.name.rpartition("-")[2])
    try:
        append_record(journal, "measures", step=step or 0, **journal_record(record))
    except OSError as error:
        say_aside(f"avertissement : {journal} n'est pas écrit : {reason(error)}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["evaluate", *sys.argv[1:]])
