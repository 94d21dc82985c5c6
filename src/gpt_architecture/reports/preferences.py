"""Les paires de réponses : un tableau, et des types simples."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gpt_architecture.french import decimal, percent, thousands
from gpt_architecture.reports.terminal import table

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.evaluation.preferences import PreferenceResult
    from gpt_architecture.reports.terminal import TableData


def preferences_record(result: PreferenceResult) -> dict[str, Any]:
    """Les paires de réponses, en types simples ; le détail est dans `examples`."""
    return {
        "count": len(result.pairs),
        "accuracy": result.total.accuracy,
        "accuracy_interval": result.total.interval,
        "accuracy_per_token": result.per_token.accuracy,
        "accuracy_per_token_interval": result.per_token.interval,
        "margin": result.margin,
        "margin_interval": result.margin_interval,
        "examples": [asdict(each) for each in result.pairs],
    }


def preferences_table(result: PreferenceResult) -> TableData:
    """L'exactitude, de la réponse entière puis par token, et la marge."""
    rows = [
        [title, percent(score.accuracy), " – ".join(map(percent, score.interval))]
        for title, score in (
            ("Réponse préférée la plus probable (le hasard : 50 %)", result.total),
            ("Réponse préférée la plus probable par token", result.per_token),
        )
    ]
    interval = result.margin_interval
    told = "" if interval is None else " – ".join(decimal(each) for each in interval)
    rows.append(["Écart moyen des log p, en nats", decimal(result.margin), told])
    count = len(result.pairs)
    return f"Préférences ({thousands(count)} paires)", ("Mesure", "Valeur", "à 95 %"), rows


def show_preferences(console: Console, result: PreferenceResult) -> None:
    """Montre `preferences_table`."""
    console.print(table(*preferences_table(result)))
