"""La commande `gpt-architecture` ; sans argument, une courte visite guidée."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python src/gpt_architecture/main.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

from collections.abc import Sequence

from cyclopts import App

from gpt_architecture import __version__
from gpt_architecture.scripts._cli import FRENCH_STYLE, launch

COMMANDS = {
    "prepare": "Prépare des textes : fragments de tokens, entraînement et validation.",
    "train": "Entraîne un modèle sur un texte et écrit gpt-model.pt et loss-plot.pdf.",
    "merge": "Fond des adaptateurs LoRA dans leur modèle de départ.",
    "infer": "Écrit la suite d'un texte, au fil de l'eau.",
    "evaluate": "Mesure un modèle : perplexité, bits par octet, dernier mot, choix multiple.",
    "quantize": "Écrit un modèle quantifié sur 8 ou 4 bits, et mesure ce qu'il perd.",
    "demo": "Compare six stratégies de décodage côte à côte, avec leurs mesures.",
    "visualize": "Montre l'effet de la température, de top-k et de top-p sur une distribution.",
}
"""Nom de chaque commande et sa ligne d'aide ; le module du même nom est chargé à l'appel."""
_ARGUMENTS = {
    "prepare": "SOURCE… --out DOSSIER ",
    "merge": "MODÈLE ADAPTATEURS --out FICHIER ",
    "evaluate": "[MODÈLE] ",
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
        usage = f"gpt-architecture {name} {_ARGUMENTS.get(name, '')}[OPTIONS]"  # sinon recalculé
        module = f"gpt_architecture.scripts.{name}:{name}"
        app.command(module, name=name, help=summary, usage=usage)
    return app


def _tour() -> None:
    """GPT-2 écrit de zéro en PyTorch : du texte brut au modèle qui écrit."""
    from gpt_architecture.scripts._tour import show_tour

    show_tour(COMMANDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Point d'entrée ; `arguments` remplace ceux de la ligne de commande."""
    launch(build_app(), sys.argv[1:] if arguments is None else list(arguments))


if __name__ == "__main__":
    main()
