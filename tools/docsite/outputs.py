"""Les sorties que montrent les pages : refaites, et comparées ou récrites.

    python tools/docsite/outputs.py            dit celles qui ne sont plus celles du programme
    python tools/docsite/outputs.py --write    les récrit

Un bloc `bash` suivi de `<!-- sortie -->` et d'un bloc `text` est exécuté, dans un dossier neuf,
hors ligne et à un seul thread ; les pages se suivent (`pages`), et une même commande n'est lancée
qu'une fois : `train --preset eclair`, au début, donne le modèle des suivantes. La marque dit au
besoin ce qui est montré :

    <!-- sortie -->                          tout ce qui va sur la sortie standard
    <!-- sortie, lignes : Texte|Modèle -->   ces lignes seulement, « … » à la place des autres
    <!-- sortie du texte généré -->          de même, et les mots peuvent s'écarter un peu

Les nombres se comparent à quelques centièmes près, les durées et les débits pas du tout : ils
changent d'une machine à l'autre. D'un processeur à l'autre, un arrondi peut aussi changer un mot
d'un texte généré : d'où la troisième marque.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
_FIRST = ("README.md", "docs/demarrer/premier-modele.md")
_MARKED = re.compile(
    r"^```bash\n(?P<commands>(?:(?!```).*\n)*)```\n\n?"
    r"(?P<mark><!-- sortie(?P<loose> du texte généré)?(?:, lignes : (?P<keep>.*?))? -->\n)"
    r"```text\n(?P<output>(?:(?!```).*\n)*)```",
    re.MULTILINE,
)
_UNSTABLE = re.compile(
    r"\| *\d+ tokens/s.*|\d[\d  ]* tokens/s|Terminé en .*|reste .*|\d+(?:,\d+)? (?:ms|s|min)\b.*"
)
_NUMBER = re.compile(r"[−-]?\d+(?:,\d+)?")
_DRAWN = re.compile(r"[─-╿]+")  # les cadres, dont la largeur dépend de ce qu'ils tiennent
_LOOSE_ENOUGH = 0.5
"""Part des mots communs : d'un processeur à l'autre, un texte échantillonné change presque tout,
mais ni le cadre, ni le texte glouton, ni le gros des mesures (mesuré : 0,6)."""


@dataclass(frozen=True)
class Shown:
    """Une sortie montrée par une page.

    Attributes:
        page: la page.
        commands: les commandes, une par ligne.
        output: ce que la page en montre.
        keep: lignes montrées ; vide : toutes.
        is_loose: les mots peuvent s'écarter un peu.
    """

    page: Path
    commands: str
    output: str
    keep: str
    is_loose: bool

    @property
    def name(self) -> str:
        """La page et la première commande."""
        return f"{self.page.relative_to(ROOT).as_posix()} : {self.commands.splitlines()[0]}"


def pages() -> list[Path]:
    """Les pages qui montrent des sorties, celles qui font le modèle d'abord."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    first = [ROOT / each for each in _FIRST]
    return sorted(found, key=lambda page: page not in first)


def shown_in(page: Path) -> Iterator[Shown]:
    """Les sorties que montre une page, dans l'ordre."""
    for match in _MARKED.finditer(page.read_text(encoding="utf-8")):
        yield _shown(page, match)


def _shown(page: Path, match: re.Match[str]) -> Shown:
    keep, loose = match["keep"] or "", match["loose"] is not None
    return Shown(page, match["commands"], match["output"], keep, loose)


_EXACT = {"GPT_ARCHITECTURE_TRAIN_PRECISION": "fp32"}
"""En bf16, que choisirait un processeur récent, un texte s'écarte trop de celui d'un autre."""


class Session:
    """Lance les commandes, chacune une fois, dans le dossier courant.

    Args:
        folder: ce dossier.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._known = folder, dict[str, str]()

    def output(self, shown: Shown) -> str:
        """Ce que le programme écrit aujourd'hui, réduit à ce que la page montre."""
        text = "".join(self._run(line) for line in shown.commands.splitlines() if line.strip())
        lines = [line.rstrip() for line in text.strip("\n").splitlines()]
        return "\n".join(_kept(lines, shown.keep)) + "\n"

    def _run(self, line: str) -> str:
        from gpt_architecture.main import main

        if line not in self._known:
            program, *arguments = shlex.split(line.split(" #", maxsplit=1)[0])
            if program != "gpt-architecture":
                raise SystemExit(f"erreur : {line!r} n'est pas une commande du projet.")
            written = io.StringIO()
            with contextlib.redirect_stdout(written), mock.patch.dict(os.environ, _EXACT):
                try:
                    main(arguments)
                except SystemExit as stop:
                    if stop.code:
                        raise SystemExit(f"erreur : {line!r} rend le code {stop.code}.") from None
            self._known[line] = written.getvalue()
        return self._known[line]


@contextlib.contextmanager
def workplace() -> Iterator[Session]:
    """Un dossier neuf, hors ligne, à un thread, dans un terminal de cent colonnes."""
    import torch

    settings = {"COLUMNS": "100", "NO_COLOR": "1", "GPT_ARCHITECTURE_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in settings}
    threads = torch.get_num_threads()
    os.environ.update(settings)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            yield Session(Path(folder))
    finally:
        torch.set_num_threads(threads)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def same(expected: str, found: str, *, loose: bool = False) -> bool:
    """Vrai si deux sorties disent la même chose (voir le module)."""
    words, other = _words(expected), _words(found)
    if not loose:
        return len(words) == len(other) and all(map(_alike, words, other))
    shape, second = ([_NUMBER.sub("#", word) for word in each] for each in (words, other))
    matcher = difflib.SequenceMatcher(None, shape, second, autojunk=False)
    alike = sum(
        _alike(words[one + place], other[two + place])
        for one, two, length in matcher.get_matching_blocks()
        for place in range(length)
    )
    return 2 * alike >= _LOOSE_ENOUGH * (len(words) + len(other))


def _kept(lines: list[str], keep: str) -> list[str]:
    """Les lignes gardées, « … » à la place de celles qui ne le sont pas, aux bouts aussi."""
    result = list[str]()
    for line in lines:
        if not keep or re.search(keep, line):
            result.append(line)
        elif line and result[-1:] != ["…"]:
            result.append("…")
    ends = [place for place, line in enumerate(result) if line]
    return result[ends[0] : ends[-1] + 1] if ends else []


def _words(text: str) -> list[str]:
    stable = "\n".join(_UNSTABLE.sub("", line) for line in text.splitlines())
    spaced = _DRAWN.sub(" ", stable).replace("\xa0", " ").replace("\u202f", " ")
    return re.sub(r"(?<=\d) (?=\d{3}\b)", "", spaced).split()  # 1 010 est un seul mot


def _alike(one: str, two: str) -> bool:
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", two):
        return False
    return all(
        abs(a - b) <= 0.05 + 0.03 * abs(a)
        for a, b in zip(_numbers(one), _numbers(two), strict=True)
    )


def _numbers(word: str) -> list[float]:
    return [float(each.replace("−", "-").replace(",", ".")) for each in _NUMBER.findall(word)]


def main() -> int:
    """Compare ou récrit toutes les sorties."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="récrit les sorties qui ont changé")
    is_writing, stale = parser.parse_args().write, 0
    with workplace() as session:
        for page in pages():
            text = page.read_text(encoding="utf-8")

            def renewed(match: re.Match[str], page: Path = page) -> str:
                nonlocal stale
                shown = _shown(page, match)
                found = session.output(shown)
                if same(shown.output, found, loose=shown.is_loose and not is_writing):
                    return match[0]
                stale += 1
                print(f"{'récrite' if is_writing else 'périmée'} : {shown.name}")
                start, end = (place - match.start() for place in match.span("output"))
                return match[0][:start] + found + match[0][end:]

            new = _MARKED.sub(renewed, text)
            if is_writing and new != text:
                page.write_text(new, encoding="utf-8")
    return 0 if is_writing else min(stale, 1)


if __name__ == "__main__":
    sys.exit(main())
