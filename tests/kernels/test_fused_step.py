"""Le pas fusionné contre autograd : mêmes pertes, mêmes gradients."""

import copy

import pytest
import torch
from kernel_helpers import BASE, as_batch, pair, random_batch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.train import kernels
from gpt_architecture.kernels.train.fused_step import FusedStep, why_not_fused
from gpt_architecture.kernels.train.gradients import LeanAdamW

SHAPES = {
    "livre": {},
    "sans dropout": {"drop_rate": 0.0},
    "gpt-2": {"qkv_bias": True, "tie_weights": True},
    "largeur impaire": {"emb_dim": 21, "n_heads": 3, "qkv_bias": True},
}


def oracle_backward(oracle, keys, batch, scale=1.0):
    inputs, targets, sequences = batch
    with keys.sequences(sequences):
        loss = calc_loss_batch(inputs, targets, oracle, "cpu")
    (loss * scale).backward()
    return loss.detach()


def assert_same_gradients(step, oracle):
    names = dict(step.model.named_parameters())
    for name, expected in oracle.named_parameters():
        found = names[name].grad
        size = expected.grad.abs().max()
        assert (found - expected.grad).abs().max() <= 3e-6 * size + 2e-9, name


@pytest.mark.slow
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_loss_and_gradients_are_those_of_autograd(changes):
    """Deux étapes de deux micro-lots : les tampons réemployés n'oublient ni ne gardent rien."""
    step, oracle, keys = pair(**changes)
    for _ in range(2):
        for _ in range(2):
            batch = random_batch(step)
            found = step.forward_backward(as_batch(*batch), scale=0.5)
            expected = oracle_backward(oracle, keys, batch, scale=0.5)
            assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        assert_same_gradients(step, oracle)
        for model in (step.model, oracle):
            model.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 5), (5, 40), (9, 33)])
def test_any_batch_shape(batch, length):
    """Plusieurs morceaux de tête, des blocs de lignes incomplets, un token seul."""
    step, oracle, keys = pair()
    data = random_batch(step, batch, length)
    found = step.forward_backward(as_batch(*data))
    assert found.item() == pytest.approx(oracle_backward(oracle, keys, data).item(), rel=1e-6)
    assert_same_gradients(step, oracle)


def test_recomputing_changes_no_bit():
    """Recalculer l'avant, ou le garder : mêmes pertes et mêmes gradients, bit pour bit."""
    step, _, _ = pair()
    other = FusedStep(copy.deepcopy(step.model), seed=7, recompute=True)
    batch = random_batch(step)
    assert torch.equal(
        step.forward_backward(as_batch(*batch)), other.forward_backward(as_batch(*batch))
    )
    for a, b in zip(step.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_result_does_not_depend_on_threads():
    """Un fil ou deux : les noyaux compilés rendent les mêmes bits ; les produits, presque."""
    step, oracle, keys = pair()
    batch = random_batch(step)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = step.forward_backward(as_batch(*batch))
    finally:
        torch.set_num_threads(threads)
    assert found.item() == pytest.approx(oracle_backward(oracle, keys, batch).item(), rel=1e-6)
    assert_same_gradients(step, oracle)


@pytest.mark.slow
def test_evaluation_loss_is_the_model_s():
    """Sans abandon ; ni gradient, ni tirage."""
    step, oracle, _ = pair()
    inputs, targets, _ = random_batch(step)
    state = torch.get_rng_state()
    found = step.loss(inputs, targets)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in step.model.parameters())
    expected = calc_loss_batch(inputs, targets, oracle.eval(), "cpu")
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_evaluating_between_micro_batches_keeps_their_gradients():
    """Évaluer au milieu d'une accumulation ne touche pas les gradients qui attendent."""
    step, _, _ = pair()
    step.forward_backward(as_batch(*random_batch(step)))
    before = [p.grad.clone() for p in step.model.parameters()]
    inputs, targets, _ = random_batch(step)
    step.loss(inputs, targets)
    for parameter, gradient in zip(step.model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_gradients_given_by_the_caller_are_completed():
    """Un `.grad` étranger reçoit la somme, comme avec autograd."""
    step, oracle, keys = pair()
    for model in (step.model, oracle):
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
    batch = random_batch(step)
    step.forward_backward(as_batch(*batch))
    oracle_backward(oracle, keys, batch)
    assert_same_gradients(step, oracle)


@pytest.mark.parametrize("where", ["tok_emb.weight", "out_head.weight", "trf_blocks.1.norm2.scale"])
def test_non_finite_loss_touches_no_gradient(where):
    step, _, _ = pair()
    with torch.no_grad():
        step.model.get_parameter(where)[:] = torch.nan
    assert not torch.isfinite(step.forward_backward(as_batch(*random_batch(step))))
    assert all(parameter.grad is None for parameter in step.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("lean", [False, True])
def test_a_late_non_finite_chunk_leaves_nothing_behind(lean):
    """Un NaN dans le second morceau de la tête : l'étape suivante n'en garde rien."""
    model, oracle, keys = pair()[0].model, *pair()[1:]
    optimizer = LeanAdamW(model.parameters(), lr=1e-3) if lean else None
    step = FusedStep(model, seed=7, lean=optimizer)
    inputs, targets, ids = random_batch(step, 9, 37)
    inputs[inputs == 5] = 6
    inputs[-1, -1] = 5  # le seul token du dernier morceau
    with torch.no_grad():
        good = model.tok_emb.weight[5].clone()
        model.tok_emb.weight[5] = torch.nan
    bad = as_batch(inputs, targets, ids)
    assert not torch.isfinite(step.forward_backward(bad, scale=1.0))
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        model.tok_emb.weight[5] = good
    batch = random_batch(step)
    found = step.forward_backward(as_batch(*batch), scale=1.0)
    assert found.item() == pytest.approx(oracle_backward(oracle, keys, batch).item(), rel=1e-6)
    if lean:
        torch.optim.AdamW(oracle.parameters(), lr=1e-3, weight_decay=1e-2).step()
        for name, expected in oracle.named_parameters():
            clear = expected.grad.abs() > 1e-6  # ailleurs, le signe d'un gradient nul décide
            got = model.get_parameter(name)
            assert torch.allclose(got[clear], expected[clear], atol=2e-5), name
    else:
        assert_same_gradients(step, oracle)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda i, t, s: (i.int(), t, s), "int64"),
        (lambda i, t, s: (i, t[:, :-1], s), "targets"),
        (lambda i, t, s: (i + 307, t, s), "hors du vocabulaire"),
        (lambda i, t, s: (i, t - 1000, s), "hors du vocabulaire"),
        (lambda i, t, s: (i, t, s[:-1]), "numéros de séquence"),
    ],
)
def test_what_would_be_read_out_of_bounds_is_refused(change, word):
    step, _, _ = pair()
    with pytest.raises(ValueError, match=word):
        step.forward_backward(as_batch(*change(*random_batch(step))))


def test_exponential_is_exact_to_a_few_ulp():
    """Celle des noyaux, sur toute sa plage ; un NaN reste un NaN."""
    x = torch.cat([torch.linspace(-86, 87, 100_000), torch.tensor([0.0, torch.nan])])
    found = x.clone().view(-1, 1)
    launch(kernels.scaled_softmax_, -(-len(x) // 256), found, torch.zeros(1), 1.0)
    expected = x.double().exp()
    error = ((found[:-1, 0].double() - expected[:-1]) / expected[:-1]).abs().max()
    assert error < 4e-7
    assert torch.isnan(found[-1, 0])


def test_packed_projections_keep_names_values_and_loading():
    """Les trois projections restent trois paramètres ; charger des poids les change bien."""
    step, oracle, _ = pair()
    assert list(step.model.state_dict()) == list(oracle.state_dict())
    for name, value in oracle.state_dict().items():
        assert torch.equal(step.model.state_dict()[name], value)
    torch.manual_seed(5)
    other = GPTModel(step.model.cfg)
    step.model.load_state_dict(other.state_dict())
    inputs, targets, _ = random_batch(step)
    expected = calc_loss_batch(inputs, targets, other.eval(), "cpu")
    assert step.loss(inputs, targets).item() == pytest.approx(expected.item(), rel=1e-6)


def test_too_long_a_window_is_refused():
    step, _, _ = pair()
    with pytest.raises(ValueError, match="41 positions"):
        step.loss(*random_batch(step, 1, 41)[:2])


def test_models_that_do_not_fit_are_named():
    model = GPTModel(GPTConfig(**BASE))
    assert why_not_fused(model) is None
    assert "gelés" in why_not_fused(copy.deepcopy(model).requires_grad_(False))
    assert "fp32" in why_not_fused(copy.deepcopy(model).double())
    assert "meta" in why_not_fused(copy.deepcopy(model).to("meta"))
    with pytest.raises(ValueError, match="GPTModel"):
        FusedStep(torch.nn.Linear(2, 2), seed=1)


@pytest.mark.parametrize("inner", [5, 64, 200])
def test_any_inner_width(inner):
    step, oracle, keys = pair(inner_dim=inner)
    batch = random_batch(step)
    found = step.forward_backward(as_batch(*batch))
    assert found.item() == pytest.approx(oracle_backward(oracle, keys, batch).item(), rel=1e-6)
    assert_same_gradients(step, oracle)


@pytest.mark.parametrize(("name", "value"), [("activation", "gelu"), ("norm_eps", 1e-6)])
def test_a_calculation_it_does_not_have_is_named(name, value):
    model = GPTModel(GPTConfig(**{**BASE, name: value}))
    assert f"{name} = " in why_not_fused(model)
