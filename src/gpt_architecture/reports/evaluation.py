"""Les mesures d'un modèle, au terminal et en JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt_architecture.french import decimal, percent, plural, significant, thousands

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.evaluation.intervals import Interval
    from gpt_architecture.evaluation.lm_eval_run import TaskMetric, TaskResult
    from gpt_architecture.evaluation.perplexity import TextLoss, TextMeasures
    from gpt_architecture.evaluation.tasks import ChoiceResult, LastWordResult

_SHOWN_DOCUMENTS = 20
_DETAILS = ("documents", "examples")


def text_record(measures: TextMeasures) -> dict[str, Any]:
    """Les pertes de textes, en types simples."""
    return {
        **_loss_record(measures.total),
        "window": measures.window,
        "stride": measures.stride,
        "skipped": measures.skipped,
        "documents": [{"name": each.name, **_loss_record(each)} for each in measures.documents],
    }


def last_word_record(result: LastWordResult) -> dict[str, Any]:
    """L'épreuve du dernier mot, en types simples."""
    columns = zip(result.lines, result.log_probs, result.correct, strict=True)
    return {
        "count": len(result.lines),
        "accuracy": result.accuracy,
        "accuracy_interval": result.accuracy_interval,
        "perplexity": _finite(result.perplexity),
        "perplexity_interval": _finite_pair(result.perplexity_interval),
        "examples": [
            {"line": line, "log_prob": log_prob, "correct": correct}
            for line, log_prob, correct in columns
        ],
    }


def choices_record(result: ChoiceResult) -> dict[str, Any]:
    """Le choix multiple, en types simples."""
    return {
        "count": len(result.outcomes),
        "acc": result.acc,
        "acc_interval": result.acc_interval,
        "acc_norm": result.acc_norm,
        "acc_norm_interval": result.acc_norm_interval,
        "chance": result.chance,
        "examples": [
            {
                "line": each.line,
                "label": each.label,
                "chosen": each.chosen,
                "chosen_norm": each.chosen_norm,
                "log_probs": each.log_probs,
            }
            for each in result.outcomes
        ],
    }


def harness_record(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Les épreuves de lm-eval, en types simples ; un filtre suit le nom de sa mesure."""
    return {
        each.name: {
            "version": each.version,
            "count": each.count,
            "metrics": {
                _metric_name(metric): {
                    "value": _finite(metric.value),
                    "stderr": metric.stderr,
                }
                for metric in each.metrics
            },
        }
        for each in results
    }


def journal_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Les mêmes mesures, sans le détail de chaque document ni de chaque exemple."""
    return {
        name: {key: each for key, each in value.items() if key not in _DETAILS}
        if isinstance(value, dict)
        else value
        for name, value in record.items()
    }


def show_text(console: Console, *, measures: TextMeasures) -> None:
    """Une ligne par document, le total, et comment ils sont mesurés."""
    several = len(measures.documents) > 1
    shown = measures.documents[:_SHOWN_DOCUMENTS]
    rows = [_loss_row(each.name, each) for each in shown]
    if several:
        rows.append(_loss_row("Total", measures.total))
    headings = ("Document", "Tokens", "Perte", "Perplexité", "à 95 %", "Bits/octet", "à 95 %")
    _show_table(console, "Textes", headings, rows)
    lines = [
        f"Fenêtres de {thousands(measures.window)} tokens, avancées de "
        f"{thousands(measures.stride)} ; chaque token est prédit une fois."
    ]
    if hidden := len(measures.documents) - len(shown):
        lines.insert(0, f"… et {thousands(hidden)} autres documents (--json les donne tous).")
    if measures.skipped:
        lines.append(
            f"{thousands(measures.skipped)} document(s) sans token à prédire, non comptés."
        )
    console.print("\n".join(lines), "\n", style="dim", sep="")


def show_last_word(console: Console, *, result: LastWordResult) -> None:
    """L'exactitude et la perplexité du dernier mot."""
    rows = [
        ["Exactitude", percent(result.accuracy), _shares(result.accuracy_interval)],
        ["Perplexité du mot", significant(result.perplexity), _pair(result.perplexity_interval)],
    ]
    title = f"Dernier mot ({_examples(len(result.lines))})"
    _show_table(console, title, ("Mesure", "Valeur", "à 95 %"), rows)


def show_choices(console: Console, *, result: ChoiceResult) -> None:
    """Les deux exactitudes du choix multiple, contre le hasard."""
    rows = [
        ["acc : suite la plus probable", percent(result.acc), _shares(result.acc_interval)],
        ["acc_norm : par caractère", percent(result.acc_norm), _shares(result.acc_norm_interval)],
        ["Choix au hasard", percent(result.chance), ""],
    ]
    title = f"Choix multiple ({_examples(len(result.outcomes))})"
    _show_table(console, title, ("Mesure", "Valeur", "à 95 %"), rows)


def show_harness(console: Console, *, results: Sequence[TaskResult]) -> None:
    """Une ligne par mesure de chaque épreuve."""
    rows = [
        [
            each.name,
            "" if each.count is None else str(each.count),
            _metric_name(metric),
            *_metric_cells(metric),
        ]
        for each in results
        for metric in each.metrics
    ]
    headings = ("Épreuve", "Exemples", "Mesure", "Valeur", "Erreur type")
    _show_table(console, "lm-eval", headings, rows)


def _metric_name(metric: TaskMetric) -> str:
    return metric.name if metric.filter == "none" else f"{metric.name}, {metric.filter}"


def _metric_cells(metric: TaskMetric) -> tuple[str, str]:
    """La valeur et son erreur type ; une perplexité se lit à trois chiffres utiles."""

    def shown(value: float) -> str:
        return significant(value) if abs(metric.value) >= 10 else decimal(value, 4)

    return shown(metric.value), "—" if metric.stderr is None else shown(metric.stderr)


def _show_table(
    console: Console, title: str, headings: Iterable[str], rows: Iterable[list[str]]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for number, heading in enumerate(headings):  # s'il faut de la place, les noms en rendent
        table.add_column(
            heading,
            justify="right" if number else "left",
            no_wrap=number > 0,
            overflow="ellipsis",
        )
    for first, *rest in rows:
        table.add_row(Text(first), *rest)
    console.print(table)


def _loss_row(name: str, loss: TextLoss) -> list[str]:

    bits, interval = loss.bits_per_byte, loss.bits_per_byte_interval
    return [
        name,
        thousands(loss.tokens),
        decimal(loss.loss, 3),
        significant(loss.perplexity),
        _pair(loss.perplexity_interval),
        decimal(bits, 3) if math.isfinite(bits) else "—",
        "—" if interval is None else f"{decimal(interval[0])} – {decimal(interval[1])}",
    ]


def _loss_record(loss: TextLoss) -> dict[str, Any]:
    return {
        "tokens": loss.tokens,
        "bytes": loss.num_bytes,
        "loss": loss.loss,
        "loss_interval": loss.interval,
        "perplexity": _finite(loss.perplexity),
        "perplexity_interval": _finite_pair(loss.perplexity_interval),
        "bits_per_byte": _finite(loss.bits_per_byte),
        "bits_per_byte_interval": _finite_pair(loss.bits_per_byte_interval),
    }


def _examples(count: int) -> str:

    return f"{thousands(count)} {plural(count, 'exemple')}"


def _pair(interval: Interval | None) -> str:

    return "—" if interval is None else f"{significant(interval[0])} – {significant(interval[1])}"


def _shares(interval: Interval) -> str:

    return f"{percent(interval[0])} – {percent(interval[1])}"


def _finite(value: float) -> float | None:
    """JSON n'a ni NaN ni infini."""
    return value if math.isfinite(value) else None


def _finite_pair(interval: Interval | None) -> tuple[float | None, float | None] | None:
    return interval and (_finite(interval[0]), _finite(interval[1]))
