"""Le modèle d'une commande : par sa place ou par --model, fichier, dossier ou adaptateurs."""

import json
import shutil
from pathlib import Path

import pytest
from cli_helpers import tiny

from gpt_architecture import load
from gpt_architecture.api import is_remote
from gpt_architecture.interop import hub
from gpt_architecture.training.checkpoint import CheckpointStore

CHAT = [{"role": "user", "content": "La nuit ?"}, {"role": "assistant", "content": "Oui."}]


def commands(model):
    """Chaque commande à un modèle, sous sa forme la plus courte."""
    return {
        "infer": ("--prompt", "La lampe", "--max-tokens", 2),
        "evaluate": ("--data", "la-lampe-du-passeur", "--tokens", 40),
        "inspect": (),
        "demo": ("--prompt", "La lampe", "--max-tokens", 2),
        "visualize": ("--prompt", "La lampe", "--output-dir", model.parent),
        "quantize": ("--output", model.parent / "q.safetensors", "--force"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(commands(Path("x"))))
def test_by_place_or_by_name(cli, trained, tmp_path, name):
    """La même réponse sous les deux formes, et pour un dossier d'entraînement."""
    model = tmp_path / "gpt-model.pt"
    shutil.copy(trained / "gpt-model.pt", model)
    more = commands(model)[name]
    for form in ((model,), ("--model", model), (tmp_path,), ("--model", tmp_path)):
        outcome = cli(name, *form, *more)
        assert outcome.code == 0, (form, outcome.err)
    cli(name, model, "--model", model, *more).check_one_line_error(2, "en trop")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(commands(Path("x"))))
def test_a_missing_model_is_said_by_its_name(cli, tmp_path, name):
    outcome = cli(name, tmp_path / "rien.pt", *commands(tmp_path / "x")[name])
    outcome.check_one_line_error(1, "rien.pt", "introuvable")
    assert outcome.out == ""


def test_the_two_argument_commands(cli, trained, tmp_path):
    """convert et merge : --model remplace le premier argument."""
    model = trained / "gpt-model.pt"
    assert cli("convert", "--model", model, tmp_path / "a.pt", "--to", "pt").code == 0
    assert cli("convert", trained, tmp_path / "b.pt", "--to", "pt").code == 0
    outcome = cli("convert", model, tmp_path / "c.pt", "--model", model, "--to", "pt")
    outcome.check_one_line_error(2, "deux fois")
    cli("convert", model, "--to", "pt").check_one_line_error(2, "SOURCE DESTINATION")
    cli("merge", model, "--out", "x.pt").check_one_line_error(2, "MODÈLE ADAPTATEURS")


@pytest.mark.slow
def test_an_unfinished_training(cli, tmp_path):
    """Sans gpt-model.pt, le dernier point de reprise du dossier ; `checkpoints` de même."""
    folder = tmp_path / "run"
    assert cli("train", *tiny(output_dir=folder, max_steps=4, save_every=2, keep=2)).code == 0
    (folder / "gpt-model.pt").unlink()
    last = CheckpointStore(folder / "checkpoints").steps()[-1]
    expected = load(folder / "checkpoints" / f"step-{last:06d}").generate("La lampe")
    assert load(folder).generate("La lampe") == expected
    assert load(str(folder / "checkpoints")).generate("La lampe") == expected
    outcome = cli("infer", folder, "--prompt", "La lampe")
    assert outcome.code == 0
    assert f"étape {last}" in outcome.err
    again = tmp_path / "suite"
    outcome = cli(
        *("train", "--from", folder, "--data", "la-lampe-du-passeur", "--max-steps", 1),
        *("--output-dir", again, "--device", "cpu"),
    )
    assert outcome.code == 0, outcome.err


@pytest.fixture
def adapted(cli, trained, tmp_path):
    """Un modèle et les adaptateurs d'un affinage, dans deux dossiers voisins."""
    base = tmp_path / "base" / "gpt-model.pt"
    base.parent.mkdir()
    shutil.copy(trained / "gpt-model.pt", base)
    talk = tmp_path / "talk.jsonl"
    talk.write_text("\n".join([json.dumps({"messages": CHAT})] * 9), encoding="utf-8")
    outcome = cli(
        *("train", "--from", base, "--chat", talk, "--lora-rank", 2, "--lr", "1e-2"),
        *("--epochs", 1, "--batch-size", 3, "--output-dir", tmp_path / "affine"),
    )
    assert outcome.code == 0, outcome.err
    return base, tmp_path / "affine" / "adapter.safetensors"


@pytest.mark.slow
def test_adapters_find_their_model(cli, adapted, tmp_path, monkeypatch):
    """Fondus au vol : le texte du modèle que `merge` écrirait, même déplacés ensemble."""
    base, adapter = adapted
    merged = tmp_path / "fondu.pt"
    assert cli("merge", base, adapter, "--out", merged).code == 0
    expected = load(merged).generate("La lampe", max_tokens=12)
    assert expected != load(base).generate("La lampe", max_tokens=12)
    moved = tmp_path / "ailleurs"
    moved.mkdir()
    for folder in (base.parent, adapter.parent):
        shutil.move(folder, moved / folder.name)
    monkeypatch.chdir("/")
    for source in (moved / "affine", moved / "affine" / "adapter.safetensors"):
        assert load(source).generate("La lampe", max_tokens=12) == expected
    outcome = cli("infer", moved / "affine", "--prompt", "La lampe", "--max-tokens", 12)
    assert outcome.out.strip() == expected.strip()
    assert cli("convert", moved / "affine", tmp_path / "x.pt", "--to", "pt").code == 0
    assert load(tmp_path / "x.pt").generate("La lampe", max_tokens=12) == expected


@pytest.mark.slow
def test_adapters_without_their_model(cli, adapted):
    """Absent, ou remplacé par un autre : l'erreur nomme merge ; rien n'est fondu à tort."""
    base, adapter = adapted
    other = base.with_name("autre.pt")
    assert cli("train", *tiny(seed=9, output_dir=base.parent / "autre")).code == 0
    base.rename(other)
    outcome = cli("infer", adapter, "--prompt", "La lampe")
    outcome.check_one_line_error(1, "adaptateurs", "introuvable", "gpt-architecture merge")
    shutil.copy(base.parent / "autre" / "gpt-model.pt", base)
    cli("infer", adapter).check_one_line_error(1, "gpt-architecture merge")


@pytest.mark.slow
def test_a_name_of_the_hub(cli, trained, monkeypatch, tmp_path):
    """`hub:DÉPÔT` partout où un modèle est attendu ; ici, le Hub est un dossier."""
    asked = []

    def download(name):
        asked.append(name)
        return trained / "gpt-model.pt"

    monkeypatch.setattr(hub, "download", download)
    assert is_remote("hub:auteur/petit")
    assert not is_remote(Path("auteur/petit"))
    for name, more in commands(tmp_path / "x").items():
        outcome = cli(name, "hub:auteur/petit", *more)
        assert outcome.code == 0, (name, outcome.err)
        assert "Téléchargement de auteur/petit" in outcome.err
    assert set(asked) == {"auteur/petit"}
    assert load("hub:auteur/petit").generate("La lampe")
    assert cli("convert", "hub:auteur/petit", tmp_path / "c.pt", "--to", "pt").code == 0
    assert load(tmp_path / "c.pt").metadata["source"] == "https://huggingface.co/auteur/petit"


@pytest.mark.slow
def test_serve_says_a_missing_model_before_its_address(cli, tmp_path):
    """Et un fichier que rien ne sait lire de même : stdout reste vide."""
    outcome = cli("serve", tmp_path / "rien.pt", "--port", 0)
    outcome.check_one_line_error(1, "rien.pt", "introuvable")
    assert outcome.out == ""
    wrong = tmp_path / "x.pt"
    wrong.write_bytes(b"\x08\x09\x12" + bytes(60))  # ONNX, que rien ne charge
    outcome = cli("serve", "--model", wrong, "--port", 0)
    outcome.check_one_line_error(1, "x.pt")
    assert outcome.out == ""
