"""Un retrait : ses places, ce qu'il masque, et l'inverse de l'échantillonneur."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from forget_helpers import write_talks
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import TrainingConfig
from gpt_architecture.config.mixture import parse_sources
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.masking import MaskedTokens, masked, neutral_of, without
from gpt_architecture.data.mixtures import MixtureSampler, MixtureTokens, unweave, weave
from gpt_architecture.data.packing import PackedConversations
from gpt_architecture.data.removal import Removal, merged, span_array, subtracted
from gpt_architecture.data.sampler import (
    IGNORED,
    WindowSampler,
    document_starts,
    learned_tokens,
    make_batch,
    permute,
    unpermute,
)
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.texts.conversations import EncodedConversation
from gpt_architecture.errors import ConfigurationError, DataError

SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1])),
    max_size=6,
)


def places_of(spans):
    return {place for start, stop in spans for place in range(start, stop)}


# --- Des morceaux -----------------------------------------------------------------------------


@settings(deadline=None)
@given(SPANS, SPANS)
def test_spans_are_sets_of_places(one, two):
    first, second = merged(one), merged(two)
    assert places_of(first) == places_of(one)
    assert all(a[1] < b[0] for a, b in pairwise(first))
    left = subtracted(first, second)
    assert places_of(left) == places_of(one) - places_of(two)
    assert left == merged(left)


def removal(train=((2, 5),), val=(), **changes):
    given = {"data": "d", "tokenizer": "t", "neutral": 0, "train": train, "val": val}
    return Removal(**{**given, **changes})


def test_a_removal_is_written_and_read_again(tmp_path):
    found = removal(((2, 5), (9, 12)), ((0, 3),))
    found.save(tmp_path / "retrait.json", [{"tokens": 6}])
    from gpt_architecture.data.removal import read_removal, removal_history

    assert read_removal(str(tmp_path / "retrait.json")) == found
    assert removal_history(tmp_path / "retrait.json") == [{"tokens": 6}]
    assert removal_history(tmp_path / "absent.json") == []
    assert found.tokens == 6


def test_removals_of_the_same_data_unite():
    one, two = removal(((2, 5),)), removal(((4, 8),), ((1, 2),))
    both = one.union(two)
    assert (both.train, both.val) == (((2, 8),), ((1, 2),))
    assert len({each.sha256 for each in (one, two, both)}) == 3
    assert one.union(None) is one
    with pytest.raises(DataError, match="d'autres données"):
        one.union(removal(data="e"))
    with pytest.raises(DataError, match="un autre tokenizer"):
        one.union(removal(tokenizer="e"))


@pytest.mark.parametrize(
    "changes",
    [
        {"train": ()},
        {"train": ((5, 2),)},
        {"train": ((2, 5), (4, 6))},
        {"train": ((-1, 5),)},
        {"train": ((0, 1.5),)},
        {"neutral": -1},
        {"neutral": True},
        {"data": None},
    ],
)
def test_a_malformed_removal_is_refused(changes):
    with pytest.raises(ConfigurationError, match="mal formé"):
        removal(**changes)
    values = {
        **removal().to_dict(),
        **{k: list(v) if k == "train" else v for k, v in changes.items()},
    }
    with pytest.raises(ConfigurationError, match="mal formé"):
        Removal.from_dict(values)


# --- Ce qui est masqué ------------------------------------------------------------------------


@settings(deadline=None)
@given(SPANS.filter(merged), st.integers(0, 70), st.integers(1, 20))
def test_masked_tokens_are_the_others(spans, start, window):
    ids = np.arange(1, 101)
    spans = merged(spans)
    tokens = masked(TokenArray(ids), spans, 0)
    hidden = np.isin(np.arange(100), list(places_of(spans)))
    assert tokens.read(start, window).tolist() == np.where(hidden, 0, ids)[start:][:window].tolist()
    expected = np.where(hidden, IGNORED, ids)[start + 1 :][:window]
    assert tokens.read_targets(start + 1, window).tolist() == expected.tolist()
    learned = tokens.count_learned(np.array([start, 3]), window)
    assert learned == int((~hidden[start + 1 :][:window]).sum() + (~hidden[4:][:window]).sum())
    assert tokens.num_tokens == 100


def test_nothing_removed_is_the_same_source():
    source = TokenArray(range(10))
    assert masked(source, (), 0) is source
    with pytest.raises(DataError, match="jusqu'au token 11"):
        masked(source, ((2, 11),), 0)


def test_untouched_windows_give_the_same_batch():
    """Ce qui fait qu'un point de reprise d'avant la première lecture reste le bon."""
    source = TokenArray(range(1, 400))
    tokens = masked(source, ((200, 230),), 0)
    starts = np.array([0, 100, 300])
    for one, two in zip(
        make_batch(source, starts, 96), make_batch(tokens, starts, 96), strict=True
    ):
        assert torch.equal(one, two)
    assert learned_tokens(source, starts, 96) == learned_tokens(tokens, starts, 96)


def test_a_batch_without_target_weighs_nothing():
    tokens = masked(TokenArray(range(1, 100)), ((10, 60),), 0)
    starts = np.array([20, 30])
    inputs, targets = make_batch(tokens, starts, 16)
    assert learned_tokens(tokens, starts, 16) == 0
    assert inputs.eq(0).all()
    assert (targets != IGNORED).sum() == 1  # de façade : la perte reste un nombre


def test_a_removed_token_is_a_document_alone():
    """Avec `document_mask`, rien ne voit ce qui est retiré, ni au travers."""
    tokens = masked(TokenArray([9, 1, 2, 3, 4, 5, 6]), ((2, 4),), 9)
    inputs, _ = make_batch(tokens, np.array([0]), 6)
    assert inputs.tolist() == [[9, 1, 9, 9, 4, 5]]
    assert document_starts(tokens, np.array([0]), inputs, 9).tolist() == [[0, 0, 2, 3, 3, 3]]


def test_packed_conversations_keep_their_bounds():
    rows = [
        EncodedConversation(ids=[1, 2, 3], learned=[False, True, True], line=1),
        EncodedConversation(ids=[4, 5], learned=[False, True], line=2),
    ]
    source = PackedConversations(rows, 7, padding=0)
    assert source.places == [(1, 0, 3), (2, 3, 5)]
    tokens = masked(source, ((0, 3),), 0)
    assert tokens.read(0, 8).tolist() == [0, 0, 0, 4, 5, 0, 0, 0]
    assert tokens.read_targets(0, 8).tolist() == [IGNORED] * 4 + [5] + [IGNORED] * 3
    assert torch.equal(tokens.read_boundaries(0, 8), source.read_boundaries(0, 8))
    assert not hasattr(MaskedTokens, "read_boundaries")


def test_data_say_what_is_removed(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text("Ouvre la porte. " + "Le quai dort sous la lampe. " * 20, encoding="utf-8")
    data = load_training_data(
        [str(path)], "char", window=8, training=TrainingConfig(train_ratio=0.8)
    )
    assert data.opening.startswith("Ouvre")
    assert neutral_of(data.tokenizer) == 0
    found = removal(((0, 16),), data=data.sha256, tokenizer=data.tokenizer_sha256, neutral=0)
    kept = without(data, found)
    assert kept.removal is found
    assert kept.opening == "Le quai dort sous"
    assert kept.val is data.val
    whole = removal(((0, data.train.num_tokens),), data=found.data, tokenizer=found.tokenizer)
    with pytest.raises(DataError, match="tout le texte"):
        without(data, whole)
    with pytest.raises(DataError, match="d'autres données"):
        without(data, removal())


def test_conversations_keep_some_validation(tmp_path):
    """Elle donne l'invite des exemples : retirée, c'est elle que le refus nomme."""
    training = TrainingConfig(train_ratio=0.75, batch_size=1)
    data = load_chat_data(write_talks(tmp_path, count=4), "char", window=96, training=training)
    own = {"data": data.sha256, "tokenizer": data.tokenizer_sha256}
    kept = without(data, removal(((0, data.train.num_tokens),), **own))
    assert kept.opening == data.opening
    gone = removal((), ((0, data.val.num_tokens),), **own)
    with pytest.raises(DataError, match="toutes les conversations de validation") as caught:
        without(data, gone)
    assert "recommencez l'entraînement" in str(caught.value)


# --- L'inverse de l'échantillonneur -----------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 5))
def test_unpermute_is_the_inverse(size, seed, epoch):
    places = np.arange(size, dtype=np.int64)
    epochs = np.full_like(places, epoch)
    images = permute(places, size, seed=seed, epochs=epochs)
    assert unpermute(images, size, seed=seed, epochs=epochs).tolist() == places.tolist()


def slow_readers(sampler, spans, sequences):
    """L'oracle : chaque séquence, relue."""
    removed, found = places_of(spans), set()
    for sequence in range(sequences):
        start = sampler.start_of(sequence)
        if removed & set(range(start, start + sampler.window + 1)):
            found.add(sequence)
    return found


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 9),
    st.integers(1, 20),
    st.integers(0, 99),
    SPANS,
    st.integers(1, 120),
    st.booleans(),
)
def test_readers_are_those_brute_force_finds(window, stride, seed, spans, sequences, shuffle):
    sampler = WindowSampler(73, window, stride=stride, batch_size=1, seed=seed, shuffle=shuffle)
    spans = merged((start, min(stop, 73)) for start, stop in spans)
    blocks = [ids.tolist() for ids in sampler.readers(span_array(spans), sequences)]
    found = [each for block in blocks for each in block]
    assert len(found) == len(set(found))
    assert set(found) == slow_readers(sampler, spans, sequences)
    for first in (0, sequences // 3, sequences):
        later = [each for each in found if each >= first]
        read = sampler.first_reader(span_array(spans), first, sequences)
        assert read == min(later, default=None)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 60))
def test_unweave_is_the_inverse(shares, place):
    source, rank = weave(place, shares)
    assert unweave(source, rank, shares) == place


@settings(deadline=None, max_examples=60)
@given(SPANS, st.integers(1, 90), st.sampled_from(["1", "0.7", "2x"]))
def test_readers_of_a_mixture(spans, sequences, weight):
    parts = [TokenArray(range(1, 30)), TokenArray(range(1, 44))]
    second = "1x" if weight.endswith("x") else "0.3"
    sources = parse_sources([f"a=x:{weight}", f"b=x:{second}"])
    sampler = MixtureSampler(MixtureTokens(parts, sources), 5, stride=3, batch_size=2, seed=4)
    spans = merged((start, min(stop, 72)) for start, stop in spans)
    found = [e for ids in sampler.readers(span_array(spans), sequences) for e in ids.tolist()]
    assert len(found) == len(set(found))
    assert set(found) == slow_readers(sampler, spans, sequences)
    for first in (0, sequences // 3, sequences):
        later = [each for each in found if each >= first]
        read = sampler.first_reader(span_array(spans), first, sequences)
        assert read == min(later, default=None)
