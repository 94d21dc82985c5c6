"""Une chaîne d'empreintes : chaque maillon scelle celui d'avant, et une clé peut signer le dernier.

Le fichier est du JSON trié, un maillon par ligne : le vérifier ne demande que `json` et `hashlib`.
L'empreinte d'un maillon est le sha256 de son JSON compact, trié, sans elle-même ; `previous` est
celle du maillon d'avant, ou soixante-quatre zéros. La signature est d'Ed25519 (RFC 8032).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_architecture.errors import (
    CertificateError,
    ConfigurationError,
    MissingDependencyError,
    reason,
)
from gpt_architecture.storage.reading import open_regular, read_at_most, read_json_object
from gpt_architecture.storage.writing import write_atomically

FORMAT = "gpt-architecture/certificat"
VERSION = 1
CERTIFICATE = "certificat.json"
"""Son nom, à côté du modèle."""

ORIGIN = "0" * 64
"""Ce que le premier maillon nomme, faute d'un maillon d'avant."""

MAX_BYTES = 16 << 20
_MAX_KEY = 1 << 14
_INTACT = "un certificat écrit par « gpt-architecture train »"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def canonical(value: Mapping[str, Any]) -> str:
    """Le JSON d'un objet tel que les empreintes le lisent : compact, trié, en ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(link: Mapping[str, Any]) -> str:
    """L'empreinte d'un maillon, prise sans elle-même."""
    body = {name: value for name, value in link.items() if name != "sha256"}
    return hashlib.sha256(canonical(body).encode()).hexdigest()


@dataclass(kw_only=True)
class Chain:
    """Des maillons, du premier au dernier.

    Attributes:
        links: chacun un objet de types simples, avec `kind`, `previous` et `sha256`.
        signature: la clé publique, ce qui est signé et la signature ; None : aucune.
    """

    links: list[dict[str, Any]] = field(default_factory=list)
    signature: Mapping[str, str] | None = None

    @property
    def head(self) -> str:
        """L'empreinte du dernier maillon : elle tient toute la chaîne."""
        return str(self.links[-1]["sha256"]) if self.links else ORIGIN

    def add(self, kind: str, **values: Any) -> dict[str, Any]:
        """Ajoute un maillon ; le rend."""
        link = {"kind": kind, "previous": self.head, **values}
        link["sha256"] = digest_of(link)
        self.links.append(link)
        return link

    def broken(self) -> Iterator[int]:
        """Les places des maillons qui ne suivent pas le leur, ou n'ont pas leur empreinte."""
        previous = ORIGIN
        for place, link in enumerate(self.links):
            if link.get("previous") != previous or link.get("sha256") != digest_of(link):
                yield place
            previous = str(link.get("sha256"))

    def save(self, path: Path | str, signer: Signer | None = None) -> None:
        """Écrit la chaîne, entière ou pas du tout ; la signe si une clé est donnée.

        Sans clé, une signature d'avant reste, et ne vaut que pour les maillons qu'elle tient.

        Raises:
            OutputError: le disque refuse ; l'ancien fichier est intact.
        """
        if signer is not None:
            self.signature = signer.sign(self.head)
        lines = ",\n".join(map(canonical, self.links))
        signature = "null" if self.signature is None else canonical(self.signature)
        text = (
            f'{{"format":"{FORMAT}","links":[\n{lines}\n],\n'
            f'"signature":{signature},"version":{VERSION}}}\n'
        )
        write_atomically(path, lambda temporary: temporary.write_bytes(text.encode()))


def read_chain(path: Path | str) -> Chain:
    """Lit un certificat ; ses empreintes ne sont pas encore vérifiées (voir `Chain.broken`).

    Raises:
        CertificateError: fichier absent, trop gros, abîmé ou d'un autre format.
    """
    path = Path(path)
    remedy = "reprenez le fichier d'origine"
    content = read_json_object(
        path, MAX_BYTES, error=CertificateError, expected=_INTACT, remedy=remedy, finite=True
    )
    version, links, signature = (content.get(n) for n in ("version", "links", "signature"))
    if content.get("format") != FORMAT:
        raise CertificateError(
            f"{path} n'est pas un certificat", expected=_INTACT, remedy="donnez-en un autre"
        )
    if type(version) is not int or version != VERSION:
        raise CertificateError.other_version(path, version, expected=f"la version {VERSION}")
    if not _are_links(links) or not (signature is None or is_signature(signature)):
        raise CertificateError(f"{path} est mal formé", expected=_INTACT, remedy=remedy)
    return Chain(links=list(links), signature=signature)  # type: ignore[arg-type]


def is_chain(head: bytes, _tail: bytes) -> bool:
    """Vrai si un fichier qui commence ainsi est un certificat (voir `storage.check_outputs`)."""
    return head.startswith(f'{{"format":"{FORMAT}"'.encode())


def _are_links(links: object) -> bool:
    return (
        isinstance(links, list)
        and bool(links)
        and all(isinstance(each, dict) and isinstance(each.get("kind"), str) for each in links)
    )


def is_signature(signature: object) -> bool:
    """Vrai si une valeur lue a la forme d'une signature ; voir `is_signed`."""
    return isinstance(signature, dict) and all(
        isinstance(signature.get(name), str)
        and re.fullmatch(f"[0-9a-f]{{{size}}}", signature[name])
        for name, size in (("head", 64), ("public_key", 64), ("value", 128))
    )


def _message(head: str, form: str) -> bytes:
    """Ce qui est signé : le nom du format, sa version et l'empreinte de ce qui est attesté."""
    return f"{form} {VERSION} {head}\n".encode()


class Signer:
    """Une clé privée Ed25519, gardée en mémoire seulement.

    Args:
        path: fichier PEM (PKCS#8) sans mot de passe, que son propriétaire seul peut lire.

    Raises:
        ConfigurationError: fichier absent, lisible par d'autres, ou qui n'est pas une telle clé.
        MissingDependencyError: cryptography n'est pas installé.
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        data = _key_bytes(path, "`sign_key`")
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & _OTHERS:
            raise ConfigurationError(
                f"{path} est une clé privée que d'autres peuvent lire (droits {mode:03o})",
                expected="un fichier que vous seul lisez",
                remedy=f"chmod 600 {path}",
            )
        serialization, ed25519 = _library()
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 — facultatif

        try:
            key = serialization.load_pem_private_key(data, password=None)
            self._sign = key.sign
            raw = key.public_key().public_bytes(
                serialization.Encoding.Raw, serialization.PublicFormat.Raw
            )
        except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
            raise _not_a_key(path, "privée", "`sign_key`") from error
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise _not_a_key(path, "privée", "`sign_key`")
        self.public_key: str = raw.hex()

    def sign(self, head: str, form: str = FORMAT) -> dict[str, str]:
        """La signature d'une empreinte, et la clé publique qui la vérifie.

        Args:
            head: l'empreinte : d'une chaîne, celle de son dernier maillon.
            form: format de ce qu'elle scelle : une signature n'en vaut pas pour un autre.
        """
        value: bytes = self._sign(_message(head, form))
        return {"head": head, "public_key": self.public_key, "value": value.hex()}


def read_public_key(path: Path | str) -> str:
    """La clé publique d'un fichier PEM, en hexadécimal.

    Raises:
        ConfigurationError: fichier absent, ou qui n'est pas une clé publique Ed25519.
        MissingDependencyError: cryptography n'est pas installé.
    """
    path = Path(path)
    data = _key_bytes(path, "`public_key`")
    serialization, ed25519 = _library()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 — facultatif

    try:
        key = serialization.load_pem_public_key(data)
        raw: bytes = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise _not_a_key(path, "publique", "`public_key`") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _not_a_key(path, "publique", "`public_key`")
    return raw.hex()


def is_signed(signature: Mapping[str, str], head: str, form: str = FORMAT) -> bool:
    """Vrai si la signature est bien celle de sa clé publique, sur cette empreinte (voir `Signer`).

    Raises:
        MissingDependencyError: cryptography n'est pas installé.
    """
    _, ed25519 = _library()
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 — facultatif

    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"]))
        key.verify(bytes.fromhex(signature["value"]), _message(head, form))
    except (ValueError, InvalidSignature):
        return False
    return signature["head"] == head


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 — facultatif
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError:
        raise MissingDependencyError(
            "cryptography", purpose="signer, ou vérifier une signature", extra="preuve"
        ) from None
    return serialization, ed25519


def _key_bytes(path: Path, name: str) -> bytes:
    try:
        with open_regular(path) as file:
            return read_at_most(file, _MAX_KEY)
    except OSError as error:
        raise ConfigurationError(
            f"{path} est illisible : {reason(error)}",
            expected="une clé Ed25519 en PEM",
            remedy=f"corrigez {name}",
        ) from error


def _not_a_key(path: Path, kind: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path} n'est pas une clé {kind} Ed25519 en PEM, sans mot de passe",
        expected="un fichier de « openssl genpkey -algorithm ed25519 », ou sa clé publique",
        remedy=f"corrigez {name}",
    )
