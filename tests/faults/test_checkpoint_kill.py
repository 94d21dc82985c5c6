"""SIGKILL pendant l'écriture : le point de reprise précédent ou le nouveau se lit toujours."""

import multiprocessing
import os
import random
import signal
import time

import pytest
from checkpoint_writer import groups, holds, nursery

from gpt_architecture.errors import CheckpointError
from gpt_architecture.training.checkpoint import CheckpointStore, read_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL et fork sont propres à POSIX")
KILLS = 50
TIMEOUT = 30
MANY_EVENTS = 500


class Nursery:
    """Le processus qui enfante ceux qu'on tue ; un seul a à charger PyTorch."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.announcements, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=nursery, args=(theirs, sender))
        self.process.start()
        theirs.close()
        sender.close()

    def start(self, name, *arguments):
        self.pipe.send((name, arguments))
        return self._receive()

    def exit_code(self):
        return self._receive()

    def announced(self, timeout=0):
        return self.announcements.recv() if self.announcements.poll(timeout) else None

    def _receive(self):
        assert self.pipe.poll(TIMEOUT)
        return self.pipe.recv()


@pytest.fixture(scope="module")
def processes():
    """De quoi lancer et tuer un processus en quelques millisecondes."""
    home = Nursery()
    yield home
    home.pipe.close()
    home.announcements.close()
    home.process.join(TIMEOUT)
    assert home.process.exitcode == 0


@pytest.fixture
def root(tmp_path):
    """Le dossier des points de reprise."""
    return tmp_path / "checkpoints"


class Writer:
    """Un processus qui enregistre jusqu'à sa mort depuis `version`, et ce qu'il en dit."""

    def __init__(self, processes, root, version):
        self.processes = processes
        self.pid = processes.start("save_many", root, version)
        assert processes.announced(TIMEOUT) == ("avant", version)
        self.last = {"avant": version, "après": version - 1}

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        assert self.processes.exit_code() == -signal.SIGKILL
        while message := self.processes.announced():
            self.last[message[0]] = message[1]


def leftovers(root):
    """Suffixes que la mort a laissés."""
    names = [path.name for path in root.iterdir() if path.name.startswith("step-")]
    return frozenset(name.partition(".")[2] for name in names) - {""}


def check_recovers(root):
    """Une lecture, un balayage, la même lecture ; rend la version trouvée."""
    store = CheckpointStore(root)
    before = store.latest()
    assert before is not None
    assert holds(before)
    store.sweep()
    assert leftovers(root) == frozenset()
    for step in store.steps():  # aucun n'est valable à demi
        assert holds(read_checkpoint(root / f"step-{step:06d}"))
    after = store.latest()
    assert (after.step, after.state) == (before.step, before.state)
    return after.state["version"]


def test_fifty_kills_at_random_moments(root, processes, caplog):
    draw = random.Random(0)  # noqa: S311
    CheckpointStore(root).save(0, groups(0), {"version": 0})
    start = time.perf_counter()
    CheckpointStore(root).save(0, groups(0), {"version": 0})
    duration = time.perf_counter() - start
    version, interrupted = 1, 0
    for _ in range(KILLS):
        writer = Writer(processes, root, version)
        time.sleep(draw.uniform(0, 2.5 * duration))  # dans l'une des premières écritures
        writer.kill()
        interrupted += leftovers(root) != frozenset()
        found = check_recovers(root)
        assert writer.last["après"] <= found <= writer.last["avant"]  # ce qui est dit écrit l'est
        version = found + 1
    assert caplog.records == []  # aucun dossier n'a porté son nom sans être entier
    assert interrupted >= KILLS // 5, "les instants ne tombent pas pendant l'écriture"


@pytest.mark.parametrize(
    ("step", "states"),
    [(2, {"incomplete", "removed"}), (1, {"incomplete", "replaced", "removed"})],
    ids=["nouvelle étape, l'ancienne retirée", "même étape, remplacée"],
)
def test_a_kill_at_each_call_to_the_file_system(root, processes, caplog, step, states):
    """Chaque point d'arrêt visible depuis Python, un par un, jusqu'à une écriture entière."""
    seen, versions = set(), set()
    for events in range(1, MANY_EVENTS):
        CheckpointStore(root, keep_last=1).save(1, groups(1), {"version": 1})
        processes.start("save_until", root, step, 2, events)
        code = processes.exit_code()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        seen |= leftovers(root)
        versions.add(check_recovers(root))
        for path in root.glob("step-000002"):
            path.rename(root / "step-000002.removed")
        CheckpointStore(root).sweep()
    assert code == 0
    assert check_recovers(root) == 2
    assert versions == {1, 2}
    assert seen == states
    assert caplog.records == []


def test_a_second_trainer_is_refused_at_once_until_the_first_dies(root, processes):
    CheckpointStore(root).save(0, groups(0), {"version": 0})
    writer = Writer(processes, root, 1)
    try:
        for attempt in (CheckpointStore(root).lock().__enter__, CheckpointStore(root).sweep):
            with pytest.raises(CheckpointError) as caught:
                attempt()
            message = str(caught.value)
            assert f"le processus {writer.pid} de " in message
            assert "\n" not in message
    finally:
        writer.kill()
    with CheckpointStore(root).lock():  # le noyau rend le verrou d'un mort
        pass
    check_recovers(root)
