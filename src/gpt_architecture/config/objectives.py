"""Ce qui s'apprend à la place du seul token suivant : des préférences, ou un autre modèle.

Chaque champ est aussi une option de `gpt-architecture train` : sa docstring en est l'aide.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from gpt_architecture.config.checks import check_choice, check_float
from gpt_architecture.errors import ConfigurationError

PreferenceLossName = Literal["dpo", "orpo", "simpo"]

_BETAS: dict[PreferenceLossName, float] = {"dpo": 0.1, "orpo": 0.1, "simpo": 2.0}
_MARGIN = 1.0
_OWNERS = {
    "preference_loss": "preferences",
    "beta": "preferences",
    "label_smoothing": "preferences",
    "gamma": "preferences",
    "distill_temperature": "distill",
    "distill_alpha": "distill",
}


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Ce qui s'apprend à la place du seul token suivant."""

    preferences: Path | None = None
    """Paires de réponses à une même question, l'une préférée à l'autre, en JSONL ou en JSON (TRL,
    OpenAI), à la place des textes ; demande un modèle de départ."""

    preference_loss: PreferenceLossName = "dpo"
    """Perte des préférences ; dpo compare au modèle de départ, orpo et simpo s'en passent."""

    beta: float | None = None
    """Force de la préférence, le λ d'orpo ; sans elle, 0.1, ou 2 pour simpo."""

    label_smoothing: float = 0.0
    """Part des paires que dpo ou simpo suppose inversées."""

    gamma: float | None = None
    """Marge que simpo vise entre les deux réponses ; sans elle, 1."""

    distill: Path | None = None
    """Modèle professeur : l'élève apprend aussi ses probabilités ; son vocabulaire est le sien."""

    distill_temperature: float = 2.0
    """Température des deux distributions comparées."""

    distill_alpha: float = 0.5
    """Part du professeur dans la perte ; le reste est celle du texte."""

    def __post_init__(self) -> None:
        check_choice("preference_loss", self.preference_loss, get_args(PreferenceLossName))
        for name in ("beta", "gamma"):
            if getattr(self, name) is not None:
                check_float(name, getattr(self, name), above=0.0)
        check_float("label_smoothing", self.label_smoothing, minimum=0.0, below=0.5)
        check_float("distill_temperature", self.distill_temperature, above=0.0)
        check_float("distill_alpha", self.distill_alpha, above=0.0, maximum=1.0)
        if self.preferences is not None and self.distill is not None:
            raise ConfigurationError.together("`preferences`", "`distill`")
        for name, owner in _OWNERS.items():
            if getattr(self, owner) is None and getattr(self, name) != getattr(type(self), name):
                raise ConfigurationError(
                    f"`{name}` sans `{owner}`",
                    expected="les deux ensemble",
                    remedy=f"ajoutez `{owner}`, ou retirez `{name}`",
                )
        for name, losses in {"label_smoothing": ("dpo", "simpo"), "gamma": ("simpo",)}.items():
            is_given = getattr(self, name) != getattr(type(self), name)
            if is_given and self.preference_loss not in losses:
                raise ConfigurationError(
                    f"`{name}` avec `preference_loss={self.preference_loss}`, qui ne s'en sert pas",
                    expected=f"`preference_loss` parmi {', '.join(losses)}",
                    remedy=f"retirez `{name}`, ou changez `preference_loss`",
                )

    @property
    def strength(self) -> float:
        """`beta`, ou celle qui convient à la perte."""
        return _BETAS[self.preference_loss] if self.beta is None else self.beta

    @property
    def margin(self) -> float:
        """`gamma`, ou celle d'office."""
        return _MARGIN if self.gamma is None else self.gamma

    def to_dict(self) -> dict[str, Any]:
        """Les réglages demandés, sans les chemins ; vide : le token suivant s'apprend, seul."""
        found: dict[str, Any] = {}
        for name, owner in _OWNERS.items():
            if getattr(self, owner) is not None:
                found[name] = getattr(self, name)
        if self.preferences is not None:
            found |= {"beta": self.strength}
            found["gamma"] = self.margin if self.preference_loss == "simpo" else None
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Les réglages demandés, chemins compris, tels qu'une reprise les retrouve."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        kept = ("preferences", "distill", *self.to_dict())
        return {name: values[name] for name in kept if values[name] is not None}
