"""La trace des filtres, montrée : tableaux au terminal, page HTML, objet JSON."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any, Literal

from gpt_architecture.french import decimal, percent, thousands
from gpt_architecture.storage import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rich.console import Console, Group
    from rich.table import Table

    from gpt_architecture.decoding.trace import Candidate, Trace, TraceStep

TraceFormat = Literal["table", "json", "html"]
"""Comment montrer une trace."""

TRACE_TITLE = "Trace des filtres"
"""Début d'une trace écrite en texte."""

FINISHES = {"stop": "fin du texte", "length": "nombre de tokens atteint", None: "interrompu"}
_FILE_WIDTH = 100
_TOKEN_WIDTH = 16
_FATE_WIDTH = 16
_CELL_WIDTH = 7  # « 100,0 % »
_HEADER_WIDTH = 11  # « temperature »
_GAP = 3  # entre deux colonnes


def write_trace(
    trace: Trace, console: Console, *, form: TraceFormat, path: Path | str | None
) -> None:
    """Montre une trace : sur la sortie standard, dont `console` est celle des tableaux, ou écrite.

    Raises:
        OutputError: le fichier ne peut pas être écrit.
    """
    if path is None and form == "table":
        render_terminal(console, trace)
        return
    if path is not None and form == "json":
        signed = {"generator": "gpt-architecture infer --trace", **trace.to_dict()}
        content = json.dumps(signed, ensure_ascii=False) + "\n"
    else:
        content = _RENDERERS[form](trace)
    if path is None:
        print(content, end="")
        return
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def render_text(trace: Trace) -> str:
    """Les tableaux, sans couleurs."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=_FILE_WIDTH, highlight=False, markup=False, emoji=False)
    render_terminal(console, trace)
    return buffer.getvalue()


def render_json(trace: Trace) -> str:
    """Un objet JSON, sur une ligne."""
    return json.dumps(trace.to_dict(), ensure_ascii=False) + "\n"


def render_html(trace: Trace) -> str:
    """Une page d'un seul fichier : le texte, cliquable, et une carte par token."""
    from gpt_architecture.reports.pages import render

    return render("trace", **trace_context(trace))


def trace_context(trace: Trace) -> dict[str, Any]:
    """Ce que lisent les gabarits d'une trace."""
    return {
        "trace": trace,
        "settings": list(_settings(trace)),
        "finish": FINISHES[trace.finish],
        "deterministic": not trace.config.is_sampling,
        "scale_of": _scale,
    }


def _scale(step: TraceStep) -> float:
    """La plus grande probabilité d'une carte : celle d'une barre pleine."""
    return max(p or 0.0 for each in step.candidates for p in each.probabilities) or 1.0


def render_terminal(console: Console, trace: Trace) -> None:
    """Un tableau par token, lisible sur 80 colonnes."""
    from rich.text import Text

    from gpt_architecture.reports.terminal import visible_text

    settings = " ".join(f"{name}={value}" for name, value in _settings(trace))
    console.print(Text(f"{TRACE_TITLE} · {trace.config.strategy} {settings}".rstrip(), "bold"))
    console.print(Text(visible_text(trace.prompt), "dim") + Text(visible_text(trace.text)))
    console.print(Text("▶ choisi   ● possible   ✘ retiré, par le filtre nommé\n", "dim"))
    for step in trace.steps:
        console.print(_card(step, console.width, trace.config.is_sampling))
    if trace.omitted:
        console.print(f"Les {trace.omitted} tokens suivants ne sont pas tracés.")


def _card(step: TraceStep, width: int, is_sampling: bool) -> Group:
    """Un token : ce qui est arrivé, le tableau, et les étapes qui n'y tiennent pas."""
    from rich.console import Group
    from rich.text import Text

    from gpt_architecture.reports.terminal import visible_token

    chosen = step.chosen
    story = Text.assemble(
        (f"{step.position}  ", "dim"),
        (visible_token(chosen.text), "bold green"),
        f"  {'échantillonné' if is_sampling else 'choisi'} à {percent(chosen.final)}, "
        f"rang {step.rank} sur {thousands(step.stages[-1].kept)} ; "
        f"{percent(chosen.raw)} sous le modèle, "
        f"rang {thousands(chosen.rank)}",
    )
    shown = shown_stages(step, width)
    hidden = [step.stages[place].name for place in step.active if place not in shown]
    notes = {"sans effet ici": step.inert, "non montrées": hidden}
    lines = [f"  étapes {title} : {', '.join(names)}" for title, names in notes.items() if names]
    return Group(story, _table(step, shown), *(Text(line, "dim") for line in lines), "")


def _table(step: TraceStep, shown: Sequence[int]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from gpt_architecture.reports.terminal import visible_token

    table = Table(box=SIMPLE_HEAD)
    table.add_column("Candidat", no_wrap=True, max_width=_TOKEN_WIDTH)
    for place in shown:
        header = "\n".join(_broken(step.stages[place].name))
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("Sort", overflow="fold", max_width=_FATE_WIDTH)
    for candidate in step.candidates:
        symbol, style, fate = _fate(candidate, candidate is step.chosen)
        cells = [_cell(candidate, place) for place in shown]
        token = Text(f"{symbol} {visible_token(candidate.text)}", style)
        table.add_row(token, *cells, Text(fate, style))
    table.add_section()
    stages = [step.stages[place] for place in shown]
    table.add_row("restent", *(thousands(each.kept) for each in stages), "tokens", style="dim")
    table.add_row("entropie", *(decimal(each.entropy) for each in stages), "bits", style="dim")
    return table


def shown_stages(step: TraceStep, width: int) -> list[int]:
    """Places des étapes actives qui tiennent en `width` colonnes, dans l'ordre.

    Le modèle et la dernière y sont toujours ; entre eux, celles qui changent le plus les
    probabilités des candidats.
    """
    change = {
        place: sum(
            abs((each.probabilities[place] or 0.0) - (each.probabilities[place - 1] or 0.0))
            for each in step.candidates
        )
        for place in step.active[1:-1]
    }
    shown = sorted({step.active[0], step.active[-1]})
    for place in sorted(change, key=lambda place: (-change[place], place)):
        wanted = sorted([*shown, place])
        if _columns(step, wanted) <= width:
            shown = wanted
    return shown


def _columns(step: TraceStep, shown: Sequence[int]) -> int:
    """Largeur du tableau qui montrerait ces étapes."""
    cells = sum(
        max(_CELL_WIDTH, *map(len, _broken(step.stages[place].name))) + _GAP for place in shown
    )
    return _TOKEN_WIDTH + cells + _FATE_WIDTH + 2 * _GAP


def _broken(name: str) -> list[str]:
    """Un nom d'étape coupé en lignes courtes, chaque tiret bas au bout de la sienne."""
    lines = [""]
    for part in re.findall(r"[^_]*_?", name):
        if lines[-1] and len(lines[-1] + part) > _HEADER_WIDTH:
            lines.append("")
        lines[-1] += part
    return lines


def _cell(candidate: Candidate, place: int) -> str:
    probability = candidate.probabilities[place]
    return "✘" if probability is None else percent(probability)


def _fate(candidate: Candidate, chosen: bool) -> tuple[str, str, str]:
    """Symbole, style et sort d'un candidat."""
    if chosen:
        return "▶", "bold green", "choisi"
    if candidate.removed_by is not None:
        return "✘", "red", candidate.removed_by
    return "●", "", "possible"


def _settings(trace: Trace) -> Iterator[tuple[str, str]]:
    """Les réglages qui diffèrent du défaut, en texte."""
    for name, value in trace.config.to_dict().items():
        if name != "strategy":
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_RENDERERS = {"table": render_text, "json": render_json, "html": render_html}
