"""Classer ou noter un texte : la tête d'un modèle, et ce qui s'en demande à l'entraînement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gpt_architecture.config.checks import check_bool, check_float
from gpt_architecture.errors import ConfigurationError, on_one_line, shown

MAX_LABELS = 10_000
MAX_LABEL = 200
"""Caractères d'un nom de classe, au plus."""
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Ce qu'une tête rend d'un texte, à la place du token suivant : une classe, ou une valeur.

    Attributes:
        labels: noms des classes, dans l'ordre des logits ; vide : une valeur (régression).
        center: valeur d'une sortie nulle (régression).
        scale: valeur d'une unité de sortie (régression) ; la valeur est center + scale · sortie.

    Raises:
        ConfigurationError: une seule classe, noms répétés ou vides, nombres hors bornes.
    """

    labels: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        names = self.labels
        right = all(isinstance(each, str) and _is_name(each) for each in names)
        if len(names) == 1 or len(names) > MAX_LABELS or len(set(names)) < len(names) or not right:
            raise ConfigurationError.wrong(
                "labels",
                names,
                expected=f"de 2 à {MAX_LABELS} noms distincts, d'au plus {MAX_LABEL} caractères "
                "qui s'affichent, ou aucun pour une valeur",
            )
        check_float("center", self.center)
        check_float("scale", self.scale, above=0.0)

    @property
    def outputs(self) -> int:
        """Nombre de sorties (L) : une par classe, ou une seule valeur."""
        return len(self.labels) or 1

    @property
    def is_regression(self) -> bool:
        """Vrai si la tête rend une valeur."""
        return not self.labels

    @property
    def said(self) -> str:
        """Ce qu'elle rend, en quelques mots : « 3 classes (avis, spam, ticket) »."""
        if self.is_regression:
            return "une valeur"
        shown = ", ".join(self.labels[:_SHOWN])
        more = len(self.labels) - _SHOWN
        rest = f" et {more} autres" if more > 0 else ""
        return f"{len(self.labels)} classes ({shown}{rest})"

    def to_dict(self) -> dict[str, Any]:
        """La tête, en types simples."""
        if self.labels:
            return {"labels": list(self.labels)}
        return {"labels": [], "center": self.center, "scale": self.scale}

    @classmethod
    def coerce(cls, values: object) -> HeadConfig | None:
        """Relit `to_dict` ; une tête, ou None, est rendue telle quelle.

        Raises:
            ConfigurationError: description mal formée.
        """
        if values is None or isinstance(values, cls):
            return values
        known = {each.name for each in fields(cls)}
        labels = values.get("labels", []) if isinstance(values, Mapping) else None
        if not isinstance(values, Mapping) or not isinstance(labels, (list, tuple)):
            raise ConfigurationError.wrong("head", values, expected="la description d'une tête")
        if unknown := sorted(set(map(str, values)) - known):
            raise ConfigurationError(
                f"tête inconnue : {shown(unknown[0])}",
                expected=", ".join(sorted(known)),
                remedy="reprenez le fichier d'origine",
            )
        return cls(**{**values, "labels": tuple(labels)})


def _is_name(text: str) -> bool:
    """Vrai d'un nom court, sans rien qui commande le terminal où il sera montré."""
    return 0 < len(text) <= MAX_LABEL and on_one_line(text) == text


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Des textes étiquetés, dont le modèle apprend la classe ou la valeur."""

    classify: Path | None = None
    """Textes étiquetés (CSV, TSV, JSONL ou Parquet, ou messages-fr), à la place des textes : le
    modèle apprend leur classe, et n'écrit plus."""

    label: str | None = None
    """Colonne de l'étiquette ; sans elle, celle dont le nom est évident (label, classe…)."""

    regress: bool = False
    """Apprend une valeur, l'étiquette étant un nombre, et non une classe."""

    val: Path | None = None
    """Textes étiquetés de la validation ; sans eux, une part de chaque classe, tirée au sort."""

    balance: bool = False
    """Donne à chaque classe le même poids dans la perte, si rare soit-elle."""

    def __post_init__(self) -> None:
        for name in ("regress", "balance"):
            check_bool(name, getattr(self, name))
        given = {
            "label": self.label is not None,
            "regress": self.regress,
            "val": self.val is not None,
            "balance": self.balance,
        }
        if self.classify is None and (alone := [name for name, found in given.items() if found]):
            raise ConfigurationError(
                f"`{alone[0]}` sans `classify`",
                expected="les deux ensemble",
                remedy="ajoutez `classify=FICHIER.csv`",
            )
        if self.regress and self.balance:
            raise ConfigurationError.together(
                "`regress`", "`balance`", expected="des classes, dont les poids s'équilibrent"
            )
