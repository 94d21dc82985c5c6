"""L'application HTTP : les routes d'OpenAI, et celles qui surveillent le service."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from fastapi import APIRouter, FastAPI, Path, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.data.tokenizers.protocol import ROLES, role_names, special_names
from gpt_architecture.serving.api_errors import ApiError, install_handlers
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.http.middleware import (
    GuardMiddleware,
    HeadMiddleware,
    OriginsMiddleware,
)
from gpt_architecture.serving.http.observer import ObservedMiddleware, Observer, route_finder
from gpt_architecture.serving.metrics import CONTENT_TYPE, Metrics
from gpt_architecture.serving.openai import bodies, reference
from gpt_architecture.serving.openai.answers import ChatShape, CompletionShape, Transcript
from gpt_architecture.serving.openai.planning import (
    check_body,
    check_ids,
    check_model,
    encode_text,
    plan_chat,
    plan_completion,
    render,
)
from gpt_architecture.serving.openai.streaming import Answerer
from gpt_architecture.serving.openai.strict_bodies import StrictRoute
from gpt_architecture.serving.studio.files import files_router
from gpt_architecture.serving.studio.routes import studio_router

_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}
_DESCRIPTION = (
    "Un modèle GPT-2 derrière l'interface d'OpenAI. Toute erreur est rendue dans son enveloppe."
)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": reference.ErrorEnvelope, "description": _MEANINGS[status]}
        for status in statuses
    }


_MEANINGS = {
    400: "Requête refusée.",
    401: "Clé d'accès absente ou inconnue.",
    404: "Adresse ou modèle inconnu.",
    405: "Méthode HTTP refusée.",
    408: "Corps trop lent.",
    413: "Corps trop grand.",
    429: "Service plein ; Retry-After dit quand réessayer.",
    500: "Panne du service.",
    503: "Service pas prêt, ou qui s'arrête.",
    504: "Temps écoulé.",
}
_COMMON = _errors(400, 401, 408, 413, 429, 500, 503)


def create_app(
    context: ServingContext,
    *,
    keys: KeyRing | None = None,
    origins: Sequence[str] = (),
    observer: Observer | None = None,
) -> FastAPI:
    """L'application d'un modèle chargé, dont le moteur est démarré.

    Args:
        context: ce qu'elle sert.
        keys: clés d'accès ; None : tout le monde est accepté.
        origins: pages web d'ailleurs qui peuvent l'appeler (CORS) ; vide : aucune.
        observer: suit les requêtes ; None : elles ne sont que comptées.
    """
    app = FastAPI(
        title="gpt-architecture",
        summary=f"Service du modèle « {context.name} »",
        description=_DESCRIPTION,
        version="1",
        docs_url=None,  # la page de FastAPI prend ses scripts sur un CDN
        redoc_url=None,
    )
    app.state.limits = context.limits
    install_handlers(app)
    observer = observer or Observer()
    metrics = Metrics(context.engine, context.name, observer)
    answerer = Answerer(context, metrics)

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference.reference_page(app.openapi()))

    known = list(app.routes)
    for router in (
        _generation_routes(context, answerer),
        _model_routes(context),
        _watch_routes(context, metrics),
        studio_router(context, answerer),
        files_router(lambda: context.engine.state),
    ):
        app.include_router(router)
        known += router.routes
    # Le dernier ajouté est traversé le premier : observateur, origines, garde, puis routes.
    app.add_middleware(HeadMiddleware)
    app.add_middleware(GuardMiddleware, limits=context.limits, keys=keys)
    app.add_middleware(OriginsMiddleware, origins=origins)
    app.add_middleware(ObservedMiddleware, observer=observer, route=route_finder(known))
    return app


def _generation_routes(context: ServingContext, answerer: Answerer) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["Génération"])

    @router.post(
        "/v1/completions",
        summary="Continuer un texte",
        response_model=reference.CompletionAnswer,
        responses={200: {"content": _STREAM}, **_COMMON, **_errors(404, 504)},
    )
    async def completions(body: bodies.CompletionBody, request: Request) -> Response:
        plan = await plan_completion(context, body)
        names, scored = context.names, body.logprobs is not None
        shape = CompletionShape(context.name, names, plan, logprobs=scored)
        echo = [
            prompt if prompt and isinstance(prompt, str) else context.tokenizer.decode(ids)
            for prompt, ids in zip(body.prompt, plan.prompts, strict=True)
            if body.echo
        ]
        return await answerer.answer(request, Transcript(plan, echo), shape, body.flow)

    @router.post(
        "/v1/chat/completions",
        summary="Répondre à une conversation",
        response_model=reference.ChatAnswer,
        responses={200: {"content": _STREAM}, **_COMMON, **_errors(404, 504)},
    )
    async def chat(body: bodies.ChatBody, request: Request) -> Response:
        plan = await plan_chat(context, body)
        shape = ChatShape(context.name, context.names, logprobs=bool(body.logprobs))
        return await answerer.answer(request, Transcript(plan), shape, body.flow)

    return router


def _model_routes(context: ServingContext) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["Modèle et tokens"])
    card = {
        "id": context.name,
        "object": "model",
        "created": context.created,
        "owned_by": "gpt-architecture",
        "max_model_len": context.window,
        "sha256": context.digest,
    }

    @router.get(
        "/v1/models",
        summary="Modèles servis",
        response_model=reference.ModelList,
        responses=_errors(401, 429),
    )
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @router.get(
        "/v1/models/{name:path}",
        summary="Un modèle",
        response_model=reference.ModelCard,
        responses=_errors(401, 404, 429),
    )
    async def model(name: Annotated[str, Path(min_length=1)]) -> Response:
        check_model(context, name)
        return JSONResponse(card)

    @router.post(
        "/tokenize",
        summary="Couper un texte en tokens",
        response_model=reference.TokenizeAnswer,
        responses={**_COMMON, **_errors(404)},
    )
    async def tokenize(body: bodies.TokenizeBody) -> Response:
        check_body(context, body)
        text = body.prompt
        if text is None:
            messages = body.messages or []
            text = await render(context, messages, add_generation_prompt=body.add_generation_prompt)
        alone = body.parse_special is None and text in special_names(context.tokenizer)
        if body.parse_special or alone:  # un nom seul demande son identifiant : ainsi fait lm-eval
            text = written(text)
        tokens = await encode_text(context, text)
        names = [context.names.text(token) for token in tokens] if body.return_token_strs else None
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": context.window,
                "tokens": tokens,
                "token_strs": names,
            }
        )

    @router.post(
        "/detokenize",
        summary="Réunir des tokens en texte",
        response_model=reference.DetokenizeAnswer,
        responses={**_COMMON, **_errors(404)},
    )
    async def detokenize(body: bodies.DetokenizeBody) -> Response:
        check_body(context, body)
        check_ids(context, body.tokens, param="tokens")
        return JSONResponse({"prompt": context.tokenizer.decode(body.tokens)})

    @router.get(
        "/tokenizer_info",
        summary="Ce qu'est le tokenizer",
        response_model=reference.TokenizerInfo,
        responses=_errors(401, 429),
    )
    async def tokenizer_info() -> Response:
        roles = role_names(context.tokenizer)
        return JSONResponse(
            {
                "tokenizer_class": context.tokenizer.name,
                "vocab_size": context.tokenizer.vocab_size,
                **{role: roles.get(role) for role in ROLES},
                "chat_template": context.chat_template,
            }
        )

    return router


def _watch_routes(context: ServingContext, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["Surveillance"])

    @router.get(
        "/health",
        summary="Le service peut-il répondre ?",
        response_model=reference.Health,
        responses=_errors(503),
    )
    async def health() -> Response:
        state = context.engine.state
        if state != "ready":
            raise ApiError.unavailable(f"le moteur n'est pas prêt ({state})", code=state)
        return JSONResponse({"status": "ok"})

    @router.get(
        "/live",
        summary="Faut-il relancer le service ?",
        response_model=reference.Health,
        responses=_errors(503),
    )
    async def live() -> Response:
        if context.engine.state == "dead":
            raise ApiError.unavailable("le moteur est mort", code="dead")
        return JSONResponse({"status": "ok"})

    router.add_api_route(
        "/ready",
        health,
        summary="Le service accepte-t-il du travail ?",
        response_model=reference.Health,
        responses=_errors(503),
    )

    @router.get(
        "/version",
        summary="Version du service",
        response_model=reference.Version,
        responses=_errors(401, 429),
    )
    async def version() -> Response:
        return JSONResponse(
            {
                "version": context.version,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )

    @router.get(
        "/metrics",
        summary="Mesures, pour Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def read_metrics() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router
