"""Les optimiseurs, Muon, et le taux au fil des étapes."""

import copy
import math
import sys

import pytest
import torch
from cli_helpers import run_process

from gpt_architecture.config import GPTConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.training.optim import (
    JointOptimizer,
    Muon,
    build_optimizer,
    load_optimizer_,
    make_schedule,
    optimizer_tensors,
    orthogonalize,
    set_lr_,
)


def model_of(**changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "context_length": 8, "emb_dim": 12, "n_heads": 2, "n_layers": 2}
    return GPTModel(GPTConfig(**{**shape, "drop_rate": 0.0, **changes}))


def built(model, **options):
    training = TrainingConfig(lr=0.01, weight_decay=0.5)
    return build_optimizer(model, OptimizerConfig(**options), training)


def advance(model, optimizer, steps=3):
    for seed in range(steps):
        ids = torch.randint(31, (2, 6), generator=torch.Generator().manual_seed(seed))
        model(ids).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_once(optimizer, tied):
    """Les matrices décroissent, ni les biais ni les normes ; un poids lié compte une fois."""
    model = model_of(tie_weights=tied, qkv_bias=tied)
    groups = built(model, optimizer=optimizer).param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    for group in groups:
        assert group["weight_decay"] == (0.5 if group["params"][0].dim() >= 2 else 0.0)
        assert len({p.dim() >= 2 for p in group["params"]}) == 1


def test_muon_takes_the_matrices_of_the_blocks_only():
    model = model_of()
    optimizer = built(model, optimizer="muon", muon_lr=0.3)
    assert isinstance(optimizer, JointOptimizer)
    chosen = {id(p) for p in optimizer.param_groups[0]["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in chosen}
    assert {name.split(".")[0] for name in names} == {"trf_blocks"}
    assert len(names) == 2 * 6
    assert set_lr_(optimizer, 0.5) == pytest.approx(0.15)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.15, 0.005, 0.005])


def test_muon_learns():
    model = model_of()
    optimizer = built(model, optimizer="muon")
    ids = torch.arange(12).reshape(2, 6)
    losses = []
    for _ in range(30):
        logits = model(ids)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_comes_back_to_the_bit(name):
    """Trois pas, l'état à plat, un optimiseur neuf : les trois suivants sont les mêmes."""
    first = model_of()
    optimizer = built(first, optimizer=name)
    advance(first, optimizer)
    stored = {key: value.clone() for key, value in optimizer_tensors(optimizer, first).items()}
    second = model_of()
    second.load_state_dict(first.state_dict())
    other = built(second, optimizer=name)
    load_optimizer_(other, second, stored)
    advance(first, optimizer)
    advance(second, other)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_left_behind(caplog, before, after):
    """Les matrices des blocs repartent de zéro, et c'est dit ; le reste garde ses moments."""
    model = model_of()
    optimizer = built(model, optimizer=before)
    advance(model, optimizer)
    stored = {key: value.clone() for key, value in optimizer_tensors(optimizer, model).items()}
    other = built(model, optimizer=after)
    load_optimizer_(other, model, stored)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("état remis à zéro pour 12 paramètres")
    kept = optimizer_tensors(other, model)
    assert kept
    owners = {name: model.get_parameter(name.rpartition("/")[0]) for name in kept}
    assert not any(n.startswith("trf_blocks.") and p.dim() == 2 for n, p in owners.items())
    assert all(torch.equal(kept[name], stored[name]) for name in kept)
    advance(model, other)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_flat_state_is_not_a_copy():
    model = model_of()
    optimizer = built(model)
    advance(model, optimizer, 1)
    flat = optimizer_tensors(optimizer, model)
    assert flat["tok_emb.weight/exp_avg"] is optimizer.state[model.tok_emb.weight]["exp_avg"]


def test_unknown_parameter_is_refused():
    model = model_of()
    with pytest.raises(KeyError):
        load_optimizer_(built(model), model, {"ailleurs/exp_avg": torch.zeros(1)})


@pytest.mark.parametrize(
    "options", [{"optimizer": "sgd"}, {"beta1": 1.0}, {"eps": 0}, {"clip": 0}, {"max_bad_steps": 0}]
)
def test_bad_settings(options):
    with pytest.raises(ConfigurationError):
        OptimizerConfig(**options)


def test_steps_are_those_of_torch():
    """Notre AdamW contourne le compilateur, rien d'autre."""
    ours, theirs = model_of(), model_of()
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": 0.5},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    advance(ours, built(ours))
    advance(theirs, torch.optim.AdamW(groups, lr=0.01, fused=True))
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_the_compiler_stays_out_of_memory():
    """Construire un optimiseur et s'en servir n'importe pas torch._dynamo."""
    code = (
        "import sys, torch;"
        "from gpt_architecture.config import *;"
        "from gpt_architecture.core.model import GPTModel;"
        "from gpt_architecture.training.backends import build_backend;"
        "shape = dict(vocab_size=31, context_length=8, emb_dim=12, n_heads=2, n_layers=1);"
        "model = GPTModel(GPTConfig(**shape));"
        "built = build_backend(model, ComputeConfig(), OptimizerConfig(), TrainingConfig());"
        "[setattr(p, 'grad', torch.ones_like(p)) for p in model.parameters()];"
        "built.optimizer.step(); built.optimizer.zero_grad(set_to_none=True);"
        "print('torch._dynamo' in sys.modules)"
    )
    assert run_process(sys.executable, "-c", code).out.split() == ["False"]


NS = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}


def matrices():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8), (24, 6), (6, 24))]


def advanced_by(optimizer, parameters, steps=4):
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"nesterov": False}, {"weight_decay": 0.5, "lr": 0.1}])
def test_in_bf16_it_is_pytorch_s(options):
    """Bit pour bit, état compris."""
    ours = matrices()
    theirs = copy.deepcopy(ours)
    mine, other = Muon(ours, dtype=torch.bfloat16, **options), torch.optim.Muon(theirs, **options)
    advanced_by(mine, ours)
    advanced_by(other, theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(mine.state[a]["momentum_buffer"], other.state[b]["momentum_buffer"])


def test_in_fp32_it_follows():
    """Le type ne change que les arrondis : quatre pas, à quelques centièmes près de chaque pas."""
    ours = matrices()
    theirs = copy.deepcopy(ours)
    before = copy.deepcopy(ours)
    advanced_by(Muon(ours, lr=0.1, weight_decay=0.0), ours)
    advanced_by(torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0), theirs)
    for a, b, start in zip(ours, theirs, before, strict=True):
        moved = (b - start).norm()
        assert (a - b).norm() < 0.05 * moved


@pytest.mark.parametrize("shape", [(16, 16), (40, 10), (10, 40)])
def test_singular_values_come_near_one(shape):
    """Quelle que soit la matrice : c'est le propre de Muon."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    kept = matrix.clone()
    values = torch.linalg.svdvals(orthogonalize(matrix, **NS))
    assert 0.3 < values.min() < values.max() < 1.3
    assert torch.equal(matrix, kept)


def factors(total, **options):
    schedule = make_schedule(ScheduleConfig(**options), total)
    return [schedule(step) for step in range(total)]


def test_constant():
    assert factors(4) == [1.0] * 4


def test_warmup_rises_to_the_peak():
    assert factors(6, warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_linear_ends_at_the_floor():
    assert factors(5, schedule="linear") == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert factors(5, schedule="linear", final_lr=0.2)[-1] == pytest.approx(0.2)


def test_cosine():
    values = factors(5, schedule="cosine", final_lr=0.1)
    by_hand = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(5)]
    assert values == pytest.approx(by_hand)


def test_wsd_keeps_a_plateau():
    values = factors(11, schedule="wsd", warmup_steps=2, decay_fraction=0.5)
    assert values[:2] == pytest.approx([1 / 3, 2 / 3])
    assert values[2:6] == [1.0] * 4
    assert values[6:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_always_a_share(name, total):
    """Quel que soit le nombre d'étapes, y compris au-delà de la fin prévue."""
    schedule = make_schedule(ScheduleConfig(schedule=name, warmup_steps=2), total)
    assert all(0.0 <= schedule(step) <= 1.0 for step in range(total + 5))


@pytest.mark.parametrize(
    "options",
    [{"schedule": "autre"}, {"warmup_steps": -1}, {"final_lr": 2}, {"decay_fraction": 0}],
)
def test_bad_schedule_settings(options):
    with pytest.raises(ConfigurationError):
        ScheduleConfig(**options)
