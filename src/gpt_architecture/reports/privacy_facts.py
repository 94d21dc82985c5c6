"""Ce qu'un dossier de confidentialité réunit, et sa forme pour un programme.

Aucun secret, aucun extrait de texte n'y est.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_architecture.evaluation.canaries import ExposureReport
from gpt_architecture.evaluation.extraction import ExtractionReport
from gpt_architecture.evaluation.membership import MembershipReport
from gpt_architecture.reports.charts import Chart
from gpt_architecture.reports.terminal import TableData

_GRAMS_PER_KG = 1000


@dataclass(frozen=True, kw_only=True)
class SourceText:
    """Un texte lu à l'entraînement.

    Attributes:
        name: son nom.
        licence: sa licence ; None : inconnue.
        about: ce que c'est ; vide : inconnu.
        size: octets ; None : inconnus.
    """

    name: str
    licence: str | None = None
    about: str = ""
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class PersonalData:
    """Des données personnelles d'un genre.

    Attributes:
        kind: le genre.
        masked: masquées par la préparation.
        left: restées dans le texte d'entraînement, là où il a été relu.
    """

    kind: str
    masked: int = 0
    left: int = 0


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Un oubli, d'après le certificat.

    Attributes:
        step: étape d'où l'entraînement est reparti ; None : non dite.
        tokens: tokens retirés de l'entraînement ; None : non dits.
        digest: empreinte du maillon, qui tient l'oubli et tout ce qui le précède.
    """

    step: int | None
    tokens: int | None
    digest: str


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Ce que l'entraînement a consommé, estimé.

    Attributes:
        seconds: durée mesurée de l'entraînement ; None : inconnue.
        power: puissance déclarée, en watts ; None : non déclarée.
        carbon: intensité déclarée, en grammes de CO₂ par kWh ; None : non déclarée.
    """

    seconds: float | None
    power: float | None = None
    carbon: float | None = None

    @property
    def kwh(self) -> float | None:
        """L'énergie ; None : non estimée."""
        if self.seconds is None or self.power is None:
            return None
        return self.power * self.seconds / 3.6e6

    @property
    def co2_kg(self) -> float | None:
        """Le CO₂, en kilogrammes ; None : non estimé."""
        if self.kwh is None or self.carbon is None:
            return None
        return self.kwh * self.carbon / _GRAMS_PER_KG


@dataclass(frozen=True, kw_only=True)
class PrivacyPage:
    """Ce que le dossier réunit ; une mesure absente vaut None.

    Attributes:
        name: nom du modèle.
        facts: sa fiche (nom, valeur).
        weights_sha256: empreinte de ses poids.
        canaries: exposition des canaris.
        planted: répétitions de canaris que l'entraînement a lues, et toutes ; None : inconnu.
        extraction: extraction par préfixes.
        membership: inférence d'appartenance.
        sources: textes lus.
        personal: données personnelles, par genre ; None : ni préparation ni texte relu.
        dropped: documents que la préparation a écartés pour leurs données personnelles.
        scanned: tokens d'entraînement relus pour en chercher, et en tout.
        removals: oublis ; None : pas de certificat lisible.
        energy: énergie.
        notes: ce qui n'a pas pu être mesuré, et pourquoi.
    """

    name: str
    facts: Sequence[tuple[str, str]]
    weights_sha256: str
    canaries: ExposureReport | None = None
    planted: tuple[int, int] | None = None
    extraction: ExtractionReport | None = None
    membership: MembershipReport | None = None
    sources: Sequence[SourceText] = ()
    personal: Sequence[PersonalData] | None = None
    dropped: int = 0
    scanned: tuple[int, int] = (0, 0)
    removals: Sequence[Removal] | None = None
    energy: Energy = field(default_factory=lambda: Energy(seconds=None))
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """En types simples, pour un programme."""
        energy = self.energy
        return {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "canaries": None if self.canaries is None else self.canaries.to_dict(),
            "canary_repetitions_read": None if self.planted is None else self.planted[0],
            "canary_repetitions": None if self.planted is None else self.planted[1],
            "extraction": None if self.extraction is None else self.extraction.to_dict(),
            "membership": None if self.membership is None else self.membership.to_dict(),
            "sources": [vars(each) for each in self.sources],
            "personal": None if self.personal is None else [vars(each) for each in self.personal],
            "personal_documents_dropped": self.dropped,
            "tokens_scanned": self.scanned[0],
            "training_tokens": self.scanned[1],
            "removals": None if self.removals is None else [vars(each) for each in self.removals],
            "energy": {**vars(energy), "kwh": energy.kwh, "co2_kg": energy.co2_kg},
            "notes": dict(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Section:
    """Une partie de la page.

    Attributes:
        anchor: son ancre.
        title: son titre.
        verdict: ce qu'il en est, en une phrase.
        shows: ce qu'elle montre.
        hides: ce qu'elle ne montre pas.
        command: la commande qui la refait.
        table: ses chiffres ; None : aucun.
        charts: sa figure, grand écran puis téléphone.
        axes: titres de ses axes.
        checks: ses contrôles : (phrase, bon ou mauvais).
    """

    anchor: str
    title: str
    verdict: str
    shows: str
    hides: str
    command: str
    table: TableData | None = None
    charts: Sequence[Chart] = ()
    axes: tuple[str, str] = ("", "")
    checks: Sequence[tuple[str, bool]] = ()


def missing(page: PrivacyPage, name: str) -> str:
    """Pourquoi une mesure manque."""
    return page.notes.get(name) or "Non mesuré : les données de l'entraînement n'ont pas été lues."
