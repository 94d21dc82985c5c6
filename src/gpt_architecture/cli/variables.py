"""Les variables d'environnement mal écrites : dites, avec le nom le plus proche."""

from __future__ import annotations

import os
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache

from cyclopts import App

from gpt_architecture.cli.command import ENV_PREFIX, OTHER_VARIABLES, say_aside


def warn_unknown_variables(app: App, tokens: list[str]) -> None:
    """Avertit de chaque variable à notre préfixe qu'aucune option ne lit.

    Args:
        app: l'application.
        tokens: ses arguments ; les options de leur commande sont essayées d'abord, car connaître
            toutes les autres demande d'importer chaque commande.
    """
    given = {name for name in os.environ if name.startswith(ENV_PREFIX)}
    given -= {ENV_PREFIX + name for name in OTHER_VARIABLES}
    chain, _, _ = app.parse_commands(tokens)
    if any(name.startswith("-") for name in chain):  # --help, --version
        return
    if not given - _names_of(app, tuple(chain)):
        return
    known = _every_name()
    endings = [name.removeprefix(ENV_PREFIX) for name in sorted(known)]
    for name in sorted(given - known):
        close = get_close_matches(name.removeprefix(ENV_PREFIX), endings, n=1, cutoff=0.7)
        advice = f"essayez {ENV_PREFIX}{close[0]}" if close else "retirez-la"
        say_aside(f"avertissement : aucune option ne lit la variable {name} ; {advice}.")


def _commands(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Le chemin de chaque commande, celles d'un groupe comprises."""
    inner = [name for name in _at(app, path) if not name.startswith("-")]
    if not inner:
        yield path
    for name in inner:
        yield from _commands(app, (*path, name))


@cache
def _every_name() -> frozenset[str]:
    """Les variables de toutes les commandes."""
    from gpt_architecture.main import build_app

    app = build_app()
    options = {name for path in _commands(app) for name in _names_of(app, path)}
    return frozenset(options | {ENV_PREFIX + name for name in OTHER_VARIABLES})


def _names_of(app: App, path: tuple[str, ...]) -> frozenset[str]:
    """Les variables des options d'une commande, avec et sans son nom."""
    target = _at(app, path)
    if target.default_command is None or not path:
        return frozenset()
    options = [
        name.removeprefix("--").upper().replace("-", "_")
        for argument in target.assemble_argument_collection()
        for name in argument.names
        if name.startswith("--")
    ]
    own = "_".join([*path, ""]).upper()
    return frozenset(ENV_PREFIX + prefix + name for name in options for prefix in ("", own))


def _at(app: App, path: tuple[str, ...]) -> App:
    for name in path:
        app = app[name]
    return app
