"""Le reçu d'une réponse : de quoi la refaire, octet pour octet, et savoir si c'est elle.

Il porte la requête telle qu'elle compte (graine et longueur fixées, rien de ce qui n'y change
rien), ce qui a répondu (`serving.identity`), et la réponse : ses tokens, l'empreinte de son texte.
Le rejouer passe par la même lecture, la même planification et le même moteur qu'une requête, un
texte à la fois et sans proposition : c'est l'oracle lent du service.

Un reçu reçu n'est cru en rien : sa requête est vérifiée comme celle d'un client, il ne nomme aucun
fichier, et ses nombres ne servent qu'à comparer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
    ReceiptError,
    TokenizerError,
    shown,
)
from gpt_architecture.serving.api_errors import ApiError, validation_error
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import EngineRequest, Event, Failed, Finished
from gpt_architecture.serving.http.access import Exchange
from gpt_architecture.serving.identity import SECTIONS, Identity, sha256_of
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.openai.answers import Answer, Transcript
from gpt_architecture.serving.openai.bodies import PLAIN_FIELDS, ChatBody, CompletionBody
from gpt_architecture.serving.openai.planning import Plan, echo_of, plan_chat, plan_completion
from gpt_architecture.serving.openai.strict_bodies import parse_body
from gpt_architecture.storage import check_plain, read_json_object
from gpt_architecture.storage.chain import Signer, canonical, is_signature

FORMAT = "gpt-architecture/recu"
VERSION = 1
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

MAX_BYTES = 16 << 20
"""Taille d'un reçu, au plus : celle d'un corps, et les tokens de soixante-quatre longs textes."""

_EXPECTED = "le champ `receipt` d'une réponse de « gpt-architecture serve »"
_REMEDY = "reprenez le reçu tel que le service l'a rendu"
_SPEED = ("lookup", "lookup_ngram")  # le texte n'en dépend pas
_SHA = re.compile(r"[0-9a-f]{64}")
_DAY = 86_400.0  # secondes laissées à un rejeu


@dataclass(frozen=True)
class Attestation:
    """De quoi faire le reçu d'une réponse, une fois qu'elle est écrite.

    Attributes:
        identity: ce qui répond.
        request: la requête telle qu'elle compte (voir `canonical_request`).
        signer: la clé qui signe ; None : aucune.
    """

    identity: Identity
    request: Mapping[str, Any]
    signer: Signer | None = None

    def receipt(self, head: Mapping[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
        """Le reçu.

        Args:
            head: identifiant et date de la réponse.
            answers: les textes écrits.
        """
        content = {
            "format": FORMAT,
            "version": VERSION,
            "id": head["id"],
            "created": head["created"],
            "system_fingerprint": self.identity.fingerprint,
            **self.identity.facts,
            "request": self.request,
            "answers": [each.record() for each in answers],
        }
        sha256 = sha256_of(content)
        signature = None if self.signer is None else self.signer.sign(sha256, FORMAT)
        return {**content, "sha256": sha256, "signature": signature}


async def attested(
    context: ServingContext, body: CompletionBody | ChatBody, transcript: Transcript
) -> dict[str, Any]:
    """Ce que la forme d'une réponse dit de ce qui répond, et le reçu qu'elle joint s'il est voulu.

    Raises:
        ApiError: 503, un reçu est demandé et l'identité du modèle n'a pas pu être établie.
    """
    identity = await context.identified()
    if not body.receipt:
        return {"fingerprint": None if identity is None else identity.fingerprint}
    if identity is None:
        message = "l'empreinte du modèle est inconnue, et un reçu la dit ; retirez receipt"
        raise ApiError.unavailable(message, code="no_receipt")
    request = canonical_request(body, transcript.plan)
    attestation = Attestation(identity, request, context.signer)
    return {
        "fingerprint": identity.fingerprint,
        "receipt": lambda head: attestation.receipt(head, transcript.answers),
    }


def canonical_request(body: CompletionBody | ChatBody, plan: Plan) -> dict[str, Any]:
    """La route et le corps qui refont une réponse : ce qui compte, et rien d'autre.

    La graine tirée et la longueur résolue y sont ; le nom du modèle, le flux, la personne, les
    champs sans effet n'y sont pas. Un schéma y reste du texte : l'ordre de ses propriétés compte.
    """
    config = plan.config
    settings = {PLAIN_FIELDS[name]: value for name, value in body.settings.items()}
    found: dict[str, Any] = {
        **{name: value for name, value in settings.items() if name not in _SPEED},
        "n": plan.n,
        "seed": config.seed,
        "max_tokens": plan.max_tokens,
        "temperature": 1 if body.temperature is None else body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": list(body.stops),
        "stop_token_ids": list(config.stop_ids),
        "logit_bias": {str(token): bias for token, bias in config.logit_bias.items()},
        "parse_special": body.parse_special,
        "regex": config.regex,
        "choices": list(config.choices),
        "guided_json": config.json_schema,
        "logprobs": body.logprobs,
    }
    if isinstance(body, CompletionBody):
        route, found = COMPLETIONS, {**found, "prompt": body.prompt, "echo": body.echo}
    else:
        messages = [each.flat() for each in body.messages]
        route, found = CHAT, {**found, "messages": messages, "top_logprobs": body.top_logprobs}
    given = {name: _simple(value) for name, value in found.items() if value not in (None, [], {})}
    return {"route": route, "body": given}


def _simple(value: Any) -> Any:
    """Un nombre entier s'écrit sans virgule : JavaScript, qui relit puis récrit, fait de même."""
    if isinstance(value, dict):
        return {name: _simple(each) for name, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class Receipt:
    """Un reçu lu, dont la forme seule est vérifiée.

    Attributes:
        content: tout ce qu'il porte, signature et empreinte comprises.
        body: sa requête, vérifiée comme celle d'un client.

    Raises:
        ReceiptError: ce n'est pas un reçu, ou sa requête n'en est pas une.
    """

    content: Mapping[str, Any]
    body: CompletionBody | ChatBody

    @classmethod
    def of(cls, source: Path | str | Mapping[str, Any]) -> Receipt:
        """Le reçu d'un fichier, ou déjà lu ; une réponse entière qui en porte un convient aussi."""
        content: Mapping[str, Any]
        if isinstance(source, Mapping):
            content, name = source, "ce reçu"
            try:
                check_plain(dict(source))
            except ValueError as error:
                raise ReceiptError(
                    f"ce reçu : {error}", expected=_EXPECTED, remedy=_REMEDY
                ) from None
        else:
            name = str(source)
            content = read_json_object(
                source,
                MAX_BYTES,
                error=ReceiptError,
                expected=_EXPECTED,
                remedy=_REMEDY,
                finite=True,
            )
        if "format" not in content and isinstance(content.get("receipt"), Mapping):
            content = content["receipt"]
        version = content.get("version")
        if content.get("format") != FORMAT:
            raise ReceiptError(
                f"{name} n'est pas un reçu", expected=_EXPECTED, remedy="donnez-en un autre"
            )
        if type(version) is not int or version != VERSION:
            raise ReceiptError.other_version(name, version, expected=f"la version {VERSION}")
        if (fault := _fault(content)) is not None:
            raise ReceiptError(
                f"{name} est mal formé : {fault}", expected=_EXPECTED, remedy=_REMEDY
            )
        return cls(content, _read_request(content["request"]))

    @property
    def identity(self) -> Identity:
        """Ce qui a répondu, d'après lui."""
        return Identity({name: self.content[name] for name in SECTIONS})

    @property
    def answers(self) -> Sequence[Mapping[str, Any]]:
        """Les textes qu'il atteste (voir `Answer.record`)."""
        found: Sequence[Mapping[str, Any]] = self.content["answers"]
        return found

    @property
    def signature(self) -> Mapping[str, str] | None:
        """Sa signature, dont rien n'est vérifié."""
        found: Mapping[str, str] | None = self.content.get("signature")
        return found

    @property
    def sha256(self) -> str:
        """L'empreinte de ce qu'il porte."""
        apart = ("sha256", "signature")
        return sha256_of({name: each for name, each in self.content.items() if name not in apart})

    @property
    def is_intact(self) -> bool:
        """Vrai si ni son contenu, ni le nom court de ce qui a répondu, n'ont été retouchés."""
        named = self.content.get("system_fingerprint") == self.identity.fingerprint
        return named and self.content.get("sha256") == self.sha256


def _fault(content: Mapping[str, Any]) -> str | None:
    """Ce qui n'a pas la forme d'un reçu ; None : tout l'a."""
    for name in (*SECTIONS, "request"):
        if not isinstance(content.get(name), dict):
            return f"{name} n'est pas un objet"
    for name in ("model", "tokenizer", "software"):
        if not _is_sha(content[name].get("sha256")):
            return f"{name}.sha256 n'est pas une empreinte"
    adapter = content["model"].get("adapter")
    if adapter is not None and not (isinstance(adapter, dict) and _is_sha(adapter.get("sha256"))):
        return "model.adapter n'est pas un adaptateur"
    answers = content.get("answers")
    if not isinstance(answers, list) or not 0 < len(answers) <= Limits.sequences:
        return f"answers n'a pas de 1 à {Limits.sequences} textes"
    for index, each in enumerate(answers):
        if not (isinstance(each, dict) and _is_answer(each)):
            return f"answers.{index} n'est pas un texte attesté"
    signature = content.get("signature")
    return None if signature is None or is_signature(signature) else "signature illisible"


def _is_answer(answer: Mapping[str, Any]) -> bool:
    tokens = answer.get("tokens")
    return (
        isinstance(tokens, list)
        and all(type(each) is int for each in tokens)
        and type(answer.get("bytes")) is int
        and _is_sha(answer.get("sha256"))
        and (answer.get("logprobs") is None or _is_sha(answer["logprobs"]))
        and answer.get("finish_reason") in ("stop", "length")
    )


def _is_sha(value: object) -> bool:
    return isinstance(value, str) and _SHA.fullmatch(value) is not None


_BODIES: Mapping[object, type[CompletionBody] | type[ChatBody]] = {
    COMPLETIONS: CompletionBody,
    CHAT: ChatBody,
}


def _read_request(request: Mapping[str, Any]) -> CompletionBody | ChatBody:
    """Le corps d'une requête, passé par la porte d'un client : taille, forme, bornes, champs."""
    route, given = request.get("route"), request.get("body")
    kind = _BODIES.get(route) if isinstance(route, str) else None
    if kind is None or not isinstance(given, dict):
        raise _refused(f"la route {shown(route)} et son corps ne sont pas ceux d'une génération")
    limits = Limits()
    data = json.dumps(given).encode()
    if len(data) > limits.body_bytes:
        raise _refused(f"sa requête dépasse {limits.body_bytes} octets")
    try:
        body = kind.model_validate(parse_body(data, max_depth=limits.json_depth))
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise _refused(validation_error(RequestValidationError(found)).message) from None
    except ApiError as error:
        raise _refused(error.message) from None
    if body.seed is None:
        raise _refused("sa requête n'a pas de graine")
    return body


def _refused(why: str) -> ReceiptError:
    return ReceiptError(f"ce reçu ne se rejoue pas : {why}", expected=_EXPECTED, remedy=_REMEDY)


async def replay_answers(context: ServingContext, body: CompletionBody | ChatBody) -> list[Answer]:
    """Les textes d'une requête, refaits un par un ; la même suite d'appels que pour un client.

    Raises:
        ReceiptError: ce modèle ne peut pas la suivre.
        GPTArchitectureError: le calcul échoue.
    """
    try:
        if isinstance(body, CompletionBody):
            plan = await plan_completion(context, body)
            transcript = Transcript(plan, echo_of(context, body, plan), attested=True)
        else:
            transcript = Transcript(await plan_chat(context, body), attested=True)
        transcript.opening()
        for index, request in enumerate(transcript.plan.requests(Exchange(), _DAY)):
            for event in _written(context.engine, request):
                list(transcript.read([(index, event)]))
    except (ApiError, ConfigurationError, DataError, TokenizerError) as error:
        raise _refused(str(error)) from None
    return transcript.answers


def _written(engine: Engine, request: EngineRequest) -> Sequence[Event]:
    """Les événements d'une demande seule."""
    queue, events = SimpleQueue[Event](), list[Event]()
    engine.submit(request, queue.put)
    while not events or not isinstance(events[-1], Finished):
        event = queue.get()
        if isinstance(event, Failed):
            raise event.error
        events.append(event)
    return events


def same_section(one: Mapping[str, Any], two: Mapping[str, Any], name: str) -> bool:
    """Vrai si deux identités disent la même chose d'une section."""
    return canonical(one[name]) == canonical(two[name])
