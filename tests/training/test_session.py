"""L'assemblage, l'état et le modèle qu'un point de reprise contient."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import FRENCH_TEXT

from gpt_architecture.config import ComputeConfig, GPTConfig, TrainingConfig
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.errors import ModelFileError, TrainingError
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.arithmetic import deterministic_algorithms
from gpt_architecture.training.checkpoint import CheckpointStore, TrainingState
from gpt_architecture.training.outputs import identity_differences
from gpt_architecture.training.session import Settings, build_trainer
from gpt_architecture.training.step import AutogradEngine

TRAINING = TrainingConfig(max_steps=4, eval_freq=2, lr=1e-3)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texte.txt"
    path.write_text(FRENCH_TEXT, encoding="utf-8")
    return load_training_data([str(path)], "simple-v2", window=8, training=TRAINING)


def settings_of(data, **changes):
    shape = GPTConfig(
        vocab_size=data.tokenizer.vocab_size,
        context_length=16,
        emb_dim=24,
        n_heads=3,
        n_layers=2,
        qkv_bias=True,
        tie_weights=True,
    )
    basic = {"window": 8, "device": torch.device("cpu"), "prompt": "Le passeur"}
    return Settings(**{**basic, "model": shape, "training": TRAINING, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_is_a_model(data, tmp_path, tied):
    """Ses poids, sa forme et son tokenizer se lisent comme ceux d'un fichier de modèle."""
    settings = settings_of(data)
    settings = replace(settings, model=replace(settings.model, tie_weights=tied))
    store = CheckpointStore(tmp_path / "points")
    trainer = build_trainer(settings, data, store=store)
    trainer.run()
    content = read_model(tmp_path / "points" / "step-000004")
    assert content.config == settings.model
    assert content.tokenizer == data.tokenizer.to_dict()
    kept = {"window": 8, "prompt": "Le passeur", "prompt_special": False}
    assert content.metadata == kept
    model = content.build()
    ids = torch.arange(8).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(model(ids), trainer.model.eval()(ids))
    resumed = build_trainer(settings, data, checkpoint=store.latest())
    assert resumed.complete
    assert resumed.model.out_head.weight is resumed.model.tok_emb.weight or not tied


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.json").write_text("[]", encoding="utf-8"),
        lambda folder: (folder / "state.json").write_text('{"config": {}}', encoding="utf-8"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"rien"),
        lambda folder: (folder / "model.safetensors").unlink(),
    ],
)
def test_a_damaged_checkpoint_is_not_a_model(data, tmp_path, damage):
    store = CheckpointStore(tmp_path)
    build_trainer(settings_of(data), data, store=store).run()
    damage(tmp_path / "step-000004")
    with pytest.raises(ModelFileError, match="autre modèle"):
        read_model(tmp_path / "step-000004")


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelFileError, match=r"step-….*autre modèle"):
        read_model(tmp_path)


def test_a_flipped_bit_is_not_a_model(data, tmp_path):
    """Les empreintes sont vérifiées aussi quand on ne fait que générer."""
    store = CheckpointStore(tmp_path)
    build_trainer(settings_of(data), data, store=store).run()
    weights = tmp_path / "step-000004" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        read_model(tmp_path / "step-000004")


def test_recomputed_activations_give_the_same_weights(data):
    trainers = []
    for recomputed in (False, True):
        compute = ComputeConfig(engine="autograd", checkpoint_activations=recomputed)
        trainers.append(build_trainer(settings_of(data, compute=compute), data))
        trainers[-1].run()
    plain, lean = trainers
    pairs = zip(plain.model.parameters(), lean.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert plain.state.train_losses == lean.state.train_losses


def test_compile_changes_nothing_but_the_path(data, monkeypatch):
    """Le modèle compilé garde ses noms et ses valeurs ; ici, sans générateur de code."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    settings = settings_of(data, compute=ComputeConfig(compile=True))
    settings = replace(settings, model=replace(settings.model, drop_rate=0.0))
    trainer = build_trainer(settings, data)
    assert compiled == [trainer.model]
    assert isinstance(trainer.engine, AutogradEngine)


def test_determinism_is_given_back():
    with deterministic_algorithms():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


class TestState:
    def test_round_trip_through_json(self):
        """Une perte qui n'est pas un nombre fini passe aussi."""
        state = TrainingState(
            step=3, eval_steps=[0, 2], train_losses=[math.nan, 1.5], val_losses=[math.inf, 2.0]
        )
        text = json.dumps(state.to_dict(), allow_nan=False)
        back = TrainingState.from_dict(json.loads(text))
        assert math.isnan(back.train_losses[0])
        assert back.val_losses == [math.inf, 2.0]
        assert (back.step, back.eval_steps) == (3, [0, 2])

    def test_another_version_is_refused(self):
        values = TrainingState().to_dict()
        with pytest.raises(TrainingError, match="champs : inconnu"):
            TrainingState.from_dict({**values, "inconnu": 1})
        del values["step"]
        with pytest.raises(TrainingError, match="champs : step"):
            TrainingState.from_dict(values)


def test_differences_are_shown_one_by_one():
    before = {"training": {"lr": 0.1, "epochs": 3}, "window": 8, "data": ["a"]}
    after = {"training": {"lr": 0.2, "epochs": 9}, "window": 8, "data": ["b"], "clip": 1.0}
    found = identity_differences(before, after, ignored=["epochs"])
    assert found == [
        "clip : rien enregistré, 1.0 demandé",
        'data : ["a"] enregistré, ["b"] demandé',
        "training.lr : 0.1 enregistré, 0.2 demandé",
    ]
    assert identity_differences(before, before) == []
