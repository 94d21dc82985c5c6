"""Le graphe ONNX sur 8 bits et le dossier de transformers.js : un oracle en PyTorch, puis Node.

Formes : B lot, T tokens, N = B·T, D largeur.
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interop_helpers import BOOK, GPT2, content, tokenizer
from torch import nn

from gpt_architecture.errors import ModelFileError, OutputError
from gpt_architecture.interop.onnx import export_onnx
from gpt_architecture.interop.onnx_folder import export_onnx_folder

onnx = pytest.importorskip("onnx", reason="export ONNX : le paquet onnx n'est pas installé")
runtime = pytest.importorskip("onnxruntime", reason="export ONNX : onnxruntime n'est pas installé")

PROMPT = "Le passeur leva la lampe"
MODES = {"gpt2": GPT2, "livre": BOOK}


def session(path):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def codes_of(x):
    """Codes entiers de x (N, D), et l'échelle (N, 1) de chaque ligne."""
    scale = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round(), scale


class IntegerLinear(nn.Module):
    """Une couche linéaire par produit d'entiers, en float64, qui les garde exacts."""

    def __init__(self, linear):
        super().__init__()
        self.codes, self.scale = codes_of(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x):
        codes, scale = codes_of(x.flatten(0, -2))
        total = (codes.double() @ self.codes.double().T).float()
        rows = total * scale * self.scale.T
        rows = rows if self.bias is None else rows + self.bias
        return rows.view(*x.shape[:-1], -1)


def oracle(file):
    """Le modèle, chaque matrice remplacée par ses codes ; l'embedding aussi."""
    model = file.build().eval()
    codes, scale = codes_of(model.tok_emb.weight.detach())
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, IntegerLinear(child))
    model.tok_emb.weight = nn.Parameter(codes * scale, requires_grad=False)
    return model


def peaked(config, **metadata):
    """Un modèle aux logits assez éloignés pour que sa suite ne dépende pas d'un arrondi."""
    file = content(config, **metadata)
    with torch.no_grad():
        file.state_dict["pos_emb.weight"].mul_(4)
    return file


@pytest.mark.parametrize("mode", MODES)
def test_the_logits_of_the_integers(mode, tmp_path):
    file = content(MODES[mode])
    export_onnx(file, tmp_path / "m.onnx", quant="int8")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    run, model = session(tmp_path / "m.onnx"), oracle(file)
    tokens = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(1))
    (found,) = run.run(["logits"], {"input_ids": tokens.numpy()})
    with torch.no_grad():
        expected, exact = model(tokens).numpy(), file.build().eval()(tokens).numpy()
    assert found.shape == (3, 17, 300)
    # un arrondi qui bascule, à mi-chemin entre deux codes, se voit dans quelques logits
    assert np.median(abs(found - expected)) < 1e-5
    assert abs(found - expected).max() < 0.05 * exact.std()
    assert 1e-4 < abs(found - exact).max() < 0.3 * exact.std()


def test_extreme_weights_do_not_saturate(tmp_path):
    """Le pire cas d'un produit d'entiers : tous les codes au plus loin, de même signe."""
    file = content(replace(GPT2, n_layers=1))
    with torch.no_grad():
        for name, tensor in file.state_dict.items():
            if name.endswith(".weight") and tensor.ndim == 2:
                tensor.copy_(tensor.abs().max() * torch.ones_like(tensor))
        file.state_dict["tok_emb.weight"][::2] *= -1
    export_onnx(file, tmp_path / "m.onnx", quant="int8")
    tokens = torch.arange(9)[None]
    (found,) = session(tmp_path / "m.onnx").run(None, {"input_ids": tokens.numpy()})
    with torch.no_grad():
        expected = oracle(file)(tokens).numpy()
    assert abs(found - expected).max() < 0.02 * abs(expected).max()


def test_a_text_does_not_depend_on_its_neighbours(tmp_path):
    """L'échelle des activations est celle du token : ni le lot ni le cache n'y changent rien."""
    export_onnx(content(GPT2), tmp_path / "m.onnx", quant="int8")
    run = session(tmp_path / "m.onnx")
    tokens = np.random.default_rng(0).integers(0, 300, (4, 12))
    (together,) = run.run(None, {"input_ids": tokens})
    for row in range(4):
        (alone,) = run.run(None, {"input_ids": tokens[row : row + 1]})
        (shorter,) = run.run(None, {"input_ids": tokens[row : row + 1, :7]})
        for found, expected in ((alone[0], together[row]), (shorter[0], together[row, :7])):
            assert np.median(abs(found - expected)) < 1e-5
            assert abs(found - expected).max() < 0.05 * together.std()


def test_it_is_four_times_smaller(tmp_path):
    """Et la tête liée n'y est toujours qu'une fois."""
    sizes = {}
    for quant in (None, "int8"):
        export_onnx(content(replace(GPT2, emb_dim=96)), tmp_path / "m.onnx", quant=quant)
        sizes[quant] = sum(
            np.prod(each.dims) * (1 if each.data_type == onnx.TensorProto.UINT8 else 4)
            for each in onnx.load(tmp_path / "m.onnx").graph.initializer
        )
    assert sizes["int8"] < 0.3 * sizes[None]


def test_a_weight_that_is_not_finite_is_refused(tmp_path):
    file = content(GPT2)
    file.state_dict["trf_blocks.0.ff.layers.0.weight"][1, 2] = float("nan")
    with pytest.raises(ModelFileError, match=r"ff\.layers\.0\.weight a un poids infini ou NaN"):
        export_onnx(file, tmp_path / "m.onnx", quant="int8")
    assert not (tmp_path / "m.onnx").exists()


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def as_transformers_js(folder, name, prompt, count):
    """Les tokens gloutons qu'en tire onnxruntime, des seuls fichiers que transformers.js lit."""
    from tokenizers import Tokenizer

    config = read(folder / "config.json")
    new = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt).ids
    run = session(folder / "onnx" / name)
    names = [each.name for each in run.get_inputs()]
    heads = config["n_head"], 0, config["n_embd"] // config["n_head"]
    past = {
        f"past_key_values.{layer}.{part}": np.zeros((1, *heads), dtype=np.float32)
        for layer in range(config["n_layer"])
        for part in ("key", "value")
    }
    assert names == ["input_ids", "attention_mask", "position_ids", *past]
    end, found = 0, []
    for _ in range(count):
        start, end = end, end + len(new)
        given = {
            "input_ids": np.array([new], dtype=np.int64),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
        }
        logits, *present = run.run(None, given | past)
        past = dict(zip(past, present, strict=True))
        new = [int(logits[0, -1].argmax())]
        found += new
    return found


def greedy(model, prompt, count):
    """La suite gloutonne d'un modèle d'ici, sans cache."""
    tokens = tokenizer().encode(prompt)
    start = len(tokens)
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[start:]


FILES = [
    "config.json",
    "generation_config.json",
    "onnx/model.onnx",
    "onnx/model_quantized.onnx",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@pytest.mark.parametrize("mode", MODES)
def test_the_folder_of_transformers_js(mode, tmp_path):
    file, folder = peaked(MODES[mode], window=24), tmp_path / "lampe"
    export_onnx_folder(file, str(folder))
    found = sorted(each for each in folder.rglob("*") if each.is_file())
    assert [each.relative_to(folder).as_posix() for each in found] == FILES
    assert {each.stat().st_mode & 0o111 for each in found} == {0}
    config = read(folder / "config.json")
    assert (config["model_type"], config["eos_token_id"]) == ("gpt2", tokenizer().eos_id)
    assert "transformers.js_config" not in config
    assert read(folder / "tokenizer_config.json")["model_max_length"] == 24
    assert len(set(greedy(file.build().eval(), PROMPT, 12))) > 3
    for name, model in (
        ("model.onnx", file.build().eval()),
        ("model_quantized.onnx", oracle(file)),
    ):
        assert as_transformers_js(folder, name, PROMPT, 12) == greedy(model, PROMPT, 12)


def test_large_weights_are_where_transformers_js_looks(tmp_path):
    export_onnx_folder(content(GPT2), tmp_path / "m", inline_limit=0)
    apart = {"model.onnx": 1, "model_quantized.onnx": 1}
    config = read(tmp_path / "m" / "config.json")
    assert config["transformers.js_config"] == {"use_external_data_format": apart}
    for name in apart:
        assert (tmp_path / "m" / "onnx" / f"{name}_data").is_file()
        assert len(as_transformers_js(tmp_path / "m", name, PROMPT, 2)) == 2


def test_a_taken_folder(tmp_path):
    export_onnx_folder(content(GPT2), tmp_path / "m")
    before = (tmp_path / "m" / "config.json").read_bytes()
    with pytest.raises(OutputError, match="existe déjà"):
        export_onnx_folder(content(GPT2), tmp_path / "m")
    export_onnx_folder(content(GPT2), tmp_path / "m", force=True)
    assert (tmp_path / "m" / "config.json").read_bytes() == before


NODE = """
import { pipeline, env } from '@huggingface/transformers';
env.allowRemoteModels = false;
[env.localModelPath] = process.argv.slice(2);
const [, , , name, dtype, prompt, count] = process.argv;
const write = await pipeline('text-generation', name, { dtype });
const given = write.tokenizer(prompt, { add_special_tokens: false });
const sizes = { max_new_tokens: Number(count), do_sample: false };
const found = (await write.model.generate({ ...given, ...sizes })).tolist()[0].map(Number);
console.log(JSON.stringify(found.slice(given.input_ids.dims[1])));
"""


@pytest.mark.slow
@pytest.mark.process
def test_transformers_js_itself(tmp_path):
    """Son paquet npm, dans Node : `NODE_MODULES` dit le dossier où il est installé."""
    modules = os.environ.get("NODE_MODULES", "")
    if shutil.which("node") is None or not Path(modules, "@huggingface", "transformers").is_dir():
        pytest.skip("transformers.js n'est pas installé (NODE_MODULES)")
    file = peaked(GPT2)
    export_onnx_folder(file, tmp_path / "lampe")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "essai.mjs").write_text(NODE, encoding="utf-8")
    for dtype, model in (("fp32", file.build().eval()), ("q8", oracle(file))):
        command = ["node", "essai.mjs", f"{tmp_path}/", "lampe", dtype, PROMPT, "12"]
        ran = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
        )
        assert json.loads(ran.stdout.splitlines()[-1]) == greedy(model, PROMPT, 12)
