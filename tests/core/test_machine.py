"""La machine : le choix du périphérique, avec ou sans accélérateur, et la mémoire du processus."""

import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cli_helpers import run_process

from gpt_architecture.core import machine
from gpt_architecture.core.machine import (
    UNKNOWN_PROCESSOR,
    Processor,
    describe_device,
    one_thread,
    processor,
    read_processor,
    resolve_device,
)
from gpt_architecture.errors import ConfigurationError


@pytest.fixture
def hardware(monkeypatch):
    """Fait croire à une machine donnée."""

    def pretend(*, cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def test_auto_finds_a_usable_device():
    device = resolve_device()
    assert torch.ones(2, device=device).sum().item() == 2


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({}, "cpu"),
        ({"mps": True}, "mps"),
        ({"cuda": 1}, "cuda"),
        ({"cuda": 2, "mps": True}, "cuda"),
    ],
)
def test_auto_prefers_cuda_then_mps_then_cpu(hardware, machine, expected):
    hardware(**machine)
    assert resolve_device("auto") == torch.device(expected)


def test_cpu_is_always_there(hardware):
    hardware(cuda=1, mps=True)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_given_accelerator_keeps_its_index(hardware):
    hardware(cuda=2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    "name",
    ["cudaa", "cuda:2", "cuda:99", "cuda:", "cuda:x", "tpu", "", "AUTO", "cpu:-1", "meta", "xla"],
)
@pytest.mark.parametrize("machine", [{}, {"cuda": 2}], ids=["sans-gpu", "avec-gpu"])
def test_unknown_or_absent_devices_are_refused(hardware, machine, name):
    hardware(**machine)
    with pytest.raises(ConfigurationError) as caught:
        resolve_device(name)
    assert repr(name) in caught.value.found
    assert "cpu" in caught.value.expected
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_real_name_without_the_hardware_is_refused(hardware, name):
    hardware()
    with pytest.raises(ConfigurationError, match=name):
        resolve_device(name)


def test_description_of_the_cpu_counts_threads():
    expected = (
        "cpu (1 thread)"
        if torch.get_num_threads() == 1
        else f"cpu ({torch.get_num_threads()} threads)"
    )
    assert describe_device(torch.device("cpu")) == expected


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread():
    """Le nombre de fils qu'un fil reçoit à sa première question."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_small_computation_has_one_thread(three_threads, threads):
    torch.set_num_threads(threads)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_a_thread_born_meanwhile_keeps_its_own(three_threads):
    """Celui qui naît à côté d'un petit calcul garde le nombre commun, et le calcul, un seul fil."""
    with one_thread():
        assert threads_of_a_new_thread() == 3
        assert torch.get_num_threads() == 1
    assert threads_of_a_new_thread() == 3
    with ThreadPoolExecutor(1) as pool:  # le bloc dans un fil neuf ne change que lui
        assert pool.submit(_counted_around_a_block).result() == (1, 3)
    assert torch.get_num_threads() == 3


def _counted_around_a_block():
    with one_thread():
        inside = torch.get_num_threads()
    return inside, torch.get_num_threads()


def test_without_openmp_nothing_changes(three_threads, monkeypatch):
    monkeypatch.setattr(machine, "_thread_chooser", lambda: None)
    with one_thread():
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 3


def test_description_of_a_gpu_names_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert describe_device(torch.device("cuda:1")) == "cuda:1 (NVIDIA H200)"
    assert describe_device(torch.device("mps")) == "mps"


def test_setting_is_taken_with_glibc():
    """Dans un processus à part, pour ne pas ralentir les autres tests."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("l'allocateur de ce système n'est pas celui de la glibc")
    code = (
        "from gpt_architecture.core.machine import return_freed_memory as f; print(f());"
        "import torch; print(float(torch.ones(512, 768).sum()))"
    )
    assert run_process(sys.executable, "-c", code).out.split() == ["True", "393216.0"]


def test_other_systems_are_left_alone(monkeypatch):
    """Ailleurs, rien n'est touché."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert machine.return_freed_memory() is False


def test_dropped_code_is_read_again_when_needed():
    """Le compilateur rendu au système compile encore."""
    if sys.platform != "linux":
        pytest.skip("les zones d'un processus ne se lisent ainsi que sous Linux")
    pytest.importorskip("numba", reason="numba n'est pas installé")
    code = (
        "import numba; from gpt_architecture.core.machine import drop_library_code as drop;"
        "f = numba.njit(lambda x: x + 1); first = f(1);"
        "dropped = drop('libllvmlite.so');"
        "g = numba.njit(lambda x: x * 2.5); print(first, dropped > 10_000_000, g(4))"
    )
    assert run_process(sys.executable, "-c", code).out.split() == ["2", "True", "10.0"]


def test_unknown_library_drops_nothing():
    assert machine.drop_library_code("libinconnue.so") == 0


def test_elsewhere_nothing_is_dropped(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine.drop_library_code("libllvmlite.so") == 0


def test_peak_is_not_that_of_the_parent():
    """Un processus lancé par un plus gros que lui ne compte que sa mémoire."""
    if sys.platform != "linux":
        pytest.skip("ru_maxrss n'hérite de rien ailleurs que sous Linux")
    child = "from gpt_architecture.core import machine; print(machine.peak_resident())"
    parent = (
        "import subprocess, sys\n"
        "held = b'x' * (1 << 30)\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    found = subprocess.run([sys.executable, "-c", parent], capture_output=True, check=True)
    assert 0 < int(found.stdout) < 1 << 30


def test_what_is_freed_is_no_longer_resident():
    if sys.platform != "linux":
        pytest.skip("le fichier /proc/self/status est de Linux")
    before = machine.resident()
    held = torch.ones(1 << 26)
    size = held.numel() * 4
    assert machine.resident() - before == pytest.approx(size, rel=0.1)
    del held
    assert machine.resident() - before < size / 2
    assert machine.peak_resident() - before >= 0.9 * size


def test_peak_is_measured_everywhere(monkeypatch):
    """Sans /proc, le module de POSIX dit le même plus haut ; sans lui, rien ne le dit."""
    if sys.platform != "linux":
        pytest.skip("le fichier /proc/self/status est de Linux")
    held = torch.ones(1 << 27)  # plus que n'en tenait qui a lancé les tests
    expected = machine.peak_resident()
    assert expected > held.numel() * 4
    monkeypatch.setattr(machine, "_noted_by_linux", lambda _: 0)
    assert machine.peak_resident() >= 0.98 * expected
    assert machine.resident() == pytest.approx(machine.peak_resident(), rel=0.02)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.peak_resident() == 0


def test_peak_of_windows(monkeypatch):
    """L'appel de Windows reçoit la structure de psapi.h, et son plus haut est rendu."""

    class Kernel:
        class GetCurrentProcess:
            def __new__(cls):
                return 42

        class K32GetProcessMemoryInfo:
            def __new__(cls, process, counters, size):
                counters = counters._obj
                assert (process, size, counters.cb) == (42, 72, 72)
                counters.peak_working_set = 123 << 20
                return 1

    monkeypatch.setattr(machine, "_noted_by_linux", lambda _: 0)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(machine.ctypes, "WinDLL", {"kernel32": Kernel}.get, raising=False)
    assert machine.peak_resident() == 123 << 20


LINUX = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: AMD EPYC 7713 64-Core Processor
"""


@pytest.mark.parametrize(
    "found", [Processor("AuthenticAMD", 25, 1), Processor("GenuineIntel", 6, 143)]
)
def test_a_processor_is_known_by_its_numbers(found):
    linux = LINUX.format(**found._asdict())
    windows = f"AMD64 Family {found.family} Model {found.model} Stepping 0, {found.vendor}"
    assert read_processor(linux) == read_processor(windows) == found
    assert read_processor(linux + LINUX.format(vendor="GenuineIntel", family=9, model=9)) == found


@pytest.mark.parametrize("text", ["", "arm", "processor\t: 0\nBogoMIPS\t: 243.75\n"])
def test_a_processor_without_numbers_is_unknown(text):
    assert read_processor(text) == UNKNOWN_PROCESSOR


def test_the_processor_of_this_machine_is_read_once():
    assert processor() is processor()


def test_an_environment_read_too_late_is_left_alone(monkeypatch):
    """PyTorch déjà chargé a lu le sien : seuls les processus lancés d'ici changeraient."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    code = "import torch, gpt_architecture, os; print('GOMP_SPINCOUNT' in os.environ)"
    assert run_process(sys.executable, "-c", code).out == "False\n"
