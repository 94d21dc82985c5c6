"""La page qu'une personne voit quand le modèle n'est pas là : il se charge, ou il s'est arrêté."""

from __future__ import annotations

from gpt_architecture.serving.engine.messages import EngineState

RELOAD_SECONDS = 3
"""Attente avant que la page d'un modèle qui se charge se demande à nouveau."""

_LOADING = (
    "Le modèle se charge",
    "Le service lit le modèle et prépare ses calculs : quelques secondes d'ordinaire, une minute "
    "ou deux la première fois. Cette page se recharge d'elle-même, et montrera le studio.",
)
_STOPPING = (
    "Le service s'arrête",
    "Il finit les requêtes commencées et n'en accepte plus. Relancez "
    "<code>gpt-architecture serve</code>, puis rechargez cette page.",
)
_DEAD = (
    "Le moteur s'est arrêté",
    "Il n'écrira plus rien : la cause est dans ce qu'affiche <code>gpt-architecture serve</code>. "
    "Relancez cette commande, puis rechargez cette page.",
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


def waiting_page(state: EngineState, *, folder: str) -> str:
    """Le HTML d'un moteur qui n'est pas prêt ; seul celui qui peut le devenir recharge la page.

    Args:
        state: état du moteur.
        folder: où sont les fichiers du studio, depuis l'adresse de la page.
    """
    title, text = {"starting": _LOADING, "dead": _DEAD}.get(state, _STOPPING)
    reload = f'<meta http-equiv="refresh" content="{RELOAD_SECONDS}">\n'
    return _PAGE.format(
        title=title, text=text, folder=folder, reload=reload if state == "starting" else ""
    )
