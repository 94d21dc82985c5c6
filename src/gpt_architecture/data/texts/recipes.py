"""Des textes du domaine public, épinglés : adresse, taille, empreinte et licence de chacun.

Le texte est cherché sur place, puis en cache, puis à son adresse ; d'où qu'il vienne, il n'est lu
que si son empreinte est la bonne. Les romans sont ceux d'ELTeC-fra (Schöch et Burnard, 2021), en
texte brut, à une version nommée par son commit : leur adresse ne peut pas changer de contenu.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.errors import DataError, OutputError, reason
from gpt_architecture.french import french_size
from gpt_architecture.storage import write_atomically

logger = logging.getLogger(__name__)

VERDICT = "the-verdict"
NOVELS = "romans-fr"
"""Le nom de tous les romans français à la fois."""
DOWNLOAD_TIMEOUT_S = 5.0
_SLOW_LINK = 50_000  # octets par seconde : ce délai s'ajoute au précédent
_ELTEC = (
    "https://raw.githubusercontent.com/COST-ELTeC/ELTeC-fra/"
    "83f0a43fdb967cd1db646027a1a237307e4924a1/plain1"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Un texte épinglé.

    Attributes:
        about: auteur, titre, année.
        licence: celle du texte.
        url: son adresse.
        size: octets.
        sha256: empreinte de ces octets.
    """

    about: str
    licence: str
    url: str
    size: int
    sha256: str


def _novel(about: str, file: str, size: int, sha256: str) -> Recipe:
    return Recipe(
        about=about,
        licence="domaine public",
        url=f"{_ELTEC}/{file}.txt",
        size=size,
        sha256=sha256,
    )


RECIPES: dict[str, Recipe] = {
    VERDICT: Recipe(
        about="Edith Wharton, « The Verdict », nouvelle anglaise, 1908",
        licence="domaine public",
        url="https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
        "ch02/01_main-chapter-code/the-verdict.txt",
        size=20_479,
        sha256="b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
    "le-cousin-pons": _novel(
        "Honoré de Balzac, « Le Cousin Pons », 1847",
        "FRA00502_Balzac",
        647_765,
        "1a4196a8f33e03ecb7291fa467ca5a1ca169eb5a6c6a6e4818c3770cbf21102c",
    ),
    "salammbo": _novel(
        "Gustave Flaubert, « Salammbô », 1862",
        "FRA01303_Flaubert",
        638_337,
        "f658286c79bc9d7deabe07cfb537736426e4a73a672abb5fc5a7eda705d63b79",
    ),
    "le-petit-chose": _novel(
        "Alphonse Daudet, « Le Petit Chose », 1868",
        "FRA00901_Daudet",
        495_505,
        "1b4475fb2ddb000e44ef270a22f8fbbe501915a6c6a19d89ea5854cb1da1d647",
    ),
    "l-education-sentimentale": _novel(
        "Gustave Flaubert, « L'Éducation sentimentale », 1869",
        "FRA01301_Flaubert",
        905_687,
        "5efde5c282b2bccbf609c7f9360f0848f230d55ec07c6554f95bcfd21cde6fec",
    ),
    "nanon": _novel(
        "George Sand, « Nanon », 1872",
        "FRA03701_Sand",
        556_012,
        "74ba465722cb6c323ebfe95f0c0d3afe8a4437f8b62aa20b88a84939cd5c0b37",
    ),
    "sans-famille": _novel(
        "Hector Malot, « Sans famille », 1878",
        "FRA02602_Malot",
        697_925,
        "8328e80e521b084056530895de06d998dce04caf6a395fa2be612fa8b7b17e8e",
    ),
    "un-capitaine-de-quinze-ans": _novel(
        "Jules Verne, « Un capitaine de quinze ans », 1878",
        "FRA04001_Verne",
        735_531,
        "0c349b9f8f2241589738cf337a81e5184f471aeabf347b728fec1e3334251628",
    ),
    "mon-frere-yves": _novel(
        "Pierre Loti, « Mon frère Yves », 1883",
        "FRA02501_Loti",
        419_178,
        "24b7b117a2017e0b5fd11a85a758c65a8d541f2f064173a212fc02dd6b14d631",
    ),
    "bel-ami": _novel(
        "Guy de Maupassant, « Bel-Ami », 1885",
        "FRA02701_Maupassant",
        646_283,
        "eb95ceaab31cbf1e7b47d6ae5c0da3235d3b8ce67385c8c2d30b2eea8f1cb293",
    ),
}
"""Nom → texte épinglé."""


def recipe_texts(name: str, *, offline: bool) -> list[Source] | None:
    """Les textes de ce nom ; None : il n'est celui d'aucun.

    Args:
        name: une recette, ou `NOVELS`.
        offline: interdit tout téléchargement.

    Raises:
        DataError: un texte n'est ni sur place, ni en cache, ni joignable.
    """
    if name == NOVELS:
        return [_required(each, offline=offline) for each in RECIPES if each != VERDICT]
    return [_required(name, offline=offline)] if name in RECIPES else None


def _required(name: str, *, offline: bool) -> Source:
    found, cause = pinned_text(name, offline=offline)
    if found is None:
        recipe = RECIPES[name]
        raise DataError(
            f"{name} n'est pas disponible ({cause})",
            expected=f"le réseau, ou {name}.txt ici, dans data ou dans {_cache_path(name).parent}, "
            f"d'empreinte SHA-256 {recipe.sha256}",
            remedy=f"relancez avec le réseau, ou apportez ce fichier de {recipe.url}",
        )
    return found


def pinned_text(name: str, *, offline: bool) -> tuple[Source | None, str]:
    """Le texte d'une recette, ou la raison de ne pas l'avoir.

    Args:
        name: une recette.
        offline: interdit tout téléchargement.
    """
    recipe, cached = RECIPES[name], _cache_path(name)
    for candidate in (Path(f"{name}.txt"), Path("data") / f"{name}.txt", cached):
        if not candidate.is_file():
            continue
        try:
            with candidate.open("rb") as file:
                data = file.read(recipe.size + 1)
        except OSError as error:
            logger.warning("%s ignoré : %s", candidate, reason(error))
            continue
        if _is_exact(data, recipe):
            return known_text(name, data, str(candidate)), ""
        logger.warning("%s ignoré : son empreinte n'est pas celle de %s", candidate, name)
    if offline:
        return None, "téléchargement interdit"
    timeout = DOWNLOAD_TIMEOUT_S + recipe.size / _SLOW_LINK
    size = french_size(recipe.size)
    logger.info("téléchargement de %s, %s (%.0f s au plus)…", name, size, timeout)
    data, cause = _download(recipe, timeout)
    if cause or not _is_exact(data, recipe):
        return None, cause or "empreinte inattendue"
    try:
        write_atomically(cached, lambda temporary: temporary.write_bytes(data))
    except OutputError as error:  # le cache n'est qu'une commodité
        logger.warning("cache non écrit : %s", error.found)
    return known_text(name, data, recipe.url), ""


def known_text(name: str, data: bytes, origin: str) -> Source:
    """Un texte connu par son nom, déjà en mémoire."""
    return Source(
        path=Path(name), kind="text", size=len(data), modified_ns=0, content=data, origin=origin
    )


def _cache_path(name: str) -> Path:
    return user_cache_path("gpt-architecture") / f"{name}.txt"


def _is_exact(data: bytes, recipe: Recipe) -> bool:
    return hashlib.sha256(data).hexdigest() == recipe.sha256


def _download(recipe: Recipe, timeout_s: float) -> tuple[bytes, str]:
    """Octets reçus, ou la raison de n'en avoir pas ; le délai couvre la résolution de nom."""
    outcome: list[tuple[bytes, str]] = []

    def fetch() -> None:
        try:
            with urllib.request.urlopen(recipe.url, timeout=timeout_s) as response:  # noqa: S310 — adresse du module
                outcome.append((response.read(recipe.size + 1), ""))
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
