"""Les origines de pages web permises (CORS), écrites comme un navigateur les envoie."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from gpt_architecture.errors import ConfigurationError

_ANY, _NO_PAGE = "*", "null"  # toutes ; une page sans adresse : un fichier, un cadre isolé
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOCAL = ("localhost", "127.", "[::1]")
_HOST = re.compile(r"[a-z0-9._-]+")


def check_origin(name: str, origin: str) -> None:
    """Vérifie qu'une origine, lue à la lettre, est de celles qu'un navigateur peut envoyer.

    Args:
        name: ce qui la porte, pour l'erreur.
        origin: `*`, `null`, ou `schéma://hôte[:port]`.

    Raises:
        ConfigurationError: aucun navigateur ne l'envoie sous cette forme.
    """
    sent = _as_sent(origin.strip())
    if sent == origin:
        return
    example = "une origine comme https://exemple.fr ou http://localhost:5173, ou *"
    raise ConfigurationError(
        f"{name} vaut « {origin} », qu'aucun navigateur n'envoie",
        expected="schéma://hôte[:port], en minuscules, sans chemin ni port ordinaire, "
        "ou * seul pour toutes les pages",
        remedy=f"écrivez {example if sent is None else sent}",
    )


def _as_sent(text: str) -> str | None:
    """La forme qu'envoie un navigateur pour une page de cette adresse ; None : il n'y en a pas."""
    if text in (_ANY, _NO_PAGE):
        return text
    if "://" not in text:
        text = f"{'http' if text.lower().startswith(_LOCAL) else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            host = f"[{ipaddress.IPv6Address(host).compressed}]"
        elif not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:  # port illisible, adresse ou nom impossibles
        return None
    if not (host.startswith("[") or _HOST.fullmatch(host)):
        return None
    suffix = "" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}"
    return f"{parts.scheme}://{host}{suffix}"
