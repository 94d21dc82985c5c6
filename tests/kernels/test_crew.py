"""Le nombre de fils d'un programme suit les cœurs qu'il obtient, sans changer un bit."""

import sys
from itertools import cycle

import pytest
import torch
from cli_helpers import run_process

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.kernels.runtime import program
from gpt_architecture.kernels.runtime.crew import Crew

TOKEN = 0.004  # s, par un fil


class Machine:
    """Durées d'une machine simulée : un token, par tant de fils, avec tant de voisins.

    Chaque fil sans cœur à lui en a la moitié d'un, et tous l'attendent `stall` fois la durée du
    token (mesuré : de 1 à 5).
    """

    def __init__(self, cores, neighbours=0, stall=4.0, alone=TOKEN):
        self.cores, self.neighbours, self.stall, self.alone = cores, neighbours, stall, alone
        self._noise = cycle((0.97, 1.02, 0.99, 1.03, 1.0))

    def token(self, size):
        """(secondes, secondes de processeur obtenues) d'un token."""
        crowded = max(0, size + self.neighbours - self.cores)
        calm = self.alone / size
        seconds = calm * (1 + (self.stall if crowded else 0)) * next(self._noise)
        return seconds, seconds * (size - crowded / 2)


def advance(crew, machine, tokens):
    """Ce que durent `tokens` tokens, et les nombres de fils employés."""
    total, sizes = 0.0, []
    for _ in range(tokens):
        seconds, busy = machine.token(crew.size)
        sizes.append(crew.size)
        total += seconds
        crew.note(seconds, busy)
    return total, sizes


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 16])
def test_a_calm_machine_never_tries_fewer_threads(cores):
    _, sizes = advance(Crew(cores), Machine(cores), 5000)
    assert set(sizes) == {cores}


@pytest.mark.parametrize("cores", [2, 4, 8, 16])
def test_a_neighbour_costs_one_thread_not_a_cliff(cores):
    crew, machine = Crew(cores), Machine(cores, neighbours=1)
    advance(crew, machine, 100)
    total, sizes = advance(crew, machine, 5000)
    ideal = 5000 * TOKEN / (cores - 1)
    assert crew.size == cores - 1 or sizes.count(cores - 1) > 4500
    assert total <= 1.1 * ideal
    assert total <= 2.2 * 5000 * TOKEN / cores


def test_it_steps_down_for_each_neighbour():
    crew = Crew(16)
    advance(crew, Machine(16, neighbours=6), 2000)
    assert crew.size == 10


@pytest.mark.parametrize("cores", [2, 4, 16])
def test_a_core_that_comes_back_is_used_again(cores):
    crew = Crew(cores)
    advance(crew, Machine(cores, neighbours=1), 5000)
    _, sizes = advance(crew, Machine(cores), 1200 * cores)
    assert set(sizes[-500:]) == {cores}


def test_threads_that_wait_for_little_are_kept():
    """Ils n'ont pas tous leur cœur, mais un de moins irait moins vite : presque toujours tous."""
    machine = Machine(2, neighbours=1, stall=0.4)
    total, sizes = advance(Crew(2), machine, 5000)
    assert sizes.count(2) > 4800
    assert total <= 1.05 * 5000 * TOKEN / 2 * 1.4


def test_a_lucky_trial_is_not_kept():
    """Un fil de plus, sans cœur à lui : qu'il dure un peu moins, par hasard, ne suffit pas."""
    crew = Crew(2)
    for _ in range(500):
        crew.note(*((0.016, 0.024) if crew.size == 2 else (0.015, 0.015)))
    assert crew.size == 1
    trials = 0
    for run in range(5000):
        trials += crew.size == 2
        seconds = 0.014 if run % 3 else 0.016
        crew.note(seconds, 1.5 * seconds) if crew.size == 2 else crew.note(0.015, 0.015)
    assert trials < 300


def test_short_runs_are_judged_together():
    """Un passage bien plus court qu'un tour du système ne dit rien seul."""
    crew = Crew(2)
    for _ in range(100):
        crew.note(1e-4, 1e-4)
    assert crew.size == 2


# --- Les mêmes bits -------------------------------------------------------------------------------

CFG = GPTConfig(vocab_size=211, context_length=32, emb_dim=48, n_heads=3, n_layers=2, drop_rate=0.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPTModel(CFG).eval()


@pytest.fixture
def restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def logits_of(packed, sizes):
    """Les logits d'une suite, le nombre de fils changeant à chaque passage."""
    cache, found = packed.new_cache(3), []
    for step, size in enumerate(sizes):
        torch.set_num_threads(size)
        tokens = torch.tensor([[step], [step + 50], [step + 100]])
        found.append(packed(tokens, cache))
    return torch.stack(found)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("packing", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("built", [1, 16])
def test_the_bits_ignore_how_many_threads_there_are(model, packing, built):
    """De 1 à 16 fils, en surnombre ici ; les lots sont ceux d'un pas fait pour `built` fils."""
    torch.set_num_threads(built)
    packed = pack(model, packing)
    wanted = logits_of(pack(model, packing), [1] * 16)
    assert torch.equal(logits_of(packed, range(1, 17)), wanted)
    assert torch.equal(
        logits_of(packed, [16, 1, 8, 2, 4, 1, 3, 16, 2, 1, 2, 1, 2, 1, 2, 1]), wanted
    )


class Flickering(Crew):
    """Une équipe dont la taille change à chaque passage."""

    def note(self, seconds, busy):
        del seconds, busy
        self.size = self.size % self.most + 1


@pytest.mark.usefixtures("restored")
def test_a_program_whose_crew_changes_keeps_its_bits(model, monkeypatch):
    wanted = logits_of(pack(model), [1] * 16)
    monkeypatch.setattr(program, "Crew", Flickering)
    assert torch.equal(logits_of(pack(model), [4] * 16), wanted)


@pytest.mark.usefixtures("restored")
def test_a_program_notes_its_runs(model, monkeypatch):
    """Un passage à plusieurs fils dit ce qu'il a duré ; à un fil, il n'y a rien à choisir."""
    noted = []
    monkeypatch.setattr(Crew, "note", lambda _, *spent: noted.append(spent))
    packed = pack(model)
    logits_of(packed, [1])
    assert noted == []
    logits_of(packed, [2])
    assert len(noted) == 1
    assert all(spent >= 0 for spent in noted[0])


# --- Un fil sans travail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "5"}, "5"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),  # déjà choisi
    ],
)
def test_a_thread_without_work_soon_gives_its_core_back(monkeypatch, given, expected):
    """Le réglage est pris avant que PyTorch, qui le lit, ne soit chargé."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = (
        "import gpt_architecture, os, sys\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    done = run_process(sys.executable, "-c", code)
    assert done.out.split() == [expected, "False"]
