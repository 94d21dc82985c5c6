"""Les poids d'attention montrés sont ceux dont le modèle se sert."""

import pytest
import torch
from decoding_helpers import LetterTokenizer, sharp_model

from gpt_architecture.core.attention import eager_attention, use_attention_
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.attention_maps import (
    attention_maps,
    attention_of,
    attention_profile,
)

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def test_weights_are_those_the_model_uses():
    """Un moteur qui retient ses poids, branché sur toutes les couches, donne les mêmes."""
    model, seen = sharp_model(), []

    def recording(q, k, v, *, dropout_p, mask=None):
        identity = torch.eye(k.size(-2)).expand(*k.shape[:-1], -1)
        seen.append(eager_attention(q, k, identity, dropout_p=dropout_p, mask=mask))
        return eager_attention(q, k, v, dropout_p=dropout_p, mask=mask)

    found = attention_of(model, IDS)
    use_attention_(model, recording)
    with torch.inference_mode():
        model(torch.tensor([IDS]))
    torch.testing.assert_close(found, torch.cat(seen))
    assert found.shape == (2, 3, len(IDS), len(IDS))


def test_rows_are_causal_shares():
    weights = attention_of(sharp_model(), torch.tensor([IDS]))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, len(IDS)))
    assert weights.triu(1).abs().max() == 0


def test_model_is_left_as_it_was():
    model = sharp_model().train()
    backends = [block.att.backend for block in model.trf_blocks]
    first = attention_of(model, IDS)
    assert torch.equal(first, attention_of(model, IDS))  # sans dropout
    assert model.training
    assert [block.att.backend for block in model.trf_blocks] == backends
    assert not first.requires_grad


def test_a_sentence():
    maps = attention_maps(sharp_model(), LetterTokenizer(), "le mot")
    assert maps.pieces == tuple("le mot")
    assert maps.weights.shape == (2, 3, 6, 6)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        pytest.param([], "0 token", id="vide"),
        pytest.param([1] * 25, "1 à 24 tokens", id="plus-que-le-contexte"),
        pytest.param([1, 99], "0 à 31", id="hors-vocabulaire"),
        pytest.param([-1], "0 à 31", id="négatif"),
    ],
)
def test_bad_sentences_are_refused(ids, words):
    with pytest.raises(ConfigurationError, match=words):
        attention_of(sharp_model(), ids)


def test_positions_that_learned_nothing_are_refused():
    with pytest.raises(ConfigurationError, match="1 à 4 tokens"):
        attention_of(sharp_model(), IDS, window=4)
    with pytest.raises(ConfigurationError, match="1 à 24 tokens"):
        attention_of(sharp_model(), [1] * 30, window=99)


def test_another_kind_of_model_is_refused():
    with pytest.raises(ConfigurationError, match="non quantifié"):
        attention_of(lambda ids: ids, IDS)


class TestProfile:
    def test_pure_heads(self):
        size = 6
        first = torch.zeros(size, size)
        first[:, 0] = 1.0
        assert attention_profile(first) == (1.0, 0.0, 0.0)
        assert attention_profile(torch.eye(size)) == (0.0, 0.0, 1.0)
        previous = torch.diag(torch.ones(size - 1), -1)
        assert attention_profile(previous.expand(2, 3, size, size)) == (0.0, 1.0, 0.0)

    def test_too_short(self):
        assert attention_profile(torch.ones(2, 2)) == (0.0, 0.0, 0.0)
