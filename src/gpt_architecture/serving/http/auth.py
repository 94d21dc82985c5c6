"""Clés d'accès : qui a le droit de parler au service."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.http.exchange import Exchange, current
from gpt_architecture.serving.http.guard import PROBES
from gpt_architecture.serving.http.quotas import Access
from gpt_architecture.serving.openai.errors import ApiError
from gpt_architecture.storage import read_text

OPEN_PATHS = PROBES | {"/", "/docs", "/openapi.json"}
"""Adresses que sondes et navigateurs lisent sans clé ; elles ne disent rien du texte traité."""

_OPEN_PAGES = "/studio"
_CLOSED_DATA = "/studio/api/"
_SHORTEST = 16
_MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[\w.-]{1,32}")  # assez court pour qu'une clé n'y soit pas prise pour un nom
_LIMIT = re.compile(r"(requests|tokens)/min=([1-9][0-9]{0,9})", re.ASCII)


class KeyRing:
    """Des clés acceptées ; vide, tout le monde l'est.

    Une clé s'écrit `CLÉ`, ou `NOM CLÉ [requests/min=N] [tokens/min=N]`. Seules leurs empreintes
    sont gardées, et chaque essai les compare toutes en temps constant.

    Args:
        lines: les clés.

    Raises:
        ConfigurationError: une ligne ne dit pas une clé ; l'erreur n'en cite rien.
    """

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._keys = dict[bytes, Access]()
        self.replace(lines)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def names(self) -> list[str]:
        """Le nom de chaque clé."""
        return [access.name for access in self._keys.values()]

    def replace(self, lines: Iterable[str]) -> None:
        """Remplace toutes les clés, ou aucune ; qui garde son nom et ses limites garde son compte.

        Raises:
            ConfigurationError: une ligne ne dit pas une clé.
        """
        known = {access.name: access for access in self._keys.values()}
        found = dict[bytes, Access]()
        for number, line in enumerate(dict.fromkeys(lines), 1):
            digest, access = _parse(line, number)
            if digest in found or access.name in (each.name for each in found.values()):
                raise _bad_key(number, "reprend une clé ou un nom", "une autre à chaque ligne")
            before = known.get(access.name, access)
            found[digest] = before if before.limits == access.limits else access
        self._keys = found

    def find(self, authorization: str | None) -> Access | None:
        """La clé d'un en-tête `Authorization`, ou None si elle n'est pas connue."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip() if scheme.lower() == "bearer" else "")
        found = None
        for known, access in self._keys.items():
            if hmac.compare_digest(digest, known):
                found = access
        return found


def _parse(line: str, number: int) -> tuple[bytes, Access]:
    """L'empreinte d'une clé, et ce qu'elle permet ; rien de la ligne ne va dans une erreur."""
    words = line.split()
    name, key, *limits = words if len(words) > 1 else (f"clé {number}", *words, *[""][len(words) :])
    if len(key) < _SHORTEST or not (key.isascii() and key.isprintable()):
        raise _bad_key(
            number,
            f"compte {len(key)} caractères",
            f"au moins {_SHORTEST} caractères ASCII, sans espace",
            remedy="tirez-en une, par exemple avec « openssl rand -hex 24 »",
        )
    if len(words) > 1 and not _NAME.fullmatch(name):
        raise _bad_key(
            number, "n'a pas un nom correct", "au plus 32 lettres, chiffres, points ou tirets"
        )
    found = dict[str, int]()
    for limit in limits:
        matched = _LIMIT.fullmatch(limit)
        if matched is None or matched[1] in found:
            raise _bad_key(
                number, "est suivie de mots inconnus", "requests/min=N ou tokens/min=N, N positif"
            )
        found[matched[1]] = int(matched[2])
    access = Access(
        name, requests_per_minute=found.get("requests"), tokens_per_minute=found.get("tokens")
    )
    return _digest(key), access


def _bad_key(
    number: int, found: str, expected: str, *, remedy: str = "corrigez cette ligne"
) -> ConfigurationError:
    return ConfigurationError(
        f"la clé d'accès n° {number} {found}",
        expected=f"{expected} (NOM CLÉ requests/min=N tokens/min=N, ou CLÉ seule)",
        remedy=remedy,
    )


def read_keys(path: Path | str) -> list[str]:
    """Les clés d'un fichier, une par ligne ; `#` commence un commentaire.

    Raises:
        ConfigurationError: fichier illisible, ou sans clé.
    """
    path = Path(path)
    text = read_text(
        path,
        expected="un fichier de clés, une par ligne",
        remedy="corrigez `api_key_file`",
        limit=_MAX_FILE_BYTES,
        error=ConfigurationError,
    )
    lines = text.split("\n")
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigurationError(
            f"{path} ne contient aucune clé",
            expected="au moins une ligne",
            remedy="ajoutez-y une clé, ou retirez `api_key_file`",
        )
    return keys


class AuthMiddleware:
    """Refuse, avant de lire le corps, qui n'a pas de clé ; note le client pour le partage.

    Args:
        app: application protégée.
        keys: clés acceptées.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Traite une requête ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope["client"][0] if scope.get("client") else ""
        if self._keys:
            given, exchange = _header(scope, b"authorization"), current()
            exchange.access = self._keys.find(given)
            try:
                if not _is_open(scope["path"]):
                    self._admit(exchange, given)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
            if exchange.access is not None:
                client = exchange.access.name
        scope.setdefault("state", {})["client"] = client
        await self._app(scope, receive, send)

    @staticmethod
    def _admit(exchange: Exchange, given: str | None) -> None:
        """Refuse une clé inconnue (401), ou qui a fait toutes ses requêtes (429)."""
        if exchange.access is None:
            exchange.key_failure = "inconnue" if given else "absente"
            raise _refusal()
        exchange.access.admit()


def _refusal() -> ApiError:
    return ApiError(
        401,
        "clé d'accès absente ou inconnue ; envoyez « Authorization: Bearer CLÉ »",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or is_studio_file(path)


def is_studio_file(path: str) -> bool:
    """Vrai pour la page du studio et ses fichiers, faux pour ce qu'elle demande au service."""
    if path.startswith(_CLOSED_DATA):
        return False
    return path == _OPEN_PAGES or path.startswith(f"{_OPEN_PAGES}/")


def _header(scope: Scope, name: bytes) -> str | None:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
