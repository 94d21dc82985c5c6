"""Les fichiers du studio : lus une fois, nommés un par un, servis avec des en-têtes stricts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from gpt_architecture.serving.errors import ApiError

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # gardé, mais toujours vérifié par son empreinte
}
"""Aucun script, style ou image d'ailleurs, ni écrit dans la page ; aucun cadre."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"


@dataclass(frozen=True, kw_only=True)
class _File:
    content: bytes
    kind: str
    tag: str


def files_router() -> APIRouter:
    """Les routes `/studio` (renvoi), `/studio/` et `/studio/FICHIER`."""
    router = APIRouter(include_in_schema=False)
    found = _read()

    @router.api_route("/studio", methods=["GET", "HEAD"])
    async def home(request: Request) -> Response:
        # Relatif : le studio marche aussi derrière un relais qui ajoute un préfixe.
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"studio/{query}")

    @router.api_route("/studio/{name:path}", methods=["GET", "HEAD"])
    async def page(name: str, request: Request) -> Response:
        file = found.get(name or _INDEX)
        if file is None:
            raise ApiError(404, "le studio n'a pas ce fichier", code="not_found")
        headers = {**HEADERS, "ETag": file.tag}
        known = request.headers.get("if-none-match", "")
        if file.tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.kind, headers=headers)

    return router


def _read() -> dict[str, _File]:
    """Nom → fichier : seul un nom exact de cette table est servi, jamais un chemin."""
    found = {}
    for entry in files("gpt_architecture.serving").joinpath("web").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in _TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _File(content=content, kind=_TYPES[suffix], tag=tag)
    return found
