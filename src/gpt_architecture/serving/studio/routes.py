"""Le studio : ce que sa page demande au service, en plus de l'interface d'OpenAI.

Formes : L couches, H têtes, T tokens, V vocabulaire.
"""

from __future__ import annotations

import asyncio
import base64
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import JSONResponse, Response
from torch import Tensor

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import TokenScore
from gpt_architecture.formats.journal import JOURNAL, finite_number, read_records
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.context import ServingContext, TokenNames
from gpt_architecture.serving.engine.messages import EngineRequest, Observed, Overloaded
from gpt_architecture.serving.http.access import current
from gpt_architecture.serving.openai import bodies
from gpt_architecture.serving.openai.answers import Delta, Shape, Transcript
from gpt_architecture.serving.openai.planning import Plan, encode, plan_completion
from gpt_architecture.serving.openai.streaming import Answerer
from gpt_architecture.serving.openai.strict_bodies import StrictRoute
from gpt_architecture.storage import open_regular

ATTENTION_TOKENS = 48
"""Tokens d'une phrase dont l'attention est montrée : L·H cartes en contiennent le carré."""

NAMED = 300
"""Tokens nommés d'une distribution ; les autres n'y sont que des probabilités."""

_WAITING = 8  # phrases qui attendent leur attention, au plus


class PromptBody(BaseModel):
    """Une invite, texte ou identifiants."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: bodies.Prompts


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

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Le compte des tokens."""
        return {"usage": usage}

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


def studio_router(context: ServingContext, answerer: Answerer) -> APIRouter:
    """Les données que demande la page du studio ; ses fichiers sont ailleurs (`files_router`).

    Args:
        context: le service.
        answerer: exécute les demandes au moteur.
    """
    router = APIRouter(route_class=StrictRoute, include_in_schema=False)
    attention = _AttentionReader(context)

    @router.get("/studio/api/info")
    async def info() -> Response:
        return JSONResponse(_info(context))

    @router.post("/studio/api/generate")
    async def generate(body: bodies.CompletionBody, request: Request) -> Response:
        if len(body.prompt) != 1 or (body.n or 1) != 1 or body.echo:
            raise ApiError.invalid("le studio génère un texte à la fois", param="prompt")
        if body.logprobs is None:
            body.logprobs = 0
        body.prompt = [_start(context, body.prompt[0])]
        plan = await plan_completion(context, body)
        shape = StudioShape(plan, context.names)
        flow = bodies.StreamOptions() if body.stream else None
        return await answerer.answer(request, Transcript(plan), shape, flow)

    @router.post("/studio/api/next")
    async def following(body: PromptBody, request: Request) -> Response:
        ids = await _one_prompt(context, body)
        asked = EngineRequest(
            prompt=ids,
            config=GenerationConfig(max_tokens=1),
            client=current().client,
            deadline=time.monotonic() + context.limits.request_seconds,
            observe=True,
            request_id=current().request_id,
        )
        events = await answerer.events(request, asked)
        logits = next(event.logits for event in events if isinstance(event, Observed))
        ordered = await asyncio.to_thread(_ordered, logits, context.names)
        return JSONResponse({"prompt": ids, **ordered})

    @router.post("/studio/api/attention")
    async def look(body: PromptBody) -> Response:
        ids = await _one_prompt(context, body)
        weights = await attention.read(ids)  # (L, H, T, T)
        levels = (weights * 255).round().to(torch.uint8)
        return JSONResponse(
            {
                "layers": weights.size(0),
                "heads": weights.size(1),
                "names": [context.names.text(token) for token in ids],
                "weights": _base64(levels),
            }
        )

    @router.get("/studio/api/run")
    async def run(version: Annotated[str, Query(max_length=64)] = "") -> Response:
        if context.run_directory is None:
            raise ApiError(
                404,
                "ce service ne suit aucun entraînement ; relancez-le avec le dossier d'un",
                code="not_found",
            )
        return JSONResponse(await asyncio.to_thread(read_run, context.run_directory, version))

    @router.api_route("/studio/api/{name:path}", methods=["GET", "POST"])
    async def unknown(name: str) -> Response:
        del name
        raise ApiError(404, "le studio n'a pas cette adresse", code="not_found")

    return router


class _AttentionReader:
    """Une phrase à la fois, hors de la boucle et du thread du moteur."""

    def __init__(self, context: ServingContext) -> None:
        self._read = context.attention
        self._lock, self._waiting = asyncio.Lock(), 0

    async def read(self, ids: Sequence[int]) -> Tensor:
        """Les poids d'attention (L, H, T, T) d'une phrase.

        Raises:
            ApiError: 400, phrase trop longue, ou modèle qui ne les donne pas.
            Overloaded: trop de phrases attendent.
        """
        if self._read is None:
            raise ApiError.invalid("ce modèle, quantifié, ne donne pas ses poids d'attention")
        if len(ids) > ATTENTION_TOKENS:
            raise ApiError.invalid(
                f"la phrase compte {len(ids)} tokens : l'attention en montre au plus "
                f"{ATTENTION_TOKENS}",
                param="prompt",
            )
        if self._waiting >= _WAITING:
            raise Overloaded(self._waiting, 1.0)
        self._waiting += 1
        try:
            async with self._lock:
                return await asyncio.to_thread(self._read, ids)
        finally:
            self._waiting -= 1


async def _one_prompt(context: ServingContext, body: PromptBody) -> tuple[int, ...]:
    if len(body.prompt) != 1:
        raise ApiError.invalid("donnez une seule invite", param="prompt")
    return await encode(context, _start(context, body.prompt[0]))


def _start(context: ServingContext, prompt: bodies.Prompt) -> bodies.Prompt:
    """L'invite reçue ; l'exemple du modèle, que la page renvoie tel quel, garde ses marques."""
    return context.example if prompt == context.example else prompt


def _info(context: ServingContext) -> dict[str, Any]:
    """Ce que la page doit savoir avant de se montrer."""
    return {
        "name": context.name,
        "window": context.window,
        "vocabulary": context.tokenizer.vocab_size,
        "parameters": context.model.cfg.num_parameters(),
        "max_tokens": min(context.limits.max_tokens, context.window),
        "candidates": min(10, context.limits.logprobs),
        "example": context.example,
        "attention": context.attention is not None,
        "training": context.run_directory is not None,
        "variants": [_variant(label, config) for label, config in context.variants],
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
        "logits": _base64(values),
        "ids": first,
        "names": [names.text(token) if token in names else "" for token in first],
    }


def _base64(values: Tensor) -> str:
    """Les octets d'un tenseur, petit-boutistes."""
    array = values.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


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
