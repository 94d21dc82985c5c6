"""Les corps que le service lit, sous la forme d'OpenAI et avec des types stricts.

`true` n'est pas un entier, `1.0` non plus, et null vaut l'absence. Ce qui dépend de l'instance
(combien d'invites, de tokens…) est vérifié ensuite par `Limits`, et les champs qu'un schéma n'a pas
par `strict_bodies`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, create_model, field_validator, model_validator

from gpt_architecture.decoding.settings import SETTINGS, Declaration, RequestField
from gpt_architecture.serving.openai.prompts import (
    MAX_TOKEN_ID,
    Ids,
    Prompt,
    Prompts,
    TokenIds,
    refuse,
)
from gpt_architecture.serving.openai.strict_bodies import (
    MESSAGE,
    PART,
    REQUEST,
    STRUCTURED,
    Body,
    Foreign,
    Hint,
)

_MAX_BIASES = 1024
_MAX_STOP_IDS = 256
MAX_MESSAGES = 1024
_ANY_OBJECT: dict[str, Any] = {"type": "object"}

StopText = Annotated[str, Field(max_length=2000)]
MaxTokens = Annotated[int, Field(ge=-1)]
"""Tokens à écrire ; −1, comme chez llama.cpp : jusqu'au bout du contexte."""
Choice = Annotated[str, Field(min_length=1, max_length=2000)]
Choices = Annotated[list[Choice], Field(min_length=1, max_length=64)]
Regex = Annotated[str, Field(min_length=1, max_length=200_000)]


def _plain_field(declaration: Declaration, asked: RequestField) -> Any:
    """Le type du champ d'un réglage, aux bornes du service ou aux siennes."""
    kind, setting = declaration.base, declaration.setting
    bounds = {
        "ge": setting.minimum if asked.minimum is None else asked.minimum,
        "gt": setting.above,
        "le": setting.maximum if asked.maximum is None else asked.maximum,
    }
    limits: dict[str, Any] = {
        name: kind(bound) for name, bound in bounds.items() if bound is not None
    }
    return Annotated[kind, Field(**limits)] | None if limits else kind | None


PLAIN_FIELDS = dict[str, str]()
"""Réglage qui garde ici sa forme → champ qui le porte."""

_PLAIN_TYPES = dict[str, Any]()  # ce champ → son type, et None s'il n'est pas donné
for _each in SETTINGS.close("serving.openai.bodies"):
    if (_asked := _each.setting.request) is not None and not _asked.own_form:
        PLAIN_FIELDS[_each.name] = _asked.name or _each.name
        _PLAIN_TYPES[PLAIN_FIELDS[_each.name]] = _plain_field(_each, _asked), None

B = TypeVar("B", bound=Body)


def with_settings(body: type[B]) -> type[B]:
    """Ce corps, avec un champ pour chaque réglage de `PLAIN_FIELDS`."""
    return create_model(
        body.__name__,
        __base__=body,
        __module__=body.__module__,
        __doc__=body.__doc__,
        **_PLAIN_TYPES,
    )


class StreamOptions(Body):
    """Réglages d'un flux."""

    foreign: ClassVar[Foreign] = {"include_obfuscation": Hint(bool)}

    include_usage: bool = False
    """Ajoute, à la fin, le compte des tokens."""
    continuous_usage_stats: bool = False
    """Le donne dans chaque morceau, comme vLLM."""


class JsonSchemaFormat(Body):
    """Un schéma JSON nommé."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """La forme de la réponse : texte, objet JSON, ou JSON d'un schéma."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    """Le schéma, à la manière de llama.cpp."""

    @property
    def wanted(self) -> dict[str, Any] | None:
        """Le schéma demandé ; None : du texte."""
        if self.json_schema is not None:
            return self.json_schema.schema_
        given = _ANY_OBJECT if self.schema_ is None else self.schema_
        return None if self.type == "text" else given

    @model_validator(mode="after")
    def _check(self) -> ResponseFormat:
        given = [each for each in (self.json_schema, self.schema_) if each is not None]
        if self.json_schema is not None and self.type != "json_schema":
            raise refuse("response_format : json_schema va avec le type json_schema")
        if (self.type == "text" and given) or len(given) > 1:
            raise refuse("response_format : un seul schéma, et jamais avec le type text")
        if self.type == "json_schema" and not given:
            raise refuse("response_format : le type json_schema demande un schéma")
        return self


class StructuredOutputs(Body):
    """Une contrainte, à la manière de vLLM."""

    foreign: ClassVar[Foreign] = STRUCTURED

    json_: str | dict[str, Any] | None = Field(default=None, alias="json")
    regex: Regex | None = None
    choice: Choices | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool | None = None
    """Sans effet : le JSON est toujours écrit sans blancs."""
    disable_additional_properties: bool | None = None
    """Sans effet : un objet qui nomme ses propriétés est fermé, sauf s'il dit le contraire."""


class SamplingBody(Body):
    """Ce que les deux routes de génération partagent.

    Les réglages qui gardent ici leur forme (`decoding.settings.RequestField`) sont ajoutés aux deux
    corps par `with_settings`.
    """

    foreign: ClassVar[Foreign] = REQUEST

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopText | list[StopText] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=_MAX_BIASES)
        ]
        | None
    ) = None
    user: Annotated[str, Field(max_length=512)] | None = None
    receipt: bool | None = None
    """Joint à la réponse son reçu, de quoi la refaire (voir `receipts`)."""
    response_format: ResponseFormat | None = None
    # Au-delà d'OpenAI, sous les noms de vLLM.
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKEN_ID)] | None = None
    stop_token_ids: Annotated[list[TokenIds], Field(max_length=_MAX_STOP_IDS)] | None = None
    parse_special: bool | None = None
    # Une contrainte au plus, sous l'un de ces noms.
    regex: Regex | None = None
    choices: Choices | None = None
    json_schema: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: Regex | None = None
    guided_choice: Choices | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Les réglages donnés parmi ceux qui gardent ici leur forme."""
        found = {name: getattr(self, field) for name, field in PLAIN_FIELDS.items()}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def flow(self) -> StreamOptions | None:
        """Les réglages du flux demandé ; None : la réponse vient d'un coup."""
        return (self.stream_options or StreamOptions()) if self.stream else None

    @property
    def constraints(self) -> list[tuple[str, str, Any]]:
        """Chaque contrainte donnée : son champ, le réglage d'ici, sa valeur."""
        vllm = self.structured_outputs or StructuredOutputs()
        form = None if self.response_format is None else self.response_format.wanted
        found = [
            ("response_format", "json_schema", form),
            ("json_schema", "json_schema", self.json_schema),
            ("guided_json", "json_schema", self.guided_json),
            ("regex", "regex", self.regex),
            ("guided_regex", "regex", self.guided_regex),
            ("choices", "choices", self.choices),
            ("guided_choice", "choices", self.guided_choice),
            ("structured_outputs.json", "json_schema", vllm.json_),
            (
                "structured_outputs.json_object",
                "json_schema",
                _ANY_OBJECT if vllm.json_object else None,
            ),
            ("structured_outputs.regex", "regex", vllm.regex),
            ("structured_outputs.choice", "choices", vllm.choice),
        ]
        return [each for each in found if each[2] is not None]

    @property
    def stops(self) -> tuple[str, ...]:
        """Les textes d'arrêt ; un texte vide n'arrête rien."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    @model_validator(mode="after")
    def _check_stream(self) -> SamplingBody:
        options = self.stream_options or StreamOptions()
        if (options.include_usage or options.continuous_usage_stats) and not self.stream:
            raise refuse("stream_options demande stream=true", param="stream_options")
        return self


@with_settings
class CompletionBody(SamplingBody):
    """`POST /v1/completions`."""

    prompt: Prompts = Field(default_factory=lambda: list[Prompt]([""]))
    """Sans lui, comme s'il est vide : le début d'un texte."""
    max_tokens: MaxTokens | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionBody:
        if (self.best_of or 1) > (self.n or 1):
            raise refuse(
                "best_of dépasse n : ce service ne trie pas les textes ; demandez-les tous par n",
                param="best_of",
            )
        return self


class TextPart(Body):
    """Un morceau de message."""

    foreign: ClassVar[Foreign] = PART

    type: Literal["text"]
    text: str


def check_parts(value: Any, kinds: Collection[str] = ("text",)) -> Any:
    """Ces morceaux, s'ils sont d'un genre admis.

    Raises:
        PydanticCustomError: l'un est une image, un son, un appel d'outil…
    """
    for part in value if isinstance(value, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            raise refuse(f"porte un morceau « {kind[:40]} » : ce modèle ne lit que du texte")
    return value


class Message(Body):
    """Un message d'une conversation."""

    foreign: ClassVar[Foreign] = MESSAGE

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    """Absent d'une réponse qui n'avait pas de texte."""
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _check_parts(cls, value: Any) -> Any:
        return check_parts(value)

    @model_validator(mode="after")
    def _check_content(self) -> Message:
        if self.content is None and self.role != "assistant":
            raise refuse(f"n'a pas de content, que demande le rôle {self.role}")
        return self

    def flat(self) -> dict[str, str]:
        """Rôle et texte."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


@with_settings
class ChatBody(SamplingBody):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: MaxTokens | None = None
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

    @field_validator("max_tokens", "max_completion_tokens")
    @classmethod
    def _check_room(cls, value: int | None) -> int | None:
        if value == 0:
            raise refuse("doit être au moins 1, ou -1 : jusqu'au bout du contexte")
        return value

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise refuse("top_logprobs demande logprobs=true", param="top_logprobs")
        return self


class TokenizeBody(Body):
    """`POST /tokenize` : un texte, ou une conversation."""

    foreign: ClassVar[Foreign] = REQUEST

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    add_generation_prompt: bool = True
    add_special_tokens: bool = False
    parse_special: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise refuse("donnez prompt ou messages, l'un des deux")
        return self


class DetokenizeBody(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: Ids
