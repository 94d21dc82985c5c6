"""De longues suites, de blancs ou de lettres : les tokens que le motif aurait donnés, et vite."""

import re

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts import documents
from gpt_architecture.data.tokenizer import GPT2Tokenizer
from gpt_architecture.data.tokenizers import gpt2 as gpt2_module
from gpt_architecture.data.tokenizers.bpe import BPETokenizer

LONG = 1_500_000
RUNS = st.lists(
    st.tuples(
        st.sampled_from([" ", "\n", "\t", "\u00a0", "\u2003", "\x1c", "a", "é", "1", ".", "'s"]),
        st.integers(1, 12),
    )
    | st.just((END_OF_TEXT, 1)),
    max_size=8,
).map(lambda runs: "".join(text * count for text, count in runs))


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=RUNS, special=st.sampled_from([frozenset(), frozenset({END_OF_TEXT}), "all"]))
def test_the_long_way_gives_the_ids_of_the_pattern(gpt2, monkeypatch, text, special):
    """L'oracle : tiktoken sur le texte entier, quand toute suite de trois blancs est longue."""
    blanks = gpt2_module._LONG_BLANK.pattern.replace("65536", "3")
    monkeypatch.setattr(gpt2_module, "_LONG_BLANK", re.compile(blanks))
    monkeypatch.setattr(gpt2_module, "_SHORT_TEXT", 0)
    monkeypatch.setattr(documents.cut_pieces, "__defaults__", (5,))
    expected = gpt2._encoding.encode(text, allowed_special=special, disallowed_special=())
    assert gpt2.encode(text, allowed_special=special) == expected


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("before", "run", "after"), [("", " ", ""), ("mot", " ", "mot"), ("", "\n", ".\n")]
)
def test_a_million_and_a_half_blanks(gpt2, before, run, after):
    """L'oracle : le découpage GPT-2 de tokenizers, puis la fusion de chaque mot par tiktoken."""
    text = before + run * (LONG // len(run)) + after
    words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    expected = [
        token
        for _, (start, end) in words
        for token in gpt2._encoding._encode_single_piece(text[start:end])
    ]
    assert gpt2.encode(text) == expected


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("run", ["ACGT", "7"])
def test_a_word_without_end(gpt2, run):
    """Un seul mot d'un million et demi de caractères : fusionné entier, non en heures."""
    text = run * (LONG // len(run))
    assert gpt2.encode(text) == gpt2._encoding._encode_single_piece(text)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("pattern", ["gpt2", "moderne"])
def test_ones_own_vocabulary_too(pattern):
    own = BPETokenizer.from_text("ab  ab\n\n  ab " * 50, 280, pattern=pattern)
    text = "ab" + " " * LONG + "ab"
    assert own.encode(text) == own._engine.encode(text).ids
