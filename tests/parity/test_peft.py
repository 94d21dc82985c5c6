"""Nos adaptateurs ouverts par PEFT, et les siens ici : mêmes logits, sur le même modèle."""

import json
from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, ids, logits
from safetensors.torch import load_file, save_file

from gpt_architecture.api import read_any
from gpt_architecture.config import LoRAConfig
from gpt_architecture.core.lora import adapter_tensors, add_lora_
from gpt_architecture.errors import ModelFileError, OutputError
from gpt_architecture.formats.adapter_file import (
    AdapterFile,
    merge_adapters,
    save_adapter,
    weights_sha256,
)
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.formats.own_formats import read_adapters
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
    expected = logits(adapter.merged(base).build(), ids())
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


@pytest.mark.slow
@pytest.mark.parametrize("targets", TARGETS, ids="-".join)
def test_what_is_written_is_read_back_to_the_bit(tmp_path, targets):
    base = content(GPT2)
    adapter = adapters(base, targets)
    export_peft(adapter, tmp_path / "peft")
    for source in (tmp_path / "peft", tmp_path / "peft" / "adapter_model.safetensors"):
        found = read_adapters(source)
        assert (found.lora.rank, found.lora.alpha) == (3, 7.0)
        assert set(found.lora.targets) == set(targets)
        assert found.base_sha256 == adapter.base_sha256
        assert found.tensors.keys() == adapter.tensors.keys()
        assert all(torch.equal(found.tensors[n], t) for n, t in adapter.tensors.items())


PEFT_CONFIGS = {
    "c_attn": {"target_modules": ["c_attn"]},
    "rslora": {"target_modules": ["attn.c_attn", "mlp.c_fc"], "use_rslora": True},
    "motifs": {
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "rank_pattern": {"c_fc": 5, "h.1.attn.c_attn": 2},
        "alpha_pattern": {"attn.c_proj": 9, "c_fc": 1},
    },
    "un bloc": {"target_modules": ["c_proj"], "layers_to_transform": [1]},
}


def trained_by_peft(folder, named, model=None):
    """Des adaptateurs que PEFT a faits et écrits, ni A ni B nulles ; rend leurs logits."""
    base = model or transformers.GPT2LMHeadModel.from_pretrained(folder / "base")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, fan_in_fan_out=True, task_type="CAUSAL_LM", **PEFT_CONFIGS[named]
    )
    adapted = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    adapted.save_pretrained(folder / "peft")
    return logits(adapted, ids())


@pytest.mark.slow
@pytest.mark.parametrize("named", PEFT_CONFIGS)
def test_what_peft_wrote_gives_its_logits(tmp_path, named):
    base = content(GPT2)
    export_hf(base, tmp_path / "base")
    expected = trained_by_peft(tmp_path, named)
    assert (expected - logits(base.build(), ids())).abs().max() > 0.1
    found = read_adapters(tmp_path / "peft")
    assert found.base_sha256 is None
    torch.testing.assert_close(
        logits(found.merged(base).build(), ids()), expected, rtol=0, atol=1e-4
    )
    # le modèle que le dossier nomme est là : il se charge seul
    alone = read_any(tmp_path / "peft")
    torch.testing.assert_close(logits(alone.build(), ids()), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_commands_take_a_folder_of_peft(cli, tmp_path):
    base = content(GPT2)
    export_hf(base, tmp_path / "base")
    expected = trained_by_peft(tmp_path, "c_attn")
    outcome = cli("merge", tmp_path / "base", tmp_path / "peft", "--out", tmp_path / "m.pt")
    assert outcome.code == 0, outcome.err
    assert "6 adaptateurs de rang 4 fondus" in outcome.out
    merged = read_any(tmp_path / "m.pt")
    torch.testing.assert_close(logits(merged.build(), ids()), expected, rtol=0, atol=1e-4)
    seen = json.loads(cli("inspect", tmp_path / "peft", "--json").out)
    assert (seen["kind"], seen["provenance"]["rank"]) == ("peft", 4)
    other = content(replace(GPT2, emb_dim=48))
    save_model(tmp_path / "o.pt", other.build(), other.config, tokenizer=other.tokenizer)
    wrong = cli("merge", tmp_path / "o.pt", tmp_path / "peft", "--out", tmp_path / "n.pt")
    wrong.check_one_line_error(1, "ne vont pas à ce modèle")
    assert not (tmp_path / "n.pt").exists()
    (tmp_path / "base").rename(tmp_path / "parti")
    cli("infer", tmp_path / "peft").check_one_line_error(1, "introuvable", "merge")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"use_dora": True}, "use_dora = True"),
        ({"modules_to_save": ["wte"]}, "modules_to_save"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"r": 4}, "des matrices"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"lora_alpha": 10**400}, "lora_alpha = "),
        ({"rank_pattern": {"(a+)+$": 3}}, "rank_pattern"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"lora_dropout": 3}, "lora_dropout"),
    ],
)
def test_what_peft_says_otherwise_is_refused(tmp_path, change, found):
    export_peft(adapters(content(GPT2), ("query", "up")), tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**document, **change}), encoding="utf-8")
    with pytest.raises(ModelFileError) as error:
        read_adapters(tmp_path / "peft")
    assert found in error.value.found


def test_matrices_that_surprise_are_refused(tmp_path):
    export_peft(adapters(content(GPT2), ("query", "up")), tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    for change in (
        {"base_model.model.transformer.wte.weight": torch.zeros(3, 3)},
        {first: None},
        {first: torch.zeros(3)},
        {first: torch.zeros(tensors[first].shape, dtype=torch.int64)},
    ):
        kept = {name: t for name, t in {**tensors, **change}.items() if t is not None}
        save_file(kept, path)
        with pytest.raises(ModelFileError, match="peft"):
            read_adapters(tmp_path / "peft")
    path.unlink()
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors"):
        read_adapters(tmp_path / "peft")
    export_hf(content(GPT2), tmp_path / "base")
    with pytest.raises(ModelFileError, match="et non des adaptateurs"):
        read_adapters(tmp_path / "base")


@pytest.mark.slow
def test_several_adapters_with_weights(cli, tmp_path):
    """W + Σ poids · facteur · B·A, calculé à part ; un poids négatif retire ce qu'il a ajouté."""
    base = content(GPT2)
    save_model(tmp_path / "m.pt", base.build(), GPT2, tokenizer=base.tokenizer)
    one, two = adapters(base, ("query", "value")), adapters(base, ("query", "up"))
    for name, adapter in (("un", one), ("deux", two)):
        (tmp_path / name).mkdir()
        save_adapter(tmp_path / name / "adapter.safetensors", adapter)
    command = ("merge", tmp_path / "m.pt", tmp_path / "un", tmp_path / "deux")
    out = tmp_path / "somme.pt"
    outcome = cli(*command, "--weights", "0.75", "-0.5", "--out", out)
    assert outcome.code == 0, outcome.err
    assert "0,75 × un − 0,5 × deux" in outcome.out
    found = read_any(out)
    assert found.metadata["merged"] == [
        {"name": "un", "weight": 0.75},
        {"name": "deux", "weight": -0.5},
    ]
    for name, before in base.state_dict.items():
        expected = before.clone()
        for adapter, weight in ((one, 0.75), (two, -0.5)):
            stem = name.removesuffix(".weight")
            if f"{stem}.lora_A" in adapter.tensors:
                a, b = (adapter.tensors[f"{stem}.lora_{each}"] for each in "AB")
                expected += weight * adapter.lora.alpha / adapter.lora.rank * (b @ a)
        torch.testing.assert_close(found.state_dict[name], expected, rtol=0, atol=1e-5)
    undone = merge_adapters(base, [(one, 1.0), (one, -1.0)])
    for name, before in base.state_dict.items():
        torch.testing.assert_close(undone.state_dict[name], before, rtol=0, atol=1e-5)
    cli(*command, "--weights", "1", "--out", out, "--force").check_one_line_error(
        2, "1 poids pour 2 affinages", "--weights"
    )
    cli(*command, "--weights", "1", "nan", "--out", out, "--force").check_one_line_error(
        2, "--weights"
    )
    save_adapter(tmp_path / "deux" / "adapter.safetensors", replace(two, base_sha256="0" * 64))
    cli(*command, "--out", tmp_path / "n.pt").check_one_line_error(1, "autre modèle")
    assert not (tmp_path / "n.pt").exists()
