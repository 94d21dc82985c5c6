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
from gpt_architecture.serving.anthropic.messages import messages_router
from gpt_architecture.serving.api_errors import ApiError, install_handlers
from gpt_architecture.serving.catalogue import Answerers, Catalogue, adapter_router
from gpt_architecture.serving.classification import classification_router
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
from gpt_architecture.serving.openai.embeddings import embeddings_router
from gpt_architecture.serving.openai.planning import (
    check_body,
    check_ids,
    echo_of,
    encode_text,
    plan_chat,
    plan_completion,
    render,
)
from gpt_architecture.serving.openai.receipts import attested
from gpt_architecture.serving.openai.responses import responses_router
from gpt_architecture.serving.openai.strict_bodies import StrictRoute
from gpt_architecture.serving.pool import ModelPool
from gpt_architecture.serving.provenance import provenance_router
from gpt_architecture.serving.studio.files import files_router
from gpt_architecture.serving.studio.routes import studio_router

_DESCRIPTION = (
    "Un modèle GPT-2 derrière l'interface d'OpenAI. Toute erreur est rendue dans son enveloppe."
)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": reference.ErrorEnvelope, "description": _MEANINGS[status]}
        for status in statuses
    }


def _said(*statuses: int | str) -> dict[int, str]:
    return {int(status): _MEANINGS[int(status)] for status in statuses}


_MEANINGS = {
    400: "Requête refusée.",
    401: "Clé d'accès absente ou inconnue.",
    403: "Ce service ne le permet pas.",
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
    pool: ModelPool | None = None,
) -> FastAPI:
    """L'application d'un modèle chargé, dont le moteur est démarré.

    Args:
        context: ce qu'elle sert.
        keys: clés d'accès ; None : tout le monde est accepté.
        origins: pages web d'ailleurs qui peuvent l'appeler (CORS) ; vide : aucune.
        observer: suit les requêtes ; None : elles ne sont que comptées.
        pool: les autres modèles, chargés à la demande ; None : il n'y en a pas.
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
    catalogue = Catalogue(context, pool)
    answerers = Answerers(catalogue, metrics)
    if pool is not None:
        metrics.watch(lambda: catalogue.states)

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference.reference_page(app.openapi()))

    known = list(app.routes)
    for router in (
        _generation_routes(catalogue, answerers),
        _model_routes(catalogue),
        embeddings_router(catalogue, {**_COMMON, **_errors(404, 504)}),
        responses_router(catalogue, answerers, {**_COMMON, **_errors(404, 504)}),
        messages_router(catalogue, answerers, _said(*_COMMON, 404, 504)),
        adapter_router(catalogue, keys, {**_COMMON, **_errors(403, 404)}),
        provenance_router(catalogue, {**_COMMON, **_errors(404, 504)}),
        classification_router(catalogue, {**_COMMON, **_errors(404, 504)}),
        _watch_routes(catalogue, metrics),
        studio_router(catalogue, answerers),
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


def _generation_routes(catalogue: Catalogue, answerers: Answerers) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["Génération"])

    @router.post(
        "/v1/completions",
        summary="Continuer un texte",
        response_model=reference.CompletionAnswer,
        responses={200: {"content": reference.EVENTS}, **_COMMON, **_errors(404, 504)},
    )
    async def completions(body: bodies.CompletionBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        plan = await plan_completion(context, body)
        echo, scored = echo_of(context, body, plan), body.logprobs is not None
        transcript = Transcript(plan, echo, attested=bool(body.receipt))
        known = await attested(context, body, transcript)
        shape = CompletionShape(context.name, context.names, plan, logprobs=scored, **known)
        return await answerers.of(context).answer(request, transcript, shape, body.flow)

    @router.post(
        "/v1/chat/completions",
        summary="Répondre à une conversation",
        response_model=reference.ChatAnswer,
        responses={200: {"content": reference.EVENTS}, **_COMMON, **_errors(404, 504)},
    )
    async def chat(body: bodies.ChatBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        transcript = Transcript(await plan_chat(context, body), attested=bool(body.receipt))
        known = await attested(context, body, transcript)
        scored = bool(body.logprobs)
        shape = ChatShape(context.name, context.names, logprobs=scored, **known)
        return await answerers.of(context).answer(request, transcript, shape, body.flow)

    return router


def _model_routes(catalogue: Catalogue) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["Modèle et tokens"])

    @router.get(
        "/v1/models",
        summary="Modèles servis",
        response_model=reference.ModelList,
        responses=_errors(401, 429),
    )
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": list(catalogue.cards().values())})

    @router.get(
        "/v1/models/{name:path}",
        summary="Un modèle",
        response_model=reference.ModelCard,
        responses=_errors(401, 404, 429),
    )
    async def model(name: Annotated[str, Path(min_length=1)]) -> Response:
        found = catalogue.cards().get(name)
        return JSONResponse(catalogue.card(catalogue.find(name)) if found is None else found)

    @router.post(
        "/tokenize",
        summary="Couper un texte en tokens",
        response_model=reference.TokenizeAnswer,
        responses={**_COMMON, **_errors(404)},
    )
    async def tokenize(body: bodies.TokenizeBody) -> Response:
        context = await catalogue.open(body.model)
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
        context = await catalogue.open(body.model)
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
        context = catalogue.default
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


def _watch_routes(catalogue: Catalogue, metrics: Metrics) -> APIRouter:
    router, context = APIRouter(tags=["Surveillance"]), catalogue.default

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
        told = {} if catalogue.pool is None else {"models": catalogue.states}
        return JSONResponse({"status": "ok", **told})

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
