"""Du flux de tokens au flux de texte : jamais un demi-caractère."""

import pytest
from conftest import FRENCH_TEXT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.data.tokenizer import (
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    get_tokenizer,
)
from gpt_architecture.decoding.streaming import TextStream

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
