"""Rien d'un token n'est invisible."""

import io

import pytest
from rich.console import Console

from gpt_architecture.evaluation.cloze import ClozeResult
from gpt_architecture.reports.french import cloze_tables
from gpt_architecture.reports.terminal import table, visible_text, visible_token


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" the", "␣the"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        ("é", "é"),
        ("", "∅"),
        ("\x00\x1b", "␀␛"),
        ("\x7f", "‹U+007F›"),
        ("\u00a0«", "⍽«"),
        ("\u202e", "‹U+202E›"),  # inverse le sens de lecture
        ("\u200d", "‹U+200D›"),
        ("\u2028", "‹U+2028›"),
        ("\u0301", "◌\u0301"),  # un accent sans lettre
        ("</script>", "</script>"),
        ("\ufffd", "\ufffd"),
    ],
)
def test_token(token, shown):
    assert visible_token(token) == shown


def test_text_keeps_spaces_and_lines():
    text = "un\u00a0: deux\ntrois"
    assert visible_text(text) == text


def test_text_keeps_what_joins_letters():
    assert visible_text("👩\u200d🚒") == "👩\u200d🚒"


def test_text_shows_controls():
    assert visible_text("a\x1b[31mb\u202ec\r") == "a␛[31mb‹U+202E›c␍"


def test_the_rest_of_a_cut_name_is_aligned():
    """Un nom en retrait que la place coupe reprend sous son début."""
    buffer = io.StringIO()
    shown = table("Titre", ("Nom", "Valeur"), [["  un nom bien trop long pour tenir", "0,0 %"]])
    Console(file=buffer, width=30).print(shown)
    lines = [each for each in buffer.getvalue().splitlines() if "nom" in each or "tenir" in each]
    assert len(lines) > 1
    assert len({len(each) - len(each.lstrip()) for each in lines}) == 1


def test_a_cloze_without_examples_says_so():
    """Une épreuve sans exemple ne disparaît pas."""
    titles = [title for title, _, _ in cloze_tables(ClozeResult(last_word=None, choices=None))]
    assert titles == ["Dernier mot", "Mot manquant"]


@pytest.mark.parametrize("width", range(24, 60))
def test_a_cut_name_keeps_its_quotes_whole(width):
    """Un nom n'est coupé qu'entre ses mots, jamais après « ni avant » ; rien n'en est perdu."""
    buffer = io.StringIO()
    name = "  « Me le », « te la », mais « le lui », « les leur »"
    Console(file=buffer, width=width).print(table("T", ("Nom", "V"), [[name, "50,0 %"]]))
    lines = buffer.getvalue().rpartition("──")[2].replace("50,0 %", "").splitlines()[1:]
    lines = [line.strip() for line in lines]
    assert " ".join(filter(None, lines)).replace("\u00a0", " ") == name.strip()
    for line in lines:
        assert not line.endswith("«")
        assert not line.startswith("»")


def test_a_name_of_wide_letters_is_cut_to_its_cells():
    """Une lettre de deux cellules compte pour deux ; un mot trop long finit par « … »."""
    buffer = io.StringIO()
    Console(file=buffer, width=22).print(table("T", ("Nom", "V"), [["漢字漢字 漢字漢字", "1"]]))
    assert buffer.getvalue().count("漢字漢字") == 2
    Console(file=buffer, width=22).print(table("T", ("Nom", "V"), [["un-mot-bien-trop-long", "1"]]))
    assert "un-mot-bie" in buffer.getvalue()
    assert "…" in buffer.getvalue()
