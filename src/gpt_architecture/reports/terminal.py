"""Ce qui s'affiche au terminal : tableaux, mesures d'un modèle, et visible ce qu'un écran cache.

Un token est un texte quelconque : une espace seule, une fin de ligne, un caractère de contrôle,
la moitié d'un caractère composé. Les mêmes mesures sont ici en types simples, pour le JSON.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gpt_architecture.french import counted, decimal, percent, plural, significant, thousands

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from gpt_architecture.data.tokenizer import Tokenizer
    from gpt_architecture.evaluation.likelihood import Interval
    from gpt_architecture.evaluation.lm_eval import TaskMetric, TaskResult
    from gpt_architecture.evaluation.memorisation import MemorisationReport, Recollection
    from gpt_architecture.evaluation.perplexity import TextLoss, TextMeasures
    from gpt_architecture.evaluation.tasks import ChoiceResult, LastWordResult

_SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}  # ils lient les lettres de certaines écritures, et des émojis
_CONTROL_PICTURES = 0x2400
_SHOWN_DOCUMENTS = 20
_DETAILS = ("documents", "examples", "phenomena")


def visible_token(text: str) -> str:
    """Un token, où chaque espace, fin de ligne et caractère sans dessin devient un signe."""
    shown = "".join(_SIGNS.get(each) or _space(each) or _drawn(each) for each in text)
    if not shown:
        return "∅"
    # Un accent seul se poserait sur ce qui le précède.
    return f"◌{shown}" if unicodedata.category(shown[0]).startswith("M") else shown


def visible_text(text: str) -> str:
    """Un texte, espaces et fins de ligne laissées, où rien d'autre n'est caché."""
    return "".join(each if each == "\n" or each in _JOINERS else _drawn(each) for each in text)


def _space(character: str) -> str:
    """Le signe d'une espace autre que l'ordinaire : insécable, fine…"""
    return "⍽" if unicodedata.category(character) == "Zs" else ""


def _drawn(character: str) -> str:
    category, code = unicodedata.category(character), ord(character)
    if category not in _HIDDEN:
        return character
    if code < 0x20:
        return chr(_CONTROL_PICTURES + code)
    return f"‹U+{code:04X}›"


def table(title: str | Text, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Un tableau simple : des noms à gauche, puis des nombres, jamais coupés."""
    found = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    found.add_column(headings[0])  # s'il faut de la place, les noms en rendent
    for heading in headings[1:]:
        found.add_column(heading, justify="right", no_wrap=True)
    for name, *cells in rows:
        label = name.lstrip(" ")  # la suite d'un nom coupé s'aligne sur son début
        indent = len(name) - len(label)
        found.add_row(Padding(Text(label), (0, 0, 0, indent)) if indent else Text(name), *cells)
    return found


TableData = tuple[str, Sequence[str], Iterable[Sequence[str]]]
"""Titre, en-têtes, lignes ; le premier élément de chaque ligne la nomme."""


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


def show_memorisation(console: Console, report: MemorisationReport, tokenizer: Tokenizer) -> None:
    """Ce que le modèle récite, par stratégie, contre ce que le hasard donnerait.

    Chaque stratégie montre son texte qui récite le plus long passage, entre crochets.
    """
    some, total = report.recited
    console.print(Text("Mémorisation", "bold"))
    console.print(
        f"{counted(some, 'texte généré')} sur {total} contien{'nen' if some > 1 else ''}t un "
        f"passage d'au moins {report.threshold} tokens copié mot pour mot du texte d'entraînement."
    )
    console.print(_meaning(report), style="dim")
    console.print(_shares_table(report))
    console.print(
        f"Passages d'au moins {report.threshold} tokens entre ⟦ ⟧ ; ⏎ : fin de ligne.", style="dim"
    )
    for variant in report.variants:
        best = max(variant.texts, key=lambda each: each.overlap.longest)
        console.print(Text(variant.label, "bold"))
        console.print(_marked(best, report.threshold, tokenizer), soft_wrap=False)
    console.print()


def _meaning(report: MemorisationReport) -> str:
    if report.chance_length is None:
        return (
            f"Sans texte inédit, rien ne dit ce que le hasard donnerait : le seuil de "
            f"{report.threshold} tokens est arbitraire."
        )
    count = len(report.reference)
    return (
        f"Seuil : sur {count} {plural(count, 'extrait')} de texte inédit, aussi "
        f"{plural(count, 'long')} que les textes générés, 95 % ne partagent pas plus de "
        f"{report.chance_length} tokens consécutifs avec l'entraînement."
    )


def memorisation_table(report: MemorisationReport) -> TableData:
    """La part de n-grammes connus de chaque stratégie, et du texte inédit."""
    rows = [
        [
            variant.label,
            *(_share(variant.share(n)) for n in report.orders),
            str(variant.longest),
            "{} sur {}".format(*variant.recited(report.threshold)),
        ]
        for variant in report.variants
    ]
    if report.reference:
        shares = [_share(report.reference_share(n)) for n in report.orders]
        rows.append(["Texte inédit", *shares, str(report.reference_longest), ""])
    title = "Part des n-grammes présents dans le texte d'entraînement"
    headings = ("Stratégie", *(f"n = {n}" for n in report.orders), "Plus long", "Récitent")
    return title, headings, rows


def _shares_table(report: MemorisationReport) -> Table:
    """Ce tableau, le texte inédit à part."""
    title, headings, rows = memorisation_table(report)
    shown = list(rows)
    found = table(title, headings, shown[: len(report.variants)])
    for row in shown[len(report.variants) :]:
        found.add_section()
        found.add_row(*row, style="dim")
    return found


def _marked(text: Recollection, threshold: int, tokenizer: Tokenizer) -> Text:
    def shown(piece: str) -> str:
        return visible_text(piece).replace("\n", "⏎ ")

    line = Text("  ").append(shown(text.result.prompt), "dim")
    for piece, recited in text.marked_text(threshold, tokenizer):
        line.append(f"⟦{shown(piece)}⟧" if recited else shown(piece), "bold" if recited else "")
    return line


def _share(value: float | None) -> str:
    return "—" if value is None else percent(value, 0)
