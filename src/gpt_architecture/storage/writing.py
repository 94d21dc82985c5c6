"""Écrire en entier ou rien.

Ce qui s'écrit se prépare à côté, dans un dossier caché `.NOM.xxxxxxxx.tmp` qu'un verrou dit vivant.
Un processus tué y laisse son travail ; la prochaine écriture dans le même dossier, de n'importe
quelle commande, retire ceux que plus aucun processus ne tient.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_architecture.errors import ConfigurationError, OutputError
from gpt_architecture.storage.overwriting import GENERATOR, check_free
from gpt_architecture.storage.reading import O_BINARY, check_regular

if TYPE_CHECKING:
    from filelock import FileLock
    from matplotlib.figure import Figure

FIGURE_FORMATS = ("pdf", "svg", "png", "jpg", "jpeg", "webp")
"""Formats d'une figure : l'extension de son fichier en est un."""

_LOCK = ".verrou"
_REPLACED = "ancien"
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp")
_ATTEMPTS = 8


def write_atomically(
    path: Path | str, write: Callable[[Path], object], *, private: bool = False
) -> None:
    """Fait écrire un fichier provisoire, le vide sur disque, puis le renomme en `path`.

    Args:
        path: le fichier.
        write: reçoit le provisoire.
        private: son propriétaire seul pourra le lire (0600).

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
            if private:
                mode = stat.S_IRUSR | stat.S_IWUSR
                temporary.chmod(mode)  # avant d'y écrire
            write(temporary)
            temporary.chmod(mode)  # safetensors écrit en 0600
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    except (OSError, RuntimeError, ValueError) as error:
        # torch.save dit un disque plein par RuntimeError, matplotlib un format par ValueError
        raise OutputError.refused(path, error) from error


def system_error(error: Exception, path: Path | str) -> OSError:
    """L'erreur du système que safetensors ne rapporte que par un texte : « os error 28 »."""
    code = re.search(r"os error (\d+)", str(error))
    if code is None:
        return OSError(str(error))
    return OSError(int(code[1]), os.strerror(int(code[1])), str(path))


def write_figure(path: Path | str, figure: Figure) -> Path:
    """Écrit une figure de matplotlib, signée si son format le permet ; rend son chemin.

    Raises:
        ConfigurationError: l'extension du fichier ne dit pas un format de figure.
        OutputError: le système refuse.
    """
    path = Path(path)
    form = path.suffix[1:].lower()
    if form not in FIGURE_FORMATS:
        raise ConfigurationError(
            f"{path} n'a pas l'extension d'une figure",
            expected=", ".join(f".{each}" for each in FIGURE_FORMATS),
            remedy="changez cette extension",
        )
    signature = {"Creator": GENERATOR} if form == "pdf" else None
    write_atomically(
        path, lambda temporary: figure.savefig(temporary, format=form, metadata=signature)
    )
    return path


def write_directory(
    path: Path | str, fill: Callable[[Path], object], *, force: bool = False
) -> None:
    """Fait remplir un dossier provisoire voisin, le vide sur disque, puis le renomme en `path`.

    Args:
        path: dossier à écrire ; son parent est créé au besoin.
        fill: reçoit le dossier provisoire et y écrit.
        force: remplace le dossier `path` s'il existe, une fois le nouveau prêt.

    Raises:
        OutputError: `path` existe sans `force`, ou le système refuse ; rien n'a changé.
    """
    path = Path(path)
    sweep(path.parent)  # rend d'abord son nom à ce qu'un processus tué remplaçait
    check_free(path, force=force, directory=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as folder:
            content = folder / path.name
            content.mkdir()
            fill(content)
            mode = content.stat().st_mode & 0o666
            for each in sorted(content.rglob("*"), reverse=True):  # un dossier après ce qu'il tient
                if each.is_file():
                    each.chmod(mode)  # safetensors écrit en 0600
                sync(each)
            sync(content)
            if path.exists():
                path.rename(folder / _REPLACED)
            content.rename(path)
            sync(path.parent)
    except (OSError, RuntimeError) as error:
        remedy = "libérez de la place ou donnez une autre destination"
        raise OutputError.refused(path, error, remedy=remedy) from error


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
        raise OutputError.refused(f"dans {directory}", error) from error


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
    descriptor = os.open(path, (os.O_RDONLY if is_directory else os.O_RDWR) | O_BINARY)
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
        folder = path.parent / f".{path.name}.{os.urandom(4).hex()}.tmp"
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
    import shutil  # noqa: PLC0415 — une aide n'en a pas besoin

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
