"""Ce que le service dit de lui-même : les corps qu'il écrit, et le document OpenAPI en une page.

La page est du HTML sans script, et sans rien d'ailleurs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Literal

from pydantic import BaseModel

EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}
"""Ce qu'une route rend, en flux."""


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
    """Tokens de l'invite déjà en mémoire."""

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
    """Une séquence."""

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
    system_fingerprint: str | None
    receipt: dict[str, Any] | None = None
    """Le reçu, si la requête le demande (`receipt`)."""


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
    system_fingerprint: str | None
    receipt: dict[str, Any] | None = None
    """Le reçu, si la requête le demande (`receipt`)."""


class ModelCard(BaseModel):
    """Un modèle servi."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None
    sha256: str | None
    root: str
    parent: str | None
    state: Literal["loaded", "idle", "failed"]


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
    models: dict[str, Literal["loaded", "idle", "failed"]] = {}
    """Où en est chaque modèle, si le service en a plusieurs."""


class Version(BaseModel):
    """Versions du service et de ce qui calcule."""

    version: str
    torch: str
    python: str


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
section { border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
"""


def reference_page(document: Mapping[str, Any]) -> str:
    """La page d'un document OpenAPI : chaque route, ses champs, ses réponses."""
    info = document["info"]
    routes = "".join(
        _route(path, method, route, document)
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    )
    return (
        '<!doctype html><html lang="fr"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} : référence</title><style>{_STYLE}</style>"
        f"<main><h1>{escape(info['title'])} : référence</h1>"
        f"<p>{escape(info.get('summary', ''))}. {escape(info.get('description', ''))} "
        'Le document complet : <a href="openapi.json"><code>openapi.json</code></a>.</p>'
        f"{routes}</main></html>"
    )


def _route(path: str, method: str, route: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    body = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    fields = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(kind)}<td>{escape(bounds)}"
        for name, kind, bounds in fields_of(body.get("schema", {}), document)
    )
    table = f"<table><tr><th>Champ<th>Type<th>Bornes{fields}</table>" if fields else ""
    answers = "".join(
        f"<tr><td><code>{status}</code><td>{escape(answer['description'])}"
        for status, answer in route["responses"].items()
    )
    return (
        f"<section><h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(route.get('summary', ''))}</p>{table}"
        f"<table><tr><th>Code<th>Réponse{answers}</table></section>"
    )


def fields_of(
    schema: Mapping[str, Any], document: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Les champs d'un corps : nom, type, bornes, en français."""
    schema = _resolved(schema, document)
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        kind = _kind(field, document) + ("" if name in required else " (facultatif)")
        yield name, kind, _bounds(field)


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rsplit("/", 1)[-1]
    return document["components"]["schemas"][name] if name else schema


_KINDS = {
    "string": "texte",
    "integer": "entier",
    "number": "nombre",
    "boolean": "booléen",
    "object": "objet",
    "array": "liste",
}


def _kind(field: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        kinds = [_kind(each, document) for each in field["anyOf"] if each.get("type") != "null"]
        return " ou ".join(dict.fromkeys(kinds))
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    field = _resolved(field, document)
    kind = _KINDS.get(field.get("type", ""), "valeur")
    return f"liste : {_kind(field['items'], document)}" if "items" in field else kind


def _bounds(field: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    own = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field]
    return " et ".join([*own, *filter(None, map(_bounds, field.get("anyOf", ())))])
