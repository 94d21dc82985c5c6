"""Les modèles de référence : des moitiés complémentaires, la même recette, rien d'écrit."""

from pathlib import Path

import numpy as np
import pytest
from conftest import FRENCH_TEXT

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.preparation import prepare, request_of
from gpt_architecture.training.shadows import halves, recipe_of, spread_blocks, train_shadows

TINY = {
    "tokenizer": "bpe-300",
    "context_length": 16,
    "positions": 24,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "batch_size": 2,
    "epochs": 2,
    "device": "cpu",
    "lr": 1e-3,
    "clip": 1.0,
}


def prepared(**changes):
    Path("texte.txt").write_text(FRENCH_TEXT * 2, encoding="utf-8")
    asked = {**TINY, "data": "texte.txt", **changes}
    run = prepare(request_of(asked, origins := Origins()), origins)
    return run, run.settings.identity(run.data)


def test_halves_are_complementary():
    found = halves(11, 6, 3)
    assert len(found) == 6
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert (first ^ second).all()
        assert first.sum() == 5
    assert not np.array_equal(found[0], found[2])
    assert all(np.array_equal(a, b) for a, b in zip(found, halves(11, 6, 3), strict=True))


def test_blocks_are_spread():
    assert spread_blocks(100, 10, 5) == [0, 2, 4, 6, 8]
    assert spread_blocks(100, 10, 50) == list(range(10))
    assert spread_blocks(9, 10, 5) == []


def test_the_recipe_is_the_same_on_half_the_text():
    run, identity = prepared(max_steps=40, canaries=0, seed=7)
    request = recipe_of(identity, device="cpu", windows=100)
    assert request.shape.to_config(300) == run.request.shape.to_config(300)
    assert request.shape.context_length == 16
    assert request.optimizer == run.request.optimizer
    assert (request.training.lr, request.training.epochs) == (1e-3, 2)
    assert request.training.max_steps == 20
    assert request.training.canaries == 0
    _, free = prepared()
    assert recipe_of(free, device="cpu", windows=100).training.max_steps is None


def test_they_learn_their_half_and_write_nothing():
    run, identity = prepared()
    before = sorted(Path().iterdir())
    told = []
    found = list(
        train_shadows(
            *(run.data, identity),
            count=2,
            size=16,
            device="cpu",
            on_progress=lambda done, total: told.append((done, total)),
        )
    )
    assert sorted(Path().iterdir()) == before
    first, second = found
    assert (first.inside ^ second.inside).all()
    blocks = run.data.train.num_tokens // 16 + run.data.val.num_tokens // 16
    assert len(first.inside) == blocks
    assert first.model.cfg == second.model.cfg
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize("count", [1, 3, 66])
def test_an_odd_count_is_refused(count):
    run, identity = prepared()
    with pytest.raises(ConfigurationError, match="un nombre pair, de 2 à 64"):
        next(train_shadows(run.data, identity, count=count, size=16))


def test_a_model_without_a_recipe_is_refused():
    run, identity = prepared()
    with pytest.raises(ConfigurationError, match="ne dit pas comment"):
        next(train_shadows(run.data, {}, count=2, size=16))
    with pytest.raises(ConfigurationError, match="affiné"):
        next(train_shadows(run.data, {**identity, "start": {"sha256": "a"}}, count=2, size=16))
