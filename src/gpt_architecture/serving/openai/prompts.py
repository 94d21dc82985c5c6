"""Les invites d'un corps : des textes ou des identifiants ; et le refus d'un champ."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

MAX_TOKEN_ID = 2**31 - 1

Prompt = str | list[int]
"""Une invite : un texte, ou des identifiants."""


def refuse(message: str, *, param: str | None = None) -> PydanticCustomError:
    """Une erreur de validation qui porte sa phrase ; les accolades y restent des accolades.

    Args:
        message: la phrase ; celle d'un champ seul commence par son verbe.
        param: le champ fautif, quand la vérification en compare plusieurs.
    """
    return PydanticCustomError("refus", "{message}", {"message": message, "param": param})


def _prompts(value: Any) -> list[Prompt]:
    """Texte, liste de textes, identifiants, ou liste de listes d'identifiants → invites."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if isinstance(value[0], str) and all(isinstance(each, str) for each in value):
            return value
        if _are_ids(value):
            return [value]
        if all(isinstance(each, list) and _are_ids(each) for each in value):
            return value
    raise refuse(
        "doit être un texte, une liste de textes, une liste d'identifiants de tokens, "
        "ou une liste de telles listes, sans liste vide"
    )


def one_prompt(value: Any) -> Prompt:
    """Un texte, ou des identifiants, seuls et non vides."""
    if (isinstance(value, str) and value) or (isinstance(value, list) and _are_ids(value)):
        return value
    raise refuse("doit être un texte ou une liste d'identifiants de tokens, non vides")


def _ids(value: Any) -> list[int]:
    if isinstance(value, list) and (not value or _are_ids(value)):
        return value
    raise refuse("doit être une liste d'identifiants de tokens")


def _are_ids(value: list[Any]) -> bool:
    return bool(value) and all(type(each) is int and 0 <= each <= MAX_TOKEN_ID for each in value)


TokenIds = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Prompts = Annotated[
    list[Prompt],
    PlainValidator(
        _prompts,
        json_schema_input_type=str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[TokenIds], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenIds], Field(min_length=1)]], Field(min_length=1)],
    ),
]
Ids = Annotated[list[int], PlainValidator(_ids, json_schema_input_type=list[TokenIds])]
