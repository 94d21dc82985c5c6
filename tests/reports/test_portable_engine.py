"""Le moteur de la page, exécuté par Node : les tokens du modèle quantifié du projet."""

import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from interop_helpers import BOOK, GPT2, content
from portable_helpers import WEB, run_page

from gpt_architecture.core.grouped_codes import Scheme, bits_of, is_matrix, quantize
from gpt_architecture.data.tokenizer import get_tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.simple import (
    CharTokenizer,
    SimpleTokenizerV1,
    SimpleTokenizerV2,
)
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.reports.portable.payload import tokenizer_for_page
from gpt_architecture.serving.context import TokenNames

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node n'est pas installé")

GREEDY = """const found = [];
for (const model of engines) {
  for (const prompt of data) {
    const ids = [...prompt];
    while (ids.length < prompt.length + 24) {
      ids.push(greedy((await model.next(ids)).subarray(0, head.tokenizer.vocab.length)));
    }
    found.push(ids.slice(prompt.length));
  }
}
return found;"""
LOGITS = """const found = [];
for (const model of engines) for (const ids of data) found.push(Array.from(await model.next(ids)));
return found;"""
HOSTILE = [
    "L'été, à Pâques, on dit « naïveté » et tokenization 🙂.",
    "  deux   espaces\n\n\tpuis\r\n fin  ",
    "\u00a0insécable\u202f!\u2003x\u3000y\u0085z\ufeffBOM",
    "I'll DON'T he'S we'Ve 12345 1²³ ½ Ⅷ",
    "!!!\n\n???\r\n---",
    "<|endoftext|></script>",
    "été e\u0301te\u0301 ﬁ ſ 'ſ 한국어 العربية 👨‍👩‍👧",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x\x1cy\x1fz",
    "",
]


def sharpened(config, **changes):
    """Un modèle aléatoire dont les logits se distinguent."""
    found = content(replace(config, **changes))
    weights = found.state_dict.items()
    return replace(
        found, state_dict={name: 4 * each if is_matrix(name) else each for name, each in weights}
    )


def invites(count=12):
    """Des suites d'identifiants de toutes longueurs, plus longues que la fenêtre comprises."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(280, (1 + 3 * rank,), generator=generator).tolist() for rank in range(count)
    ]


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["GPT-2", "livre"])
def test_greedy_ids_are_the_project_s(tmp_path, config, scheme):
    """Les mêmes, par les deux moteurs, au-delà de la fenêtre aussi."""
    file = sharpened(config)
    generator = Generator(pack(file.build(), scheme), tokenizer_from_dict(file.tokenizer))
    settings = GenerationConfig(strategy="greedy", max_tokens=24, ignore_eos=True)
    wanted = [list(found.tokens) for (found,) in generator.generate(invites(), settings)]
    found = run_page(tmp_path, file, GREEDY, invites(), scheme=scheme)
    assert found == wanted + wanted


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_both_engines_have_the_same_bits(tmp_path, scheme):
    """Et ces logits sont ceux du projet : au bit près là où ses sommes ont les mêmes voies."""
    name, reason = "gpt_architecture.kernels.runtime.vector_ir", "numba n'est pas installé"
    lanes = pytest.importorskip(name, reason=reason)
    file = sharpened(GPT2, emb_dim=96, inner_dim=200)
    given = [ids for ids in invites() if len(ids) <= GPT2.context_length]
    found = run_page(tmp_path, file, LOGITS, given, scheme=scheme)
    assert found[: len(given)] == found[len(given) :]
    model, gap = pack(file.build(), scheme), 0.0 if lanes.HAS_AVX512 else 5e-2
    for ids, logits in zip(given, found, strict=False):
        expected = model(torch.tensor([ids]))[0, -1]
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=gap)


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu", "relu"])
def test_every_activation(tmp_path, activation):
    file = sharpened(GPT2, activation=activation, norm_eps=1e-4)
    (logits, _) = run_page(tmp_path, file, LOGITS, [[5, 6, 7]])
    expected = pack(file.build(), "int8")(torch.tensor([[5, 6, 7]]))[0, -1]
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=2e-2)


def test_the_attention_is_the_quantized_model_s(tmp_path):
    """Chaque ligne de chaque tête, de somme 1."""
    file = content(GPT2)
    program = """const found = [];
await engines[0].next(data, { seen: (layer, head, weights) => found.push(Array.from(weights)) });
return found;"""
    ids = [4, 8, 15, 16, 23]
    rows = run_page(tmp_path, file, program, ids)
    expected = attention_of(pack(file.build(), "int8").dequantize(), ids)
    rank = 0
    for token in range(len(ids)):
        for layer in range(GPT2.n_layers):
            for head in range(GPT2.n_heads):
                wanted = expected[layer, head, token, : token + 1].numpy()
                np.testing.assert_allclose(rows[rank], wanted, atol=2e-2)
                rank += 1
    assert rank == len(rows)


def test_the_weights_are_the_quantizer_s(tmp_path):
    """Chaque code déplié de la page, fois son échelle : les poids du modèle quantifié."""
    file = sharpened(BOOK)
    program = """const model = engines[1];
return Object.entries(model.matrices).map(([name, { codes, scales, padded, groups, rows }]) =>
  [name, Array.from({ length: rows }, (_, row) => Array.from({ length: padded }, (_, j) =>
    model.heap.bytes[codes + row * padded + j] * model.heap.floats[scales / 4
      + (row - row % 4) * groups + row % 4 + 4 * Math.floor(j / model.size)]))]);"""
    found = dict(run_page(tmp_path, file, program, scheme="int4"))
    weights = pack(file.build(), "int4").dequantize().state_dict()
    for name, rows in found.items():
        wanted = weights[f"{name}.weight"].numpy()
        np.testing.assert_array_equal(np.float32(rows)[:, : wanted.shape[1]], wanted)
    scheme = Scheme(name="int4")
    assert {
        quantize(weights["out_head.weight"], scheme, bits=bits_of("out_head", scheme)).bits
    } == {6}


def near_ties():
    """(a, b, c) dont la somme tombe, en fp64, au milieu de deux fp32, sans y être exactement."""
    ulp = 2.0**-23
    halves = [(1 + ulp, sign * 2.0**-24 * (1 - ulp)) for sign in (1, -1)]
    exact = [(1.0, sign * 2.0**-24) for sign in (1, -1)]
    starts = [sign * (1 + rank * ulp) for rank in range(9) for sign in (1, -1)]
    found = [(a, b, c) for a, b in halves + exact for c in starts]
    generator = np.random.default_rng(0)
    return found + generator.standard_normal((2000, 3)).astype(np.float32).tolist()


def rounded_once(a, b, c):
    """fp32(a · b + c), par des fractions."""
    wanted = Fraction(a) * Fraction(b) + Fraction(c)
    near = np.float32(float(wanted))
    sides = [np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)]

    def key(each):
        return abs(Fraction(float(each)) - wanted), int(each.view(np.int32)) & 1

    return float(min([near, *sides], key=key))


def test_products_and_sums_are_rounded_once(tmp_path):
    """Comme une machine qui les fond, au milieu de deux fp32 aussi."""
    cases = near_ties()
    found = run_page(tmp_path, content(GPT2), "return data.map((each) => fused(...each));", cases)
    wanted = [rounded_once(*case) for case in cases]
    assert found == wanted
    naive = [float(np.float32(a * b + c)) for a, b, c in cases]
    assert naive != wanted  # l'épreuve distingue


def test_the_compiled_product_rounds_once_too(tmp_path):
    """Deux groupes, dont le second met la somme presque au milieu : les mêmes bits que fused."""
    ties = [
        (total, factor)
        for total in range(3, 32767, 2)
        if 0 < abs(total * (factor := round(2**37 / total)) - 2**37) < 2**6 and factor < 2**24
    ][:8]
    assert len(ties) == 8
    program = """const found = [];
for (const [total, factor] of data) for (const model of engines) for (const odd of [0, 1, 2, 3]) {
  const { bytes, words, floats } = model.heap;
  const { x, factors, out } = model.at;
  const [codes, scales] = [model.matrices.out_head.codes, model.matrices.out_head.scales];
  bytes.fill(0, codes, codes + 4 * 64);
  words.fill(0, x / 2, x / 2 + 64);
  for (let half = 0; half < 8; half += 1) bytes[codes + 32 * half] = 1;
  [words[x / 2], words[x / 2 + 32]] = [1, total];
  floats.fill(1, scales / 4, scales / 4 + 8);
  floats[factors / 4] = 1 + odd * 2 ** -23;
  floats[factors / 4 + 1] = factor * 2 ** -61;
  model.multiply(codes, scales, x, factors, out, 1, 2, 32);
  const rows = floats.subarray(out / 4, out / 4 + 4);
  found.push([total, factor * 2 ** -61, 1 + odd * 2 ** -23, ...rows]);
}
return found;"""
    found = run_page(tmp_path, sharpened(BOOK), program, ties)
    for a, b, c, *rows in found:
        assert rows == [rounded_once(a, b, c)] * 4
    assert any(float(np.float32(a * b + c)) != rows[0] for a, b, c, *rows in found)


def test_sorted_logits(tmp_path):
    """Décroissants ; ex æquo, le plus petit identifiant d'abord."""
    values = [1.5, -3.0, 1.5, 0.0, 7.25, -3.0, 1e-38, -1e38, 1e38]
    program = """const { ids, values } = ordered(Float32Array.from(data));
return [Array.from(ids), Array.from(values)];"""
    order, found = run_page(tmp_path, content(GPT2), program, values)
    assert order == sorted(range(len(values)), key=lambda each: (-values[each], each))
    np.testing.assert_allclose(found, [values[each] for each in order], rtol=1e-6)


TRAINING = "Le passeur leva la lampe, puis il dit : « L'eau monte ! » Don't WE'LL 2026 été\n\n" * 9


def tokenizers():
    """Chaque genre de vocabulaire."""
    every = " ".join([*HOSTILE, TRAINING])
    return {
        "gpt2": get_tokenizer("gpt2"),
        "bpe": BPETokenizer.from_text(TRAINING, 400),
        "moderne": BPETokenizer.train([TRAINING], 400, pattern="moderne", special=["<|user|>"]),
        "char": CharTokenizer.from_text(every.replace("<|endoftext|>", "<|endoftex>")),
        "simple-v1": SimpleTokenizerV1.from_text(every.replace("<|endoftext|>", "")),
        "simple-v2": SimpleTokenizerV2.from_text(TRAINING),
    }


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "moderne", "char", "simple-v1", "simple-v2"])
def test_every_vocabulary_cuts_and_joins_alike(tmp_path, kind):
    """Mêmes identifiants, même texte, mêmes noms de tokens, sur des textes hostiles."""
    ours = tokenizers()[kind]
    texts = [each for each in HOSTILE if kind != "simple-v1" or "endoftext" not in each]
    program = """const page = tokenizerOf(data.tokenizer);
const cut = data.texts.map(page.encode);
return { cut, joined: cut.map(page.decode), names: data.names.map(page.name), size: page.size };"""
    names = [*range(0, ours.vocab_size, max(1, ours.vocab_size // 300))]
    asked = {"tokenizer": tokenizer_for_page(ours), "texts": texts, "names": names}
    found = run_page(tmp_path, content(GPT2), program, asked)
    cut = [ours.encode(text) for text in texts]
    assert found["cut"] == cut
    assert found["joined"] == [ours.decode(ids) for ids in cut]
    assert found["names"] == [TokenNames(ours).text(token) for token in names]
    assert found["size"] == ours.vocab_size


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (CharTokenizer.from_text("abc"), "abé", ["Caractère inconnu", "U+00E9"]),
        (SimpleTokenizerV1.from_text("un deux"), "un trois", ["Mot inconnu", "trois"]),
    ],
)
def test_an_unknown_piece_is_named(tmp_path, tokenizer, text, words):
    program = """try { tokenizerOf(data.tokenizer).encode(data.text); return ""; }
catch (error) { return error.message; }"""
    asked = {"tokenizer": tokenizer_for_page(tokenizer), "text": text}
    message = run_page(tmp_path, content(GPT2), program, asked)
    assert all(word in message for word in words)


def test_the_compiled_product_is_its_source(tmp_path):
    """products.wasm est ce que donne products.wat."""
    wasmtime = pytest.importorskip("wasmtime", reason="wasmtime n'est pas installé")
    source = (WEB / "products.wat").read_text(encoding="utf-8")
    assert bytes(wasmtime.wat2wasm(source)) == (WEB / "products.wasm").read_bytes()
