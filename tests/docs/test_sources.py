"""Les sources : ce que le code cite se trouve ; le projet se cite aussi."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import gpt_architecture

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "gpt_architecture"
PAGE = ROOT / "docs" / "reference" / "sources.md"
ROW = re.compile(
    r"^\| (?P<cited>[^|]+, \d{4}) \| (?P<source>.+) \| (?P<where>.+) \|$", re.MULTILINE
)
NAME = r"(?:[A-Z]\. )*(?:[A-Z][\w-]+|p-e-w)"
NAMES = rf"{NAME} et al\.|(?:{NAME}, )*{NAME} et {NAME}|{NAME}"
CITATION = re.compile(rf"({NAMES})(?:, | \()((?:19|20)\d\d)\b")
LINK = re.compile(r"\]\((https://[^)\s]+)\)")
FORMS = {
    "arxiv.org": r"/abs/\d{4}\.\d{4,5}",
    "doi.org": r"/10\.\d{4,}/\S+",
    "github.com": r"/[\w-]+/[\w.-]+(/pull/\d+)?",
}
"""Ce que doit être un lien vers ces sites, après leur nom."""


def rows():
    """Les lignes des tableaux de la page."""
    return [found.groupdict() for found in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def key(names, year):
    """Premier auteur et année : « Black et Rogaway, 2002 » → (« Black », « 2002 »)."""
    first = re.split(r", | et ", names)[0]
    return re.sub(r"^(?:[A-Z]\. )+", "", first), year


def citations(text):
    """Les sources citées par auteur et année."""
    joined = " ".join(text.split())
    return {key(names, year) for names, year in CITATION.findall(joined)}


def cited_by_the_code():
    """(fichier, source) pour chaque citation d'une docstring ou d'un texte du code."""
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {
                    (path.relative_to(SOURCE).as_posix(), each) for each in citations(node.value)
                }
    return sorted(found)


LISTED = {key(*each["cited"].rsplit(", ", 1)) for each in rows()}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("le noyau (Holtzman et al.,\n    2020)", {("Holtzman", "2020")}),
        ("(Manber et Myers, 1993)", {("Manber", "1993")}),
        ("(Steele, Lea et Flood, 2014)", {("Steele", "2014")}),
        ("« lowbias32 » de C. Wellons (2018)", {("Wellons", "2018")}),
        ("« top choices » (p-e-w, 2024)", {("p-e-w", "2024")}),
        ("Li et al., 2020 (DDP) ; Zhao et al., 2023", {("Li", "2020"), ("Zhao", "2023")}),
        ("un lot de 2020 tokens, Zen 5, 1024 positions", set()),
    ],
)
def test_citations_are_seen(text, found):
    """Le test suivant ne passe pas faute de voir."""
    assert citations(text) == found


def test_what_the_code_cites_is_listed():
    """Chaque « Auteur, année » du code est dans la page, avec son lien."""
    cited = cited_by_the_code()
    assert len({source for _, source in cited}) > 30
    assert [each for each in cited if each[1] not in LISTED] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["cited"])
def test_a_source_has_a_link_and_a_place(row):
    """Un lien, et des fichiers qui existent et nomment son premier auteur."""
    assert LINK.search(row["source"])
    first, _ = key(*row["cited"].rsplit(", ", 1))
    for name in re.findall(r"`([^`]+)`", row["where"]):
        text = (SOURCE / name).read_text(encoding="utf-8")
        assert first in text, name


def test_links_are_well_formed():
    """Des identifiants d'arXiv, des DOI, des dépôts."""
    links = LINK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(links) > 40
    for link in links:
        _, _, host, path = link.split("/", 3)
        assert re.fullmatch(FORMS.get(host, r"/\S+"), f"/{path}"), link


def test_citation_file_is_valid():
    """Les champs que demande CFF 1.2.0, et la version du paquet."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(content)
    assert content["type"] == "software"
    assert content["version"] == gpt_architecture.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (content["title"], content["license"]) == (project["name"], project["license"])
    people = [content["authors"], *(each["authors"] for each in content["references"])]
    for author in (each for group in people for each in group):
        assert set(author) in ({"name"}, {"family-names", "given-names"})
    for reference in content["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
