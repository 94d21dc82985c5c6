"""Une source, un bloc d'enregistrements, un format, et le registre des formats."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as made_of
from pathlib import Path

from gpt_architecture.data.texts.documents import TOO_LONG, Skip, clean_bytes, printable
from gpt_architecture.errors import DataError, MissingDependencyError
from gpt_architecture.french import french_number

BLOCK_BYTES = 1 << 20

TEXT_FIELDS = (
    *("text", "texte", "content", "contenu", "body", "corps", "document", "raw_content"),
    *("plain_text", "full_text", "article"),
)
"""Noms de champs ou de colonnes qui portent à l'évidence le texte ; le premier l'emporte."""

Layer = tuple[str, str]
"""Une enveloppe : son codec, et le nom du membre si c'est une archive."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Un fichier à lire, le membre d'une archive, ou un texte connu par son nom.

    Attributes:
        path: son chemin, tel que donné ou trouvé, suivi du nom du membre ; ou son nom.
        kind: le nom de son format (voir `Format`).
        size: sa taille sur le disque, en octets.
        modified_ns: sa date de modification, en nanosecondes ; 0 pour un texte connu.
        content: les octets d'un texte connu par son nom, déjà lus.
        origin: d'où vient ce texte, si ce n'est pas `path`.
        layers: ce qui l'enveloppe, du dehors au dedans.
        file: le fichier qui le contient, si ce n'est pas `path`.
    """

    path: Path
    kind: str
    size: int
    modified_ns: int
    content: bytes | None = None
    origin: str = ""
    layers: tuple[Layer, ...] = ()
    file: Path | None = None

    @property
    def label(self) -> str:
        """La source, pour les messages."""
        return self.origin or str(self.path)

    @property
    def short_name(self) -> str:
        """La source, sans les dossiers qui y mènent."""
        inside = None if self.file is None else self.path.relative_to(self.file.parent)
        return printable(self.origin or str(inside or self.path.name))

    @property
    def on_disk(self) -> Path:
        """Le fichier à ouvrir."""
        return self.path if self.file is None else self.file

    def check_unchanged(self) -> None:
        """Vérifie que le fichier est encore celui du départ.

        Raises:
            DataError: taille ou date différente.
        """
        if self.content is not None:
            return
        try:
            now = self.on_disk.stat()
            same = now.st_mtime_ns == self.modified_ns
            same = same and (self.file is not None or now.st_size == self.size)
        except OSError:
            same = False
        if not same:
            raise DataError(
                f"{self.on_disk} a changé pendant la préparation",
                expected="des sources immobiles",
                remedy="relancez avec `force` quand elles ne changent plus",
            )


@dataclass(frozen=True, kw_only=True)
class RecordBlock:
    """Des documents bruts d'une même source.

    Attributes:
        label: celui de la source.
        records: (numéro, octets) ; le numéro est une ligne, une rangée ou un objet (depuis 1), ou
            0 pour un fichier entier.
        kind: le format dont l'extraction tire le texte d'un enregistrement.
        field: champ du texte, s'il est connu.
        skips: ce que la lecture a écarté.
        consumed: octets de la source lus pour ce bloc.
    """

    label: str
    records: list[tuple[int, bytes]] = made_of(default_factory=list)
    kind: str = "text"
    field: str | None = None
    skips: list[Skip] = made_of(default_factory=list)
    consumed: int = 0

    def text_of(self, record: bytes, field: str | None) -> str:
        """Le texte d'un enregistrement, nettoyé.

        Args:
            record: ses octets.
            field: champ du texte ; None : celui que la lecture a trouvé.

        Raises:
            Rejected: il ne convient pas.
        """
        return FORMATS[self.kind].extract(record, field or self.field)

    def place(self, number: int) -> str:
        """« fichier » ou « fichier:ligne »."""
        return f"{self.label}:{number}" if number else self.label


Read = Callable[[Source, str | None, int], Iterator[RecordBlock]]
"""(source, champ demandé, octets au plus d'un enregistrement) → blocs ; peut lever `Rejected`."""


def _plain(record: bytes, _field: str | None) -> str:
    return clean_bytes(record)


@dataclass(frozen=True, kw_only=True)
class Format:
    """Une façon d'écrire des textes.

    Attributes:
        name: son nom, celui des sources et des blocs.
        suffixes: ses extensions, en minuscules.
        read: découpe une source en enregistrements bruts.
        extract: le texte nettoyé d'un enregistrement, étant donné le champ.
        parse: pour un document composé, son texte ; appelé dans un processus à part.
        magic: les premiers octets d'un tel fichier ; sans eux, ce n'en est pas un.
        guess: reconnaît ce format à son début, si l'extension ne dit rien.
        unit: le nom d'un enregistrement ; vide : le fichier entier.
        needs: modules facultatifs sans lesquels il ne se lit pas, et leurs paquets.
        extra: le groupe facultatif qui les installe ; None : le paquet suffit.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Read
    extract: Callable[[bytes, str | None], str] = _plain
    parse: Callable[[bytes], str] | None = None
    magic: tuple[bytes, ...] = ()
    guess: Callable[[bytes], bool] = lambda _head: False
    unit: str = ""
    needs: tuple[tuple[str, str], ...] = ()
    extra: str | None = "documents"

    def check_installed(self) -> None:
        """Vérifie que ce format peut se lire ici.

        Raises:
            MissingDependencyError: une bibliothèque manque.
        """
        for module, package in self.needs:
            if importlib.util.find_spec(module) is None:
                raise MissingDependencyError(
                    package, purpose=f"lire {', '.join(self.suffixes)}", extra=self.extra
                )


FORMATS: dict[str, Format] = {}


def register(found: Format) -> None:
    """Inscrit un format."""
    FORMATS[found.name] = found


def suffixes() -> Iterable[str]:
    """Toutes les extensions lues, dans l'ordre des formats."""
    return (suffix for each in FORMATS.values() for suffix in each.suffixes)


def pick_field(names: Iterable[str]) -> str | None:
    """Le champ qui porte à l'évidence le texte ; None : aucun, ou plusieurs."""
    known = [name for name in names if name.strip().lower() in TEXT_FIELDS]
    if TEXT_FIELDS[0] in known:
        return TEXT_FIELDS[0]
    return known[0] if len(known) == 1 else None


def too_long(where: str, limit: int) -> Skip:
    """Un enregistrement qui dépasse la limite."""
    return Skip(reason=TOO_LONG, where=f"{where} (plus de {french_number(limit)} octets)")
