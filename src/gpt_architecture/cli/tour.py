"""La visite guidée : ce qu'il y a ici, ce qu'on a déjà, quoi lancer ensuite."""

from __future__ import annotations

from collections.abc import Mapping

from gpt_architecture.cli.command import find_model, output_console
from gpt_architecture.french import french_size


def show_tour(commands: Mapping[str, str]) -> None:
    """Affiche la visite sur la sortie standard."""
    from rich.table import Table
    from rich.text import Text

    console = output_console()
    console.print(Text("gpt-architecture", "bold") + Text(" — GPT-2 écrit de zéro en PyTorch\n"))
    console.print(
        "Un texte devient des tokens, les tokens des fenêtres ; douze blocs d'attention\n"
        "apprennent à prédire le token suivant ; une stratégie de décodage en fait du texte.\n"
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, summary in commands.items():
        table.add_row(Text("gpt-architecture ") + Text(name, "bold"), summary)
    console.print(table)
    console.print()
    model = find_model(None)
    if model.is_file():
        size = french_size(model.stat().st_size)
        print(f"Modèle trouvé : {model} ({size}). Et maintenant :\n", flush=True)
        console.print("  gpt-architecture infer --strategy top_p --p 0.9")
        console.print("  gpt-architecture demo")
        console.print("  gpt-architecture visualize")
    else:
        console.print("Aucun modèle ici. Les premiers mots, en moins de trente secondes :\n")
        console.print("  gpt-architecture train --preset eclair")
        console.print("\nGPT-2 sur The Verdict, quelques minutes sur un portable :\n")
        console.print("  gpt-architecture train")
        console.print("\nSur votre propre texte :\n")
        console.print("  gpt-architecture train --data mon-texte.txt --output-dir mon-modele")
    console.print("\nL'aide d'une commande : gpt-architecture COMMANDE --help")
