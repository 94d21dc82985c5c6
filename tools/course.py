"""Tient le cours : carnets, figures et nombres des chapitres viennent d'un même calcul.

    python tools/course.py            refait les .ipynb, les figures et les nombres
    python tools/course.py --check    dit ce qui n'est plus en date, et sort alors avec 1

Un chapitre `docs/comprendre/N-nom.md` a son carnet `notebooks/N-nom.py`, au format « percent » de
jupytext ; le `.ipynb` en est tiré, sans sorties. Dans la page, une marque invisible dit d'où vient
un nombre, une expression évaluée parmi les variables du carnet :

    la perte vaut 6,92<!--= uniform_loss --> nats       égal, à la dernière décimale écrite
    vers 4,6<!--≈ validation_loss --> nats              à un dixième près : un entraînement
    plus de 20<!--≥ longest --> tokens                  au moins (≥) ou au plus (≤) : de même

Seule sur sa ligne, la marque vaut pour ce qui suit : les cases numériques d'un tableau, lues dans
l'ordre, ou un bloc `text` entier. « ... » entre apostrophes inverses se marque comme un nombre.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import operator
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tools" / "pictures"))  # un seul crayon pour toutes les images

from course_figures import FIGURES  # noqa: E402
from drawing import same_drawing  # noqa: E402

NOTEBOOKS, CHAPTERS = ROOT / "notebooks", ROOT / "docs" / "comprendre"
NO_BREAK = "\u00a0"
NUMBER = rf"[−-]?\d[\d{NO_BREAK}]*(?:,\d+)?"
_INLINE = re.compile(
    rf"(?P<shown>`[^`\n]+`|{NUMBER})(?P<bold>\**)<!--(?P<kind>[=≈≥≤]) (?P<code>.+?) -->"
)
_LONE = re.compile(
    r"^(?P<mark><!--(?P<kind>[=≈≥≤]) (?P<code>.+?) -->\n+)"
    r"(?:```text\n(?P<block>[\s\S]*?)\n```|(?P<table>(?:\|.*\n)+))",
    re.MULTILINE,
)
_CELL = re.compile(rf"(?<=\|)(?P<left> *\**)(?P<shown>{NUMBER})(?P<right>\**(?: %)? *)(?=\|)")
_METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BOUNDS = {"≥": operator.ge, "≤": operator.le}
TOLERANCE = 0.1
"""Écart relatif permis à ce qu'un entraînement donne, d'une machine à l'autre."""


def sources() -> list[Path]:
    """Les carnets, dans l'ordre : le texte apparié de chacun."""
    return sorted(NOTEBOOKS.glob("*.py"))


def run_notebook(source: Path, folder: Path) -> dict[str, Any]:
    """Les variables d'un carnet, exécuté d'un trait dans `folder`."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    code = compile(source.read_text(encoding="utf-8"), str(source), "exec")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        exec(code, namespace)  # noqa: S102 — nos propres carnets
    return namespace


def notebook_text(source: Path) -> str:
    """Le `.ipynb` de ce carnet : sans sorties, identique à chaque fois."""
    book = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
    book.metadata, book.nbformat, book.nbformat_minor = dict(_METADATA), 4, 5
    for place, cell in enumerate(book.cells, start=1):
        cell.metadata, cell["id"] = {}, f"cellule-{place:02d}"
    text: str = nbformat.writes(book)  # type: ignore[no-untyped-call]
    return text.rstrip("\n") + "\n"


def written(value: Any, like: str) -> str:
    """Une valeur écrite comme `like` : mêmes apostrophes inverses, ou mêmes décimales."""
    if like.startswith("`"):
        return f"`{value}`"
    digits = len(like.partition(",")[2])
    rounded = round(float(value), digits) + 0.0  # jamais « −0,00 »
    text = f"{rounded:,.{digits}f}".replace(",", NO_BREAK)
    return text.replace(".", ",").replace("-", "−")


def number(shown: str) -> float:
    """La valeur d'un nombre écrit en français."""
    return float(shown.replace(NO_BREAK, "").replace(",", ".").replace("−", "-"))


def refreshed(page: str, names: Mapping[str, Any]) -> str:
    """La page, chaque marque suivie de la valeur que donne le carnet.

    Raises:
        ValueError: une expression ne se calcule pas, ou un tableau n'a pas autant de cases
            numériques que de valeurs.
    """

    def alone(match: re.Match[str]) -> str:
        value = _value(match["code"], names)
        if match["block"] is not None:
            return f"{match['mark']}```text\n{str(value).strip(chr(10))}\n```"
        values = list(_flat(value))
        if len(values) != (cells := len(_CELL.findall(match["table"]))):
            raise ValueError(f"{match['code']} : {len(values)} valeurs pour {cells} cases")
        left = iter(values)

        def cell(found: re.Match[str]) -> str:
            shown = _kept(found["shown"], next(left), match["kind"])
            return found["left"] + shown + found["right"]

        return match["mark"] + _CELL.sub(cell, match["table"])

    def inline(match: re.Match[str]) -> str:
        shown = _kept(match["shown"], _value(match["code"], names), match["kind"])
        return shown + match[0].removeprefix(match["shown"])

    return _INLINE.sub(inline, _LONE.sub(alone, page))


def unmarked(page: str) -> list[str]:
    """Les lignes, hors du code, qui montrent un nombre à virgule sans dire d'où il vient.

    Ou dont les milliers sont séparés par une espace ordinaire, qui couperait un nombre marqué.
    """
    bare = re.sub(r"^```.*?^```", "", _LONE.sub("", page), flags=re.MULTILINE | re.DOTALL)
    bare = re.sub(r"`[^`\n]*`", "", bare)
    split = [line for line in bare.splitlines() if re.search(r"\d \d{3}", line)]
    return split + [
        line for line in _INLINE.sub("", bare).splitlines() if re.search(r"\d,\d", line)
    ]


def outdated(source: Path, folder: Path, *, write: bool = False) -> list[str]:
    """Ce qui n'est plus en date pour ce carnet : son `.ipynb`, ses figures, son chapitre.

    Args:
        source: le texte du carnet.
        folder: où l'exécuter ; le modèle qu'un carnet entraîne y sert aux suivants.
        write: récrit ce qui ne l'est plus.
    """
    wanted = {source.with_suffix(".ipynb"): notebook_text(source)}
    page = CHAPTERS / f"{source.stem}.md"
    if page.exists():  # sinon, aucune page ne cite ce carnet
        names = run_notebook(source, folder)
        wanted[page] = refreshed(page.read_text(encoding="utf-8"), names)
        for name, (stem, draw) in FIGURES.items():
            if stem == source.stem:
                wanted[CHAPTERS / "figures" / f"{name}.svg"] = draw(names)
    late = []
    for path, text in wanted.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        same = same_drawing(found, text) if path.suffix == ".svg" else found == text
        if not same:
            late.append(str(path.relative_to(ROOT)))
            if write:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    return late


def main() -> int:
    """Refait le cours, ou dit ce qui n'est plus en date."""
    parser = argparse.ArgumentParser(description="Refait le cours, ou vérifie qu'il est en date.")
    parser.add_argument("--check", action="store_true", help="vérifie sans rien écrire")
    parser.add_argument("names", nargs="*", help="carnets à refaire, par leur nom ; tous sinon")
    arguments = parser.parse_args()
    late: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources():
            if arguments.names and source.stem not in arguments.names:
                continue
            late += outdated(source, Path(folder), write=not arguments.check)
    print("\n".join(late) if late else "Le cours est en date.")
    return 1 if late and arguments.check else 0


def _kept(shown: str, value: Any, kind: str) -> str:
    """Ce qui est écrit, s'il est assez proche, ou borne la valeur ; sinon la valeur."""
    if kind in BOUNDS:
        if not BOUNDS[kind](float(value), number(shown)):
            raise ValueError(f"la page dit {kind} {shown}, le carnet trouve {value}")
        return shown
    if kind == "≈" and not shown.startswith("`"):
        unit = 10.0 ** -len(shown.partition(",")[2])
        if abs(number(shown) - float(value)) <= max(TOLERANCE * abs(float(value)), unit):
            return shown
    return written(value, shown)


def _value(code: str, names: Mapping[str, Any]) -> Any:
    try:
        return eval(code, dict(names))  # noqa: S307 — les expressions de nos propres pages
    except Exception as error:
        raise ValueError(f"« {code} » ne se calcule pas : {error}") from error


def _flat(value: Any) -> Iterator[Any]:
    """Les nombres d'une liste, d'un tableau ou d'un tenseur, dans l'ordre de lecture."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        value = value.values()
    if isinstance(value, Iterable):
        for each in value:
            yield from _flat(each)
    else:
        yield value


if __name__ == "__main__":
    sys.exit(main())
