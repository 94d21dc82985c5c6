"""Entraîner avec des canaris : certifié, repris et rejoué ; retenu selon les fois."""

import json
import stat
from pathlib import Path

import pytest
import torch
from conftest import FRENCH_TEXT

from gpt_architecture import train, verify
from gpt_architecture.data.canaries import CANARIES, draw_canaries
from gpt_architecture.errors import CheckpointError, ConfigurationError, OutputError
from gpt_architecture.evaluation.canaries import measure_exposure
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.storage.chain import CERTIFICATE, read_chain
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.preparation import prepare, request_of

TINY = {
    "tokenizer": "bpe-300",
    "context_length": 64,
    "positions": 64,
    "emb_dim": 32,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.1,
    "batch_size": 4,
    "eval_freq": 1000,
    "eval_iter": 1,
    "engine": "autograd",
    "precision": "fp32",
    "device": "cpu",
}
TEXT = "texte.txt"


@pytest.fixture
def text():
    """Un texte où quelques canaris ne pèsent pas trop."""
    path = Path(TEXT)
    path.write_text(FRENCH_TEXT * 12, encoding="utf-8")
    return path


def trained(text, folder, **changes):
    settings = {**TINY, "max_steps": 6, "epochs": 9, "canaries": 3, **changes}
    return train(text, output_dir=folder, progress=False, **settings)


def weights(folder):
    return read_model(Path(folder) / "gpt-model.pt").state_dict


def test_they_are_listed_for_the_owner_alone(text):
    run = trained(text, "m")
    path = Path("m") / CANARIES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = json.loads(path.read_text(encoding="utf-8"))
    drawn = draw_canaries(run.model.tokenizer, 3, 123)
    assert [each["text"] for each in listed["canaries"]] == [each.text for each in drawn.canaries]
    start = read_chain(Path("m") / CERTIFICATE).links[0]
    assert start["identity"]["training"]["canaries"] == start["options"]["canaries"] == 3
    assert not any(each.text in json.dumps(start) for each in drawn.canaries)
    assert read_model("m/gpt-model.pt").metadata["training"]["canaries"] == 3


def test_the_validation_has_none_and_the_data_are_others(text):
    asked = {**TINY, "data": str(text)}
    plain, planted = (
        prepare(request_of({**asked, "canaries": count}, origins := Origins()), origins)
        for count in (0, 3)
    )
    assert planted.data.val.sha256 == plain.data.val.sha256
    assert planted.data.sha256 != plain.data.sha256
    assert planted.data.train.num_tokens > plain.data.train.num_tokens
    assert plain.data.canaries is None
    assert "canaries" not in plain.settings.identity(plain.data)["training"]


def test_verify_and_resume_are_exact(text):
    trained(text, "whole", save_every=2, keep=9)
    found = verify("whole", data=text, part=1)
    assert found.conforming, found.lines
    assert found.exact
    assert found.replayed == 6
    trained(text, "part", save_every=2, max_steps=4)
    train(resume="part", max_steps=6, progress=False)
    first, second = weights("whole"), weights("part")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(CheckpointError, match="données"):
        train(resume="part", canaries=4, max_steps=8, progress=False)


def test_another_count_or_seed_is_told_by_verify(text):
    trained(text, "m", save_every=2, keep=9)
    assert not verify("m", data=_changed(text), part=1).conforming


def _changed(text):
    other = Path("autre.txt")
    other.write_text(text.read_text(encoding="utf-8").replace("lampe", "lanterne", 1), "utf-8")
    return other


def test_refusals(text):
    with pytest.raises(ConfigurationError, match=r"un canari de .* pour un contexte de 8"):
        trained(text, "m", context_length=8, positions=8)
    with pytest.raises(ConfigurationError, match="canaries"):
        trained(text, "m", canaries=-1)
    with pytest.raises(ConfigurationError, match="simple-v2 ne sait pas"):
        trained(text, "m", tokenizer="simple-v2")
    Path("dialogues.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="`canaries` et `chat`"):
        train(chat="dialogues.jsonl", progress=False, **{**TINY, "canaries": 1})
    assert not Path("m").exists()


def test_a_file_of_that_name_is_kept(text):
    Path("m").mkdir()
    mine = Path("m") / CANARIES
    mine.write_text("mes oiseaux", encoding="utf-8")
    with pytest.raises(OutputError, match="canaris"):
        trained(text, "m")
    trained(text, "m", canaries=0)
    assert mine.read_text(encoding="utf-8") == "mes oiseaux"


def test_a_training_without_canaries_removes_the_old_list(text):
    trained(text, "m")
    trained(text, "m", canaries=0, force=True)
    assert not (Path("m") / CANARIES).exists()


def test_repetition_predicts_what_is_remembered(text):
    """Planté seize fois et relu, un canari est retrouvé ; un témoin, jamais."""
    run = trained(
        *(text, "m"), canaries=5, max_steps=400, epochs=99, drop_rate=0.0, lr=3e-3, emb_dim=64
    )
    drawn = draw_canaries(run.model.tokenizer, 5, 123)
    report = measure_exposure(run.model.model, drawn, window=64)
    bits = [row.bits for row in report.rows]
    assert report.rows[-1].found == 1
    assert bits[-1] > bits[0]
    assert report.false_positives == 0
    assert report.controls_good
