"""Ce qu'un client d'Anthropic envoie, et la conversation que cela demande."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from gpt_architecture.serving.openai.bodies import (
    MAX_MESSAGES,
    PLAIN_FIELDS,
    ChatBody,
    Message,
    StopText,
    TextPart,
    check_parts,
    with_settings,
)
from gpt_architecture.serving.openai.prompts import MAX_TOKEN_ID, refuse
from gpt_architecture.serving.openai.strict_bodies import Body, Foreign, Hint, Refused

_NONE = {"type": "none"}
_FOREIGN: Foreign = {
    # Facturation, suivi, cache.
    "metadata": Hint(dict),
    "service_tier": Hint(str),
    "inference_geo": Hint(str),
    "speed": Hint(str),
    "cache_control": Hint(dict),
    "diagnostics": Hint(dict),
    "user_profile_id": Hint(str),
    "workspace_id": Hint(str),
    # Ce que le modèle devrait faire, et ne sait pas faire.
    "tools": Refused(([],)),
    "tool_choice": Refused((_NONE, {"type": "auto"})),
    "thinking": Refused(({"type": "disabled"},)),
    "mcp_servers": Refused(([],)),
    "container": Refused(),
    "context_management": Refused(),
    # Les noms d'OpenAI.
    "stop": Refused(instead="stop_sequences"),
    "n": Refused((1,)),
    "max_completion_tokens": Refused(instead="max_tokens"),
    "response_format": Refused(instead="output_config.format"),
}


class OutputFormat(Body):
    """La forme du texte : du JSON d'un schéma."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """Réglages du texte."""

    foreign: ClassVar[Foreign] = {"effort": Hint(str)}

    format: OutputFormat | None = None


class CountBody(Body):
    """`POST /v1/messages/count_tokens`."""

    foreign: ClassVar[Foreign] = _FOREIGN

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: str | list[TextPart] | None = None
    output_config: OutputConfig | None = None

    @property
    def conversation(self) -> list[Message]:
        """Les messages, celui de système d'abord."""
        if not self.system:
            return self.messages
        return [Message(role="system", content=self.system), *self.messages]

    @field_validator("system", mode="before")
    @classmethod
    def _check_parts(cls, value: Any) -> Any:
        return check_parts(value)

    @field_validator("messages")
    @classmethod
    def _check_last(cls, value: list[Message]) -> list[Message]:
        if value[-1].role == "assistant":
            raise refuse(
                "finit par une réponse : ce service ne continue pas un message commencé ; "
                "finissez par celui de qui demande"
            )
        return value


@with_settings
class MessagesBody(CountBody):
    """`POST /v1/messages` ; les réglages de ce service y gardent leur nom."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[StopText] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_TOKEN_ID)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None

    def to_chat(self) -> ChatBody:
        """La même demande, à la manière de `/v1/chat/completions`."""
        same = {"model", "max_tokens", "temperature", "top_p", "top_k", "seed"}
        asked = self.model_dump(exclude_unset=True, include=same | set(PLAIN_FIELDS.values()))
        asked |= {
            "messages": [each.flat() for each in self.conversation],
            "stop": self.stop_sequences,
        }
        if self.output_config is not None and self.output_config.format is not None:
            schema = {"schema": self.output_config.format.schema_}
            asked["response_format"] = {"type": "json_schema", "json_schema": schema}
        return ChatBody.model_validate(asked)
