"""Les points de reprise : ce qui est lu est ce qui a été écrit, et il en reste toujours un."""

import json
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import threading
from hashlib import sha256

import pytest
import torch

from gpt_architecture.errors import CheckpointError, ConfigurationError, OutputError
from gpt_architecture.formats import checkpoint
from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore, read_checkpoint

OVERLAP = torch.arange(6)


def groups(seed=0):
    """Deux groupes de tenseurs, propres à une graine."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "model": {"w": torch.randn(3, 4, generator=draw), "b": torch.randn(4, generator=draw)},
        "rng": {"cpu": draw.get_state()},
    }


def same(left, right):
    """Mêmes noms, types, formes et bits."""
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


def holds(checkpoint, seed):
    """`checkpoint` contient, bit pour bit, `groups(seed)`."""
    expected = groups(seed)
    return checkpoint.names == tuple(sorted(expected)) and all(
        same(checkpoint.tensors(name), expected[name]) for name in expected
    )


def damage(path):
    """Inverse un bit au milieu du fichier."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def store(tmp_path):
    """Un dossier de points de reprise encore absent."""
    return CheckpointStore(tmp_path / "sortie" / CHECKPOINTS)


@pytest.fixture
def warned(caplog):
    """Les avertissements donnés depuis le dernier appel."""

    def messages():
        found = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        caplog.clear()
        assert not any("\n" in message for message in found)
        return found

    return messages


# --- Écrire et relire ------------------------------------------------------------------------


def test_what_is_read_is_what_was_saved(store):
    kinds = {
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "bfloat16": torch.randn(5).bfloat16(),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]).view(torch.int32),
        "bool": torch.tensor([True, False]),
        "transposed": torch.randn(3, 5).t(),
        "slice": torch.randn(6, 6)[::2, 1:4],
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    state = {"step": 40, "lr": 0.1 + 0.2, "été": ["é", None, True], "nested": {"seed": 2**63 - 1}}
    path = store.save(40, {"optimizer": kinds, "none": {}}, state)
    assert path == store.root / "step-000040"
    checkpoint = read_checkpoint(path)
    assert (checkpoint.path, checkpoint.step, checkpoint.state) == (path, 40, state)
    assert checkpoint.names == ("none", "optimizer")
    assert same(checkpoint.tensors("optimizer"), kinds)
    assert checkpoint.tensors("none") == {}


def test_every_file_is_sealed_in_the_manifest(store):
    path = store.save(7, groups(), {"a": 1})
    manifest = json.loads((path / "manifest.json").read_text())
    assert {"manifest.json", *manifest["files"]} == {p.name for p in path.iterdir()}
    assert {"model.safetensors", "rng.safetensors", "state.json"} == set(manifest["files"])
    for name, entry in manifest["files"].items():
        content = (path / name).read_bytes()
        assert entry == {"size": len(content), "sha256": sha256(content).hexdigest()}
    assert (manifest["format"], manifest["version"], manifest["step"]) == (
        "gpt-architecture/checkpoint",
        1,
        7,
    )


def test_changing_read_tensors_leaves_the_file_alone(store):
    checkpoint = read_checkpoint(store.save(1, groups(), {}))
    checkpoint.tensors("model")["w"].zero_()
    assert holds(read_checkpoint(checkpoint.path), 0)


def test_tensors_of_an_unknown_group_are_refused(store):
    with pytest.raises(CheckpointError, match=r"pas de tenseurs '\.\./model'"):
        read_checkpoint(store.save(1, groups(), {})).tensors("../model")


def test_tied_tensors_are_written_under_both_names(store):
    weight = torch.randn(4, 3)
    flat = torch.randn(10)
    tied = {"head": weight, "embedding": weight, "a": flat[:5], "b": flat[5:]}
    assert same(read_checkpoint(store.save(1, {"model": tied}, {})).tensors("model"), tied)


@pytest.mark.skipif(os.name != "posix", reason="l'umask est propre à POSIX")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_get_the_permissions_of_the_umask(store, umask, mode):
    before = os.umask(umask)
    try:
        path = store.save(1, groups(), {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {mode}


@pytest.mark.parametrize(
    ("tensors", "state", "error"),
    [
        ({}, {"loss": float("nan")}, ValueError),
        ({}, {"loss": float("inf")}, ValueError),
        ({}, {"path": object()}, TypeError),
        ({"../model": {}}, {}, ValueError),
        ({"": {}}, {}, ValueError),
        ({"a/b": {}}, {}, ValueError),
        ({"model": {"a": OVERLAP, "b": OVERLAP[1:4]}}, {}, ValueError),
    ],
)
def test_what_could_not_be_read_back_is_not_written(store, tensors, state, error):
    store.save(1, groups(1), {})
    with pytest.raises(error):
        store.save(2, tensors, state)
    assert [p.name for p in store.root.iterdir() if p.is_dir()] == ["step-000001"]
    assert holds(store.latest(), 1)


@pytest.mark.parametrize("step", [-1, 1.5, True, 10**15])
def test_a_step_is_a_bounded_integer(store, step):
    with pytest.raises(ConfigurationError):
        store.save(step, groups(), {})


def test_steps_beyond_six_digits_stay_in_order(store):
    for step in (999_999, 1_000_000):
        store.save(step, groups(step), {})
    assert store.steps() == [999_999, 1_000_000]
    assert holds(store.latest(), 1_000_000)


MEMORY = """
import sys, torch
from pathlib import Path
from gpt_architecture.training.checkpoint import CheckpointStore
def peak():
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) >> 10
store = CheckpointStore(Path(sys.argv[1]))
store.save(1, {"model": {"w": torch.ones(10)}}, {})
tensors = {name: {"w": torch.ones(12 << 20)} for name in ("model", "optimizer")}
before = peak()
store.save(2, tensors, {})
checkpoint = store.latest()
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="le pic de mémoire se lit dans /proc")
def test_saving_and_verifying_do_not_duplicate_the_tensors(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 24, f"{done.stdout.strip()} Mio de plus pour 96 Mio écrits"


# --- Renouveler ------------------------------------------------------------------------------


def test_an_empty_or_absent_folder_has_no_checkpoint(store):
    assert (store.steps(), store.latest(), store.best(), store.sweep()) == ([], None, None, [])
    assert not store.root.exists()


def test_the_last_ones_and_the_best_are_kept(store):
    for step in (10, 20, 30):
        store.save(step, groups(step), {})
    assert store.steps() == [20, 30]
    store.mark_best(20)
    for step in (40, 50):
        store.save(step, groups(step), {})
    assert store.steps() == [20, 40, 50]
    assert holds(store.best(), 20)
    assert holds(store.latest(), 50)
    store.mark_best(50)
    store.save(60, groups(60), {})
    assert store.steps() == [50, 60]


def test_the_one_just_written_is_kept_even_behind_others(store):
    for step in (50, 60):
        store.save(step, groups(step), {})
    store.save(10, groups(10), {})
    assert store.steps() == [10, 50, 60]


@pytest.mark.parametrize("keep", [0, -1, 1.0, None])
def test_keep_last_is_at_least_one(tmp_path, keep):
    with pytest.raises(ConfigurationError, match="keep_last"):
        CheckpointStore(tmp_path, keep_last=keep)


def test_the_same_step_is_replaced(store):
    store.save(10, groups(1), {"v": 1})
    store.save(10, groups(2), {"v": 2})
    assert store.latest().state == {"v": 2}
    assert holds(store.latest(), 2)
    assert [p.name for p in store.root.iterdir() if p.is_dir()] == ["step-000010"]


def test_an_interrupted_replacement_keeps_the_old_one(store):
    """L'instant entre les deux renommages de `_publish`."""
    path = store.save(10, groups(1), {})
    path.rename(path.with_name("step-000010.replaced"))
    (store.root / "step-000010.incomplete").mkdir()
    assert store.steps() == [10]
    assert holds(store.latest(), 1)
    assert store.sweep() == [store.root / "step-000010.incomplete"]
    assert holds(read_checkpoint(path), 1)
    path.rename(path.with_name("step-000010.replaced"))
    store.save(10, groups(2), {})  # sans balayage
    assert holds(store.latest(), 2)
    assert [p.name for p in store.root.iterdir() if p.is_dir()] == ["step-000010"]


def test_sweep_removes_leftovers_and_nothing_else(store):
    store.save(10, groups(10), {})
    store.mark_best(10)
    leftovers = [
        store.root / name
        for name in (
            *("step-000020.incomplete", "step-000005.removed", "step-000010.replaced"),
            "step-000030.shards",  # d'un entraînement à plusieurs, repris seul
        )
    ]
    for folder in leftovers:
        folder.mkdir()
        (folder / "model.safetensors").write_text("moitié")
    leftovers.append(store.root / ".best.json.0123abcd.tmp")
    leftovers[-1].mkdir()
    (leftovers[-1] / ".verrou").touch()
    (leftovers[-1] / "best.json").write_text("{")
    kept = [store.root / "notes.txt", store.root / "step-abc.incomplete"]
    for path in kept:
        path.write_text("à moi")
    assert sorted(store.sweep()) == sorted(leftovers)
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in kept)
    assert holds(store.best(), 10)
    assert store.sweep() == []


def test_best_needs_a_saved_step(store):
    with pytest.raises(CheckpointError, match="étape 5"):
        store.mark_best(5)


def test_a_damaged_checkpoint_is_named_and_the_previous_taken(store, warned):
    for step in (10, 20):
        store.save(step, groups(step), {})
    store.mark_best(20)
    damage(store.root / "step-000020" / "model.safetensors")
    assert holds(store.latest(), 10)
    (message,) = warned()
    assert "step-000020/model.safetensors est abîmé" in message
    assert store.best() is None
    assert len(warned()) == 1
    damage(store.root / "step-000010" / "state.json")
    assert store.latest() is None
    assert len(warned()) == 2


def test_a_step_folder_under_another_name_is_refused(store, warned):
    store.save(10, groups(10), {}).rename(store.root / "step-000090")
    assert store.latest() is None
    assert "contient l'étape 10" in warned()[0]


@pytest.mark.skipif(os.name != "posix", reason="les liens demandent un droit sous Windows")
def test_a_linked_step_folder_is_refused(store, tmp_path, warned):
    path = store.save(10, groups(10), {})
    path.rename(tmp_path / "ailleurs")
    path.symlink_to(tmp_path / "ailleurs")
    assert store.latest() is None
    assert "est un lien" in warned()[0]
    store.save(10, groups(2), {})  # remplace le lien, pas ce qu'il désigne
    assert holds(store.latest(), 2)
    assert read_checkpoint(tmp_path / "ailleurs").step == 10


BAD_BEST = ["", "{", '{"step": "10"}', '{"step": NaN}', "[10]", "9" * 9999]


@pytest.mark.parametrize("content", BAD_BEST, ids=lambda text: text[:16])
def test_an_unreadable_best_suspends_removal(store, warned, content):
    store.save(10, groups(10), {})
    store.mark_best(10)
    (store.root / "best.json").write_text(content)
    assert store.best() is None
    assert "best.json" in warned()[0]
    for step in (20, 30, 40):
        store.save(step, groups(step), {})
    assert store.steps() == [10, 20, 30, 40]
    assert len(warned()) == 3
    store.mark_best(10)
    store.save(50, groups(50), {})
    assert store.steps() == [10, 40, 50]
    assert warned() == []


def test_a_refused_removal_is_only_said(store, monkeypatch, warned):
    for step in (10, 20):
        store.save(step, groups(step), {})

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(CheckpointStore, "_discard", refuse)
    store.save(30, groups(30), {})
    (message,) = warned()
    assert "accès refusé" in message
    assert holds(store.latest(), 30)


# --- Échouer sans rien perdre ----------------------------------------------------------------


@pytest.mark.parametrize("function", ["save_safetensors", "_seal", "sync"])
def test_a_refused_write_says_so_and_keeps_the_previous(store, monkeypatch, function):
    store.save(10, groups(10), {})

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, function, full)
    with pytest.raises(OutputError, match=r"step-000020 : disque plein") as caught:
        store.save(20, groups(20), {})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert [p.name for p in store.root.iterdir() if p.is_dir()] == ["step-000010"]
    assert holds(store.latest(), 10)


def test_an_interruption_leaves_no_leftover(store, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(20, groups(20), {})
    assert [p.name for p in store.root.iterdir() if p.is_dir()] == []
    with CheckpointStore(store.root).lock():
        pass


# --- Un seul entraînement par dossier --------------------------------------------------------


def test_the_lock_names_its_holder_and_is_released(store):
    other = CheckpointStore(store.root)
    with store.lock():
        store.save(1, groups(), {})  # qui tient le verrou peut écrire
        for refused in (
            lambda: other.save(2, groups(), {}),
            lambda: other.mark_best(1),
            other.sweep,
            other.lock().__enter__,
        ):
            with pytest.raises(CheckpointError) as caught:
                refused()
            message = str(caught.value)
            assert f"le processus {os.getpid()} de {socket.gethostname()!r}" in message
            assert "\n" not in message
        assert holds(other.latest(), 0)  # lire reste permis
    other.save(2, groups(), {})
    assert {p.name for p in store.root.iterdir()} <= {"step-000001", "step-000002", ".verrou"}


def test_the_lock_holds_across_threads_of_its_process(store):
    failures = []

    def save():
        try:
            store.save(1, groups(), {})
        except CheckpointError as error:
            failures.append(error)

    with store.lock():
        thread = threading.Thread(target=save)
        thread.start()
        thread.join(30)
    assert failures == []
    assert store.steps() == [1]


def test_a_lock_without_its_record_is_still_refused(store):
    with store.lock():
        (store.root / ".verrou.json").write_text("{")
        with pytest.raises(CheckpointError, match="utilisé par un autre processus"):
            CheckpointStore(store.root).sweep()


def test_messages_are_one_french_line(store):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(store.root / "step-000001")
    assert re.fullmatch(r"point de reprise introuvable : [^\n]+\.", str(caught.value))
