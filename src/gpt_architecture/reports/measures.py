"""Les mesures d'un modèle : des tableaux au terminal, et des types simples pour le JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpt_architecture.french import counted, decimal, percent, plural, significant, thousands
from gpt_architecture.reports.terminal import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from gpt_architecture.evaluation.likelihood import Interval
    from gpt_architecture.evaluation.lm_eval import TaskMetric, TaskResult
    from gpt_architecture.evaluation.perplexity import TextLoss, TextMeasures
    from gpt_architecture.evaluation.tasks import ChoiceResult, LastWordResult
    from gpt_architecture.reports.terminal import TableData

_SHOWN_DOCUMENTS = 20
_DETAILS = ("documents", "examples", "phenomena", "classes", "confusion", "calibration")


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
        name: journal_record(value) if isinstance(value, dict) else value
        for name, value in record.items()
        if name not in _DETAILS
    }


def text_table(measures: TextMeasures) -> TableData:
    """Une ligne par document, les premiers, et le total."""
    rows = [_loss_row(each.name, each) for each in measures.documents[:_SHOWN_DOCUMENTS]]
    if len(measures.documents) > 1:
        rows.append(_loss_row("Total", measures.total))
    headings = (
        "Document",
        "Tokens",
        "Perte (nats)",
        "Perplexité",
        "à 95 %",
        "Bits/octet",
        "à 95 %",
    )
    return "Textes", headings, rows


def show_text(console: Console, measures: TextMeasures) -> None:
    """Une ligne par document, le total, et comment ils sont mesurés."""
    console.print(table(*text_table(measures)))
    lines = [
        f"Fenêtres de {thousands(measures.window)} tokens, avancées de "
        f"{thousands(measures.stride)} ; chaque token est prédit une fois."
    ]
    if (hidden := len(measures.documents) - _SHOWN_DOCUMENTS) > 0:
        more = f"{thousands(hidden)} {plural(hidden, 'autre')} {plural(hidden, 'document')}"
        lines.insert(0, f"… et {more} (--json les donne tous).")
    if measures.skipped:
        lines.append(
            f"Sans token à prédire, donc sans mesure : {counted(measures.skipped, 'document')}."
        )
    console.print("\n".join(lines), "\n", style="dim", sep="")


def last_word_table(result: LastWordResult) -> TableData:
    """L'exactitude et la perplexité du dernier mot."""
    rows = [
        ["Exactitude", percent(result.accuracy), _shares(result.accuracy_interval)],
        ["Perplexité du mot", significant(result.perplexity), _pair(result.perplexity_interval)],
    ]
    title = f"Dernier mot ({_examples(len(result.lines))})"
    return title, ("Mesure", "Valeur", "à 95 %"), rows


def show_last_word(console: Console, result: LastWordResult) -> None:
    """Montre `last_word_table`."""
    console.print(table(*last_word_table(result)))


def choices_table(
    result: ChoiceResult,
    *,
    title: str = "Choix multiple",
    names: tuple[str, str] = ("acc : suite la plus probable", "acc_norm : par caractère"),
) -> TableData:
    """Les deux exactitudes du choix multiple, contre le hasard."""
    rows = [
        [names[0], percent(result.acc), _shares(result.acc_interval)],
        [names[1], percent(result.acc_norm), _shares(result.acc_norm_interval)],
        ["Choix au hasard", percent(result.chance), ""],
    ]
    return f"{title} ({_examples(len(result.outcomes))})", ("Mesure", "Valeur", "à 95 %"), rows


def show_choices(console: Console, result: ChoiceResult) -> None:
    """Montre `choices_table`."""
    console.print(table(*choices_table(result)))


def harness_table(results: Sequence[TaskResult]) -> TableData:
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
    return "lm-eval", headings, rows


def show_harness(console: Console, results: Sequence[TaskResult]) -> None:
    """Montre `harness_table`."""
    console.print(table(*harness_table(results)))


def _metric_name(metric: TaskMetric) -> str:
    return metric.name if metric.filter == "none" else f"{metric.name}, {metric.filter}"


def _metric_cells(metric: TaskMetric) -> tuple[str, str]:
    """La valeur et son erreur type ; une perplexité se lit à trois chiffres utiles."""

    def shown(value: float) -> str:
        return significant(value) if abs(metric.value) >= 10 else decimal(value, 4)

    return shown(metric.value), "—" if metric.stderr is None else shown(metric.stderr)


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
