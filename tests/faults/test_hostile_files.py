"""Des fichiers qui annoncent plus qu'ils n'ont : refusés d'une phrase, sans rien allouer."""

import io
import json
import pickle
import re
import struct
import zipfile
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interop_helpers import GPT2, content, tokenizer, transformers_folder
from safetensors.torch import load_file, save_file

from gpt_architecture.api import read_any
from gpt_architecture.config import GPTConfig, LoRAConfig
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.errors import GPTArchitectureError, shown
from gpt_architecture.formats.adapter_file import AdapterFile, read_adapter, save_adapter
from gpt_architecture.formats.inspection import inspect_model
from gpt_architecture.formats.model_file import FORMAT, VERSION, read_model
from gpt_architecture.formats.quantized_file import load_quantized, save_quantized
from gpt_architecture.formats.tensor_files import SEAL, SafetensorsFile, read_torch
from gpt_architecture.interop.hf import read_hf
from gpt_architecture.kernels.decode.packed import pack

pytestmark = pytest.mark.timeout(120)
HUGE = 16_000_000
DEEP = "[" * 5_000 + "]" * 5_000
BAD_JSON = [
    DEEP,
    '{"a": ' * 100 + "1" + "}" * 100,
    f'{{"n_embd": {"9" * 5_000}}}',
    '{"lora": {"rank": 1e99}}',
    "{",
    "[]",
    '"é',
]
ABSURD = [2**63, -1, 10**6_000, 1e300, "x" * 10**6, [1] * 10**5]
ENGLISH = re.compile(
    r"\b(the|size|mismatch|storage|error|invalid|expected|exceeds|recursion|header|overflow\w*|"
    r"maximum|failed|not|allocate|cannot|while)\b"
)


def refusal(action):
    """Le refus : une phrase, courte, sans un mot d'anglais hors des noms de tenseurs."""
    with pytest.raises(GPTArchitectureError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    assert not ENGLISH.search(message), message
    return message


def payload(config=None, state=None, **changes):
    """Le contenu d'un gpt-model.pt, à gâter."""
    source = content(GPT2)
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": GPT2.to_dict() | (config or {}),
        "tokenizer": dict(source.tokenizer),
        "metadata": {},
        "state_dict": dict(source.state_dict) | (state or {}),
    } | changes


def saved(path, *arguments, **changes):
    torch.save(payload(*arguments, **changes), path)
    return path


def repeated(rows, width=24):
    """(rows, width) à partir d'une ligne de quelques octets."""
    return torch.ones(1, width).expand(rows, width)


def sliced(rows):
    """(rows, 24) tenseurs qui se recouvrent dans quelques milliers de valeurs."""
    return torch.as_strided(torch.ones(rows + 24), (rows, 24), (1, 1))


BIG = {"vocab_size": HUGE}
TENSORS = {
    "ligne répétée": (BIG, lambda: repeated(HUGE)),
    "valeurs qui se recouvrent": ({"vocab_size": 100_000}, lambda: sliced(100_000)),
    "sans valeurs": (BIG, lambda: torch.empty(HUGE, 24, device="meta")),
    "peu de poids": (BIG, lambda: torch.ones(300, 24)),
    "creux": (BIG, lambda: torch.sparse_coo_tensor(size=(HUGE, 24), check_invariants=True)),
    "entier": ({"vocab_size": 300}, lambda: torch.ones(300, 24, dtype=torch.int64)),
    "complexe": ({"vocab_size": 300}, lambda: torch.ones(300, 24, dtype=torch.complex64)),
    "autre rang": ({"vocab_size": 300}, lambda: torch.ones(300, 24, 1)),
}


class TestModelFile:
    @pytest.mark.slow
    @pytest.mark.parametrize("case", TENSORS.values(), ids=TENSORS)
    def test_tensors_that_are_not_there(self, tmp_path, case, cli):
        config, make = case
        table = make()
        state = {"tok_emb.weight": table, "out_head.weight": table}
        path = saved(tmp_path / "m.pt", config, state)
        assert path.stat().st_size < 2 << 20
        refusal(lambda: read_model(path).build())
        outcome = cli("infer", "--model", path, "--prompt", "Au", "--device", "cpu")
        outcome.check_one_line_error(1)
        assert outcome.out == ""

    def test_a_thousand_tensors_in_one(self, tmp_path):
        """Chacun a bien ses valeurs ; ensemble, ils en annoncent mille fois plus qu'il n'y en a."""
        shared = torch.ones(200_000)
        state = {f"intrus.{index}": shared[index : index + 190_000] for index in range(1_000)}
        message = refusal(lambda: read_model(saved(tmp_path / "m.pt", None, state)))
        assert "bien plus qu'il n'a" in message

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["vocab_size", "context_length", "emb_dim", "n_layers"])
    @pytest.mark.parametrize("value", ABSURD, ids=shown)
    def test_absurd_sizes(self, tmp_path, name, value):
        message = refusal(lambda: read_model(saved(tmp_path / "m.pt", {name: value})))
        assert f"{name} vaut" in message or "objet Python refusé" in message

    @pytest.mark.slow
    @pytest.mark.parametrize("part", ["metadata", "tokenizer", "config"])
    def test_a_description_without_end(self, tmp_path, part):
        endless = {}
        endless["moi"] = endless
        doubled = [1]
        for _ in range(60):
            doubled = [doubled, doubled]
        for value in (endless, {"x": doubled}, {"x": torch.ones(1)}, {"x": b"octets"}):
            message = refusal(
                lambda value=value: read_model(saved(tmp_path / "m.pt", **{part: value}))
            )
            assert "sa description ne se lit pas" in message

    @pytest.mark.parametrize("version", [2**70, torch.ones(3), "1", 10**6_000], ids=shown)
    def test_a_strange_version(self, tmp_path, version):
        refusal(lambda: read_model(saved(tmp_path / "m.pt", version=version)))

    def test_a_storage_larger_than_its_record(self, tmp_path):
        """Le pickle annonce 2 Gio ; l'archive en a 1 600 octets."""
        torch.save({"a": torch.zeros(100, 4)}, tmp_path / "m.pt")
        edits = (
            (b"M\x90\x01t", b"J\xff\xff\xff\x7ft"),
            (b"K\x64K\x04\x86", b"J\x00\x00\x00\x10K\x04\x86"),
        )
        rewrite(tmp_path / "m.pt", edits)
        refusal(lambda: read_torch(tmp_path / "m.pt"))

    @pytest.mark.slow
    def test_a_compressed_archive(self, tmp_path):
        """Quelques Kio en valent des Mio ; PyTorch n'en écrit pas."""
        torch.save({"a": torch.zeros(10**7)}, tmp_path / "m.pt")
        rewrite(tmp_path / "m.pt", (), zipfile.ZIP_DEFLATED)
        assert (tmp_path / "m.pt").stat().st_size < 1 << 20
        refusal(lambda: read_torch(tmp_path / "m.pt"))

    def test_a_legacy_file_that_announces_gibibytes(self, tmp_path):
        path = tmp_path / "m.pt"
        torch.save({"a": torch.zeros(100, 4)}, path, _use_new_zipfile_serialization=False)
        data = path.read_bytes()
        path.write_bytes(data.replace(b"M\x90\x01", b"J\xff\xff\xff\x7f"))
        assert path.read_bytes() != data
        refusal(lambda: read_torch(path))

    def test_a_hundred_thousand_nested_lists(self, tmp_path):
        torch.save({"a": torch.zeros(2)}, tmp_path / "m.pt")
        nested = b"\x80\x02" + b"(" * 10**5 + b"l" * 10**5 + b"."
        rewrite(tmp_path / "m.pt", (), pickled=nested)
        refusal(lambda: read_model(tmp_path / "m.pt"))


def rewrite(path, edits, kind=zipfile.ZIP_STORED, *, pickled=None):
    """Réécrit une archive de PyTorch, son pickle changé."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, data in parts.items():
            if name.endswith("data.pkl"):
                for before, after in edits:
                    assert before in data
                    data = data.replace(before, after)  # noqa: PLW2901
                data = data if pickled is None else pickled  # noqa: PLW2901
            archive.writestr(name, data)
    path.write_bytes(buffer.getvalue())


class TestForeignFiles:
    def test_a_nanogpt_checkpoint(self, tmp_path):
        arguments = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 32, "bias": True}
        theirs = {
            "model_args": {**arguments, "vocab_size": HUGE},
            "model": {"transformer.wte.weight": repeated(HUGE)},
        }
        torch.save(theirs, tmp_path / "ckpt.pt")
        refusal(lambda: read_any(tmp_path / "ckpt.pt", tokenizer=tokenizer()))
        theirs["model_args"]["n_embd"] = 2**63
        torch.save(theirs, tmp_path / "ckpt.pt")
        assert "emb_dim" in refusal(lambda: read_any(tmp_path / "ckpt.pt"))

    def test_a_file_of_the_book(self, tmp_path):
        state = dict(content(GPT2).state_dict) | {"tok_emb.weight": repeated(HUGE)}
        torch.save(state, tmp_path / "m.pth")
        for read in (inspect_model, lambda path: read_any(path, n_heads=3)):
            refusal(lambda read=read: read(tmp_path / "m.pth"))
        long = {f"trf_blocks.{'9' * 5_000}.norm1.scale": torch.ones(24)}
        torch.save(dict(content(GPT2).state_dict) | long, tmp_path / "m.pth")
        refusal(lambda: read_any(tmp_path / "m.pth", n_heads=3))

    @pytest.mark.slow
    @pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_inner"])
    @pytest.mark.parametrize("value", [2**63, 2**40, 10**4_000, "x" * 10**6], ids=shown)
    def test_a_folder_of_transformers(self, tmp_path, key, value):
        transformers_folder(tmp_path)
        path = tmp_path / "config.json"
        document = json.loads(path.read_text("utf-8")) | {key: value}
        path.write_text(json.dumps(document), encoding="utf-8")
        refusal(lambda: read_hf(tmp_path, tokenizer=tokenizer()))

    @pytest.mark.slow
    @pytest.mark.parametrize("text", BAD_JSON, ids=shown)
    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "gpt_architecture.json"])
    def test_hostile_json(self, tmp_path, name, text):
        transformers_folder(tmp_path)
        (tmp_path / name).write_text(text, encoding="utf-8")
        refusal(lambda: read_hf(tmp_path))

    def test_weights_of_transformers_that_are_not_there(self, tmp_path):
        transformers_folder(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").unlink()
        state["transformer.wte.weight"] = repeated(HUGE)
        torch.save(state, tmp_path / "pytorch_model.bin")
        refusal(lambda: read_hf(tmp_path, tokenizer=tokenizer()))

    def test_a_safetensors_header_that_lies(self, tmp_path):
        path = tmp_path / "m.safetensors"
        for header in (
            {"a": {"dtype": "F32", "shape": [HUGE, 24], "data_offsets": [0, HUGE * 96]}},
            {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
            {"a": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 8]}},
            f'{{"__metadata__": {{"x": {DEEP}}}}}',
            f'{{"a": {DEEP}}}',
        ):
            text = (header if isinstance(header, str) else json.dumps(header)).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
            refusal(lambda: SafetensorsFile(path))
            refusal(lambda: read_any(path))


class TestOwnSafetensors:
    """Le modèle quantifié et les adaptateurs tiennent leur description dans les métadonnées."""

    @pytest.fixture
    def quantized(self, tmp_path):
        source, path = content(GPT2), tmp_path / "q.safetensors"
        save_quantized(path, pack(source.build(), "int8"), tokenizer=source.tokenizer)
        return path

    @pytest.fixture
    def adapter(self, tmp_path):
        path = tmp_path / "a.safetensors"
        tensors = {"trf_blocks.0.att.W_query.lora_A": torch.zeros(8, 24)}
        save_adapter(path, AdapterFile(lora=LoRAConfig(), base_sha256="0", tensors=tensors))
        return path

    def told(self, path, **changes):
        """Le même fichier, sans sommes, d'autres métadonnées."""
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            metadata = {key: text for key, text in file.metadata().items() if key != SEAL}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, metadata=metadata | changes)

    @pytest.mark.slow
    @pytest.mark.parametrize("key", ["config", "scheme", "metadata", "tokenizer"])
    @pytest.mark.parametrize("text", BAD_JSON, ids=shown)
    def test_quantized(self, quantized, key, text):
        self.told(quantized, **{key: text})
        if key in ("metadata", "tokenizer") and "rank" in text:  # un objet comme un autre
            assert load_quantized(quantized)
            return
        refusal(lambda: load_quantized(quantized))

    @pytest.mark.parametrize("change", [{"vocab_size": HUGE}, {"emb_dim": 2**64, "n_heads": 1}])
    def test_a_quantized_model_larger_than_its_file(self, quantized, change):
        self.told(quantized, config=json.dumps(GPT2.to_dict() | change))
        refusal(lambda: load_quantized(quantized))

    @pytest.mark.parametrize("text", BAD_JSON, ids=shown)
    def test_adapter(self, adapter, text):
        self.told(adapter, description=text)
        refusal(lambda: read_adapter(adapter))
        refusal(lambda: inspect_model(adapter))


@pytest.mark.parametrize("text", BAD_JSON, ids=shown)
def test_an_index_of_shards(tmp_path, text):
    (tmp_path / "index.json").write_text(text, encoding="utf-8")
    refusal(lambda: open_shards(tmp_path, "train"))


def test_a_shard_that_announces_two_billion_tokens(tmp_path):
    head = struct.pack("<3i", 20240520, 1, 2**31 - 1).ljust(1024, b"\0")
    (tmp_path / "x_train_000000.bin").write_bytes(head + bytes(16))
    assert "tronqué" in refusal(lambda: open_shards(tmp_path, "train"))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside),
    max_leaves=8,
)


@pytest.mark.slow
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_description_is_read_or_refused_in_french(tmp_path, data):
    """Une partie remplacée par n'importe quoi : jamais une erreur de PyTorch ni de Python."""
    part = data.draw(st.sampled_from(["format", "version", "config", "tokenizer", "metadata"]))
    value = data.draw(TREES)
    if part == "config" and data.draw(st.booleans()):
        value = GPT2.to_dict() | {data.draw(st.sampled_from(list(GPT2.to_dict()))): value}
    path = tmp_path / "m.pt"
    torch.save(payload() | {part: value}, path)
    valid = part in ("tokenizer", "metadata") and isinstance(value, dict)
    valid = (
        valid
        or (part == "config" and accepted(value))
        or (part == "version" and value is not True and value == 1)
    )
    if valid:
        read_model(path)
    else:
        refusal(lambda: read_model(path))


def accepted(value):
    """Vrai si c'est la description d'une forme."""
    try:
        GPTConfig.from_dict(value)
    except (GPTArchitectureError, AttributeError, TypeError):
        return False
    return True


def test_the_variants_of_the_shape_are_part_of_it(tmp_path):
    """Une largeur cachée que les poids n'ont pas."""
    wide = replace(GPT2, inner_dim=2**20).to_dict()
    message = refusal(lambda: read_model(saved(tmp_path / "m.pt", wide)).build())
    assert "ff.layers.0" in message


def test_pickle_is_never_run(tmp_path):
    """Témoin : rien de ce qui précède ne passe par pickle."""
    (tmp_path / "m.pt").write_bytes(pickle.dumps({"format": FORMAT}))
    refusal(lambda: read_model(tmp_path / "m.pt"))
