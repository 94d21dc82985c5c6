"""D'un corps de requête aux demandes que le moteur exécute."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt_architecture.data.texts.chat import render_chat
from gpt_architecture.data.tokenizers.marked_text import encode_text as encode_marked
from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import budget_warning
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.messages import EngineRequest
from gpt_architecture.serving.openai.constraint_fields import constraint_of, is_constrained
from gpt_architecture.serving.openai.errors import ApiError
from gpt_architecture.serving.openai.limits import check_maximum
from gpt_architecture.serving.openai.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Message,
    Prompt,
    SamplingBody,
    TokenizeBody,
)

logger = logging.getLogger(__name__)

DEFAULT_TOKENS = 16
"""Tokens écrits si `max_tokens` n'est pas donné à `/v1/completions`, comme chez OpenAI."""

_LONG_TEXT = 20_000  # caractères : au-delà, les coder ou les mettre en forme quitte la boucle
_MANY_MESSAGES = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Ce qu'une requête fait écrire.

    Attributes:
        prompts: identifiants de chaque début.
        n: suites par début.
        config: comment générer ; la graine est celle de la première suite.
        max_tokens: 0 : rien n'est écrit.
        score_prompt: autres tokens à rendre à chaque place du début ; None : début non noté.
        warning: ce qu'il faut dire au client de sa contrainte ; None : rien.
    """

    prompts: tuple[tuple[int, ...], ...]
    n: int
    config: GenerationConfig
    max_tokens: int
    score_prompt: int | None = None
    warning: str | None = None

    @property
    def needs_engine(self) -> bool:
        """Faux s'il n'y a rien à calculer : ni suite, ni note."""
        return self.max_tokens > 0 or self.score_prompt is not None

    def requests(self, client: str, seconds: float) -> list[EngineRequest]:
        """Les demandes au moteur, n par début, chacune avec sa graine."""
        if not self.needs_engine:
            return []
        base = secrets.randbelow(2**31) if self.config.seed is None else self.config.seed
        deadline = time.monotonic() + seconds
        return [
            EngineRequest(
                prompt=prompt,
                config=replace(self.config, seed=(base + number) % 2**63),
                client=client,
                deadline=deadline,
                score_prompt=self.score_prompt,
                generate=self.max_tokens > 0,
                copies=len(self.prompts) * self.n,
            )
            for prompt in self.prompts
            for number in range(self.n)
        ]


def check_body(context: ServingContext, body: SamplingBody | TokenizeBody | DetokenizeBody) -> None:
    """Vérifie ce que tout corps porte : le modèle qu'il demande, et les champs qu'on n'a pas.

    Raises:
        ApiError: 404, ou 400.
    """
    check_model(context, body.model)
    context.fields.check(body)


def check_model(context: ServingContext, name: str | None) -> None:
    """Vérifie que le modèle demandé est celui du service.

    Raises:
        ApiError: 404.
    """
    if name is not None and name != context.name:
        raise ApiError(
            404,
            f"le modèle « {name[:100]} » n'est pas servi ici ; celui de ce service se nomme "
            f"« {context.name} »",
            param="model",
            code="model_not_found",
        )


async def plan_completion(context: ServingContext, body: CompletionBody) -> Plan:
    """Ce que demande un corps de `/v1/completions`.

    Raises:
        ApiError: un champ dépasse les bornes du service.
        ConfigurationError: un réglage est impossible.
    """
    check_body(context, body)
    n = body.n or 1
    context.limits.check_sequences(len(body.prompt), n)
    if body.logprobs is not None:
        check_maximum("logprobs", body.logprobs, context.limits.logprobs)
    starts = [marked(prompt, parse_special=body.parse_special) for prompt in body.prompt]
    prompts = tuple([await encode(context, start) for start in starts])
    longest = max(map(len, prompts))
    asked = body.max_tokens
    max_tokens = _room(context, longest, asked, DEFAULT_TOKENS)
    config = await _config(context, body, max_tokens, body.logprobs)
    return Plan(
        prompts=prompts,
        n=n,
        config=config,
        max_tokens=max_tokens,
        warning=await _warning(context, config) if max_tokens else None,
        score_prompt=body.logprobs if body.echo else None,
    )


async def plan_chat(context: ServingContext, body: ChatBody) -> Plan:
    """Ce que demande un corps de `/v1/chat/completions`.

    Raises:
        ApiError: le modèle n'a pas de gabarit, ou un champ dépasse les bornes du service.
        DataError: le gabarit refuse ces messages.
        ConfigurationError: un réglage est impossible.
    """
    check_body(context, body)
    n = body.n or 1
    context.limits.check_sequences(1, n)
    check_maximum("top_logprobs", body.top_logprobs or 0, context.limits.logprobs)
    text = marked(await render(context, body.messages), parse_special=body.parse_special)
    prompt = await encode(context, text, param="messages")
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    max_tokens = _room(context, len(prompt), asked, context.limits.max_tokens)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    config = await _config(context, body, max_tokens, logprobs)
    warning = await _warning(context, config)
    return Plan(prompts=(prompt,), n=n, config=config, max_tokens=max_tokens, warning=warning)


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


def marked(prompt: Prompt, *, parse_special: bool | None) -> Prompt:
    """Ce début ; si on le demande, les noms de tokens spéciaux qu'il contient en sont."""
    return written(prompt) if parse_special and isinstance(prompt, str) else prompt


async def encode(
    context: ServingContext, prompt: Prompt, *, param: str = "prompt"
) -> tuple[int, ...]:
    """Les identifiants d'un début ; un token spécial tapé y est du texte.

    Un début vide est celui d'un texte : ce qui suit la fin du précédent, comme chez OpenAI.

    Raises:
        ApiError: 400, début trop long, identifiant hors du vocabulaire, ou début vide et tokenizer
            sans fin de texte.
        TokenizerError: un mot n'est pas dans un vocabulaire fermé.
    """
    ids = await encode_text(context, prompt) if isinstance(prompt, str) else prompt
    if not ids:
        if context.tokenizer.eos_id is None:
            raise ApiError.invalid(
                "le début est vide, et ce modèle n'a pas de fin de texte d'où commencer : "
                "donnez au moins un token",
                param=param,
            )
        ids = [context.tokenizer.eos_id]
    check_ids(context, ids, param=param)
    if len(ids) > context.window:
        raise _too_long(context, len(ids), 0, param)
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
        raise _too_long(context, prompt, asked, "max_tokens")
    return asked


def _too_long(context: ServingContext, prompt: int, asked: int, param: str) -> ApiError:
    """Le refus, en français puis dans la phrase d'OpenAI, que des clients cherchent."""
    return ApiError.invalid(
        f"le contexte de ce modèle compte {context.window} tokens ; cette requête en demande "
        f"{prompt + asked} ({prompt} de début, {asked} à écrire)\n"
        f"This model's maximum context length is {context.window} tokens. However, you requested "
        f"{prompt + asked} tokens ({prompt} in the messages, {asked} in the completion). Please "
        "reduce the length of the messages or completion.",
        param=param,
        code="context_length_exceeded",
    )


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
    temperature = 1.0 if body.temperature is None else body.temperature
    values: dict[str, Any] = {
        "strategy": "sample",
        "temperature": temperature,
        "k": body.top_k if (body.top_k or 0) > 0 else None,
        "p": body.top_p,
        "min_p": body.min_p,
    }
    if temperature == 0:
        values = {"strategy": "greedy"}
    if max_tokens:
        values |= {"max_tokens": max_tokens, "min_tokens": min(body.min_tokens or 0, max_tokens)}
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        if getattr(body, name) is not None:
            values[name] = getattr(body, name)
    return GenerationConfig(
        seed=None if body.seed is None else body.seed % 2**63,
        stop=body.stops,
        stop_ids=_stop_ids(context, body.stop_token_ids or []),
        ignore_eos=bool(body.ignore_eos),
        logit_bias=_biases(context, body.logit_bias or {}),
        logprobs=logprobs,
        **(await asyncio.to_thread(constraint_of, body) if is_constrained(body) else {}),
        **values,
    )


def _stop_ids(context: ServingContext, ids: Sequence[int]) -> tuple[int, ...]:
    check_ids(context, ids, param="stop_token_ids")
    return tuple(dict.fromkeys(ids))


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


async def _warning(context: ServingContext, config: GenerationConfig) -> str | None:
    """Ce qu'il faut dire d'une contrainte qui ne tiendra pas dans les tokens accordés."""
    if config.json_schema is None and not config.choices:
        return None
    found = await asyncio.to_thread(budget_warning, config, context.tokenizer)
    if found is not None:
        logger.warning("%s", found)
    return found
