"""D'un corps de requête, vérifié, aux demandes que le moteur exécute."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt_architecture.core.adapters import Adapter
from gpt_architecture.data.texts.chat import render_chat
from gpt_architecture.data.tokenizers.marked_text import encode_text as encode_marked
from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import budget_warning
from gpt_architecture.decoding.named_settings import make_config
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.decoding.settings import SETTINGS
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.messages import EngineRequest
from gpt_architecture.serving.http.access import Exchange
from gpt_architecture.serving.limits import check_maximum
from gpt_architecture.serving.openai.bodies import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Message,
    SamplingBody,
    TokenizeBody,
)
from gpt_architecture.serving.openai.constraints import constraint_of
from gpt_architecture.serving.openai.prompts import Prompt

logger = logging.getLogger(__name__)

DEFAULT_TOKENS = 16
"""Tokens écrits si `max_tokens` n'est pas donné à `/v1/completions`, comme chez OpenAI."""

_LONG_TEXT = 20_000  # caractères : au-delà, les coder ou les mettre en forme quitte la boucle
_MANY_MESSAGES = 64
_NAMED = 32  # modèles que nomme un refus


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Ce qu'une requête fait écrire.

    Attributes:
        prompts: identifiants de chaque invite.
        n: séquences par invite.
        config: comment générer ; sa graine, demandée ou tirée, est celle de la première séquence.
        max_tokens: 0 : rien n'est écrit.
        score_prompt: autres tokens à rendre à chaque position de l'invite ; None : invite non
            notée.
        warning: ce qu'il faut dire au client de sa contrainte ; None : rien.
        adapter: l'adaptateur qui écrit ; None : le modèle seul.
        model: le nom de ce qui écrit ; None : celui du service.
    """

    prompts: tuple[tuple[int, ...], ...]
    n: int
    config: GenerationConfig
    max_tokens: int
    score_prompt: int | None = None
    warning: str | None = None
    adapter: Adapter | None = None
    model: str | None = None

    @property
    def needs_engine(self) -> bool:
        """Faux s'il n'y a rien à calculer : ni séquence, ni note."""
        return self.max_tokens > 0 or self.score_prompt is not None

    def requests(self, exchange: Exchange, seconds: float) -> list[EngineRequest]:
        """Les demandes au moteur, n par invite, chacune avec sa graine."""
        if not self.needs_engine:
            return []
        base = Continuation.seed_of(self.config)
        deadline = time.monotonic() + seconds
        return [
            EngineRequest(
                prompt=prompt,
                config=self.config,
                seed=(base + number) % 2**63,
                client=exchange.client,
                deadline=deadline,
                score_prompt=self.score_prompt,
                generate=self.max_tokens > 0,
                copies=len(self.prompts) * self.n,
                request_id=exchange.request_id,
                adapter=self.adapter,
            )
            for prompt in self.prompts
            for number in range(self.n)
        ]


async def plan_completion(context: ServingContext, body: CompletionBody) -> Plan:
    """Ce que demande un corps de `/v1/completions`.

    Raises:
        ApiError: un champ dépasse les bornes du service.
        ConfigurationError: un réglage est impossible.
    """
    check_body(context, body)
    context.limits.check_sequences(len(body.prompt), body.n or 1)
    if body.logprobs is not None:
        check_maximum("logprobs", body.logprobs, context.limits.logprobs)
    special = body.parse_special
    prompts = [await encode(context, each, parse_special=special) for each in body.prompt]
    max_tokens = _room(context, max(map(len, prompts)), body.max_tokens, DEFAULT_TOKENS)
    plan = await _plan(context, body, prompts, max_tokens, body.logprobs)
    return replace(plan, score_prompt=body.logprobs if body.echo else None)


def echo_of(context: ServingContext, body: CompletionBody, plan: Plan) -> list[str]:
    """Les textes des invites à rendre avant chaque séquence ; aucun, si ce n'est pas demandé."""
    return [
        prompt if prompt and isinstance(prompt, str) else context.tokenizer.decode(ids)
        for prompt, ids in zip(body.prompt, plan.prompts, strict=True)
        if body.echo
    ]


async def plan_chat(context: ServingContext, body: ChatBody) -> Plan:
    """Ce que demande un corps de `/v1/chat/completions`.

    Raises:
        ApiError: le modèle n'a pas de gabarit, ou un champ dépasse les bornes du service.
        DataError: le gabarit refuse ces messages.
        ConfigurationError: un réglage est impossible.
    """
    check_body(context, body)
    context.limits.check_sequences(1, body.n or 1)
    check_maximum("top_logprobs", body.top_logprobs or 0, context.limits.logprobs)
    text = await render(context, body.messages)
    prompt = await encode(context, text, parse_special=body.parse_special, param="messages")
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    max_tokens = _room(context, len(prompt), asked, context.limits.max_tokens)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return await _plan(context, body, [prompt], max_tokens, logprobs)


async def _plan(
    context: ServingContext,
    body: SamplingBody,
    prompts: Sequence[tuple[int, ...]],
    max_tokens: int,
    logprobs: int | None,
) -> Plan:
    """Le plan d'invites codées, et ce qu'il faut dire d'une contrainte qui n'y tiendra pas."""
    config = await _config(context, body, max_tokens, logprobs)
    warning = None
    if max_tokens and (config.json_schema is not None or config.choices):
        warning = await asyncio.to_thread(budget_warning, config, context.tokenizer)
        if warning is not None:
            logger.warning("%s", warning)
    return Plan(
        prompts=tuple(prompts),
        n=body.n or 1,
        config=config,
        max_tokens=max_tokens,
        warning=warning,
        adapter=context.adapter,
        model=context.name,
    )


def _room(context: ServingContext, prompt: int, asked: int | None, default: int) -> int:
    """Tokens à écrire : ceux demandés, sinon ce que la fenêtre laisse, au plus `default`.

    −1 demande toute la fenêtre, quel que soit `default`.

    Raises:
        ApiError: 400, il n'y a pas la place.
    """
    room = context.window - prompt + 1  # le dernier token écrit n'est pas relu
    if asked is None or asked < 0:
        return min(room, default if asked is None else room, context.limits.max_tokens)
    check_maximum("max_tokens", asked, context.limits.max_tokens)
    if asked > room:
        raise too_long(context, prompt, asked, "max_tokens")
    return asked


async def _config(
    context: ServingContext, body: SamplingBody, max_tokens: int, logprobs: int | None
) -> GenerationConfig:
    """La configuration du décodage ; à température nulle, les filtres n'ont plus d'effet."""
    if len(body.stops) > context.limits.stops:
        raise ApiError.invalid(
            f"stop compte {len(body.stops)} textes : ce service en accepte au plus "
            f"{context.limits.stops}",
            param="stop",
        )
    stop_ids = body.stop_token_ids or []
    check_ids(context, stop_ids, param="stop_token_ids")
    biases = _biases(context, body.logit_bias or {})
    temperature = 1.0 if body.temperature is None else body.temperature
    values: dict[str, Any] = body.settings | {
        "strategy": "sample",
        "temperature": temperature,
        "k": body.top_k if (body.top_k or 0) > 0 else None,
        "p": body.top_p,
    }
    if temperature == 0:
        del values["temperature"]
        values = {
            name: value
            for name, value in values.items()
            if not SETTINGS.declared[name].setting.is_filter
        } | {"strategy": "greedy"}
    if max_tokens:
        values |= {"max_tokens": max_tokens}
    values["min_tokens"] = min(values.get("min_tokens", 0), max_tokens)
    return make_config(
        values
        | {
            "seed": secrets.randbelow(2**31) if body.seed is None else body.seed % 2**63,
            "stop": body.stops,
            "stop_ids": tuple(dict.fromkeys(stop_ids)),
            "logit_bias": biases,
            "logprobs": logprobs,
        }
        | (await asyncio.to_thread(constraint_of, body) if body.constraints else {})
    )


def _biases(context: ServingContext, biases: dict[str, float]) -> dict[int, float]:
    found = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdigit() and len(key) < 12):
            raise ApiError.invalid(
                f"logit_bias : « {key[:40]} » n'est pas un identifiant de token",
                param="logit_bias",
            )
        found[int(key)] = bias
    check_ids(context, list(found), param="logit_bias")
    return found


def check_body(context: ServingContext, body: SamplingBody | TokenizeBody | DetokenizeBody) -> None:
    """Vérifie ce que tout corps porte : le modèle qu'il demande, et les champs qu'on n'a pas.

    Raises:
        ApiError: 404, ou 400.
        ConfigurationError: du texte est demandé à un modèle qui n'en écrit pas.
    """
    check_model(context, body.model)
    context.fields.check(body)
    if isinstance(body, SamplingBody):
        context.model.cfg.check_writes()


def check_model(context: ServingContext, name: str | None) -> None:
    """Vérifie que le modèle demandé est celui qui va répondre.

    Raises:
        ApiError: 404.
    """
    if name is not None and name != context.name:
        raise unknown_model(name, [context.name])


def unknown_model(name: str, served: Sequence[str]) -> ApiError:
    """Le refus d'un nom qui n'est pas servi, et ceux qui le sont."""
    names = ", ".join(f"« {each} »" for each in served[:_NAMED])
    told = "celui de ce service se nomme" if len(served) == 1 else "ceux de ce service se nomment"
    more = ", …" if len(served) > _NAMED else ""
    return ApiError(
        404,
        f"le modèle « {name[:100]} » n'est pas servi ici ; {told} {names}{more}",
        param="model",
        code="model_not_found",
    )


async def render(
    context: ServingContext, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> str:
    """Le texte d'une conversation, par le gabarit du modèle : marqué (`marked_text`).

    Raises:
        ApiError: 400, le modèle n'en a pas.
        DataError: il refuse ces messages.
    """
    template = context.chat_template
    if template is None:
        raise ApiError.invalid(
            "ce modèle n'a pas de gabarit de conversation : il continue un texte, il ne répond "
            "pas à des messages ; employez /v1/completions, ou un modèle affiné sur des dialogues",
            param="messages",
            code="no_chat_template",
        )
    flat = [message.flat() for message in messages]

    def work() -> str:
        return render_chat(
            flat, template, tokenizer=context.tokenizer, add_generation_prompt=add_generation_prompt
        )

    size = sum(len(message["content"]) for message in flat)
    is_long = size >= _LONG_TEXT or len(flat) >= _MANY_MESSAGES
    return await asyncio.to_thread(work) if is_long else work()


async def encode(
    context: ServingContext,
    prompt: Prompt,
    *,
    parse_special: bool | None = None,
    param: str = "prompt",
) -> tuple[int, ...]:
    """Les identifiants d'une invite.

    Une invite vide est le début d'un texte : ce qui suit la fin du précédent, comme chez OpenAI.

    Args:
        context: le service.
        prompt: l'invite.
        parse_special: les noms de tokens spéciaux qu'il contient en sont ; sinon, du texte.
        param: champ qui le porte.

    Raises:
        ApiError: 400, invite trop longue, identifiant hors du vocabulaire, ou invite vide et
            tokenizer sans fin de texte.
        TokenizerError: un mot n'est pas dans un vocabulaire fermé.
    """
    if isinstance(prompt, str):
        ids = await encode_text(context, written(prompt) if parse_special else prompt)
    else:
        ids = prompt
    if not ids:
        if context.tokenizer.eos_id is None:
            raise ApiError.invalid(
                "l'invite est vide, et ce modèle n'a pas de fin de texte d'où commencer : "
                "donnez au moins un token",
                param=param,
            )
        ids = [context.tokenizer.eos_id]
    check_ids(context, ids, param=param)
    if len(ids) > context.window:
        raise too_long(context, len(ids), 0, param)
    return tuple(ids)


async def encode_text(context: ServingContext, text: str) -> list[int]:
    """Les identifiants d'un texte, sans borne ni vérification."""

    def work() -> list[int]:
        return encode_marked(text, context.tokenizer)

    return work() if len(text) < _LONG_TEXT else await asyncio.to_thread(work)


def check_ids(context: ServingContext, ids: Sequence[int], *, param: str) -> None:
    """Vérifie que des identifiants sont ceux de tokens connus.

    Raises:
        ApiError: 400.
    """
    limit = context.tokenizer.vocab_size
    unknown = next((token for token in ids if not 0 <= token < limit), None)
    if unknown is not None:
        raise ApiError.invalid(
            f"le token {unknown} n'existe pas : les identifiants vont de 0 à {limit - 1}",
            param=param,
        )


def too_long(context: ServingContext, prompt: int, asked: int, param: str) -> ApiError:
    """Le refus, en français puis dans la phrase d'OpenAI, que des clients cherchent."""
    return ApiError.invalid(
        f"le contexte de ce modèle compte {context.window} tokens ; cette requête en demande "
        f"{prompt + asked} ({prompt} d'invite, {asked} à écrire)\n"
        f"This model's maximum context length is {context.window} tokens. However, you requested "
        f"{prompt + asked} tokens ({prompt} in the messages, {asked} in the completion). Please "
        "reduce the length of the messages or completion.",
        param=param,
        code="context_length_exceeded",
    )
