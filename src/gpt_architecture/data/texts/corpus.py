"""D'où vient le texte : fichiers, dossiers, ou corpus connus par leur nom.

Toutes les commandes qui lisent des textes passent par ici : elles voient les mêmes documents, dans
le même ordre, d'un bloc (`read_documents`, `load_corpus`) ou au fil de l'eau (`SourceTexts`). Aucun
réseau n'est touché, sauf pour une recette et un nom `hf:` quand ils ne sont ni sur place ni en
cache, et jamais si `offline` est vrai.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts import hub
from gpt_architecture.data.texts.documents import EMPTY, Rejected, Skip, documents_in
from gpt_architecture.data.texts.ingest import Source, find_sources, read_blocks
from gpt_architecture.data.texts.installed import package_files
from gpt_architecture.data.texts.readers.base import FORMATS
from gpt_architecture.data.texts.recipes import (
    NOVELS,
    RECIPES,
    VERDICT,
    known_text,
    pinned_text,
    recipe_texts,
)
from gpt_architecture.errors import DataError, nearest
from gpt_architecture.french import plural
from gpt_architecture.storage import decode_text, exists

logger = logging.getLogger(__name__)

SHORT_STORY = "la-lampe-du-passeur"
CORPUS_NAMES = (*RECIPES, NOVELS, SHORT_STORY)
MAX_RECORD_BYTES = 32 << 20
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Document:
    """Un document d'un corpus.

    Attributes:
        name: son nom parmi les autres : « livre.txt », « notes.jsonl:12 », « livre.txt#3 ».
        origin: sa source.
        text: son texte, où `<|endoftext|>` n'est plus.
    """

    name: str
    origin: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Un texte prêt à l'emploi et sa provenance.

    Attributes:
        name: nom court, pour les messages et les métadonnées.
        text: le texte ; plusieurs documents sont séparés par `<|endoftext|>`.
        origins: fichiers ou sources, dans l'ordre.
    """

    name: str
    text: str
    origins: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Empreinte du texte (UTF-8)."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


def find_texts(
    sources: Sequence[str | Path], *, offline: bool = False
) -> tuple[list[Source], list[Skip]]:
    """Les textes à lire, dans l'ordre, et ce qui n'en est pas ; voir `ingest.find_sources`.

    Args:
        sources: chemins de fichiers ou de dossiers ; ou noms de corpus (`CORPUS_NAMES`), de paquets
            (`installed`) ou de jeux de données (`hub`), qui ne sont pas aussi des chemins.
        offline: interdit tout téléchargement.

    Raises:
        DataError: source absente, ou d'un format qui n'est pas lu ; le message dit quoi en faire.
    """
    if not sources:
        raise DataError(
            "aucune source de texte",
            expected="un fichier, un dossier ou un nom de corpus",
            remedy="donnez-en une",
        )
    given: list[str | Path | Source] = []
    for source in sources:
        if exists(source):
            given.append(source)
        elif source == VERDICT:
            given.append(_verdict(offline=offline))
        elif source == SHORT_STORY:
            given.append(_short_story())
        elif (texts := recipe_texts(str(source), offline=offline)) is not None:
            given += texts
        elif (found := package_files(str(source))) is not None:
            given += found
        elif str(source).startswith(hub.PREFIX):
            given += hub.dataset_files(str(source), offline=offline)
        else:
            near = nearest(str(source), CORPUS_NAMES)
            raise DataError(
                f"source de texte introuvable : {str(source)[:200]}",
                expected=f"un fichier, un dossier, un nom de corpus ({VERDICT}, {SHORT_STORY}, "
                f"{NOVELS}…) ou {hub.PREFIX}AUTEUR/NOM",
                remedy=(near or "corrigez ce chemin").replace("`", ""),
            )
    return find_sources(given)


def read_documents(
    sources: Sequence[str | Path],
    *,
    field: str | None = None,
    offline: bool = False,
    skip_bad: bool = False,
) -> Iterator[Document]:
    """Les documents des sources, un à un : ce que voit `shards.prepare`, sans rien écarter à tort.

    Ce qui n'est pas un texte dans un dossier, un fichier déjà lu et un document vide sont laissés
    de côté, et c'est dit ; tout défaut arrête la lecture et est nommé, sauf avec `skip_bad`.

    Args:
        sources: voir `find_texts`.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        offline: voir `find_texts`.
        skip_bad: laisse aussi de côté ce qui est illisible, abîmé ou trop gros.

    Raises:
        DataError: source absente, défaut, ou aucun texte.
        MissingDependencyError: un fichier demande une bibliothèque qui n'est pas là.
    """
    found, skips = find_texts(sources, offline=offline)
    for skip in skips:
        skip.check(skip_bad=skip_bad)
    count, aside = 0, [*skips]
    for source in found:
        separated = 0
        for each in _records(source, field, strict=not skip_bad):
            if isinstance(each, Skip):
                aside.append(each)
                continue
            name, parts = each
            separated += len(parts) - 1
            for rank, part in enumerate(parts, start=1):
                count += 1
                label = f"{name}#{rank}" if len(parts) > 1 else name
                yield Document(name=label, origin=source.label, text=part)
        if separated:
            logger.info(
                "%s : %s, écrit dans le texte, y sépare %d documents de plus",
                *(source.label, END_OF_TEXT, separated),
            )
    if not count:
        where = aside[0].where if aside else found[0].label
        raise DataError(
            f"aucun texte : {where} est {EMPTY}"
            if not aside or aside[0].reason == EMPTY
            else f"aucun texte : {where}, {aside[0].reason}",
            expected="un fichier qui contient du texte",
            remedy="donnez un autre fichier",
        )
    _report_skips(aside)


def load_corpus(
    sources: Sequence[str | Path],
    *,
    field: str | None = None,
    offline: bool = False,
    skip_bad: bool = False,
) -> Corpus:
    """Rassemble une ou plusieurs sources en un seul texte ; voir `read_documents`.

    Raises:
        DataError: source absente, illisible ou vide, ou ligne qui ne convient pas.
    """
    documents = list(read_documents(sources, field=field, offline=offline, skip_bad=skip_bad))
    origins = tuple(dict.fromkeys(each.origin for each in documents))
    names = [_short_name(source, origins) for source in sources]
    return Corpus(
        name="+".join(names) if len(names) <= 3 else f"{names[0]}+… ({len(names)} sources)",
        text=END_OF_TEXT.join(each.text for each in documents),
        origins=origins,
    )


def _records(
    source: Source, field: str | None, *, strict: bool
) -> Iterator[tuple[str, list[str]] | Skip]:
    """(Nom, documents) de chaque enregistrement, ou pourquoi il n'en a pas.

    Raises:
        DataError: `strict`, et un enregistrement a un défaut.
    """
    unit = FORMATS[source.kind].unit
    for block in read_blocks(source, field=field, max_record_bytes=MAX_RECORD_BYTES):
        for skip in block.skips:
            skip.check(skip_bad=not strict)
            yield skip
        for number, record in block.records:
            where = f"{source.label}, {unit} {number}" if number else source.label
            try:
                found = documents_in(block.text_of(record, field))
            except Rejected as rejected:
                if strict and source.kind == "text" and rejected.reason != EMPTY:
                    _explain(record, where)
                skip = Skip.of(rejected, where)
                skip.check(skip_bad=not strict)
                yield skip
                continue
            name = source.path.name
            yield f"{name}:{number}" if number else name, [text for _, text in found]


def _explain(record: bytes, where: str) -> None:
    """Refuse un texte mal codé en disant l'octet, sa place et l'encodage.

    Raises:
        DataError: il l'est.
    """
    try:
        decode_text(record, origin=where)
    except DataError as error:
        raise DataError(
            error.found,
            expected=error.expected,
            remedy=f"{error.remedy}, ou écartez de tels textes par `skip_bad`",
        ) from None


def _report_skips(skips: Sequence[Skip]) -> None:
    """Dit ce qui est laissé de côté, par raison."""
    for kind in dict.fromkeys(skip.reason for skip in skips):
        places = [skip.where for skip in skips if skip.reason == kind]
        shown = " ; ".join([*places[:_SHOWN], *(["…"] if len(places) > _SHOWN else [])])
        left = plural(len(places), "laissé")
        logger.warning("%d %s de côté, %s : %s", len(places), left, kind, shown)


def _short_name(source: str | Path, origins: Sequence[str]) -> str:
    """« livre » pour livre.txt, le nom d'un dossier, le texte lu pour un corpus connu."""
    path = Path(source)
    if exists(path):
        return path.resolve().name if path.is_dir() else path.stem
    if source == VERDICT and SHORT_STORY in origins:
        return SHORT_STORY
    return str(source)


def _short_story() -> Source:
    asset = resources.files("gpt_architecture.data").joinpath(f"assets/{SHORT_STORY}.txt")
    return known_text(SHORT_STORY, asset.read_bytes(), SHORT_STORY)


def _verdict(*, offline: bool) -> Source:
    """*The Verdict* ; à défaut, la nouvelle embarquée."""
    found, cause = pinned_text(VERDICT, offline=offline)
    if found is None:
        logger.warning(
            "The Verdict n'est pas disponible (%s) : texte par défaut, la nouvelle « %s ». "
            "Pour l'imposer, donnez le chemin d'un the-verdict.txt",
            cause,
            SHORT_STORY,
        )
    return found or _short_story()
