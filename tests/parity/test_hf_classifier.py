"""`GPT2ForSequenceClassification` : écrit et lu, mêmes logits que Transformers."""

import json
from dataclasses import replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content

from gpt_architecture.api import read_any
from gpt_architecture.config import HeadConfig
from gpt_architecture.core.heads import last_outputs
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats.model_file import save_model
from gpt_architecture.interop.hf_export import export_hf

transformers = pytest.importorskip("transformers", reason="parité avec Transformers")
LABELS = HeadConfig(labels=("avis", "spam", "été"))
ROWS = [[5, 7, 11, 3], [2, 9], [8, 8, 1, 6, 4, 10]]


def judging(config, head, seed=3):
    """Un modèle qui juge, dont aucun poids n'est nul."""
    found = content(config).headed(head, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    state = {
        name: tensor + torch.randn(tensor.shape, generator=draw) * 0.05
        for name, tensor in found.state_dict.items()
    }
    return replace(found, state_dict=state)


def opened(folder):
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()


def padded(model):
    """Les logits d'un lot complété, par le remplissage que `config.json` nomme."""
    width = max(map(len, ROWS))
    padding = model.config.pad_token_id
    ids = torch.tensor([row + [padding] * (width - len(row)) for row in ROWS])
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.mark.slow
@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["gpt2", "livre"])
def test_classes(tmp_path, config):
    found = judging(config, LABELS)
    export_hf(found, tmp_path / "hf")
    theirs = opened(tmp_path / "hf")
    assert type(theirs).__name__ == "GPT2ForSequenceClassification"
    assert theirs.config.problem_type == "single_label_classification"
    assert theirs.config.id2label == dict(enumerate(LABELS.labels))
    model = found.build()
    expected = last_outputs(model, ROWS, theirs.config.pad_token_id)
    torch.testing.assert_close(padded(theirs), expected, rtol=0, atol=1e-5)
    again = read_any(tmp_path / "hf")
    assert again.config == found.config
    assert all(
        torch.equal(again.state_dict[name], tensor) for name, tensor in found.state_dict.items()
    )
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert "text-classification" in card
    assert "AutoModelForSequenceClassification" in card


@pytest.mark.slow
def test_a_value_comes_out_as_it_is(tmp_path):
    """L'unité de la tête, sans biais, passe dans ses poids et dans la dernière norme."""
    head = HeadConfig(center=-12.5, scale=7.0)
    found = judging(GPT2, head)
    export_hf(found, tmp_path / "hf")
    theirs = opened(tmp_path / "hf")
    assert theirs.config.problem_type == "regression"
    raw = last_outputs(found.build(), ROWS, theirs.config.pad_token_id)
    torch.testing.assert_close(padded(theirs), head.center + head.scale * raw, rtol=1e-5, atol=1e-4)
    again = read_any(tmp_path / "hf")
    assert again.config.head == HeadConfig()
    ours = last_outputs(again.build(), ROWS, 0)
    torch.testing.assert_close(ours, padded(theirs), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_theirs_are_read(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50257,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        num_labels=4,
        pad_token_id=50256,
    )
    theirs = transformers.GPT2ForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    found = read_any(tmp_path / "hf")
    assert found.config.head.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
    ours = last_outputs(found.build(), ROWS, 50256)
    torch.testing.assert_close(ours, padded(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type"),
        ({"id2label": {"0": "a", "2": "b"}}, "classe 1"),
        ({"problem_type": "regression"}, "3 valeurs"),
        ({"id2label": {"0": "a", "1": "a"}}, "labels"),
        ({"architectures": 5}, "score|manque|trop"),
        ({"id2label": {"0": "a", "1": "\x1b[2J"}}, "labels"),
    ],
    ids=str,
)
def test_other_heads_are_refused(tmp_path, changes, words):
    export_hf(judging(GPT2, LABELS), tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | changes), encoding="utf-8")
    with pytest.raises(ModelFileError, match=words):
        read_any(tmp_path / "hf")


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_wrapped_names_are_read(tmp_path, wrapper, suffix):
    from safetensors.torch import load_file, save_file

    found = judging(GPT2, LABELS)
    export_hf(found, tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    weights = {f"{wrapper}{name}": tensor for name, tensor in load_file(path).items()}
    if suffix == "bin":
        path.unlink()
        torch.save(weights, path.with_name("pytorch_model.bin"))
    else:
        save_file(weights, path, {"format": "pt"})
    again = read_any(tmp_path / "hf")
    assert torch.equal(again.state_dict["out_head.weight"], found.state_dict["out_head.weight"])


@pytest.mark.parametrize("to", ["gguf", "onnx", "nanogpt", "page"])
def test_formats_that_write_refuse_it(tmp_path, to):
    from gpt_architecture import convert, quantize

    found = judging(GPT2, LABELS)
    path = tmp_path / "gpt-model.pt"
    save_model(path, found.build(), found.config, tokenizer=found.tokenizer)
    with pytest.raises(ConfigurationError, match="classe des textes"):
        convert(path, tmp_path / ("p.html" if to == "page" else "x"), to=to, progress=False)
    with pytest.raises(ConfigurationError, match="classe des textes"):
        quantize(path, output=tmp_path / "q.safetensors", progress=False)
