"""Apprendre à classer ou à noter : la perte à la main, la reprise au bit près, LoRA, le refus."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from cli_helpers import run_process
from torch.nn import functional as F

from gpt_architecture import evaluate, load, train
from gpt_architecture.api import merge
from gpt_architecture.config import ComputeConfig, LabelConfig, TrainingConfig
from gpt_architecture.core.heads import decode_values
from gpt_architecture.data.labelling import load_labelled_data
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.session import Settings, build_trainer

WINDOW = 12
TRAINING = TrainingConfig(
    epochs=3, batch_size=2, accumulate=3, lr=3e-3, eval_freq=2, stride=WINDOW + 1, train_ratio=0.75
)
TINY = {
    "tokenizer": "char",
    "context_length": WINDOW,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.1,
    "batch_size": 4,
    "eval_freq": 5,
    "device": "cpu",
    "progress": False,
}


def table(path, count=40):
    """Des mots où « a » domine, ou « o » ; leur valeur est leur nombre de « a »."""
    rows = [
        (("a" * (1 + n % 5) + "o" * (n % 3))[::-1] + "z" * (n % 2), n % 5) for n in range(count)
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("texte", "classe", "valeur"))
        writer.writerows((f"{text}{n % 7}", "haut" if a > 2 else "bas", a / 2)
                         for n, (text, a) in enumerate(rows))  # fmt: skip
    return path


@pytest.fixture
def path(tmp_path):
    return table(tmp_path / "mots.csv")


def data_of(path, **changes):
    labels = LabelConfig(classify=path, label="valeur" if changes.get("regress") else "classe",
                         **changes)  # fmt: skip
    return load_labelled_data(labels, "char", window=WINDOW, training=TRAINING)


def settings_of(data, *, drop_rate=0.0, **changes):
    from gpt_architecture.config import GPTConfig

    shape = GPTConfig(
        vocab_size=data.tokenizer.vocab_size, context_length=WINDOW, emb_dim=16, n_heads=2,
        n_layers=1, drop_rate=drop_rate, qkv_bias=True, tie_weights=True,
    )  # fmt: skip
    known = {"window": WINDOW, "device": torch.device("cpu"), "prompt": "a", "training": TRAINING}
    compute = ComputeConfig(precision="fp32")
    model = shape.with_head(data.labelled.head)
    return Settings(**{**known, "model": model, "compute": compute, **changes})


def by_hand(trainer, data):
    """La perte d'une étape, exemple par exemple, sans le moteur."""
    total, count, weights = 0.0, 0, data.labelled.weights
    for batch in trainer.batches(0):
        outputs = trainer.model(batch.inputs)
        for row, place in (batch.targets != IGNORED).nonzero().tolist():
            wanted = batch.targets[row, place]
            if data.labelled.head.is_regression:
                loss = (outputs[row, place, 0] - decode_values(wanted)) ** 2
            else:
                loss = F.cross_entropy(outputs[row, place], wanted)
                loss = loss * (1.0 if weights is None else weights[int(wanted)])
            total, count = total + loss, count + 1
    return total / count


@pytest.mark.parametrize("changes", [{}, {"balance": True}, {"regress": True}], ids=str)
def test_an_accumulated_step_is_the_mean_over_its_examples(path, changes):
    data = data_of(path, **changes)
    trainer = build_trainer(settings_of(data), data)
    assert trainer.sample is None
    loss = by_hand(trainer, data)
    loss.backward()
    expected = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad(set_to_none=True)
    for batch in trainer.batches(0):
        trainer.engine.forward_backward(batch, scale=batch.share)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7)
    trainer.model.zero_grad(set_to_none=True)
    assert trainer.advance().loss == pytest.approx(loss.item(), rel=1e-5)
    assert trainer.evaluate(lambda: False) is not None


def test_the_fused_engine_says_why_not(path):
    data = data_of(path)
    with pytest.raises(ConfigurationError, match="une classe ou une valeur"):
        build_trainer(settings_of(data, compute=ComputeConfig(engine="fused")), data)


def run(path, folder, **changes):
    return train(classify=path, label="classe", output_dir=folder, **{**TINY, **changes})


def weights(folder):
    return read_model(folder / "gpt-model.pt").state_dict


def test_it_learns_and_says_what_it_is_worth(path, tmp_path):
    found = run(path, tmp_path / "m", epochs=60, lr=1e-2)
    assert found.complete
    assert found.baselines is None
    assert found.model.config.head.labels == ("bas", "haut")
    known = found.model.metadata["labels"]
    assert (known["label"], known["text"], known["split"]["ratio"]) == ("classe", "texte", 0.9)
    assert known["counts"] == {"bas": 22, "haut": 14}
    measured = evaluate(found, classify=path)
    assert measured.labels.held_out
    assert measured.labels.result.accuracy >= 0.75
    assert measured.labels.reference is not None
    assert measured.record["labels"]["count"] == 4
    assert "Confusion" in str(measured)
    assert "Classement de mots" in measured._repr_html_()
    for word in ("référence", "36 exemples"):
        assert word in str(measured)
    assert (tmp_path / "m" / "journal.jsonl").read_text(encoding="utf-8").count('"measures"') == 1


def test_another_column_has_no_held_out_part(tmp_path, caplog):
    """Le partage suit les classes : d'une autre colonne, il laisserait passer du déjà appris."""
    path, names = tmp_path / "mots.csv", ["bas", "haut"]
    rows = [f"{'ao'[n % 2] * 3}{n},{names[n % 2]},{names[n // 2 % 2]}" for n in range(40)]
    path.write_text("\n".join(["texte,classe,relue", *rows]), encoding="utf-8")
    found = run(path, tmp_path / "m", max_steps=2)
    assert evaluate(found, classify=path).labels.held_out
    other = evaluate(found, classify=path, label="relue").labels
    assert (other.held_out, len(other.result.truth)) == (False, 40)
    assert "le modèle a appris ces exemples" in caplog.text


def test_resuming_gives_the_same_bits(path, tmp_path):
    whole = run(path, tmp_path / "a", max_steps=14)
    steps = []

    def stop():
        steps.append(1)
        return len(steps) > 6

    partial = run(path, tmp_path / "b", max_steps=14, save_every=3, should_stop=stop)
    assert not partial.complete
    resumed = train(resume=tmp_path / "b", progress=False)
    assert resumed.complete
    assert resumed.history["val_loss"] == whole.history["val_loss"]
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


KILLED = """
import os, signal, sys
from gpt_architecture import train
from gpt_architecture.training.callbacks import Callback

class Kill(Callback):
    def on_save(self, step, path):
        if step >= 6:
            os.kill(os.getpid(), signal.SIGKILL)

train(classify=sys.argv[1], label="classe", output_dir=sys.argv[2], callbacks=[Kill()], **%r)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL est propre à POSIX")
def test_a_sigkill_loses_nothing(path, tmp_path):
    run(path, tmp_path / "a", max_steps=14, save_every=3)
    settings = {**TINY, "max_steps": 14, "save_every": 3}
    command = [sys.executable, "-c", KILLED % settings, str(path), str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "b" / "gpt-model.pt").exists()
    assert train(resume=tmp_path / "b", progress=False).complete
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_two_processes_are_one(path, tmp_path):
    run(path, tmp_path / "a", max_steps=6, accumulate=2, precision="fp32", balance=True)
    options = {**TINY, "max_steps": 6, "accumulate": 2, "precision": "fp32", "launch": 2}
    del options["progress"]
    asked = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "gpt_architecture", "train", f"--classify={path}"]
    command += ["--label=classe", "--balance", f"--output-dir={tmp_path / 'b'}"]
    outcome = run_process(*command, *asked, timeout=120)
    assert outcome.code == 0, outcome.err
    one, two = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-5)


def test_other_labels_do_not_resume(path, tmp_path):
    run(path, tmp_path / "a", max_steps=6, save_every=3)
    with pytest.raises(Exception, match="label : classe enregistré, valeur demandé"):
        train(resume=tmp_path / "a", label="valeur", progress=False)


@pytest.fixture
def base(tmp_path):
    """Un modèle qui écrit, à la tête liée, appris sur les mêmes lettres."""
    text = tmp_path / "texte.txt"
    text.write_text("aaoz " * 400 + "0123456789" * 20, encoding="utf-8")
    shape = {"tie_weights": True, "qkv_bias": True, "engine": "autograd"}
    train(text, output_dir=tmp_path / "base", max_steps=4, **shape, **TINY)
    return tmp_path / "base"


def test_from_a_model_that_writes(path, tmp_path, base):
    settings = {name: TINY[name] for name in ("batch_size", "eval_freq", "device", "progress")}
    found = train(classify=path, label="classe", start=base, output_dir=tmp_path / "m",
                  max_steps=2, **settings)  # fmt: skip
    assert found.model.config.tie_weights is False
    assert found.model.config.outputs == 2
    start = read_model(base / "gpt-model.pt")
    moved = (weights(tmp_path / "m")["tok_emb.weight"] - start.state_dict["tok_emb.weight"]).abs()
    assert 0 < float(moved.max()) < 0.01
    with pytest.raises(ConfigurationError, match="sa tête ne rend pas de token"):
        train(tmp_path / "texte.txt", start=tmp_path / "m", output_dir=tmp_path / "x", **settings)
    again = train(classify=path, label="classe", start=tmp_path / "m", output_dir=tmp_path / "n",
                  max_steps=1, lr=1e-9, **settings)  # fmt: skip
    assert torch.allclose(again.model.model.out_head.weight, found.model.model.out_head.weight)


def test_adapters_carry_the_head(path, tmp_path, base):
    settings = {name: TINY[name] for name in ("batch_size", "eval_freq", "device", "progress")}
    settings |= {"start": base, "lora_rank": 2, "classify": path, "label": "classe", "lr": 1e-2}
    found = train(output_dir=tmp_path / "m", max_steps=8, **settings)
    expected = found.model.classify(["aaa", "oz1"])
    merge(base, tmp_path / "m", tmp_path / "fondu.pt")
    for place in (tmp_path / "fondu.pt", tmp_path / "m"):
        other = load(place).classify(["aaa", "oz1"])
        for one, two in zip(expected, other, strict=True):
            assert one.probabilities == pytest.approx(two.probabilities, abs=1e-6)
    steps = []
    partial = train(output_dir=tmp_path / "b", max_steps=8, save_every=2,
                    should_stop=lambda: len(steps) > 3 or steps.append(1), **settings)  # fmt: skip
    assert not partial.complete
    train(resume=tmp_path / "b", progress=False)
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "adapter.safetensors") for name in "mb")
    assert "out_head.weight" in one
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(Exception, match="deux têtes"):
        merge(base, [tmp_path / "m", tmp_path / "b"], tmp_path / "x.pt")


def test_a_value_is_learned_in_its_own_unit(path, tmp_path):
    found = train(classify=path, label="valeur", regress=True, output_dir=tmp_path / "m",
                  **{**TINY, "epochs": 60, "lr": 1e-2, "drop_rate": 0.0})  # fmt: skip
    measured = evaluate(found, classify=path, label="valeur").labels
    assert measured.result.mae < 0.6
    assert measured.result.truth.max() <= 2.0
    (judgement,) = found.model.classify("aaaa")
    assert judgement.label is None
    assert -1 < judgement.value < 3
    assert measured.gain is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "texte.txt"}, "`classify` et `data`"),
        ({"stride": 3}, "`classify` et `stride`"),
        ({"chat": "x.jsonl"}, "`classify` et `chat`"),
        ({"document_mask": True}, "`classify` et `document_mask`"),
        ({"canaries": 2}, "`classify` et `canaries`"),
        ({"prompt": "a"}, "`classify` et `prompt`"),
        ({"regress": True, "balance": True}, "`regress` et `balance`"),
    ],
    ids=str,
)
def test_what_does_not_go_together(path, tmp_path, changes, words):
    with pytest.raises(ConfigurationError, match=words):
        run(path, tmp_path / "m", **changes)


def test_options_need_the_file():
    for name, value in {"label": "x", "regress": True, "val": "x.csv", "balance": True}.items():
        with pytest.raises(ConfigurationError, match=f"`{name}` sans `classify`"):
            train("la-lampe-du-passeur", **{name: value})


def test_the_certificate_is_kept(path, tmp_path):
    from gpt_architecture import forget, verify

    run(path, tmp_path / "m", max_steps=6)
    found = verify(tmp_path / "m", classify=path)
    assert not found.differences
    with pytest.raises(ConfigurationError, match=r"`data`|`classify`"):
        verify(tmp_path / "m")
    with pytest.raises(ConfigurationError, match="n'oublie pas ainsi"):
        forget(tmp_path / "m", text=path, classify=path)
    assert str(path) not in (tmp_path / "m" / "certificat.json").read_text(encoding="utf-8")


def test_bf16_is_asked_as_elsewhere(path):
    data = data_of(path)
    if "bf16" not in str(torch.cpu.get_capabilities()):
        with pytest.raises(ConfigurationError, match="bf16"):
            build_trainer(settings_of(data, compute=ComputeConfig(precision="bf16")), data)
        return
    plain, half = (
        build_trainer(settings_of(data, compute=ComputeConfig(precision=name)), data).advance().loss
        for name in ("fp32", "bf16")
    )
    assert half == pytest.approx(plain, rel=0.02)
    assert replace(TRAINING, epochs=1) != TRAINING
