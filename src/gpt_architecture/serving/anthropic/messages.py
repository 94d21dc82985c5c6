"""`POST /v1/messages` et `/v1/messages/count_tokens` : les réponses, entières ou en flux.

Le corps devient celui de `/v1/chat/completions`, qui est planifié et écrit comme lui ; les erreurs
de ces adresses ont la forme d'Anthropic (`api_errors`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from gpt_architecture.serving.anthropic.bodies import CountBody, MessagesBody
from gpt_architecture.serving.api_errors import ApiError, renaming
from gpt_architecture.serving.catalogue import Answerers, Catalogue
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.openai.answers import Delta, Transcript
from gpt_architecture.serving.openai.bodies import StreamOptions
from gpt_architecture.serving.openai.frames import EventShape
from gpt_architecture.serving.openai.planning import encode_text, plan_chat, render
from gpt_architecture.serving.openai.reference import EVENTS
from gpt_architecture.serving.openai.strict_bodies import StrictRoute

_OLDEST = "2023-06-01"  # la première dont le flux a cette forme
_VERSION = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NAMES = {"stop": "stop_sequences", "response_format": "output_config.format"}


class ErrorDetail(BaseModel):
    """Une erreur."""

    type: str
    message: str


class MessagesError(BaseModel):
    """L'enveloppe des erreurs de ces adresses."""

    type: Literal["error"]
    error: ErrorDetail
    request_id: str


class TextBlock(BaseModel):
    """Un morceau de la réponse."""

    type: Literal["text"]
    text: str


class MessagesUsage(BaseModel):
    """Compte des tokens."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class MessagesAnswer(BaseModel):
    """Réponse de `/v1/messages`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence"] | None
    stop_sequence: str | None
    usage: MessagesUsage


class CountAnswer(BaseModel):
    """Réponse de `/v1/messages/count_tokens`."""

    input_tokens: int


class MessagesShape(EventShape):
    """Les objets et les événements de `/v1/messages`.

    Args:
        model: nom du modèle.
    """

    def __init__(self, model: str) -> None:
        self._model, self._id = model, f"msg_{uuid.uuid4().hex}"
        self._finish: Delta | None = None

    def opening(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Le message commence, son texte aussi, encore vides."""
        message = {**self._message([], usage), "stop_reason": None, "stop_sequence": None}
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": _block("")},
        ]

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """Le texte nouveau."""
        if delta.finish is not None:
            self._finish = delta
        if not delta.text:
            return []
        piece = {"type": "text_delta", "text": delta.text}
        return [{"type": "content_block_delta", "index": 0, "delta": piece}]

    def ending(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Pourquoi il s'arrête, et le compte des tokens."""
        return [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": self._stop(), "usage": _usage(usage)},
            {"type": "message_stop"},
        ]

    def failure(self, error: ApiError) -> list[dict[str, Any]]:
        """L'erreur ; rien ne la suit."""
        return [error.envelope()]

    def whole(self, deltas: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
        """La réponse entière."""
        for delta in deltas:
            self.events(delta)
        text = "".join(delta.text for delta in deltas)
        return {**self._message([_block(text)], usage), **self._stop()}

    def _message(self, content: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "usage": _usage(usage),
        }

    def _stop(self) -> dict[str, Any]:
        """Un texte d'arrêt, la fin du texte, ou plus de place."""
        last = self._finish
        if last is None or last.finish != "stop":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        reason = "end_turn" if last.stop is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": last.stop}


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Ce compte ; l'invite y est entière : ce qu'en gardait le cache n'est su qu'à la fin."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def messages_router(
    catalogue: Catalogue, answerers: Answerers, meanings: dict[int, str]
) -> APIRouter:
    """Les routes d'Anthropic.

    Args:
        catalogue: les modèles du service.
        answerers: exécutent les demandes à leurs moteurs.
        meanings: les codes de leurs erreurs, et ce que la référence en dit.
    """
    router = APIRouter(route_class=StrictRoute, tags=["Génération"])
    responses: dict[int | str, Any] = {
        status: {"model": MessagesError, "description": meaning}
        for status, meaning in meanings.items()
    }

    @router.post(
        "/v1/messages",
        summary="Répondre, sous la forme d'Anthropic",
        response_model=MessagesAnswer,
        responses={200: {"content": EVENTS}, **responses},
    )
    async def answer(body: MessagesBody, request: Request) -> Response:
        context = await _open(catalogue, body, request)
        with renaming(_NAMES):
            plan = await plan_chat(context, body.to_chat())
        flow = StreamOptions() if body.stream else None
        shape = MessagesShape(context.name)
        return await answerers.of(context).answer(request, Transcript(plan), shape, flow)

    @router.post(
        "/v1/messages/count_tokens",
        summary="Compter les tokens d'une conversation",
        response_model=CountAnswer,
        responses=responses,
    )
    async def count_tokens(body: CountBody, request: Request) -> Response:
        context = await _open(catalogue, body, request)
        ids = await encode_text(context, await render(context, body.conversation))
        return JSONResponse({"input_tokens": len(ids)})

    return router


async def _open(catalogue: Catalogue, body: CountBody, request: Request) -> ServingContext:
    """Le contexte du modèle demandé, une fois l'en-tête et le corps vérifiés."""
    version = request.headers.get("anthropic-version", _OLDEST)
    if not _VERSION.fullmatch(version) or version < _OLDEST:
        raise ApiError.invalid(
            f"anthropic-version vaut « {version[:40]} » : ce service suit celle du {_OLDEST} et "
            "les suivantes"
        )
    context = await catalogue.open(body.model)
    context.fields.check(body)
    return context
