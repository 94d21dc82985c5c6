"""Le disque : seuls les fichiers s'ouvrent, JSON a des bornes, rien de provisoire ne reste."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gpt_architecture.data.tokenizers.json_file import write_json
from gpt_architecture.errors import ConfigurationError, DataError, OutputError, reason
from gpt_architecture.storage import (
    MAX_DEPTH,
    NotAFileError,
    check_plain,
    check_regular,
    check_writable,
    decode_text,
    open_regular,
    parse_json,
    read_json,
    read_text,
    sweep,
    write_atomically,
    write_directory,
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
    ("text", "said"),
    [
        ('{"a":', "JSON mal formé, ligne 1, colonne 6"),
        ("", "JSON mal formé, ligne 1, colonne 1"),
        ("[" * 100_000, "plus de 64 imbrications"),
        ("[" * 65 + "]" * 65, "plus de 64 imbrications"),
        ("9" * 5_000, "un nombre y est démesuré"),
        (b"\xff\xfe\xfd", "le texte n'est pas en UTF-8, octet 2"),
        ("[-Infinity]", "-Infinity n'est pas du JSON"),
    ],
)
def test_a_fault_in_json_is_one_french_sentence(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text, finite=True)
    assert reason(caught.value) == said


def test_json_within_bounds_is_read(tmp_path: Path) -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert str(parse_json(deepest)) == deepest
    assert parse_json("[NaN, 1e400]")[1] == float("inf")
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1]}')
    assert read_json(path, 10) == {"a": [1]}
    with pytest.raises(ValueError, match="plus de 9 octets"):
        read_json(path, 9)


@pytest.mark.slow
def test_what_a_pickle_alone_can_build_is_bounded() -> None:
    endless: list[object] = []
    endless.append(endless)
    doubled: list[object] = [1]
    for _ in range(40):
        doubled = [doubled, doubled]
    with pytest.raises(ValueError, match="imbrications"):
        check_plain(endless)
    with pytest.raises(ValueError, match="valeurs"):
        check_plain({"a": (doubled,)})


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Un dossier vide."""
    folder = tmp_path / "ici"
    folder.mkdir()
    return folder


WRITER = """
import sys, time
from pathlib import Path
from gpt_architecture.storage import write_atomically, write_directory
def fill(path):
    target = path / "poids.bin" if path.is_dir() else path
    target.write_bytes(b"moitie")
    target.unlink()
    target.write_bytes(b"autre inode")  # comme safetensors
    print("pret", flush=True)
    time.sleep(300)
write = {"fichier": write_atomically, "dossier": write_directory}[sys.argv[1]]
write(Path(sys.argv[2]), fill)
"""


def writer(kind: str, path: Path) -> subprocess.Popen[str]:
    """Un processus qui écrit, et n'en finit pas."""
    command = [sys.executable, "-c", WRITER, kind, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "pret\n"
    return process


def stop(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.wait(60)
    assert process.stdout is not None
    process.stdout.close()


@pytest.mark.timeout(120)
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL est propre à POSIX")
@pytest.mark.parametrize("kind", ["fichier", "dossier"])
def test_what_a_killed_writer_left_goes_at_the_next_writing(here: Path, kind: str) -> None:
    """Par n'importe quel écrivain, de n'importe quel nom ; un vivant garde le sien."""
    dead, alive = writer(kind, here / "mort"), writer(kind, here / "vivant")
    stop(dead, signal.SIGKILL)
    (here / ".à moi.0123abcd.tmp").mkdir()
    (here / ".à moi.0123abcd.tmp/notes").touch()
    names = {path.name.split(".")[1] for path in here.iterdir()}
    assert names == {"mort", "vivant", "à moi"}
    write_json(here / "autre.json", {"a": 1})
    names = {path.name.split(".")[1] for path in here.glob(".*")}
    assert names == {"vivant", "à moi"}
    assert (here / ".à moi.0123abcd.tmp/notes").exists()
    stop(alive, signal.SIGKILL)
    assert [path.name.split(".")[1] for path in sweep(here)] == ["vivant"]
    assert not (here / "vivant").exists()


def leftover(folder: Path, name: str) -> Path:
    """Ce que laisse un processus tué."""
    path = folder / f".{name}.0123abcd.tmp"
    path.mkdir()
    (path / ".verrou").touch()
    return path


def test_a_replaced_directory_gets_its_name_back(here: Path) -> None:
    """Tué entre les deux renommages, l'export d'avant n'a plus de nom : il n'est pas effacé."""
    path = leftover(here, "export")
    (path / "ancien").mkdir()
    (path / "ancien/config.json").write_text("{}")
    with pytest.raises(OutputError, match="existe déjà"):
        write_directory(here / "export", lambda _folder: None)
    assert [p.name for p in here.iterdir()] == ["export"]
    assert (here / "export/config.json").read_text() == "{}"


def test_a_folder_may_hold_folders(here: Path) -> None:
    """À toute profondeur, un fichier a les droits d'un fichier ; un dossier se parcourt."""

    def fill(folder: Path) -> None:
        (folder / "a/b").mkdir(parents=True)
        for name in ("un", "a/deux", "a/b/trois"):
            (folder / name).write_text(name)
            (folder / name).chmod(0o600)

    write_directory(here / "export", fill)
    for name in ("un", "a/deux", "a/b/trois"):
        assert (here / "export" / name).read_text() == name
        mode = (here / "export" / name).stat().st_mode
        assert mode & 0o777 == (here / "export").stat().st_mode & 0o666


def test_every_writing_sweeps(here: Path) -> None:
    for index, write in enumerate(
        (
            lambda: write_atomically(here / "a/b", lambda path: path.write_bytes(b"b")),
            lambda: write_json(here / "a/c.json", {}),
            lambda: write_directory(here / "a/d", lambda path: (path / "e").touch()),
            lambda: check_writable(here / "a"),
        )
    ):
        (here / "a").mkdir(exist_ok=True)
        left = leftover(here / "a", f"reste-{index}")
        (left / "reste").write_bytes(b"moitie")
        write()
        assert not left.exists()
    assert {path.name for path in (here / "a").iterdir()} == {"b", "c.json", "d"}


def test_a_failed_writing_leaves_nothing(here: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"moitie")
        raise OSError(28, "plein")

    (here / "a").write_bytes(b"avant")
    with pytest.raises(OutputError, match="disque plein"):
        write_atomically(here / "a", fail)
    assert (here / "a").read_bytes() == b"avant"
    with pytest.raises(OutputError, match="impossible d'écrire"):
        check_writable(here / "a")
    assert [path.name for path in here.iterdir()] == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="les liens demandent des droits sous Windows")
def test_a_link_is_never_followed(here: Path) -> None:
    target = leftover(here, "x").rename(here / "précieux")
    (here / ".y.0123abcd.tmp").symlink_to(target)
    assert sweep(here) == []
    assert (target / ".verrou").exists()


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
            ["octet 0xab", "position 0", "iconv -f ISO-8859-1 -t UTF-8"],
        ),
        (b"l\x92\xe9t\xe9", ["octet 0x92", "position 1", "iconv -f WINDOWS-1252 -t UTF-8"]),
        ("œuf".encode("cp1252"), ["octet 0x9c", "iconv -f WINDOWS-1252 -t UTF-8"]),
        ("été ".encode() + b"\xe9t\xe9", ["octet 0xe9", "position 6", "mêle l'UTF-8 et un autre"]),
        ("été".encode("utf-16"), ["UTF-16", "iconv -f UTF-16"]),
        ("bonjour".encode("utf-16-le"), ["octet nul", "iconv -f UTF-16"]),
        ("bonjour".encode("utf-16-be"), ["octet nul", "iconv -f UTF-16"]),
        (b"\x1f\x8b\x08\0rien", ["un fichier compressé", "décompressez-le"]),
        (b"\x28\xb5\x2f\xfdrien", ["un fichier compressé", "décompressez-le"]),
        (b"PK\x03\x04docx", ["une archive ZIP (docx", ".txt"]),
        (b"%PDF-1.7\n1 0 obj", ["un PDF", ".txt"]),
        (b"{\\rtf1 un}", ["traitement de texte", ".txt"]),
        (b"PAR1\x15\x04\x15PAR1", ["Parquet", ".parquet"]),
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
