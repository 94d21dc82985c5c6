"""Qui appelle le service, et combien : clés, quotas, pages web d'ailleurs, requête en cours.

Un quota est un seau : il se remplit sans cesse au rythme permis et ne garde jamais plus qu'une
minute. Qui n'a rien demandé depuis une minute peut donc tout prendre d'un coup ; au long cours,
personne ne dépasse sa limite. Ce qui traite une requête, où que ce soit, note ce qu'il en sait dans
son `Exchange` (`current`) ; rien du texte traité n'y entre.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gpt_architecture.errors import ConfigurationError, GPTArchitectureError
from gpt_architecture.storage import read_text

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
    return _digest(key), Access(name, found.get("requests"), found.get("tokens"))


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


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


_MINUTE = 60.0


class QuotaExceeded(GPTArchitectureError):
    """Une clé a pris tout ce qu'elle permet par minute.

    Args:
        found: ce qu'elle permet.
        kind: ce qui manque, `requests` ou `tokens`.
        seconds: attente avant d'en avoir assez.
    """

    def __init__(self, found: str, *, kind: str, seconds: int) -> None:
        super().__init__(found, expected="moins par minute", remedy=f"réessayez dans {seconds} s")
        self.kind, self.seconds = kind, seconds


class Bucket:
    """Une réserve qui se remplit au rythme de `per_minute`.

    Args:
        per_minute: unités par minute, et contenance.
        clock: secondes qui passent.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock, self._level, self._seen = clock, float(per_minute), clock()

    def take(self, amount: int) -> float:
        """Prend `amount` unités ; si elles n'y sont pas, ne prend rien et rend l'attente (s).

        Plus que la contenance ne se demande qu'à une réserve pleine, et y laisse une dette.
        """
        now = self._clock()
        gained = (now - self._seen) * self.per_minute / _MINUTE
        self._level, self._seen = min(self._level + gained, self.per_minute), now
        missing = min(amount, self.per_minute) - self._level
        if missing > 0:
            return missing * _MINUTE / self.per_minute
        self._level -= amount
        return 0.0

    def give(self, amount: int) -> None:
        """Rend ce qui n'a pas servi ; négatif : prend ce qui a servi en plus."""
        self._level = min(self._level + amount, self.per_minute)


class Access:
    """Une clé, et ce qui lui reste.

    Args:
        name: son nom, seul montré.
        requests: requêtes par minute ; None : sans limite.
        tokens: tokens par minute, d'invite et écrits ; None : sans limite.
    """

    def __init__(self, name: str, requests: int | None, tokens: int | None) -> None:
        self.name, self.limits = name, (requests, tokens)
        self._requests, self._tokens = (
            None if limit is None else Bucket(limit) for limit in self.limits
        )

    def admit(self) -> None:
        """Compte une requête.

        Raises:
            QuotaExceeded: la clé a fait toutes les siennes.
        """
        if self._requests is not None:
            self._check(self._requests, 1, "requests", "requêtes")

    def reserve(self, tokens: int) -> int:
        """Retient ce qu'une requête peut coûter au plus ; rend combien, à donner à `settle`.

        Raises:
            QuotaExceeded: la clé a écrit tous les siens.
        """
        if self._tokens is None:
            return 0
        self._check(self._tokens, tokens, "tokens", "tokens")
        return tokens

    def settle(self, reserved: int, used: int) -> None:
        """La requête est finie : ne compte que ce qu'elle a coûté."""
        if self._tokens is not None:
            self._tokens.give(reserved - used)

    def _check(self, bucket: Bucket, amount: int, kind: str, unit: str) -> None:
        seconds = math.ceil(bucket.take(amount))
        if seconds:
            raise QuotaExceeded(
                f"la clé « {self.name} » permet {bucket.per_minute} {unit} par minute",
                kind=kind,
                seconds=seconds,
            )


def new_id() -> str:
    """Un identifiant de requête."""
    return uuid.uuid4().hex


@dataclass(kw_only=True)
class Exchange:
    """Ce qu'on sait d'une requête.

    Attributes:
        request_id: son identifiant.
        path: l'adresse demandée.
        started: instant (`time.perf_counter`) où elle arrive.
        trace: ses en-têtes qui la rattachent à une trace (`traceparent`, `tracestate`).
        client: qui la fait, pour le partage des emplacements : le nom de sa clé, sinon son adresse.
        access: la clé qui la fait ; None : aucune.
        key_failure: pourquoi sa clé est refusée (`absente`, `inconnue`).
        code: motif de l'erreur rendue.
        status: code HTTP envoyé.
        ending: comment elle finit si ce n'est par une réponse entière (`abandon`, `coupure`).
        model: ce qui y répond ; None : rien n'a été calculé.
        prompt_tokens: tokens d'invite acceptés au calcul ; None : le moteur n'a rien reçu.
        first_token: instant (`time.perf_counter`) du premier token écrit ; None : aucun.
        finishes: pourquoi chaque texte fini s'arrête.
        written: compte les tokens écrits jusqu'ici.
        reserved: tokens retenus sur ce que la clé permet.
        at_end: ce qui doit être fait quand elle est finie, réponse envoyée et calculs achevés.
    """

    request_id: str = field(default_factory=new_id)
    path: str = ""
    started: float = field(default_factory=time.perf_counter)
    trace: Mapping[str, str] = field(default_factory=dict)
    client: str = ""
    access: Access | None = None
    key_failure: str | None = None
    code: str | None = None
    status: int | None = None
    ending: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    first_token: float | None = None
    finishes: list[str] = field(default_factory=list)
    written: Callable[[], int] = lambda: 0
    reserved: int = 0
    at_end: list[Callable[[], None]] = field(default_factory=list)
    _holds: int = 1  # elle-même, et ses calculs en cours

    @property
    def completion_tokens(self) -> int | None:
        """Tokens écrits ; None : le moteur n'a rien reçu."""
        return None if self.prompt_tokens is None else self.written()

    def reserve(self, tokens: int) -> None:
        """Retient sur la clé, s'il y en a une, ce que la requête peut coûter au plus.

        Raises:
            QuotaExceeded: la clé a écrit tous les siens.
        """
        if self.access is not None:
            self.reserved = self.access.reserve(tokens)

    def held(self) -> Callable[[object], None]:
        """Retarde `at_end` d'un calcul qui commence ; rend ce qu'il appelle quand il s'achève."""
        self._holds += 1
        return lambda _done: self.finish()

    def finish(self) -> None:
        """La réponse est envoyée, ou un calcul achevé : le dernier fait ce que dit `at_end`."""
        self._holds -= 1
        if not self._holds:
            for act in self.at_end:
                act()


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def current() -> Exchange:
    """La requête en cours de traitement ici ; hors de toute requête, une qui ne sert à rien."""
    return _current.get() or Exchange(request_id="")


@contextmanager
def entered(exchange: Exchange) -> Iterator[Exchange]:
    """Dans ce bloc, et dans ce qu'il lance, la requête en cours est celle-ci."""
    token = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(token)


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
