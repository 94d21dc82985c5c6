"""La commande `gpt-architecture` ; sans argument, une courte visite guidée."""

from __future__ import annotations

import atexit
import gc
import sys

if __package__ in (None, ""):  # lancé par son chemin : python src/gpt_architecture/main.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence

from cyclopts import App

from gpt_architecture import __version__
from gpt_architecture.cli.command import FRENCH_STYLE, launch

_ALLOCATIONS = 100_000
"""Objets de plus que de libérés avant que le ramasse-miettes ne passe ; 700 par défaut."""

COMMANDS = {
    "tokenizer": "Apprend un vocabulaire, en compare plusieurs, en montre le découpage.",
    "prepare": "Prépare des textes : fragments de tokens, entraînement et validation.",
    "train": "Entraîne un modèle sur un texte et écrit gpt-model.pt et loss-plot.pdf.",
    "merge": "Fond des adaptateurs LoRA dans leur modèle de départ.",
    "infer": "Écrit la suite d'un texte, au fil de l'eau.",
    "evaluate": "Mesure un modèle : perplexité, épreuves, mémorisation ; en fait une page.",
    "quantize": "Écrit un modèle quantifié sur 8 ou 4 bits, et mesure ce qu'il perd.",
    "convert": "Convertit un modèle : Transformers, llama.cpp, ONNX, nanoGPT, livre de Raschka.",
    "inspect": "Dit ce qu'est un modèle, sans charger ses poids.",
    "serve": "Sert un modèle à tout client d'OpenAI (HTTP), jusqu'à Ctrl-C ou SIGTERM.",
    "chat": "Converse avec un modèle affiné sur des dialogues, ici ou derrière un service.",
    "demo": "Compare six stratégies de décodage côte à côte, avec leurs mesures.",
    "visualize": "Montre l'effet de la température, de top-k et de top-p sur une distribution.",
}
"""Nom de chaque commande et sa ligne d'aide ; le module du même nom est chargé à l'appel."""
SUBCOMMANDS = {
    "tokenizer": {
        "train": "Apprend un vocabulaire sur des textes, et l'écrit en tokenizer.json.",
        "compare": "Compare des vocabulaires sur un texte : tokens par mot, octets par token.",
        "view": "Montre le découpage d'un texte, token par token, au terminal ou en HTML.",
    },
}
"""Les commandes de celles qui en ont plusieurs ; chacune est une fonction du même module."""
_ARGUMENTS = {
    "tokenizer train": "SOURCE… --out FICHIER ",
    "tokenizer compare": "TEXTE ",
    "tokenizer view": "TEXTE ",
    "prepare": "SOURCE… --out DOSSIER ",
    "merge": "MODÈLE ADAPTATEURS --out FICHIER ",
    "convert": "SOURCE DESTINATION --to FORMAT ",
    **dict.fromkeys(
        ("infer", "evaluate", "quantize", "inspect", "serve", "chat", "demo", "visualize"),
        "[MODÈLE] ",
    ),
}


def build_app() -> App:
    """L'application en ligne de commande ; aucune commande n'est importée avant d'être appelée."""
    app = App(
        name="gpt-architecture",
        help="GPT-2 écrit de zéro en PyTorch : du texte brut au modèle qui écrit.",
        version=f"gpt-architecture {__version__}",
        help_epilogue=(
            "Chaque option se règle aussi par une variable d'environnement "
            "(GPT_ARCHITECTURE_EPOCHS=3) ou un fichier TOML (--config FICHIER)."
        ),
        **FRENCH_STYLE,
    )
    app["--help"].help = "Affiche cette aide et quitte."
    app["--version"].help = "Affiche la version et quitte."
    app.default(_tour)
    for name, summary in COMMANDS.items():
        if name not in SUBCOMMANDS:
            _add_command(app, name, f"{name}:{name}", summary)
            continue
        group = App(name=name, help=summary, version_flags=(), **FRENCH_STYLE)
        group.usage = f"gpt-architecture {name} COMMAND"
        group["--help"].help = "Affiche cette aide et quitte."
        for subcommand, line in SUBCOMMANDS[name].items():
            _add_command(group, f"{name} {subcommand}", f"{name}:{subcommand}", line)
        app.command(group)
    return app


def _add_command(app: App, path: str, function: str, summary: str) -> None:
    """Ajoute la commande `path`, faite par `module:fonction` de `scripts`."""
    usage = f"gpt-architecture {path} {_ARGUMENTS.get(path, '')}[OPTIONS]"  # sinon recalculé
    module = f"gpt_architecture.scripts.{function}"
    app.command(module, name=path.rsplit(maxsplit=1)[-1], help=summary, usage=usage)


def _tour() -> None:
    """GPT-2 écrit de zéro en PyTorch : du texte brut au modèle qui écrit."""
    from gpt_architecture.cli.tour import show_tour

    show_tour(COMMANDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Point d'entrée ; `arguments` remplace ceux de la ligne de commande."""
    if arguments is None:
        _start_and_stop_fast()
    launch(build_app(), sys.argv[1:] if arguments is None else list(arguments))


def _start_and_stop_fast() -> None:
    """Le ramasse-miettes parcourrait des centaines de fois ce que torch et numba importent.

    Un import en est plus court d'un dixième, et la fin du processus de deux tiers.
    """
    gc.set_threshold(_ALLOCATIONS)
    atexit.register(gc.freeze)


if __name__ == "__main__":
    main()
