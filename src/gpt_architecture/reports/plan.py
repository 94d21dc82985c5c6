"""Ce qu'un plan montre : où en sont ses essais, ce qu'il propose, et les autres tailles."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from gpt_architecture.french import (
    counted,
    decimal,
    french_duration,
    french_number,
    french_size,
    short,
    thousands,
)
from gpt_architecture.reports.console import ProgressBar
from gpt_architecture.reports.terminal import TableData, table

if TYPE_CHECKING:
    from gpt_architecture.training.planning import Choice, Decision

_HEADINGS = (
    *("Taille", "Paramètres", "Étapes", "Époques", "Bits/octet", "Intervalle"),
    *("Durée", "Mémoire"),
)


class TrialProgress:
    """L'avancement des essais : le temps passé, sur celui qui leur est donné.

    Args:
        bar: la barre, déjà en place.
        seconds: durée prévue.
    """

    def __init__(self, bar: ProgressBar, seconds: float) -> None:
        self._bar, self._total = bar, max(1, round(seconds))
        self._start, self._steps = time.perf_counter(), 0
        bar.start(self._total, 0)

    def step(self) -> None:
        """Une étape d'essai vient d'être faite."""
        self._steps += 1
        elapsed = time.perf_counter() - self._start
        left = max(0.0, self._total - elapsed)
        pace = (
            f"{french_number(self._steps)} étapes, {short(self._steps / max(elapsed, 1e-9))}/s, "
            f"reste {french_duration(left)} environ"
        )
        self._bar.update(min(round(elapsed), self._total), pace)


def choices_table(plan: Decision) -> TableData:
    """Le choix d'abord, et les autres tailles."""
    choices = (plan.best, *plan.alternatives)
    title = f"Tailles possibles en {french_duration(3600 * plan.hours)}, chacune à sa durée"
    return title, _HEADINGS, [_cells(each) for each in choices]


def _cells(choice: Choice) -> list[str]:
    return [
        str(choice.body),
        thousands(choice.parameters),
        thousands(choice.steps),
        short(choice.epochs),
        decimal(choice.loss, 3),
        f"{decimal(choice.low, 3)}–{decimal(choice.high, 3)}",
        french_duration(choice.seconds),
        french_size(choice.memory),
    ]


def tie_said(plan: Decision) -> list[str]:
    """Pourquoi une autre taille n'est pas choisie, quand le tableau en montre une plus basse."""
    best = plan.best
    lowest = min(plan.alternatives, key=lambda each: each.loss, default=best)
    if round(lowest.loss, 3) >= round(best.loss, 3):
        return []
    why = "qu'aucun essai n'approche d'assez près"
    if lowest.parameters < best.parameters:
        why = "plus petite : une grande taille accélère parfois, passé ses essais"
    return [
        f"À un centième près, deux pertes se valent : {best.body} passe devant {lowest.body}, "
        f"{why}."
    ]


def show_plan(console: Console, plan: Decision, spent: Mapping[str, float]) -> None:
    """Le choix en toutes lettres, puis le tableau.

    Args:
        console: où écrire.
        plan: le plan.
        spent: `kwh` et `cost`, s'ils sont connus.
    """
    best, recipe = plan.best, plan.best.recipe
    share = decimal(100 * (best.high / best.loss - 1), 1)
    lines = [
        f"Modèle       {french_number(best.parameters)} paramètres : largeur "
        f"{best.body.emb_dim}, {counted(best.body.n_layers, 'bloc')}, "
        f"{counted(best.body.n_heads, 'tête')}",
        f"Vocabulaire  {recipe.tokenizer}, {french_number(plan.measures.text.vocab_size)} tokens",
        f"Entraînement {counted(best.steps, 'étape')} de {recipe.batch_size} × {recipe.window} "
        f"tokens, {short(best.epochs)} {'époques' if best.epochs >= 2 else 'époque'}, taux "
        f"× {short(recipe.lr_scale)}",
        f"Perte        {decimal(best.loss, 3)} bits par octet attendus, à {share} % près ; soit "
        f"{decimal(best.loss * plan.measures.nats, 3)} nats par token, que `train` affiche",
        f"Durée        {french_duration(best.seconds)}, mémoire {french_size(best.memory)}, disque "
        f"{french_size(best.disk)} au plus",
    ]
    if "kwh" in spent:
        lines.append(f"Énergie      {short(spent['kwh'])} kWh")
    if "cost" in spent:
        lines.append(f"Coût         {decimal(spent['cost'])}")
    if best.seconds < 0.8 * 3600 * plan.hours:
        lines.append(
            "Ce texte est trop court pour plus : le relire davantage ferait monter la perte."
        )
    lines += tie_said(plan)
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    console.print()
    title, headings, rows = choices_table(plan)
    console.print(table(Text(title), headings, rows))
