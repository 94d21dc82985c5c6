"""Les épreuves du français : paires minimales et mots à deviner, tableaux et types simples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt_architecture.french import percent, thousands
from gpt_architecture.reports import measures
from gpt_architecture.reports.terminal import table

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.evaluation.cloze import ClozeResult
    from gpt_architecture.evaluation.minimal_pairs import PairsResult, PairsScore
    from gpt_architecture.reports.terminal import TableData


def pairs_record(result: PairsResult) -> dict[str, Any]:
    """Les paires minimales, en types simples ; le détail est dans `examples`."""
    return {
        **_score_record(result.total),
        "families": {family: _score_record(score) for family, score in result.families.items()},
        "phenomena": {each.name: _score_record(score) for each, score in result.scores.items()},
        "examples": {each.name: score.margins for each, score in result.scores.items()},
    }


def pairs_table(result: PairsResult) -> TableData:
    """Une ligne par phénomène, famille par famille, puis l'ensemble."""
    rows = list[list[str]]()
    for family, together in result.families.items():
        rows.append([family.capitalize(), *_score_cells(together)])
        rows += [
            [f"  {each.title}", *_score_cells(score)]
            for each, score in result.scores.items()
            if each.family == family
        ]
    rows.append(["Ensemble (le hasard : 50 %)", *_score_cells(result.total)])
    tied = result.total.tied
    told = f", dont {thousands(tied)} sans différence, comptées pour moitié" if tied else ""
    title = f"Paires minimales du français ({thousands(len(result.total.margins))} paires{told})"
    return title, ("Phénomène", "Exactitude", "à 95 %"), rows


def show_pairs(console: Console, result: PairsResult) -> None:
    """Montre `pairs_table`."""
    console.print(table(*pairs_table(result)))


def cloze_record(result: ClozeResult) -> dict[str, Any]:
    """Les mots à deviner, en types simples."""
    found = dict[str, Any]()
    if result.last_word is not None:
        found["last_word"] = measures.last_word_record(result.last_word)
    if result.choices is not None:
        found["choices"] = measures.choices_record(result.choices)
    return found


def cloze_tables(result: ClozeResult) -> list[TableData]:
    """Les deux épreuves ; celle qui n'a aucun exemple le dit."""
    empty = [["aucun exemple dans ces textes", "", ""]]
    headings = ("Mesure", "Valeur", "à 95 %")
    if result.last_word is None:
        first: TableData = ("Dernier mot", headings, empty)
    else:
        first = measures.last_word_table(result.last_word)
    if result.choices is None:
        return [first, ("Mot manquant", headings, empty)]
    names = ("Phrase la plus probable", "Phrase la plus probable par caractère")
    return [first, measures.choices_table(result.choices, title="Mot manquant", names=names)]


def show_cloze(console: Console, result: ClozeResult) -> None:
    """Montre `cloze_tables`."""
    for each in cloze_tables(result):
        console.print(table(*each))


def _score_record(score: PairsScore) -> dict[str, Any]:
    return {
        "count": len(score.margins),
        "tied": score.tied,
        "accuracy": score.accuracy,
        "accuracy_interval": score.interval,
    }


def _score_cells(score: PairsScore) -> tuple[str, str]:
    low, high = score.interval
    return percent(score.accuracy), f"{percent(low)} – {percent(high)}"
