"""`POST /v1/classify` : la classe de chaque texte et ses probabilités, ou sa valeur.

Le moteur n'y est pour rien : un texte se juge d'une seule passe, à son tour, hors de la boucle
HTTP.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, PlainValidator
from starlette.responses import JSONResponse, Response

from gpt_architecture.evaluation.judgement import head_of, judge
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.catalogue import Catalogue
from gpt_architecture.serving.openai.planning import encode_text
from gpt_architecture.serving.openai.prompts import refuse
from gpt_architecture.serving.openai.strict_bodies import REQUEST, Body, Foreign, Hint, StrictRoute
from gpt_architecture.serving.turns import Turns

_Text = Annotated[str, Field(min_length=1)]


def _texts(value: Any) -> list[str]:
    """Un texte, ou une liste de textes → des textes, dont aucun n'est vide."""
    found = [value] if isinstance(value, str) else value
    right = isinstance(found, list) and all(isinstance(each, str) for each in found)
    if not right or not found or not all(each.strip() for each in found):
        raise refuse("doit être un texte, ou une liste de textes, dont aucun n'est vide")
    return found


class ClassifyBody(Body):
    """`POST /v1/classify`."""

    foreign: ClassVar[Foreign] = {**REQUEST, "user": Hint(str)}

    model: str | None = None
    input: Annotated[
        list[str],
        PlainValidator(
            _texts,
            json_schema_input_type=_Text | Annotated[list[_Text], Field(min_length=1)],
        ),
    ]
    """Le texte à juger, ou plusieurs."""


class JudgementAnswer(BaseModel):
    """Ce que le modèle dit d'un texte."""

    index: int
    label: str | None
    """Sa classe la plus probable ; null si le modèle rend une valeur."""
    probabilities: dict[str, float] | None
    value: float | None
    """Sa valeur ; null si le modèle rend une classe."""
    truncated: bool
    """Vrai si seul le début du texte a été lu."""


class ClassifyUsage(BaseModel):
    """Tokens lus."""

    prompt_tokens: int
    total_tokens: int


class ClassifyAnswer(BaseModel):
    """Réponse de `/v1/classify`."""

    object: Literal["classification"]
    created: int
    model: str
    data: list[JudgementAnswer]
    usage: ClassifyUsage


def classification_router(catalogue: Catalogue, responses: dict[int | str, Any]) -> APIRouter:
    """La route qui classe ou note des textes.

    Args:
        catalogue: les modèles du service ; celui qui répond doit avoir une tête qui juge.
        responses: les erreurs que la référence lui donne.
    """
    router = APIRouter(route_class=StrictRoute, tags=["Classement"])
    turns = Turns()

    @router.post(
        "/v1/classify",
        summary="Classer ou noter des textes",
        response_model=ClassifyAnswer,
        responses=responses,
    )
    async def classify(body: ClassifyBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        context.fields.check(body)
        head_of(context.model)
        why = "un adaptateur n'y change rien : demandez ce jugement à"
        catalogue.refuse_adapter(context, why, "no_classification")
        texts, most = body.input, context.limits.prompts
        if len(texts) > most:
            raise ApiError.invalid(
                f"la requête porte {len(texts)} textes : ce service n'en juge que {most} à la fois",
                param="input",
            )
        lengths = [len(await encode_text(context, each)) for each in texts]
        read = sum(min(each, context.window) for each in lengths)
        call = partial(judge, context.model, context.tokenizer, texts, window=context.window)
        (found,) = await turns.answer(request, context, [call], read=read)
        return JSONResponse(
            {
                "object": "classification",
                "created": int(time.time()),
                "model": context.name,
                "data": [
                    {
                        "index": rank,
                        "label": each.label,
                        "probabilities": None if each.label is None else each.probabilities,
                        "value": each.value,
                        "truncated": each.truncated,
                    }
                    for rank, each in enumerate(found)
                ],
                "usage": {"prompt_tokens": read, "total_tokens": read},
            }
        )

    return router
