"""Les produits fp32 confiés à la bibliothèque la plus rapide : exacts, et le réglage rendu."""

import threading

import pytest
import torch

from gpt_architecture.core.machine import UNKNOWN_PROCESSOR, Processor
from gpt_architecture.kernels.runtime import matmul
from gpt_architecture.kernels.runtime.matmul import (
    FAMILIES,
    family_of,
    fastest_matmul,
    is_exact,
    prefers_onednn,
)

AVX512 = {"avx512_f": True}
AMX = {**AVX512, "amx_tile": True, "amx_bf16": True}
ZEN_5, ZEN_3 = Processor("AuthenticAMD", 26, 2), Processor("AuthenticAMD", 25, 1)
CASCADE_LAKE, SAPPHIRE_RAPIDS = Processor("GenuineIntel", 6, 85), Processor("GenuineIntel", 6, 143)
ICE_LAKE = Processor("GenuineIntel", 6, 106)


def setting():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.fixture
def chosen(monkeypatch):
    """Comme sur une machine où oneDNN est préférée."""
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: True)


@pytest.fixture
def pretend(monkeypatch):
    """Fait croire à un processeur, où tout produit est exact si rien n'est dit de plus."""

    def on(found, features, *, exact=True):
        monkeypatch.setattr(matmul, "processor", lambda: found)
        monkeypatch.setattr(matmul, "instructions", lambda: features)
        monkeypatch.setattr(matmul, "is_exact", lambda: exact)
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
        return prefers_onednn.__wrapped__()

    return on


@pytest.mark.parametrize(
    ("found", "features", "name", "library"),
    [
        (ZEN_5, AVX512, "Zen 5", "oneDNN"),
        (Processor("AuthenticAMD", 26, 0x44), AVX512, "Zen 5", "oneDNN"),
        (ZEN_5, {}, "inconnu", "MKL"),  # AVX-512 retiré par l'hyperviseur
        (Processor("AuthenticAMD", 25, 0x11), AVX512, "Zen 4", "oneDNN"),
        (Processor("AuthenticAMD", 25, 0x61), AVX512, "Zen 4", "oneDNN"),
        (ZEN_3, {}, "Zen 3", "MKL"),
        (Processor("AuthenticAMD", 25, 0x50), {}, "Zen 3", "MKL"),
        (Processor("AuthenticAMD", 23, 49), {}, "Zen, Zen 2", "MKL"),
        (CASCADE_LAKE, AVX512, "Skylake-X, Cascade Lake", "MKL"),
        (ICE_LAKE, AVX512, "Ice Lake", "MKL"),
        (SAPPHIRE_RAPIDS, AMX, "Intel", "MKL"),
        (Processor("AuthenticAMD", 27, 1), AVX512, "inconnu", "MKL"),
        (Processor("HygonGenuine", 24, 1), {}, "inconnu", "MKL"),
        (UNKNOWN_PROCESSOR, {}, "inconnu", "MKL"),  # ARM
    ],
)
def test_each_family_has_its_library(pretend, found, features, name, library):
    family = family_of(found, features)
    assert (family.name, family.library) == (name, library)
    assert pretend(found, features) is (library == "oneDNN")


def test_the_table_says_why_and_every_line_serves():
    for family in FAMILIES:
        assert family.reason
        first = next(
            model
            for model in family.models
            if all(model not in above.models for above in rivals(family))
        )
        features = {family.needs: True}
        assert family_of(Processor(family.vendor, family.family, first), features) is family


def rivals(family):
    """Les lignes d'avant, de la même famille."""
    above = FAMILIES[: FAMILIES.index(family)]
    return [each for each in above if (each.vendor, each.family) == family[1:3]]


def test_an_instruction_that_rounds_forbids_onednn(pretend):
    """AMX, même sur un processeur d'AMD à venir : oneDNN arrondirait en bf16."""
    assert pretend(ZEN_5, AVX512)
    for name in AMX:
        assert pretend(ZEN_5, {**AVX512, name: True}) is (name == "avx512_f")


def test_a_library_that_rounds_is_refused(pretend):
    assert is_exact()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # ce que ferait une machine à AMX
        assert not is_exact()
    assert not pretend(ZEN_5, AVX512, exact=False)


def test_elsewhere_nothing_changes(monkeypatch):
    monkeypatch.setattr(matmul, "prefers_onednn", lambda: False)
    before = setting()
    with fastest_matmul():
        assert setting() == before


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
