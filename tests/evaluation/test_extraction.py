"""L'extraction : une lecture dit ce que le décodage glouton rendrait."""

import random

import pytest
import torch
from decoding_helpers import sharp_model

from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.decoding.simple import generate_text_simple
from gpt_architecture.evaluation.extraction import (
    measure_extraction,
    prefix_lengths,
    shortest_prefix,
)

VOCABULARY, WINDOW = 12, 24


def noise(seed, size):
    return random.Random(seed).choices(range(VOCABULARY), k=size)  # noqa: S311 — une graine


@pytest.mark.parametrize(
    ("window", "prefixes", "suffix"),
    [(24, (4, 8), 12), (256, (4, 8, 16, 32, 64, 128), 32), (64, (4, 8, 16, 32), 32), (2, (1,), 1)],
)
def test_prefixes_double_within_the_window(window, prefixes, suffix):
    assert prefix_lengths(window) == (prefixes, suffix)


def test_it_is_what_greedy_decoding_gives():
    """Sur un texte dont le modèle a écrit une part : rendu ou non, à chaque préfixe."""
    model = sharp_model(vocab_size=VOCABULARY, context_length=WINDOW)
    text = noise(1, 60)
    for start in (0, 20, 40):  # le modèle s'y reconnaîtra, s'il lit le même début
        ids = torch.tensor([text[start : start + 8]])
        text[start : start + 20] = generate_text_simple(model, ids, 12, WINDOW)[0].tolist()
    text += noise(2, 40)
    found = measure_extraction(model, TokenArray(text), None, window=WINDOW)
    prefixes, suffix = prefix_lengths(WINDOW)
    size = prefixes[-1] + suffix
    windows = [text[n * size :][:size] for n in range(len(text) // size)]
    assert len(windows) == 5
    for row, prefix in zip(found.rows, prefixes, strict=True):
        slow = 0
        for each in windows:
            start = torch.tensor([each[:prefix]])
            whole = generate_text_simple(model, start, suffix, WINDOW)[0].tolist()
            slow += whole == each[: prefix + suffix]
        assert (row.extracted, row.total) == (slow, 5)
    assert shortest_prefix(found.rows) == next((r.prefix for r in found.rows if r.extracted), None)


class Successor:
    """Le token suivant est toujours le successeur : ce qui compte est su par cœur."""

    device = torch.device("cpu")

    def __init__(self):
        self.cfg = sharp_model(vocab_size=VOCABULARY, context_length=WINDOW).cfg

    def __call__(self, in_idx, cache=None):
        logits = torch.zeros(*in_idx.shape, VOCABULARY)
        return logits.scatter(-1, ((in_idx + 1) % VOCABULARY)[..., None], 9.0)


def test_controls_are_not_in_the_training_text():
    known = [n % VOCABULARY for n in range(200)]
    unseen = [*noise(3, 100), *known[:100]]
    found = measure_extraction(
        Successor(), TokenArray(known), TokenArray(unseen), window=WINDOW, extracts=8
    )
    for row in found.rows:
        assert row.share == 1.0
        assert row.interval[0] > 0.6
        assert row.controls_extracted == 0
        assert row.controls_share == 0.0
    assert found.dropped == 4
    assert found.rows[0].controls == 4
    alone = measure_extraction(Successor(), TokenArray(known), None, window=WINDOW)
    assert alone.rows[0].controls_share is None
    assert alone.to_dict()["by_prefix"][0]["share"] == 1.0


class Clockwork(Successor):
    """Sait le texte par ses seules positions : ailleurs que là où il l'a lu, il ne rend rien."""

    def __call__(self, in_idx, cache=None):
        next_ones = torch.arange(1, in_idx.shape[1] + 1) % WINDOW % VOCABULARY
        return 9.0 * torch.nn.functional.one_hot(next_ones, VOCABULARY).float().expand(
            in_idx.shape[0], -1, -1
        )


@pytest.mark.parametrize(("stride", "whole"), [(WINDOW, True), (WINDOW // 2, True), (1, False)])
def test_extracts_begin_where_the_windows_did(stride, whole):
    known = [n % VOCABULARY for n in range(WINDOW * 5)]
    found = measure_extraction(Clockwork(), TokenArray(known), None, window=WINDOW, stride=stride)
    assert {row.share == 1.0 for row in found.rows} == {whole}


def test_progress_reaches_the_end():
    told = []
    measure_extraction(
        Successor(),
        TokenArray(noise(4, 100)),
        TokenArray(noise(5, 50)),
        window=WINDOW,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1] > 0
