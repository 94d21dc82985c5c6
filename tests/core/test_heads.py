"""La tête de classe ou de valeur : ses pertes à la main, ses nombres au bit près, sa forme."""

import math

import numpy as np
import pytest
import torch

from gpt_architecture.config import GPTConfig, HeadConfig
from gpt_architecture.core.heads import (
    class_loss,
    decode_values,
    label_loss,
    last_outputs,
    value_loss,
)
from gpt_architecture.core.lora import HEAD, adapter_tensors, add_lora_
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.labelled import encode_values
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.errors import ConfigurationError

SHAPE = {"vocab_size": 31, "context_length": 12, "emb_dim": 16, "n_heads": 2, "n_layers": 2}
HEAD3 = HeadConfig(labels=("a", "b", "c"))


def made(head, **changes):
    torch.manual_seed(0)
    return GPTModel(GPTConfig(**{**SHAPE, "drop_rate": 0.0, **changes}, head=head)).eval()


def test_values_travel_as_their_bits():
    values = [0.0, -0.0, 1.5, -3.25e-20, 7e30, -1 / 3]
    targets = torch.tensor(encode_values(values))
    assert targets.min() >= 0
    assert IGNORED not in targets.tolist()
    assert np.array_equal(decode_values(targets).numpy(), np.float32(values))


def test_a_head_gives_the_config_its_width():
    model = made(HEAD3)
    assert model.out_head.weight.shape == (3, 16)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 3)
    assert model.num_parameters() == model.cfg.num_parameters()
    assert made(HeadConfig()).out_head.weight.shape == (1, 16)
    assert float(model.tok_emb.weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_without_head_nothing_is_written():
    plain = GPTConfig(**SHAPE)
    assert "head" not in plain.to_dict()
    told = plain.with_head(HEAD3).to_dict()
    assert told["head"] == {"labels": ["a", "b", "c"]}
    assert GPTConfig.from_dict(told) == plain.with_head(HEAD3)
    assert plain.with_head(None) is plain


@pytest.mark.parametrize(
    "labels", [("seul",), ("a", "a"), ("a", ""), ("a", 3), ("a", "b" * 300)], ids=str
)
def test_labels_are_names(labels):
    with pytest.raises(ConfigurationError, match="labels"):
        HeadConfig(labels=labels)


@pytest.mark.parametrize(
    "told", [3, {"labels": "ab"}, {"labels": ["a", "b"], "autre": 1}, {"scale": 0}], ids=str
)
def test_a_bad_description_is_refused(told):
    with pytest.raises(ConfigurationError):
        GPTConfig(**SHAPE, head=told)


def test_a_head_is_its_own():
    with pytest.raises(ConfigurationError, match="tie_weights"):
        GPTConfig(**SHAPE, head=HEAD3, tie_weights=True)
    assert GPTConfig(**SHAPE, tie_weights=True).with_head(HEAD3).tie_weights is False
    with pytest.raises(ConfigurationError, match="n'en écrit pas"):
        made(HEAD3).cfg.check_writes()


def scores():
    torch.manual_seed(1)
    return torch.randn(2, 3), torch.tensor([2, 0])


def test_the_class_loss_by_hand():
    outputs, targets = scores()
    log_p = outputs.log_softmax(dim=-1)
    first, second = -log_p[0, 2].item(), -log_p[1, 0].item()
    assert label_loss(outputs, targets).item() == pytest.approx((first + second) / 2)
    weighed = class_loss([2.0, 1.0, 0.5])(outputs, targets).item()
    assert weighed == pytest.approx((0.5 * first + 2.0 * second) / 2)


def test_the_value_loss_by_hand():
    outputs, _ = scores()
    targets = torch.tensor(encode_values([0.25, -2.0]))
    found = [outputs[0, 0].item() - 0.25, outputs[1, 0].item() + 2.0]
    expected = math.fsum(each**2 for each in found) / 2
    outputs.requires_grad_(True)
    loss = value_loss(outputs, targets)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert outputs.grad[:, 0].tolist() == pytest.approx(found, rel=1e-5)
    assert not outputs.grad[:, 1:].any()


def test_padding_changes_nothing():
    """Chaque texte, complété dans un lot, est jugé comme s'il était seul."""
    model = made(HEAD3)
    rows = [[4, 5, 6, 7, 8], [9], [1, 2, 3]]
    found = last_outputs(model, rows, padding=30)
    for row, own in zip(rows, found, strict=True):
        alone = model(torch.tensor([row]))[0, -1]
        torch.testing.assert_close(own, alone.detach(), rtol=0, atol=1e-6)


def test_adapters_learn_the_head_too():
    from gpt_architecture.config import LoRAConfig

    model = made(HEAD3)
    add_lora_(model, LoRAConfig(rank=2), seed=0)
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert HEAD in learned
    assert learned == set(adapter_tensors(model))
