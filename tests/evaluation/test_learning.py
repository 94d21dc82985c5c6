"""Un entraînement relu point par point : les nombres de chaque modèle, chargé seul."""

import pytest
import torch
from studio_helpers import write_checkpoints

from gpt_architecture.api import load
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.evaluation.inside.learning import folder_of, follow_learning, spread

PROMPT = "Le passeur"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("essai")
    write_checkpoints(found)
    return found


def by_hand(path, prompt, follow):
    """Probabilité du texte suivi, rang de son premier token, texte glouton."""
    gpt = load(path)
    ids, wanted = gpt.tokenizer.encode(prompt), gpt.tokenizer.encode(follow)
    share, rank = 1.0, None
    with torch.inference_mode():
        for done, token in enumerate(wanted):
            row = gpt.model(torch.tensor([[*ids, *wanted[:done]]]))[0, -1].softmax(-1)
            row = row[: gpt.tokenizer.vocab_size]  # le rang ne compte que ceux qui ont un texte
            share *= float(row[token])
            rank = rank or 1 + int((row > row[token]).sum())
    return share, rank, gpt.generate(prompt, strategy="greedy", max_tokens=6)[len(prompt) :]


@pytest.mark.parametrize("follow", [" leva", "e"])
def test_each_moment_is_the_model_loaded_alone(folder, follow):
    found = follow_learning(folder, PROMPT, follow=follow, max_tokens=6, top=3)
    assert found.follow == follow
    assert [each.step for each in found.moments] == [2, 4, 6]
    for each in found.moments:
        path = folder / "checkpoints" / f"step-{each.step:06d}"
        share, rank, text = by_hand(path, PROMPT, follow)
        assert each.probability == pytest.approx(share, rel=1e-4)
        assert (each.rank, each.text) == (rank, text)
        assert each.val_loss == pytest.approx(6.5 - each.step / 10)
        shares = [share for _, share in each.candidates]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)


def test_the_last_one_chooses_what_is_followed(folder):
    found = follow_learning(folder / "checkpoints", PROMPT, max_tokens=0)
    last = found.moments[-1]
    assert last.rank == 1
    assert last.probability == pytest.approx(last.candidates[0][1], rel=1e-4)
    assert last.text == ""
    assert found.skipped == 0


def test_a_model_or_a_checkpoint_leads_to_its_run(folder):
    (folder / "gpt-model.pt").touch()
    for place in ("gpt-model.pt", "checkpoints/step-000002", "checkpoints", "."):
        assert folder_of(folder / place).steps() == [2, 4, 6], place


def test_many_are_thinned(folder):
    found = follow_learning(folder, PROMPT, max_tokens=0, most=2)
    assert [each.step for each in found.moments] == [2, 6]
    assert found.skipped == 1
    assert spread(range(0, 100, 10), 4) == [0, 30, 60, 90]
    assert spread([3], 4) == [3]


def test_refusals(folder, tmp_path):
    with pytest.raises(ConfigurationError, match="pas de point de reprise"):
        follow_learning(tmp_path, PROMPT)
    with pytest.raises(ConfigurationError, match="texte suivi de 0"):
        follow_learning(folder, PROMPT, follow="")
    with pytest.raises(ConfigurationError, match="32 ensemble"):
        follow_learning(folder, PROMPT, follow="a" * 40)
    with pytest.raises(ConfigurationError, match="most vaut 1"):
        follow_learning(folder, PROMPT, most=1)
    write_checkpoints(tmp_path, steps=(2,))
    (tmp_path / "checkpoints" / "step-000002" / "model.safetensors").write_bytes(b"abime")
    with pytest.raises(ModelFileError):
        follow_learning(tmp_path, PROMPT)
