"""Les fichiers du studio, lus une fois, servis avec des en-têtes stricts ; sa page d'attente."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.engine.messages import EngineState

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


def files_router(state: Callable[[], EngineState]) -> APIRouter:
    """Les routes `/` et `/studio` (renvois), `/studio/` et `/studio/FICHIER`.

    Args:
        state: où en est le moteur ; tant qu'il n'est pas prêt, la page le dit.
    """
    router = APIRouter(include_in_schema=False)
    files = _read()

    @router.get("/")
    @router.get("/studio")
    async def home(request: Request) -> Response:
        if (found := state()) != "ready":
            return not_ready(found, request.url.path)
        # Relatif : le studio marche aussi derrière un relais qui ajoute un préfixe.
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"studio/{query}")

    @router.get("/studio/{name:path}")
    async def page(name: str, request: Request) -> Response:
        file = files.get(name or _INDEX)
        if file is None:
            raise ApiError(404, "le studio n'a pas ce fichier", code="not_found")
        if name in ("", _INDEX) and (now := state()) != "ready":
            return not_ready(now, request.url.path)
        headers = {**HEADERS, "ETag": file.tag}
        known = request.headers.get("if-none-match", "")
        if file.tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(file.content, media_type=file.kind, headers=headers)

    return router


def not_ready(state: EngineState, path: str) -> Response:
    """La page qui fait patienter, ou dit que c'est fini : 503.

    Args:
        state: état du moteur.
        path: chemin demandé, d'où partent les adresses relatives.
    """
    title, text = {"starting": _LOADING, "dead": _DEAD}.get(state, _STOPPING)
    headers, reload = {**HEADERS, "Cache-Control": "no-store"}, ""
    if state == "starting":  # seul un moteur qui peut devenir prêt recharge la page
        headers["Retry-After"] = str(RELOAD_SECONDS)
        reload = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">\n'
    folder = "" if path.startswith("/studio/") else "studio/"
    page = _PAGE.format(title=title, text=text, folder=folder, reload=reload)
    return HTMLResponse(page, 503, headers=headers)


def _read() -> dict[str, _File]:
    """Nom → fichier : seul un nom exact de cette table est servi, jamais un chemin."""
    found = {}
    for entry in resources.files(__package__).joinpath("web").iterdir():
        suffix = "." + entry.name.rpartition(".")[2]
        if suffix in _TYPES:
            content = entry.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            found[entry.name] = _File(content=content, kind=_TYPES[suffix], tag=tag)
    return found


RELOAD_SECONDS = 3
"""Attente avant que la page d'un modèle qui se charge se demande à nouveau."""

_LOADING = (
    "Le modèle se charge",
    "Le service lit le modèle et prépare ses calculs&nbsp;: quelques secondes d'ordinaire, une "
    "minute ou deux la première fois. Cette page se recharge d'elle-même, et montrera le studio.",
)
_STOPPING = (
    "Le service s'arrête",
    "Il finit les requêtes commencées et n'en accepte plus. Relancez "
    "<code>gpt-architecture serve</code>, puis rechargez cette page.",
)
_DEAD = (
    "Le moteur s'est arrêté",
    "Il n'écrira plus rien&nbsp;: la cause est dans ce qu'affiche "
    "<code>gpt-architecture serve</code>. Relancez cette commande, puis rechargez cette page.",
)
_PAGE = """<!DOCTYPE html>
<html lang="fr">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{reload}<title>{title}</title>
<link rel="icon" href="{folder}icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{folder}studio.css">
</head>
<body>
<header><p class="title">Studio</p></header>
<main>
<h1>{title}</h1>
<p class="lede">{text}</p>
</main>
</body>
</html>
"""
