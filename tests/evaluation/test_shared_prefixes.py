"""La lecture en arbre rend les notes de la lecture simple, quels que soient l'arbre et les lots."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_helpers import random_model

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import NonFiniteError
from gpt_architecture.evaluation import shared_prefixes
from gpt_architecture.evaluation.likelihood import Span, score_spans
from gpt_architecture.evaluation.shared_prefixes import score_tree

VOCABULARY = 5  # peu de tokens : beaucoup de débuts communs


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(
        vocab_size=VOCABULARY, context_length=9, emb_dim=8, n_heads=2, n_layers=2, drop_rate=0.1
    )
    return random_model(config)


@st.composite
def spans(draw):
    tokens = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=10))
    return Span(tokens=tokens, scored=draw(st.integers(0, len(tokens) - 1)))


@settings(max_examples=60, deadline=None)
@given(found=st.lists(spans(), max_size=24), rows=st.integers(1, 3))
def test_the_tree_is_the_oracle(model, found, rows):
    """Séquences répétées, préfixes l'une de l'autre, non notées, lots d'une à trois séquences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefixes, "TOKENS_PER_ROW", 1)  # les lots coupent l'arbre
        tree = score_tree(model, found, max_rows=rows)
    oracle = score_spans(model, found)
    assert [each.log_prob for each in tree] == pytest.approx(
        [each.log_prob for each in oracle], abs=1e-5
    )
    assert [each.is_greedy for each in tree] == [each.is_greedy for each in oracle]


def test_each_branch_is_read_once(model):
    """Mille séquences de même début : autant de tokens lus que de branches, non de tokens."""
    read = []

    class Counting:
        cfg, device = model.cfg, model.device
        new_cache = staticmethod(model.new_cache)

        def __call__(self, in_idx, cache=None, *, at=None):
            read.append(in_idx.numel())
            return model(in_idx, cache, at=at)

    start = [0, 1, 2, 3]
    found = [Span(tokens=[*start, end, 0], scored=2) for end in range(VOCABULARY)] * 200
    score_tree(Counting(), found, max_rows=1000)
    assert sum(read) == len(start) + VOCABULARY


def test_groups_are_as_wide_as_the_cache(model):
    """Un étage n'a jamais plus de branches que de lignes ; un début commun compte une fois."""
    widths = []

    class Watching:
        cfg, device = model.cfg, model.device
        new_cache = staticmethod(model.new_cache)

        def __call__(self, in_idx, cache=None, *, at=None):
            widths.append(in_idx.size(0))
            return model(in_idx, cache, at=at)

    found = [
        Span(tokens=[0, first, second, end], scored=3)
        for first in range(VOCABULARY)
        for second in range(VOCABULARY)
        for end in range(VOCABULARY)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefixes, "TOKENS_PER_ROW", 1)
        score_tree(Watching(), found, max_rows=10)
    assert widths == [1, 2, 10, 1, 2, 10, 1, 1, 5]  # 125 séquences, 25 branches, 3 groupes


def test_progress_counts_scored_tokens(model):
    found = [Span(tokens=[0, 1, 2], scored=2), Span(tokens=[0, 1], scored=1)]
    done = []
    score_tree(model, found, on_progress=done.append)
    assert sum(done) == 3
    assert score_tree(model, []) == []


def test_non_finite_logits_are_refused(model):
    class Broken:
        cfg, device = model.cfg, model.device
        new_cache = staticmethod(model.new_cache)

        def __call__(self, in_idx, cache=None, *, at=None):
            return torch.full((*in_idx.shape, VOCABULARY), math.nan)

    with pytest.raises(NonFiniteError, match="log-probabilité nan"):
        score_tree(Broken(), [Span(tokens=[0, 1], scored=1)])
