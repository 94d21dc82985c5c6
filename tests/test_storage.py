"""Le disque : seuls les fichiers ordinaires s'ouvrent, et JSON se lit dans des bornes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gpt_architecture.errors import reason
from gpt_architecture.storage import (
    MAX_DEPTH,
    NotAFileError,
    check_plain,
    check_regular,
    open_regular,
    parse_json,
    read_json,
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
    with pytest.raises(ValueError, match="plus de 0 Mio"):
        read_json(path, 9)


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
