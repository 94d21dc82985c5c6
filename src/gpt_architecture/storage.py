"""Le disque : n'ouvrir que des fichiers, n'en croire que ce qui tient, écrire en entier ou rien.

Un tube, une prise ou un périphérique donné à la place d'un fichier ferait attendre sans fin, ou
lire sans fin : il est refusé avant d'être ouvert. Un texte qu'une personne a écrit est de l'UTF-8,
quels que soient son éditeur et son système : le BOM est retiré, les fins de ligne deviennent LF, et
tout autre encodage est refusé par son nom.

Ce qui s'écrit se prépare à côté, dans un dossier caché `.NOM.xxxxxxxx.tmp` qu'un verrou dit vivant.
Un processus tué y laisse son travail ; la prochaine écriture dans le même dossier, de n'importe
quelle commande, retire ceux que plus aucun processus ne tient.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpt_architecture.errors import DataError, GPTArchitectureError, OutputError, reason

if TYPE_CHECKING:
    from filelock import FileLock

MAX_TEXT_BYTES = 1 << 30
"""Un fichier de texte plus gros n'est pas lu d'un bloc."""

SAVE_AS_UTF8 = (
    "enregistrez-le en UTF-8, depuis son éditeur ou par : "
    "iconv -f {encoding} -t UTF-8 FICHIER > NOUVEAU"
)
_EXPORT = "enregistrez-en le texte dans un fichier .txt"
_UNPACK = "décompressez-le d'abord"

_FORMATS = (
    ((b"\xff\xfe", b"\xfe\xff"), "du texte UTF-16", SAVE_AS_UTF8.format(encoding="UTF-16")),
    ((b"\x1f\x8b", b"BZh91AY&SY", b"\xfd7zXZ\0"), "un fichier compressé", _UNPACK),
    ((b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c"), "un fichier compressé", _UNPACK),
    ((b"PK\x03\x04",), "une archive ZIP (docx, odt, epub, xlsx, pt…)", _EXPORT),
    ((b"%PDF-",), "un PDF", _EXPORT),
    ((b"{\\rtf", b"\xd0\xcf\x11\xe0"), "un document de traitement de texte", _EXPORT),
    ((b"PAR1",), "un fichier Parquet", "donnez-lui l'extension .parquet"),
    ((b"GGUF\x03\0", b"GGUF\x02\0"), "un modèle GGUF", "donnez un texte"),
    ((b"\x89PNG", b"\xff\xd8\xff", b"GIF89a"), "une image", "donnez un texte"),
)
_BINARY_SHARE = 50  # un octet de commande sur tant : ce n'est pas du texte mal encodé
_CONTROLS = bytes({*range(0x20)} - {*b"\t\n\r\f\x1b"})

_KINDS = (
    (stat.S_ISDIR, "c'est un dossier"),
    (stat.S_ISFIFO, "c'est un tube"),
    (stat.S_ISSOCK, "c'est une prise"),
    (stat.S_ISCHR, "c'est un périphérique"),
    (stat.S_ISBLK, "c'est un périphérique"),
)

MAX_DEPTH = 64
"""Imbrications au plus d'une description lue : au-delà, la réécrire déborderait la pile."""

_MAX_VALUES = 1 << 23  # un vocabulaire de 256 000 tokens et ses fusions en ont un million

_PLAIN = frozenset({str, int, float, bool, type(None)})
_TOO_DEEP = f"plus de {MAX_DEPTH} imbrications"

_BINARY = getattr(os, "O_BINARY", 0)  # Windows changerait les fins de ligne


class NotAFileError(OSError):
    """Ce chemin existe, mais ne mène pas à un fichier ordinaire ; `errors.reason` dit à quoi."""


def check_regular(path: Path | str) -> None:
    """Vérifie qu'un chemin mène à un fichier ordinaire, pour une bibliothèque qui l'ouvrira.

    Raises:
        NotAFileError: c'est autre chose.
        OSError: il n'y a rien, ou rien d'accessible.
    """
    _refuse_special(Path(path).stat().st_mode)


def open_regular(path: Path | str) -> BufferedReader:
    """Ouvre un fichier ordinaire en lecture, par octets.

    Raises:
        NotAFileError: c'est autre chose ; rien n'a été attendu ni lu.
        OSError: il n'y a rien, ou rien d'accessible.
    """
    check_regular(path)
    # O_NONBLOCK : si un tube a pris la place du fichier entre-temps, l'ouvrir n'attend pas.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    try:
        _refuse_special(os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(
    path: Path | str,
    *,
    expected: str = "un fichier de texte UTF-8",
    remedy: str = "vérifiez le chemin et les droits",
    limit: int = MAX_TEXT_BYTES,
    error: type[GPTArchitectureError] = DataError,
) -> str:
    """Le texte d'un fichier qu'une personne a écrit ; voir `decode_text`.

    Args:
        path: le fichier.
        expected: ce qui était attendu, pour les messages.
        remedy: que faire si le fichier ne s'ouvre pas, ou dépasse la limite.
        limit: octets au plus.
        error: ce qui est levé.

    Raises:
        DataError: ou `error` : fichier absent, illisible, trop gros, ou qui n'est pas de l'UTF-8.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as failure:
        raise error(
            f"{path} ne peut pas être lu : {reason(failure)}",
            expected=expected,
            remedy=remedy,
        ) from None
    if len(data) > limit:
        raise error(f"{path} dépasse {limit} octets", expected=expected, remedy=remedy)
    return decode_text(data, origin=str(path), error=error)


def decode_text(data: bytes, *, origin: str, error: type[GPTArchitectureError] = DataError) -> str:
    """Octets UTF-8 → texte : BOM retiré, CRLF et CR remplacés par LF.

    Raises:
        DataError: ou `error` : octets binaires, ou d'un autre encodage ; le remède dit lequel.
    """
    found = foreign_format(data)
    if found is not None:
        name, remedy = found
        raise error(f"{origin} est {name}", expected="du texte UTF-8", remedy=remedy)
    if b"\0" in data:
        wide = len(data) > 3 and not (any(data[:200:2]) and any(data[1:200:2]))
        encoding = SAVE_AS_UTF8.format(encoding="UTF-16") if wide else "donnez un texte"
        raise error(
            f"{origin} contient un octet nul à la position {data.index(0)}",
            expected="du texte UTF-8, non un fichier binaire",
            remedy=encoding,
        )
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as failure:
        head = data[:4096]
        is_text = len(head) - len(head.translate(None, _CONTROLS)) <= len(head) // _BINARY_SHARE
        encoding = SAVE_AS_UTF8.format(encoding="WINDOWS-1252") if is_text else "donnez un texte"
        raise error(
            f"{origin} : octet 0x{data[failure.start]:02x} invalide à la position {failure.start}",
            expected="du texte UTF-8" if is_text else "du texte UTF-8, non un fichier binaire",
            remedy=encoding,
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def foreign_format(data: bytes) -> tuple[str, str] | None:
    """Ce qu'est un fichier qui ne commence pas comme de l'UTF-8, et que faire ; None sinon."""
    return next(
        ((name, remedy) for marks, name, remedy in _FORMATS if data.startswith(marks)), None
    )


def _refuse_special(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFileError(
            next((name for test, name in _KINDS if test(mode)), "ce n'est pas un fichier")
        )


def read_json(path: Path | str, limit: int, *, finite: bool = False) -> Any:
    """Le contenu d'un fichier JSON d'au plus `limit` octets ; voir `parse_json`.

    Raises:
        OSError: il n'y a rien, rien d'accessible, ou ce n'est pas un fichier.
        ValueError: trop gros, ou ce n'est pas du JSON.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"plus de {limit >> 20} Mio")
    return parse_json(data, finite=finite)


def parse_json(data: str | bytes, *, finite: bool = False) -> Any:
    """Lit du JSON ; toute faute est dite par une `ValueError` en une phrase.

    Args:
        data: le texte.
        finite: refuse NaN et les infinis, que Python accepte.

    Raises:
        ValueError: ce n'est pas du JSON, ou il est démesuré.
    """
    try:
        content = json.loads(data, parse_constant=_refuse_constant if finite else None)
    except json.JSONDecodeError as error:
        raise ValueError(f"JSON mal formé, ligne {error.lineno}, colonne {error.colno}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"le texte n'est pas en UTF-8, octet {error.start}") from None
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:  # un nombre de milliers de chiffres
        known = isinstance(error, _NotFiniteError)
        raise ValueError(str(error) if known else "un nombre y est démesuré") from None
    check_plain(content)
    return content


def check_plain(value: Any) -> None:
    """Vérifie qu'une description lue se parcourt : ni sans fin, ni sans fond.

    Un pickle sait se contenir lui-même, et se répéter au point que l'écrire ne finirait pas.

    Raises:
        ValueError: trop d'imbrications ou de valeurs, ou l'une n'est pas d'un type de JSON.
    """
    level: list[Any] = [[value]]
    count = 0
    for _ in range(MAX_DEPTH + 2):
        if not level:
            return
        count += sum(map(len, level))
        if count > _MAX_VALUES:
            raise ValueError(f"plus de {_MAX_VALUES} valeurs")
        inside = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for values in inside for each in values if type(each) not in _PLAIN]
        odd = next((each for each in level if not isinstance(each, (dict, list, tuple))), None)
        if odd is not None:
            raise ValueError(f"une valeur y est de type {type(odd).__name__}")
    raise ValueError(_TOO_DEEP)


class _NotFiniteError(ValueError):
    """NaN ou un infini, que JSON n'a pas."""


def _refuse_constant(token: str) -> NoReturn:
    raise _NotFiniteError(f"{token} n'est pas du JSON")


_LOCK = ".verrou"
_REPLACED = "ancien"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
_ATTEMPTS = 8


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> None:
    """Fait écrire un fichier provisoire, le vide sur disque, puis le renomme en `path`.

    Raises:
        OutputError: le système refuse ; `path` n'a pas changé et le provisoire est retiré.
    """
    path = Path(path)
    try:
        if path.exists():  # renommer par-dessus /dev/null le supprimerait
            check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as folder:
            temporary = folder / path.name
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)  # celui que l'umask donne ici
            write(temporary)
            temporary.chmod(mode)  # safetensors écrit en 0600
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    except (OSError, RuntimeError, ValueError) as error:
        # torch.save dit un disque plein par RuntimeError, matplotlib un format par ValueError
        raise OutputError(
            f"impossible d'écrire {path} : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place ou changez de dossier",
        ) from error


def write_directory_atomically(path: Path | str, fill: Callable[[Path], object]) -> None:
    """Fait remplir un dossier provisoire, le vide sur disque, puis lui fait remplacer `path`.

    Raises:
        OSError: le système refuse ; rien n'a changé.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as folder:
        content = folder / path.name
        content.mkdir()
        fill(content)
        mode = content.stat().st_mode & 0o666
        for file in content.iterdir():
            file.chmod(mode)  # safetensors écrit en 0600
            sync(file)
        sync(content)
        if path.exists():
            path.rename(folder / _REPLACED)
        content.rename(path)
        sync(path.parent)


def check_writable(directory: Path | str) -> None:
    """Vérifie, en y écrivant, qu'un dossier, créé au besoin, accepte un fichier.

    Raises:
        OutputError: le système refuse.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _beside(directory / "essai") as folder:
            (folder / "essai").write_bytes(b"essai")
            sync(folder / "essai")
    except OSError as error:
        raise OutputError(
            f"impossible d'écrire dans {directory} : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place ou changez de dossier",
        ) from error


def sweep(directory: Path | str) -> list[Path]:
    """Retire d'un dossier ce que des processus tués y préparaient ; rend ce qui l'a été.

    Un dossier que le mort remplaçait, s'il n'a plus son nom, le reprend.
    """
    directory = Path(directory)
    try:
        found = [path for path in directory.iterdir() if _TEMPORARY.fullmatch(path.name)]
    except OSError:
        return []
    return [folder for folder in found if _is_ours(folder) and _erase_if_dead(folder)]


def sync(path: Path | str) -> None:
    """Vide un fichier, ou les noms d'un dossier, sur disque.

    Windows ne sait pas le faire d'un dossier, et demande qu'un fichier soit ouvert en écriture.
    """
    path = Path(path)
    is_directory = path.is_dir()
    if is_directory and os.name != "posix":
        return
    descriptor = os.open(path, (os.O_RDONLY if is_directory else os.O_RDWR) | _BINARY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Un dossier à côté de `path`, verrouillé le temps du bloc, puis retiré.

    Raises:
        OSError: le système refuse.
    """
    sweep(path.parent)
    folder, lock = _claim(path)
    try:
        yield folder
    finally:
        _erase(folder, lock)


def _claim(path: Path) -> tuple[Path, FileLock | None]:
    """Crée le dossier et prend son verrou ; sans verrou là où le système n'en a pas."""
    for _ in range(_ATTEMPTS):  # un balayage peut passer entre la création et le verrou
        folder = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        try:
            folder.mkdir()
            lock = _locked(folder)
        except FileExistsError:
            continue
        except NotImplementedError:
            return folder, None
        if lock is not None and (folder / _LOCK).exists():
            return folder, lock
    raise OSError("le dossier provisoire disparaît aussitôt créé")


def _locked(folder: Path) -> FileLock | None:
    """Le verrou d'un dossier provisoire ; None : un autre le tient, ou le dossier n'est plus.

    Raises:
        NotImplementedError: ce système de fichiers n'a pas de verrous.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 — `--help` n'en a pas besoin

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, FileNotFoundError):
        return None
    except OSError as error:
        raise NotImplementedError from error
    return lock


def _is_ours(folder: Path) -> bool:
    """Vrai si c'est un dossier que `_claim` a pu faire : vide, ou avec son verrou."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        return (folder / _LOCK).is_file() or not any(folder.iterdir())
    except OSError:
        return False


def _erase_if_dead(folder: Path) -> bool:
    try:
        if not (folder / _LOCK).exists():
            folder.rmdir()  # celui qui vient de le créer, s'il vit, recommencera
            return True
        lock = _locked(folder)
    except (OSError, NotImplementedError):
        return False
    if lock is None:
        return False
    _erase(folder, lock)
    return not folder.exists()


def _erase(folder: Path, lock: FileLock | None) -> None:
    """Retire un dossier provisoire, le verrou en dernier : à demi effacé, il serait à personne."""
    name = _TEMPORARY.fullmatch(folder.name)
    replaced = folder / _REPLACED
    with suppress(OSError):
        if name is not None and replaced.exists() and not os.path.lexists(folder.parent / name[1]):
            replaced.rename(folder.parent / name[1])
        for path in folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if lock is not None:
        lock.release()
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {_LOCK}:
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
