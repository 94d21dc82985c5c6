"""Points de reprise abîmés ou hostiles : refusés d'une phrase, sans rien exécuter ni emporter."""

import json
import os
import pickle
import shutil
import struct
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from gpt_architecture.errors import CheckpointError
from gpt_architecture.training.checkpoint import CheckpointStore, read_checkpoint

FILES = ("manifest.json", "state.json", "model.safetensors", "rng.safetensors")
posix = pytest.mark.skipif(os.name != "posix", reason="liens et tubes sont propres à POSIX")


def groups(seed):
    """Deux groupes de tenseurs, propres à une graine."""
    draw = torch.Generator().manual_seed(seed)
    return {"model": {"w": torch.randn(3, 4, generator=draw)}, "rng": {"cpu": draw.get_state()}}


@pytest.fixture
def store(tmp_path):
    """Deux points de reprise, étapes 10 et 20 ; le second est celui qu'on abîme."""
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (10, 20):
        store.save(step, groups(step), {"loss": 0.5})
    return store


@pytest.fixture
def path(store):
    """Le dossier à abîmer."""
    return store.root / "step-000020"


def seal(path, **changes):
    """Réécrit le manifeste comme un tiers qui saurait le sceller ; `changes` s'y ajoutent."""
    names = [name for name in FILES if name != "manifest.json" and (path / name).is_file()]
    contents = {name: (path / name).read_bytes() for name in names}
    manifest = {
        "format": "gpt-architecture/checkpoint",
        "version": 1,
        "step": 20,
        "files": {
            name: {"size": len(content), "sha256": sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    } | changes
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["sha256"] = sha256(canonical.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def refusal(path, *, verify=True):
    """La phrase du refus de lecture."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, verify=verify)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.exit_code == 1
    return message


def check_refused(store, path, *words):
    """Refus d'une phrase qui nomme le fichier ; le point de reprise précédent est intact."""
    message = refusal(path)
    for word in words:
        assert word in message, message
    previous = store.latest()
    assert previous.step == 10
    for name, tensors in groups(10).items():
        read = previous.tensors(name)
        assert all(torch.equal(read[key], tensor) for key, tensor in tensors.items())


def test_the_sealer_of_these_tests_is_accepted(path):
    """Sans quoi les refus qui suivent ne prouveraient rien."""
    seal(path)
    assert read_checkpoint(path).step == 20


# --- Accidents -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flipped_bit_in_any_byte_of_the_manifest_is_seen(path):
    """Le bit 5 surtout : il change une lettre hexadécimale de casse, pas de valeur."""
    manifest = path / "manifest.json"
    content = manifest.read_bytes()
    for position in range(len(content)):
        for bit in {5, position % 8}:
            manifest.write_bytes(
                content[:position]
                + bytes([content[position] ^ (1 << bit)])
                + content[position + 1 :]
            )
            with pytest.raises(CheckpointError):
                read_checkpoint(path, verify=False)
    manifest.write_bytes(content)
    assert read_checkpoint(path).step == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES[1:])
def test_any_flipped_byte_of_a_file_is_seen(store, path, name):
    content = (path / name).read_bytes()
    positions = {*range(0, len(content), max(1, len(content) // 200)), len(content) - 1}
    for position in sorted(positions):
        bit = 1 << (position % 8)
        (path / name).write_bytes(
            content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]
        )
        assert f"{name} est abîmé" in refusal(path)
    check_refused(store, path, name)
    (path / name).write_bytes(content)
    assert read_checkpoint(path).step == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, 1, 8, -1])
def test_a_truncated_or_empty_file_is_refused(store, path, name, kept):
    (path / name).write_bytes((path / name).read_bytes()[:kept])
    check_refused(store, path, name)
    assert name in refusal(path, verify=False)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_refused(store, path, name):
    with (path / name).open("ab") as file:
        file.write(b"\0")
    check_refused(store, path, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(store, path, name):
    (path / name).unlink()
    check_refused(store, path, name, "fichier absent")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file_is_refused(store, path, name):
    (path / name).unlink()
    (path / name).mkdir()
    check_refused(store, path, name, "n'est pas un fichier ordinaire")


@pytest.mark.parametrize("name", FILES[1:])
def test_files_of_another_step_are_refused(store, path, name):
    """Un mélange de deux points de reprise, comme une copie inachevée en laisserait."""
    store.save(30, groups(30), {"loss": 0.25})
    shutil.copy(store.root / "step-000030" / name, path / name)
    assert name in refusal(path)


def test_a_file_the_manifest_ignores_is_never_opened(path):
    (path / ".DS_Store").write_bytes(b"\0" * 10)
    (path / "model.pt").write_bytes(b"\x80\x04.")
    (path / "autre.safetensors").write_bytes(b"")
    assert read_checkpoint(path).names == ("model", "rng")


# --- Malveillance ----------------------------------------------------------------------------


class Payload:
    """Un objet dont la lecture par pickle crée un fichier."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.touch, (self.sentinel,)


@pytest.mark.parametrize("resealed", [False, True], ids=["manifeste d'origine", "rescellé"])
@pytest.mark.parametrize("writer", ["pickle", "torch"])
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_is_refused_and_never_run(store, path, tmp_path, name, writer, resealed):
    sentinel = tmp_path / "exécuté"
    if writer == "pickle":
        (path / name).write_bytes(pickle.dumps(Payload(sentinel)))
    else:
        torch.save({"w": torch.ones(2), "x": Payload(sentinel)}, path / name)
    if resealed and name != "manifest.json":
        seal(path)
    check_refused(store, path, name)
    if resealed and name.endswith(".safetensors"):
        checkpoint = read_checkpoint(path, verify=False)  # même sans contrôle des empreintes
        with pytest.raises(CheckpointError, match="illisible"):
            checkpoint.tensors(name.removesuffix(".safetensors"))
    assert not sentinel.exists()


def test_a_malicious_pt_in_place_of_the_folder_is_refused(store, path, tmp_path):
    shutil.rmtree(path)
    torch.save(Payload(tmp_path / "exécuté"), path)
    check_refused(store, path, "introuvable")
    assert not (tmp_path / "exécuté").exists()


ENTRY = {"size": 0, "sha256": sha256(b"").hexdigest()}


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "../../etc/passwd",
        "/etc/passwd",
        "/x.safetensors",
        "a/b.safetensors",
        "a\\b.safetensors",
        "C:x.safetensors",
        "..safetensors",
        ".safetensors",
        "model.pt",
        "model.safetensors\n",
        "x\0.safetensors",
        "x" * 5000 + ".safetensors",
        "manifest.json",
        "",
    ],
    ids=lambda name: repr(name[:20]),
)
def test_a_manifest_names_only_its_own_files(store, path, name):
    files = json.loads((path / "manifest.json").read_text())["files"]
    seal(path, files={**files, name: ENTRY})
    check_refused(store, path, "manifest.json", "imprévus")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1},
        {"step": "20"},
        {"step": 20.0},
        {"step": True},
        {"step": None},
        {"files": None},
        {"files": []},
        {"files": {}},
        {"files": {"state.json": None}},
        {"files": {"state.json": {"size": 1}}},
        {"files": {"state.json": {**ENTRY, "size": -1}}},
        {"files": {"state.json": {**ENTRY, "size": 1.0}}},
        {"files": {"state.json": {**ENTRY, "sha256": 3}}},
        {"files": {"state.json": {**ENTRY, "sha256": "A" * 64}}},
        {"files": {"state.json": {**ENTRY, "autre": 1}}},
        {"files": {"state.json": ENTRY, **{f"f{i}.safetensors": ENTRY for i in range(1000)}}},
        {"format": "autre"},
        {"format": None},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"version": 1.0},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_a_well_sealed_manifest_of_another_shape_is_refused(store, path, changes):
    seal(path, **changes)
    check_refused(store, path, "manifest.json")


def test_another_version_says_to_update(path):
    seal(path, version=2)
    assert "version 2" in refusal(path)
    assert "mettez gpt-architecture à jour" in refusal(path)


def test_a_huge_announced_size_is_refused(store, path):
    files = json.loads((path / "manifest.json").read_text())["files"]
    seal(path, files={**files, "model.safetensors": {**ENTRY, "size": 10**30}})
    check_refused(store, path, "model.safetensors fait")


BAD_JSON = {
    "vide": "",
    "coupé": '{"a": ',
    "liste": "[]",
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": -Infinity}',
    "profond": "[" * 200_000,
    "long": '{"a": ' + "9" * 100_000 + "}",
    "UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.slow
@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_bad_json_is_refused(store, path, name, content):
    (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "state.json":
        seal(path)
    check_refused(store, path, name)


def test_an_oversized_json_is_not_read(store, path):
    with (path / "manifest.json").open("ab") as file:
        file.truncate(1 << 40)  # creux : rien n'est écrit
    check_refused(store, path, "manifest.json", "plus de 1,0 Mio")


def container(shape, end, data):
    """Un fichier safetensors d'un seul tenseur float32, juste ou faux selon ses nombres."""
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


BAD_CONTAINERS = {
    "vide": b"",
    "en-tête énorme": struct.pack("<Q", 2**63) + b"{}",
    "en-tête hors du fichier": struct.pack("<Q", 10_000) + b"{}",
    "en-tête sans JSON": struct.pack("<Q", 4) + b"abcd",
    "octets hors du fichier": container([99_999_999], 4 * 99_999_999, bytes(8)),
    "forme fausse": container([2], 4, bytes(4)),
    "forme qui déborde": container([2**62, 2**62], 8, bytes(8)),
    "octets en trop": container([2], 8, bytes(12)),
}


def test_the_containers_of_these_tests_are_read(path):
    (path / "model.safetensors").write_bytes(container([2], 8, bytes(8)))
    seal(path)
    assert torch.equal(read_checkpoint(path).tensors("model")["w"], torch.zeros(2))


@pytest.mark.parametrize("content", BAD_CONTAINERS.values(), ids=BAD_CONTAINERS)
def test_a_well_sealed_but_bad_container_is_refused(store, path, content):
    (path / "model.safetensors").write_bytes(content)
    seal(path)
    check_refused(store, path, "model.safetensors est illisible")


@posix
@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused(store, path, tmp_path, name):
    outside = tmp_path / "dehors"
    (path / name).rename(outside)  # le contenu est le bon : seul le lien est en cause
    (path / name).symlink_to(outside)
    check_refused(store, path, name, "n'est pas un fichier ordinaire")


@posix
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_refused_without_waiting(store, path, name):
    (path / name).unlink()
    os.mkfifo(path / name)
    check_refused(store, path, name, "n'est pas un fichier ordinaire")
