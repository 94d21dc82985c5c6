"""Le choix du moteur, et l'accord des moteurs sur un entraînement entier."""

import builtins
import importlib.util
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from gpt_architecture.config import ComputeConfig, GPTConfig, OptimizerConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError, MissingDependencyError
from gpt_architecture.kernels.train.fused_step import FusedStep
from gpt_architecture.kernels.train.gradients import LeanAdamW, LeanSink
from gpt_architecture.training import backends
from gpt_architecture.training.backends import (
    KeyedEngine,
    build_backend,
    calculation_of,
    same_engine,
)
from gpt_architecture.training.callbacks import StepRecord, skip_notice
from gpt_architecture.training.step import AutogradEngine, Batch

STEP = "gpt_architecture.training.step"


def small_model(**changes):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 61,
        "context_length": 16,
        "emb_dim": 24,
        "n_heads": 3,
        "n_layers": 2,
        "drop_rate": 0.2,
    }
    return GPTModel(GPTConfig(**{**shape, **changes})).train()


def backend(model=None, *, training=None, optimizer=None, sharing=None, **compute):
    return build_backend(
        small_model() if model is None else model,
        ComputeConfig(**{"precision": "fp32", **compute}),  # un processeur à bf16 le prendrait
        OptimizerConfig(**(optimizer or {})),
        TrainingConfig(**(training or {})),
        sharing=sharing,
    )


def losses(built, steps=6, accumulate=1):
    """Pertes d'un petit entraînement, lots et séquences fixés."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(steps):
        for part in range(accumulate):
            ids = torch.randint(61, (2, 17), generator=generator)
            first = 2 * (step * accumulate + part)
            batch = Batch(
                inputs=ids[:, :-1].contiguous(),
                targets=ids[:, 1:].contiguous(),
                sequence_ids=torch.arange(first, first + 2),
            )
            found.append(built.engine.forward_backward(batch, scale=1 / accumulate).item())
        built.optimizer.step()
        built.optimizer.zero_grad(set_to_none=True)
    return found


class Shared:
    """Un partage entre processus dont seul compte ce qu'il dit de lui."""

    def __init__(self, *, replicates):
        self.replicates = replicates


def test_autograd_leaves_the_kernels_uncompiled(monkeypatch):
    """Les lire les compile : demandé, autograd démarre sans eux."""
    read = []

    def reading():
        read.append(True)
        return lambda model: "essai"

    monkeypatch.setattr(backends, "_load_why_not_fused", reading)
    assert backend(engine="autograd").name == "autograd"
    assert not read
    assert backend(engine="auto").name == "autograd"
    assert read


def test_auto_takes_the_fused_engine_where_it_fits():
    assert isinstance(backend().engine, FusedStep)
    assert isinstance(backend(engine="autograd").engine, KeyedEngine)
    assert isinstance(backend(checkpoint_activations=True).engine, KeyedEngine)
    plain = backend(small_model(drop_rate=0.0), engine="autograd").engine
    assert isinstance(plain, AutogradEngine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "margin"),
    [({}, 2e-5), ({"optimizer": "muon"}, 1e-4), ({"clip": 0.1}, 2e-5)],  # Muon itère en bf16
)
def test_both_engines_learn_the_same(optimizer, margin):
    """Six étapes, accumulation comprise, masques d'abandon compris."""
    fused = losses(backend(optimizer=optimizer), accumulate=2)
    plain = losses(backend(optimizer=optimizer, engine="autograd"), accumulate=2)
    assert fused == pytest.approx(plain, rel=margin)
    recomputed = losses(backend(optimizer=optimizer, checkpoint_activations=True), accumulate=2)
    assert recomputed == plain  # bit pour bit


def test_lean_learns_the_same_within_rounding():
    built = backend(memory="lean")
    assert isinstance(built.optimizer, LeanAdamW)
    assert losses(built) == pytest.approx(losses(backend()), rel=1e-4)


@pytest.mark.parametrize("memory", ["default", "lean"])
def test_in_bf16_it_learns_the_same_within_rounding(monkeypatch, memory):
    """Six étapes ; sans instructions bf16, PyTorch fait ces produits aussi, lentement."""
    monkeypatch.setattr(f"{STEP}.has_bf16", lambda _device: True)
    found = losses(backend(precision="bf16", memory=memory))
    exact = losses(backend(memory=memory))
    assert found == pytest.approx(exact, rel=1e-3)
    assert found != exact


def test_auto_keeps_the_precision_of_a_checkpoint(monkeypatch):
    """Un point écrit en fp32 continue en fp32, là même où `auto` prendrait bf16."""
    monkeypatch.setattr(f"{STEP}.has_bf16", lambda _device: True)
    cpu = torch.device("cpu")
    for saved, expected in (("fp32", "fp32"), ("bf16", "auto")):
        calculation = {"engine": "fused", "device": "cpu", "precision": saved}
        checkpoint = SimpleNamespace(state={"calculation": calculation})
        assert same_engine(ComputeConfig(), checkpoint, cpu).precision == expected
        asked = ComputeConfig(precision="bf16")
        assert same_engine(asked, checkpoint, cpu).precision == "bf16"
    assert same_engine(ComputeConfig(), None, cpu) == ComputeConfig()


@pytest.mark.parametrize("state", [{}, {"calculation": {"engine": "fused", "device": "cpu"}}])
def test_a_checkpoint_that_does_not_say_was_in_fp32(state):
    """Sur processeur : bf16 ne s'y met pas en silence. Ailleurs, rien n'est supposé."""
    checkpoint = SimpleNamespace(state=state)
    found = same_engine(ComputeConfig(), checkpoint, torch.device("cpu"))
    assert found == ComputeConfig(precision="fp32")
    assert same_engine(ComputeConfig(), checkpoint, torch.device("cuda")) == ComputeConfig()


def test_auto_leaves_autograd_in_fp32(monkeypatch):
    """Sans AMX, `auto` sous autograd a les pertes de fp32, évaluation comprise, au bit près."""
    monkeypatch.setattr(f"{STEP}.instructions", lambda: frozenset(["avx512_bf16"]))
    ids = torch.randint(61, (3, 17), generator=torch.Generator().manual_seed(2))
    found = {}
    for precision in ("auto", "fp32", "bf16"):
        built = backend(small_model(drop_rate=0.0), engine="autograd", precision=precision)
        with torch.no_grad():
            evaluated = built.loss(ids[:, :-1], ids[:, 1:]).item()
        found[precision] = (evaluated, losses(built, steps=2))
        said = calculation_of(built, ComputeConfig(precision=precision), torch.device("cpu"))
        assert said["precision"] == ("bf16" if precision == "bf16" else "fp32")
    assert found["auto"] == found["fp32"] != found["bf16"]


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_evaluation_loss_is_the_same_everywhere(engine):
    model = small_model()
    built = backend(model, engine=engine)
    model.eval()
    ids = torch.randint(61, (3, 17), generator=torch.Generator().manual_seed(2))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    with torch.no_grad():
        found = built.loss(inputs, targets).item()
        logits = small_model().eval()(inputs).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, targets.flatten()).item()
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"engine": "fused", "compile": True}, "`compile`"),
        ({"memory": "lean", "checkpoint_activations": True}, "`checkpoint_activations`"),
        ({"memory": "lean", "optimizer": {"optimizer": "muon"}}, "`optimizer=muon`"),
        ({"memory": "lean", "optimizer": {"clip": 1.0}}, "`clip`"),
        ({"memory": "lean", "training": {"accumulate": 2}}, "`accumulate`"),
        ({"engine": "fused", "sharing": Shared(replicates=False)}, "répartis"),
        ({"memory": "lean", "sharing": Shared(replicates=True)}, "plusieurs processus"),
    ],
)
def test_what_does_not_fit_is_refused(options, word):
    with pytest.raises(ConfigurationError, match=word):
        backend(**options)


def test_without_numba_autograd_takes_over(monkeypatch, caplog):
    """numba est facultatif : auto s'en passe, ce qui l'exige dit comment l'installer."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "numba" else find(name)
    )
    original = builtins.__import__

    def no_numba(name, *rest):
        if name == "numba" or name.startswith("numba."):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_numba)
    assert isinstance(backend().engine, KeyedEngine)
    assert "numba manque (pip install numba) : moteur autograd, plus lent" in caplog.text
    caplog.clear()
    backend(engine="autograd")
    assert not caplog.text, "ce qui est demandé n'est pas un repli"
    for options in ({"engine": "fused"}, {"memory": "lean"}):
        with pytest.raises(MissingDependencyError, match="pip install numba"):
            backend(**options)


def test_kernels_that_do_not_compile_give_way(monkeypatch):
    """Un cache interdit ou une version refusée : auto prend autograd, fused dit pourquoi."""
    monkeypatch.setitem(sys.modules, "gpt_architecture.kernels.train.fused_step", None)
    assert isinstance(backend().engine, KeyedEngine)
    with pytest.raises(ConfigurationError, match="ne se compilent pas ici"):
        backend(engine="fused")


class TestLeanSkips:
    """Mode économe : ce qu'un gradient non fini a retenu, et lui seul, est dit."""

    @staticmethod
    def step(model, *, scale=1.0):
        built = backend(model, memory="lean")
        ids = torch.randint(61, (2, 17), generator=torch.Generator().manual_seed(3))
        batch = Batch(
            inputs=ids[:, :-1].contiguous(),
            targets=ids[:, 1:].contiguous(),
            sequence_ids=torch.arange(2),
        )
        loss = built.engine.forward_backward(batch, scale=scale).item()
        record = StepRecord(
            step=7, epoch=1, loss=loss, lr=0.1, grad_norm=None, tokens=32, seconds=1.0,
            skipped=not math.isfinite(loss),
        )  # fmt: skip
        kept = built.engine.held_back
        return kept, skip_notice(record, kept, len(list(model.parameters())))

    def test_one_parameter(self, monkeypatch):
        """Le seul gradient infini est celui d'une norme : les autres poids ont bougé."""
        model = small_model()
        target = model.trf_blocks[0].norm1.shift
        apply = LeanSink._apply_

        def poison(self, parameter):
            if parameter is target:
                self._buffers[parameter][0] = math.inf
            apply(self, parameter)

        monkeypatch.setattr(LeanSink, "_apply_", poison)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        kept, notice = self.step(model)
        still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
        assert kept == still == ["trf_blocks.0.norm1.shift"]
        count = len(before)
        assert f"Étape 000007 incomplète : le gradient de 1 paramètre sur {count}" in notice
        assert "(trf_blocks.0.norm1.shift)" in notice
        assert "sautée" not in notice

    def test_every_parameter(self):
        model = small_model()
        kept, notice = self.step(model, scale=math.inf)
        assert kept == [name for name, _ in model.named_parameters()]
        assert notice == "Étape 000007 sautée : la perte ou le gradient n'est pas un nombre fini."

    def test_none(self):
        assert self.step(small_model())[0] == []
