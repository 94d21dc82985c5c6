"""Le choix du périphérique, avec ou sans accélérateur."""

import pytest
import torch

from gpt_architecture.core.device import describe_device, resolve_device
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
        "cpu (1 fil)" if torch.get_num_threads() == 1 else f"cpu ({torch.get_num_threads()} fils)"
    )
    assert describe_device(torch.device("cpu")) == expected


def test_description_of_a_gpu_names_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert describe_device(torch.device("cuda:1")) == "cuda:1 (NVIDIA H200)"
    assert describe_device(torch.device("mps")) == "mps"
