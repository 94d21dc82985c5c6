"""Les produits fp32 confiés à la bibliothèque la plus rapide : exacts, et le réglage rendu."""

import threading

import pytest
import torch

from gpt_architecture.kernels.runtime import matmul
from gpt_architecture.kernels.runtime.matmul import fastest_matmul, is_exact, prefers_onednn

AMD = {"cpu_name": "AMD EPYC", "avx512_f": True}


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def chosen(monkeypatch):
    """Comme sur une machine où oneDNN est préférée."""
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: True)


@pytest.mark.parametrize(
    "features",
    [{}, {**AMD, "cpu_name": "Intel(R) Xeon(R)"}, {**AMD, "avx512_f": False}, {"avx512_f": True}],
)
def test_elsewhere_nothing_changes(monkeypatch, features):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert not prefers_onednn.__wrapped__()
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: False)
    before = setting()
    with fastest_matmul():
        assert setting() == before


def test_a_library_that_rounds_is_refused(monkeypatch):
    assert is_exact()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # ce que ferait une machine à AMX
        assert not is_exact()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD)
    monkeypatch.setattr(matmul, "is_exact", lambda: False)
    assert not prefers_onednn.__wrapped__()


@pytest.mark.usefixtures("chosen")
def test_the_setting_is_given_back():
    before = setting()
    with fastest_matmul():
        assert setting() == "bf16"
        with fastest_matmul():
            pass
        assert setting() == "bf16"
    assert setting() == before
    with pytest.raises(ValueError, match="exprès"), fastest_matmul():
        raise ValueError("exprès")
    assert setting() == before


@pytest.mark.usefixtures("chosen")
def test_threads_that_overlap_give_it_back_once():
    before, entered, leave = setting(), threading.Event(), threading.Event()

    def other():
        with fastest_matmul():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with fastest_matmul():
        thread.start()
        assert entered.wait(10)
    assert setting() == "bf16"  # l'autre calcule encore
    leave.set()
    thread.join(10)
    assert setting() == before


@pytest.mark.parametrize("shape", [(5, 7, 3), (512, 768, 768), (256, 3072, 100)])
def test_products_are_those_of_fp32(shape):
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    exact = a.double() @ b.double()
    with fastest_matmul():
        found = a @ b
    assert (found - exact).abs().max() <= (a @ b - exact).abs().max() * 4
    assert (found - exact).abs().max() <= 2e-6 * inner**0.5 * exact.abs().max()
