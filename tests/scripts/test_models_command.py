"""`models` : ce qu'il y a dans un dossier et dans le cache, sans lire de poids."""

import json
import os
import pickle
import re
import shutil
from datetime import datetime
from pathlib import Path

import pytest
import torch
from interop_helpers import BOOK, GPT2, content

from gpt_architecture import models
from gpt_architecture.config import LoRAConfig
from gpt_architecture.core.lora import adapter_tensors, add_lora_
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats import listing
from gpt_architecture.formats.adapter_file import AdapterFile, save_adapter, weights_sha256
from gpt_architecture.formats.checkpoint import BEST, write_checkpoint
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.formats.tensor_files import SafetensorsFile
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.onnx import export_onnx
from gpt_architecture.interop.peft import export_peft


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Un dossier qui tient de tout, et ce qui n'est pas un modèle."""
    folder = tmp_path_factory.mktemp("etagere")
    base = content(BOOK, val_losses=[5.0, 4.25], train_losses=[4.0])
    (folder / "base").mkdir()
    save_model(
        folder / "base" / "gpt-model.pt",
        *(base.build(), BOOK),
        tokenizer=base.tokenizer,
        metadata=base.metadata,
    )
    (folder / "base" / "certificat.json").write_text("{}", encoding="utf-8")
    lora, model = LoRAConfig(rank=2), base.build()
    add_lora_(model, lora, seed=1)
    adapter = AdapterFile(
        lora=lora,
        base_sha256=weights_sha256(base),
        tensors=adapter_tensors(model),
        base_path="../base/gpt-model.pt",
    )
    (folder / "lora").mkdir()
    save_adapter(folder / "lora" / "adapter.safetensors", adapter)
    export_peft(adapter, folder / "peft")
    tuned = content(BOOK, start={"sha256": weights_sha256(base)}, train_losses=[3.5])
    save_model(
        folder / "suite.pt",
        *(tuned.build(), BOOK),
        tokenizer=tuned.tokenizer,
        metadata=tuned.metadata,
    )
    export_hf(content(GPT2), folder / "hf")
    export_gguf(content(GPT2), folder / "m.gguf")
    export_onnx(content(GPT2), folder / "m.onnx")
    (folder / "abime.pt").write_bytes((folder / "suite.pt").read_bytes()[:3000])
    (folder / "vieux.pth").write_bytes(pickle.dumps({"a": 1}))
    (folder / "texte.safetensors").write_text("ni poids ni en-tête", encoding="utf-8")
    (folder / "notes.txt").write_text("rien", encoding="utf-8")
    (folder / "autre").mkdir()
    (folder / "autre" / "config.json").write_text("{}", encoding="utf-8")
    (folder / ".cache").mkdir()
    shutil.copy(folder / "suite.pt", folder / ".cache")
    return folder


def test_everything_is_told_from_headers(shelf, monkeypatch):
    """Aucune valeur n'est lue : ni tenseur safetensors, ni somme de contrôle."""

    def refuse(*_arguments, **_named):
        raise AssertionError("des poids sont lus")

    monkeypatch.setattr(SafetensorsFile, "_values", refuse)
    monkeypatch.setattr(torch.Tensor, "clone", refuse)
    found = {str(each.path.relative_to(shelf)): each for each in models(shelf, cache=False)}
    kinds = {name: each.kind for name, each in found.items()}
    assert kinds == {
        "abime.pt": "",
        "m.gguf": "gguf",
        "m.onnx": "onnx",
        "suite.pt": "model",
        "texte.safetensors": "",
        "vieux.pth": "",
        "base/gpt-model.pt": "model",
        "hf": "hf",
        "lora/adapter.safetensors": "adapter",
        "peft": "peft",
    }
    base = found["base/gpt-model.pt"]
    assert (base.parameters, base.loss, base.loss_on) == (BOOK.num_parameters(), 4.25, "validation")
    assert (base.certificate, base.base, base.problem) == (True, None, None)
    assert found["hf"].parameters == GPT2.num_parameters()
    assert 0 < found["m.gguf"].parameters < GPT2.num_parameters()  # sans les lignes sans texte
    assert found["hf"].bytes == sum(each.stat().st_size for each in (shelf / "hf").iterdir())
    assert (found["suite.pt"].loss, found["suite.pt"].loss_on) == (3.5, "entraînement")
    for name in ("lora/adapter.safetensors", "peft", "suite.pt"):  # l'empreinte relie les trois
        assert found[name].base == str((shelf / "base" / "gpt-model.pt").resolve())
    assert found["lora/adapter.safetensors"].parameters == 4 * 2 * (24 + 24)
    assert "PyTorch 1.6" in found["vieux.pth"].problem
    for name in ("abime.pt", "texte.safetensors"):
        assert found[name].problem
        assert str(shelf) not in found[name].problem


def test_the_command_shows_a_line_each(cli, shelf):
    outcome = cli("models", shelf, "--no-cache")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) == 11
    assert lines[0].split() == ["paramètres", "taille", "perte", "écrit", "le", "modèle"]
    (line,) = [each for each in lines if "base/gpt-model.pt : " in each]
    assert "4,250" in line
    assert line.endswith("modèle gpt-architecture, certificat")
    records = [
        json.loads(each) for each in cli("models", shelf, "--no-cache", "--json").out.splitlines()
    ]
    assert {each["kind"] for each in records} >= {"model", "hf", "gguf", "adapter", "peft"}
    assert all(each["modified"].endswith("+00:00") for each in records)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="ce système n'a pas de tubes")
def test_a_pipe_is_not_waited_for(tmp_path):
    """Un tube au nom de poids ne se lit pas : l'ouvrir attendrait sans fin."""
    folder = tmp_path / "hf"
    export_hf(content(GPT2), folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "pytorch_model.bin")
    (found,) = models(tmp_path, cache=False)
    assert (found.kind, found.problem is None) == ("hf", False)


def test_a_closed_folder_stops_nothing(shelf, monkeypatch):
    """Un dossier dont on lit les noms sans pouvoir y entrer : le reste est dit."""
    closed = shelf / "base"
    real = Path.stat

    def stat(path, **options):
        if closed in path.parents:
            raise PermissionError(13, "Permission denied")
        return real(path, **options)

    before = {each.path for each in models(shelf, cache=False)}
    monkeypatch.setattr(Path, "stat", stat)
    found = {each.path for each in models(shelf, cache=False)}
    assert before - found == {closed / "gpt-model.pt"}


def test_a_date_out_of_every_calendar(tmp_path, monkeypatch):
    save_model(tmp_path / "m.pt", content(BOOK).build(), BOOK, tokenizer=content(BOOK).tokenizer)
    monkeypatch.setattr(listing, "datetime", _Calendar)
    (found,) = models(tmp_path, cache=False)
    assert found.modified.year == 1970


class _Calendar(datetime):
    """Un calendrier qui s'arrête avant la date d'un fichier."""

    @classmethod
    def fromtimestamp(cls, when, zone):
        if when:
            raise ValueError("year is out of range")
        return datetime.fromtimestamp(when, zone)


def train(folder, losses, *, model=True, best=None):
    """Un entraînement : un point de reprise par perte, et le modèle s'il est fini."""
    base = content(BOOK, val_losses=[min(losses)])
    for rank, loss in enumerate(losses, 1):
        state = {"config": BOOK.to_dict(), "tokenizer": base.tokenizer}
        measured = {"trainer": {"train_losses": [loss], "val_losses": [loss]}}
        path = folder / "checkpoints" / f"step-{10 * rank:06d}"
        write_checkpoint(path, 10 * rank, {"model": base.state_dict}, state | measured)
    if best is not None:
        (folder / "checkpoints" / BEST).write_text(json.dumps({"step": best}), encoding="utf-8")
    if model:
        save_model(
            folder / "gpt-model.pt",
            *(base.build(), BOOK),
            tokenizer=base.tokenizer,
            metadata=base.metadata,
        )
    return folder


def test_a_training_is_one_line(cli, tmp_path):
    """Fini, c'est son modèle ; interrompu, son meilleur point de reprise, ou le dernier."""
    train(tmp_path / "fini", [5.0, 4.0, 4.5], best=20)
    train(tmp_path / "meilleur", [5.0, 4.0, 4.5], model=False, best=20)
    train(tmp_path / "dernier", [5.0, 4.5], model=False)
    lines = cli("models", tmp_path, "--no-cache").out.splitlines()[1:]
    ends = [each.partition(f"{tmp_path}/")[2] for each in lines]
    assert ends == [
        "dernier/checkpoints/step-000020 : point de reprise gpt-architecture, + 1 point de reprise",
        "fini/gpt-model.pt : modèle gpt-architecture, + 3 points de reprise",
        "meilleur/checkpoints/step-000020 : point de reprise gpt-architecture, le meilleur, "
        "+ 2 points de reprise",
    ]
    assert [re.search(r"\d,\d{3}", each)[0] for each in lines] == ["4,500", "4,000", "4,000"]
    told = cli("models", tmp_path, "--no-cache", "--json").out.splitlines()
    steps = {
        each["name"].removeprefix(f"{tmp_path}/"): [
            (point["path"][-2:], point["loss"], point["is_best"]) for point in each["checkpoints"]
        ]
        for each in map(json.loads, told)
    }
    assert steps == {
        "dernier/checkpoints/step-000020": [("10", 5.0, False)],
        "fini/gpt-model.pt": [("10", 5.0, False), ("20", 4.0, True), ("30", 4.5, False)],
        "meilleur/checkpoints/step-000020": [("10", 5.0, False), ("30", 4.5, False)],
    }


def test_every_point_when_asked(cli, tmp_path):
    """Par l'option, ou nommés : chacun sa ligne ; un point abîmé n'en représente pas d'autres."""
    folder = train(tmp_path / "essai", [5.0, 4.0, 4.5], model=False, best=30)
    (folder / "checkpoints" / "step-000030" / "state.json").write_text("{", encoding="utf-8")
    (found,) = models(folder, cache=False)
    assert (found.path.name, len(found.checkpoints)) == ("step-000020", 2)
    assert found.checkpoints[-1].problem
    assert len(models(folder, cache=False, checkpoints=True)) == 3
    outcome = cli("models", folder, "--checkpoints", "--no-cache")
    assert len(outcome.out.splitlines()) == 4
    assert "points de reprise" not in outcome.out
    named = sorted((folder / "checkpoints").glob("step-*"))[:2]
    assert [each.path for each in models(named, cache=False)] == named
    (folder / "checkpoints" / BEST).write_text("{", encoding="utf-8")
    (found,) = models(folder, cache=False)
    assert not found.is_best


def test_a_training_counts_once_in_the_limit(tmp_path):
    train(tmp_path / "a", [5.0, 4.0])
    train(tmp_path / "b", [5.0, 4.0], model=False)
    two = models(tmp_path, cache=False, limit=2)
    assert ([len(each.checkpoints) for each in two], two.is_partial) == ([2, 1], False)
    one = models(tmp_path, cache=False, limit=1)
    assert ([len(each.checkpoints) for each in one], one.is_partial) == ([2], True)
    each = models(tmp_path, cache=False, limit=2, checkpoints=True)
    assert (len(each), each.is_partial) == (2, True)


def test_a_search_is_bounded_and_says_so(cli, shelf, monkeypatch, tmp_path):
    assert len(models(shelf, cache=False, limit=2)) == 2
    assert models(shelf, cache=False, limit=2).is_partial
    outcome = cli("models", shelf, "--no-cache", "--depth", 0)
    assert "base/gpt-model.pt" not in outcome.out
    assert "bornes" in outcome.err
    monkeypatch.setattr(listing, "MAX_SEEN", 3)
    assert models(shelf, cache=False).is_partial
    (tmp_path / "boucle").symlink_to(tmp_path)  # un lien n'est pas suivi
    assert len(models(tmp_path, cache=False)) == 0
    assert cli("models", tmp_path, "--no-cache").out == "Aucun modèle ici.\n"


def test_what_is_not_a_folder_is_refused(cli, shelf, tmp_path):
    cli("models", tmp_path / "absent").check_one_line_error(1, "absent")
    cli("models", shelf, "--depth", -1).check_one_line_error(2, "--depth")
    for bad in ({"limit": 0}, {"depth": 99}):
        with pytest.raises(ConfigurationError):
            models(shelf, **bad)
    with pytest.raises(ModelFileError):
        models(tmp_path / "absent")
    assert [each.kind for each in models(shelf / "suite.pt", cache=False)] == ["model"]


def test_the_cache_of_hugging_face(shelf, tmp_path, monkeypatch):
    """Un dépôt déjà téléchargé se nomme par son adresse ; les fichiers y sont des liens."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--auteur--lampe"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40)).mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    for file in (shelf / "hf").iterdir():
        (snapshot / file.name).symlink_to(file)
    (tmp_path / "ici").mkdir()
    (found,) = models(tmp_path / "ici")
    assert (found.name, found.kind) == ("hub:auteur/lampe", "hf")
    assert found.parameters == GPT2.num_parameters()
