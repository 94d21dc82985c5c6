"""`POST /v1/provenance` : d'où viennent les mots d'un texte, dans les données d'entraînement.

La réponse montre de ces données : la route n'existe que si le service a un index, et demande la clé
comme les autres.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, PlainValidator
from starlette.responses import JSONResponse, Response

from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.evaluation.provenance import (
    MAX_PASSAGES,
    MAX_PLACES,
    SHORTEST,
    trace_sources,
)
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.catalogue import Catalogue
from gpt_architecture.serving.openai.planning import check_ids, encode_text
from gpt_architecture.serving.openai.prompts import MAX_TOKEN_ID, Prompt, one_prompt
from gpt_architecture.serving.openai.strict_bodies import REQUEST, Body, Foreign, StrictRoute
from gpt_architecture.serving.turns import Turns

MOST_PASSAGES = 50
MOST_PLACES = 20

Input = Annotated[
    Prompt,
    PlainValidator(
        one_prompt,
        json_schema_input_type=Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]], Field(min_length=1)],
    ),
]


class ProvenanceBody(Body):
    """`POST /v1/provenance`."""

    foreign: ClassVar[Foreign] = REQUEST

    model: str | None = None
    input: Input
    """Le texte, ou ses identifiants, tels que le modèle les a écrits."""
    parse_special: bool | None = None
    min_tokens: Annotated[int, Field(ge=1, le=MAX_TOKEN_ID)] = SHORTEST
    """Longueur du plus court passage rendu."""
    passages: Annotated[int, Field(ge=1, le=MOST_PASSAGES)] = MAX_PASSAGES
    """Passages rendus, les plus longs d'abord."""
    places: Annotated[int, Field(ge=0, le=MOST_PLACES)] = MAX_PLACES
    """Occurrences rendues de chacun."""


class PlaceAnswer(BaseModel):
    """Une occurrence d'un passage."""

    document: int
    name: str | None
    offset: int
    before: str
    after: str


class PassageAnswer(BaseModel):
    """Un passage, du texte et des données."""

    start: int
    end: int
    length: int
    text: str
    beyond_chance: bool
    occurrences: int
    places: list[PlaceAnswer]


class ChanceAnswer(BaseModel):
    """Ce que le hasard donne."""

    length: int
    measured: bool


class IndexAnswer(BaseModel):
    """Les données indexées."""

    tokens: int
    documents: int
    sha256: str


class ProvenanceAnswer(BaseModel):
    """Réponse de `/v1/provenance`."""

    object: Literal["provenance"]
    model: str
    tokens: int
    longest: int
    covered: int
    chance: ChanceAnswer
    found: int
    passages: list[PassageAnswer]
    index: IndexAnswer


def provenance_router(catalogue: Catalogue, responses: dict[int | str, Any]) -> APIRouter:
    """La route des sources.

    Args:
        catalogue: les modèles du service ; seul celui qui est toujours chargé a un index, et sans
            lui elle dit comment en faire un.
        responses: les erreurs que la référence lui donne.
    """
    router = APIRouter(route_class=StrictRoute, tags=["Provenance"])
    context, turns = catalogue.default, Turns()

    @router.post(
        "/v1/provenance",
        summary="D'où viennent les mots d'un texte",
        response_model=ProvenanceAnswer,
        responses=responses,
    )
    async def provenance(body: ProvenanceBody, request: Request) -> Response:
        catalogue.check(body.model)
        context.fields.check(body)
        index = context.index
        if index is None:
            raise ApiError(
                404,
                "ce service n'a pas d'index de ses données d'entraînement ; faites-en un par "
                "« gpt-architecture evaluate --index DOSSIER », puis relancez "
                "« gpt-architecture serve --index DOSSIER »",
                code="no_index",
            )
        if body.model not in (None, context.name):
            raise ApiError(
                404,
                f"« {body.model} » n'a pas d'index de ses données d'entraînement : celui de ce "
                f"service est de celles de « {context.name} »",
                param="model",
                code="no_index",
            )
        ids = body.input
        if isinstance(ids, str):
            ids = await encode_text(context, written(ids) if body.parse_special else ids)
        check_ids(context, ids, param="input")
        most = context.limits.provenance_tokens
        if not 0 < len(ids) <= most:
            raise ApiError.invalid(
                f"le texte compte {len(ids)} tokens : ce service en cherche de 1 à {most}",
                param="input",
            )
        call = partial(
            trace_sources,
            index,
            ids,
            shortest=body.min_tokens,
            passages=body.passages,
            places=body.places,
        )
        (found,) = await turns.answer(request, context, [call])
        head = {"object": "provenance", "model": context.name}
        return JSONResponse(head | found.to_dict())

    return router
