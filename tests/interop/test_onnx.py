"""Le graphe ONNX : mêmes logits que le modèle, à toutes les formes, cache compris.

Formes : B lot, T tokens, P tokens passés.
"""

import sys

import numpy as np
import pytest
import torch
from parity_helpers import random_model

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import MissingDependencyError, OutputError
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.onnx import export_onnx

onnx = pytest.importorskip("onnx", reason="export ONNX : le paquet onnx n'est pas installé")
runtime = pytest.importorskip("onnxruntime", reason="export ONNX : onnxruntime n'est pas installé")

SHAPE = {"vocab_size": 61, "context_length": 16, "emb_dim": 24, "n_heads": 3, "n_layers": 2}
CONFIGS = {
    "gpt2": GPTConfig(**SHAPE, qkv_bias=True, tie_weights=True),
    "livre": GPTConfig(**SHAPE),
    "livre-avec-biais": GPTConfig(**{**SHAPE, "n_heads": 1, "n_layers": 1}, qkv_bias=True),
}
VOCABULARY = {"name": "char", "vocab": [chr(0x4E00 + index) for index in range(61)]}
METADATA = {"name": "Essai accentué", "window": 8, "train_losses": [1.0]}


def content(config=CONFIGS["livre"]):
    """Un fichier de modèle aux poids tous différents de leurs valeurs initiales."""
    state = random_model(config).state_dict()
    return ModelFile(config=config, state_dict=state, tokenizer=VOCABULARY, metadata=METADATA)


def session(path):
    """Une session d'un seul fil."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def ids(shape, size=61):
    """Identifiants (B, T) int64."""
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(1))


def check_same(path, file):
    """Mêmes logits que le modèle, à plusieurs formes."""
    onnx.checker.check_model(str(path), full_check=True)
    run, model = session(path), file.build()
    for shape in [(1, 1), (1, 16), (3, 7), (2, 16)]:
        (found,) = run.run(["logits"], {"input_ids": ids(shape).numpy()})
        with torch.no_grad():
            expected = model(ids(shape)).numpy()
        assert found.dtype == np.float32
        assert expected.std() > 0.1  # des logits plats ne prouveraient rien
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name, tmp_path):
    path = tmp_path / "dossier" / "modèle.onnx"
    export_onnx(content(CONFIGS[name]), path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    check_same(path, content(CONFIGS[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_cache(name, tmp_path):
    """Lire en trois fois, par morceaux de longueurs différentes, ou d'un coup : même résultat."""
    config = CONFIGS[name]
    path = tmp_path / "m.onnx"
    export_onnx(content(config), path, cache=True)
    onnx.checker.check_model(str(path), full_check=True)
    run, model = session(path), content(config).build()
    tokens = ids((2, 16))
    empty = np.zeros((2, config.n_heads, 0, config.head_dim), dtype=np.float32)
    names = [each.name for each in run.get_inputs()]
    assert names[:3] == ["input_ids", "attention_mask", "position_ids"]
    past = dict.fromkeys(names[3:], empty)
    assert len(past) == 2 * config.n_layers
    found, start = [], 0
    for chunk in tokens.split([9, 1, 6], dim=1):
        end = start + chunk.size(1)
        given = {
            "input_ids": chunk.numpy(),
            "attention_mask": np.ones((2, end), dtype=np.int64),
            "position_ids": np.arange(start, end)[None].repeat(2, axis=0),
        }
        start = end
        outputs = run.run(None, {**given, **past})
        named = dict(zip((each.name for each in run.get_outputs()), outputs, strict=True))
        found.append(named.pop("logits"))
        past = {name.replace("present", "past_key_values"): value for name, value in named.items()}
    with torch.no_grad():
        expected = model(tokens).numpy()
    np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=0, atol=1e-5)


def test_padding_on_the_left_changes_nothing(tmp_path):
    """Un lot de longueurs différentes, comme optimum le donne : chaque suite est la sienne."""
    export_onnx(content(CONFIGS["gpt2"]), tmp_path / "m.onnx", cache=True)
    run, model = session(tmp_path / "m.onnx"), content(CONFIGS["gpt2"]).build()
    config, lengths, total = CONFIGS["gpt2"], (3, 7, 1), 7
    tokens = ids((3, total))
    mask = np.array([[0] * (total - n) + [1] * n for n in lengths])
    empty = np.zeros((3, config.n_heads, 0, config.head_dim), dtype=np.float32)
    given = {
        "input_ids": tokens.numpy(),
        "attention_mask": mask,
        "position_ids": np.where(mask == 0, 1, mask.cumsum(axis=-1) - 1),
        **dict.fromkeys([each.name for each in run.get_inputs()][3:], empty),
    }
    logits, *present = run.run(None, given)
    assert all(np.isfinite(each).all() for each in (logits, *present))
    for row, length in enumerate(lengths):
        with torch.no_grad():
            expected = model(tokens[row : row + 1, total - length :]).numpy()
        np.testing.assert_allclose(logits[row, total - length :], expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "livre"])
def test_large_weights_lie_beside(name, tmp_path):
    """Au-delà de la limite, un second fichier ; sa copie suit le premier d'un dossier à l'autre."""
    path = tmp_path / "m.onnx"
    export_onnx(content(CONFIGS[name]), path, inline_limit=0)
    files = sorted(each.name for each in tmp_path.iterdir() if each.is_file())
    assert files == ["m.onnx", "m.onnx.data"]
    check_same(path, content(CONFIGS[name]))
    moved = tmp_path / "ailleurs"
    moved.mkdir()
    for each in ("m.onnx", "m.onnx.data"):
        (tmp_path / each).rename(moved / each)
    check_same(moved / "m.onnx", content(CONFIGS[name]))


def test_weights_beside_leave_with_the_next_export(tmp_path):
    path = tmp_path / "m.onnx"
    export_onnx(content(), path, inline_limit=0)
    export_onnx(content(), path)
    assert not (tmp_path / "m.onnx.data").exists()
    check_same(path, content())


def test_a_tied_head_is_written_once(tmp_path):
    sizes = {}
    for name in ("gpt2", "livre"):
        export_onnx(content(CONFIGS[name]), tmp_path / f"{name}.onnx")
        names = {each.name for each in onnx.load(tmp_path / f"{name}.onnx").graph.initializer}
        sizes[name] = names & {"tok_emb.weight", "out_head.weight"}
    assert sizes == {"gpt2": {"tok_emb.weight"}, "livre": {"tok_emb.weight", "out_head.weight"}}


def test_the_file_says_what_it_is(tmp_path):
    export_onnx(content(), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    assert {each.key: each.value for each in model.metadata_props} == {
        "tokenizer": "char",
        "context_length": "16",
        "name": "Essai accentué",
        "window": "8",
    }
    run = session(tmp_path / "m.onnx")
    (entry,), (exit_,) = run.get_inputs(), run.get_outputs()
    assert (entry.name, entry.type, entry.shape) == (
        "input_ids",
        "tensor(int64)",
        ["batch", "time"],
    )
    assert (exit_.name, exit_.shape) == ("logits", ["batch", "time", 61])


def test_beyond_the_context_is_an_error(tmp_path):
    """Une position que le modèle n'a pas fait échouer l'appel, sans valeur inventée."""
    export_onnx(content(), tmp_path / "m.onnx")
    run = session(tmp_path / "m.onnx")
    with pytest.raises(Exception, match="out of data bounds"):
        run.run(None, {"input_ids": ids((1, 17)).numpy()})


def test_half_precision_weights_are_written_in_fp32(tmp_path):
    file = content()
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in file.state_dict.items()}
    wide = {name: tensor.float() for name, tensor in halves.items()}
    export_onnx(ModelFile(config=file.config, state_dict=halves, tokenizer={}), tmp_path / "m.onnx")
    check_same(tmp_path / "m.onnx", ModelFile(config=file.config, state_dict=wide, tokenizer={}))


@pytest.mark.parametrize("limit", [0, 10**9])
def test_a_refused_write_leaves_nothing(limit, tmp_path):
    path = tmp_path / "dossier" / "m.onnx"
    path.mkdir(parents=True)
    with pytest.raises(OutputError, match="impossible d'écrire"):
        export_onnx(content(), path, inline_limit=limit)
    assert list(path.parent.iterdir()) == [path]


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingDependencyError, match="pip install onnx"):
        export_onnx(content(), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
