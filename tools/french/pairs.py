"""Écrit les paires minimales du français : 60 phénomènes, 100 paires chacun, toujours les mêmes.

    python tools/french/pairs.py            refait les deux fichiers du paquet
    python tools/french/pairs.py --check    dit s'ils ne sont plus en date, et sort alors avec 1
    python tools/french/pairs.py --show 12  montre douze paires de chaque phénomène, à relire

Les candidates d'un phénomène sont rangées par l'empreinte de leur texte, qui ne dépend ni d'une
graine ni d'une version de Python ; chaque début commun en donne quelques-unes, puis d'autres s'il
en manque. Peu de débuts distincts : l'évaluation ne lit chacun qu'une fois.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

import agreement  # noqa: F401 — déclare les siens
import nominal  # noqa: F401 — déclare les siens
import prepositions  # noqa: F401 — déclare les siens
import pronouns  # noqa: F401 — déclare les siens
import tenses  # noqa: F401 — déclare les siens
from registry import PHENOMENA, Phenomenon

FOLDER = Path(__file__).resolve().parents[2] / "src/gpt_architecture/evaluation/lm_eval_tasks"
PAIRS, INDEX = "paires_fr.jsonl", "paires_fr.json"
COUNT = 100
"""Paires d'un phénomène."""
PER_PREFIX = 5
"""Paires d'un même début, tant que d'autres débuts en ont."""
_MARK = re.compile(r"(.*)\[(.*)\|(.*)\](.*)", re.DOTALL)

Pair = tuple[str, str]


def split(sentence: str) -> tuple[str, Pair]:
    """Le début commun d'une candidate, et ses deux phrases."""
    found = _MARK.fullmatch(sentence)
    if found is None or found[2] == found[3]:
        raise ValueError(f"candidate mal formée : {sentence}")
    start, good, bad, end = found.groups()
    return start, (f"{start}{good}{end}", f"{start}{bad}{end}")


def chosen(phenomenon: Phenomenon) -> list[Pair]:
    """Les paires retenues d'un phénomène, dans l'ordre où elles sont écrites."""
    by_start: dict[str, list[Pair]] = {}
    candidates = {*phenomenon.candidates()}
    for sentence in sorted(candidates, key=lambda each: (_digest(each), each)):
        start, pair = split(sentence)
        by_start.setdefault(start, []).append(pair)
    found = list[Pair]()
    while by_start and len(found) < COUNT:
        for start in list(by_start):
            found += by_start[start][:PER_PREFIX]
            by_start[start] = by_start[start][PER_PREFIX:]
            if not by_start[start]:
                del by_start[start]
    if len(found) < COUNT:
        raise ValueError(f"{phenomenon.name} : {len(found)} paires, il en faut {COUNT}")
    return found[:COUNT]


def written() -> dict[str, bytes]:
    """Le contenu des deux fichiers."""
    lines = [
        json.dumps({"phenomene": each.name, "juste": good, "fausse": bad}, ensure_ascii=False)
        for each in PHENOMENA
        for good, bad in chosen(each)
    ]
    pairs = "".join(f"{line}\n" for line in lines).encode()
    index = {
        "title": "Paires minimales du français",
        "license": "MIT",
        "source": "écrites pour ce projet par tools/french, à partir de son propre lexique",
        "checked_against": "Lexique 3.83 (New et Pallier, CC BY-SA 4.0), dont rien n'est repris",
        "file": PAIRS,
        "sha256": hashlib.sha256(pairs).hexdigest(),
        "pairs": len(lines),
        "phenomena": [
            {"name": each.name, "family": each.family, "title": each.title} for each in PHENOMENA
        ],
    }
    text = json.dumps(index, ensure_ascii=False, indent=1)
    return {PAIRS: pairs, INDEX: f"{text}\n".encode()}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def main() -> None:
    """Écrit, vérifie ou montre les paires."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="n'écrit rien ; compare")
    parser.add_argument("--show", type=int, metavar="N", help="montre N paires par phénomène")
    arguments = parser.parse_args()
    if arguments.show:
        for each in PHENOMENA:
            print(f"\n{each.name} — {each.title}")
            for good, bad in chosen(each)[:: max(1, COUNT // arguments.show)][: arguments.show]:
                print(f"  {good:<60} * {bad}")
        return
    stale = []
    for name, content in written().items():
        path = FOLDER / name
        if not path.is_file() or path.read_bytes() != content:
            stale.append(name)
            if not arguments.check:
                path.write_bytes(content)
                print(f"{name} : {len(content)} octets")
    if arguments.check and stale:
        sys.exit(f"plus en date : {', '.join(stale)} ; lancez python tools/french/pairs.py")


if __name__ == "__main__":
    main()
