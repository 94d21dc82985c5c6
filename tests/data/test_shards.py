"""Lecture des fragments : la même suite que celle écrite, où que tombent les coupures."""

import hashlib
import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shard_helpers import write_folder, write_shard

from gpt_architecture.data.shards import layout as shard_layout
from gpt_architecture.data.shards import reader as shards
from gpt_architecture.data.shards.layout import combined_sha256, tokenizer_sha256
from gpt_architecture.data.shards.reader import TokenArray, open_shards
from gpt_architecture.errors import ConfigurationError, DataError

property_test = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_header_is_llm_c_s():
    """256 entiers int32 petit-boutistes : nombre magique, version, nombre de tokens."""
    data = shard_layout.header(7)
    assert len(data) == 1024
    assert struct.unpack("<256i", data)[:4] == (20240520, 1, 7, 0)


def test_foreign_shards_are_read_as_they_are(tmp_path):
    """Des fragments de llm.c, sans index, dans l'ordre de leurs noms ; chaque part a les siens."""
    write_shard(tmp_path / "fineweb_train_000002.bin", [6, 7])
    write_shard(tmp_path / "fineweb_train_000001.bin", [50256, 1, 2])
    write_shard(tmp_path / "fineweb_val_000000.bin", [8])
    (tmp_path / "notes.txt").write_text("rien", encoding="utf-8")
    train = open_shards(tmp_path, "train")
    assert train.read(0, 5).tolist() == [50256, 1, 2, 6, 7]
    assert (train.num_tokens, train.tokenizer, train.vocab_size) == (5, None, 50257)
    assert open_shards(str(tmp_path), "val").read(0, 1).tolist() == [8]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("tiny_shakespeare_train.bin", "train"),
        ("TinyStories-val.bin", "val"),
        ("train_val_000.bin", "val"),
        ("retraining_000.bin", None),
        ("valse_train2.bin", "train"),
    ],
)
def test_the_name_says_the_split(tmp_path, name, split):
    """Le mot entier compte, et le dernier décide."""
    write_shard(tmp_path / name, [1])
    assert [s for s in ("train", "val") if shards._names_of(tmp_path, s)] == ([split] * bool(split))


@property_test
@given(st.data())
def test_reading_ignores_shard_boundaries(tmp_path_factory, data):
    """Tout morceau est celui de la suite entière, dans les deux réalisations."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    ids = np.random.default_rng(sum(sizes)).integers(0, 100, sum(sizes))
    folder = tmp_path_factory.mktemp("fragments")
    cuts = np.cumsum(sizes)[:-1]
    for index, part in enumerate(np.split(ids, cuts)):
        write_shard(folder / f"x_train_{index:06d}.bin", part)
    start = data.draw(st.integers(0, len(ids)))
    length = data.draw(st.integers(0, len(ids) - start))
    for source in (open_shards(folder, "train"), TokenArray(ids)):
        piece = source.read(start, length)
        assert piece.dtype == torch.int64
        assert piece.tolist() == ids[start : start + length].tolist()


def test_reading_outside_is_refused(tmp_path):
    """Avant le début, après la fin, longueur négative."""
    write_shard(tmp_path / "train.bin", [1, 2, 3])
    for source in (open_shards(tmp_path, "train"), TokenArray([1, 2, 3])):
        assert source.read(3, 0).shape == (0,)
        for start, length in ((-1, 1), (0, 4), (3, 1), (1, -1)):
            with pytest.raises(DataError, match=r"\[0, 3\["):
                source.read(start, length)


def test_index_gives_tokenizer_vocabulary_and_identity(tmp_path):
    """Avec notre index : sa description du tokenizer, son vocabulaire, ses empreintes."""
    folder = write_folder(tmp_path / "d", {"train": [[1, 2], [3]], "val": [[4]]}, vocab_size=10)
    train = open_shards(folder, "train")
    assert train.read(0, 3).tolist() == [1, 2, 3]
    assert (train.tokenizer, train.vocab_size) == ({"name": "gpt2"}, 10)
    files = [folder / f"train_00000{i}.bin" for i in range(2)]
    hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    assert train.sha256 == combined_sha256(hashes)
    train.verify()


def test_identity_does_not_depend_on_the_index(tmp_path):
    """Sans l'index, les fichiers sont lus, et l'identité est la même."""
    folder = write_folder(tmp_path / "d", {"train": [[1, 2], [3]]})
    with_index = open_shards(folder, "train").sha256
    (folder / "index.json").unlink()
    assert open_shards(folder, "train").sha256 == with_index
    write_shard(folder / "train_000001.bin", [4])
    assert open_shards(folder, "train").sha256 != with_index


def test_verify_sees_a_changed_token(tmp_path):
    """Un token changé, encore dans le vocabulaire : seul le contrôle complet le voit."""
    folder = write_folder(tmp_path / "d", {"train": [[1, 2], [3]]})
    write_shard(folder / "train_000001.bin", [4])
    train = open_shards(folder, "train")
    with pytest.raises(DataError, match=r"train_000001\.bin : contenu changé"):
        train.verify()


def test_maps_are_read_only_and_bounded(tmp_path, monkeypatch):
    """Les projections sont en lecture seule, et leur nombre est borné."""
    for index in range(5):
        write_shard(tmp_path / f"train_{index}.bin", [index])
    monkeypatch.setattr(shards, "_MAX_OPEN_MAPS", 2)
    train = open_shards(tmp_path, "train")
    assert train.read(0, 5).tolist() == [0, 1, 2, 3, 4]
    assert len(train._maps) <= 2
    assert not train._map(0).flags.writeable


def test_bad_id_is_found_in_any_chunk(tmp_path, monkeypatch):
    """L'identifiant fautif est situé, même loin du premier morceau lu."""
    monkeypatch.setattr(shards, "_SCAN_TOKENS", 4)
    write_shard(tmp_path / "train.bin", [*range(10), 60, 3])
    with pytest.raises(DataError, match=r"train\.bin : identifiant 60 au token 10 \(octet 1044\)"):
        open_shards(tmp_path, "train", vocab_size=60)
    assert open_shards(tmp_path, "train", vocab_size=61).vocab_size == 61


def test_largest_vocabulary_needs_no_scan(tmp_path):
    """65 536 identifiants : tout uint16 convient."""
    write_shard(tmp_path / "train.bin", [65535])
    assert open_shards(tmp_path, "train", vocab_size=65536).read(0, 1).tolist() == [65535]
    assert open_shards(tmp_path, "train", vocab_size=70000).num_tokens == 1


@pytest.mark.parametrize(("asked", "kept"), [(None, 10), (8, 8), (99, 10)])
def test_the_smaller_vocabulary_counts(tmp_path, asked, kept):
    """La borne vérifiée est la plus petite de l'index et de la demande."""
    folder = write_folder(tmp_path / "d", {"train": [[7]]}, vocab_size=10)
    assert open_shards(folder, "train", vocab_size=asked).vocab_size == kept


def test_bad_arguments(tmp_path):
    """Part inconnue, vocabulaire nul, dossier absent, part absente."""
    with pytest.raises(ConfigurationError, match="train ou val"):
        open_shards(tmp_path, "test")
    with pytest.raises(ConfigurationError, match="vocab_size"):
        open_shards(tmp_path, "train", vocab_size=0)
    with pytest.raises(DataError, match="introuvable"):
        open_shards(tmp_path / "absent", "train")
    with pytest.raises(DataError, match="aucun fragment d"):
        open_shards(tmp_path, "train")
    folder = write_folder(tmp_path / "d", {"train": [[7]]})
    with pytest.raises(DataError, match="aucun fragment de validation"):
        open_shards(folder, "val")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "autre"},
        {"version": 2},
        {"tokenizer": {"name": "autre"}},
        {"tokenizer": None},
        {"vocab_size": "beaucoup"},
        {"vocab_size": 1 << 17},
        {"splits": None},
        {"splits": {"train": {"shards": [{"name": "train_000000.bin"}]}}},
        {"splits": {"train": {"shards": "x"}}},
        {
            "splits": {
                "train": {
                    "shards": [
                        {"name": "../x.bin", "tokens": 1, "documents": 0, "sha256": "0" * 64}
                    ]
                }
            }
        },
    ],
)
def test_bad_index_is_one_sentence(tmp_path, change):
    """Un index d'un autre format, changé à la main ou qui sort du dossier est refusé."""
    folder = write_folder(tmp_path / "d", {"train": [[7]]})
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    (folder / "index.json").write_text(json.dumps({**index, **change}), encoding="utf-8")
    with pytest.raises(DataError, match="ne convient pas"):
        open_shards(folder, "train")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100000, b"[]"])
def test_unreadable_index(tmp_path, content):
    """Un index vide, coupé, d'un autre encodage ou trop profond : une phrase."""
    write_shard(tmp_path / "train_000000.bin", [1])
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(DataError, match=r"index\.json"):
        open_shards(tmp_path, "train")


def test_tokenizer_hash_ignores_key_order():
    """L'empreinte est celle du contenu."""
    assert tokenizer_sha256({"a": 1, "b": 2}) == tokenizer_sha256({"b": 2, "a": 1})
    assert tokenizer_sha256({"a": 1}) != tokenizer_sha256({"a": 2})


def test_token_array_identity_and_copy():
    """L'identité vient des valeurs, non du type ; le tableau donné peut changer ensuite."""
    ids = np.array([1, 2, 3])
    array = TokenArray(ids)
    assert array.sha256 == TokenArray([1, 2, 3]).sha256 == TokenArray(ids.astype(np.uint8)).sha256
    assert array.sha256 != TokenArray([1, 2, 4]).sha256
    assert TokenArray([1, 70000]).read(1, 1).tolist() == [70000]
    ids[0] = 9
    assert array.read(0, 1).tolist() == [1]


@pytest.mark.parametrize("ids", [[], [-1], [1.5], [[1]], np.array([], dtype=np.int64)])
def test_token_array_refuses(ids):
    """Vide, négatif, non entier, à deux dimensions."""
    with pytest.raises(DataError):
        TokenArray(ids)
