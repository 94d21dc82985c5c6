"""Les canaris : une fonction de la graine, plantés sans rien recopier, ou refusés."""

import json
import random
from pathlib import Path

import pytest
import torch
from conftest import FRENCH_TEXT
from decoding_helpers import ByteTokenizer, LetterTokenizer
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.config import TrainingConfig
from gpt_architecture.config.mixture import parse_sources
from gpt_architecture.data.canaries import (
    LETTERS,
    REPETITIONS,
    PlantedTokens,
    described,
    draw_canaries,
    plant,
)
from gpt_architecture.data.mixtures import load_mixture
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.training.inputs import with_canaries

BYTES = ByteTokenizer()
TEXT = TokenArray(BYTES.encode(FRENCH_TEXT * 6))


def test_they_are_a_function_of_the_seed():
    first, again, other = (draw_canaries(BYTES, 7, seed) for seed in (1, 1, 2))
    assert first == again
    assert {each.secret for each in first.canaries} != {each.secret for each in other.canaries}
    assert [each.repetitions for each in first.canaries] == [1, 2, 4, 8, 16, 1, 2]
    assert {each.repetitions for each in first.controls} == {0}
    assert len(first.controls) == 16
    assert len(draw_canaries(BYTES, 20, 1).controls) == 20
    everything = [*first.canaries, *first.controls]
    assert len({each.prefix for each in everything}) == len(everything)
    for each in everything:
        assert BYTES.decode(each.ids).strip() == each.text
        assert each.ids[: len(each.prefix)] == each.prefix
        assert each.ids[len(each.prefix) :][: len(each.secret)] == each.secret


def test_every_secret_is_as_likely():
    """Chaque lettre sort à chaque place, et l'énumération contient chaque secret une fois."""
    found = draw_canaries(BYTES, 1000, 5)
    secrets = list(found.secrets())
    assert len(secrets) == len(set(secrets)) == found.size == len(found.letters) ** LETTERS
    drawn = [each.secret for each in (*found.canaries, *found.controls)]
    assert set(drawn) <= set(secrets)
    for place in range(LETTERS):
        assert len({BYTES.decode(each)[2 * place + 1] for each in drawn}) == len(found.letters)


def inserted(base, insertions):
    """L'oracle : les mêmes insertions dans une liste."""
    whole, shift = list(base), 0
    for place, ids in insertions:
        whole[place + shift : place + shift] = ids
        shift += len(ids)
    return whole


@given(
    base=st.lists(st.integers(0, 99), min_size=1, max_size=40),
    data=st.data(),
)
def test_planted_tokens_read_like_a_list(base, data):
    spots = data.draw(st.lists(st.integers(0, len(base)), max_size=5).map(sorted))
    insertions = [(spot, (200 + number, 300 + number)) for number, spot in enumerate(spots)]
    planted = PlantedTokens(TokenArray(base), insertions)
    whole = inserted(base, insertions)
    assert planted.num_tokens == len(whole)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    assert planted.read(start, length).tolist() == whole[start : start + length]
    assert planted.read(start, length).dtype == torch.int64
    with pytest.raises(DataError):
        planted.read(start, len(whole) - start + 1)


def occurrences(tokens, wanted):
    return sum(
        tuple(tokens[place : place + len(wanted)]) == wanted
        for place in range(len(tokens) - len(wanted) + 1)
    )


def test_each_is_planted_as_often_as_it_says_between_words():
    canaries = draw_canaries(BYTES, 5, 3)
    planted = plant(TEXT, canaries, BYTES, 3)
    tokens = planted.read(0, planted.num_tokens).tolist()
    assert [occurrences(tokens, each.ids) for each in canaries.canaries] == list(REPETITIONS)
    assert not any(occurrences(tokens, each.prefix) for each in canaries.controls)
    places = [place for place, _ in planted.insertions]
    assert places == sorted(places)
    for place in places:
        assert BYTES.decode(TEXT.read(place, 1).tolist()) == " "
    spread = [p for p, ids in planted.insertions if ids == canaries.canaries[4].ids]
    quarter = TEXT.num_tokens / 4
    assert {int(place // quarter) for place in spread} == {0, 1, 2, 3}
    assert planted.sha256 == plant(TEXT, canaries, BYTES, 3).sha256 != TEXT.sha256
    assert planted.sha256 != plant(TEXT, canaries, BYTES, 4).sha256
    kept = BYTES.decode(tokens)
    for each in canaries.canaries:
        kept = kept.replace(BYTES.decode(each.ids), "")
    assert kept == FRENCH_TEXT * 6


@pytest.mark.parametrize("name", ["gpt2", "bpe-300", "char"])
def test_real_tokenizers_write_them(name):
    tokenizer = get_tokenizer(name, text=FRENCH_TEXT + "\nLabcdefghijklmnopqrstuvwxyz dossier est.")
    found = draw_canaries(tokenizer, 3, 0)
    assert found.letters == "abcdefghijklmnopqrstuvwxyz"
    for each in found.canaries:
        assert tokenizer.decode(each.ids) == f"\n{each.text}\n"


def test_letters_a_vocabulary_lacks_are_left_out():
    text = "\nLe code du dossier est. abcdefghijlmnopqrst"
    found = draw_canaries(get_tokenizer("char", text=text), 3, 0)
    assert set(found.letters) == set("abcdefghijlmnopqrstu")
    assert found.size == len(found.letters) ** LETTERS < 26**LETTERS


def test_a_tokenizer_that_cannot_write_them_is_refused():
    words = get_tokenizer("simple-v2", text=FRENCH_TEXT)
    with pytest.raises(ConfigurationError, match=r"ne sait pas écrire un canari.*bpe-N"):
        draw_canaries(words, 1, 0)

    class Letters(LetterTokenizer):
        """Ni majuscule ni fin de ligne."""

        def encode(self, text, *, allowed_special=frozenset()):
            return super().encode(text.lower().replace("\n", " "))

    with pytest.raises(ConfigurationError, match="lettres ne sait pas écrire"):
        draw_canaries(Letters(), 1, 0)


def test_they_cannot_weigh_more_than_a_quarter():
    short = TokenArray(BYTES.encode(FRENCH_TEXT[:400]))
    with pytest.raises(ConfigurationError, match=r"5 canaris pèseraient \d+ tokens, pour \d+"):
        plant(short, draw_canaries(BYTES, 5, 1), BYTES, 1)


def test_the_list_tells_texts_and_repetitions():
    found = draw_canaries(BYTES, 2, 9)
    told = json.loads(json.dumps(described(found, 9)))
    assert told["seed"] == 9
    assert told["canaries"][1] == {"text": found.canaries[1].text, "repetitions": 2}
    assert len(told["controls"]) == 16


def test_no_random_generator_moves():
    torch.manual_seed(0)
    before, state = torch.get_rng_state(), random.getstate()
    plant(TEXT, draw_canaries(BYTES, 3, 1), BYTES, 1)
    assert torch.equal(before, torch.get_rng_state())
    assert state == random.getstate()


def test_a_mixture_has_them_in_its_longest_source():
    Path("court.txt").write_text(FRENCH_TEXT, encoding="utf-8")
    Path("long.txt").write_text(FRENCH_TEXT * 6, encoding="utf-8")
    training = TrainingConfig(canaries=3, batch_size=1)
    sources = parse_sources(("a=court.txt:0.5", "b=long.txt:0.5"))
    plain = load_mixture(sources, "bpe-300", window=16, training=training)
    found = with_canaries(plain, training)
    assert found.train.parts[0] is plain.train.parts[0]
    assert found.train.parts[1].num_tokens > plain.train.parts[1].num_tokens
    assert found.train.names == ("a", "b")
    assert found.val is plain.val
    assert found.sha256 != plain.sha256
    assert with_canaries(plain, TrainingConfig()) is plain
