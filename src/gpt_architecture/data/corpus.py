"""D'où vient le texte : fichiers, dossiers, ou corpus connus par leur nom.

Aucun réseau n'est touché, sauf pour `the-verdict` quand il n'est ni sur place ni en cache,
et jamais si `offline` est vrai.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.errors import DataError, reason

logger = logging.getLogger(__name__)

VERDICT = "the-verdict"
VERDICT_URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
    "ch02/01_main-chapter-code/the-verdict.txt"
)
VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
SHORT_STORY = "la-lampe-du-passeur"
CORPUS_NAMES = (VERDICT, SHORT_STORY)
TEXT_SUFFIXES = (".txt", ".md")
DOWNLOAD_TIMEOUT_S = 5.0
_VERDICT_MAX_BYTES = 1 << 20


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


def load_corpus(
    sources: Sequence[str | Path], *, offline: bool = False, cache_dir: Path | str | None = None
) -> Corpus:
    """Rassemble une ou plusieurs sources en un seul texte.

    Args:
        sources: chemins de fichiers ou de dossiers (leurs `.txt` et `.md`, triés), ou noms
            de corpus (`CORPUS_NAMES`).
        offline: interdit tout téléchargement.
        cache_dir: où garder les textes téléchargés ; None : le cache de l'utilisateur.

    Raises:
        DataError: source introuvable, vide, binaire ou d'un encodage autre qu'UTF-8.
    """
    if not sources:
        raise DataError(
            "aucune source de texte",
            expected="un fichier, un dossier ou un nom de corpus",
            remedy="donnez-en une",
        )
    cache_dir = None if cache_dir is None else Path(cache_dir)
    names: list[str] = []
    documents: list[str] = []
    origins: list[str] = []
    for source in sources:
        name, found = _resolve(str(source), offline=offline, cache_dir=cache_dir)
        names.append(name)
        for origin, text in found:
            origins.append(origin)
            documents.append(text)
    name = "+".join(names) if len(names) <= 3 else f"{names[0]}+… ({len(names)} sources)"
    return Corpus(name=name, text=END_OF_TEXT.join(documents), origins=tuple(origins))


def read_text(path: Path | str) -> str:
    """Lit un fichier texte UTF-8 ; le BOM est retiré et les fins de ligne deviennent LF.

    Raises:
        DataError: fichier absent, vide, binaire ou d'un autre encodage.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} ne peut pas être lu : {reason(error)}",
            expected="un fichier texte lisible",
            remedy="vérifiez le chemin et les droits",
        ) from None
    return decode_text(data, origin=str(path))


def decode_text(data: bytes, *, origin: str) -> str:
    """Décode des octets UTF-8 en texte, avec les règles de `read_text`.

    Raises:
        DataError: octets vides, binaires ou d'un autre encodage.
    """
    convert = "convertissez-le, par exemple : iconv -f ISO-8859-1 -t UTF-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{origin} commence par une marque UTF-16",
            expected="du texte UTF-8",
            remedy="convertissez-le, par exemple : iconv -f UTF-16 -t UTF-8",
        )
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{origin} : octet 0x{data[error.start]:02x} invalide à la position {error.start}",
            expected="du texte UTF-8",
            remedy=convert,
        ) from None
    if b"\0" in data:
        raise DataError(
            f"{origin} contient un octet nul à la position {data.index(0)}",
            expected="du texte, non un fichier binaire",
            remedy="retirez ce fichier des sources",
        )
    if not text.strip():
        raise DataError(
            f"{origin} est vide",
            expected="un fichier qui contient du texte",
            remedy="donnez un autre fichier",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _resolve(
    source: str, *, offline: bool, cache_dir: Path | None
) -> tuple[str, list[tuple[str, str]]]:
    """Nom court et documents (origine, texte) d'une source."""
    path = Path(source)
    try:
        exists = path.exists()
    except OSError:  # nom trop long pour ce système
        exists = False
    if source == VERDICT and not exists:
        return _verdict(offline=offline, cache_dir=cache_dir)
    if source == SHORT_STORY and not exists:
        return SHORT_STORY, [_short_story()]
    if exists and path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in TEXT_SUFFIXES
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        )
        if not files:
            raise DataError(
                f"aucun fichier {' ou '.join(TEXT_SUFFIXES)} dans {path}",
                expected="un dossier qui contient des textes",
                remedy="ajoutez-en ou donnez un autre dossier",
            )
        return path.resolve().name, [(str(file), read_text(file)) for file in files]
    if exists and path.is_file():
        return path.stem, [(str(path), read_text(path))]
    raise DataError(
        f"source de texte introuvable : {source[:200]}",
        expected=f"un fichier, un dossier ou l'un des noms {', '.join(CORPUS_NAMES)}",
        remedy="corrigez ce nom",
    )


def _short_story() -> tuple[str, str]:
    asset = resources.files("gpt_architecture.data").joinpath(f"texts/{SHORT_STORY}.txt")
    return SHORT_STORY, decode_text(asset.read_bytes(), origin=SHORT_STORY)


def _verdict(*, offline: bool, cache_dir: Path | None) -> tuple[str, list[tuple[str, str]]]:
    """*The Verdict* : fichier local, cache, téléchargement ; à défaut, la nouvelle embarquée."""
    cache_dir = user_cache_path("gpt-architecture") if cache_dir is None else cache_dir
    cached = cache_dir / f"{VERDICT}.txt"
    for candidate in (Path(f"{VERDICT}.txt"), Path("data") / f"{VERDICT}.txt", cached):
        if not candidate.is_file():
            continue
        try:
            data = candidate.read_bytes()
        except OSError as error:
            logger.warning("%s ignoré : %s", candidate, reason(error))
            continue
        if _is_verdict(data):
            return VERDICT, [(str(candidate), decode_text(data, origin=str(candidate)))]
        logger.warning("%s ignoré : son empreinte n'est pas celle de The Verdict", candidate)
    cause = "téléchargement interdit"
    if not offline:
        logger.info("téléchargement de The Verdict (%.0f s au plus)…", DOWNLOAD_TIMEOUT_S)
        downloaded, cause = _download(VERDICT_URL, DOWNLOAD_TIMEOUT_S)
        if downloaded is not None and _is_verdict(downloaded):
            _store(cached, downloaded)
            return VERDICT, [(VERDICT_URL, decode_text(downloaded, origin=VERDICT_URL))]
        if downloaded is not None:
            cause = "empreinte inattendue"
    logger.warning(
        "The Verdict n'est pas disponible (%s) : texte par défaut, la nouvelle « %s ». "
        "Pour l'imposer, donnez le chemin de the-verdict.txt",
        cause,
        SHORT_STORY,
    )
    return SHORT_STORY, [_short_story()]


def _is_verdict(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == VERDICT_SHA256


def _download(url: str, timeout_s: float) -> tuple[bytes | None, str]:
    """Octets reçus, ou None et la raison ; le délai couvre aussi la résolution de nom."""
    outcome: list[tuple[bytes | None, str]] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 — adresse du module
                outcome.append((response.read(_VERDICT_MAX_BYTES), ""))
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append((None, _network_reason(error)))

    worker = threading.Thread(target=fetch, daemon=True)
    worker.start()
    worker.join(timeout_s)
    return outcome[0] if outcome else (None, f"pas de réponse en {timeout_s:.0f} s")


def _network_reason(error: Exception) -> str:
    """La cause d'un téléchargement manqué, en trois mots."""
    cause = getattr(error, "reason", error)
    known = (
        (urllib.error.HTTPError, f"réponse HTTP {getattr(error, 'code', '?')}"),
        (TimeoutError, "délai dépassé"),
        (socket.gaierror, "nom de serveur introuvable"),
        (ConnectionRefusedError, "connexion refusée"),
    )
    for kind, text in known:
        if isinstance(error, kind) or isinstance(cause, kind):
            return text
    return f"réseau indisponible, {type(cause).__name__}"


def _store(path: Path, data: bytes) -> None:
    """Garde un téléchargement ; un cache qui refuse l'écriture n'empêche rien."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=DOWNLOAD_TIMEOUT_S):
            partial = path.with_suffix(".part")
            partial.write_bytes(data)
            partial.replace(path)
    except OSError as error:  # le délai du verrou en est une aussi
        logger.warning("cache non écrit (%s)", error)
