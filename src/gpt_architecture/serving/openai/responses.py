"""`POST /v1/responses` : la même réponse qu'à une conversation, sous l'autre forme d'OpenAI.

Le corps devient celui de `/v1/chat/completions`, qui est planifié et écrit comme lui. Rien n'est
gardé d'une requête à l'autre : qui converse renvoie les messages d'avant.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import count
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, Field, field_validator, model_validator
from starlette.responses import Response

from gpt_architecture.serving.api_errors import ApiError, renaming
from gpt_architecture.serving.catalogue import Answerers, Catalogue
from gpt_architecture.serving.openai.answers import Delta, Transcript
from gpt_architecture.serving.openai.bodies import (
    MAX_MESSAGES,
    PLAIN_FIELDS,
    ChatBody,
    Message,
    SamplingBody,
    check_parts,
    with_settings,
)
from gpt_architecture.serving.openai.frames import EventShape
from gpt_architecture.serving.openai.planning import check_body, plan_chat
from gpt_architecture.serving.openai.prompts import refuse
from gpt_architecture.serving.openai.reference import EVENTS
from gpt_architecture.serving.openai.strict_bodies import (
    MESSAGE,
    PART,
    REQUEST,
    Body,
    Foreign,
    Hint,
    Refused,
    StrictRoute,
)

_KINDS = ("input_text", "output_text", "text")
_AGAIN = "input, et renvoyez-y les messages d'avant : ce service n'en garde aucun"
_NAMES = {"messages": "input", "max_tokens": "max_output_tokens", "response_format": "text.format"}
_FOREIGN: Foreign = {
    **REQUEST,
    "reasoning": Hint(dict),
    "max_tool_calls": Hint(int),
    "access_programs": Hint(dict),
    "image": Hint(dict),
    "top_logprobs": Refused((0,)),
    "include": Refused(([],)),
    "background": Refused((False,)),
    "truncation": Refused(("disabled",)),
    "context_management": Refused(([],)),
    "previous_response_id": Refused(instead=_AGAIN),
    "conversation": Refused(instead=_AGAIN),
    "prompt": Refused(instead="input"),
    "messages": Refused(instead="input"),
    "max_tokens": Refused(instead="max_output_tokens"),
    "max_completion_tokens": Refused(instead="max_output_tokens"),
}


class InputPart(Body):
    """Un morceau de message ; `output_text` : d'une réponse reçue."""

    foreign: ClassVar[Foreign] = PART

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(Message):
    """Un message, ou une réponse reçue, renvoyée telle quelle."""

    foreign: ClassVar[Foreign] = {**MESSAGE, "status": Hint(str), "phase": Hint(str)}

    type: Literal["message"] = "message"
    content: str | list[InputPart] | None = None  # type: ignore[assignment]

    @field_validator("content", mode="before")
    @classmethod
    def _check_parts(cls, value: Any) -> Any:
        return check_parts(value, _KINDS)


def _items(value: Any) -> Any:
    """Un texte est un message de qui demande ; ce qui n'est pas un message est nommé."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    for item in value if isinstance(value, list) else ():
        kind = item.get("type") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind != "message":
            raise refuse(f"porte un élément « {kind[:40]} » : ce service ne lit que des messages")
    return value


Items = Annotated[
    list[InputMessage],
    BeforeValidator(_items, json_schema_input_type=str | list[InputMessage]),
    Field(min_length=1, max_length=MAX_MESSAGES),
]


class TextFormat(Body):
    """La forme du texte, que `/v1/chat/completions` nomme `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None

    def to_chat(self) -> dict[str, Any]:
        """Le même choix, à la manière de `/v1/chat/completions`."""
        if self.type != "json_schema":
            return {"type": self.type}
        schema = self.model_dump(by_alias=True, exclude_unset=True, exclude={"type"})
        return {"type": self.type, "json_schema": schema}

    @model_validator(mode="after")
    def _check(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise refuse("donne schema sans le type json_schema, ou ce type sans schema")
        return self


class TextConfig(Body):
    """Réglages du texte."""

    foreign: ClassVar[Foreign] = {"verbosity": Hint(str)}

    format: TextFormat | None = None


@with_settings
class ResponsesBody(SamplingBody):
    """`POST /v1/responses`."""

    foreign: ClassVar[Foreign] = _FOREIGN

    input: Items
    """Un texte, ou des messages."""
    instructions: str | None = None
    """Le message de système, mis avant les autres."""
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextConfig | None = None

    @property
    def text_format(self) -> dict[str, Any]:
        """La forme du texte, telle que la réponse la redit."""
        form = None if self.text is None else self.text.format
        if form is None:
            return {"type": "text"}
        return form.model_dump(by_alias=True, exclude_unset=True)

    def to_chat(self) -> ChatBody:
        """La même demande, à la manière de `/v1/chat/completions`."""
        shared = set(SamplingBody.model_fields) | set(PLAIN_FIELDS.values())
        asked = self.model_dump(by_alias=True, exclude_unset=True, include=shared)
        messages = [each.flat() for each in self.input]
        if self.instructions is not None:
            messages = [{"role": "system", "content": self.instructions}, *messages]
        asked |= {"messages": messages, "max_tokens": self.max_output_tokens}
        if self.text is not None and self.text.format is not None:
            asked["response_format"] = self.text.format.to_chat()
        return ChatBody.model_validate(asked)

    @model_validator(mode="after")
    def _check_alone(self) -> ResponsesBody:
        if (self.n or 1) != 1:
            raise refuse("n n'est pas pris en charge ici : une réponse par requête", param="n")
        if self.receipt:
            raise refuse("receipt va avec /v1/chat/completions, pas ici", param="receipt")
        if self.text is not None and self.text.format is not None and self.response_format:
            raise refuse("text.format et response_format disent la même chose", param="text")
        return self


class ResponsesShape(EventShape):
    """Les objets et les événements de `/v1/responses`.

    Args:
        model: nom du modèle.
        body: la demande, que la réponse redit.
    """

    def __init__(self, model: str, body: ResponsesBody) -> None:
        name = uuid.uuid4().hex
        self._item, self._numbers = f"msg_{name}", count()
        self._text, self._finish = list[str](), "length"
        self._head: dict[str, Any] = {
            "id": f"resp_{name}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": (body.model_extra or {}).get("metadata") or {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": None,
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": body.text_format},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "user": body.user,
        }

    def opening(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """La réponse commence, son message aussi, encore vide."""
        del usage
        started = self._response("in_progress", [])
        item = {**self._message("in_progress", ""), "content": []}
        return [
            self._event("created", response=started),
            self._event("in_progress", response=started),
            self._event("output_item.added", output_index=0, item=item),
            self._event("content_part.added", **self._place, part=_part("")),
        ]

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """Le texte nouveau."""
        self._finish = delta.finish or self._finish
        if not delta.text:
            return []
        self._text.append(delta.text)
        return [self._event("output_text.delta", **self._place, delta=delta.text, logprobs=[])]

    def ending(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Le texte entier, son message, puis la réponse : achevée, ou coupée faute de place."""
        text = "".join(self._text)
        status = "completed" if self._finish == "stop" else "incomplete"
        item = self._message(status, text)
        return [
            self._event("output_text.done", **self._place, text=text, logprobs=[]),
            self._event("content_part.done", **self._place, part=_part(text)),
            self._event("output_item.done", output_index=0, item=item),
            self._event(status, response=self._response(status, [item], usage=usage)),
        ]

    def failure(self, error: ApiError) -> list[dict[str, Any]]:
        """L'erreur, puis la réponse qu'elle arrête."""
        said = {"code": error.code or error.kind, "message": error.message}
        failed = self._response("failed", [], error=said)
        return [
            {"type": "error", "sequence_number": next(self._numbers), **said, "param": error.param},
            self._event("failed", response=failed),
        ]

    def whole(self, deltas: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
        """La réponse entière : celle du dernier événement."""
        for delta in deltas:
            self.events(delta)
        response: dict[str, Any] = self.ending(usage)[-1]["response"]
        return response

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _event(self, name: str, **fields: Any) -> dict[str, Any]:
        number = next(self._numbers)
        return {"type": f"response.{name}", "sequence_number": number, **fields}

    def _message(self, status: str, text: str) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text)],
        }

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        usage: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            **self._head,
            "status": status,
            "output": output,
            "error": error,
            "incomplete_details": cut,
            "usage": None if usage is None else _usage(usage),
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }


class ResponseAnswer(BaseModel):
    """Réponse de `/v1/responses`."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    incomplete_details: dict[str, str] | None
    output: list[dict[str, Any]]
    usage: dict[str, Any]


def responses_router(
    catalogue: Catalogue, answerers: Answerers, responses: dict[int | str, Any]
) -> APIRouter:
    """La route des réponses.

    Args:
        catalogue: les modèles du service.
        answerers: exécutent les demandes à leurs moteurs.
        responses: les erreurs que la référence lui donne.
    """
    router = APIRouter(route_class=StrictRoute, tags=["Génération"])

    @router.post(
        "/v1/responses",
        summary="Répondre, sous la forme récente d'OpenAI",
        response_model=ResponseAnswer,
        responses={200: {"content": EVENTS}, **responses},
    )
    async def answer(body: ResponsesBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        check_body(context, body)
        with renaming(_NAMES):
            plan = await plan_chat(context, body.to_chat())
        shape = ResponsesShape(context.name, body)
        return await answerers.of(context).answer(request, Transcript(plan), shape, body.flow)

    return router
