"""Le studio : ce que sa page demande au service, en plus de l'interface d'OpenAI.

Formes : V vocabulaire.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response
from torch import Tensor

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import TokenScore
from gpt_architecture.errors import TokenizerError
from gpt_architecture.formats.journal import JOURNAL, finite_number, read_records
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.catalogue import Answerers, Catalogue
from gpt_architecture.serving.context import ServingContext, TokenNames
from gpt_architecture.serving.engine.messages import EngineRequest, Observed
from gpt_architecture.serving.http.access import current
from gpt_architecture.serving.openai import bodies
from gpt_architecture.serving.openai.answers import Delta, Shape, Transcript
from gpt_architecture.serving.openai.planning import Plan, encode, plan_completion
from gpt_architecture.serving.openai.strict_bodies import StrictRoute
from gpt_architecture.serving.pool import ModelState
from gpt_architecture.serving.studio.answers import packed
from gpt_architecture.serving.studio.inside import (
    ModelName,
    PromptBody,
    inside_router,
    one_prompt,
    prompt_of,
)
from gpt_architecture.storage import open_regular

NAMED = 300
"""Tokens nommés d'une distribution ; les autres n'y sont que des probabilités."""


class StudioShape(Shape):
    """La forme d'un flux du studio : les identifiants y sont, pour repartir exactement de là.

    Args:
        plan: ce qui est écrit.
        names: nom des tokens.
    """

    def __init__(self, plan: Plan, names: TokenNames) -> None:
        self._plan, self._names = plan, names

    def start(self, count: int) -> list[dict[str, Any]]:
        """L'invite, telle qu'elle est codée."""
        del count
        return [{"prompt": self._plan.prompts[0]}]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """Les tokens nouveaux, leurs candidats, et le texte devenu certain."""
        scores = [score for score in delta.scores if score is not None]
        return {
            "text": delta.text,
            "tokens": [self._token(score) for score in scores],
            "finish": delta.finish,
        }

    def closing(self, usage: dict[str, Any] | None) -> dict[str, Any] | None:
        """Le compte des tokens."""
        return None if usage is None else {"usage": usage}

    def whole(self, deltas: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
        """La réponse entière : les mêmes morceaux, à la file."""
        return {"chunks": [*self.start(1), *map(self.chunk, deltas)], "usage": usage}

    def _token(self, score: TokenScore) -> dict[str, Any]:
        top = [(token, logprob) for token, logprob in score.top if token in self._names]
        return {
            "id": score.token,
            "text": self._names.text(score.token),
            "logprob": score.logprob,
            "top": [(token, self._names.text(token), logprob) for token, logprob in top],
        }


def studio_router(catalogue: Catalogue, answerers: Answerers) -> APIRouter:
    """Les données que demande la page du studio ; ses fichiers sont ailleurs (`files_router`).

    Args:
        catalogue: les modèles du service ; la page en nomme un à chaque demande.
        answerers: ce qui exécute les demandes de chacun.
    """
    router = APIRouter(route_class=StrictRoute, include_in_schema=False)

    @router.get("/studio/api/info")
    async def info(model: ModelName = None) -> Response:
        context = await catalogue.open(model)
        return JSONResponse(_info(context, catalogue) | {"room": await _room(context)})

    @router.post("/studio/api/generate")
    async def generate(body: bodies.CompletionBody, request: Request) -> Response:
        if len(body.prompt) != 1 or (body.n or 1) != 1 or body.echo:
            raise ApiError.invalid("le studio génère un texte à la fois", param="prompt")
        context = await catalogue.open(body.model)
        if body.logprobs is None:
            body.logprobs = 0
        body.prompt = [prompt_of(context, body.prompt[0])]
        plan = await plan_completion(context, body)
        shape = StudioShape(plan, context.names)
        flow = bodies.StreamOptions() if body.stream else None
        return await answerers.of(context).answer(request, Transcript(plan), shape, flow)

    @router.post("/studio/api/next")
    async def following(body: PromptBody, request: Request) -> Response:
        context = await catalogue.open(body.model)
        context.model.cfg.check_writes()
        ids = await one_prompt(context, body)
        asked = EngineRequest(
            prompt=ids,
            config=GenerationConfig(max_tokens=1),
            client=current().client,
            deadline=time.monotonic() + context.limits.request_seconds,
            observe=True,
            request_id=current().request_id,
            adapter=context.adapter,
        )
        events = await answerers.of(context).events(request, asked, context.name)
        logits = next(event.logits for event in events if isinstance(event, Observed))
        ordered = await asyncio.to_thread(_ordered, logits, context.names)
        return JSONResponse({"prompt": ids, **ordered})

    router.include_router(inside_router(catalogue))
    folder = catalogue.default.run_directory

    @router.get("/studio/api/run")
    async def run(version: Annotated[str, Query(max_length=64)] = "") -> Response:
        if folder is None:
            raise ApiError(
                404,
                "ce service ne suit aucun entraînement ; relancez-le avec le dossier d'un",
                code="not_found",
            )
        return JSONResponse(await asyncio.to_thread(read_run, folder, version))

    @router.api_route("/studio/api/{name:path}", methods=["GET", "POST"])
    async def unknown(name: str) -> Response:
        del name
        raise ApiError(404, "le studio n'a pas cette adresse", code="not_found")

    return router


def _info(context: ServingContext, catalogue: Catalogue) -> dict[str, Any]:
    """Ce que la page doit savoir d'un modèle, et de ceux qu'elle peut choisir."""
    head = context.model.cfg.head
    return {
        "name": context.name,
        "models": _choices(catalogue),
        "adapter_of": None if context.adapter is None else catalogue.default.name,
        "judges": None if head is None else {"labels": list(head.labels)},
        "window": context.window,
        "vocabulary": context.tokenizer.vocab_size,
        "parameters": context.model.cfg.num_parameters(),
        "max_tokens": min(context.limits.max_tokens, context.window),
        "candidates": min(10, context.limits.logprobs),
        "example": context.example,
        "attention": context.network is not None,
        "training": catalogue.default.run_directory is not None,
        "card": [*_adapter_card(context, catalogue), *context.card, *_served(catalogue)],
        "sources": catalogue.default.index is not None,  # `/v1/provenance` dit de quel nom il est
        "variants": [_variant(label, config) for label, config in context.variants],
    }


async def _room(context: ServingContext) -> int:
    """Tokens que le contexte laisse après l'exemple : la page n'en demande pas d'abord plus."""
    try:
        read = len(await encode(context, context.example))
    except (ApiError, TokenizerError):  # un vocabulaire qui ne sait pas le coder
        read = 1
    return max(1, min(context.window - read + 1, context.limits.max_tokens))


def _choices(catalogue: Catalogue) -> list[dict[str, Any]]:
    """Les noms que la page peut choisir, celui du service d'abord."""
    own = [{"name": each.name, "kind": "adapter", "state": None} for each in catalogue.served[1:]]
    first, *others = catalogue.states.items()
    return [
        {"name": first[0], "kind": "model", "state": None},
        *own,
        *({"name": name, "kind": "other", "state": _STATES[state]} for name, state in others),
    ]


def _adapter_card(context: ServingContext, catalogue: Catalogue) -> list[tuple[str, str]]:
    """Ce que la fiche dit d'un adaptateur : le reste en est celle de son modèle."""
    if context.adapter is None:
        return []
    told = f"« {context.name} », de rang {context.adapter.rank}, ajouté à « "
    return [("adaptateur", f"{told}{catalogue.default.name} », dont le reste de cette fiche parle")]


def _served(catalogue: Catalogue) -> list[tuple[str, str]]:
    """Ce que la fiche dit des autres noms du service."""
    adapters = [each.name for each in catalogue.served[1:]]
    others = list(catalogue.states.items())[1:]
    told = ", ".join(f"{name} ({_STATES[state]})" for name, state in others)
    found = [("adaptateurs", ", ".join(adapters)), ("autres modèles", told)]
    return [(name, value) for name, value in found if value]


_STATES: Mapping[ModelState, str] = {
    "loaded": "chargé",
    "idle": "à charger",
    "failed": "ne se charge pas",
}


def _variant(label: str, config: GenerationConfig) -> dict[str, Any]:
    """Une configuration, en réglages de `/v1/completions`."""
    settings = {
        "temperature": config.temperature if config.is_sampling else 0,
        "top_k": config.top_k,
        "top_p": config.top_p,
        "min_p": config.min_p,
    }
    return {"label": label} | {key: value for key, value in settings.items() if value is not None}


def _ordered(logits: Tensor, names: TokenNames) -> dict[str, Any]:
    """Les logits (V) décroissants, ex æquo par identifiant, et les noms des premiers."""
    values, ids = logits.sort(descending=True, stable=True)
    first = ids[:NAMED].tolist()
    return {
        "logits": packed(values),
        "ids": first,
        "names": [names.text(token) if token in names else "" for token in first],
    }


MAX_BYTES = 16 << 20
MAX_POINTS = 2_000
_SAMPLES = 30
_SAMPLE_LENGTH = 2_000


def read_run(folder: Path | str, version: str = "") -> dict[str, Any]:
    """Où en est un entraînement : courbes, évaluations, exemples.

    Args:
        folder: son dossier.
        version: celle que le client a déjà ; si rien n'a changé, elle est rendue, avec la fin et
            les secondes écoulées depuis la dernière ligne (`silent`).

    Raises:
        ApiError: 404, pas de journal lisible.
    """
    folder = Path(folder)
    try:
        with open_regular(folder / JOURNAL) as file:
            status = os.fstat(file.fileno())
            found = f"{status.st_mtime_ns}-{status.st_size}"
            silent = max(0.0, time.time() - status.st_mtime)
            known, _, was_finished = version.rpartition("-")
            if found == known:
                return {"version": version, "finished": was_finished == "1", "silent": silent}
            skipped = max(0, status.st_size - MAX_BYTES)
            file.seek(skipped)
            lines = file.read(MAX_BYTES).split(b"\n")[bool(skipped) :]
    except OSError:
        raise ApiError(
            404,
            f"le dossier d'entraînement n'a pas encore de {JOURNAL} lisible",
            code="not_found",
        ) from None
    summary = _summary(list(read_records(lines)))
    return {"version": f"{found}-{summary['finished']:d}", **summary, "silent": silent}


def _summary(records: list[dict[str, Any]]) -> dict[str, Any]:
    named = {name: [each for each in records if each["kind"] == name] for name in _KINDS}
    told = [each["kind"] for each in records if each["kind"] in _TOLD]
    starts = [finite_number(each.get("total_steps")) for each in named["start"]]
    return {
        "total_steps": int(starts[-1] or 0) if starts else 0,
        "finished": told[-1:] == ["end"],  # d'autres commandes ajoutent leurs lignes après
        "steps": _thinned(_rows(named["step"], "step", "loss", "lr", "tokens_per_second")),
        "evaluations": _rows(named["evaluation"], "step", "train_loss", "val_loss")[-MAX_POINTS:],
        "samples": [
            [step, str(each.get("text", ""))[:_SAMPLE_LENGTH]]
            for each in named["sample"][-_SAMPLES:]
            if (step := finite_number(each.get("step"))) is not None
        ],
    }


_KINDS = ("start", "step", "evaluation", "sample")
_TOLD = (*_KINDS, "checkpoint", "event", "end")
"""Ce que l'entraînement lui-même écrit : sa dernière ligne dit s'il a fini."""


def _rows(records: Iterable[dict[str, Any]], *names: str) -> list[list[float | None]]:
    """Les nombres de chaque ligne ; celles qui n'ont pas d'étape sont passées."""
    rows = [[finite_number(each.get(name)) for name in names] for each in records]
    return [row for row in rows if row[0] is not None]


def _thinned(rows: list[list[float | None]]) -> list[list[float | None]]:
    """Au plus MAX_POINTS lignes : chacune porte la perte moyenne de celles qu'elle remplace."""
    stride = math.ceil(len(rows) / MAX_POINTS)
    if stride <= 1:
        return rows
    thin = []
    for start in range(0, len(rows), stride):
        group = rows[start : start + stride]
        losses = [row[1] for row in group if row[1] is not None]
        step, _, *others = group[-1]
        thin.append([step, sum(losses) / len(losses) if losses else None, *others])
    return thin
