"""Un bit inversé dans un fichier de modèle : dit au chargement ou à la demande, tenseur nommé."""

import os
import shutil
import sys
import zipfile

import pytest
import torch
from cli_helpers import run_process
from interop_helpers import GPT2, TEXT, content, transformers_folder
from safetensors.torch import save_file

from gpt_architecture.config import LoRAConfig
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats import tensor_files
from gpt_architecture.formats.adapter_file import AdapterFile, read_adapter, save_adapter
from gpt_architecture.formats.checkpoint import write_checkpoint
from gpt_architecture.formats.inspection import inspect_model
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.formats.quantized_file import load_quantized, save_quantized
from gpt_architecture.interop.hf import read_hf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.storage import archives

NAME = "trf_blocks.1.ff.layers.2.weight"


@pytest.fixture
def source():
    return content(GPT2, note="une note")


@pytest.fixture
def model_file(tmp_path, source):
    path = tmp_path / "gpt-model.pt"
    save_model(path, source.build(), GPT2, tokenizer=source.tokenizer, metadata=source.metadata)
    return path


def flip(path, found, *, offset=0):
    """Inverse un bit du premier octet de `found`, seul endroit du fichier où il est."""
    data = bytearray(path.read_bytes())
    place = data.find(found)
    assert place > 0
    data[place + offset] ^= 1 << (offset % 8)
    path.write_bytes(data)


def bytes_of(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def refusal(action):
    with pytest.raises(ModelFileError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_a_flipped_bit_in_any_tensor_is_seen_and_the_tensor_named(model_file, source):
    sound = model_file.read_bytes()
    read_model(model_file)
    for name, tensor in source.state_dict.items():
        flip(model_file, bytes_of(tensor), offset=7)
        owner = "tok_emb.weight" if name == "out_head.weight" else name  # le même tenseur
        assert f"le tenseur {owner} a changé" in refusal(lambda: read_model(model_file))
        model_file.write_bytes(sound)


@pytest.mark.parametrize("found", [b"une note", b"drop_rate", b"merges"])
def test_a_flipped_bit_in_the_description_is_seen(model_file, found):
    flip(model_file, found, offset=2)
    message = refusal(lambda: read_model(model_file))
    assert "sa description a changé" in message or str(model_file) in message


@pytest.mark.slow
def test_no_flip_anywhere_changes_what_is_read_without_a_word(model_file, source):
    """Un bit sur chaque tronçon du fichier : refusé, ou sans effet sur ce qui est lu."""
    sound, expected = model_file.read_bytes(), read_model(model_file)
    step = len(sound) // 150
    for place in range(step // 2, len(sound), step):
        data = bytearray(sound)
        data[place] ^= 0x10
        model_file.write_bytes(data)
        try:
            found = read_model(model_file)
        except ModelFileError:
            continue
        assert (found.config, found.metadata) == (expected.config, expected.metadata), place
        for name, tensor in source.state_dict.items():
            assert torch.equal(found.state_dict[name], tensor), (place, name)


def test_a_file_without_checksums_still_loads(model_file, source, tmp_path):
    """Celui d'un tiers, ou d'avant PyTorch 1.6."""
    payload = torch.load(model_file, weights_only=True)
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(payload, tmp_path / "sans.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    torch.save(payload, tmp_path / "ancien.pt", _use_new_zipfile_serialization=False)
    for name in ("sans.pt", "ancien.pt"):
        assert torch.equal(read_model(tmp_path / name).state_dict[NAME], source.state_dict[NAME])


@pytest.mark.slow
def test_a_large_file_is_verified_on_request(cli, model_file, source, monkeypatch):
    flip(model_file, bytes_of(source.state_dict[NAME]))
    monkeypatch.setattr(tensor_files, "CHECKED_BELOW", 1_000)
    assert read_model(model_file).config == GPT2
    assert f"le tenseur {NAME}" in refusal(lambda: read_model(model_file, verify=True))
    assert cli("inspect", model_file).code == 0
    cli("inspect", model_file, "--check").check_one_line_error(1, NAME, "a changé")


@pytest.mark.slow
def test_infer_refuses_a_damaged_file(cli, model_file, source):
    flip(model_file, bytes_of(source.state_dict[NAME]), offset=3)
    outcome = cli("infer", "--model", model_file, "--prompt", "Le", "--device", "cpu")
    outcome.check_one_line_error(1, NAME, "recopiez-le")
    assert outcome.out == ""


class TestAhead:
    """La relecture commencée avant l'import de PyTorch : celle du fichier tel qu'il est lu."""

    @pytest.fixture(autouse=True)
    def nothing_ahead(self):
        """Aucune relecture d'un autre test, ni laissée à un autre."""
        archives._ahead.clear()
        yield
        archives._ahead.clear()

    def test_it_finds_what_the_other_finds(self, model_file, source):
        flip(model_file, bytes_of(source.state_dict[NAME]), offset=3)
        archives.check_ahead(model_file)
        assert f"le tenseur {NAME} a changé" in refusal(lambda: read_model(model_file))

    def test_it_is_read_once(self, model_file, monkeypatch):
        archives.check_ahead(model_file)
        (found,) = archives._ahead.values()
        found.result()
        monkeypatch.setattr(archives, "_damaged", lambda path: pytest.fail("relu"))
        assert read_model(model_file).config == GPT2
        assert not archives._ahead

    @pytest.mark.parametrize(
        "later",
        [1, pytest.param(0, marks=pytest.mark.skipif(os.name == "nt", reason="pas de ctime"))],
    )
    def test_a_file_changed_since_is_read_again(self, model_file, source, later):
        """Une copie peut rendre au fichier sa date d'avant, pas celle de ses attributs."""
        found = model_file.stat()
        date, changed = found.st_mtime_ns + later, found.st_ctime_ns
        archives.check_ahead(model_file)
        (found,) = archives._ahead.values()
        assert found.result() == []
        flip(model_file, bytes_of(source.state_dict[NAME]), offset=3)
        os.utime(model_file, ns=(date, date))
        while not later and model_file.stat().st_ctime_ns == changed:  # au pas de l'horloge
            os.utime(model_file, ns=(date, date))
        assert f"le tenseur {NAME} a changé" in refusal(lambda: read_model(model_file))

    def test_only_the_last_is_kept(self, model_file, tmp_path):
        other = tmp_path / "autre.pt"
        shutil.copy(model_file, other)
        archives.check_ahead(model_file)
        archives.check_ahead(other)
        assert list(archives._ahead) == [archives._identity(other)]
        assert read_model(model_file).config == read_model(other).config == GPT2

    def test_the_end_of_the_process_does_not_wait(self, model_file):
        """Une erreur d'usage se dit sans attendre la fin de la relecture."""
        code = (
            "import threading, sys; from pathlib import Path\n"
            "from gpt_architecture.storage import archives\n"
            "started = threading.Event()\n"
            "archives._is_sound = lambda *_: (started.set(), threading.Event().wait())\n"
            "archives.check_ahead(Path(sys.argv[1]))\n"
            "print(started.wait(60))"
        )
        assert run_process(sys.executable, "-c", code, model_file, timeout=60).out == "True\n"

    @pytest.mark.parametrize("kind", ["absent", "dossier", "autre", "gros"])
    def test_what_will_not_be_checked_is_left_alone(self, tmp_path, model_file, kind, monkeypatch):
        path = tmp_path / "m.safetensors" if kind == "autre" else tmp_path
        path = {"absent": tmp_path / "rien.pt", "gros": model_file}.get(kind, path)
        if kind == "autre":
            path.write_bytes(b"x")
        monkeypatch.setattr(archives, "CHECKED_BELOW", 10)
        archives.check_ahead(path)
        assert not archives._ahead

    def test_a_broken_archive_is_refused_by_its_reader(self, tmp_path):
        path = tmp_path / "gpt-model.pt"
        path.write_bytes(b"PK\x03\x04" + bytes(200) + b"PK\x05\x06" + bytes(18))
        archives.check_ahead(path)
        refusal(lambda: read_model(path))


class TestSafetensors:
    """Nos fichiers safetensors portent leurs sommes ; ceux des autres se lisent sans."""

    @pytest.fixture(params=["quantifié", "adaptateurs", "transformers"])
    def case(self, request, tmp_path, source):
        """Le fichier, de quoi le lire, et les octets d'un de ses tenseurs, nommé."""
        path = tmp_path / "m.safetensors"
        if request.param == "quantifié":
            model = pack(source.build(), "int8")
            save_quantized(path, model, tokenizer=source.tokenizer, metadata={"note": "une note"})
            codes = model.matrices[NAME.removesuffix(".weight")].grouped.codes
            return path, lambda: load_quantized(path), codes, NAME.replace("weight", "codes")
        if request.param == "adaptateurs":
            drawn = torch.randn(4, 24, generator=torch.Generator().manual_seed(3))
            tensors = {"trf_blocks.0.att.W_query.lora_A": drawn}
            adapter = AdapterFile(
                lora=LoRAConfig(rank=4),
                base_sha256="ab" * 32,
                tensors=tensors,
                metadata={"note": "une note"},
            )
            save_adapter(path, adapter)
            return path, lambda: read_adapter(path), drawn, next(iter(tensors))
        export_hf(source, tmp_path / "hf")
        weights = source.state_dict[NAME].T
        return (
            tmp_path / "hf" / "model.safetensors",
            lambda: read_hf(tmp_path / "hf"),
            weights,
            "transformer.h.1.mlp.c_proj.weight",
        )

    def test_a_flipped_bit_is_seen(self, case):
        path, read, tensor, name = case
        read()
        assert inspect_model(path, check=True).intact
        flip(path, bytes_of(tensor), offset=5)
        assert f"le tenseur {name} a changé" in refusal(read)
        assert name in refusal(lambda: inspect_model(path, check=True))

    def test_a_changed_description_is_seen(self, case):
        path, read, _, _ = case
        flip(path, b"une note" if b"une note" in path.read_bytes() else b'"format"', offset=3)
        refusal(read)

    def test_without_checksums_it_still_loads(self, case):
        path, read, _, _ = case
        opened = tensor_files.SafetensorsFile(path)
        metadata, tensors = opened.metadata, opened.tensors()
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        del metadata[tensor_files.SEAL]
        save_file(kept, path, metadata=metadata)
        read()
        assert inspect_model(path, check=True).intact is None


def test_what_others_wrote_is_checked_as_far_as_it_can_be(tmp_path, source):
    transformers_folder(tmp_path / "hf")
    assert inspect_model(tmp_path / "hf", check=True).intact is None
    path = tmp_path / "livre.pth"
    torch.save(dict(source.state_dict), path)
    assert inspect_model(path, check=True).intact
    flip(path, bytes_of(source.state_dict[NAME]))
    assert "l'enregistrement data/" in refusal(lambda: inspect_model(path, check=True))
    assert inspect_model(path).intact is None


def test_a_checkpoint_is_checked_too(tmp_path, source):
    state = {"config": GPT2.to_dict(), "tokenizer": dict(source.tokenizer), "note": TEXT}
    path = tmp_path / "step-3"
    write_checkpoint(path, 3, {"model": source.state_dict}, state)
    assert inspect_model(path, check=True).intact
    flip(path / "model.safetensors", bytes_of(source.state_dict[NAME]))
    inspect_model(path)
    assert "model.safetensors est abîmé" in refusal(lambda: inspect_model(path, check=True))


def test_saving_over_a_damaged_file_mends_it(model_file, source):
    shutil.copy(model_file, model_file.with_suffix(".copie"))
    flip(model_file, bytes_of(source.state_dict[NAME]))
    save_model(model_file, source.build(), GPT2, tokenizer=source.tokenizer)
    read_model(model_file)
    assert zipfile.ZipFile(model_file).testzip() is None
