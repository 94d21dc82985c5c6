"""Ce qu'une sortie peut remplacer : ses propres écrits, jamais ce qui est lu.

Une seule règle, vérifiée avant tout long travail : une sortie ne remplace jamais ce que la
commande lit, et ne remplace que ses propres écrits, reconnus à leur signature, ou ce que `force`
désigne.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

from gpt_architecture.errors import OutputError, reason
from gpt_architecture.storage.reading import NotAFileError, open_regular

GENERATOR = "gpt-architecture"

_HEAD, _TAIL = 4096, 1 << 20  # un PDF se nomme à la fin, avant une table de 20 octets par objet
_OUTPUTS = frozenset(
    ("json_file", "report", "html", "trace_file", "out", "output", "output_dir", "dest")
)
"""Noms des options qui désignent une sortie : `check_outputs` n'y voit pas d'entrées."""

_SEAL = "# empreinte de ce qui précède : "

_EXPORTED = ("config.json", "adapter_config.json", "Modelfile")
"""Ce qui fait reconnaître un dossier que `convert` a écrit."""

Signature = Callable[[bytes, bytes], bool]
"""Reconnaît, à son début et à sa fin, un fichier qu'une même commande a écrit."""


def own_figure(head: bytes, tail: bytes) -> bool:
    """Une de nos figures, en PDF."""
    return head.startswith(b"%PDF") and f"/Creator ({GENERATOR})".encode() in tail


def json_of(command: str) -> Signature:
    """Le JSON d'une commande."""
    pattern = re.compile(rb'\s*\{\s*"generator":\s*"%s"' % f"{GENERATOR} {command}".encode())
    return lambda head, _tail: pattern.match(head) is not None


def page_of(template: str) -> Signature:
    """Une page HTML d'un de nos gabarits."""
    mark = f'<meta name="generator" content="{GENERATOR} {template}">'.encode()
    return lambda head, _tail: mark in head


def text_of(title: str) -> Signature:
    """Un texte dont la première ligne commence par `title`."""
    return lambda head, _tail: head.startswith(title.encode())


def sealed(text: str) -> str:
    """Un texte suivi de son empreinte, pour que `sealed_text` voie s'il a été retouché."""
    return f"{text}{_SEAL}{hashlib.sha256(text.encode('utf-8')).hexdigest()}\n"


def sealed_text(title: str) -> Signature:
    """Un texte de `sealed`, de ce titre, que personne n'a retouché depuis."""

    def recognizes(head: bytes, tail: bytes) -> bool:
        text, mark, seal = tail.rpartition(_SEAL.encode())
        whole = bool(mark) and seal.strip() == hashlib.sha256(text).hexdigest().encode()
        return whole and head.startswith(title.encode())

    return recognizes


def nothing(_head: bytes, _tail: bytes) -> bool:
    """Aucun fichier : --force seul en remplace un, quel qu'il soit."""
    return False


def check_free(path: Path | str, *, force: bool, directory: bool) -> None:
    """Refuse une destination déjà prise, sauf si l'on a demandé de la remplacer.

    Args:
        path: destination.
        force: accepte de la remplacer, si elle est du même genre que ce qu'on écrit.
        directory: on écrit un dossier ; sinon un fichier.

    Raises:
        OutputError: elle existe.
    """
    path = Path(path)
    other = "donnez une autre destination"
    if path.is_symlink():
        raise OutputError(f"{path} est un lien", expected="un nom libre", remedy=other)
    if not path.exists():
        return
    if not force:
        remedy = f"ajoutez `force` pour le remplacer, ou {other}"
        raise OutputError(f"{path} existe déjà", expected="un nom libre", remedy=remedy)
    if path.is_dir() != directory or (directory and not _is_exported(path)):
        raise OutputError(  # force n'efface pas un dossier personnel
            f"{path} n'est pas un modèle exporté qu'on puisse remplacer",
            expected="un nom libre, ou le même genre de modèle",
            remedy=other,
        )


def _is_exported(folder: Path) -> bool:
    """Vrai d'un dossier vide, ou de celui d'un modèle ou d'adaptateurs exportés."""
    return not any(folder.iterdir()) or any((folder / name).is_file() for name in _EXPORTED)


def check_outputs(
    outputs: Mapping[str, tuple[Path | None, Signature]], *, reads: Iterable[object], force: bool
) -> None:
    """Refuse, avant tout travail, une sortie qui en remplacerait une autre, ou une entrée.

    Args:
        outputs: nom de l'option → (son fichier, comment reconnaître ses propres écrits).
        reads: ce que la commande lit : chemins, textes qui en nomment, groupes d'options.
        force: accepte de remplacer un fichier qui n'est pas de la commande.

    Raises:
        OutputError: entrée de la commande, fichier d'autrui, dossier, périphérique, ou lieu où
            l'on ne peut pas écrire.
    """
    inputs = [path for path in _paths(reads) if exists(path)]
    seen: dict[str, str] = {}
    for option, (path, signature) in outputs.items():
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), option)
        if other != option:
            found = f"{other} et {option} nomment le même fichier, {path}"
            raise _refused(found, "un fichier pour chacun", option)
        _check_output(path, option, signature, inputs, force=force)


def _check_output(
    path: Path, option: str, signature: Signature, inputs: Sequence[Path], *, force: bool
) -> None:
    try:
        is_new = not path.exists()
        if not is_new:
            if path.is_dir():
                raise _refused(f"{path} est un dossier", "un nom de fichier", option)
            check_not_read(path, inputs, option)
        ours = is_new or is_own(path, signature)
    except OSError as error:
        raise _refused(f"{path} : {reason(error)}", "un nom de fichier", option) from None
    folder = next((each for each in inputs if each.is_dir() and _is_inside(path, each)), None)
    if folder is not None and not ours:
        found = f"{path} est dans {folder}, que cette commande lit"
        raise _refused(found, "un fichier qu'elle ne lit pas", option)
    if not ours and not force:
        never = signature is nothing
        raise OutputError(
            f"{path} existe déjà" + ("" if never else ", et cette commande ne l'a pas écrit ainsi"),
            expected="un nom libre" + ("" if never else ", ou son propre fichier, non retouché"),
            remedy=f"ajoutez `force` pour le remplacer, ou changez {option}",
        )
    _check_place(path, option)


def check_not_read(path: Path | str, reads: Iterable[object], option: str) -> None:
    """Refuse d'écrire sur ce que la commande lit, lien et lien physique compris.

    Args:
        path: le fichier ou le dossier à écrire.
        reads: voir `check_outputs`.
        option: ce qui le nomme, pour le message.

    Raises:
        OutputError: c'est une des entrées, ou un dossier qui en contient une.
    """
    path = Path(path)
    for source in _paths(reads):
        if not (exists(source) and path.exists()):
            continue
        if source.samefile(path) or (path.is_dir() and _is_inside(source, path)):
            found = f"{path} est aussi une entrée de cette commande"
            raise _refused(found, "un fichier qu'elle ne lit pas", option)


def is_own(path: Path | str, signature: Signature) -> bool:
    """Vrai si ce fichier porte la signature d'un de nos écrits.

    Raises:
        NotAFileError: ce n'est pas un fichier.
    """
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return signature(head, file.read())
    except NotAFileError:
        raise
    except OSError:  # illisible : ce n'est pas à nous de le remplacer
        return False


def _check_place(path: Path, option: str) -> None:
    """Le dossier, ou le plus proche qui existe, accepte un fichier."""
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = "on ne peut pas y écrire" if folder.is_dir() else "ce n'est pas un dossier"
        raise _refused(f"{folder} : {why}", "un dossier accessible en écriture", option)


def _paths(values: Iterable[object]) -> Iterator[Path]:
    """Les chemins que nomment des options ; un texte qui n'en est pas un ne désigne rien."""
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, str):
            if name := value.removeprefix("@"):  # un nom vide serait le dossier courant
                yield Path(name)
        elif isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif is_dataclass(value):
            names = [each.name for each in fields(value) if each.name not in _OUTPUTS]
            yield from _paths(getattr(value, name) for name in names)


def exists(path: Path | str) -> bool:
    """Vrai si ce chemin existe ; un texte qui ne peut en être un n'existe pas."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # trop long, ou octet nul : un texte
        return False


def is_folder(path: Path | str) -> bool:
    """Vrai si c'est un dossier ; un texte qui ne peut être un chemin n'en est pas un."""
    return exists(path) and Path(path).is_dir()


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refused(found: str, expected: str, option: str) -> OutputError:
    return OutputError(found, expected=expected, remedy=f"changez {option}")
