"""Le fichier quantifié : aller-retour, et chaque façon d'être mauvais."""

import json
import pickle
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gpt_architecture.api import open_model
from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import Scheme
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError, ModelFileError, OutputError
from gpt_architecture.formats.quantized_file import load_quantized, save_quantized
from gpt_architecture.formats.tensor_files import SEAL, sealed
from gpt_architecture.kernels.decode.packed import PackedModel, pack

TOKENIZER = {"kind": "gpt2", "accents": "éà"}
METADATA = {"window": 16, "prompt": "Le passeur"}


def packed_model(packing="int8", **changes):
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "context_length": 16, "emb_dim": 24, "n_heads": 3, "n_layers": 2}
    return pack(GPTModel(GPTConfig(**{**shape, **changes})).eval(), packing)


@pytest.fixture
def saved(tmp_path):
    """Un fichier bon, et de quoi en écrire une copie changée."""
    path = tmp_path / "modèle.safetensors"
    save_quantized(path, packed_model(), tokenizer=TOKENIZER, metadata=METADATA)
    return path


def rewrite(path, *, header=None, tensors=None):
    """Réécrit le fichier, rescellé ; `header` et `tensors` remplacent, une valeur None retire."""
    with safe_open(path, framework="pt") as content:
        texts = {key: text for key, text in content.metadata().items() if key != SEAL}
        values = {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118
    for known, changes in ((texts, header or {}), (values, tensors or {})):
        for key, value in changes.items():
            if value is None:
                del known[key]
            else:
                known[key] = value
    save_file(values, path, metadata=sealed(texts, values))


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["int8", "int4", Scheme(name="int4", group_size=64)])
@pytest.mark.parametrize("changes", [{}, {"tie_weights": True, "qkv_bias": True}])
def test_round_trip(tmp_path, packing, changes):
    """Mêmes logits, au bit près ; tokenizer et métadonnées rendus ; droits ordinaires."""
    model = packed_model(packing, **changes)
    path = tmp_path / "dossier" / "m.safetensors"
    save_quantized(path, model, tokenizer=TOKENIZER, metadata=METADATA)
    file = load_quantized(path)
    found = PackedModel.from_codes(file.config, file.scheme, file.codes, file.vectors)
    assert (file.tokenizer, file.metadata) == (TOKENIZER, METADATA)
    assert (found.cfg, found.scheme, found.nbytes) == (model.cfg, model.scheme, model.nbytes)
    ids = torch.randint(61, (2, 9))
    assert torch.equal(found(ids), model(ids))
    caches = found.new_cache(2), model.new_cache(2)
    assert torch.equal(found(ids[:, :3], caches[0]), model(ids[:, :3], caches[1]))
    assert open_model(path).kind == "quantized"
    assert stat.S_IMODE(path.stat().st_mode) & 0o044 == 0o044


def test_fp32_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="fp32"):
        save_quantized(tmp_path / "m.safetensors", packed_model("fp32"), tokenizer={})
    assert list(tmp_path.glob("*.safetensors")) == []


def test_a_full_folder_leaves_the_old_file(saved, tmp_path):
    """Un dossier où l'on ne peut écrire : l'erreur est dite, rien n'est abîmé."""
    before = saved.read_bytes()
    with pytest.raises(OutputError):
        save_quantized(saved / "dedans.safetensors", packed_model(), tokenizer={})
    assert saved.read_bytes() == before
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == [saved.name]


def test_the_tied_head_is_written_once(tmp_path):
    path = tmp_path / "m.safetensors"
    save_quantized(path, packed_model(tie_weights=True), tokenizer={})
    with safe_open(path, framework="pt") as content:
        assert not any(name.startswith("out_head") for name in content.keys())  # noqa: SIM118
    file = load_quantized(path)
    assert "out_head" not in file.codes
    model = PackedModel.from_codes(file.config, file.scheme, file.codes, file.vectors)
    assert model.matrices["out_head"] is model.matrices["tok_emb"]


def test_the_first_version_had_eight_bits_in_the_head(tmp_path):
    """Un fichier d'avant, dont l'en-tête ne dit pas les bits de la tête, se lit et se récrit."""
    path = tmp_path / "ancien.safetensors"
    model = packed_model(Scheme(name="int4", head_bits=8))
    save_quantized(path, model, tokenizer=TOKENIZER)
    rewrite(path, header={"version": "1", "scheme": '{"name": "int4", "group_size": 32}'})
    file = load_quantized(path)
    assert file.scheme.head_bits == 8
    assert (file.codes["tok_emb"].bits, file.codes["out_head"].bits) == (8, 8)
    read = PackedModel.from_codes(file.config, file.scheme, file.codes, file.vectors)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(read(ids), model(ids))
    save_quantized(path, read, tokenizer=TOKENIZER)
    assert load_quantized(path).scheme == model.scheme


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"format": '"autre"'}, "n'est pas un modèle quantifié"),
        ({"format": None}, "n'est pas un modèle quantifié"),
        ({"format": "{"}, "n'est pas un modèle quantifié"),
        ({"version": "3"}, "version 3"),
        ({"version": "true"}, "version True"),
        ({"scheme": '{"name": "int2", "group_size": 32}'}, "int2"),
        ({"scheme": '{"name": "int8", "group_size": 31}'}, "31"),
        ({"scheme": '{"name": "int8", "taille": 32}'}, "schéma"),
        ({"scheme": '{"name": "int4", "group_size": 32}'}, "tok_emb.codes est"),
        ({"scheme": '"int8"'}, "scheme"),
        ({"config": '{"vocab_size": -1}'}, "vocab_size"),
        ({"config": '{"couleur": 1}'}, "couleur"),
        ({"config": None}, "config"),
        ({"tokenizer": "[]"}, "tokenizer"),
        ({"metadata": "3"}, "metadata"),
    ],
)
def test_bad_headers(saved, header, words):
    rewrite(saved, header=header)
    with pytest.raises(ModelFileError, match=words):
        load_quantized(saved)


def test_a_million_layers(saved):
    """Une configuration démesurée est refusée avant de rien construire."""
    config = {**packed_model().cfg.to_dict(), "n_layers": 10**4}
    rewrite(saved, header={"config": json.dumps(config)})
    with pytest.raises(ModelFileError, match="10000 blocs"):
        load_quantized(saved)


HEAD = "out_head.codes"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({HEAD: None}, "out_head.codes est absent"),
        ({HEAD: torch.zeros(61, 127, dtype=torch.int8)}, r"\(61, 127\)"),
        ({HEAD: torch.zeros(61, 128, dtype=torch.uint8)}, "uint8"),
        ({"out_head.scales": torch.zeros(61, 4)}, "float32"),
        ({"out_head.scales": torch.full((61, 4), torch.nan).bfloat16()}, "infinie ou NaN"),
        ({"final_norm.scale": torch.zeros(25)}, "final_norm.scale"),
        ({"pos_emb.weight": None}, "pos_emb.weight est absent"),
        ({"intrus": torch.zeros(1)}, "inattendu intrus"),
    ],
)
def test_bad_tensors(saved, tensors, words):
    rewrite(saved, tensors=tensors)
    with pytest.raises(ModelFileError, match=words):
        load_quantized(saved)


@pytest.mark.parametrize("kept", [0, 4, 8, 300, -1])
def test_truncated(saved, kept):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ModelFileError, match="illisible"):
        load_quantized(saved)


class Exploding:
    """Un objet dont la lecture exécuterait du code."""

    def __reduce__(self):
        return (pytest.fail, ("le pickle a été exécuté",))


def test_a_renamed_pickle_is_not_executed(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps(Exploding()))
    for read in (open_model, load_quantized):
        with pytest.raises(ModelFileError, match=r"illisible|objet Python refusé"):
            read(path)


def test_another_safetensors_file(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    assert open_model(path).kind == "safetensors"
    with pytest.raises(ModelFileError, match="n'est pas un modèle quantifié"):
        load_quantized(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(ModelFileError, match=r"introuvable|c'est un dossier"):
            load_quantized(path)
