"""Les adaptateurs : le calcul de LoRA, le modèle exact, le fichier, les refus."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig, LoRAConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.lora import (
    LoRALinear,
    adapter_tensors,
    add_lora_,
    load_adapter_,
    merge_lora_,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import calc_loss_batch
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats.adapter_file import (
    AdapterFile,
    read_adapter,
    save_adapter,
    weights_sha256,
)
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.tensor_files import SEAL

SHAPE = GPTConfig(
    vocab_size=61,
    context_length=16,
    emb_dim=24,
    n_heads=3,
    n_layers=2,
    drop_rate=0.0,
    qkv_bias=True,
    tie_weights=True,
)
ALL = LoRAConfig(rank=3, alpha=6.0, targets=("query", "key", "value", "output", "up", "down"))


def a_model(seed=0, config=SHAPE):
    torch.manual_seed(seed)
    return GPTModel(config).eval()


def a_file(model):
    return ModelFile(config=model.cfg, state_dict=model.state_dict(), tokenizer={"name": "x"})


def stirred(model, seed=5):
    """Donne à chaque B des valeurs non nulles."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in adapter_tensors(model).items():
        if name.endswith("lora_B"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model


def a_batch():
    ids = torch.randint(61, (2, 13), generator=torch.Generator().manual_seed(3))
    return ids[:, :-1], ids[:, 1:]


def test_first_the_model_is_exactly_itself():
    """B est nulle : mêmes logits au bit près ; seuls les adaptateurs apprennent."""
    model, adapted = a_model(), a_model()
    add_lora_(adapted, ALL, seed=1)
    ids, _ = a_batch()
    with torch.no_grad():
        assert torch.equal(model(ids), adapted(ids))
    learned = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert learned == set(adapter_tensors(adapted))
    assert len(learned) == 2 * 6 * SHAPE.n_layers
    again, other = a_model(), a_model()
    add_lora_(again, ALL, seed=1)
    add_lora_(other, ALL, seed=2)
    name = "trf_blocks.1.att.W_value.lora_A"
    mine = adapter_tensors(adapted)[name]
    assert torch.equal(mine, adapter_tensors(again)[name])
    assert not torch.equal(mine, adapter_tensors(other)[name])


def test_gradients_are_those_of_the_formula():
    """Gradients de A et B contre ceux de W + s·B·A, écrits à la main par la règle de la chaîne."""
    adapted = a_model()
    add_lora_(adapted, ALL, seed=1)
    stirred(adapted)
    whole = a_model()
    adapters = adapter_tensors(adapted)
    paths = sorted({name.rpartition(".")[0] for name in adapters})
    for path in paths:
        a, b = adapters[f"{path}.lora_A"], adapters[f"{path}.lora_B"]
        whole.get_submodule(path).weight.data += 2.0 * b @ a
    batch = a_batch()
    calc_loss_batch(*batch, adapted, "cpu").backward()
    calc_loss_batch(*batch, whole, "cpu").backward()
    for path in paths:
        a, b = adapters[f"{path}.lora_A"], adapters[f"{path}.lora_B"]
        gradient = whole.get_submodule(path).weight.grad  # dL/dW, (E, D)
        layer = adapted.get_submodule(path)
        assert torch.allclose(layer.lora_A.grad, 2.0 * b.T @ gradient, rtol=1e-4, atol=1e-7)
        assert torch.allclose(layer.lora_B.grad, 2.0 * gradient @ a.T, rtol=1e-4, atol=1e-7)
        assert layer.base.weight.grad is None
    assert adapted.tok_emb.weight.grad is None


@pytest.mark.slow
def test_layer_is_that_of_peft():
    """Sur les mêmes poids, sortie et gradients de la couche LoRA de peft."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(7, 5))
    ours = LoRALinear(
        torch.nn.Linear(7, 5), LoRAConfig(rank=2, alpha=3.0), torch.Generator().manual_seed(1)
    )
    ours.base.load_state_dict(base[0].state_dict())
    theirs = peft.get_peft_model(
        base, peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"], lora_dropout=0.0)
    )
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        ours.lora_B.normal_()
        layer.lora_A["default"].weight.copy_(ours.lora_A)
        layer.lora_B["default"].weight.copy_(ours.lora_B)
    x = torch.randn(4, 7)
    first, second = ours(x), theirs(x)
    assert torch.allclose(first, second, atol=1e-6)
    first.square().sum().backward()
    second.square().sum().backward()
    assert torch.allclose(ours.lora_A.grad, layer.lora_A["default"].weight.grad, rtol=1e-5)
    assert torch.allclose(ours.lora_B.grad, layer.lora_B["default"].weight.grad, rtol=1e-5)


def test_merged_equals_unmerged():
    """Mêmes logits, avec et sans cache ; le modèle fondu est un GPTModel ordinaire."""
    adapted = a_model()
    add_lora_(adapted, ALL, seed=1)
    stirred(adapted)
    ids, _ = a_batch()
    with torch.no_grad():
        expected = adapted(ids)
        cache: KVCache = adapted.new_cache(2)
        pieces = torch.cat([adapted(ids[:, :5], cache), adapted(ids[:, 5:], cache)], dim=1)
        assert torch.allclose(pieces, expected, atol=1e-5)
        merge_lora_(adapted)
        assert torch.allclose(adapted(ids), expected, atol=1e-5)
        assert not torch.allclose(a_model()(ids), expected, atol=1e-2)
    assert adapted.state_dict().keys() == a_model().state_dict().keys()
    assert all(p.requires_grad for p in adapted.parameters())


def test_dropout_of_the_adapters_only():
    adapted = a_model().train()
    add_lora_(adapted, LoRAConfig(rank=2, dropout=0.5), seed=1)
    stirred(adapted)
    ids, _ = a_batch()
    with torch.no_grad():
        assert not torch.equal(adapted(ids), adapted(ids))
        adapted.eval()
        assert torch.equal(adapted(ids), adapted(ids))


def an_adapter(base, path):
    adapted = a_model()
    add_lora_(adapted, ALL, seed=1)
    stirred(adapted)
    adapter = AdapterFile(
        lora=ALL,
        base_sha256=weights_sha256(base),
        tensors=adapter_tensors(adapted),
        metadata={"chat_template": "é", "train_losses": [1.5]},
    )
    save_adapter(path, adapter)
    return adapted


def test_file_round_trip_and_merge(tmp_path):
    """Relu, le fichier fond dans le modèle de départ, qui lui-même ne change pas."""
    base = a_file(a_model())
    before = {name: tensor.clone() for name, tensor in base.state_dict.items()}
    adapted = an_adapter(base, tmp_path / "adapter.safetensors")
    found = read_adapter(tmp_path / "adapter.safetensors")
    assert (found.lora, found.metadata["chat_template"]) == (ALL, "é")
    assert (tmp_path / "adapter.safetensors").stat().st_mode & 0o444
    merged = found.merged(base).build()
    ids, _ = a_batch()
    with torch.no_grad():
        assert torch.allclose(merged(ids), adapted(ids), atol=1e-5)
    assert merged.out_head.weight is merged.tok_emb.weight
    for parameter in merged.parameters():  # sauvé, le modèle ne traîne pas les poids remplacés
        assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()
    assert all(torch.equal(before[name], base.state_dict[name]) for name in before)


def test_another_base_is_refused(tmp_path):
    """Un seul poids différent suffit ; un autre dropout n'y change rien."""
    model = a_model()
    base = a_file(model)
    an_adapter(base, tmp_path / "a.safetensors")
    found = read_adapter(tmp_path / "a.safetensors")
    quiet = ModelFile(
        config=GPTConfig.from_dict({**SHAPE.to_dict(), "drop_rate": 0.3}),
        state_dict=base.state_dict,
        tokenizer={},
    )
    assert weights_sha256(quiet) == weights_sha256(base)
    found.merged(quiet)
    model.trf_blocks[1].norm1.shift.data[0] += 1e-6
    with pytest.raises(ModelFileError, match="viennent d'un autre modèle"):
        found.merged(a_file(model))


def rewritten(path, *, metadata=None, drop=None, tensors=None):
    content = load_file(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = {key: text for key, text in file.metadata().items() if key != SEAL}
    content = {name: tensor for name, tensor in content.items() if name != drop}
    save_file({**content, **(tensors or {})}, path, metadata={**header, **(metadata or {})})


NAME = "trf_blocks.0.att.W_query.lora_A"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"metadata": {"format": "autre"}}, "pas des adaptateurs"),
        ({"metadata": {"version": "9"}}, "version 9"),
        ({"metadata": {"description": "[]"}}, "illisible"),
        ({"metadata": {"description": "{"}}, "illisible"),
        ({"metadata": {"description": json.dumps({"lora": {"rang": 1}})}}, "illisible"),
        (
            {
                "metadata": {
                    "description": json.dumps(
                        {"lora": {"rank": 10**9}, "base_sha256": "0", "metadata": {}}
                    )
                }
            },
            "lora_rank",
        ),
        ({"drop": NAME}, NAME),
        ({"tensors": {NAME: torch.zeros(9, 24)}}, NAME),
        ({"tensors": {"inconnu": torch.zeros(1)}}, "inconnu"),
    ],
)
def test_damaged_file(tmp_path, change, found):
    base = a_file(a_model())
    path = tmp_path / "a.safetensors"
    an_adapter(base, path)
    rewritten(path, **change)
    with pytest.raises(ModelFileError) as error:
        read_adapter(path).merged(base)
    assert found in str(error.value)


def test_not_an_adapter_file(tmp_path):
    (tmp_path / "a").write_bytes(b"rien du tout")
    for path in (tmp_path / "a", tmp_path / "absent", tmp_path):
        with pytest.raises(ModelFileError, match="corrigez ce chemin"):
            read_adapter(path)


def test_loading_is_strict():
    adapted = a_model()
    add_lora_(adapted, LoRAConfig(rank=2), seed=1)
    with pytest.raises(ModelFileError, match="ne vont pas à ce modèle"):
        load_adapter_(adapted, {})


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0},
        {"rank": 5000},
        {"alpha": 0.0},
        {"dropout": 1.0},
        {"targets": ()},
        {"targets": ("query", "query")},
        {"targets": ("tout",)},
    ],
)
def test_bad_settings(values):
    with pytest.raises(ConfigurationError, match="lora_"):
        LoRAConfig(**values)


def test_scale_is_alpha_over_rank():
    layer = LoRALinear(torch.nn.Linear(2, 2), LoRAConfig(rank=4, alpha=2.0), torch.Generator())
    with torch.no_grad():
        layer.lora_A.fill_(1.0)
        layer.lora_B.fill_(1.0)
    x = torch.tensor([[1.0, 2.0]])
    expected = F.linear(x, layer.base.weight, layer.base.bias) + 0.5 * 4 * 3.0
    assert torch.allclose(layer(x), expected)
