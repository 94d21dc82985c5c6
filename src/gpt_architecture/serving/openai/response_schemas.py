"""Les corps que le service écrit : ils servent à la page OpenAPI, et disent la forme d'OpenAI."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """Une erreur."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """L'enveloppe de toutes les erreurs."""

    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    """Tokens du début déjà en mémoire."""

    cached_tokens: int


class Usage(BaseModel):
    """Compte des tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(BaseModel):
    """Probabilités (log) des tokens, sous l'ancienne forme d'OpenAI."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """Une suite."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionAnswer(BaseModel):
    """Réponse de `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class TopLogprob(BaseModel):
    """Un candidat."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """Un token et ses candidats."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Probabilités (log) des tokens d'un message."""

    content: list[TokenLogprob]


class AnswerMessage(BaseModel):
    """Le message produit."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """Une réponse."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatAnswer(BaseModel):
    """Réponse de `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(BaseModel):
    """Un modèle servi."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    sha256: str | None


class ModelList(BaseModel):
    """Les modèles servis."""

    object: Literal["list"]
    data: list[ModelCard]


class TokenizeAnswer(BaseModel):
    """Les tokens d'un texte."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(BaseModel):
    """Le texte de tokens."""

    prompt: str


class TokenizerInfo(BaseModel):
    """Ce qu'un client doit savoir du tokenizer."""

    tokenizer_class: str
    vocab_size: int
    eos_token: str | None
    bos_token: str | None
    pad_token: str | None
    chat_template: str | None


class Health(BaseModel):
    """État du service."""

    status: Literal["ok"]


class Version(BaseModel):
    """Versions du service et de ce qui calcule."""

    version: str
    torch: str
    python: str
