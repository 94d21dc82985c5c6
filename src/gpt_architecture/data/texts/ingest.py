"""Les sources d'un corpus : tout ce qui se lit, reconnu par son contenu et son extension.

La lecture ne fait que découper ; extraire, nettoyer et coder est le travail des processus (voir
`data.shards.encode`). Un bloc dépend du contenu seul : les mêmes sources donnent les mêmes blocs.
Les formats sont ceux du registre (voir `readers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gpt_architecture.data.texts import readers  # noqa: F401 — les formats s'inscrivent
from gpt_architecture.data.texts.documents import (
    HARMLESS,
    LEFT_OUT,
    MISNAMED,
    NOT_READ,
    REPEATED,
    UNKNOWN_KIND,
    UNREADABLE,
    Rejected,
    Skip,
    decode_stream,
)
from gpt_architecture.data.texts.readers import layers
from gpt_architecture.data.texts.readers.base import FORMATS, Format, RecordBlock, Source, suffixes
from gpt_architecture.data.texts.readers.layers import read_chunks
from gpt_architecture.errors import DataError, reason
from gpt_architecture.storage import check_regular, exists, is_plain

__all__ = ["RecordBlock", "Source", "check_text", "find_sources", "read_blocks", "read_chunks"]

_DOCUMENTS = (
    (".ipynb", "exportez-en le texte, par exemple en Markdown"),
    (".xlsx .xls .ods", "enregistrez-le en .csv"),
    (".doc .rtf .pptx .odp .xml", "enregistrez-le en .docx, .odt, .pdf ou .txt"),
    (".7z .tar .tgz .rar", "décompressez-le, ou faites-en un .zip"),
)
"""Extensions de documents qui ne sont pas lus, et ce qu'il faut en faire."""

_REFUSED = (
    *_DOCUMENTS,
    (
        ".png .jpg .jpeg .gif .webp .svg .mp3 .wav .ogg .mp4 .mkv .avi .pt .pth .safetensors .gguf "
        ".onnx .bin .npy .npz .pickle .pkl .db .sqlite .exe .dll .so .pyc",
        "retirez-le des sources",
    ),
)
"""Extensions de ce qui n'est pas du texte suivi, et ce qu'il faut en faire."""

_SHEETS, _EXPORT = "un classeur ou une présentation", "enregistrez-en le texte"
_HEAD_BYTES = 1024
_HIDDEN = (".", "~$")  # un fichier caché, et le verrou que Word pose à côté d'un document ouvert
_OF_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})  # que Windows pose dans les dossiers
_OPEN_DOCUMENT = b"application/vnd.oasis.opendocument."
_PACKAGES = {
    b"application/epub+zip": "epub",
    _OPEN_DOCUMENT + b"text": "odt",
}


@dataclass(frozen=True, kw_only=True)
class _Finder:
    """Reconnaît des fichiers ; `skips` reçoit ce qui n'en est pas."""

    skips: list[Skip]

    def find(self, source: Source, *, named: bool) -> Iterator[Source]:
        """Les sources que contient un fichier : une, ou plusieurs s'il s'agit d'une archive."""
        try:
            yield from self._identified(source, source.path.name, named=named)
        except Rejected as rejected:
            self.skips.append(Skip.of(rejected, source.label))

    def _identified(self, source: Source, name: str, *, named: bool) -> Iterator[Source]:
        """Décide du format d'un fichier dont `name` est le nom, enveloppes ôtées."""
        claimed = _format_of(name)
        head = b"".join(_first(source))
        codec = layers.codec_of(head)
        if codec == "zip":
            kind = _package_kind(source, head, claimed, named=named)
            if kind is None:
                yield from self._members(source)
                return
            yield _checked(replace(source, kind=kind))
        elif codec is not None:
            _check_depth(source)
            inside = replace(source, layers=(*source.layers, (codec, "")))
            suffix = layers.SUFFIXES[codec]
            shorter = name[: -len(suffix)] if name.lower().endswith(suffix) else name
            yield from self._identified(inside, shorter, named=named)
        else:
            yield from self._plain(source, name, head, claimed, named=named)

    def _plain(
        self, source: Source, name: str, head: bytes, claimed: Format | None, *, named: bool
    ) -> Iterator[Source]:
        """Un fichier sans enveloppe : son contenu décide, puis son extension."""
        found = _by_magic(head)
        if claimed is not None and not _needs_mark(claimed) and is_plain(head):
            found = None  # un texte qui commence par « %PDF- » ou « PAR1 »
        if found is None and claimed is None:
            found = next((each for each in FORMATS.values() if each.guess(head)), None)
        kept = found or claimed
        if kept is not None:
            if found is None and _needs_mark(kept):
                said = f"ce n'est pas un {_suffix(kept, name)}"
                raise Rejected(MISNAMED, said, remedy="donnez-lui sa vraie extension")
            yield _checked(replace(source, kind=kept.name))
            return
        if name.lower().endswith(tuple(layers.SUFFIXES.values())):
            raise Rejected(UNREADABLE, "le contenu n'est pas celui d'un fichier compressé")
        for endings, remedy in _REFUSED if named else _DOCUMENTS:
            if name.lower().endswith(tuple(endings.split())):
                raise _not_read("", remedy, named=named)
        if not named:
            raise Rejected(UNKNOWN_KIND)
        yield replace(source, kind="text")

    def _members(self, archive: Source) -> Iterator[Source]:
        _check_depth(archive)
        for entry in layers.members(archive):
            where = f"{archive.label}/{entry.filename}"
            if layers.is_unsafe(entry.filename):
                self.skips.append(Skip(reason=layers.UNSAFE, where=where))
                continue
            member = replace(
                archive,
                path=archive.path / entry.filename,
                file=archive.on_disk,
                size=entry.compress_size,
                layers=(*archive.layers, ("zip", entry.filename)),
            )
            yield from self.find(member, named=False)


def find_sources(given: Sequence[str | Path | Source]) -> tuple[list[Source], list[Skip]]:
    """Les fichiers à lire, dans l'ordre donné ; ceux d'un dossier ou d'une archive sont triés.

    Un dossier est parcouru en entier, sans ses éléments cachés, les verrous de Word, ce que Windows
    y pose, ni ses liens vers des dossiers.
    Un fichier donné par son nom est lu comme du texte si rien ne dit ce qu'il est.

    Args:
        given: fichiers et dossiers ; une source déjà trouvée passe telle quelle.

    Returns:
        Les sources, et ce qui n'en est pas.

    Raises:
        DataError: un chemin n'existe pas, ou aucun fichier ne convient.
        MissingDependencyError: un fichier demande une bibliothèque qui n'est pas là.
    """
    sources: list[Source] = []
    skips: list[Skip] = []
    seen: set[Path] = set()
    finder = _Finder(skips=skips)
    for each in given:
        if isinstance(each, Source):
            sources.append(each)
            continue
        for path in _files(Path(each), skips):
            resolved = path.resolve()
            if resolved in seen:
                skips.append(Skip(reason=REPEATED, where=str(path)))
                continue
            seen.add(resolved)
            try:
                check_regular(path)
                status = path.stat()
            except OSError as error:
                skips.append(Skip(reason=UNREADABLE, where=f"{path} ({reason(error)})"))
                continue
            size, modified = status.st_size, status.st_mtime_ns
            source = Source(path=path, kind="text", size=size, modified_ns=modified)
            sources += finder.find(source, named=path == Path(each))
    if not sources:
        if len(skips) == 1 and skips[0].reason not in HARMLESS:
            raise skips[0].error()
        shown = ", ".join(str(each)[:200] for each in given[:3])
        cause = f" : {skips[0].where}, {skips[0].reason}" if skips else ""
        raise DataError(
            f"aucun texte à lire dans {shown}{cause}",
            expected=f"des fichiers {', '.join(suffixes())}, compressés ou non",
            remedy=(skips[0].remedy if skips else "") or "ajoutez-en ou donnez une autre source",
        )
    return sources, skips


def _files(given: Path, skips: list[Skip]) -> Iterator[Path]:
    """Les fichiers que désigne un chemin."""
    if not exists(given):
        raise DataError(
            f"source introuvable : {str(given)[:200]}",
            expected="un fichier ou un dossier",
            remedy="corrigez ce chemin",
        )
    yield from _walk(given, skips) if given.is_dir() else [given]


def _walk(folder: Path, skips: list[Skip]) -> Iterator[Path]:
    """Les fichiers d'un dossier, dans l'ordre de leurs chemins."""
    pending = [folder]
    while pending:
        path = pending.pop()
        try:
            if not path.is_dir():
                yield path
            elif path == folder or not path.is_symlink():
                pending += sorted(filter(_is_visible, path.iterdir()), reverse=True)
        except OSError as error:
            skips.append(Skip(reason=UNREADABLE, where=f"{path} ({reason(error)})"))


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(_HIDDEN) and path.name.lower() not in _OF_SYSTEM


def read_blocks(
    source: Source, *, field: str | None, max_record_bytes: int
) -> Iterator[RecordBlock]:
    """Lit une source par blocs d'environ 1 Mio ; un fichier texte est un seul document.

    Une lecture impossible finit le fichier par un bloc qui le dit ; ce qui précède est gardé. Les
    octets lus de tous les blocs font la taille de la source.

    Args:
        source: le fichier.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        max_record_bytes: un enregistrement plus long est écarté.

    Raises:
        MissingDependencyError: ce format demande une bibliothèque qui n'est pas là.
    """
    done = 0
    try:
        for block in FORMATS[source.kind].read(source, field, max_record_bytes):
            consumed = min(max(block.consumed, 0), source.size - done)
            done += consumed
            yield replace(block, consumed=consumed)
    except Rejected as rejected:
        skips = [Skip.of(rejected, source.label)]
        yield RecordBlock(label=source.label, skips=skips, consumed=source.size - done)
    else:
        if done < source.size:
            yield RecordBlock(label=source.label, consumed=source.size - done)


def check_text(source: Source) -> None:
    """Lit un texte à blanc : un fichier fautif est écarté entier, et non lu jusqu'à sa faute.

    Raises:
        Rejected: il ne convient pas.
    """
    for _ in decode_stream(read_chunks(source)):
        pass


def _first(source: Source) -> Iterator[bytes]:
    """Les premiers octets d'une source."""
    try:
        with layers.opened(source) as (file, _):
            yield file.read(_HEAD_BYTES)
    except OSError as error:
        raise Rejected(UNREADABLE, reason(error)) from None


def _by_magic(head: bytes) -> Format | None:
    return next(
        (each for each in FORMATS.values() if each.magic and head.startswith(each.magic)), None
    )


def _needs_mark(found: Format) -> bool:
    """Vrai d'un format qu'une marque annonce toujours."""
    return bool(found.magic) or found.name in ("docx", "odt", "epub")


def _suffix(found: Format, name: str) -> str:
    return next(each for each in found.suffixes if name.lower().endswith(each))


def _format_of(name: str) -> Format | None:
    return next((each for each in FORMATS.values() if name.lower().endswith(each.suffixes)), None)


def _checked(source: Source) -> Source:
    FORMATS[source.kind].check_installed()
    return source


def _check_depth(source: Source) -> None:
    if len(source.layers) >= layers.MAX_LAYERS:
        raise Rejected(layers.NESTED, f"plus de {layers.MAX_LAYERS} enveloppes")


def _not_read(what: str, remedy: str, *, named: bool) -> Rejected:
    """Un défaut du fichier que l'on nomme ; celui que l'on trouve dans un dossier est laissé là."""
    if named:
        return Rejected(NOT_READ, what, remedy=remedy)
    return Rejected(LEFT_OUT, " ; ".join(filter(None, (what, remedy))))


def _package_kind(
    source: Source, head: bytes, claimed: Format | None, *, named: bool
) -> str | None:
    """Le format d'un document qui est une archive ; None : une archive ordinaire.

    Raises:
        Rejected: un document qui n'est pas lu ici.
    """
    mimetype = head[38:].split(b"PK", 1)[0] if head[30:38] == b"mimetype" else b""
    if (kind := _PACKAGES.get(mimetype)) is not None:
        return kind
    if mimetype.startswith(_OPEN_DOCUMENT):
        raise _not_read(_SHEETS, _EXPORT, named=named)
    if claimed is not None and claimed.name in ("docx", "odt", "epub"):
        return claimed.name
    names = {entry.filename for entry in layers.members(source)}
    if "word/document.xml" in names:
        return "docx"
    if "[Content_Types].xml" in names:
        raise _not_read(_SHEETS, _EXPORT, named=named)
    if any(name.endswith("/data.pkl") for name in names):
        raise _not_read("un modèle PyTorch", "retirez-le des sources", named=named)
    return None
