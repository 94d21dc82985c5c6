"""Fait des JSON des bancs les tableaux de docs/mesures/performances.md, sans recopier de chiffre.

Une colonne par machine, une ligne par candidat : médiane, étendue entre parenthèses, part de la
borne, puis combien de fois ce projet fait mieux. Les mesures où le plus bas est le meilleur
viennent à part.

    python benchmarks/tables.py FICHIER.json … [--markdown FICHIER]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _measure import Row, digits_of, french

LOWER = "Le plus bas est le meilleur"
Cells = dict[str, dict[str, str]]
"""Candidat → machine → ce que dit sa case."""


def cell(row: Row, prefix: str, value: float) -> str:
    """Médiane, étendue et part de la borne d'un côté de la ligne."""
    digits = digits_of(value)
    text = french(value, digits)
    if spread := row.get(f"{prefix}range"):
        text += f" ({french(spread[0], digits)}–{french(spread[1], digits)})"
    if share := row.get(f"{prefix.removeprefix('ours_')}bound_share"):
        text += f", {french(100 * share, 0)} % de la borne"
    return text


def tables(rows: list[Row]) -> dict[tuple[bool, str], Cells]:
    """Un tableau par question, ceux où le plus bas est le meilleur après les autres."""
    found: dict[tuple[bool, str], Cells] = {}
    for row in rows:
        title = f"{row['question']} ({row['unit']})"
        cells = found.setdefault((bool(row["lower_is_better"]), title), {})
        machine = row["machine"]
        cells.setdefault(row["candidate"], {})[machine] = cell(row, "ours_", row["ours"])
        if row["against"] is not None:
            text = f"{cell(row, 'peer_', row['peer'])} ; **{french(row['ratio'])} ×**"
            cells.setdefault(row["against"], {})[machine] = text
    return dict(sorted(found.items(), key=lambda each: each[0][0]))


def markdown(rows: list[Row]) -> str:
    """Les machines, puis les tableaux."""
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    names = {machine: f"M{index}" for index, machine in enumerate(machines, start=1)}
    lines = [f"- **{short}** : {machine}" for machine, short in names.items()]
    apart = False
    for (lower, title), cells in tables(rows).items():
        if lower and not apart:
            lines += ["", f"### {LOWER}"]
            apart = True
        lines += ["", f"**{title}**", "", f"| candidat | {' | '.join(names.values())} |"]
        lines.append("|---" * (1 + len(machines)) + "|")
        for candidate, found in cells.items():
            values = (found.get(machine, "") for machine in machines)
            lines.append(f"| {candidate} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Lit les JSON, écrit les tableaux."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="+", type=Path, help="fichiers écrits par --json")
    parser.add_argument("--markdown", type=Path, help="fichier à écrire ; d'office, la sortie")
    arguments = parser.parse_args()
    read = (json.loads(path.read_text("utf-8")) for path in arguments.json)
    rows = [row for found in read for row in found if "question" in row]
    text = markdown(rows)
    if arguments.markdown is None:
        print(text, end="")
    else:
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
