"""Clés d'accès : qui a le droit de parler au service."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from gpt_architecture.errors import ConfigurationError, reason
from gpt_architecture.serving.errors import ApiError

OPEN_PATHS = frozenset({"/", "/health", "/metrics", "/docs", "/openapi.json"})
"""Adresses que sondes et navigateurs lisent sans clé ; elles ne disent rien du texte traité."""

_OPEN_PAGES = "/studio"
_CLOSED_DATA = "/studio/api/"
_SHORTEST = 16
_MAX_FILE_BYTES = 1 << 20


class KeyRing:
    """Des clés acceptées ; vide, tout le monde l'est.

    Seules leurs empreintes sont gardées, et chaque essai les compare toutes en temps constant.

    Args:
        keys: clés, d'au moins seize caractères.

    Raises:
        ConfigurationError: une clé est trop courte, ou contient autre chose que de l'ASCII visible.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        found = list(dict.fromkeys(keys))
        for key in found:
            if len(key) < _SHORTEST or not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigurationError(
                    f"une clé d'accès de {len(key)} caractères",
                    expected=f"au moins {_SHORTEST} caractères ASCII, sans espace",
                    remedy="tirez-en une, par exemple avec « openssl rand -hex 24 »",
                )
        self._digests = [_digest(key) for key in found]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def identify(self, authorization: str | None) -> str | None:
        """Le nom de la clé d'un en-tête `Authorization`, ou None si elle n'est pas connue."""
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip() if scheme.lower() == "bearer" else "")
        found = None
        for number, known in enumerate(self._digests):
            if hmac.compare_digest(digest, known):
                found = f"clé {number + 1}"
        return found


def read_keys(path: Path | str) -> list[str]:
    """Les clés d'un fichier, une par ligne ; `#` commence un commentaire.

    Raises:
        ConfigurationError: fichier illisible, ou sans clé.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            lines = file.read(_MAX_FILE_BYTES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} ne peut pas être lu : {reason(error)}",
            expected="un fichier de clés, une par ligne",
            remedy="corrigez `api_key_file`",
        ) from None
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
            found = self._keys.identify(_header(scope, b"authorization"))
            if found is None and not _is_open(scope["path"]):
                await _REFUSAL.response()(scope, receive, send)
                return
            client = found or client
        scope.setdefault("state", {})["client"] = client
        await self._app(scope, receive, send)


_REFUSAL = ApiError(
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
