"""Parler à un service : celui de `gpt-architecture serve`, ou tout autre à la manière d'OpenAI."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import ProxyHandler, Request, build_opener, getproxies, proxy_bypass

from gpt_architecture.cli.command import ENV_PREFIX
from gpt_architecture.cli.sampling import warn_cut
from gpt_architecture.decoding.settings import SETTINGS
from gpt_architecture.errors import ConfigurationError, ServiceError, reason
from gpt_architecture.storage import parse_json

if TYPE_CHECKING:
    from gpt_architecture.cli.options import ResultOptions
    from gpt_architecture.decoding.config import GenerationConfig

KEY_VARIABLE = f"{ENV_PREFIX}API_KEY"
TIMEOUT_S = 120.0
"""Secondes de silence au bout desquelles le service est tenu pour perdu."""

_MAX_ANSWER = 64 << 20
_MAX_LINE = 1 << 20
_MAX_SHOWN = 1_000  # caractères du refus d'un service
_TRANSLATED = frozenset({"temperature", "k", "p", "json_schema"})
_STRATEGIES = ("greedy", "sample", "temperature", "top_k", "top_p")


class Service:
    """Un service distant.

    Args:
        url: son adresse, avec ou sans /v1.
        model: nom servi qui répond (modèle ou adaptateur) ; None : le premier de sa liste.
        key: clé d'accès ; None : celle de GPT_ARCHITECTURE_API_KEY, s'il y en a une.

    Attributes:
        finish: pourquoi le dernier texte lu au fil de l'eau s'arrête.

    Raises:
        ConfigurationError: ce n'est pas une adresse HTTP.
    """

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None) -> None:
        try:
            parts = urlsplit(url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            valid = False
        if not valid:
            raise ConfigurationError.wrong(
                "--server", url, expected="une adresse comme http://127.0.0.1:8000"
            )
        self._base = url.rstrip("/").removesuffix("/v1")
        self._proxy = _proxy_for(parts)
        proxies = {} if self._proxy is None else {parts.scheme: self._proxy}
        self._opener = build_opener(ProxyHandler(proxies))
        self._key = os.environ.get(KEY_VARIABLE) if key is None else key
        self._model = model
        self.finish: str | None = None

    @property
    def model(self) -> str:
        """Nom de ce qui répond."""
        if self._model is None:
            answer = self._whole("/v1/models", None)
            try:
                self._model = str(answer["data"][0]["id"])
            except (KeyError, IndexError, TypeError):
                raise self._unreadable() from None
        return self._model

    def complete(self, prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
        """La réponse entière de /v1/completions : `choices`, dont chaque `text` est un texte."""
        asked = {"prompt": prompt, **settings, "model": self.model}
        found = self._whole("/v1/completions", asked)
        choices = self._listed(found)
        if not choices or not all(isinstance(each.get("text"), str) for each in choices):
            raise self._unreadable()
        return found

    def stream(self, prompt: str, settings: dict[str, Any]) -> Iterator[str]:
        """Le texte de /v1/completions, au fil de l'eau."""
        for choice in self._choices("/v1/completions", {"prompt": prompt, **settings}):
            yield self._text(choice.get("text"))

    def chat(self, messages: list[dict[str, str]], settings: dict[str, Any]) -> Iterator[str]:
        """Le texte de /v1/chat/completions, au fil de l'eau."""
        for choice in self._choices("/v1/chat/completions", {"messages": messages, **settings}):
            delta = choice.get("delta")
            yield self._text(delta.get("content") if isinstance(delta, dict) else delta)

    def _choices(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.finish = None
        asked = {**body, "model": self.model, "stream": True}
        with self._open(path, asked) as response:
            while line := response.readline(_MAX_LINE):
                data = line.decode("utf-8", "replace").strip()
                if not data.startswith("data:"):
                    continue
                data = data.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                event = self._parse(data)
                if event.get("error") is not None:
                    raise self._failure(_sentence(event))
                for choice in self._listed(event):
                    self.finish = choice.get("finish_reason") or self.finish
                    yield choice
        raise self._failure("la réponse s'est interrompue avant la fin")

    def _listed(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        found = answer.get("choices") or []
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._unreadable()
        return found

    def _text(self, found: object) -> str:
        if not isinstance(found, str | None):
            raise self._unreadable()
        return found or ""

    def _whole(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        with self._open(path, body) as response:
            return self._parse(response.read(_MAX_ANSWER))

    @contextmanager
    def _open(self, path: str, body: dict[str, Any] | None) -> Iterator[HTTPResponse]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._base + path, data, headers)  # noqa: S310 — schéma vérifié
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                yield response
        except HTTPError as error:
            with error:
                raise self._failure(_message(error)) from None
        except URLError as error:
            cause = error.reason
            text = reason(cause) if isinstance(cause, BaseException) else str(cause)
            raise self._unreachable(text) from None
        except TimeoutError:
            raise self._unreachable(f"rien depuis {TIMEOUT_S:g} s") from None
        except (HTTPException, OSError) as error:
            raise self._unreachable(reason(error)) from None

    def _parse(self, text: str | bytes) -> dict[str, Any]:
        try:
            found = parse_json(text)
        except ValueError:
            raise self._unreadable() from None
        if not isinstance(found, dict):
            raise self._unreadable()
        return found

    def _failure(self, message: str) -> ServiceError:
        first = message.split("\n", 1)[0]  # une seconde ligne, en anglais, est pour les programmes
        return ServiceError(
            f"{self._base} refuse ou échoue : {first[:_MAX_SHOWN].removesuffix('.')}",
            expected="une réponse",
            remedy="corrigez la demande, ou réessayez",
        )

    def _unreachable(self, cause: str) -> ServiceError:
        if self._proxy is not None:
            proxy = _without_password(self._proxy)
            return ServiceError(
                f"{self._base} ne répond pas à travers le mandataire {proxy} ({cause})",
                expected="un mandataire qui mène à ce service",
                remedy="corrigez http_proxy ou https_proxy, ou ajoutez son hôte à no_proxy",
            )
        return ServiceError(
            f"{self._base} ne répond pas : {cause}",
            expected="un service en marche (gpt-architecture serve)",
            remedy="démarrez-le, ou corrigez --server",
        )

    def _unreadable(self) -> ServiceError:
        return ServiceError(
            f"la réponse de {self._base} n'est pas celle d'une interface d'OpenAI",
            expected="un service à la manière d'OpenAI",
            remedy="corrigez --server",
        )


def _proxy_for(parts: SplitResult) -> str | None:
    """Le mandataire de l'environnement pour cette adresse ; None pour cette machine et no_proxy."""
    host = parts.hostname or ""
    if _is_loopback(host) or proxy_bypass(host) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return getproxies().get(parts.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost")


def _without_password(url: str) -> str:
    """L'adresse d'un mandataire, telle qu'un message peut la montrer."""
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def check_remote(given: Mapping[str, object]) -> None:
    """Refuse ce qui demande le modèle lui-même.

    Args:
        given: option → sa valeur ; None : elle n'est pas donnée.

    Raises:
        ConfigurationError: une option locale est donnée avec --server.
    """
    for name, value in given.items():
        if value is not None:
            raise ConfigurationError.together(
                name,
                "--server",
                remedy="retirez l'un des deux (pour une conversation : chat --server)",
            )


def remote_settings(config: GenerationConfig) -> dict[str, Any]:
    """Les champs d'une requête qui demandent cette génération.

    Raises:
        ConfigurationError: un réglage n'existe pas à distance.
    """
    values = config.to_dict()
    values.pop("strategy", None)
    asked = {name: SETTINGS.declared[name].setting.request for name in values}
    unknown = sorted(name for name, field in asked.items() if field is None)
    if config.strategy not in _STRATEGIES:
        unknown.append(f"strategy={config.strategy}")
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]} est donné avec --server",
            expected="un réglage que le service connaît",
            remedy=f"retirez {unknown[0]}, ou chargez le modèle ici",
        )
    settings = {
        field.name or name: values[name]
        for name, field in asked.items()
        if field is not None and name not in _TRANSLATED
    }
    settings["max_tokens"] = config.max_tokens
    settings["temperature"] = config.temperature if config.is_sampling else 0
    if config.is_sampling:
        filters = {"top_k": config.top_k, "top_p": config.top_p}
        settings |= {name: value for name, value in filters.items() if value is not None}
    if config.json_schema is not None:
        settings["json_schema"] = json.loads(config.json_schema)
    return settings


def infer_remotely(
    server: str,
    prompts: list[str],
    config: GenerationConfig,
    results: ResultOptions,
    *,
    model: str | None = None,
    parse_special: bool = False,
) -> None:
    """Écrit les textes comme le fait `infer` : au fil de l'eau s'il n'y en a qu'un.

    Args:
        server: adresse du service.
        prompts: invites, au moins une.
        config: comment générer.
        results: sous quelle forme les rendre.
        model: voir `Service`.
        parse_special: les noms de tokens spéciaux d'une invite en sont.

    Raises:
        ConfigurationError: adresse ou réglage impossible à distance.
        ServiceError: le service ne répond pas, ou refuse.
    """
    service, settings = Service(server, model=model), remote_settings(config)
    if parse_special:
        settings["parse_special"] = True
    if not results.wants_json and len(prompts) == 1 and config.n == 1:
        pieces = service.stream(prompts[0], settings)
        first = next(pieces, "")  # un refus s'écrit seul, sans le début
        print(prompts[0] + first, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        warn_cut(config, [service.finish])
        return
    blocks, ends, records = [], [], []
    for prompt in prompts:
        answer = service.complete(prompt, settings)
        for choice in answer["choices"]:
            blocks.append(prompt + choice["text"])
            ends.append(choice.get("finish_reason"))
            if results.wants_json:
                record = {
                    "prompt": prompt,
                    "completion": choice["text"],
                    "finish": choice.get("finish_reason"),
                    "model": answer.get("model", service.model),
                    "settings": config.to_dict(),
                }
                if config.logprobs is not None:
                    record["logprobs"] = choice.get("logprobs")
                records.append(record)
                results.show(record)  # sans attendre les suivants
    results.save(records, "infer")
    if not results.as_json:
        print("\n\n---\n\n".join(blocks))
    warn_cut(config, ends)


def _message(error: HTTPError) -> str:
    """La phrase de l'enveloppe d'OpenAI, sinon le code HTTP."""
    try:
        return _sentence(parse_json(error.read(_MAX_LINE))) or f"code HTTP {error.code}"
    except (ValueError, OSError, HTTPException):
        return f"code HTTP {error.code}"


def _sentence(answer: object) -> str:
    """Ce que dit une enveloppe d'erreur ; vide : rien qui se lise."""
    error = answer.get("error") if isinstance(answer, dict) else None
    found = error.get("message") if isinstance(error, dict) else error
    return found if isinstance(found, str) else ""
