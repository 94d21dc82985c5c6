"""Les sources : ce qui est lu, dans quel ordre, et ce qui est écarté."""

import gzip
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt_architecture.data.texts import documents
from gpt_architecture.data.texts.ingest import find_sources, read_blocks, read_chunks
from gpt_architecture.data.texts.readers import base
from gpt_architecture.errors import DataError, MissingDependencyError

HEADS = {".parquet": b"PAR1", ".gz": gzip.compress(b"x")}


def only(path):
    (source,), _ = find_sources([path])
    return source


def read(path, field="text", limit=1 << 20):
    """Enregistrements et rejets d'un fichier, tous blocs réunis."""
    blocks = list(read_blocks(only(path), field=field, max_record_bytes=limit))
    records = [record for block in blocks for record in block.records]
    skips = [(skip.reason, skip.where) for block in blocks for skip in block.skips]
    return records, skips, blocks


def test_folders_are_walked_in_order(tmp_path):
    """Triés, récursifs, sans ce qui est caché ; l'extension inconnue est dite."""
    for name in ("b.txt", "a.MD", "sous/c.jsonl", "sous/d.parquet", "e.jsonl.gz", "f.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(HEADS.get(Path(name).suffix, b"x"))
    for name in (".cache/x.txt", ".g.txt", "~$lettre.docx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    sources, skips = find_sources([tmp_path])
    names = [(str(s.path.relative_to(tmp_path)), s.kind) for s in sources]
    assert names == [
        ("a.MD", "text"),
        ("b.txt", "text"),
        ("e.jsonl.gz", "jsonl"),
        ("sous/c.jsonl", "jsonl"),
        ("sous/d.parquet", "parquet"),
    ]
    assert [(s.reason, os.path.basename(s.where)) for s in skips] == [  # noqa: PTH119
        (documents.UNKNOWN_KIND, "f.xyz")
    ]


def test_a_named_file_is_text_whatever_its_suffix(tmp_path):
    """Nommer un fichier suffit ; le donner deux fois ne le compte qu'une."""
    path = tmp_path / "notes.tex"
    path.write_text("x", encoding="utf-8")
    sources, skips = find_sources([path, str(path)])
    assert [s.kind for s in sources] == ["text"]
    assert [s.reason for s in skips] == [documents.REPEATED]


def test_missing_and_empty_sources(tmp_path):
    """Un chemin absent, ou démesuré ; un dossier sans rien à lire."""
    for path in (tmp_path / "absent", "x" * 5000):
        with pytest.raises(DataError, match="source introuvable"):
            find_sources([path])
    with pytest.raises(DataError, match="aucun texte à lire"):
        find_sources([tmp_path])


def test_dangling_links_and_special_files_are_said(tmp_path):
    """Un lien cassé et un tube sont écartés ; le tube n'est pas ouvert."""
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "lien.txt").symlink_to(tmp_path / "absent")
    os.mkfifo(tmp_path / "tube.txt")
    sources, skips = find_sources([tmp_path])
    assert len(sources) == 1
    assert [s.reason for s in skips] == [documents.UNREADABLE] * 2


def test_text_is_one_document(tmp_path):
    """Un fichier texte : un enregistrement, numéro 0."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"un\ndeux")
    assert read(path)[0] == [(0, b"un\ndeux")]


@pytest.mark.parametrize("compressed", [False, True])
def test_lines_are_numbered(tmp_path, compressed):
    """Une ligne, un enregistrement ; les lignes vides et trop longues gardent leur numéro."""
    data = b'{"text": "a"}\n\n{"text": "' + b"x" * 5000 + b'"}\n{"text": "b"}'
    path = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl")
    path.write_bytes(gzip.compress(data) if compressed else data)
    records, skips, blocks = read(path, limit=100)
    assert records == [(1, b'{"text": "a"}\n'), (4, b'{"text": "b"}')]
    assert [reason for reason, _ in skips] == [documents.EMPTY, documents.TOO_LONG]
    assert skips[1][1] == f"{path}:3 (plus de 100 octets)"
    assert sum(block.consumed for block in blocks) == path.stat().st_size


@pytest.mark.parametrize(("extra", "kept"), [(b"", 1), (b"\n", 1), (b"x", 0), (b"x\n", 0)])
def test_line_bound_is_exact(tmp_path, extra, kept):
    """100 octets passent, fin de ligne non comprise ; 101 non."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * 100 + extra)
    records, skips, _ = read(path, limit=100)
    assert (len(records), len(skips)) == (kept, 1 - kept)


def test_blocks_are_bounded(tmp_path, monkeypatch):
    """Un gros fichier se lit en plusieurs blocs, sans rien perdre."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 64)
    path = tmp_path / "a.jsonl"
    lines = [f'{{"text": "{i}"}}\n'.encode() for i in range(50)]
    path.write_bytes(b"".join(lines))
    records, _, blocks = read(path)
    assert [line for _, line in records] == lines
    assert len(blocks) > 5
    assert max(sum(len(line) for _, line in block.records) for block in blocks) < 64 + 20


def test_truncated_gzip_keeps_what_precedes(tmp_path, monkeypatch):
    """Un gzip coupé : les lignes lues restent, la panne est dite."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 256)
    lines = "".join(json.dumps({"text": os.urandom(20).hex()}) + "\n" for _ in range(400))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-4000])
    records, skips, _ = read(path)
    assert 0 < len(records) < 400
    assert [reason for reason, _ in skips] == [documents.UNREADABLE]


def test_not_gzip_and_missing_later(tmp_path):
    """Un faux gzip ; un fichier disparu depuis qu'il a été trouvé."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b"pas du gzip")
    with pytest.raises(DataError, match="n'est pas celui d'un fichier compressé"):
        find_sources([path])
    path.write_bytes(gzip.compress(b'{"text": "un"}'))
    source = only(path)
    path.unlink()
    blocks = list(read_blocks(source, field="text", max_record_bytes=10))
    assert [skip.reason for block in blocks for skip in block.skips] == [documents.UNREADABLE]
    with pytest.raises(documents.Rejected):
        list(read_chunks(source))
    with pytest.raises(DataError, match="a changé"):
        source.check_unchanged()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"])
def test_parquet(tmp_path, kind):
    """Une rangée, un document ; les nuls et les trop longs sont dits, par leur rangée."""
    values = pa.array(["a", None, "b" * 200, "é"] * 40)
    column = values.dictionary_encode() if kind == "dictionary" else values.cast(kind)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"autre": range(160), "text": column}), path, row_group_size=30)
    records, skips, blocks = read(path, limit=100)
    assert records[:3] == [(1, b"a"), (4, "é".encode()), (5, b"a")]
    assert len(records) == 80
    assert sorted({reason for reason, _ in skips}) == [documents.TOO_LONG, documents.EMPTY]
    assert sum(block.consumed for block in blocks) == path.stat().st_size


def test_parquet_with_bad_text(tmp_path):
    """Des octets qui ne sont pas de l'UTF-8 restent des octets : le document sera écarté seul."""
    raw = pa.array([b"bon", b"\xe9"], type=pa.binary())
    column = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": column}), path)
    assert [record for _, record in read(path)[0]] == [b"bon", b"\xe9"]


def test_bad_parquet(tmp_path):
    """Champ absent, champ de nombres, fichier qui n'en est pas un."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1, 2]}), path)
    assert [reason for reason, _ in read(path)[1]] == [documents.NO_FIELD]
    assert [reason for reason, _ in read(path, field="n")[1]] == [documents.NOT_TEXT]
    path.write_bytes(b"PAR1 pas du tout PAR1")
    assert [reason for reason, _ in read(path)[1]] == [documents.UNREADABLE]


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    """L'extra manquant est une phrase, avec la commande qui l'installe."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="pip install pyarrow"):
        read(path)
