"""Une suite : son texte sans demi-caractère, ses arrêts, les tokens qu'elle devine."""

import pytest
import torch
from conftest import FRENCH_TEXT
from decoding_helpers import LetterTokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.data.tokenizer import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    get_tokenizer,
)
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import Continuation, StopMatcher, TextStream

REPLACEMENT = "\ufffd"
property_test = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Des caractères de deux à quatre octets, que GPT-2 coupe volontiers en plusieurs tokens.
hard_text = st.text(st.sampled_from("éàœ’—…日本語한🦉🏳️‍🌈👩‍🚀𝔘\u0301 a"), max_size=25)


@pytest.fixture(scope="module")
def gpt2():
    return get_tokenizer("gpt2")


def stream(decode, tokens, prompt=()):
    """Les morceaux rendus, token par token, puis à la fin."""
    text = TextStream(decode, prompt)
    return [text.push(token) for token in tokens], text.finish()


class TestBytePairs:
    @pytest.mark.parametrize(
        "text",
        [
            "Hello, I am",
            "L'été où naît le cœur",
            "🦉",
            "Un hibou 🦉, un drapeau 🏳️‍🌈, une famille 👩‍👩‍👧",
            "日本語のテキスト",
            "e\u0301 décomposé",
            "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
        ],
    )
    def test_no_half_character_is_shown(self, gpt2, text):
        pieces, rest = stream(gpt2.decode, gpt2.encode(text))
        assert "".join(pieces) == text
        assert rest == ""
        assert not any(REPLACEMENT in piece for piece in pieces)

    def test_an_emoji_waits_for_its_last_byte(self, gpt2):
        tokens = gpt2.encode("🦉")
        assert len(tokens) > 1
        pieces, _ = stream(gpt2.decode, tokens)
        assert pieces == [""] * (len(tokens) - 1) + ["🦉"]

    def test_plain_words_are_shown_at_once(self, gpt2):
        tokens = gpt2.encode("Every effort moves you")
        pieces, _ = stream(gpt2.decode, tokens)
        assert pieces == ["Every", " effort", " moves", " you"]

    def test_finish_gives_what_was_held_back(self, gpt2):
        tokens = gpt2.encode("ah 🦉")
        pieces, rest = stream(gpt2.decode, tokens[:-1])
        assert "".join(pieces) == "ah"
        assert rest == gpt2.decode(tokens[:-1])[len("ah") :]
        assert rest.endswith(REPLACEMENT)

    def test_finish_twice_gives_nothing_more(self, gpt2):
        text = TextStream(gpt2.decode)
        text.push(gpt2.encode("🦉")[0])
        assert text.finish() == REPLACEMENT
        assert text.finish() == ""

    def test_finish_without_token(self, gpt2):
        assert TextStream(gpt2.decode).finish() == ""
        assert TextStream(gpt2.decode, gpt2.encode("Hello")).finish() == ""

    def test_the_prompt_is_not_shown_again(self, gpt2):
        pieces, rest = stream(gpt2.decode, gpt2.encode(" moves you"), gpt2.encode("Every effort"))
        assert "".join(pieces) + rest == " moves you"

    @property_test
    @given(st.one_of(any_text, hard_text))
    def test_pieces_put_together_are_the_text(self, gpt2, text):
        tokens = gpt2.encode(text)
        pieces, rest = stream(gpt2.decode, tokens)
        assert "".join(pieces) + rest == gpt2.decode(tokens) == text
        if REPLACEMENT not in text:
            assert rest == ""
            assert not any(REPLACEMENT in piece for piece in pieces)

    @property_test
    @given(st.one_of(any_text, hard_text), st.integers(0, 40))
    def test_after_any_prompt(self, gpt2, text, cut):
        """Le début est un texte entier, comme celui qu'une personne tape."""
        prompt, continuation = text[:cut], text[cut:]
        before, after = gpt2.encode(prompt), gpt2.encode(continuation)
        pieces, rest = stream(gpt2.decode, after, before)
        assert prompt + "".join(pieces) + rest == gpt2.decode(before + after)

    @property_test
    @given(
        st.lists(st.one_of(st.integers(0, 300), st.integers(0, 50256)), max_size=30),
        st.integers(0, 5),
    )
    def test_any_tokens_even_invalid_utf8(self, gpt2, tokens, prompt_length):
        """Les 256 premiers identifiants sont des octets seuls : un modèle peut tout écrire."""
        prompt = gpt2.encode("un " * prompt_length)
        pieces, rest = stream(gpt2.decode, tokens, prompt)
        shown = gpt2.decode(prompt) + "".join(pieces) + rest
        assert shown == gpt2.decode([*prompt, *tokens])

    def test_context_reread_stays_bounded(self, gpt2):
        """Le coût d'un token ne croît pas avec la longueur du texte."""
        lengths = []

        def decode(tokens):
            lengths.append(len(tokens))
            return gpt2.decode(tokens)

        tokens = gpt2.encode(FRENCH_TEXT)
        pieces, _ = stream(decode, tokens, tokens)
        assert "".join(pieces) == FRENCH_TEXT
        assert len(tokens) > 200
        assert max(lengths) <= 8


class TestWordTokenizers:
    @pytest.fixture(params=[SimpleTokenizerV1, SimpleTokenizerV2])
    def tokenizer(self, request):
        return request.param.from_text(FRENCH_TEXT)

    @pytest.mark.parametrize(
        ("prompt", "continuation"),
        [
            ("Le passeur", "leva la lampe deux fois, puis il détacha le bateau."),
            ("Regarde l'eau", ", dit-il. Elle regarda l'eau."),
            ("Le", "passeur"),
            (",", "le bateau"),
            ("", "Le passeur leva la lampe"),
            ("Elle se taisait".replace("Elle", "elle"), "; — ; —"),
        ],
    )
    def test_spaces_are_those_of_the_whole_text(self, tokenizer, prompt, continuation):
        before, after = tokenizer.encode(prompt), tokenizer.encode(continuation)
        pieces, rest = stream(tokenizer.decode, after, before)
        whole = tokenizer.decode(before + after)
        assert tokenizer.decode(before) + "".join(pieces) + rest == whole
        assert all(pieces)
        assert rest == ""

    def test_a_word_brings_its_space_and_a_comma_none(self, tokenizer):
        pieces, _ = stream(
            tokenizer.decode, tokenizer.encode("leva, la"), tokenizer.encode("Le passeur")
        )
        assert pieces == [" leva", ",", " la"]

    @property_test
    @given(
        st.lists(st.integers(0, 10_000), max_size=20), st.lists(st.integers(0, 10_000), max_size=20)
    )
    def test_any_tokens(self, prompt, continuation):
        tokenizer = SimpleTokenizerV2.from_text(FRENCH_TEXT + " ( ) ! ? … ’ « » : _ --")
        before = [index % tokenizer.vocab_size for index in prompt]
        after = [index % tokenizer.vocab_size for index in continuation]
        pieces, rest = stream(tokenizer.decode, after, before)
        shown = tokenizer.decode(before) + "".join(pieces) + rest
        assert shown == tokenizer.decode(before + after)


ALPHABET = st.text("abc", max_size=12)


def stopped(stops, pieces):
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
    assert stopped(stops, pieces) == (text, matched)


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
    text, matched = stopped(stops, pieces)
    assert (matched is None) == (not any(stop in whole for stop in stops))
    assert not any(stop in text for stop in stops)
    assert whole.startswith(text + (matched or ""))
    if matched is None:
        assert text == whole


@given(pieces=st.lists(ALPHABET, max_size=8))
def test_without_stops_nothing_is_held(pieces):
    matcher = StopMatcher()
    assert [matcher.push(piece) for piece in pieces] == pieces


LETTERS = LetterTokenizer()
SIZE = LETTERS.vocab_size
KINDS = {
    "tirage": {"strategy": "temperature", "temperature": 0.8},
    "top-p": {"strategy": "top_p", "p": 0.9, "temperature": 1.3},
    "top-k": {"strategy": "top_k", "k": 5},
    "biais": {"strategy": "temperature", "logit_bias": {3: 2.0}},
}


def sequence_of(**settings):
    config = GenerationConfig(**{"max_tokens": 50, "seed": 7, "ignore_eos": True, **settings})
    return Continuation(LETTERS.encode("bonjour"), config, LETTERS, vocab_size=SIZE)


def test_the_last_piece_names_the_stop_that_was_found():
    """Le texte d'arrêt trouvé, même à cheval sur deux tokens ; aucun à la fin d'un texte."""
    sequence = sequence_of(stop=("xyz", "no"))
    *first, last = [sequence.accept(token) for token in LETTERS.encode("bon no")]
    assert [each.stop for each in first] == [None] * 5
    assert (last.finish, last.stop) == ("stop", "no")
    ended = sequence_of(stop=("n",), ignore_eos=False)
    last = [ended.accept(token) for token in (*LETTERS.encode("bo"), LETTERS.eos_id)][-1]
    assert (last.finish, last.stop) == ("stop", None)


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_same_logits_it_guesses_what_will_be_drawn(kind):
    rows = torch.randn(20, SIZE, generator=torch.Generator().manual_seed(1))
    sequence, untouched = sequence_of(**KINDS[kind]), sequence_of(**KINDS[kind])
    guess = sequence.guesser()
    guesses = [guess(row) for row in rows]
    drawn = [sequence.step(row).token for row in rows]
    assert guesses == drawn
    assert [untouched.step(row).token for row in rows] == drawn  # deviner n'a rien consommé
    assert len(set(drawn)) > 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "mirostat"},
        {"strategy": "temperature", "xtc_probability": 0.5},
    ],
)
def test_what_it_cannot_follow_it_guesses_greedily(settings):
    logits = torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    sequence = sequence_of(**settings)
    state = sequence.generator.get_state()
    assert sequence.guesser()(logits) == int(logits.argmax())
    assert torch.equal(sequence.generator.get_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_draft_still_names_a_token(kind):
    """La vérification, elle, dira que le modèle est malade."""
    guess = sequence_of(**KINDS[kind]).guesser()
    assert 0 <= guess(torch.full((SIZE,), torch.nan)) < SIZE
