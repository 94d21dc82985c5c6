"""L'échantillonneur : chaque fenêtre une fois par époque, quel que soit le découpage."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.data.loader import GPTDatasetV1
from gpt_architecture.data.sampler import WindowSampler, make_batch, permute
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.errors import ConfigurationError, DataError

property_test = settings(deadline=None, max_examples=80)


def order(size, seed=0, epoch=0):
    places = np.arange(size, dtype=np.int64)
    return permute(places, size, seed=seed, epochs=np.full(size, epoch, dtype=np.int64)).tolist()


def sampler(num_windows, batch_size, **options):
    """Fenêtres d'un token : le premier token d'une fenêtre est son numéro."""
    return WindowSampler(
        num_windows + 1, 1, batch_size=batch_size, **{"seed": 0, "shuffle": True, **options}
    )


@pytest.mark.slow
@property_test
@given(st.integers(1, 3000), st.integers(0, 2**63 - 1), st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(size, seed, epoch):
    """Une bijection de [0, n[, pour toute taille, graine et époque."""
    assert sorted(order(size, seed, epoch)) == list(range(size))


@pytest.mark.slow
@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 4095, 4096, 4097, 65537])
def test_permutation_around_powers(size):
    """Les tailles voisines des puissances de 2 et de 4, une à une."""
    assert sorted(order(size)) == list(range(size))


def test_permutation_is_pinned():
    """Les mêmes ordres dans toutes les versions : une reprise en dépend."""
    assert order(12, seed=123, epoch=0) == [0, 2, 7, 8, 5, 11, 10, 6, 3, 9, 4, 1]
    assert order(12, seed=123, epoch=1) == [11, 3, 1, 7, 4, 8, 6, 0, 2, 5, 10, 9]


def test_places_are_mapped_one_by_one():
    """L'image d'une place ne dépend pas de celles demandées avec elle : mémoire constante."""
    whole = order(1000, seed=5, epoch=3)
    for place in (0, 1, 499, 999):
        one = np.array([place], dtype=np.int64)
        assert permute(one, 1000, seed=5, epochs=np.array([3])).item() == whole[place]


def test_a_huge_corpus_costs_nothing():
    """10**12 fenêtres : la place d'une séquence se calcule directement."""
    huge = WindowSampler(10**15, 1000, batch_size=4, seed=1)
    starts, ids = huge.batch(10**9)
    assert ids.tolist() == [4 * 10**9 + j for j in range(4)]
    assert len(set(starts.tolist())) == 4
    assert max(starts) < 10**15 - 1000


def test_orders_differ():
    """Deux époques, deux graines : d'autres ordres, sans points fixes en nombre."""
    base = order(500, seed=1, epoch=0)
    assert base != list(range(500))
    for other in (order(500, seed=1, epoch=1), order(500, seed=2, epoch=0)):
        assert sum(a == b for a, b in zip(base, other, strict=True)) < 15  # 1 attendu au hasard


@pytest.mark.parametrize("size", [2, 3, 5, 16, 50])
def test_places_are_uniform(size):
    """Sur les époques, chaque fenêtre vient aussi souvent à chaque place (khi-deux)."""
    epochs = np.arange(4000, dtype=np.int64)
    for place in {0, size - 1}:
        places = np.full(4000, place, dtype=np.int64)
        counts = np.bincount(permute(places, size, seed=7, epochs=epochs), minlength=size)
        expected = 4000 / size
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert chi_square < size - 1 + 5 * np.sqrt(2 * (size - 1)) + 5


@pytest.mark.parametrize(("length", "window", "stride"), [(50, 4, 4), (50, 4, 2), (9, 8, 3)])
def test_windows_are_those_of_the_dataset(length, window, stride):
    """Les mêmes fenêtres que GPTDatasetV1, dans l'ordre si l'on ne mélange pas."""

    class Letters:
        def encode(self, text, *, allowed_special=frozenset()):
            return [ord(letter) for letter in text]

    text = "".join(chr(97 + i % 26) for i in range(length))
    dataset = GPTDatasetV1(text, Letters(), window, stride)
    source = TokenArray([ord(letter) for letter in text])
    ordered = WindowSampler(
        length, window, stride=stride, batch_size=len(dataset), seed=0, shuffle=False
    )
    assert ordered.num_windows == len(dataset)
    inputs, targets = make_batch(source, ordered.batch(0)[0], window)
    assert torch.equal(inputs, torch.stack([dataset[i][0] for i in range(len(dataset))]))
    assert torch.equal(targets, torch.stack([dataset[i][1] for i in range(len(dataset))]))
    assert inputs.is_contiguous()
    assert inputs.dtype == torch.int64


@pytest.mark.slow
@property_test
@given(st.integers(1, 60), st.integers(1, 90), st.integers(1, 4), st.booleans())
def test_each_window_once_per_epoch(num_windows, batch_size, epochs, shuffle):
    """Les lots bout à bout : chaque époque voit tout, un lot peut en chevaucher plusieurs."""
    each = sampler(num_windows, batch_size, shuffle=shuffle)
    steps = each.steps_in(epochs)
    starts = np.concatenate([each.batch(step)[0] for step in range(steps)])
    assert (steps - 1) * batch_size < epochs * num_windows <= steps * batch_size
    for epoch in range(epochs):
        part = starts[epoch * num_windows : (epoch + 1) * num_windows]
        assert sorted(part.tolist()) == list(range(num_windows))
        if not shuffle:
            assert part.tolist() == list(range(num_windows))


@pytest.mark.slow
@property_test
@given(st.integers(1, 60), st.integers(0, 50), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_share_the_global_batch(num_windows, step, world_size):
    """La réunion des rangs, dans l'ordre, est le lot entier : même position à toute échelle."""
    each = sampler(num_windows, 12)
    whole_starts, whole_ids = each.batch(step)
    parts = [each.batch(step, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert np.concatenate([starts for starts, _ in parts]).tolist() == whole_starts.tolist()
    assert np.concatenate([ids for _, ids in parts]).tolist() == whole_ids.tolist()
    assert whole_ids.tolist() == list(each.sequence_ids(step))
    assert [each.start_of(int(i)) for i in whole_ids] == whole_starts.tolist()


def test_changing_world_size_midway_keeps_the_position():
    """Deux processus, puis trois : les fenêtres vues sont celles d'un seul processus."""
    each = sampler(25, 6)
    seen = []
    for step in range(each.steps_in(2)):
        world = 2 if step < 4 else 3
        for rank in range(world):
            seen += each.batch(step, rank=rank, world_size=world)[0].tolist()
    alone = [start for step in range(each.steps_in(2)) for start in each.batch(step)[0].tolist()]
    assert seen == alone
    assert set(Counter(seen[:50]).values()) == {2}


def test_steps():
    """Dix fenêtres par lots de 4 : 3 étapes pour une époque, 5 pour deux."""
    each = sampler(10, 4)
    assert (each.steps_per_epoch, each.steps_in(2), each.steps_in(4)) == (3, 5, 10)


def test_default_stride_is_the_window():
    """Sans décalage donné, les fenêtres sont jointives."""
    assert WindowSampler(101, 10, batch_size=1, seed=0).num_windows == 10


@pytest.mark.parametrize(
    "options",
    [{"window": 0}, {"stride": 0}, {"batch_size": 0}, {"seed": -1}, {"seed": 2**63}, {"seed": 1.0}],
)
def test_bad_arguments(options):
    """Chaque argument est nommé."""
    values = {"window": 2, "batch_size": 2, "seed": 0, **options}
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        WindowSampler(100, values.pop("window"), **values)


def test_too_short():
    """Une fenêtre a besoin de sa cible."""
    with pytest.raises(DataError, match="au moins 9"):
        WindowSampler(8, 8, batch_size=1, seed=0)
    assert WindowSampler(9, 8, batch_size=1, seed=0).num_windows == 1


def test_bad_ranks_and_steps():
    """Un lot non divisible, un rang, une étape ou un nombre d'époques hors bornes."""
    each = sampler(10, 4)
    with pytest.raises(ConfigurationError, match="multiple du nombre de processus"):
        each.batch(0, world_size=3)
    for options in ({"rank": 2, "world_size": 2}, {"rank": -1}, {"world_size": 0}):
        with pytest.raises(ConfigurationError):
            each.batch(0, **options)
    for call in (lambda: each.batch(-1), lambda: each.start_of(-1), lambda: each.steps_in(0)):
        with pytest.raises(ConfigurationError):
            call()


@property_test
@given(
    st.integers(2, 90),
    st.integers(1, 9),
    st.integers(1, 14),
    st.integers(0, 40),
    st.booleans(),
    st.data(),
)
def test_what_is_read_whole_is_exact(num_tokens, window, stride, sequences, shuffle, data):
    """Contre les fenêtres, une à une : un morceau est lu si tous ses tokens le sont."""
    window = min(window, num_tokens - 1)
    found = WindowSampler(num_tokens, window, stride=stride, batch_size=1, seed=4, shuffle=shuffle)
    starts = map(found.start_of, range(sequences))
    seen = {place for start in starts for place in range(start, start + window + 1)}
    first = data.draw(st.integers(0, num_tokens - 1))
    length = data.draw(st.integers(1, num_tokens - first))
    wanted = seen.issuperset(range(first, first + length))
    assert found.reads(first, length, sequences) is wanted
