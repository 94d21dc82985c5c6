"""Rien d'un token n'est invisible."""

import pytest

from gpt_architecture.reports.terminal import visible_text, visible_token


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
