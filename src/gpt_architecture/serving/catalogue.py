"""Les modèles d'un service : le sien, ses adaptateurs, et ceux qu'il charge à la demande.

Chaque nom a son contexte, où tout ce qui suit lit le moteur, le gabarit, l'identité et l'adaptateur
qui répondent.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import JSONResponse, Response

from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.serving.adapters import AdapterShelf, ServedAdapter
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.identity import Identity, sha256_of
from gpt_architecture.serving.metrics import Metrics
from gpt_architecture.serving.openai.planning import unknown_model
from gpt_architecture.serving.openai.reference import ModelCard
from gpt_architecture.serving.openai.streaming import Answerer
from gpt_architecture.serving.openai.strict_bodies import Body, StrictRoute
from gpt_architecture.serving.pool import ModelPool, ModelState

logger = logging.getLogger(__name__)

_Name = Annotated[str, Field(min_length=1, max_length=256)]


class LoadAdapterBody(Body):
    """`POST /v1/load_lora_adapter`, avec les champs de vLLM."""

    lora_name: _Name
    lora_path: Annotated[str, Field(min_length=1, max_length=1024)]


class UnloadAdapterBody(Body):
    """`POST /v1/unload_lora_adapter`, avec les champs de vLLM."""

    lora_name: _Name


class Catalogue:
    """Le contexte de chaque nom qu'un client peut demander.

    Args:
        context: celui du modèle toujours chargé, qui répond aux requêtes sans nom.
        pool: les autres ; None : il n'y en a pas.
    """

    def __init__(self, context: ServingContext, pool: ModelPool | None = None) -> None:
        self.default, self.pool = context, pool
        self._adapted = dict[int, ServingContext]()  # par `Adapter.number`

    @property
    def served(self) -> list[ServingContext]:
        """Le modèle toujours chargé, puis ses adaptateurs."""
        shelf = self.default.shelf
        found = {} if shelf is None else shelf.served
        return [self.default, *map(self._of, found.values())]

    def remove(self, name: str) -> None:
        """Ne propose plus un adaptateur ; les réponses en cours le gardent."""
        shelf = self.default.shelf
        gone = None if shelf is None else shelf.remove(name)
        if gone is not None:
            self._adapted.pop(gone.adapter.number, None)

    @property
    def states(self) -> dict[str, ModelState]:
        """Les modèles du service, et où en est chacun."""
        others = {} if self.pool is None else self.pool.states
        return {self.default.name: "loaded", **others}

    async def open(self, name: str | None) -> ServingContext:
        """Le contexte qui répond à un nom, chargé s'il le faut ; None : celui du modèle.

        Raises:
            ApiError: 404, il n'est pas servi ici ; 503, il ne peut pas être chargé.
        """
        if self.pool is not None and name in self.pool.lodgers:
            return await self.pool.open(name)
        return self.find(name)

    def refuse_adapter(self, context: ServingContext, why: str, code: str) -> None:
        """Refuse un adaptateur, là où il ne changerait rien à ce que dit son modèle.

        Args:
            context: ce qui est demandé.
            why: ce qu'il faut demander au modèle, et pourquoi.
            code: motif du refus, lisible par un programme.

        Raises:
            ApiError: 400.
        """
        if context.adapter is not None:
            raise ApiError.invalid(
                f"{why} « {self.default.name} », sans adaptateur", param="model", code=code
            )

    def check(self, name: str | None) -> None:
        """Vérifie qu'un nom est servi, sans rien charger.

        Raises:
            ApiError: 404.
        """
        if self.pool is None or name not in self.pool.lodgers:
            self.find(name)

    def find(self, name: str | None) -> ServingContext:
        """Le contexte d'un nom, parmi ceux du modèle toujours chargé ; None : le sien.

        Raises:
            ApiError: 404, il n'est pas servi ici.
        """
        if name in (None, self.default.name):
            return self.default
        served = self.served
        found = next((each for each in served if each.name == name), None)
        if found is None:
            known = dict.fromkeys((*(each.name for each in served), *self.states))
            raise unknown_model(str(name), list(known))
        return found

    def cards(self) -> dict[str, dict[str, Any]]:
        """Ce que dit `/v1/models` de chacun, par nom."""
        found = {each.name: self.card(each) for each in self.served}
        loaded = {} if self.pool is None else self.pool.loaded
        for name, state in list(self.states.items())[1:]:
            assert self.pool is not None  # noqa: S101 — d'où viennent les autres
            if name in loaded:
                found[name] = self.card(loaded[name])
                continue
            known = self.pool.lodgers[name]
            about = {"id": name, "root": name, "sha256": None, "state": state}
            window = None if known is None else known.window  # illisible : inconnue
            found[name] = self.card(self.default) | about | {"max_model_len": window}
        return found

    def card(self, context: ServingContext) -> dict[str, Any]:
        """Ce que dit `/v1/models` de l'un d'eux, chargé."""
        return {
            "id": context.name,
            "object": "model",
            "created": context.created,
            "owned_by": "gpt-architecture",
            "max_model_len": context.window,
            "sha256": context.digest,
            "root": context.name if context.adapter is None else self.default.name,
            "parent": None if context.adapter is None else self.default.name,
            "state": "loaded",
        }

    def _of(self, served: ServedAdapter) -> ServingContext:
        number = served.adapter.number
        if number not in self._adapted:
            self._adapted[number] = adapted(self.default, served)
        return self._adapted[number]


class Answerers:
    """Ce qui exécute les demandes de chaque modèle, avec ses mesures.

    Args:
        catalogue: les modèles.
        metrics: les mesures du modèle toujours chargé.
    """

    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self._metrics = metrics
        self._first = Answerer(catalogue.default, metrics)
        self._default, self._others = catalogue.default, dict[str, Answerer]()
        if catalogue.pool is not None:
            catalogue.pool.on_unload = self._forget

    def of(self, context: ServingContext) -> Answerer:
        """Celui d'un contexte ; un adaptateur a celui de son modèle."""
        if context.engine is self._default.engine:
            return self._first
        if context.name not in self._others:
            metrics = self._metrics.of(context.engine, context.name)
            self._others[context.name] = Answerer(context, metrics)
        return self._others[context.name]

    def _forget(self, name: str) -> None:
        self._others.pop(name, None)
        self._metrics.forget(name)


def adapted(base: ServingContext, served: ServedAdapter) -> ServingContext:
    """Le contexte d'un adaptateur : son nom, son gabarit, son identité ; le reste est du modèle."""
    adapter = served.adapter
    found = replace(
        base,
        name=served.name,
        adapter=adapter,
        metadata={**base.metadata, **served.metadata},
        digest=adapter.sha256,
        created=served.created,
    )
    template = found.chat_template
    told = sha256_of({"template": template}) if template else None

    def identity(known: Identity) -> Identity:
        facts = {"sha256": adapter.sha256, "rank": adapter.rank}
        return known.with_adapter(facts, chat_template=told)

    identities = None if base.identity is None else Future[Identity | None]()
    if base.identity is not None and identities is not None:
        target = identities

        def follow(done: Future[Identity | None]) -> None:
            known = done.result()  # `identity_of` ne lève rien
            target.set_result(None if known is None else identity(known))

        base.identity.add_done_callback(follow)
    return replace(found, identity=identities)


def adapter_router(catalogue: Catalogue, keys: KeyRing | None, responses: Any) -> APIRouter:
    """Les routes qui ajoutent et retirent un adaptateur, sous les noms et les champs de vLLM.

    Args:
        catalogue: ce que le service propose.
        keys: clés d'accès ; sans clé, ces routes sont refusées : elles changent le service.
        responses: les erreurs que la référence leur donne.
    """
    router = APIRouter(route_class=StrictRoute, tags=["Modèle et tokens"])
    context = catalogue.default

    def shelf() -> AdapterShelf:
        found = context.shelf
        if not keys:
            raise _forbidden(
                "ce service n'a pas de clé d'accès ; relancez-le par « gpt-architecture serve "
                "--api-key-file FICHIER »"
            )
        if found is None or found.folder is None:
            raise _forbidden(
                "ce service n'en reçoit pas ; relancez-le par « gpt-architecture serve "
                "--adapters-dir DOSSIER »"
            )
        return found

    @router.post(
        "/v1/load_lora_adapter",
        summary="Ajouter un adaptateur au modèle",
        response_model=ModelCard,
        responses=responses,
    )
    async def load(body: LoadAdapterBody) -> Response:
        context.fields.check(body)
        allowed = shelf()
        try:
            found = await asyncio.to_thread(allowed.load, body.lora_name, body.lora_path)
        except (ConfigurationError, ModelFileError) as error:
            raise ApiError.invalid(str(error), param="lora_path") from None
        logger.info("Adaptateur « %s » ajouté, de rang %d.", found.name, found.adapter.rank)
        return JSONResponse(catalogue.card(catalogue.find(found.name)))

    @router.post(
        "/v1/unload_lora_adapter",
        summary="Retirer un adaptateur du modèle",
        response_model=ModelCard,
        responses=responses,
    )
    async def unload(body: UnloadAdapterBody) -> Response:
        context.fields.check(body)
        shelf()
        served = catalogue.find(body.lora_name)
        if served.adapter is None:
            raise ApiError.invalid(
                f"« {served.name} » est le modèle, et non un de ses adaptateurs", param="lora_name"
            )
        card = catalogue.card(served)
        catalogue.remove(served.name)
        logger.info("Adaptateur « %s » retiré ; les réponses en cours le gardent.", served.name)
        return JSONResponse(card)

    return router


def _forbidden(why: str) -> ApiError:
    return ApiError(
        403,
        f"un adaptateur ne s'ajoute ni ne se retire par une requête : {why}",
        kind="permission_error",
        code="adapters_not_allowed",
    )
