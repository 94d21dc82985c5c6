"""Du texte d'un client aux identifiants du modèle qu'il demande, et ce qui en est vérifié."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gpt_architecture.data.texts.chat import render_chat
from gpt_architecture.data.tokenizers.marked_text import encode_text as encode_marked
from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.openai.bodies import (
    DetokenizeBody,
    Message,
    Prompt,
    SamplingBody,
    TokenizeBody,
)

_LONG_TEXT = 20_000  # caractères : au-delà, les coder ou les mettre en forme quitte la boucle
_MANY_MESSAGES = 64


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
        f"{prompt + asked} ({prompt} de début, {asked} à écrire)\n"
        f"This model's maximum context length is {context.window} tokens. However, you requested "
        f"{prompt + asked} tokens ({prompt} in the messages, {asked} in the completion). Please "
        "reduce the length of the messages or completion.",
        param=param,
        code="context_length_exceeded",
    )
