"""Ce que les pages affirment de chiffrable : compté, ou comparé au code."""

import re
import tomllib
from datetime import date

import pytest
from docs_helpers import PAGES, ROOT, name_of, text_of

README = text_of(ROOT / "README.md")
PROJECT = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
SOURCES = ROOT / "src" / "gpt_architecture"
WORDS = {7: "sept", 11: "onze", 18: "dix-huit"}


def test_the_core_is_as_long_as_it_says():
    """« N fichiers, M lignes » : les fichiers nommés, comptés."""
    found = re.search(r"un après-midi : (\d+) fichiers, ([\d ]+) lignes environ.*?\n\n(.*)", README)
    files = re.findall(r"`([\w/]+\.py)`", found[3])
    lines = sum(len(text_of(SOURCES / name).splitlines()) for name in files)
    assert int(found[1]) == len(files) == len(set(files))
    assert abs(int(found[2].replace(" ", "")) - lines) <= 100, lines


def test_the_readme_stays_short():
    """Le reste est dans le site."""
    assert len(README.splitlines()) <= 160


def test_the_readme_counts_strategies_and_stages():
    """Les nombres écrits en lettres."""
    from gpt_architecture.decoding.config import STRATEGIES
    from gpt_architecture.decoding.pipeline import STAGE_ORDERS

    assert f"{WORDS[len(STRATEGIES)]} stratégies" in README
    assert f"{WORDS[len(STAGE_ORDERS['hf'])]} étapes" in README


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_parameters_are_those_of_the_code(page):
    """163 millions pour le modèle du document, jamais 162, qui est celui de 256 positions."""
    from gpt_architecture.config import PRESETS, GPTConfig

    known = {
        GPTConfig().num_parameters(),
        PRESETS["gpt2-small"].num_parameters(),
        GPTConfig(context_length=256).num_parameters(),
    }
    text = re.sub(r"(?<=\d)[  ,](?=\d{3})", "", text_of(page))
    assert not re.search(r"\b162 millions", text)
    counts = {int(each) for each in re.findall(r"\b1(?:24|6[23])\d{6}\b", text)}
    assert counts <= known
    if page.name in ("origine.md", "modele.md"):
        assert counts == known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_pip_is_asked_for_exists(page):
    """Un groupe facultatif nommé existe, et s'installe depuis le clone."""
    extras, text = PROJECT["optional-dependencies"], text_of(page)
    assert not re.search(r"pip install [^`\n]*gpt-architecture", text)
    for name in re.findall(r"pip install -e [\"']?\.\[([\w,-]+)\]", text):
        assert name == "groupe" or set(name.split(",")) <= set(extras), name
    for name in re.findall(r"(?<![\w-])extras? `([\w-]+)`", text):
        assert name in extras, name


def test_every_extra_is_explained():
    """La page d'installation les nomme tous."""
    text = text_of(ROOT / "docs/demarrer/installation.md")
    for name in PROJECT["optional-dependencies"]:
        assert f"`{name}`" in text, name


def test_every_tokenizer_is_in_the_table():
    """Ceux que `--tokenizer` accepte."""
    text = text_of(ROOT / "docs/architecture/modele.md")
    for name in ("gpt2", "simple-v1", "simple-v2", "char", "bpe-4096"):
        assert f"| `{name}` |" in text, name


def test_every_benchmark_is_in_the_table():
    """Un banc nouveau a sa ligne, un banc retiré n'en a plus."""
    named = set(re.findall(r"`benchmarks/(\w+)\.py`", text_of(ROOT / "docs/mesures/index.md")))
    assert named == {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")}


def test_every_preset_and_variable_is_explained():
    """Les préréglages dans le guide, les variables qu'aucune option ne porte dans la référence."""
    from gpt_architecture.cli.command import ENV_PREFIX, OTHER_VARIABLES
    from gpt_architecture.config import TRAINING_PRESETS

    guide = text_of(ROOT / "docs/guides/entrainement.md")
    assert all(f"| `{name}` |" in guide for name in TRAINING_PRESETS)
    variables = text_of(ROOT / "docs/reference/environnement.md")
    assert all(f"`{ENV_PREFIX}{name}`" in variables for name in OTHER_VARIABLES)


def test_the_small_preset_is_the_one_described():
    """La page du modèle « petit » dit ses réglages d'aujourd'hui."""
    from gpt_architecture.config import TRAINING_PRESETS

    petit = TRAINING_PRESETS["petit"]
    text = text_of(ROOT / "docs/guides/entrainement.md").replace(" ", " ")
    shape = f"{petit['n_layers']} blocs de {petit['emb_dim']}, contexte {petit['context_length']}"
    size = f"{int(petit['tokenizer'].removeprefix('bpe-')):,}".replace(",", " ")
    assert f"Muon, {shape}, BPE de {size} tokens" in text


def test_the_journal_is_dated_and_in_order():
    """De vraies dates, la plus récente en haut."""
    titles = re.findall(r"^## (.+)$", text_of(ROOT / "docs/mesures/journal.md"), re.MULTILINE)
    dates = [date.fromisoformat(title.split(" — ")[0]) for title in titles]
    assert dates == sorted(dates, reverse=True)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_paragraph_is_said_twice(page):
    """Deux paragraphes d'une page ne commencent pas de même."""
    paragraphs = [each[:120] for each in re.split(r"\n+", text_of(page)) if len(each) > 200]
    assert len(paragraphs) == len(set(paragraphs))


def test_one_memory_figure_for_one_measure():
    """La mémoire et la taille du fichier que cite le README sont celles des mesures."""
    measures = text_of(ROOT / "docs/mesures/performances.md")
    (ours,) = re.findall(
        r"^\| ce projet \| [^|]+ \| [^|]+ \| ([\d,]+ Go) \|", measures, re.MULTILINE
    )
    for page in (README, text_of(ROOT / "docs/origine.md")):
        assert ours in page
        assert "621,9 Mio" in page
        assert "3,12" not in page


def test_the_original_memory_is_quoted():
    """Le document d'origine annonçait une mémoire : elle est dite, à côté de la nôtre."""
    assert re.search(r"\| mémoire \| « ~2 Go » \| [\d,]+ Go", text_of(ROOT / "docs/origine.md"))
