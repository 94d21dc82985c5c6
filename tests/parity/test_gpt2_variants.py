"""Les variantes de GPT-2 que Transformers sait écrire : lues, gardées, calculées comme là-bas."""

from dataclasses import replace

import pytest
import torch
from interop_helpers import GPT2, content, ids, logits, tokenizer
from kernel_helpers import oracle_of
from parity_helpers import random_model, to_transformers

from gpt_architecture.api import load
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats.model_file import ModelFile, read_model, save_model
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.hf import read_hf
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.onnx import export_onnx

transformers = pytest.importorskip("transformers", reason="parité avec Transformers")

OWN = {
    "largeur cachée": {"inner_dim": 50},
    "GELU exacte": {"activation": "gelu"},
    "ReLU": {"activation": "relu"},
    "eps": {"norm_eps": 1e-2},
    "toutes": {"inner_dim": 37, "activation": "relu", "norm_eps": 1e-3},
}
THEIRS = {
    "échelle par bloc": {"scale_attn_by_inverse_layer_idx": True},
    "sans échelle": {"scale_attn_weights": False},
    "attention en fp32": {"reorder_and_upcast_attn": True},
    "les trois": {
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False,
        "reorder_and_upcast_attn": True,
    },
}
own = pytest.mark.parametrize("changes", OWN.values(), ids=OWN)
CLOSE = {"rtol": 0, "atol": 2e-5}


def variant(changes):
    return replace(GPT2, **changes)


@own
def test_an_imported_variant_has_their_logits(tmp_path, changes):
    theirs = to_transformers(random_model(variant(changes)))
    theirs.save_pretrained(tmp_path)
    found = read_hf(tmp_path, tokenizer=tokenizer())
    assert found.config == replace(variant(changes), drop_rate=0.1)
    expected = logits(theirs, ids())
    torch.testing.assert_close(logits(found.build(), ids()), expected, **CLOSE)
    plain = ModelFile(config=GPT2, state_dict=found.state_dict, tokenizer={})
    if "inner_dim" not in changes:  # le calcul de GPT-2, lui, donnerait autre chose
        assert (logits(plain.build(), ids()) - expected).abs().max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", THEIRS.values(), ids=THEIRS)
def test_their_scales_of_attention_are_folded_into_the_queries(tmp_path, options):
    theirs = to_transformers(random_model(replace(GPT2, n_layers=3)), **options)
    theirs.save_pretrained(tmp_path)
    found = read_hf(tmp_path, tokenizer=tokenizer())
    assert found.config.variants() == {}
    expected = logits(theirs, ids())
    torch.testing.assert_close(logits(found.build(), ids()), expected, **CLOSE)
    export_hf(found, tmp_path / "encore")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "encore").eval()
    torch.testing.assert_close(logits(again, ids()), expected, **CLOSE)


@pytest.mark.slow
@own
def test_our_file_and_their_folder_keep_it(tmp_path, changes):
    source = content(variant(changes))
    model = source.build()
    path = tmp_path / "m.pt"
    save_model(path, model, source.config, tokenizer=source.tokenizer)
    again = read_model(path)
    assert again.config == source.config
    assert torch.equal(logits(again.build(), ids()), logits(model, ids()))
    export_hf(source, tmp_path / "hf")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    torch.testing.assert_close(logits(theirs, ids()), logits(model, ids()), **CLOSE)
    assert read_hf(tmp_path / "hf").config == source.config


@own
def test_onnx_keeps_it(tmp_path, changes):
    runtime = pytest.importorskip("onnxruntime", reason="lire un fichier ONNX")
    source = content(variant(changes))
    export_onnx(source, tmp_path / "m.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input_ids": ids().numpy()})
    expected = logits(source.build(), ids())
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_gguf_refuses_an_activation_that_llama_cpp_would_replace(tmp_path, activation):
    with pytest.raises(ModelFileError, match=f"l'activation {activation} n'a pas d'équivalent"):
        export_gguf(content(variant({"activation": activation})), tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_gguf_carries_the_rest(tmp_path):
    gguf = pytest.importorskip("gguf", reason="relire un fichier GGUF")
    export_gguf(content(variant({"inner_dim": 50, "norm_eps": 1e-3})), tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["gpt2.feed_forward_length"].contents() == 50
    assert fields["gpt2.attention.layer_norm_epsilon"].contents() == pytest.approx(1e-3)


@pytest.mark.slow
@own
@pytest.mark.parametrize("quant", [None, "int8", "int4"])
def test_loading_computes_it_with_or_without_kernels(tmp_path, changes, quant):
    """Ce que les noyaux n'ont pas, PyTorch le calcule ; les largeurs, ils les ont."""
    source = content(variant(changes))
    save_model(tmp_path / "m.pt", source.build(), source.config, tokenizer=source.tokenizer)
    gpt = load(tmp_path / "m.pt", quant=quant, device="cpu", compile_from=0)
    fixed = set(changes) & {"activation", "norm_eps"}
    if gpt.runner is None:
        assert fixed
        assert quant is None
        return
    assert gpt.runner.compiled is not bool(fixed)
    reference = source.build() if quant is None else oracle_of(gpt.runner)
    prompt = ids(1, 7)
    cache = gpt.runner.new_cache(1)
    found = torch.cat([gpt.runner(part, cache) for part in prompt.split([4, 1, 1, 1], dim=1)], 1)
    expected = logits(reference, prompt)
    # Sur 8 bits, une activation peut prendre le code voisin : voir test_packed.py.
    atol = 1e-4 if quant is None else 2e-2 * expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("name", "value"), [("activation", "relu"), ("norm_eps", 1e-3)])
def test_kernels_that_are_required_say_what_they_lack(tmp_path, name, value):
    source = content(variant({name: value}))
    save_model(tmp_path / "m.pt", source.build(), source.config, tokenizer=source.tokenizer)
    with pytest.raises(ConfigurationError, match=f"n'ont que {name}"):
        load(tmp_path / "m.pt", engine="packed", device="cpu")
    assert load(tmp_path / "m.pt", device="cpu").generate("Le", max_tokens=3).startswith("Le")
