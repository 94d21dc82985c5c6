"""Un fichier GGUF relu : les poids que llama.cpp y voit, ceux d'autrui compris, ou un refus."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from ggml_helpers import ggml_quantize, spread
from interop_helpers import BOOK, GPT2, content, ids, logits, tokenizer

from gpt_architecture import load
from gpt_architecture.api import open_model, read_any
from gpt_architecture.data.tokenizer import GPT2Tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.errors import GPTArchitectureError, ModelFileError, TokenizerError
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.gguf import export_gguf
from gpt_architecture.interop.gguf_read import READABLE, read_gguf

gguf = pytest.importorskip("gguf", reason="relire un fichier GGUF")

WIDE = {"emb_dim": 256, "n_heads": 2, "n_layers": 1}


def write(path, file, *, kinds=None, drop=(), fields=None, tensors=None):
    """Écrit par le seul paquet gguf un GPT-2 comme en font d'autres programmes.

    `kinds` dit le type des matrices, `drop` les clés à taire, `fields` celles à changer, `tensors`
    les tenseurs à ajouter ou à remplacer.
    """
    export_gguf(file, path)
    reader = gguf.GGUFReader(path)
    arrays = {each.name: np.array(each.data) for each in reader.tensors} | (tensors or {})
    values = {name: field for name, field in reader.fields.items() if name not in drop}
    told = {"general.architecture": "gpt2", **(fields or {})}
    writer = gguf.GGUFWriter(path, told["general.architecture"])
    for name, field in values.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, told.pop(name, field.contents()), kind, sub_type=inner)
    for name, value in told.items():
        if name != "general.architecture":
            writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for name, array in arrays.items():
        kind = kinds if array.ndim == 2 and "position" not in name else None
        if kind is None or kind == "F32":
            writer.add_tensor(name, array)
            continue
        kind = gguf.GGMLQuantizationType[kind]
        if kind.name == "BF16":
            packed = gguf.quants.quantize(array, kind)
        else:
            packed = ggml_quantize(array, kind)
        shape = None if packed.dtype == np.uint8 else array.shape
        writer.add_tensor(name, packed, raw_shape=shape and packed.shape, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("config", [GPT2, BOOK], ids=["gpt2", "livre"])
def test_what_we_wrote_comes_back(config, tmp_path):
    """Poids exacts ; les lignes sans texte et les positions non apprises n'y étaient pas."""
    original = content(config, window=24, name="Fables", license="mit")
    export_gguf(original, tmp_path / "m.gguf")
    found = read_gguf(str(tmp_path / "m.gguf"))
    assert found.config == replace(
        config, vocab_size=290, context_length=24, qkv_bias=True, drop_rate=0.1
    )
    assert found.tokenizer == original.tokenizer
    assert found.metadata == {
        "name": "Fables",
        "license": "mit",
        "origin": "gguf",
        "window": 24,
    }
    tokens = ids() % 290
    expected = logits(original.build(), tokens)[..., :290]
    torch.testing.assert_close(logits(found.build(), tokens), expected, rtol=0, atol=1e-6)
    export_gguf(found, tmp_path / "n.gguf")
    assert (tmp_path / "n.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


@pytest.mark.parametrize("kind", sorted(READABLE - {"F32"}))
def test_every_type(kind, tmp_path):
    """Chaque poids est la valeur que la définition du type donne à ses octets."""
    file = content(replace(GPT2, **WIDE, context_length=8))
    write(tmp_path / "m.gguf", file, kinds=kind)
    reader = {each.name: each for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert reader["blk.0.ffn_up.weight"].tensor_type.name == kind
    found = read_gguf(tmp_path / "m.gguf").state_dict
    for ours, theirs in (
        ("trf_blocks.0.ff.layers.0.weight", "blk.0.ffn_up.weight"),
        ("tok_emb.weight", "token_embd.weight"),
    ):
        exact = file.state_dict[ours][: len(found[ours])]
        rough = {"Q2": 0.5, "Q3": 0.25, "Q4": 0.12}.get(kind[:2], 0.06)
        error = (found[ours] - exact).abs().mean() / exact.abs().mean()
        assert 0 < error < rough, theirs
    assert torch.equal(found["pos_emb.weight"], file.state_dict["pos_emb.weight"])


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0"])
def test_a_block_by_hand(kind):
    """Un bloc relu selon sa définition, écrite ici : échelles, minimums, codes."""
    matrix = spread(3, 256)
    kind = gguf.GGMLQuantizationType[kind]
    packed = ggml_quantize(matrix, kind)
    expected = np.stack([BY_HAND[kind.name](row) for row in packed])
    np.testing.assert_allclose(gguf.quants.dequantize(packed, kind), expected, rtol=1e-6, atol=1e-7)


def half(data):
    return float(np.frombuffer(bytes(data), dtype=np.float16)[0])


def six_bits(scales, group):
    """L'échelle et le minimum d'un groupe, parmi douze octets."""
    if group < 4:
        return scales[group] & 63, scales[group + 4] & 63
    high = scales[group - 4] >> 6, scales[group] >> 6
    return scales[group + 4] & 15 | high[0] << 4, scales[group + 4] >> 4 | high[1] << 4


def q45(row, bits):
    row = row.tolist()
    d, low, scales = half(row[:2]), half(row[2:4]), row[4:16]
    high, codes = (row[16:48], row[48:]) if bits == 5 else ([0] * 32, row[16:])
    values = []
    for group in range(8):
        scale, floor = six_bits(scales, group)
        for index in range(32):
            code = codes[group // 2 * 32 + index] >> 4 * (group % 2) & 15
            code |= (high[index] >> group & 1) << 4
            values.append(d * scale * code - low * floor)
    return values


def q6(row):
    low, high, scales, d = row[:128], row[128:192], row[192:208].view(np.int8), half(row[208:])
    values = []
    for index in range(256):
        part, rest = divmod(index, 128)
        quarter, place = divmod(rest, 32)
        code = int(low[part * 64 + 32 * (quarter % 2) + place]) >> 4 * (quarter // 2) & 15
        code |= (int(high[part * 32 + place]) >> 2 * quarter & 3) << 4
        values.append(d * int(scales[index // 16]) * (code - 32))
    return values


def q8(row):
    return [half(b[:2]) * int(v) for b in row.reshape(-1, 34) for v in b[2:].view(np.int8)]


def q4_0(row):
    blocks = [(half(b[:2]), b[2:].tolist()) for b in row.reshape(-1, 18)]
    return [d * (v - 8) for d, b in blocks for v in [x & 15 for x in b] + [x >> 4 for x in b]]


BY_HAND = {
    "Q4_K": lambda row: q45(row, 4),
    "Q5_K": lambda row: q45(row, 5),
    "Q6_K": q6,
    "Q8_0": q8,
    "Q4_0": q4_0,
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_it_writes_what_llama_cpp_writes(dtype, tmp_path):
    """Le fichier relu ici, et par llama.cpp : les mêmes tokens."""
    from llama_helpers import llama

    file = content(GPT2)
    with torch.no_grad():
        file.state_dict["pos_emb.weight"].mul_(4)
    export_gguf(file, tmp_path / "m.gguf", dtype=dtype)
    prompt = "Le passeur leva"
    gpt = load(tmp_path / "m.gguf", engine="torch")
    mine = [piece.token for piece in gpt.pieces(prompt, max_tokens=12) if piece.token is not None]
    with llama(tmp_path / "m.gguf") as peer:
        assert peer.greedy(prompt, 12, ignore_eos=False)[0][: len(mine)] == mine
    assert len(mine) > 3


class TestOthers:
    """Des fichiers comme en écrivent d'autres programmes."""

    def test_without_the_name_of_the_split(self, tmp_path, caplog):
        """Avant avril 2024, `tokenizer.ggml.pre` n'existait pas."""
        write(tmp_path / "m.gguf", content(GPT2), drop=("tokenizer.ggml.pre",))
        found = read_gguf(tmp_path / "m.gguf")
        assert found.tokenizer == content(GPT2).tokenizer
        assert "découpage" in caplog.text

    def test_padding_tokens_have_no_text(self, tmp_path):
        """Des tokens « inutilisés » à la fin : le modèle a leurs lignes, non le vocabulaire."""
        file = content(replace(GPT2, vocab_size=290))
        export_gguf(file, tmp_path / "m.gguf")
        values = gguf.GGUFReader(tmp_path / "m.gguf").fields
        tokens = values["tokenizer.ggml.tokens"].contents() + [f"[PAD {n}]" for n in range(3)]
        kinds = values["tokenizer.ggml.token_type"].contents() + [5] * 3
        rows = np.pad(file.state_dict["tok_emb.weight"].numpy(), ((0, 3), (0, 0)))
        write(
            tmp_path / "m.gguf",
            file,
            fields={"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds},
            tensors={"token_embd.weight": rows},
        )
        found = read_gguf(tmp_path / "m.gguf")
        assert found.config.vocab_size == 293
        assert found.tokenizer == file.tokenizer

    def test_its_roles_are_kept(self, tmp_path):
        special = ("<|endoftext|>", "<|debut|>", "<|fin|>")
        text = "Le passeur leva la lampe deux fois. " * 9
        mine = BPETokenizer.train([text], 280, special=special)
        mine = BPETokenizer(
            mine.to_dict()["vocab"],
            mine.to_dict()["merges"],
            special=special,
            roles={"eos_token": "<|fin|>", "bos_token": "<|debut|>"},
        )
        config = replace(GPT2, vocab_size=mine.vocab_size)
        file = replace(content(GPT2), config=config, tokenizer=mine.to_dict())
        file = replace(file, state_dict=content(config).state_dict)
        export_gguf(file, tmp_path / "m.gguf")
        found = tokenizer_from_dict(read_gguf(tmp_path / "m.gguf").tokenizer)
        assert (found.eos_id, found.special) == (mine.eos_id, mine.special)
        assert found.roles == mine.roles

    def test_the_vocabulary_of_gpt2_is_recognised(self, tmp_path):
        mine = GPT2Tokenizer()
        config = replace(GPT2, vocab_size=mine.vocab_size, n_layers=1, emb_dim=6)
        file = replace(content(config), tokenizer=mine.to_dict())
        export_gguf(file, tmp_path / "m.gguf")
        assert read_gguf(tmp_path / "m.gguf").tokenizer == {"name": "gpt2"}

    def test_its_chat_template(self, tmp_path):
        template = "{% for m in messages %}{{ m.content }}{% endfor %}"
        export_gguf(content(GPT2, chat_template=template), tmp_path / "m.gguf")
        assert read_gguf(tmp_path / "m.gguf").metadata["chat_template"] == template

    def test_another_vocabulary_can_be_given(self, tmp_path):
        write(tmp_path / "m.gguf", content(GPT2), fields={"tokenizer.ggml.pre": "qwen2"})
        found = read_any(tmp_path / "m.gguf", tokenizer=tokenizer())
        assert found.tokenizer == tokenizer().to_dict()


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"fields": {"general.architecture": "llama"}}, "architecture 'llama'.*gpt2"),
            ({"drop": ("gpt2.block_count",)}, "n'a pas de clé gpt2.block_count"),
            ({"fields": {"gpt2.attention.head_count": 7}}, "des tailles absurdes"),
            ({"fields": {"gpt2.block_count": 300}}, "blocs annoncés"),
            ({"fields": {"split.count": 3}}, "morceau d'un modèle.*llama-gguf-split"),
            ({"tensors": {"rope_freqs.weight": np.ones(3, np.float32)}}, "en trop rope_freqs"),
            ({"tensors": {"output_norm.bias": np.ones(3, np.float32)}}, r"forme \(3,\) au lieu"),
            ({"tensors": {"blk.0.attn_qkv.bias": np.ones(4, np.float32)}}, "forme|manque"),
        ],
    )
    def test_of_the_model(self, changes, words, tmp_path):
        write(tmp_path / "m.gguf", content(GPT2), **changes)
        with pytest.raises(ModelFileError, match=words) as refusal:
            read_gguf(tmp_path / "m.gguf")
        assert "\n" not in str(refusal.value)

    def test_of_nested_lists(self, tmp_path):
        """Une liste dans une liste : gguf recopierait tout à chaque étage."""
        header = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"a"
        one = struct.pack("<IQ", 9, 1)  # une liste d'une liste
        for depth, words in ((0, "architecture"), (1, "démesuré"), (400, "démesuré")):
            values = struct.pack("<I", 9) + one * depth + struct.pack("<IQI", 4, 1, 7)
            (tmp_path / "m.gguf").write_bytes(header + values)
            with pytest.raises(ModelFileError, match=words):
                read_gguf(tmp_path / "m.gguf")

    def test_of_an_unknown_type(self, tmp_path):
        write(tmp_path / "m.gguf", content(replace(GPT2, **WIDE)), kinds="IQ4_NL")
        assert open_model(tmp_path / "m.gguf").config is not None  # se décrit encore
        with pytest.raises(ModelFileError, match=r"token_embd\.weight en IQ4_NL \(attendu : BF16"):
            read_gguf(tmp_path / "m.gguf")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"tokenizer.ggml.model": "llama"}, "vocabulaire 'llama'"),
            ({"tokenizer.ggml.merges": ["ab"]}, r"m\.gguf a un vocabulaire illisible \(fusion"),
            ({"tokenizer.ggml.pre": "qwen2"}, "découpage 'qwen2'.*dbrx ou gpt-2.*`tokenizer`"),
        ],
    )
    def test_of_the_vocabulary(self, changes, words, tmp_path):
        write(tmp_path / "m.gguf", content(GPT2), fields=changes)
        with pytest.raises(TokenizerError, match=words):
            read_gguf(tmp_path / "m.gguf")

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.9999])
    def test_of_a_truncated_file(self, share, tmp_path):
        export_gguf(content(GPT2), tmp_path / "m.gguf")
        whole = (tmp_path / "m.gguf").read_bytes()
        (tmp_path / "m.gguf").write_bytes(whole[: max(4, int(share * len(whole)))])
        with pytest.raises(ModelFileError, match="en-tête abîmé ou démesuré"):
            read_gguf(tmp_path / "m.gguf")

    def test_of_a_large_endian_file(self, tmp_path):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gpt2", endianess=gguf.GGUFEndian.BIG)
        writer.add_tensor("token_embd.weight", np.ones((3, 4), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(ModelFileError, match="abîmé ou démesuré"):
            read_gguf(tmp_path / "m.gguf")

    def test_of_tensors_that_share_their_bytes(self, tmp_path):
        """Cent tenseurs au même endroit demanderaient cent fois le fichier."""
        path = tmp_path / "m.gguf"
        writer = gguf.GGUFWriter(path, "gpt2")
        for index in range(100):
            writer.add_tensor(f"t{index:02}", np.zeros(4096, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        data = bytearray(path.read_bytes())
        for index in range(100):  # le décalage suit le nom, le rang, la taille et le type
            start = data.index(f"t{index:02}".encode()) + 3 + 4 + 8 + 4
            data[start : start + 8] = bytes(8)
        path.write_bytes(bytes(data) + bytes(5 * 4096))
        with pytest.raises(ModelFileError, match="démesuré"):
            read_gguf(path)

    @pytest.mark.slow
    def test_of_flipped_bytes(self, tmp_path):
        """Trois cents fichiers dont quelques octets d'en-tête ont changé : lus, ou refusés."""
        small = content(replace(GPT2, n_layers=1, emb_dim=6, context_length=8))
        export_gguf(small, tmp_path / "m.gguf")
        whole = (tmp_path / "m.gguf").read_bytes()
        header = whole.index(b"tokenizer.ggml.tokens")
        start = whole.index(b"token_embd.weight")
        places = [*range(header), *range(start - 40, len(whole) - 6000)]
        rng, refused = np.random.default_rng(1), []
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                data[rng.choice(places)] = int(rng.choice((0, 1, 2, 127, 128, 255)))
            (tmp_path / "x.gguf").write_bytes(data)
            try:
                assert isinstance(read_gguf(tmp_path / "x.gguf"), ModelFile)
            except GPTArchitectureError as error:
                refused.append(str(error))
        assert 100 < len(refused) < 300
        assert not any("\n" in each for each in refused)
