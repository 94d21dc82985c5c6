"""Le cours dit vrai : ses nombres, ses figures et ses carnets viennent d'un même calcul."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import course  # noqa: E402 — un outil du dépôt, hors du paquet
from drawing import Drawing, same_drawing  # noqa: E402

CHAPTERS = sorted(course.CHAPTERS.glob("[0-9]-*.md"))
FIGURES = sorted((course.CHAPTERS / "figures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def named(path):
    return path.stem


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Où s'exécutent tous les carnets : le modèle que l'un entraîne sert aux suivants."""
    return tmp_path_factory.mktemp("carnets")


@pytest.mark.slow
@pytest.mark.parametrize("source", course.sources(), ids=named)
def test_notebook_figures_and_numbers_agree(source, folder):
    """Le carnet s'exécute ; son `.ipynb`, ses figures et les nombres de sa page sont en date."""
    assert course.outdated(source, folder) == []


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "rich"), [("1-tokens", set()), ("mon-texte", {"text/html", "image/svg+xml"})]
)
def test_a_real_kernel_runs_it(name, rich, tmp_path):
    """Jupyter exécute le fichier lui-même, cellule par cellule, et montre ce qu'il faut."""
    book = nbformat.read(course.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [each for cell in book.cells for each in cell.get("outputs", ())]
    assert outputs
    assert {kind for each in outputs for kind in each.get("data", {})} >= rich


@pytest.mark.parametrize("source", course.sources(), ids=named)
def test_committed_notebook_is_bare(source):
    """Ni sorties ni numéros d'exécution, un noyau que tout Jupyter connaît, l'installation dite."""
    book = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]
    assert "pip install -e" in book.cells[0].source


def test_every_chapter_has_its_notebook():
    """Neuf chapitres, un carnet pour chacun, et aucun carnet orphelin."""
    stems = {page.stem for page in CHAPTERS}
    assert len(stems) == 9
    assert {source.stem for source in course.sources()} == stems | {"mon-texte"}
    assert {stem for stem, _ in course.FIGURES.values()} == stems


@pytest.mark.parametrize("page", CHAPTERS, ids=named)
def test_chapter_is_whole(page):
    """Une figure, une expérience, où regarder dans le studio, des exercices et leurs réponses."""
    text = page.read_text(encoding="utf-8")
    assert 120 <= len(text.splitlines()) <= 250
    assert re.search(r"!\[[^\]]{20,}\]\(figures/[\w-]+\.svg\)", text)
    assert f"](../../notebooks/{page.stem}.ipynb)" in text
    assert "**Dans le studio**" in text
    exercises = text.partition("## Exercices")[2]
    assert len(re.findall(r"^\*\*\d\.\*\*", exercises, re.MULTILINE)) >= 3
    assert exercises.count("<details") == exercises.count("</details>") >= 3


@pytest.mark.parametrize("page", CHAPTERS, ids=named)
def test_every_decimal_number_says_where_it_comes_from(page):
    """Aucun nombre à virgule, hors du code, sans la marque qui le relie au carnet."""
    assert course.unmarked(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("figure", FIGURES, ids=named)
def test_figure_can_be_read_by_all(figure):
    """Un titre, une description, du texte, le clair et le sombre, et rien qui vienne d'ailleurs."""
    text = figure.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)  # noqa: S314 — nos propres figures
    assert len(root.findtext(f"{SVG}title")) > 10
    assert len(root.findtext(f"{SVG}desc")) > 40
    assert root.findall(f"{SVG}text")
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]


def test_no_figure_is_orphan():
    """Chaque figure du dossier est dessinée par l'outil et montrée par une page."""
    shown = "".join(page.read_text(encoding="utf-8") for page in CHAPTERS)
    assert {figure.stem for figure in FIGURES} == set(course.FIGURES)
    assert all(f"figures/{figure.name}" in shown for figure in FIGURES)


def test_wrong_number_is_mended():
    """La valeur du carnet remplace celle de la page, écrite de même."""
    names = {"loss": 6.91771, "count": 163009536, "name": "lampe", "gap": -0.001}
    page = (
        "perte 6,90<!--= loss --> nats, **12<!--= count -->**, `chat`<!--= name -->, "
        "écart 0,10<!--= gap -->"
    )
    assert course.refreshed(page, names) == (
        "perte 6,92<!--= loss --> nats, **163\u00a0009\u00a0536<!--= count -->**, "
        "`lampe`<!--= name -->, écart 0,00<!--= gap -->"
    )


def test_trained_number_keeps_its_tenth():
    """Ce qu'un entraînement donne peut s'écarter d'un dixième, pas davantage."""
    page = "vers 4,5<!--≈ loss -->"
    assert course.refreshed(page, {"loss": 4.8}) == page
    assert course.refreshed(page, {"loss": 5.6}) == "vers 5,6<!--≈ loss -->"
    bound = "plus de 20<!--≥ longest --> tokens, moins de 8<!--≤ chance -->"
    assert course.refreshed(bound, {"longest": 32, "chance": 5}) == bound


def test_table_and_block_are_mended():
    """Une marque seule sur sa ligne vaut pour le tableau ou le bloc qui la suit."""
    page = (
        "<!--= values -->\n| nom | a | b |\n|---|---|---|\n| deux | 1,0 | **2,0** |\n\n"
        "<!--= told -->\n```text\nancien\n```\n"
    )
    assert course.refreshed(page, {"values": [[1.5, 2.25]], "told": "nouveau\nbloc"}) == (
        "<!--= values -->\n| nom | a | b |\n|---|---|---|\n| deux | 1,5 | **2,2** |\n\n"
        "<!--= told -->\n```text\nnouveau\nbloc\n```\n"
    )


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("1,0<!--= absent -->", "« absent » ne se calcule pas"),
        ("plus de 20<!--≥ 3 * 6 -->", "la page dit ≥ 20, le carnet trouve 18"),
        ("<!--= [1, 2] -->\n| a | b |\n|---|---|\n| x | 1,0 |\n", "2 valeurs pour 1 cases"),
    ],
)
def test_mark_that_means_nothing_is_refused(page, message):
    """Une expression fausse, ou un tableau d'une autre taille, se dit."""
    with pytest.raises(ValueError, match=re.escape(message)):
        course.refreshed(page, {})


def test_unmarked_number_is_seen():
    """Le test des nombres sans marque ne passe pas faute de les voir."""
    assert course.unmarked("la perte vaut 6,92 nats") == ["la perte vaut 6,92 nats"]
    assert course.unmarked("soit 3 671<!--= count -->") == ["soit 3 671<!--= count -->"]
    assert course.unmarked("6,92<!--= loss --> et `0,5`\n```py\nx = 1,5\n```\n") == []


def test_stale_notebook_is_seen(tmp_path, monkeypatch):
    """Un `.ipynb` avec des sorties, ou en retard sur son texte, n'est pas en date."""
    monkeypatch.setattr(course, "ROOT", tmp_path)
    source = tmp_path / "essai.py"
    source.write_text("# %% [markdown]\n# Titre\n\n# %%\nx = 1\n", encoding="utf-8")
    assert course.outdated(source, tmp_path, write=True) == ["essai.ipynb"]
    assert course.outdated(source, tmp_path) == []
    book = nbformat.read(tmp_path / "essai.ipynb", as_version=4)
    assert jupytext.writes(book, fmt="py:percent").endswith("# %%\nx = 1\n")
    book.cells[1].outputs = [nbformat.v4.new_output("stream", text="1")]
    nbformat.write(book, tmp_path / "essai.ipynb")
    assert course.outdated(source, tmp_path) == ["essai.ipynb"]


def test_drawings_are_compared_by_their_numbers():
    """À l'octet ; à la tolérance dite, pour une courbe d'entraînement."""

    def curve(height, *, tolerance=0.0, label="perte"):
        draw = Drawing(100, 100, title="t", description="d", tolerance=tolerance)
        draw.path([(0, 50), (10, height)])
        draw.text(5, 5, label)
        return draw.svg()

    assert same_drawing(curve(60), curve(60))
    assert not same_drawing(curve(61), curve(60))
    assert same_drawing(curve(61, tolerance=0.1), curve(60, tolerance=0.1))
    assert not same_drawing(curve(90, tolerance=0.1), curve(60, tolerance=0.1))
    assert not same_drawing(curve(60, tolerance=0.1, label="x"), curve(60, tolerance=0.1))
