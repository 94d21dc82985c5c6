"""Le vecteur d'un texte est fait des états que la tête du modèle lit."""

import pytest
import torch
from decoding_helpers import sharp_model

from gpt_architecture.errors import ConfigurationError, NonFiniteError
from gpt_architecture.evaluation.embeddings import embed, embed_all

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def states_of(model, ids):
    """L'oracle : un crochet posé devant la tête, pendant un passage ordinaire du modèle."""
    seen = []
    hook = model.out_head.register_forward_pre_hook(lambda _head, args: seen.append(args[0]))
    try:
        with torch.inference_mode():
            logits = model(torch.tensor([ids]))
            assert torch.equal(model.out_head(seen[0]), logits)
    finally:
        hook.remove()
    return seen[0][0]


@pytest.mark.parametrize("options", [{}, {"tie_weights": True, "qkv_bias": True}])
def test_a_vector_is_made_of_the_hidden_states(options):
    """Moyenne à la main, ou dernier état ; puis la norme, et rien d'autre."""
    model = sharp_model(**options)
    states = states_of(model, IDS)
    mean = sum(states[1:], states[0]) / len(IDS)
    torch.testing.assert_close(embed(model, IDS), mean / mean.pow(2).sum().sqrt())
    last = states[-1]
    found = embed(model, IDS, pooling="last")
    torch.testing.assert_close(found, last / last.pow(2).sum().sqrt())
    assert found.dtype == torch.float32
    assert torch.equal(model.hidden_states(torch.tensor([IDS]))[0], states)


def test_fewer_dimensions_are_the_first_ones():
    """Coupé, puis remis à la norme 1, comme chez OpenAI."""
    model = sharp_model()
    whole, cut = embed(model, IDS), embed(model, IDS, dimensions=7)
    torch.testing.assert_close(cut, whole[:7] / whole[:7].norm())
    assert embed(model, IDS, dimensions=24).tolist() == whole.tolist()


def test_a_text_is_read_alone():
    """Ni les autres textes, ni l'entraînement en cours, ne changent un bit de son vecteur."""
    model = sharp_model().train()
    alone = embed(model, IDS)
    among = embed_all(model, [[1], IDS, IDS[:3]])
    assert torch.equal(among[1], alone)
    assert torch.equal(among[0], embed(model, [1]))
    assert model.training
    assert not alone.requires_grad


@pytest.mark.parametrize(
    ("ids", "options", "words"),
    [
        pytest.param([], {}, "0 token", id="vide"),
        pytest.param([1] * 25, {}, "1 à 24 tokens", id="plus-que-le-contexte"),
        pytest.param([1] * 5, {"window": 4}, "1 à 4 tokens", id="plus-que-la-fenêtre"),
        pytest.param([1, 99], {}, "0 à 31", id="hors-vocabulaire"),
        pytest.param([-1], {}, "0 à 31", id="négatif"),
        pytest.param(IDS, {"dimensions": 25}, "24", id="trop-de-dimensions"),
        pytest.param(IDS, {"dimensions": 0}, "1", id="aucune-dimension"),
        pytest.param(IDS, {"pooling": "max"}, "mean, last", id="autre-réunion"),
    ],
)
def test_what_has_no_vector_is_refused(ids, options, words):
    with pytest.raises(ConfigurationError, match=words):
        embed(sharp_model(), ids, **options)


def test_another_kind_of_model_is_refused():
    with pytest.raises(ConfigurationError, match="non quantifié"):
        embed(lambda ids: ids, IDS)
    with pytest.raises(ConfigurationError, match="aucun texte"):
        embed_all(sharp_model(), [])


def test_a_broken_weight_is_named():
    """Un NaN n'est pas un vecteur : le poids en cause est dit."""
    model = sharp_model()
    with torch.no_grad():
        model.final_norm.shift[0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"final_norm\.shift"):
        embed(model, IDS)
