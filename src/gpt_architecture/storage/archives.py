"""Les archives de `torch.save` : le CRC32 de chaque enregistrement, relu sans attendre PyTorch.

Relire un modèle de 124M dure quelques dixièmes de seconde sur deux cœurs ; importer PyTorch, plus
d'une seconde sur un seul. Une commande qui sait quel fichier elle lira commence donc par le relire
dans un autre thread (`check_ahead`), et n'en attend le résultat qu'au moment de s'en servir.
"""

from __future__ import annotations

import threading
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from gpt_architecture.storage.reading import check_regular

CHECKED_BELOW = 1 << 30
"""Octets jusqu'auxquels un modèle est vérifié à chaque chargement : quelques dixièmes de seconde
par Gio. Au-delà, il l'est quand on le demande."""

_CHUNK = 1 << 22
_THREADS = 2  # le calcul d'un CRC32 rend la main à l'autre

_Identity = tuple[int, int, int, int, int]
_ahead: dict[_Identity, Future[list[str]]] = {}
"""La dernière relecture commencée, d'un fichier de cette identité."""


def check_ahead(path: Path | str) -> None:
    """Commence à relire une archive, si c'en est une et qu'elle sera vérifiée ; n'attend rien."""
    path = Path(path)
    try:
        check_regular(path)
        identity = _identity(path)
    except OSError:  # qui ouvrira le fichier dira pourquoi
        return
    if path.suffix == ".pt" and identity[2] < CHECKED_BELOW:
        _ahead.clear()  # ce que personne n'est venu chercher
        _ahead[identity] = _start(lambda: _damaged(path))


def damaged_records(path: Path | str) -> list[str]:
    """Les enregistrements d'une archive qui ont changé depuis son écriture.

    Ce que `check_ahead` a déjà relu ne l'est pas deux fois, tant que le fichier n'a pas changé.

    Returns:
        Leurs noms, sans le dossier commun : « data/7 », « data.pkl » ; rien pour un fichier sans
        sommes de contrôle, d'avant PyTorch 1.6 ou écrit sans elles (aucune n'est alors juste).

    Raises:
        OSError, zipfile.BadZipFile: fichier illisible.
    """
    path = Path(path)
    check_regular(path)
    found = _ahead.pop(_identity(path), None)
    return _damaged(path) if found is None else found.result()


def _start(work: Callable[[], list[str]]) -> Future[list[str]]:
    """Le travail d'un thread que la fin du processus n'attend pas ; un exécuteur l'attendrait."""
    found = Future[list[str]]()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # rendue à qui attend le résultat
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found


def _damaged(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        left = iter(names)  # chaque thread y prend le suivant

        def altered() -> list[str]:
            return [name for name in left if not _is_sound(archive, name)]

        parts = [_start(altered) for _ in range(_THREADS)]
        found = {name for part in parts for name in part.result()}
    return [name.partition("/")[2] for name in names if name in found and found != set(names)]


def _is_sound(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as record:
            while record.read(_CHUNK):
                pass
    except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error):
        return False
    return True


def _identity(path: Path) -> _Identity:
    """De quoi reconnaître un fichier, et voir qu'il a changé."""
    found = path.stat()
    written = found.st_mtime_ns, found.st_ctime_ns  # la première se choisit, la seconde non
    return found.st_dev, found.st_ino, found.st_size, *written
