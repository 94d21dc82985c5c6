"""Des textes classés ou notés : ce qu'un modèle en dit, ce qu'il vaut, et la référence à côté."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpt_architecture.evaluation.classification import ClassResult
from gpt_architecture.french import counted, decimal, percent, significant, thousands
from gpt_architecture.reports.terminal import table, visible_text

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.evaluation.classification import LabelMeasures, ValueResult
    from gpt_architecture.evaluation.judgement import Judgement
    from gpt_architecture.evaluation.likelihood import Interval
    from gpt_architecture.reports.terminal import TableData

REFERENCE = "TF-IDF + régression"
_SHOWN_CLASSES = 12
_SHOWN_TEXT = 60


def judged(judgement: Judgement) -> str:
    """Une réponse : « spam (98,2 %) », ou sa valeur."""
    if judgement.label is None:
        return significant(judgement.value or 0.0)
    return f"{judgement.label} ({percent(judgement.probabilities[judgement.label])})"


def judgements_table(rows: Sequence[Judgement]) -> TableData:
    """Un texte par ligne : sa classe ou sa valeur, et la probabilité de chaque classe."""
    if not rows or rows[0].label is None:
        return "Valeurs", ("Texte", "Valeur"), [[_cut(each.text), judged(each)] for each in rows]
    labels = list(rows[0].probabilities)[:_SHOWN_CLASSES]
    return (
        "Classes",
        ("Texte", "Classe", *labels),
        [
            [_cut(each.text), str(each.label), *(percent(each.probabilities[n]) for n in labels)]
            for each in rows
        ],
    )


def labels_record(measures: LabelMeasures) -> dict[str, Any]:
    """Les mesures, en types simples."""
    gain = measures.gain
    return {
        "name": measures.name,
        **_result_record(measures.result),
        "held_out": measures.held_out,
        "truncated": measures.truncated,
        "reference": None
        if measures.reference is None
        else {
            "name": REFERENCE,
            "learned": measures.learned,
            **_result_record(measures.reference, brief=True),
        },
        "gain": None if gain is None else gain[0],
        "gain_interval": None if gain is None else gain[1],
    }


def labels_tables(measures: LabelMeasures) -> list[TableData]:
    """Le modèle et sa référence, côte à côte ; puis, de classes, le détail et la confusion."""
    result, other = measures.result, measures.reference
    rows = _rows(result)
    headings = ["Mesure", "Modèle", "à 95 %"]
    if other is not None:
        headings += [REFERENCE, "à 95 %"]
        pairs = zip(rows, _rows(other), strict=True)
        rows = [[*own, *theirs[1:]] for own, theirs in pairs]
    what = "Classement" if isinstance(result, ClassResult) else "Régression"
    title = f"{what} de {measures.name} ({counted(len(result.truth), 'exemple')})"
    tables: list[TableData] = [(title, headings, rows)]
    if isinstance(result, ClassResult):
        tables += [_classes_table(result), _confusion_table(result), _calibration_table(result)]
    return tables


def labels_notes(measures: LabelMeasures) -> list[str]:
    """Ce qu'il faut savoir pour lire ces chiffres, et si la référence est battue."""
    notes = []
    if measures.held_out:
        notes.append(
            "Ce fichier est celui de l'entraînement : seuls ses exemples de validation sont "
            "mesurés."
        )
    if measures.truncated:
        notes.append(
            f"Lus jusqu'au contexte, ou coupés là : {counted(measures.truncated, 'texte')}."
        )
    notes.append(_verdict(measures))
    return notes


def show_labels(console: Console, measures: LabelMeasures) -> None:
    """Montre `labels_tables` et `labels_notes`."""
    for each in labels_tables(measures):
        console.print(table(*each))
    console.print("\n".join(labels_notes(measures)), "\n", style="dim", sep="")


def _verdict(measures: LabelMeasures) -> str:
    gain = measures.gain
    if gain is None:
        return (
            f"Sans référence ({REFERENCE}) : donnez-lui les exemples de l'entraînement "
            "(--reference)."
        )
    value, interval = gain
    learned = f"{REFERENCE}, apprise de {counted(measures.learned, 'exemple')}"
    if isinstance(measures.result, ClassResult):
        said = f"{decimal(100 * value, 1)} points d'exactitude"
        bounds = interval and [decimal(100 * each, 1) for each in interval]
    else:
        said = f"{significant(value)} d'écart absolu moyen"
        bounds = interval and [significant(each) for each in interval]
    between = "" if bounds is None else f", à 95 % de {bounds[0]} à {bounds[1]}"
    if interval is not None and interval[0] > 0:
        return f"Le modèle bat la référence ({learned}) de {said}{between}."
    if interval is not None and interval[1] < 0:
        return f"La référence ({learned}) bat le modèle : son gain est de {said}{between}."
    return (
        f"Rien ne départage le modèle et la référence ({learned}) : son gain est de {said}{between}"
        "."
    )


def _rows(result: ClassResult | ValueResult) -> list[list[str]]:
    if isinstance(result, ClassResult):
        return [
            ["Exactitude", percent(result.accuracy), _shares(result.accuracy_interval)],
            ["Macro-F1", percent(result.macro_f1), _shares(result.macro_f1_interval)],
            ["Perte (nats)", decimal(result.calibration.nll, 3), ""],
            ["Erreur de calibration (ECE)", percent(result.calibration.error), ""],
            ["Toujours la plus fréquente", percent(result.majority), ""],
        ]
    return [
        ["Écart absolu moyen (MAE)", significant(result.mae), _pair(result.mae_interval)],
        ["Racine de l'écart quadratique (RMSE)", significant(result.rmse),
         _pair(result.rmse_interval)],
        ["R²", _number(result.r2), _pair(result.r2_interval, digits=2)],
        ["Corrélation des rangs (Spearman)", _number(result.spearman),
         _pair(result.spearman_interval, digits=2)],
    ]  # fmt: skip


def _classes_table(result: ClassResult) -> TableData:
    headings = ("Classe", "Exemples", "Précision", "Rappel", "F1")
    rows = [
        [
            each.label,
            thousands(each.support),
            percent(each.precision),
            percent(each.recall),
            percent(each.f1),
        ]
        for each in result.classes
    ]
    return "Classe par classe", headings, rows


def _confusion_table(result: ClassResult) -> TableData:
    labels = result.labels[:_SHOWN_CLASSES]
    rows = [
        [label, *(thousands(int(count)) for count in own[: len(labels)])]
        for label, own in zip(labels, result.confusion, strict=False)
    ]
    hidden = len(result.labels) - len(labels)
    more = f", les {len(labels)} premières" if hidden else ""
    return f"Confusion : la vraie classe{more}, et celle du modèle", ("Vraie", *labels), rows


def _calibration_table(result: ClassResult) -> TableData:
    rows = [
        [
            f"de {percent(each.low, 0)} à {percent(each.high, 0)}",
            thousands(each.count),
            percent(each.confidence),
            percent(each.accuracy),
        ]
        for each in result.calibration.bins
        if each.count
    ]
    return "Calibration", ("Confiance", "Exemples", "Moyenne", "Exactitude"), rows


def _result_record(result: ClassResult | ValueResult, *, brief: bool = False) -> dict[str, Any]:
    if not isinstance(result, ClassResult):
        return {
            "count": len(result.truth),
            "mae": result.mae,
            "mae_interval": result.mae_interval,
            "rmse": result.rmse,
            "rmse_interval": result.rmse_interval,
            "r2": _finite(result.r2),
            "r2_interval": result.r2_interval,
            "spearman": _finite(result.spearman),
            "spearman_interval": result.spearman_interval,
        }
    calibration = result.calibration
    found: dict[str, Any] = {
        "count": len(result.truth),
        "accuracy": result.accuracy,
        "accuracy_interval": result.accuracy_interval,
        "macro_f1": result.macro_f1,
        "macro_f1_interval": result.macro_f1_interval,
        "majority": result.majority,
        "nll": calibration.nll,
        "ece": calibration.error,
    }
    if brief:
        return found
    return found | {
        "labels": list(result.labels),
        "classes": [vars(each) for each in result.classes],
        "confusion": result.confusion.tolist(),
        "calibration": [vars(each) for each in calibration.bins],
    }


def _cut(text: str) -> str:
    line = visible_text(" ".join(text.split()))
    return line if len(line) <= _SHOWN_TEXT else f"{line[:_SHOWN_TEXT]}…"


def _shares(interval: Interval | None) -> str:
    return "—" if interval is None else f"{percent(interval[0])} – {percent(interval[1])}"


def _pair(interval: Interval | None, *, digits: int | None = None) -> str:
    if interval is None:
        return "—"
    return " – ".join(
        significant(each) if digits is None else decimal(each, digits) for each in interval
    )


def _number(value: float) -> str:
    return "—" if math.isnan(value) else decimal(value)


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
