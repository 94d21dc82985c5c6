"""Des sources hostiles ou abîmées : une phrase chacune, en un temps et une mémoire bornés.

Chaque cas arrête la lecture sans `skip_bad` ; avec, le texte sain qui l'accompagne est lu.
"""

import bz2
import gzip
import io
import json
import lzma
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import pytest
import zstandard
from test_readers import csv_of, docx_of, epub_of, html_of, odt_of, pdf_of, zip_of

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.texts.documents import LEFT_OUT, NOT_READ
from gpt_architecture.data.texts.ingest import find_sources
from gpt_architecture.data.texts.readers import isolation, layers
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError, MissingDependencyError

ZEROS = bytes(1 << 20)
SOUND = "Le passeur leva la lampe deux fois, puis il détacha le bateau. " * 4


def gzip_bomb(size_mib=80):
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(compressor.compress(b"a" * (1 << 20)) for _ in range(size_mib)) + (
        compressor.flush()
    )


def patched(package, member, change):
    """Le même document, dont un fichier est changé."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(package)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name == member else data)
    return out.getvalue()


def laughing(xml):
    """Des entités qui se multiplient : un milliard de mots en dix lignes."""
    start = xml.index(b"?>") + 2 if xml.startswith(b"<?xml") else 0
    more = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    doctype = f'<!DOCTYPE x [<!ENTITY l0 "mot ">{more}]>'.encode()
    return xml[:start] + doctype + xml[start:].replace(b"La lampe", b"&l9;", 1)


def peeking(xml):
    """Une entité qui désigne un fichier de la machine."""
    start = xml.index(b"?>") + 2 if xml.startswith(b"<?xml") else 0
    doctype = b'<!DOCTYPE x [<!ENTITY vu SYSTEM "file:///etc/passwd">]>'
    return xml[:start] + doctype + xml[start:].replace(b"La lampe", b"&vu;", 1)


def nested(depth):
    data, name = SOUND.encode(), "a.txt"
    for level in range(depth):
        data, name = zip_of({name: data}), f"z{level}.zip"
    return data


def locked_pdf():
    """Un PDF chiffré : aucun mot de passe, même vide, n'a cette empreinte."""
    lock = b"<</Filter/Standard/V 1/R 2/P -4/O<%b>/U<%b>>>" % (b"41" * 32, b"42" * 32)
    trailer = b"trailer\n<</ID[<00><00>]/Encrypt %b" % lock
    return re.sub(rb"trailer\s*<<", lambda _: trailer, pdf_of(), count=1)


def encrypted():
    data = bytearray(zip_of({"a.txt": SOUND.encode()}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(mark) + place
        data[at : at + 2] = struct.pack("<H", struct.unpack("<H", data[at : at + 2])[0] | 1)
    return bytes(data)


def damaged(data):
    middle = len(data) // 2
    return data[:middle] + b"\xff" * 40 + data[middle + 40 :]


CASES = {
    "bombe-gzip": ("a.txt.gz", gzip_bomb, "plus de 300 fois sa taille"),
    "bombe-zip": ("a.zip", lambda: zip_of({"a.txt": b"a" * (80 << 20)}), "plus de 300 fois"),
    "bombe-docx": (
        "a.docx",
        lambda: zip_of({"word/document.xml": ZEROS * 40, "[Content_Types].xml": b""}),
        "contenu démesuré",
    ),
    "archives-imbriquées": ("a.zip", lambda: nested(9), "plus de 4 enveloppes"),
    "traversée": ("a.zip", lambda: zip_of({"../../sorti.txt": b"non"}), "nom de fichier suspect"),
    "absolu": ("a.zip", lambda: zip_of({"/etc/sorti.txt": b"non"}), "nom de fichier suspect"),
    "chiffré": ("a.zip", encrypted, "zip : contenu chiffré"),
    "zip-coupé": (
        "a.zip",
        lambda: zip_of({"a.txt": SOUND.encode()})[:-30],
        "archive ZIP : contenu abîmé",
    ),
    "crc-faux": (
        "a.zip",
        lambda: zip_of({"a.txt": SOUND.encode()}).replace(
            zlib.crc32(SOUND.encode()).to_bytes(4, "little"), b"\0\0\0\0"
        ),
        "fichier illisible",
    ),
    "xz-coupé": ("a.txt.xz", lambda: lzma.compress(SOUND.encode())[:-8], "xz : "),
    "zst-abîmé": ("a.txt.zst", lambda: damaged(zstandard.compress(SOUND.encode())), "zstd : "),
    "gz-coupé": ("a.txt.gz", lambda: gzip.compress(SOUND.encode())[:-9], "gzip : "),
    "pdf-cassé": ("a.pdf", lambda: pdf_of()[:600], "PDF abîmé"),
    "pdf-chiffré": ("a.pdf", locked_pdf, "PDF chiffré"),
    "pdf-faux": ("a.pdf", SOUND.encode, "ce n'est pas un .pdf"),
    "docx-faux": ("a.docx", lambda: zip_of({"a.txt": b"x"}), "fichier illisible"),
    "epub-vide": ("a.epub", lambda: zip_of({"mimetype": b"application/epub+zip"}), "container.xml"),
    "rires-docx": (
        "a.docx",
        lambda: patched(docx_of(), "word/document.xml", laughing),
        "fichier illisible",
    ),
    "rires-odt": ("a.odt", lambda: patched(odt_of(), "content.xml", laughing), "Entities"),
    "rires-epub": ("a.epub", lambda: patched(epub_of(), "OPS/livre.opf", laughing), "Entities"),
    "entité-odt": ("a.odt", lambda: patched(odt_of(), "content.xml", peeking), "Entities"),
    "html-profond": ("a.html", lambda: b"<div>" * 200_000 + b"au fond", "HTML trop imbriqué"),
    "encodages-mêlés": (
        "a.txt",
        lambda: "été ".encode() + "été".encode("cp1252"),
        "mêle l'UTF-8 et un autre encodage",
    ),
    "html-mal-annoncé": (
        "a.html",
        lambda: html_of().replace("é".encode(), b"\xe9"),
        "l'encodage annoncé",
    ),
    "csv-mal-codé": ("a.csv", lambda: csv_of() + "2,œuf\n".encode("cp1252"), "a.csv, rangée 3"),
    "csv-sans-fin": (
        "a.csv",
        lambda: b'id,text\n1,"' + (b"a,b " * 999 + b"\n") * 9000,
        "tableau mal formé",
    ),
    "json-sans-fin": ("a.json", lambda: b'[{"text": "un"}, {"te', "JSON invalide"),
    "json-profond": ("a.json", lambda: b"[" * 200_000, "JSON invalide"),
    "image-en-txt": ("a.txt", lambda: b"\x89PNG\r\n\x1a\n" + bytes(99), "une image"),
    "parquet-cassé": ("a.parquet", lambda: b"PAR1" + b"\0" * 99 + b"PAR1", "fichier illisible"),
    "arrow-cassé": ("a.arrow", lambda: b"ARROW1\0\0" + b"\1" * 99, "fichier illisible"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_one_line_each_and_the_rest_goes_on(tmp_path, case):
    """Une phrase sans `skip_bad` ; avec, le reste, et rien d'écrit hors de là."""
    name, make, words = CASES[case]
    folder = tmp_path / "vrac"
    folder.mkdir()
    (folder / name).write_bytes(make())
    (folder / "z-sain.txt").write_text(SOUND, encoding="utf-8")
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError) as caught:
        load_corpus([folder])
    message = str(caught.value)
    assert words in message
    assert name.split(".")[0] in message
    assert "skip_bad" in message
    assert ("iconv" in message) == (case == "csv-mal-codé")
    kept = load_corpus([folder], skip_bad=True).text
    assert kept.endswith(SOUND)
    assert len(kept) < 8 << 20
    assert time.process_time() - start < 30
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500 << 10, f"{grown} Kio de plus"
    assert sorted(each.name for each in folder.iterdir()) == sorted([name, "z-sain.txt"])
    assert not (tmp_path.parent / "sorti.txt").exists()


LEFT = {
    "a.xlsx": (zip_of({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), "un classeur"),
    "a.zip": (zip_of({"archive/data.pkl": b"x"}), "un modèle PyTorch"),
    "a.doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "enregistrez-le en .docx"),
    "a.tar.gz": (gzip.compress(b"a.txt" + bytes(600)), "faites-en un .zip"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_document_of_another_format_is_left_where_it_lies(tmp_path, name):
    """Trouvé dans un dossier, il est compté à part, avec ce qu'il faut en faire ; nommé, refusé."""
    data, words = LEFT[name]
    folder = tmp_path / "vrac"
    folder.mkdir()
    (folder / name).write_bytes(data)
    (folder / "z-sain.txt").write_text(SOUND, encoding="utf-8")
    for system in ("Thumbs.db", "desktop.ini", "~$verrou.docx"):
        (folder / system).write_bytes(b"\0")
    sources, skips = find_sources([folder])
    assert [each.path.name for each in sources] == ["z-sain.txt"]
    assert [each.reason for each in skips] == [LEFT_OUT]
    assert words in skips[0].where
    with pytest.raises(DataError, match=NOT_READ) as caught:
        find_sources([folder / name])
    assert words in str(caught.value)


def test_every_door_has_the_same_rule(tmp_path):
    """Apprendre, préparer, faire un vocabulaire : s'arrêter, ou passer avec `skip_bad`."""
    folder, gpt2 = tmp_path / "vrac", get_tokenizer("gpt2")
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "un"}\n{cassé\n{"text": " "}\n', encoding="utf-8")
    (folder / "b.txt").write_text(SOUND, encoding="utf-8")

    def prepared(**options):
        return prepare_tokens([folder], tmp_path / "d", tokenizer=gpt2, workers=1, **options)

    for door in (
        lambda **options: load_corpus([folder], **options),
        lambda **options: list(SourceTexts([str(folder)], **options)),
        prepared,
    ):
        with pytest.raises(DataError, match=r"JSON invalide.*skip_bad"):
            door()
        assert door(skip_bad=True)
    skipped = prepared(skip_bad=True).skipped
    assert {reason: each["count"] for reason, each in skipped.items()} == {
        "JSON invalide": 1,
        "vide": 1,
    }


def test_a_line_larger_than_memory_is_never_whole(tmp_path):
    """Une ligne démesurée, en JSONL ou en CSV (un fichier creux) : dite, sans être gardée."""
    for name, start in (("a.jsonl", b'{"text": "'), ("a.csv", b"text\n")):
        path = tmp_path / name
        with path.open("wb") as file:
            file.write(start)
            file.truncate(1 << 30)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match="ligne trop longue"):
            load_corpus([path])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 300 << 10


def test_ten_gigabytes_on_one_line(tmp_path):
    """Dix gigaoctets d'une ligne (un fichier creux) : refusés sans être lus jusqu'au bout."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "')
        file.truncate(10 << 30)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match="ligne trop longue"):
        load_corpus([path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert time.process_time() - start < 3


def test_what_follows_an_endless_line_is_read(tmp_path):
    """Avec `skip_bad`, la ligne démesurée est sautée, et celles d'après sont lues."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "un"}\n{"text": "')
        file.seek(200 << 20)
        file.write(b'"}\n{"text": "deux"}\n')
    found = load_corpus([path], skip_bad=True)
    assert found.text.split(END_OF_TEXT) == ["un", "deux"]


def test_a_reader_that_never_ends_is_stopped(tmp_path, monkeypatch):
    """Passé le délai, le lecteur est tué et son document écarté ; le suivant en a un neuf."""
    (tmp_path / "a.html").write_bytes(html_of(["Un titre", *["Un long texte. " * 9] * 20_000]))
    (tmp_path / "b.html").write_bytes(html_of())
    monkeypatch.setattr(isolation, "TIMEOUT_S", 0.01)
    with pytest.raises(DataError, match="document trop long à lire"):
        load_corpus([tmp_path])
    monkeypatch.setattr(isolation, "TIMEOUT_S", 120.0)
    assert "La lampe du passeur" in load_corpus([tmp_path / "b.html"]).text


def test_a_reader_that_dies_is_said(tmp_path):
    """Un lecteur mort entre deux documents est remplacé sans un mot."""
    path = tmp_path / "a.html"
    path.write_bytes(html_of())
    found = load_corpus([path]).text
    isolation._extractor._process.kill()
    isolation._extractor._process.wait()
    assert load_corpus([path]).text == found


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="demande des minuteries POSIX")
def test_an_orphan_reader_stops_alone():
    """Un lecteur qui tourne sans fin, et que nul ne viendra tuer, s'arrête de lui-même."""
    code = (
        "import dataclasses, time\n"
        "from gpt_architecture.data.texts import readers\n"
        "from gpt_architecture.data.texts.readers import isolation\n"
        "isolation.TIMEOUT_S, isolation._GRACE_S = 0.2, 0.2\n"
        "pdf = isolation.FORMATS['pdf']\n"
        "isolation.FORMATS['pdf'] = dataclasses.replace(pdf, parse=lambda _: time.sleep(60))\n"
        "isolation.serve()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        process.stdin.write(isolation._REQUEST.pack(b"pdf", 1) + b"x")
        process.stdin.flush()
        assert process.wait(30) == -signal.SIGALRM


def test_a_document_too_large_is_refused_before_reading(tmp_path, monkeypatch):
    """Un document composé tient dans une borne."""
    monkeypatch.setattr(isolation, "DOCUMENT_BYTES", 1000)
    (tmp_path / "a.docx").write_bytes(docx_of())
    with pytest.raises(DataError, match="un document de plus de"):
        load_corpus([tmp_path / "a.docx"])


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "MAX_MEMBERS", 3)
    (tmp_path / "a.zip").write_bytes(zip_of({f"{i}.txt": b"x" for i in range(4)}))
    with pytest.raises(DataError, match="4 fichiers dans l'archive"):
        find_sources([tmp_path / "a.zip"])


@pytest.mark.parametrize(
    ("name", "make", "module", "package"),
    [
        ("a.pdf", pdf_of, "pypdfium2", "pypdfium2"),
        ("a.docx", docx_of, "docx", "python-docx"),
        ("a.odt", odt_of, "odf", "odfpy"),
        ("a.html", html_of, "trafilatura", "trafilatura"),
        ("a.epub", epub_of, "lxml", "lxml"),
        ("a.txt.zst", lambda: zstandard.compress(b"x"), "zstandard", "zstandard"),
    ],
)
def test_a_missing_library_is_one_command(tmp_path, monkeypatch, name, make, module, package):
    """Ce qui manque est nommé, avec la commande qui installe tous les lecteurs."""
    (tmp_path / name).write_bytes(make())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=package) as caught:
        load_corpus([tmp_path])
    assert "pip install" in str(caught.value)
    assert "documents" in str(caught.value)


def test_a_field_is_found_or_asked_for(tmp_path):
    """Un nom évident suffit ; sinon, la phrase dit ce qu'il y a et comment le demander."""
    path = tmp_path / "a.jsonl"
    rows = {
        "corps": {"id": "x", "corps": "oui"},
        "text": {"text": "oui", "content": "non"},
        None: {"titre": "a", "resume": "b"},
    }
    for field, row in rows.items():
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        if field is not None:
            assert load_corpus([path]).text == "oui"
            assert load_corpus([path], field=field).text == "oui"
        else:
            with pytest.raises(DataError, match=r"il y a titre, resume.*nommez-le par `field`"):
                load_corpus([path])
            assert load_corpus([path], field="resume").text == "b"
    path.write_text(json.dumps({"content": "a", "body": "b"}), encoding="utf-8")
    with pytest.raises(DataError, match="il y a content, body"):
        load_corpus([path])
    table = tmp_path / "t.csv"
    table.write_bytes(csv_of(name="notes"))
    with pytest.raises(DataError, match="il y a id, notes"):
        load_corpus([table])
    assert "La lampe" in load_corpus([table], field="notes").text


def zip_with(method, data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("a.txt", data)
    return bytearray(out.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_of_any_method_is_stopped_early(tmp_path, method):
    """`zipfile` décompresse d'un coup ce qu'il lit : une bombe ne doit pas remplir la mémoire."""
    path = tmp_path / "a.zip"
    path.write_bytes(zip_with(method, SOUND.encode()))
    assert load_corpus([path]).text == SOUND
    data = zip_with(method, SOUND.encode() * 9)
    data[data.index(b"PK\x01\x02") * 2 // 3] ^= 255  # au milieu du membre
    path.write_bytes(data)
    with pytest.raises(DataError, match="fichier illisible"):
        load_corpus([path])
    path.write_bytes(zip_with(method, b"a" * (400 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="plus de 300 fois"):
        load_corpus([path])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10


def test_an_lzma_member_does_not_choose_our_memory(tmp_path):
    """La fenêtre qu'un membre LZMA demande est bornée avant d'être réservée."""
    path, data = tmp_path / "a.zip", zip_with(zipfile.ZIP_LZMA, SOUND.encode())
    start = 30 + len("a.txt") + 5
    data[start : start + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(DataError, match="une fenêtre de 4"):
        load_corpus([path])


def test_a_reader_without_memory_is_said(tmp_path, monkeypatch):
    """Une mémoire que le système refuse est un fichier illisible, non une trace."""

    def refuse(_file):
        raise MemoryError

    monkeypatch.setitem(layers._CODECS, "bzip2", refuse)
    (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(SOUND.encode()))
    with pytest.raises(DataError, match=r"a\.txt\.bz2 \(bzip2"):
        load_corpus([tmp_path])


def test_a_directory_is_read_once(tmp_path, monkeypatch):
    """Le répertoire d'une archive n'est lu qu'une fois, quel que soit le nombre de ses membres."""
    opened, real = [], zipfile.ZipFile

    def counted(file, *rest):
        opened.append(file)
        return real(file, *rest)

    texts = {f"{i:03d}.txt": f"texte {i}".encode() for i in range(200)}
    wanted = [each.decode() for each in texts.values()]
    plain, inner = zip_of(texts), zip_of({"z.zip": zip_of(texts), "zz.txt": b"fin"})
    monkeypatch.setattr(layers.zipfile, "ZipFile", counted)
    (tmp_path / "a.zip").write_bytes(plain)
    assert load_corpus([tmp_path / "a.zip"]).text.split(END_OF_TEXT) == wanted
    assert len(opened) == 1
    (tmp_path / "b.zip").write_bytes(inner)
    assert load_corpus([tmp_path / "b.zip"]).text.split(END_OF_TEXT) == [*wanted, "fin"]
    assert len(opened) == 3


def open_files():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_an_archive_is_neither_held_nor_remembered(tmp_path):
    """Lue, une archive est fermée ; changée, elle est relue ; deux membres s'entremêlent."""
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"a.txt": b"un", "b.txt": SOUND.encode() * 50_000}))
    first, second = find_sources([path])[0]
    before = open_files()
    with layers.opened(first) as (one, _), layers.opened(second) as (two, _):
        assert two.read(11) == SOUND.encode()[:11]
        assert one.read() == b"un"
        assert two.read() == (SOUND.encode() * 50_000)[11:]
    assert open_files() == before
    path.write_bytes(zip_of({"a.txt": b"deux"}))
    assert load_corpus([path]).text == "deux"
    with pytest.raises(DataError, match="a changé"):
        first.check_unchanged()
