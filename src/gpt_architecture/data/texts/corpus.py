"""D'où vient le texte : fichiers, dossiers, ou corpus connus par leur nom.

Toutes les commandes qui lisent des textes passent par ici : elles voient les mêmes documents, dans
le même ordre, d'un bloc (`read_documents`, `load_corpus`) ou au fil de l'eau (`SourceTexts`). Aucun
réseau n'est touché, sauf pour `the-verdict` et un nom `hf:` quand ils ne sont ni sur place ni en
cache, et jamais si `offline` est vrai.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from platformdirs import user_cache_path

from gpt_architecture.config import END_OF_TEXT, check_float
from gpt_architecture.data.texts import hub
from gpt_architecture.data.texts.documents import (
    EMPTY,
    NO_FIELD,
    Rejected,
    Skip,
    Tally,
    cut_pieces,
    documents_in,
    is_sampled,
    json_messages,
    stream_documents,
)
from gpt_architecture.data.texts.ingest import (
    RecordBlock,
    Source,
    check_text,
    find_sources,
    read_blocks,
    read_chunks,
)
from gpt_architecture.data.texts.installed import package_files
from gpt_architecture.data.texts.readers.base import FORMATS
from gpt_architecture.data.texts.shares import WHOLE, Share, owned
from gpt_architecture.errors import DataError, OutputError, nearest, reason
from gpt_architecture.french import plural
from gpt_architecture.storage import decode_text, exists, write_atomically

logger = logging.getLogger(__name__)

VERDICT = "the-verdict"
VERDICT_URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
    "ch02/01_main-chapter-code/the-verdict.txt"
)
VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
SHORT_STORY = "la-lampe-du-passeur"
CORPUS_NAMES = (VERDICT, SHORT_STORY)
DOWNLOAD_TIMEOUT_S = 5.0
_VERDICT_MAX_BYTES = 1 << 20
_MAX_RECORD_BYTES = 32 << 20
_PIECE_CHARACTERS = 1 << 16
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
        elif (found := package_files(str(source))) is not None:
            given += found
        elif str(source).startswith(hub.PREFIX):
            given += hub.dataset_files(str(source), offline=offline)
        else:
            near = nearest(str(source), CORPUS_NAMES)
            raise DataError(
                f"source de texte introuvable : {str(source)[:200]}",
                expected=f"un fichier, un dossier ou l'un des noms {', '.join(CORPUS_NAMES)} ou "
                f"{hub.PREFIX}AUTEUR/NOM",
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
    _refuse(skips, skip_bad=skip_bad)
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
    for block in read_blocks(source, field=field, max_record_bytes=_MAX_RECORD_BYTES):
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


def _refuse(skips: Sequence[Skip], *, skip_bad: bool) -> None:
    for skip in skips:
        skip.check(skip_bad=skip_bad)


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


@dataclass(frozen=True)
class _Texts:
    """Les textes d'un bloc, lus à mesure, et les octets de sa source."""

    texts: Iterator[str]
    consumed: int


class SourceTexts:
    """Les documents des sources, par morceaux et une seule fois.

    Un long fichier n'est jamais en mémoire en entier. D'une conversation (une ligne JSONL qui a
    `messages` et n'a pas ce champ), les textes sont ceux de ses messages.

    Args:
        sources: voir `find_texts`.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        sample: part des textes gardée, tirée par l'empreinte de chacun (un document, ou un morceau
            d'un long fichier) ; None : tous.
        share: la part des sources à lire ; elle peut n'avoir aucun texte.
        on_progress: reçoit les octets de sources lus, et leur total.

    Attributes:
        sources: les fichiers, dans l'ordre.
        tally: octets lus, octets de texte, et ce qui a été écarté.

    Raises:
        DataError: source absente ; à la lecture, un défaut, ou aucun texte.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        field: str | None = None,
        skip_bad: bool = False,
        offline: bool = True,
        sample: float | None = None,
        share: Share = WHOLE,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        if sample is not None:
            check_float("`sample`", sample, above=0.0, maximum=1.0)
        self.tally = Tally()
        self.sources, skips = find_texts(sources, offline=offline)
        self._skip_bad, self._sample, self._share = skip_bad, sample, share
        self._set_aside(skips)
        self._total = sum(source.size for source in self.sources)
        self._field, self._on_progress = field, on_progress

    def __iter__(self) -> Iterator[str]:
        for _, _, block in owned(self.sources, self._blocks, self._share):
            for text in block.texts:
                if self._sample is None or is_sampled(text, self._sample):
                    self.tally.text_bytes += len(text.encode("utf-8"))
                    yield text
            self._advance(block.consumed)
        if not self.tally.text_bytes and self._share == WHOLE:
            skipped = [f" : {cause}, {e['examples'][0]}" for cause, e in self.tally.skipped.items()]
            raise DataError(
                f"aucun texte dans les sources{''.join(skipped[:1])}",
                expected="au moins un texte lisible, en UTF-8",
                remedy="vérifiez les fichiers, `field` et `sample`",
            )

    def _blocks(self, source: Source) -> Iterator[_Texts]:
        if source.kind == "text":
            left = source.size  # décompressé, un texte a plus d'octets que son fichier
            try:
                if self._skip_bad:
                    check_text(source)
                for _, chunks in stream_documents(read_chunks(source)):
                    for piece in cut_pieces(chunks, _PIECE_CHARACTERS):
                        read = min(left, len(piece.encode("utf-8")))
                        left -= read
                        yield _Texts(iter([piece]), read)
            except Rejected as rejected:
                self._set_aside([Skip.of(rejected, source.label)])
            yield _Texts(iter(()), left)
            return
        for block in read_blocks(source, field=self._field, max_record_bytes=_MAX_RECORD_BYTES):
            yield _Texts(self._records(block), block.consumed)

    def _records(self, block: RecordBlock) -> Iterator[str]:
        self._set_aside(block.skips)
        for number, record in block.records:
            try:
                yield from self._texts(block, record)
            except Rejected as rejected:
                self._set_aside([Skip.of(rejected, block.place(number))])

    def _texts(self, block: RecordBlock, record: bytes) -> list[str]:
        is_json = block.kind in ("json", "jsonl")
        try:
            text = block.text_of(record, self._field)
        except Rejected as rejected:
            if is_json and rejected.reason == NO_FIELD and (found := json_messages(record)):
                return found
            raise
        return [document for _, document in documents_in(text)]

    def _set_aside(self, skips: Sequence[Skip]) -> None:
        _refuse(skips, skip_bad=self._skip_bad)
        self.tally.add_skips(skips)

    def _advance(self, read: int) -> None:
        self.tally.done_bytes += read
        self._on_progress(self.tally.done_bytes, self._total)


def _known(name: str, data: bytes, origin: str) -> Source:
    return Source(
        path=Path(name), kind="text", size=len(data), modified_ns=0, content=data, origin=origin
    )


def _short_story() -> Source:
    asset = resources.files("gpt_architecture.data").joinpath(f"assets/{SHORT_STORY}.txt")
    return _known(SHORT_STORY, asset.read_bytes(), SHORT_STORY)


def _verdict(*, offline: bool) -> Source:
    """*The Verdict* : fichier local, cache, téléchargement ; à défaut, la nouvelle embarquée."""
    cached = user_cache_path("gpt-architecture") / f"{VERDICT}.txt"
    for candidate in (Path(f"{VERDICT}.txt"), Path("data") / f"{VERDICT}.txt", cached):
        if not candidate.is_file():
            continue
        try:
            data = candidate.read_bytes()
        except OSError as error:
            logger.warning("%s ignoré : %s", candidate, reason(error))
            continue
        if hashlib.sha256(data).hexdigest() == VERDICT_SHA256:
            return _known(VERDICT, data, str(candidate))
        logger.warning("%s ignoré : son empreinte n'est pas celle de The Verdict", candidate)
    cause = "téléchargement interdit"
    if not offline:
        logger.info("téléchargement de The Verdict (%.0f s au plus)…", DOWNLOAD_TIMEOUT_S)
        data, cause = _download(VERDICT_URL, DOWNLOAD_TIMEOUT_S)
        if not cause and hashlib.sha256(data).hexdigest() == VERDICT_SHA256:
            try:
                write_atomically(cached, lambda temporary: temporary.write_bytes(data))
            except OutputError as error:  # le cache n'est qu'une commodité
                logger.warning("cache non écrit : %s", error.found)
            return _known(VERDICT, data, VERDICT_URL)
        cause = cause or "empreinte inattendue"
    logger.warning(
        "The Verdict n'est pas disponible (%s) : texte par défaut, la nouvelle « %s ». "
        "Pour l'imposer, donnez le chemin d'un the-verdict.txt",
        cause,
        SHORT_STORY,
    )
    return _short_story()


def _download(url: str, timeout_s: float) -> tuple[bytes, str]:
    """Octets reçus, ou la raison de n'en avoir pas ; le délai couvre la résolution de nom."""
    outcome: list[tuple[bytes, str]] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 — adresse du module
                outcome.append((response.read(_VERDICT_MAX_BYTES), ""))
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append((b"", _network_reason(error)))

    worker = threading.Thread(target=fetch, daemon=True)
    worker.start()
    worker.join(timeout_s)
    return outcome[0] if outcome else (b"", f"pas de réponse en {timeout_s:.0f} s")


def _network_reason(error: Exception) -> str:
    """La cause d'un téléchargement manqué, en trois mots."""
    cause = getattr(error, "reason", error)
    known = (
        (urllib.error.HTTPError, f"réponse HTTP {getattr(error, 'code', '?')}"),
        (TimeoutError, "délai dépassé"),
        (socket.gaierror, "nom de serveur introuvable"),
        (ConnectionRefusedError, "connexion refusée"),
    )
    found = (text for kind, text in known if isinstance(error, kind) or isinstance(cause, kind))
    return next(found, f"réseau indisponible, {type(cause).__name__}")
