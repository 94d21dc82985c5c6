"""Les textes d'arrêt, à cheval sur les morceaux."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.decoding.streaming import StopMatcher

ALPHABET = st.text("abc", max_size=12)


def run(stops, pieces):
    """Texte rendu, et l'arrêt trouvé."""
    matcher = StopMatcher(stops)
    shown = [matcher.push(piece) for piece in pieces]
    return "".join(shown) + matcher.finish(), matcher.matched


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "matched"),
    [
        ((), ["bon", "jour"], "bonjour", None),
        (("fin",), ["le d", "ébut"], "le début", None),
        (("fin",), ["la fi", "n est là"], "la ", "fin"),
        (("fin",), ["la fi", "lle"], "la fille", None),
        (("\n\n",), ["a\n", "b\n", "\nc"], "a\nb", "\n\n"),
        (("ab", "abc"), ["xab", "c"], "x", "ab"),
        (("abc", "ab"), ["xabc"], "x", "abc"),
        (("bc", "ab"), ["xab", "c"], "x", "ab"),
        (("aab",), ["aa", "ab"], "a", "aab"),
        (("été",), ["l'é", "té"], "l'", "été"),
    ],
)
def test_examples(stops, pieces, text, matched):
    assert run(stops, pieces) == (text, matched)


def test_what_could_begin_a_stop_is_held_back():
    matcher = StopMatcher(["fin"])
    assert matcher.push("la f") == "la "
    assert matcher.push("i") == ""
    assert matcher.push("l") == "fil"
    assert matcher.matched is None


def test_nothing_comes_after_a_stop():
    matcher = StopMatcher(["x"])
    assert matcher.push("ax") == "a"
    assert (matcher.push("suite"), matcher.finish()) == ("", "")


STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


@given(pieces=st.lists(ALPHABET, max_size=8), stops=STOPS)
def test_nothing_shown_holds_a_stop(pieces, stops):
    """La découpe ne change ni la présence d'un arrêt, ni qu'il n'est jamais montré."""
    whole = "".join(pieces)
    text, matched = run(stops, pieces)
    assert (matched is None) == (not any(stop in whole for stop in stops))
    assert not any(stop in text for stop in stops)
    assert whole.startswith(text + (matched or ""))
    if matched is None:
        assert text == whole


@given(pieces=st.lists(ALPHABET, max_size=8))
def test_without_stops_nothing_is_held(pieces):
    matcher = StopMatcher()
    assert [matcher.push(piece) for piece in pieces] == pieces
