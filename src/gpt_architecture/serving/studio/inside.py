"""Ce que le studio montre de l'intérieur du modèle : attention, couches, têtes, neurones.

Un calcul à la fois, hors de la boucle et du thread du moteur ; chacun borné avant de commencer, et
compté à la clé qui le demande pour les tokens qu'il lit.

Formes : L couches, H têtes, T tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal
from weakref import WeakKeyDictionary

import torch
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from gpt_architecture.core.adapters import Adapter, with_adapter
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import CheckpointError, ModelFileError
from gpt_architecture.evaluation.attention_maps import attention_of
from gpt_architecture.evaluation.inside.ablation import study_ablation
from gpt_architecture.evaluation.inside.heads import LENGTH, ROWS, HeadPatterns, find_heads
from gpt_architecture.evaluation.inside.learning import (
    MOST_MOMENTS,
    Learning,
    folder_of,
    follow_learning,
)
from gpt_architecture.evaluation.inside.lens import read_layers
from gpt_architecture.evaluation.inside.sentence import single_token
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.catalogue import Catalogue
from gpt_architecture.serving.context import ServingContext, TokenNames
from gpt_architecture.serving.openai import prompts
from gpt_architecture.serving.openai.planning import check_ids, encode, encode_text
from gpt_architecture.serving.openai.strict_bodies import StrictRoute
from gpt_architecture.serving.studio.answers import (
    ablation_answer,
    learning_answer,
    neighbours_answer,
    neuron_answer,
    packed,
    patterns_answer,
    reading_answer,
)
from gpt_architecture.serving.turns import Turns

SENTENCE_TOKENS = 48
"""Tokens d'une phrase regardée : L·H cartes d'attention en contiennent le carré."""

NEURON_TOKENS = 2_048
"""Tokens d'un texte où chercher ce qui allume un neurone."""

PATTERN_TOKENS = 2 * LENGTH * ROWS
"""Tokens lus pour noter les têtes d'un modèle : chaque suite est écrite deux fois."""

LEARNING_TOKENS = 24
"""Tokens écrits à chaque point de reprise."""

LEARNING_CHARACTERS = 2_000
"""Caractères d'une invite, ou d'un texte suivi, au fil de l'entraînement."""

_CANDIDATES = 5
_NO_POINT = (
    "ce service ne suit aucun entraînement qui ait des points de reprise ; relancez-le avec le "
    "dossier d'un qui en garde plusieurs (`save_every`, `keep`)"
)

logger = logging.getLogger(__name__)

ModelName = Annotated[str | None, Query(max_length=256)]
"""Le nom d'un modèle ou d'un adaptateur du service ; None : le modèle toujours chargé."""


class PromptBody(BaseModel):
    """Une invite, texte ou identifiants, et qui la lit ; None : le modèle toujours chargé."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    prompt: prompts.Prompts


class AblationBody(PromptBody):
    """Une invite, par quoi remplacer les pièces retirées, et le token suivi."""

    mode: Literal["mean", "zero"] = "mean"
    follow: Annotated[int, Field(ge=0)] | None = None


class NeuronBody(PromptBody):
    """Un texte, et un neurone ; couche et neurone comptés depuis 0."""

    layer: Annotated[int, Field(ge=0)] = 0
    neuron: Annotated[int, Field(ge=0)] | None = None


class LearningBody(BaseModel):
    """Une invite, et le texte dont la probabilité est suivie."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=LEARNING_CHARACTERS)]
    follow: Annotated[str, Field(min_length=1, max_length=LEARNING_CHARACTERS)] | None = None


def inside_router(catalogue: Catalogue) -> APIRouter:
    """Les routes de ce module.

    Args:
        catalogue: les modèles du service ; celui qui n'a pas de réseau en virgule flottante refuse
            et dit pourquoi ; sous le nom d'un adaptateur, le réseau regardé est le sien.
    """
    router = APIRouter(route_class=StrictRoute, include_in_schema=False)
    turns = Turns()
    # Les notes des têtes ne dépendent que du réseau : mesurées une fois, oubliées avec lui.
    known = WeakKeyDictionary[GPTModel | Adapter, HeadPatterns]()

    @router.post("/studio/api/attention")
    async def look(body: PromptBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        network, ids = network_of(context), await _sentence(context, body)
        call = partial(attention_of, network, ids, window=context.window)
        (weights,) = await turns.answer(request, context, [call], read=len(ids))
        levels = (weights * 255).round().to(torch.uint8)  # (L, H, T, T)
        return JSONResponse(
            {
                "layers": weights.size(0),
                "heads": weights.size(1),
                "names": [context.names.text(token) for token in ids],
                "weights": packed(levels),
            }
        )

    @router.get("/studio/api/heads")
    async def heads(request: Request, model: ModelName = None) -> Response:
        context = await catalogue.open(model)
        network, size = writer_of(context), named_tokens(context)
        key = context.adapter or network

        def measured() -> HeadPatterns:  # gardées même si plus personne ne les attend
            if key not in known:
                known[key] = find_heads(network, vocab_size=size, window=context.window)
            return known[key]

        read = None if key in known else PATTERN_TOKENS
        (found,) = await turns.answer(request, context, [measured], read=read)
        return JSONResponse(patterns_answer(found))

    @router.post("/studio/api/lens")
    async def lens(body: PromptBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        network, ids = writer_of(context), await _sentence(context, body)
        top = min(_CANDIDATES, context.model.cfg.vocab_size)
        call = partial(read_layers, network, ids, top=top, window=context.window)
        (found,) = await turns.answer(request, context, [call], read=len(ids))
        return JSONResponse(reading_answer(found, context.names))

    @router.post("/studio/api/ablation")
    async def ablation(body: AblationBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        network, ids = writer_of(context), await _sentence(context, body)
        call = partial(
            study_ablation,
            network,
            ids,
            mode=body.mode,
            target=body.follow,
            window=context.window,
        )
        (found,) = await turns.answer(request, context, [call], read=len(ids))
        return JSONResponse(ablation_answer(found, context.names))

    @router.post("/studio/api/neuron")
    async def neuron(body: NeuronBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        network, ids = writer_of(context), await _text(context, body)
        call = partial(
            neuron_answer, context, network, ids, body.layer, body.neuron, named_tokens(context)
        )
        (found,) = await turns.answer(request, context, [call], read=len(ids))
        return JSONResponse(found)

    @router.post("/studio/api/neighbours")
    async def neighbours(body: PromptBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        network, names = network_of(context), context.names
        ids = await one_prompt(context, body)
        token = single_token(ids, "".join(map(names.text, ids)), context.tokenizer.encode)
        call = partial(neighbours_answer, names, network, token, named_tokens(context))
        (found,) = await turns.answer(request, context, [call], read=1)
        return JSONResponse(found)

    @router.post("/studio/api/learning")
    async def learning(body: LearningBody, request: Request) -> Response:
        found = await _learned(catalogue.default, turns, body, request)
        return JSONResponse(learning_answer(found, TokenNames(found.tokenizer)))

    return router


def named_tokens(context: ServingContext) -> int:
    """Les tokens qui ont un texte : un modèle peut avoir des logits de plus."""
    return min(context.tokenizer.vocab_size, context.model.cfg.vocab_size)


def network_of(context: ServingContext) -> GPTModel:
    """Le réseau où regarder, avec son adaptateur s'il en a un.

    Raises:
        ApiError: 400, le modèle est quantifié.
    """
    if context.network is None:
        raise ApiError.invalid(
            "ce modèle, quantifié, ne donne pas ses poids d'attention et ne laisse pas voir ses "
            "couches ; relancez le service avec le modèle d'origine"
        )
    network, adapter = context.network, context.adapter
    return network if adapter is None else with_adapter(network, adapter)


def writer_of(context: ServingContext) -> GPTModel:
    """Le réseau où regarder, quand ce que l'on y cherche se lit dans ses logits.

    Raises:
        ApiError: 400, le modèle est quantifié.
        ConfigurationError: ses logits ne sont pas ceux de tokens.
    """
    context.model.cfg.check_writes()
    return network_of(context)


async def _learned(
    context: ServingContext, turns: Turns, body: LearningBody, request: Request
) -> Learning:
    """L'invite, au fil de l'entraînement du modèle toujours chargé ; chaque point lu la relit.

    Raises:
        ApiError: 404, il n'a pas de point de reprise, ou l'un ne se lit pas.
    """
    folder = context.run_directory
    points = 0 if folder is None else len(folder_of(folder).steps())
    if folder is None or not points:
        raise ApiError(404, _NO_POINT, code="not_found")
    asked = len(await encode_text(context, body.prompt))
    asked += len(await encode_text(context, body.follow)) if body.follow else 0
    call = partial(
        follow_learning,
        folder,
        body.prompt,
        follow=body.follow,
        max_tokens=LEARNING_TOKENS,
        top=_CANDIDATES,
        most=MOST_MOMENTS,
    )
    read = min(points, MOST_MOMENTS) * (asked + LEARNING_TOKENS)
    try:
        (found,) = await turns.answer(request, context, [call], read=read)
    except (CheckpointError, ModelFileError) as error:  # leur phrase dit un chemin d'ici
        logger.warning("point de reprise illisible : %s", error)
        raise ApiError(
            404,
            "un point de reprise ne se lit pas, ou vient d'être remplacé ; réessayez",
            code="not_found",
        ) from None
    return found


async def one_prompt(context: ServingContext, body: PromptBody) -> tuple[int, ...]:
    """Les identifiants de la seule invite d'une requête.

    Raises:
        ApiError: 400, plusieurs invites, ou une invite refusée (voir `encode`).
    """
    return await encode(context, prompt_of(context, only_prompt(body)))


def only_prompt(body: PromptBody) -> prompts.Prompt:
    """La seule invite d'une requête.

    Raises:
        ApiError: 400, plusieurs invites.
    """
    if len(body.prompt) != 1:
        raise ApiError.invalid("donnez une seule invite", param="prompt")
    return body.prompt[0]


def prompt_of(context: ServingContext, prompt: prompts.Prompt) -> prompts.Prompt:
    """L'invite reçue ; l'exemple du modèle, que la page renvoie tel quel, garde ses marques."""
    return context.example if prompt == context.example else prompt


async def _sentence(context: ServingContext, body: PromptBody) -> tuple[int, ...]:
    """Les identifiants d'une phrase, assez courte pour être regardée en entier."""
    ids = await one_prompt(context, body)
    if len(ids) > SENTENCE_TOKENS:
        raise ApiError.invalid(
            f"la phrase compte {len(ids)} tokens : le studio en regarde au plus {SENTENCE_TOKENS}",
            param="prompt",
        )
    return ids


async def _text(context: ServingContext, body: PromptBody) -> Sequence[int]:
    """Les identifiants d'un texte, qui peut dépasser le contexte du modèle."""
    text = only_prompt(body)
    ids = await encode_text(context, text) if isinstance(text, str) else text
    check_ids(context, ids, param="prompt")
    if not 0 < len(ids) <= NEURON_TOKENS:
        raise ApiError.invalid(
            f"le texte compte {len(ids)} tokens : le studio en lit de 1 à {NEURON_TOKENS}",
            param="prompt",
        )
    return ids
