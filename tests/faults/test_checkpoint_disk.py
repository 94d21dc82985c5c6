"""Disque plein ou en lecture seule : une phrase, et le point de reprise précédent se lit."""

import shutil
import subprocess
import sys

import pytest
import torch

from gpt_architecture.errors import OutputError
from gpt_architecture.training.checkpoint import CheckpointStore

PAGE = 4096
SIZE = 2 << 20


def mount(*arguments):
    """Lance mount ; rend ce qu'il refuse, ou le vide."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture
def disk(tmp_path):
    """Un système de fichiers de 2 Mo en mémoire."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("monter un tmpfs demande Linux et mount")
    folder = tmp_path / "disque"
    folder.mkdir()
    refusal = mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder))
    if refusal:
        pytest.skip(f"monter un tmpfs demande les droits de root : {refusal}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def store(disk):
    """Un point de reprise d'un demi-mégaoctet, étape 10, désigné le meilleur."""
    store = CheckpointStore(disk / "checkpoints", keep_last=1)
    store.save(10, groups(10), {"loss": 0.5})
    store.mark_best(10)
    return store


def groups(seed, numel=1 << 16):
    """Deux groupes de `numel` réels chacun, propres à une graine."""
    draw = torch.Generator().manual_seed(seed)
    return {name: {"w": torch.randn(numel, generator=draw)} for name in ("model", "optimizer")}


def holds(checkpoint, seed):
    """`checkpoint` contient, bit pour bit, `groups(seed)`."""
    return checkpoint.step == seed and all(
        torch.equal(checkpoint.tensors(name)["w"], tensors["w"])
        for name, tensors in groups(seed).items()
    )


def refusal(action, *arguments):
    """La phrase du refus."""
    with pytest.raises(OutputError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def folders(store):
    """Dossiers présents, restes compris."""
    return sorted(path.name for path in store.root.iterdir() if path.is_dir())


@pytest.mark.parametrize("numel", [1 << 19, 3 << 16], ids=["premier fichier", "second fichier"])
def test_a_disk_filling_up_during_a_save(store, numel):
    message = refusal(store.save, 20, groups(20, numel), {})
    assert "step-000020 : disque plein" in message
    assert "intacts" in message
    assert folders(store) == ["step-000010"]
    assert holds(store.latest(), 10)
    assert store.sweep() == []
    store.save(20, groups(20), {})  # la place est rendue
    assert holds(store.latest(), 20)


def test_a_disk_full_to_the_last_page(store, disk):
    """Le disque se remplit à chaque point possible de l'écriture, page par page."""
    small = {"model": {"w": torch.ones(2000)}, "rng": {"cpu": torch.ones(600)}}
    outcomes = set()
    for pages in range(12):
        free = shutil.disk_usage(disk).free
        (disk / "plein").write_bytes(bytes(free - pages * PAGE))
        try:
            store.save(20, small, {})
            outcomes.add("écrit")
        except OutputError as error:
            assert "disque plein" in str(error)  # noqa: PT017
            outcomes.add("refusé")
            assert folders(store) == ["step-000010"]
        assert holds(store.best(), 10)
        assert store.latest().step == (20 if "écrit" in outcomes else 10)
        (store.root / "step-000030.incomplete").mkdir()
        assert store.sweep() == [store.root / "step-000030.incomplete"]
        (disk / "plein").unlink()
    assert outcomes == {"écrit", "refusé"}


def test_a_full_disk_keeps_the_best_mark(store, disk):
    store.keep_last = 2
    store.save(20, {"model": {}}, {})
    (disk / "plein").write_bytes(bytes(shutil.disk_usage(disk).free))
    assert "best.json : disque plein" in refusal(store.mark_best, 20)
    assert holds(store.best(), 10)


def test_a_read_only_disk(store, disk):
    assert mount("-o", "remount,ro", str(disk)) == ""
    try:
        for action, arguments in (
            (store.lock().__enter__, ()),
            (store.save, (20, groups(20), {})),
            (store.mark_best, (10,)),
            (store.sweep, ()),
        ):
            assert "système de fichiers en lecture seule" in refusal(action, *arguments)
        assert holds(store.latest(), 10)
        assert holds(store.best(), 10)
    finally:
        mount("-o", "remount,rw", str(disk))
    store.save(20, groups(20), {})
    assert holds(store.latest(), 20)
