"""Mesurer en alternance, imprimer médianes, étendues et rapports, rendre les lignes du JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _machine import announce, machine

REST = 0.1  # s : les fils d'un autre moteur tournent encore un peu à vide après leur travail
TOLERATED = 0.08  # part d'un cœur prise par d'autres, au-delà de laquelle une mesure est refaite

Row = dict[str, Any]
Values = Mapping[str, Sequence[float]]
Question = Callable[[bool], list[Row]]
"""Reçoit si la mesure doit être courte ; rend ses lignes."""


def french(value: float, digits: int = 2) -> str:
    """Virgule décimale."""
    return f"{value:.{digits}f}".replace(".", ",")


def digits_of(value: float) -> int:
    """Décimales à montrer : trois chiffres qui comptent."""
    return 0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """De la plus basse à la plus haute."""
    shown = digits_of(statistics.median(values)) if digits is None else digits
    return f"{french(min(values), shown)}–{french(max(values), shown)}"


def alternate(
    measures: Mapping[str, Callable[[], float]], turns: int, *, retries: int
) -> dict[str, list[float]]:
    """Durées (s) de chaque candidat, `turns` passages alternés dont l'ordre tourne.

    Un premier passage, d'échauffement, n'est pas compté. Une mesure pendant laquelle d'autres
    processus ont pris plus de `TOLERATED` d'un cœur est refaite, `retries` fois au plus ; la
    moins troublée est gardée.
    """
    names = list(measures)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    troubled = 0
    for turn in range(-1, turns):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value, trouble = _quietest(measures[name], retries if turn >= 0 else 0)
            if turn >= 0:
                seconds[name].append(value)
                troubled += trouble > TOLERATED
    if troubled:
        total = turns * len(names)
        print(f"attention : {troubled} mesures sur {total} troublées par d'autres processus")
    return seconds


def _quietest(measure: Callable[[], float], retries: int) -> tuple[float, float]:
    """La mesure la moins troublée : (durée, part d'un cœur prise par d'autres)."""
    found = []
    for _ in range(retries + 1):
        time.sleep(REST)
        start, others = time.perf_counter(), _time_of_others()
        value = measure()
        trouble = (_time_of_others() - others) / (time.perf_counter() - start)
        found.append((value, trouble))
        if trouble <= TOLERATED:
            break
    return min(found, key=lambda pair: pair[1])


def _time_of_others() -> float:
    """Secondes de processeur prises, depuis le démarrage, par tout sauf nous ; 0 hors de Linux."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = (
        int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - own.user - own.system - own.children_user - own.children_system


def absent(name: str, error: ImportError) -> str:
    """Ce qu'un banc dit d'un pair qu'il n'a pas, et comment l'avoir."""
    pip = isinstance(error, ModuleNotFoundError)
    remedy = " ; pip install -r requirements-bench.txt" if pip else ""
    return f"pair absent : {name} ({error}){remedy}"


def compare(
    question: str,
    values: Values,
    unit: str,
    ours: str,
    peers: Sequence[str] = (),
    *,
    lower: bool = False,
    shares: Values | None = None,
) -> list[Row]:
    """Imprime le tableau d'un candidat et de ses pairs ; rend une ligne par pair présent.

    Args:
        question: ce qui est mesuré : le titre, et le début du nom de chaque ligne.
        values: relevés alternés, par candidat.
        unit: leur unité.
        ours: notre candidat.
        peers: les siens ; un absent est passé, il a déjà été nommé.
        lower: le plus bas est le meilleur.
        shares: part de la borne, passage par passage, de qui en a une.
    """
    present = [ours, *(peer for peer in peers if peer in values)]
    shares = shares or {}
    note = ", le plus bas est le meilleur" if lower else ""
    print(f"\n{question} ({unit}{note})")
    print(f"{'':<28} {'médiane':>9}  {'étendue':<15} {'borne':>6}  nous")
    rows = []
    for name in present:
        middle = statistics.median(values[name])
        share = statistics.median(shares[name]) if name in shares else None
        line = f"{name:<28} {french(middle, digits_of(middle)):>9}  {spread(values[name]):<15}"
        line += f" {'' if share is None else french(100 * share, 0) + ' %':>6}"
        gains = _gains(values[ours], values[name], lower=lower)
        if name != ours:
            line += f"  {french(statistics.median(gains))} × ({spread(gains, 2)})"
        print(line.rstrip(), flush=True)
        if name != ours or len(present) == 1:
            rows.append(_row(question, unit, values, ours, name, lower=lower, shares=shares))
    return rows


def lone_row(
    question: str,
    candidate: str,
    values: Sequence[float],
    unit: str,
    *,
    lower: bool = False,
    **extra: Any,
) -> Row:
    """La ligne d'un candidat sans pair ; `extra` la complète."""
    each = {candidate: values}
    row = _row(question, unit, each, candidate, candidate, lower=lower, shares={})
    return row | {"name": f"{question}, {candidate}"} | extra


def _gains(ours: Sequence[float], peer: Sequence[float], *, lower: bool) -> list[float]:
    """Rapport à chaque passage ; > 1 : nous sommes meilleurs."""
    pairs = zip(ours, peer, strict=True)
    return [other / mine if lower else mine / other for mine, other in pairs]


def _row(
    question: str, unit: str, values: Values, ours: str, peer: str, *, lower: bool, shares: Values
) -> Row:
    row: Row = {"name": question, "question": question, "candidate": ours, "unit": unit}
    row |= {"lower_is_better": lower, "against": None, "peer": None, "ratio": None}
    row |= _side("", ours, values, shares)
    if peer != ours:
        gains = _gains(values[ours], values[peer], lower=lower)
        row |= {"name": f"{question}, {ours} contre {peer}", "against": peer}
        row |= _side("peer_", peer, values, shares)
        row |= {"ratio": statistics.median(gains), "ratio_range": [min(gains), max(gains)]}
    return row


def _side(prefix: str, name: str, values: Values, shares: Values) -> Row:
    """Médiane, étendue et part de la borne d'un candidat."""
    found: Row = {prefix.rstrip("_") or "ours": statistics.median(values[name])}
    found[f"{prefix or 'ours_'}range"] = [min(values[name]), max(values[name])]
    found[f"{prefix or ''}bound_share"] = (
        statistics.median(shares[name]) if name in shares else None
    )
    return found


def write_rows(path: Path | None, rows: Sequence[Row]) -> None:
    """Écrit les lignes, chacune avec sa machine, si un fichier est demandé."""
    if path is not None:
        named = [{**row, "machine": machine()} for row in rows]
        path.write_text(json.dumps(named, ensure_ascii=False, indent=2), encoding="utf-8")


def ask_all(
    title: str, questions: Mapping[str, Question], *, quick: str = "moins d'une minute"
) -> None:
    """Ce que fait un banc à plusieurs questions : lit les options, mesure, imprime, écrit.

    Args:
        title: sa docstring ; la première ligne en est l'aide.
        questions: par leur nom ; chacune reçoit si la mesure doit être courte.
        quick: ce que dure une mesure courte.
    """
    parser = argparse.ArgumentParser(description=title.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", choices=list(questions), help="une seule question")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    options = parser.parse_args()
    announce()
    rows = list[Row]()
    for name, ask in questions.items():
        if options.only in (None, name):
            print(f"\n{name}")
            rows += ask(options.quick)
    write_rows(options.json, rows)
