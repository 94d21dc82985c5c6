"""`POST /v1/embeddings` : les vecteurs de textes, faits des états cachés du modèle.

Chaque texte est lu seul, hors du moteur et de la boucle HTTP : son vecteur ne dépend pas des
autres, et entre deux textes une autre requête passe.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from torch import Tensor

from gpt_architecture.evaluation.embeddings import Pooling
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.catalogue import Catalogue
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.limits import check_maximum
from gpt_architecture.serving.openai.planning import encode
from gpt_architecture.serving.openai.prompts import Prompts
from gpt_architecture.serving.openai.strict_bodies import (
    Body,
    Foreign,
    Hint,
    Refused,
    StrictRoute,
)
from gpt_architecture.serving.turns import Turns

Encoding = Literal["float", "base64"]

_PAUSE = 32  # textes codés avant de rendre la main à la boucle
_FOREIGN: Foreign = {
    "user": Hint(str),
    "priority": Hint(int),
    "truncate_prompt_tokens": Refused(),
    "add_special_tokens": Refused((False,)),
    "normalize": Refused((True,)),
}


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`."""

    foreign: ClassVar[Foreign] = _FOREIGN

    model: str | None = None
    input: Prompts
    """Un texte, des textes, des identifiants ou des listes d'identifiants ; aucun n'est vide."""
    encoding_format: Encoding = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """N'en garde que les premières, puis remet la norme à 1."""
    pooling: Pooling = "mean"
    """Comment réunir les états d'un texte : leur moyenne, ou celui de son dernier token."""
    parse_special: bool | None = None


class EmbeddingAnswer(BaseModel):
    """Le vecteur d'un texte : des nombres, ou leurs float32 petit-boutistes en base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Compte des tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Réponse de `/v1/embeddings`."""

    object: Literal["list"]
    data: list[EmbeddingAnswer]
    model: str
    usage: EmbeddingsUsage


def embeddings_router(catalogue: Catalogue, responses: dict[int | str, Any]) -> APIRouter:
    """La route des vecteurs.

    Args:
        catalogue: les modèles du service ; quantifié, ou avec un adaptateur, l'un d'eux n'en donne
            pas et elle le dit.
        responses: les erreurs que la référence lui donne.
    """
    router = APIRouter(route_class=StrictRoute, tags=["Vecteurs"])
    turns = Turns()

    @router.post(
        "/v1/embeddings",
        summary="Donner les vecteurs de textes",
        response_model=EmbeddingsAnswer,
        responses=responses,
    )
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        context.fields.check(body)
        why = "les vecteurs sont ceux du modèle seul : demandez-les à"
        catalogue.refuse_adapter(context, why, "no_embeddings")
        if context.embed is None:
            raise ApiError.invalid(
                "ce modèle, quantifié, ne donne pas ses états cachés : servez le fichier d'origine",
                code="no_embeddings",
            )
        width = context.model.cfg.emb_dim
        check_maximum("dimensions", body.dimensions or 1, width)
        texts = await _texts(context, body)
        count = sum(map(len, texts))
        vector = partial(context.embed, pooling=body.pooling, dimensions=body.dimensions)
        calls = [
            partial(_entry, vector, ids, index, body.encoding_format)
            for index, ids in enumerate(texts)
        ]
        entries = await turns.answer(request, context, calls, read=count)
        return Response(_answer(context.name, entries, count), media_type="application/json")

    return router


async def _texts(context: ServingContext, body: EmbeddingsBody) -> list[tuple[int, ...]]:
    """Les textes codés, dans les bornes du service."""
    limits, found, count = context.limits, list[tuple[int, ...]](), 0
    if len(body.input) > limits.embedding_texts:
        raise ApiError.invalid(
            f"la requête porte {len(body.input)} textes : ce service n'en accepte que "
            f"{limits.embedding_texts}",
            param="input",
        )
    for number, each in enumerate(body.input):
        if not each:
            raise ApiError.invalid(
                f"input.{number} est vide : il n'a pas de vecteur", param="input"
            )
        ids = await encode(context, each, parse_special=body.parse_special, param="input")
        count += len(ids)
        if count > limits.embedding_tokens:
            raise ApiError.invalid(
                f"les textes comptent plus de {limits.embedding_tokens} tokens : envoyez-les en "
                "plusieurs requêtes",
                param="input",
            )
        found.append(ids)
        if number % _PAUSE == _PAUSE - 1:
            await asyncio.sleep(0)
    return found


def _entry(vector: partial[Tensor], ids: Sequence[int], index: int, form: Encoding) -> str:
    """Un texte lu, et son vecteur écrit en JSON, dans le même thread : des milliers de nombres."""
    numbers = vector(ids).numpy().astype("<f4")
    if form == "base64":
        said = f'"{base64.b64encode(numbers.tobytes()).decode()}"'
    else:  # neuf chiffres redonnent un float32 exactement
        said = f"[{','.join(format(each, '.9g') for each in numbers.tolist())}]"
    return f'{{"object":"embedding","index":{index},"embedding":{said}}}'


def _answer(model: str, entries: Sequence[str], tokens: int) -> str:
    head = EmbeddingsAnswer(
        object="list",
        data=[],
        model=model,
        usage=EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens),
    ).model_dump_json()
    return head.replace('"data":[]', f'"data":[{",".join(entries)}]', 1)
