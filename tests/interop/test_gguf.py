"""Le fichier GGUF : llama.cpp code comme nous et écrit la même suite.

Formes : B lot, T tokens, D largeur.
"""

import sys

import numpy as np
import pytest
import torch
from conftest import FRENCH_TEXT
from ggml_helpers import ggml_quantize
from llama_helpers import llama
from parity_helpers import random_model

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizer import (
    GPT2Tokenizer,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
    tokenizer_from_dict,
)
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
    TokenizerError,
)
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.gguf import export_gguf

gguf = pytest.importorskip("gguf", reason="export GGUF : le paquet gguf n'est pas installé")

SHAPE = {"context_length": 64, "emb_dim": 32, "n_heads": 2, "n_layers": 2}
MODES = {
    "gpt2": {"qkv_bias": True, "tie_weights": True},
    "livre": {},
    "livre-avec-biais": {"qkv_bias": True},
}
HARD_TEXT = (
    "L'été, où naît l'œuvre ? « C'est ça ! » dit-il…\n\n\tÀ 12345 km : 50 % d'ÉLÈVES, aujourd’hui"
    "\u00a0! naïve\u202f; L'HOMME I'LL dON'T x=1+2\r\n  fin  \n 😀 日本 e\u0301 [PAD 3]"
)
PROMPT = "Le passeur leva la lampe"


def content(tokenizer, *, padding=0, end=0.0, metadata=None, **mode):
    """Un fichier de modèle aux poids tous différents de leurs valeurs initiales.

    `end` multiplie le logit de la fin de texte : à zéro, elle ne vient pas.
    """
    config = GPTConfig(vocab_size=tokenizer.vocab_size + padding, **{**SHAPE, **mode})
    model = random_model(config)
    with torch.no_grad():
        model.pos_emb.weight.mul_(4)  # sans quoi la suite tourne en rond
        model.out_head.weight[tokenizer.vocab_size :] *= 10  # un token sans texte l'emporterait
        model.out_head.weight[tokenizer.eos_id] *= end
    return ModelFile(
        config=config,
        state_dict=model.state_dict(),
        tokenizer=tokenizer.to_dict(),
        metadata=metadata or {},
    )


def greedy(file, prompt, count):
    """Notre suite gloutonne : (identifiants, texte)."""
    generator = Generator(
        file.build(), tokenizer_from_dict(file.tokenizer), window=file.metadata.get("window")
    )
    config = GenerationConfig(strategy="greedy", max_tokens=count)
    pieces = list(generator.stream(prompt, config))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    return tokens, "".join(piece.text for piece in pieces)


def read(path):
    """(valeur de chaque clé, tenseur de chaque nom)."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: tensor for tensor in reader.tensors}


@pytest.fixture
def bpe():
    """Un petit vocabulaire à soi, appris sur du français."""
    return BPETokenizer.from_text(FRENCH_TEXT, 300)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [0, 7])
def test_same_continuation(mode, padding, bpe, tmp_path):
    """De l'invite en texte à la suite en texte, jusqu'au bout du contexte."""
    file = content(bpe, padding=padding, **MODES[mode])
    export_gguf(file, tmp_path / "dossier" / "m.gguf")
    assert list((tmp_path / "dossier").iterdir()) == [tmp_path / "dossier" / "m.gguf"]
    count = 64 - len(bpe.encode(PROMPT))
    tokens, text = greedy(file, PROMPT, count)
    assert len(set(tokens)) > 10  # une boucle ne prouverait rien
    with llama(tmp_path / "dossier" / "m.gguf") as peer:
        assert peer.greedy(PROMPT, count) == (tokens, text)


@pytest.mark.slow
def test_gpt2_vocabulary(tmp_path):
    tokenizer = GPT2Tokenizer()
    file = content(tokenizer, padding=47, n_layers=1, **MODES["gpt2"])
    export_gguf(file, tmp_path / "m.gguf")
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.encode(HARD_TEXT) == tokenizer.encode(HARD_TEXT)
        assert peer.greedy(PROMPT, 20) == greedy(file, PROMPT, 20)


@pytest.mark.parametrize("pattern", ["gpt2", "moderne"])
def test_own_vocabulary_splits_as_here(pattern, tmp_path):
    """Accents, espaces insécables, chiffres, fins de ligne, émojis, accents combinants."""
    tokenizer = BPETokenizer.from_text(FRENCH_TEXT + 3 * HARD_TEXT, 400, pattern=pattern)
    export_gguf(content(tokenizer), tmp_path / "m.gguf")
    with llama(tmp_path / "m.gguf") as peer:
        for text in (HARD_TEXT, FRENCH_TEXT, " ", "\n\n", ""):
            assert peer.encode(text) == tokenizer.encode(text)
        assert peer.decode(tokenizer.encode(FRENCH_TEXT)) == FRENCH_TEXT


def test_end_of_text_ends_both(bpe, tmp_path):
    file = content(bpe, end=3.0)
    export_gguf(file, tmp_path / "m.gguf")
    tokens, text = greedy(file, PROMPT, 40)
    assert 0 < len(tokens) < 40
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.greedy(PROMPT, 40, ignore_eos=False) == (tokens, text)


def test_learned_positions_only(bpe, tmp_path):
    """Le contexte annoncé est celui des fenêtres de l'entraînement ; llama.cpp s'y tient."""
    file = content(bpe, metadata={"window": 40})
    export_gguf(file, tmp_path / "m.gguf")
    fields, tensors = read(tmp_path / "m.gguf")
    assert fields["gpt2.context_length"] == 40
    expected = file.state_dict["pos_emb.weight"][:40].numpy()
    np.testing.assert_array_equal(tensors["position_embd.weight"].data, expected)
    count = 40 - len(bpe.encode(PROMPT))
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.greedy(PROMPT, count) == greedy(file, PROMPT, count)
        assert len(peer.greedy(PROMPT, count + 10)[0]) <= count + 1  # elle s'arrête là


def test_the_file_says_what_it_is(bpe, tmp_path):
    template = "{% for m in messages %}{{ m.role }} : {{ m.content }}\n{% endfor %}"
    metadata = {
        "name": "La lampe",
        "license": "mit",
        "source": "https://exemple.fr/lampe",
        "chat_template": template,
        "train_losses": [1.0],
        "window": None,
    }
    export_gguf(content(bpe, padding=3, metadata=metadata), tmp_path / "m.gguf")
    fields, tensors = read(tmp_path / "m.gguf")
    shape = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "La lampe",
        "general.license": "mit",
        "general.source.url": "https://exemple.fr/lampe",
        "general.file_type": 0,
        "gpt2.context_length": 64,
        "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 128,
        "gpt2.block_count": 2,
        "gpt2.attention.head_count": 2,
        "gpt2.vocab_size": bpe.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": bpe.eos_id,
        "tokenizer.ggml.eos_token_id": bpe.eos_id,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": template,
    }
    assert {key: fields[key] for key in shape} == shape
    assert fields["tokenizer.ggml.tokens"] == bpe.to_dict()["vocab"]
    assert fields["tokenizer.ggml.merges"] == bpe.to_dict()["merges"]
    types = fields["tokenizer.ggml.token_type"]
    assert [index for index, each in enumerate(types) if each == gguf.TokenType.CONTROL] == [
        bpe.eos_id
    ]
    assert tensors["output.weight"].data.shape == (bpe.vocab_size, 32)
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.chat([{"role": "moi", "content": "Salut"}]) == "moi : Salut\n"


def test_the_name_is_the_file_s_by_default(bpe, tmp_path):
    export_gguf(content(bpe), tmp_path / "ma-lampe.gguf")
    fields, _ = read(tmp_path / "ma-lampe.gguf")
    assert fields["general.name"] == "ma-lampe"
    assert not {"general.license", "general.source.url", "tokenizer.chat_template"} & set(fields)


def test_a_tied_head_is_written_once(bpe, tmp_path):
    for mode in ("gpt2", "livre"):
        export_gguf(content(bpe, **MODES[mode]), tmp_path / "m.gguf")
        _, tensors = read(tmp_path / "m.gguf")
        assert ("output.weight" in tensors) == (mode == "livre")


def q8_0(matrix):
    """Q8_0 à la main : par 32 poids, une échelle fp16 puis 32 octets signés, arrondis au loin."""
    rows = []
    for row in matrix:
        octets = b""
        for block in row.reshape(-1, 32):
            scale = np.float32(abs(block).max() / np.float32(127))
            ratio = block * (np.float32(1) / scale if scale else np.float32(0))
            codes = np.trunc(ratio + np.copysign(np.float32(0.5), ratio)).astype(np.int8)
            octets += np.float16(scale).tobytes() + codes.tobytes()
        rows.append(list(octets))
    return np.array(rows, dtype=np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["gpt2", "livre"])
def test_q8_0(mode, bpe, tmp_path):
    """Les blocs sont ceux de la définition ; relus, ils sont à un demi-pas des poids."""
    file = content(bpe, **MODES[mode])
    with torch.no_grad():
        file.state_dict["tok_emb.weight"][5] = 0.0  # une échelle nulle
    export_gguf(file, tmp_path / "m.gguf", dtype="q8_0")
    export_gguf(file, tmp_path / "f32.gguf")
    fields, found = read(tmp_path / "m.gguf")
    _, exact = read(tmp_path / "f32.gguf")
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    assert list(found) == list(exact)
    for name, tensor in found.items():
        weights = exact[name].data
        if weights.ndim == 1 or name == "position_embd.weight":
            np.testing.assert_array_equal(tensor.data, weights)
            continue
        np.testing.assert_array_equal(tensor.data, q8_0(weights))
        read_again = gguf.quants.dequantize(tensor.data, gguf.GGMLQuantizationType.Q8_0)
        step = abs(weights.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
        error = abs(read_again.reshape(-1, 32) - weights.reshape(-1, 32))
        assert (error <= 0.5 * step + 127 * step / 2**11 + 1e-7).all()  # l'échelle est en fp16
    with llama(tmp_path / "m.gguf") as peer:
        assert len(peer.greedy(PROMPT, 5)[0]) == 5


WIDE = {"emb_dim": 256, "n_heads": 2, "context_length": 16}
BODIES = {"q4_0": "Q4_0", "q4_K_M": "Q4_K", "q5_K_M": "Q5_K", "q6_K": "Q6_K"}
NARROW = {"q4_0": "Q4_0", "q4_K_M": "Q5_0", "q5_K_M": "Q5_1", "q6_K": "Q8_0"}


def kinds_of(path):
    """Le type de chaque matrice, par nom ; le bloc d'abord."""
    return {name: tensor.tensor_type.name for name, tensor in read(path)[1].items()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BODIES)
def test_the_recipes_of_llama_quantize(dtype, bpe, tmp_path):
    """Le type de chaque tenseur : ceux que llama-quantize donne à ce même modèle."""
    n_layers, finer = (
        10,
        {0, 3, 6, 8, 9},
    )  # un huitième, puis un sur trois, puis le dernier huitième
    for mode in ("gpt2", "livre"):
        file = content(bpe, n_layers=n_layers, **WIDE, **MODES[mode])
        export_gguf(file, tmp_path / "m.gguf", dtype=dtype)
        found, body = kinds_of(tmp_path / "m.gguf"), BODIES[dtype]
        assert found["position_embd.weight"] == found["output_norm.weight"] == "F32"
        head, embedding = (
            ("token_embd.weight", None)
            if mode == "gpt2"
            else ("output.weight", "token_embd.weight")
        )
        assert found[head] == "Q6_K"
        assert embedding is None or found[embedding] == body
        more = finer if dtype.endswith("_M") else set()
        for layer in range(n_layers):
            larger = "Q6_K" if layer in more else body
            for name, kind in (
                ("attn_qkv.weight", larger),
                ("ffn_down.weight", larger),
                ("attn_output.weight", body),
                ("ffn_up.weight", body),
                ("attn_qkv.bias", "F32"),
                ("attn_norm.weight", "F32"),
            ):
                assert found[f"blk.{layer}.{name}"] == kind, (layer, name)


@pytest.mark.parametrize("dtype", NARROW)
def test_a_width_that_blocks_of_256_do_not_divide(dtype, bpe, tmp_path):
    """Comme llama-quantize : des blocs de 32, et une tête sur huit bits ; llama.cpp s'en sert."""
    export_gguf(content(bpe, n_layers=1), tmp_path / "m.gguf", dtype=dtype)
    found = kinds_of(tmp_path / "m.gguf")
    assert (found["output.weight"], found["token_embd.weight"]) == ("Q8_0", NARROW[dtype])
    assert found["blk.0.ffn_up.weight"] == NARROW[dtype]
    with llama(tmp_path / "m.gguf") as peer:
        assert len(peer.greedy(PROMPT, 5)[0]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("dtype", BODIES)
def test_the_bytes_of_llama_cpp(dtype, bpe, tmp_path):
    """Chaque tenseur, quantifié par ggml lui-même, a les octets du fichier ; llama.cpp les lit."""
    export_gguf(content(bpe, **WIDE), tmp_path / "m.gguf", dtype=dtype)
    export_gguf(content(bpe, **WIDE), tmp_path / "f32.gguf")
    fields, found = read(tmp_path / "m.gguf")
    assert fields["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{dtype.upper()}"]
    _, exact = read(tmp_path / "f32.gguf")
    for name, tensor in found.items():
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
            expected = ggml_quantize(exact[name].data, tensor.tensor_type)
            np.testing.assert_array_equal(tensor.data, expected)
    with llama(tmp_path / "m.gguf") as peer:
        assert len(peer.greedy(PROMPT[:6], 5)[0]) == 5


def test_f16(bpe, tmp_path):
    file = content(bpe)
    export_gguf(file, tmp_path / "m.gguf", dtype="f16")
    fields, found = read(tmp_path / "m.gguf")
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16
    head = found["output.weight"].data
    assert head.dtype == np.float16
    np.testing.assert_array_equal(head, file.state_dict["out_head.weight"].half().numpy())
    assert found["position_embd.weight"].data.dtype == np.float32
    with llama(tmp_path / "m.gguf") as peer:
        assert len(peer.greedy(PROMPT, 5)[0]) == 5


@pytest.mark.parametrize(
    "tokenizer", [SimpleTokenizerV1.from_text("un deux"), SimpleTokenizerV2.from_text("un deux")]
)
def test_a_word_tokenizer_is_refused(tokenizer, tmp_path):
    file = ModelFile(
        config=GPTConfig(vocab_size=tokenizer.vocab_size, **SHAPE),
        state_dict=random_model(GPTConfig(vocab_size=tokenizer.vocab_size, **SHAPE)).state_dict(),
        tokenizer=tokenizer.to_dict(),
    )
    with pytest.raises(TokenizerError, match=f"{tokenizer.name} n'a pas d'équivalent en GGUF"):
        export_gguf(file, tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_split_llama_cpp_does_not_have_is_refused(tmp_path, monkeypatch):
    from gpt_architecture.interop import gguf

    monkeypatch.delitem(gguf.PRE_TOKENIZERS, "moderne")
    tokenizer = BPETokenizer.from_text(FRENCH_TEXT, 300, pattern="moderne")
    with pytest.raises(TokenizerError, match=r"motif de découpage moderne \(attendu : gpt2\)"):
        export_gguf(content(tokenizer), tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("changes", "options", "error", "words"),
    [
        ({}, {"dtype": "q3_K"}, ConfigurationError, "type GGUF 'q3_K' .*q4_K_M"),
        ({"emb_dim": 24}, {"dtype": "q8_0"}, ConfigurationError, "une largeur multiple de 32"),
        ({"emb_dim": 48}, {"dtype": "q4_K_M"}, ConfigurationError, "une largeur multiple de 32"),
    ],
)
def test_refusals(changes, options, error, words, bpe, tmp_path):
    with pytest.raises(error, match=words):
        export_gguf(content(bpe, **changes), tmp_path / "m.gguf", **options)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_a_weight_beyond_16_bits_is_refused(value, bpe, tmp_path):
    file = content(bpe)
    with torch.no_grad():
        file.state_dict["out_head.weight"][3, 4] = value
    with pytest.raises(ModelFileError, match="16 bits"):
        export_gguf(file, tmp_path / "m.gguf", dtype="f16")
    assert not (tmp_path / "m.gguf").exists()


def test_a_vocabulary_larger_than_the_model_is_refused(bpe, tmp_path):
    file = content(bpe)
    other = GPTConfig(vocab_size=bpe.vocab_size - 1, **SHAPE)
    smaller = ModelFile(
        config=other, state_dict=random_model(other).state_dict(), tokenizer=file.tokenizer
    )
    with pytest.raises(ModelFileError, match="modèle de"):
        export_gguf(smaller, tmp_path / "m.gguf")


def test_a_refused_write_leaves_nothing(bpe, tmp_path):
    path = tmp_path / "dossier" / "m.gguf"
    path.mkdir(parents=True)
    with pytest.raises(OutputError, match="impossible d'écrire"):
        export_gguf(content(bpe), path)
    assert list(path.parent.iterdir()) == [path]


def test_without_the_package(bpe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match="pip install gguf"):
        export_gguf(content(bpe), tmp_path / "m.gguf")
