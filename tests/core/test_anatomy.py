"""La passe avant pièce par pièce est celle du modèle, vue par des crochets."""

import pytest
import torch
from inside_helpers import IDS, MODELS, watched

from gpt_architecture.core.anatomy import embedded, through_blocks, unembedded

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def walked(model, ids, visit=None, **options):
    """Ce que la visite voit, et les logits."""
    seen = {}

    def keep(site, layer, value):
        seen.setdefault(site, []).append((layer, value))
        return None if visit is None else visit(site, layer, value)

    with torch.inference_mode():
        last = through_blocks(model, embedded(model, torch.tensor(ids)), keep, **options)
        return seen, unembedded(model, last)


@pytest.mark.parametrize("name", MODELS)
def test_each_value_is_that_of_the_hooks(name):
    """Flux, têtes, attentions, neurones, perceptrons et logits, sur un lot de deux phrases."""
    model, ids = MODELS[name](), [IDS, IDS[::-1]]
    expected, logits = watched(model, ids)
    seen, found = walked(model, ids)
    torch.testing.assert_close(found, logits, **CLOSE)
    for site, values in expected.items():
        assert [layer for layer, _ in seen[site]] == list(range(len(values))), site
        for (_, mine), theirs in zip(seen[site], values, strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_visit_returns_replaces_the_value(name):
    """Comme le crochet qui rendrait la même chose ; et repartir d'une couche donne le même bout."""
    model = MODELS[name]()
    block = model.trf_blocks[1]
    handle = block.ff.layers[1].register_forward_hook(lambda _, args, out: out * 0.5)
    with torch.inference_mode():
        expected = model(torch.tensor([IDS]))
    handle.remove()
    halved = lambda site, layer, value: (  # noqa: E731
        value * 0.5 if (site, layer) == ("neurons", 1) else None
    )
    seen, found = walked(model, [IDS], halved)
    torch.testing.assert_close(found, expected, **CLOSE)
    with torch.inference_mode():
        last = through_blocks(model, seen["residual"][1][1], halved, first=1)
        torch.testing.assert_close(unembedded(model, last), expected, **CLOSE)


def test_it_can_stop_early():
    seen, _ = walked(MODELS["livre"](), [IDS], last=1)
    assert [layer for layer, _ in seen["residual"]] == [0, 1]
    assert [layer for layer, _ in seen["neurons"]] == [0]
