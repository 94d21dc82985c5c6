"""Les préférences en commandes : train, evaluate, reprise, deux processus, et leurs refus."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from cli_helpers import run_process
from preference_helpers import save_start, write_pairs

from gpt_architecture import forget, train, verify
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.training.checkpoint import CheckpointStore
from gpt_architecture.training.reference import REFERENCE


@pytest.fixture
def base(tmp_path):
    return save_start(tmp_path)


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "paires.jsonl", count=16)


def options(base, pairs, folder, *more, epochs=3):
    return [
        *("train", "--from", base, "--preferences", pairs, "--output-dir", folder),
        *("--epochs", epochs, "--batch-size", 2, "--accumulate", 2, "--lr", "3e-3"),
        *("--eval-freq", 3, "--train-ratio", 0.75, "--device", "cpu"),
        *("--precision", "fp32", *more),
    ]


def weights(folder):
    return read_model(folder / "gpt-model.pt").state_dict


def test_train_then_evaluate(cli, base, pairs, tmp_path):
    """Ce qui s'affiche, ce qui est écrit, et l'exactitude qui monte."""
    before = cli("evaluate", base, "--preferences", pairs, "--json")
    assert before.code == 0, before.err
    first = json.loads(before.out)["preferences"]
    folder = tmp_path / "m"
    outcome = cli(*options(base, pairs, folder, epochs=12))
    assert outcome.code == 0, outcome.err
    assert "12 paires d'entraînement, 4 de validation" in outcome.out
    assert "Préférences  dpo, beta 0,1, sans dropout" in outcome.out
    assert "Préférences : exactitude" in outcome.out
    assert ", marge " in outcome.out
    assert ", KL " in outcome.out
    assert (folder / REFERENCE).is_file()
    found = read_model(folder / "gpt-model.pt").metadata
    assert found["objective"]["preference_loss"] == "dpo"
    assert found["chat_template"]
    after = cli("evaluate", folder / "gpt-model.pt", "--preferences", pairs, "--json")
    second = json.loads(after.out)["preferences"]
    assert second["count"] == first["count"] == 16
    assert second["margin"] > first["margin"]
    low, high = second["accuracy_interval"]
    assert low <= second["accuracy"] <= high
    shown = cli("evaluate", folder / "gpt-model.pt", "--preferences", pairs, "--limit", 3)
    assert "Préférences (3 paires)" in shown.out
    assert "Réponse préférée la plus probable" in shown.out


def test_evaluate_adds_log_probs_by_hand(cli, base, pairs):
    """Les log p de la commande sont celles du modèle, token après token."""
    found = json.loads(cli("evaluate", base, "--preferences", pairs, "--json").out)
    content = read_model(base)
    model = content.build().eval()
    from preference_helpers import ANSWERS, TOKENIZER

    for each in found["preferences"]["examples"][:3]:
        question = list(ANSWERS)[each["line"] - 1]
        for name, answer in zip(("chosen", "rejected"), ANSWERS[question], strict=True):
            asked = TOKENIZER.encode(f"{question}>")
            said = [*TOKENIZER.encode(answer), TOKENIZER.eos_id]
            with torch.no_grad():
                log_p = torch.log_softmax(model(torch.tensor([asked + said]))[0].double(), -1)
            total = sum(
                float(log_p[len(asked) - 1 + place, token]) for place, token in enumerate(said)
            )
            assert each[name] == pytest.approx(total, rel=1e-5)
            assert each[f"{name}_tokens"] == len(said)


def test_resume_by_command(cli, base, pairs, tmp_path):
    """Une reprise retrouve tout seule les paires, la perte et la référence."""
    saving = ("--save-every", 4, "--preference-loss", "simpo", "--gamma", 0.5)
    outcome = cli(*options(base, pairs, tmp_path / "a", *saving))
    assert outcome.code == 0, outcome.err
    outcome = cli(*options(base, pairs, tmp_path / "b", *saving, "--max-steps", 4))
    assert outcome.code == 0, outcome.err
    outcome = cli("train", "--resume", tmp_path / "b", "--max-steps", 9)
    assert outcome.code == 0, outcome.err
    assert "Reprise à l'étape 4" in outcome.out
    assert str(pairs) in outcome.out
    for name, tensor in weights(tmp_path / "a").items():
        assert torch.equal(tensor, weights(tmp_path / "b")[name]), name
    outcome = cli("train", "--resume", tmp_path / "b", "--gamma", 0.9)
    outcome.check_one_line_error(1, "gamma")


@pytest.mark.process
def test_killed_then_resumed(cli, base, pairs, tmp_path):
    """SIGKILL : la reprise rend les poids d'un entraînement d'une traite, au bit près.

    Le premier processus est neuf ; celui qui reprend, et qui fait l'autre d'une traite, est celui
    des tests, après bien d'autres entraînements.
    """
    straight, out = tmp_path / "a", tmp_path / "b"
    assert cli(*options(base, pairs, straight, "--save-every", 1)).code == 0
    arguments = map(str, options(base, pairs, out, "--save-every", 1))
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "gpt_architecture", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        next(line for line in process.stderr if line.startswith("Point de reprise"))
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert CheckpointStore(out / "checkpoints").steps()
    assert cli("train", "--resume", out).code == 0
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(out)[name]), name


@pytest.mark.process
def test_two_processes_as_one(cli, base, pairs, tmp_path):
    """DDP à deux : mêmes pertes, mêmes récompenses, mêmes poids, la passe de référence partagée."""
    alone, two = tmp_path / "seul", tmp_path / "deux"
    assert cli(*options(base, pairs, alone)).code == 0
    command = [sys.executable, "-m", "gpt_architecture", *options(base, pairs, two, "--launch", 2)]
    outcome = run_process(*command, timeout=120)
    assert outcome.code == 0, outcome.err
    assert "2 processus (ddp)" in outcome.out

    def lines(folder):
        text = (folder / "journal.jsonl").read_text(encoding="utf-8")
        return [each for each in map(json.loads, text.splitlines()) if "kl" in each]

    names = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl")
    assert len(lines(alone)) == len(lines(two)) > 9
    for one, other in zip(lines(alone), lines(two), strict=True):
        for name in names:
            assert one[name] == pytest.approx(other[name], abs=1e-3), name
    found = weights(two)
    for name, tensor in weights(alone).items():
        if not name.endswith("W_key.bias"):  # son gradient est nul : AdamW n'y suit que l'arrondi
            torch.testing.assert_close(tensor, found[name], rtol=1e-3, atol=2e-4)


def test_lora(cli, base, pairs, tmp_path):
    folder = tmp_path / "m"
    outcome = cli(*options(base, pairs, folder, "--lora-rank", 2, "--preference-loss", "orpo"))
    assert outcome.code == 0, outcome.err
    assert "adaptateurs de rang 2" in outcome.out
    merged = cli("evaluate", folder / "adapter.safetensors", "--preferences", pairs)
    assert merged.code == 0, merged.err


def test_estimate_writes_nothing(cli, base, pairs, tmp_path):
    outcome = cli(*options(base, pairs, tmp_path / "m", "--estimate"))
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "m").exists()


def test_certificate_holds_and_nothing_is_forgotten_so(base, pairs, tmp_path):
    settings = {"batch_size": 2, "train_ratio": 0.75, "device": "cpu", "max_steps": 3}
    train(start=base, preferences=pairs, output_dir=tmp_path / "m", **settings)
    assert not verify(tmp_path / "m", preferences=pairs, start=base).differences
    with pytest.raises(ConfigurationError, match=r"des préférences : il n'oublie pas ainsi"):
        forget(tmp_path / "m", text=pairs, preferences=pairs, start=base)


class TestRefusals:
    def test_another_template(self, cli, base, pairs, tmp_path):
        path = tmp_path / "autre.jinja"
        path.write_text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
        outcome = cli(*options(base, pairs, tmp_path / "m", "--chat-template", path))
        outcome.check_one_line_error(2, "gabarit", "depart.pt", "--chat-template")
        assert not (tmp_path / "m").exists()

    def test_no_start(self, cli, pairs, tmp_path):
        outcome = cli("train", "--preferences", pairs, "--output-dir", tmp_path / "m")
        outcome.check_one_line_error(2, "--preferences sans --from", "--from MODÈLE")

    @pytest.mark.parametrize(
        "more",
        [
            ("--data", "la-lampe-du-passeur"),
            ("--stride", 3),
            ("--document-mask",),
            ("--canaries", 2),
            ("--classify", "messages-fr"),
            ("--lora-dropout", 0.1, "--lora-rank", 2),
        ],
    )
    def test_what_does_not_go_with_it(self, cli, base, pairs, tmp_path, more):
        outcome = cli(*options(base, pairs, tmp_path / "m", *more))
        outcome.check_one_line_error(2, "--preferences", more[0])

    def test_settings_of_another_loss(self, cli, base, pairs, tmp_path):
        outcome = cli(*options(base, pairs, tmp_path / "m", "--gamma", 1))
        outcome.check_one_line_error(2, "--gamma", "simpo")
        outcome = cli("train", "--beta", 0.2, "--output-dir", tmp_path / "m")
        outcome.check_one_line_error(2, "--beta sans --preferences")

    def test_a_bad_pair(self, cli, base, tmp_path):
        path = tmp_path / "p.jsonl"
        path.write_text('{"prompt": "a", "chosen": "b"}', encoding="utf-8")
        outcome = cli(*options(base, path, tmp_path / "m"))
        outcome.check_one_line_error(1, "ligne 1", "rejected manque")
        outcome = cli("evaluate", base, "--preferences", path)
        outcome.check_one_line_error(1, "ligne 1", "rejected manque")
