"""Le disque : seuls les fichiers ordinaires s'ouvrent."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gpt_architecture.errors import ConfigurationError, DataError, reason
from gpt_architecture.storage import (
    NotAFileError,
    check_regular,
    decode_text,
    open_regular,
    read_text,
)

pytestmark = pytest.mark.timeout(20)


def test_a_file_opens_directly_or_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"oui\r\n")
    link.symlink_to(file)
    for path in (file, str(file), link):
        check_regular(path)
        with open_regular(path) as content:
            assert content.read() == b"oui\r\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="ce système n'a pas de tubes nommés")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "tube"
    os.mkfifo(pipe)
    for use in (check_regular, open_regular):
        with pytest.raises(NotAFileError) as caught:
            use(pipe)
        assert reason(caught.value) == "c'est un tube"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.mkdir(), "c'est un dossier"),
        (lambda path: path.symlink_to(os.devnull), "c'est un périphérique"),
    ],
)
def test_what_is_not_a_file_is_named(tmp_path: Path, make: object, said: str) -> None:
    path = tmp_path / "x"
    make(path)  # type: ignore[operator]
    with pytest.raises(NotAFileError) as caught:
        open_regular(path)
    assert reason(caught.value) == said


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("prise")
        with pytest.raises(NotAFileError, match="c'est une prise"):
            check_regular("prise")


def test_an_absent_file_keeps_its_own_error(tmp_path: Path) -> None:
    for use in (check_regular, open_regular):
        with pytest.raises(FileNotFoundError):
            use(tmp_path / "absent")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfun\r\ndeux\rtrois\n", "un\ndeux\ntrois\n"),
        ("é\ufeffè".encode(), "é\ufeffè"),
        (b"", ""),
        (b"un saut\x0cde page", "un saut\x0cde page"),
    ],
)
def test_text_is_the_same_from_every_editor(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "a").write_bytes(data)
    assert read_text(tmp_path / "a") == text == decode_text(data, origin="a")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            "« été »".encode("cp1252"),
            ["octet 0xab", "position 0", "iconv -f WINDOWS-1252 -t UTF-8"],
        ),
        (b"l\x92\xe9t\xe9", ["octet 0x92", "position 1", "iconv -f WINDOWS-1252 -t UTF-8"]),
        ("été".encode("utf-16"), ["UTF-16", "iconv -f UTF-16"]),
        ("bonjour".encode("utf-16-le"), ["octet nul", "iconv -f UTF-16"]),
        ("bonjour".encode("utf-16-be"), ["octet nul", "iconv -f UTF-16"]),
        (b"\x1f\x8b\x08\0rien", ["un fichier compressé", "décompressez-le"]),
        (b"\x28\xb5\x2f\xfdrien", ["un fichier compressé", "décompressez-le"]),
        (b"PK\x03\x04docx", ["une archive ZIP (docx", ".txt"]),
        (b"%PDF-1.7\n", ["un PDF", ".txt"]),
        (b"{\\rtf1 un}", ["traitement de texte", ".txt"]),
        (b"PAR1....PAR1", ["Parquet", ".parquet"]),
        (b"\x89PNG\r\n\x1a\n", ["une image"]),
        (b"\xff\xd8\xff\xe0", ["une image"]),
        (b"texte\0et binaire", ["octet nul à la position 5", "binaire"]),
        (bytes(range(1, 256)) * 4, ["octet 0x80", "binaire"]),
    ],
)
def test_what_is_not_utf8_is_named_with_what_to_do(data: bytes, words: list[str]) -> None:
    """« iconv » n'est conseillé que pour du texte, et depuis l'encodage qu'il a sans doute."""
    with pytest.raises(DataError) as caught:
        decode_text(data, origin="a.txt")
    assert all(word in str(caught.value) for word in ["a.txt", *words])
    assert ("iconv" in str(caught.value)) == any("iconv" in word for word in words)


def test_an_error_has_the_class_its_caller_wants(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xe9")
    (tmp_path / "b").write_bytes(b"long")
    for name in ("a", "b", "absent"):
        with pytest.raises(ConfigurationError, match=name):
            read_text(tmp_path / name, limit=3, error=ConfigurationError)
