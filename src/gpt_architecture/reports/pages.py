"""Des pages HTML d'un seul fichier : ni réseau, ni police, ni script d'ailleurs.

Tout ce qui y entre est échappé par le moteur de gabarits ; la politique de sécurité de la page
n'admet que le script dont elle porte l'empreinte. Un texte généré n'y exécute donc rien.
"""

from __future__ import annotations

import base64
import hashlib
import math
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gpt_architecture.french import decimal, percent, rate, significant, thousands
from gpt_architecture.reports.terminal import visible_text, visible_token

_SURPRISE_STEPS = (1, 2, 4, 7, 11)  # bits


def render(name: str, *, script: str | None = None, **context: Any) -> str:
    """La page du gabarit `name`.html, avec sa feuille de style et son script s'il en a un.

    Args:
        name: nom du gabarit, sans extension.
        script: son script ; None : le fichier `name`.js, s'il existe.
        context: ce que le gabarit lit.
    """
    file = resources.files(__package__).joinpath("templates", f"{name}.js")
    if script is None:
        script = file.read_text("utf-8") if file.is_file() else ""
    return (
        _environment()
        .get_template(f"{name}.html")
        .render(
            context,
            page=name,
            script=Markup(script),  # noqa: S704 — le nôtre
            script_hash=content_hash(script),
        )
    )


def content_hash(text: str) -> str:
    """L'empreinte d'un script ou d'une feuille de style, telle que la politique l'admet."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render_cell(name: str, **context: Any) -> str:
    """Le fragment du gabarit notebook/`name`.html, pour la cellule d'un carnet.

    Args:
        name: nom du gabarit, sans extension.
        context: ce que le gabarit lit.
    """
    return _environment().get_template(f"notebook/{name}.html").render(context)


@cache
def _environment() -> Environment:
    """Le moteur de gabarits : tout ce qui entre dans une page est échappé."""
    environment = Environment(
        loader=PackageLoader("gpt_architecture.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        decimal=decimal,
        percent=percent,
        rate=rate,
        significant=significant,
        thousands=thousands,
        visible_text=visible_text,
        visible_token=visible_token,
    )
    environment.globals.update(surprise_level=surprise_level)
    return environment


def surprise_level(probability: float) -> int:
    """Cran de surprise d'un token, de 0 (attendu) à 5, d'après sa probabilité."""
    bits = -math.log2(probability) if probability > 0 else math.inf
    return sum(bits >= step for step in _SURPRISE_STEPS)
