"""Les sorties que montrent les pages sont celles du programme."""

import pytest
from docs_helpers import tool

outputs = tool("outputs")
SHOWN = [shown for page in outputs.pages() for shown in outputs.shown_in(page)]


@pytest.fixture(scope="module")
def session():
    """Un dossier où les commandes se suivent, chacune lancée une fois."""
    with outputs.workplace() as running:
        yield running


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("shown", SHOWN, ids=[each.name for each in SHOWN])
def test_the_page_shows_what_the_program_writes(session, shown, monkeypatch):
    """Refaire : python tools/docsite/outputs.py --write."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(session.folder)
    found = session.output(shown)
    assert outputs.same(shown.output, found, loose=shown.is_loose), (
        f"refaire : python tools/docsite/outputs.py --write\n{found}"
    )


def test_several_commands_are_shown():
    """Le test précédent ne passe pas faute de matière."""
    commands = " ".join(each.commands for each in SHOWN)
    for command in ("train", "infer", "demo", "visualize", "evaluate", "inspect", "quantize"):
        assert f"gpt-architecture {command} " in commands, command
    for option in ("--score", "--trace", "tokenizer view", "convert"):
        assert option in commands, option


@pytest.mark.parametrize(
    ("one", "two", "alike"),
    [
        ("perte 1,234 | 120 tokens/s", "perte 1,236 | 80 tokens/s", True),
        ("perte 1,234", "perte 2,234", False),
        ("5 025 tokens", "5 026 tokens", True),
        ("5 025 tokens", "6 025 tokens", False),
        ("│ a │ 1 │", "│  a │  1  │", True),
        ("Modèle : a", "Model : a", False),
        ("un deux", "un deux trois", False),
    ],
)
def test_what_counts_as_the_same(one, two, alike):
    """Les nombres se comparent de près, les durées pas du tout, les mots exactement."""
    assert outputs.same(one, two) is alike


def test_a_generated_text_may_differ_by_a_word_not_by_all():
    """Le texte généré s'écarte un peu d'un processeur à l'autre ; pas entièrement."""
    text = "un soir la cloche sonna deux fois puis le passeur prit sa perche"
    assert outputs.same(text, text.replace("deux", "trois"), loose=True)
    assert not outputs.same(
        text, "rien de tout cela ne ressemble à ce que la page montre", loose=True
    )


def test_a_stale_output_is_seen(tmp_path):
    """Les marques se lisent, et ce qui manque est remplacé par « … »."""
    page = outputs.ROOT / "docs" / "essai.md"
    text = "```bash\nx\n```\n\n<!-- sortie, lignes : ^b -->\n```text\nb\n```\n"
    (match,) = outputs._MARKED.finditer(text)
    shown = outputs._shown(page, match)
    assert (shown.keep, shown.is_loose, shown.output) == ("^b", False, "b\n")
    assert outputs._kept(["a", "b1", "c", "d", "b2"], "^b") == ["…", "b1", "…", "b2"]
    assert outputs._kept(["", "b1", "", "b2", "", "e"], "^b") == ["b1", "b2", "…"]
