"""Ce qu'un dossier de confidentialité ne mesure pas sur le modèle : sources, oublis, énergie."""

from __future__ import annotations

from typing import Any

from gpt_architecture.french import (
    counted,
    french_duration,
    french_size,
    plural,
    significant,
    thousands,
)
from gpt_architecture.reports.privacy_facts import PrivacyPage, Section, missing


def sources_part(page: PrivacyPage) -> Section:
    """Les sources et leurs licences."""
    known = sum(each.licence is not None for each in page.sources)
    verdict = "Le modèle ne dit pas de quels textes il vient."
    if page.sources:
        verdict = (
            f"{counted(len(page.sources), 'source')} ; licence connue de {known} "
            f"sur {len(page.sources)}."
        )
    return Section(
        anchor="sources",
        title="Les sources et leurs licences",
        command="gpt-architecture dossier MODÈLE --data DOSSIER-PRÉPARÉ",
        shows="Les textes que l'entraînement a lus, d'après le modèle ou l'index de « prepare ». "
        "Une licence n'est dite que d'un texte connu du projet, par son nom ou son empreinte.",
        hides="Le droit d'employer un texte : une licence inconnue est à chercher à la source, et "
        "rien ici ne prouve qu'un auteur a consenti.",
        verdict=verdict,
        table=(
            "Sources",
            ("Texte", "Ce que c'est", "Licence", "Taille"),
            [
                [
                    each.name,
                    each.about or "—",
                    each.licence or "inconnue",
                    "—" if each.size is None else french_size(each.size),
                ]
                for each in page.sources
            ],
        )
        if page.sources
        else None,
    )


def personal_part(page: PrivacyPage) -> Section:
    """Les données personnelles."""
    read, total = page.scanned
    about: dict[str, Any] = {
        "anchor": "personnelles",
        "title": "Les données personnelles",
        "command": "gpt-architecture prepare … --personal-data mask, puis gpt-architecture dossier "
        "MODÈLE --data DOSSIER-PRÉPARÉ",
        "shows": "Les e-mails, téléphones, IBAN et NIR que « prepare » a masqués, et ceux qui "
        "restent dans le texte d'entraînement, relu ici.",
        "hides": "Les noms, adresses, dates de naissance et récits : rien ici ne les cherche. Un "
        "numéro qui a cette forme n'est pas toujours celui d'une personne.",
    }
    if page.personal is None:
        return Section(**about, verdict=missing(page, "personal"))
    masked = sum(each.masked for each in page.personal)
    left = sum(each.left for each in page.personal)
    verdict = (
        f"{counted(masked, 'donnée')} {plural(masked, 'masquée')}, {counted(left, 'donnée')} "
        f"{plural(left, 'restée')} dans les {thousands(read)} tokens relus sur {thousands(total)}."
    )
    if page.dropped:
        verdict += f" {counted(page.dropped, 'document')} {plural(page.dropped, 'écarté')}."
    rows = [[each.kind, thousands(each.masked), thousands(each.left)] for each in page.personal]
    return Section(
        **about,
        verdict=verdict,
        table=("Par genre", ("Genre", "Masquées", "Restées"), rows) if rows else None,
    )


def removals_part(page: PrivacyPage) -> Section:
    """Les oublis."""
    about: dict[str, Any] = {
        "anchor": "oublis",
        "title": "Ce qui a été oublié",
        "command": "gpt-architecture verify MODÈLE --data TEXTE",
        "shows": "Les textes retirés après coup, d'après le certificat de l'entraînement : leur "
        "empreinte, et l'étape d'où il a été refait sans eux.",
        "hides": "Ce que d'autres documents disent de la même chose. Le certificat, s'il n'est pas "
        "signé, peut avoir été refait.",
    }
    if page.removals is None:
        verdict = "Aucun certificat lisible à côté du modèle : rien n'est dit des oublis."
        return Section(**about, verdict=verdict)
    if not page.removals:
        return Section(**about, verdict="Le certificat ne porte aucun oubli.")
    return Section(
        **about,
        verdict=f"{counted(len(page.removals), 'oubli')} au certificat.",
        table=(
            "Oublis",
            ("Repris à l'étape", "Tokens retirés", "Empreinte du maillon"),
            [
                [
                    "—" if each.step is None else str(each.step),
                    "—" if each.tokens is None else thousands(each.tokens),
                    each.digest,
                ]
                for each in page.removals
            ],
        ),
    )


def consumption_part(page: PrivacyPage) -> Section:
    """L'énergie et le CO₂."""
    found = page.energy
    about: dict[str, Any] = {
        "anchor": "energie",
        "title": "L'énergie et le CO₂",
        "command": "gpt-architecture dossier MODÈLE --power 65 --carbon 50",
        "shows": "Une estimation : la durée mesurée de l'entraînement, multipliée par la puissance "
        "et par l'intensité carbone que vous déclarez (Lacoste et al., 2019).",
        "hides": "La consommation réelle, que rien ici ne mesure, ni la préparation des textes, "
        "les essais, les modèles de référence, le service et la fabrication du matériel.",
    }
    if found.seconds is None:
        return Section(**about, verdict="Non estimés : le modèle ne dit pas combien il a duré.")
    lasted = f"L'entraînement a duré {french_duration(found.seconds)}."
    if found.kwh is None:
        return Section(
            **about, verdict=f"{lasted} Énergie et CO₂ non estimés : aucune puissance déclarée."
        )
    power = f"à {significant(found.power or 0.0)} W déclarés, {energy(found.kwh)}"
    if found.co2_kg is None:
        verdict = f"{lasted} Soit, {power} ; CO₂ non estimé : aucune intensité déclarée."
    else:
        verdict = (
            f"{lasted} Soit, {power}, et, à {significant(found.carbon or 0.0)} g/kWh déclarés, "
            f"{mass(found.co2_kg)} de CO₂."
        )
    return Section(**about, verdict=verdict)


def energy(kwh: float) -> str:
    """Une énergie : « 1,20 kWh », « 35,0 Wh »."""
    return f"{significant(kwh)} kWh" if kwh >= 1 else f"{significant(1000 * kwh)} Wh"


def mass(kilograms: float) -> str:
    """Une masse : « 1,20 kg », « 35,0 g »."""
    return (
        f"{significant(kilograms)} kg" if kilograms >= 1 else f"{significant(1000 * kilograms)} g"
    )
