"""Nos adaptateurs ouverts par PEFT, sur le même modèle : mêmes logits que fondus ici."""

import json

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, ids, logits

from gpt_architecture.config import LoRAConfig
from gpt_architecture.core.lora import adapter_tensors, add_lora_
from gpt_architecture.errors import ModelFileError, OutputError
from gpt_architecture.formats.adapter_file import AdapterFile, save_adapter, weights_sha256
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.peft import export_peft, peft_tensors

peft = pytest.importorskip("peft", reason="parité : le paquet peft n'est pas installé")
transformers = pytest.importorskip("transformers", reason="parité avec Transformers")
# peft interroge Transformers par un nom que celui-ci vient de changer
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")

TARGETS = [
    ("query", "value"),
    ("value", "key", "query"),
    ("key",),
    ("output", "down"),
    ("up", "query", "down", "key", "output", "value"),
]


def adapters(base, targets):
    """Des adaptateurs dont ni A ni B n'est nulle."""
    lora = LoRAConfig(rank=3, alpha=7.0, targets=targets)
    model = base.build()
    add_lora_(model, lora, seed=1)
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: torch.randn(t.shape, generator=generator) * 0.2
        for name, t in adapter_tensors(model).items()
    }
    return AdapterFile(lora=lora, base_sha256=weights_sha256(base), tensors=tensors)


@pytest.mark.slow
@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["gpt2", "livre"])
@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
def test_peft_computes_what_merging_gives(tmp_path, targets, config):
    base = content(config)
    adapter = adapters(base, targets)
    export_hf(base, tmp_path / "base")
    export_peft(adapter, tmp_path / "peft")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base").eval()
    plain = logits(theirs, ids())
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    expected = logits(adapter.merge(base), ids())
    assert (expected - plain).abs().max() > 0.1  # des adaptateurs sans effet ne prouveraient rien
    torch.testing.assert_close(logits(adapted, ids()), expected, rtol=0, atol=1e-4)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits(merged, ids()), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_the_folder(cli, tmp_path):
    base = content(GPT2)
    save_adapter(tmp_path / "adapter.safetensors", adapters(base, ("query", "value")))
    dest = tmp_path / "peft"
    outcome = cli("convert", tmp_path / "adapter.safetensors", dest, "--to", "peft")
    assert outcome.code == 0, outcome.err
    assert "PeftModel.from_pretrained" in outcome.out
    assert sorted(file.name for file in dest.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    written = json.loads((dest / "adapter_config.json").read_text("utf-8"))
    assert (written["r"], written["lora_alpha"]) == (6, 14.0)
    again = ("convert", tmp_path / "adapter.safetensors", dest, "--to", "peft")
    cli(*again).check_one_line_error(1, "existe déjà")
    assert cli(*again, "--force", "--json").code == 0
    save_model(tmp_path / "m.pt", base.build(), GPT2, tokenizer=base.tokenizer)
    wrong = cli("convert", tmp_path / "m.pt", tmp_path / "autre", "--to", "peft")
    wrong.check_one_line_error(1, "m.pt")


def test_nothing_is_left_of_what_does_not_fit(tmp_path):
    adapter = adapters(content(GPT2), ("query", "up"))
    for odd in ({}, {"trf_blocks.0.att.W_query.lora_A": torch.zeros(9, 24)}, {"x": torch.zeros(1)}):
        tensors = {**adapter.tensors, **odd} if odd else {}
        with pytest.raises(ModelFileError, match="ne s'écrivent pas pour PEFT"):
            peft_tensors(adapter.lora, tensors)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "lettre.txt").write_text("à moi", encoding="utf-8")
    with pytest.raises(OutputError):
        export_peft(adapter, tmp_path / "peft", force=True)
