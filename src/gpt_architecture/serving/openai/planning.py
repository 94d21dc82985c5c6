"""D'un corps de requête aux demandes que le moteur exécute.

Une contrainte a plusieurs noms, tous ramenés à un réglage d'ici :

- `json_schema` : `response_format` (OpenAI, et le `schema` de llama.cpp), `guided_json` et
  `structured_outputs.json` (vLLM) ;
- `regex` : `guided_regex`, `structured_outputs.regex` ;
- `choices` : `guided_choice`, `structured_outputs.choice`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpt_architecture.decoding.config import GenerationConfig, make_config
from gpt_architecture.decoding.constraints import budget_warning
from gpt_architecture.decoding.grammars import make_strict
from gpt_architecture.decoding.settings import SETTINGS
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.messages import EngineRequest
from gpt_architecture.serving.http.exchange import Exchange
from gpt_architecture.serving.http.strict_json import parse_json
from gpt_architecture.serving.limits import check_maximum
from gpt_architecture.serving.openai.bodies import (
    ChatBody,
    CompletionBody,
    ResponseFormat,
    SamplingBody,
)
from gpt_architecture.serving.openai.texts import (
    check_body,
    check_ids,
    encode,
    marked,
    render,
    too_long,
)

logger = logging.getLogger(__name__)

DEFAULT_TOKENS = 16
"""Tokens écrits si `max_tokens` n'est pas donné à `/v1/completions`, comme chez OpenAI."""


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

    def requests(self, exchange: Exchange, seconds: float) -> list[EngineRequest]:
        """Les demandes au moteur, n par début, chacune avec sa graine."""
        if not self.needs_engine:
            return []
        base = secrets.randbelow(2**31) if self.config.seed is None else self.config.seed
        deadline = time.monotonic() + seconds
        return [
            EngineRequest(
                prompt=prompt,
                config=replace(self.config, seed=(base + number) % 2**63),
                client=exchange.client,
                deadline=deadline,
                score_prompt=self.score_prompt,
                generate=self.max_tokens > 0,
                copies=len(self.prompts) * self.n,
                request_id=exchange.request_id,
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
            "seed": None if body.seed is None else body.seed % 2**63,
            "stop": body.stops,
            "stop_ids": _stop_ids(context, body.stop_token_ids or []),
            "logit_bias": _biases(context, body.logit_bias or {}),
            "logprobs": logprobs,
        }
        | (await asyncio.to_thread(constraint_of, body) if is_constrained(body) else {})
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


_DEPTH = 32
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


def constraint_of(body: SamplingBody) -> dict[str, Any]:
    """Ce que demande un corps : `regex`, `choices` ou `json_schema`, pour `GenerationConfig`.

    Un grand schéma se lit en dizaines de millisecondes : à faire hors de la boucle.

    Raises:
        ApiError: deux contraintes, ou un schéma illisible ou que le mode strict refuse.
    """
    given = list(_given(body))
    if not given:
        return {}
    if len(given) > 1:
        (first, _, _), (second, _, _) = given[:2]
        raise ApiError.invalid(
            f"{first} et {second} sont donnés ensemble : gardez l'un des deux",
            param=second.partition(".")[0],
        )
    field, setting, value = given[0]
    if setting == "choices":
        return {"choices": tuple(value)}
    return {setting: _schema(field, value, body) if setting == "json_schema" else value}


def is_constrained(body: SamplingBody) -> bool:
    """Vrai si un corps demande une contrainte ; rien n'en est lu."""
    return next(_given(body), None) is not None


def _given(body: SamplingBody) -> Iterator[tuple[str, str, Any]]:
    """Chaque contrainte donnée : son champ, le réglage d'ici, sa valeur."""
    form, vllm = body.response_format, body.structured_outputs
    found = [
        ("response_format", "json_schema", _format(form)),
        ("json_schema", "json_schema", body.json_schema),
        ("guided_json", "json_schema", body.guided_json),
        ("regex", "regex", body.regex),
        ("guided_regex", "regex", body.guided_regex),
        ("choices", "choices", body.choices),
        ("guided_choice", "choices", body.guided_choice),
    ]
    if vllm is not None:
        whole = _ANY_OBJECT if vllm.json_object else None
        found += [
            ("structured_outputs.json", "json_schema", vllm.json_),
            ("structured_outputs.json_object", "json_schema", whole),
            ("structured_outputs.regex", "regex", vllm.regex),
            ("structured_outputs.choice", "choices", vllm.choice),
        ]
    yield from (each for each in found if each[2] is not None)


def _format(form: ResponseFormat | None) -> dict[str, Any] | None:
    """Le schéma de `response_format`."""
    if form is None or form.type == "text":
        return None
    if form.json_schema is not None:
        return form.json_schema.schema_
    return _ANY_OBJECT if form.schema_ is None else form.schema_


def _schema(field: str, value: Any, body: SamplingBody) -> str:
    """Le texte d'un schéma, rendu strict s'il le demande."""
    if isinstance(value, str):  # vLLM admet le schéma en texte
        try:
            return json.dumps(parse_json(value.encode(errors="surrogatepass"), max_depth=_DEPTH))
        except ApiError as error:
            name = field.partition(".")[0]
            raise ApiError.invalid(f"{field}, lu comme un corps : {error}", param=name) from None
    form = body.response_format
    if form is not None and form.json_schema is not None and form.json_schema.strict:
        try:
            value = make_strict(value)
        except ConfigurationError as error:
            raise ApiError.invalid(str(error), param=field) from None
    return json.dumps(value)
