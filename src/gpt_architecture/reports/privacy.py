"""Le dossier de confidentialité, montré : une page HTML d'un seul fichier, et des tableaux."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpt_architecture.french import counted, decimal, percent
from gpt_architecture.reports.pages import render
from gpt_architecture.reports.privacy_facts import PrivacyPage
from gpt_architecture.reports.privacy_origins import energy, mass
from gpt_architecture.reports.privacy_sections import ATTACKS, sections
from gpt_architecture.reports.terminal import table
from gpt_architecture.storage import write_atomically

if TYPE_CHECKING:
    from rich.console import Console


def write_privacy_page(path: Path | str, page: PrivacyPage) -> None:
    """Écrit la page, d'un seul fichier, qui ne demande rien au réseau.

    Raises:
        OutputError: le fichier ne peut pas être écrit.
    """
    content = privacy_page(page)
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def privacy_page(page: PrivacyPage) -> str:
    """Le texte HTML de la page."""
    return render("privacy", dossier=page, tiles=tiles(page), sections=sections(page))


def show_privacy(console: Console, page: PrivacyPage) -> None:
    """Le dossier au terminal : un verdict, un tableau et des contrôles par partie."""
    from rich.text import Text

    for each in sections(page):
        console.print(Text(each.title, "bold"))
        console.print(each.verdict)
        if each.table is not None:
            console.print(table(*each.table))
        for sentence, good in each.checks:
            console.print(f"Contrôle {'bon' if good else 'mauvais'} : {sentence}", style="dim")
        console.print()


def tiles(page: PrivacyPage) -> list[tuple[str, str, str]]:
    """Ce qui ressort : (titre, valeur, précision)."""
    found = list[tuple[str, str, str]]()
    if page.canaries is not None:
        value = f"{page.canaries.found} sur {len(page.canaries.planted)}"
        detail = (
            f"{counted(page.canaries.false_positives, 'témoin')} sur {len(page.canaries.controls)}"
        )
        found.append(("Canaris retrouvés", value, detail))
    if page.extraction is not None:
        row = page.extraction.rows[-1]
        found.append(
            ("Extraits rendus", percent(row.share), f"après un préfixe de {row.prefix} tokens")
        )
    if page.membership is not None:
        best = page.membership.best
        detail = f"{ATTACKS[best.name].lower()} ; le hasard vaut 0,5"
        found.append(("Appartenance (AUC)", decimal(best.area.value), detail))
    if page.removals is not None:
        found.append(("Oublis", str(len(page.removals)), "d'après le certificat"))
    if page.energy.kwh is not None:
        carbon = page.energy.co2_kg
        detail = "CO₂ non estimé" if carbon is None else f"{mass(carbon)} de CO₂"
        found.append(("Énergie", energy(page.energy.kwh), detail))
    return found
