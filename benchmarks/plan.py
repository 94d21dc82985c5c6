"""Le plan d'entraînement : ce qu'il annonce, tenu contre ce qui est ensuite entraîné.

Questions : la perte annoncée (bits par octet) est-elle celle qu'on obtient, à 3 % près ? la durée,
à 10 % près ? et le choix est-il à 1 % du meilleur d'une grille de tailles, de durées et de taux ?

    python benchmarks/plan.py [--data DOSSIER] [--only NOM …] [--hours H] [--minutes M]
        [--no-grid] [--quick] [--json FICHIER]

La grille, réduite, entoure le choix : la taille d'en dessous et celle d'au-dessus, chacune à la
moitié et à la totalité des étapes que les heures permettent, et le choix à la moitié de son taux.
Un même essai donne toujours la même perte ; les durées, elles, dépendent de ce que fait la
machine : elles sont toutes mesurées avant la première grille, qui peut souffrir des voisins.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _machine import announce
from _measure import french, write_rows

from gpt_architecture import api
from gpt_architecture.formats.journal import finite_number, read_records
from gpt_architecture.training.experiments import LADDER
from gpt_architecture.training.laboratory import TextLaboratory
from gpt_architecture.training.planning import Decision, steps_within
from gpt_architecture.training.trials import Body, Recipe

CORPORA = ("the-verdict.txt", "shakespeare.en.txt", "segond-1910.fr.txt")
TARGETS = {"perte": 0.03, "durée": 0.10, "choix": 0.01}


def trained(settings: Path, folder: Path) -> tuple[float, float]:
    """Lance `train --config` sur ce qui est proposé ; rend la perte (nats par token), les secondes.

    Comme le fait qui suit le plan : les secondes vont du lancement de la commande à son retour.
    """
    train = [sys.executable, "-m", "gpt_architecture", "train", "--config", str(settings)]
    start = time.perf_counter()
    subprocess.run([*train, "--output-dir", str(folder)], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    with (folder / "journal.jsonl").open("rb") as lines:
        losses = [each["val_loss"] for each in read_records(lines) if "val_loss" in each]
    found = finite_number(losses[-1])  # une perte non finie y est un mot
    return math.inf if found is None else found, seconds


def grid(lab: TextLaboratory, plan: Decision) -> list[dict[str, Any]]:
    """Les bits par octet des voisins du choix, dans les mêmes heures."""
    best, measures, found = plan.best, plan.measures, []
    place = LADDER.index(best.body)
    left = 3600 * plan.hours - measures.startup
    shapes: list[tuple[Body, Recipe]] = [
        (LADDER[index], best.recipe) for index in (place - 1, place + 1) if 0 <= index < len(LADDER)
    ]
    slow = Recipe(**{**vars(best.recipe), "lr_scale": best.recipe.lr_scale / 2})
    for body, recipe in (*shapes, (best.body, slow)):
        pace = measures.pace.of(body, recipe, measures.text.vocab_size)
        most = steps_within(pace, recipe, left, measures.text.unique)
        most = best.steps if body == best.body else min(most, 4 * best.steps)  # au-delà, il relit
        lengths = sorted({max(1, most // 2), max(2, most)})
        losses = lab.losses(recipe, body, lengths, measures.text.unique)
        for steps, loss in losses.items():
            found.append(
                {"body": str(body), "lr": recipe.lr_scale, "steps": steps, "bits_per_byte": loss}
            )
    return found


def announced(
    source: Path, folder: Path, hours: float, minutes: float | None
) -> tuple[TextLaboratory, Decision, float, float]:
    """Planifie, entraîne ce qui est proposé ; rend aussi bits par octet et secondes."""
    folder.mkdir()
    settings, trials, start = folder / "nuit.toml", folder / "essais", time.perf_counter()
    plan = api.plan(
        source, hours, minutes=minutes, out=settings, trials=trials, progress=True
    ).decision
    best = plan.best
    print(
        f"  plan en {time.perf_counter() - start:.0f} s : {best.body}, {best.recipe.tokenizer}, "
        f"{best.steps} étapes, {french(best.epochs, 1)} époques, {french(best.loss, 3)} bits par "
        f"octet ({french(best.low, 3)}–{french(best.high, 3)}), {french(best.seconds, 1)} s",
        flush=True,
    )
    nats, seconds = trained(settings, folder / "modele")
    loss = nats / plan.measures.nats
    print(f"  entraîné : {french(loss, 3)} bits par octet, {french(seconds, 1)} s", flush=True)
    return TextLaboratory([str(source)], trials), plan, loss, seconds


def judge(
    name: str, plan: Decision, loss: float, seconds: float, tried: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compare l'annonce, l'obtenu et la grille ; rend une ligne par question."""
    best = plan.best
    for each in tried:
        print(
            f"  grille : {each['body']}, taux × {each['lr']}, {each['steps']} étapes : "
            f"{french(each['bits_per_byte'], 3)}",
            flush=True,
        )
    lowest = min([loss, *(each["bits_per_byte"] for each in tried)])
    pairs = {
        "perte": (best.loss, loss),
        "durée": (best.seconds, seconds),
        "choix": (lowest, loss),
    }
    if not tried:
        del pairs["choix"]
    rows = []
    for question, (ours, peer) in pairs.items():
        gap = abs(math.log(peer / ours))
        mark = "oui" if gap <= TARGETS[question] else "NON"
        print(f"  {mark}  {question} : écart de {french(100 * gap, 1)} %", flush=True)
        rows.append(
            {
                "name": f"{name}, {question}",
                "ours": ours,
                "peer": peer,
                "ratio": ours / peer,
                "unit": "s" if question == "durée" else "bits/octet",
                "inside": best.low <= loss <= best.high,
                "grid": tried,
            }
        )
    return rows


def main() -> None:
    """Juge chaque corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", default=[], help="débuts de noms")
    parser.add_argument("--hours", type=float, default=0.05)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--quick", action="store_true", help="le plus petit corpus, en une minute")
    parser.add_argument("--no-grid", action="store_true", help="sans chercher mieux autour")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    announce()
    names = [each for each in CORPORA if each.startswith(tuple(arguments.only or CORPORA))]
    hours, minutes = arguments.hours, arguments.minutes
    if arguments.quick:
        names, hours, minutes = names[:1], 0.004, 0.2
    rows, found = [], []
    with TemporaryDirectory() as parent:
        for name in names:
            source = arguments.data / name
            if not source.exists():
                print(f"absent : {source}")
                continue
            print(f"\n{name}, {french(60 * hours, 1)} min", flush=True)
            folder = Path(parent) / source.stem
            found.append((source.stem, *announced(source, folder, hours, minutes)))
        print("\nDurées mesurées ; la suite n'en dépend plus.", flush=True)
        for name, lab, plan, loss, seconds in found:
            print(f"\n{name}", flush=True)
            tried = [] if arguments.no_grid else grid(lab, plan)
            rows += judge(name, plan, loss, seconds, tried)
    write_rows(arguments.json, rows)
    print(json.dumps({each["name"]: round(each["ratio"], 4) for each in rows}, ensure_ascii=False))


if __name__ == "__main__":
    main()
