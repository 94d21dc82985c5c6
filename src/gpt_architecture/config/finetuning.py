"""Les réglages de l'affinage par adaptateurs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from gpt_architecture.config.checks import check_choice, check_float, check_int
from gpt_architecture.errors import ConfigurationError

LoRATarget = Literal["query", "key", "value", "output", "up", "down"]
"""Matrice d'un bloc : les projections de l'attention, puis les deux couches du perceptron."""

MAX_RANK = 4096


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adaptateurs de rang faible (LoRA, Hu et al., 2021) : W + (alpha / rank) · B·A.

    Attributes:
        rank: rang des matrices ajoutées (r).
        alpha: force des adaptateurs ; leur facteur est alpha / rank.
        targets: matrices adaptées, dans chaque bloc.
        dropout: probabilité d'abandon à l'entrée des adaptateurs, dans [0, 1[.

    Raises:
        ConfigurationError: une valeur est du mauvais type ou hors bornes.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[LoRATarget, ...] = ("query", "value")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_int("lora_rank", self.rank, minimum=1, maximum=MAX_RANK)
        check_float("lora_alpha", self.alpha, above=0.0)
        check_float("lora_dropout", self.dropout, minimum=0.0, below=1.0)
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigurationError.wrong(
                "lora_targets",
                ", ".join(self.targets) or "rien",
                expected=f"des noms distincts parmi {', '.join(get_args(LoRATarget))}",
            )
        for target in self.targets:
            check_choice("lora_targets", target, get_args(LoRATarget))

    @property
    def scale(self) -> float:
        """Facteur des adaptateurs."""
        return self.alpha / self.rank

    def to_dict(self) -> dict[str, Any]:
        """Les réglages, en types simples."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoRAConfig:
        """Relit `to_dict`.

        Raises:
            ConfigurationError: clé inconnue ou valeur invalide.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        targets = values.get("targets", cls.targets)
        if unknown or not isinstance(targets, (list, tuple)):
            raise ConfigurationError(
                f"réglages d'adaptateurs mal formés ({', '.join(unknown) or 'targets'})",
                expected=", ".join(field.name for field in fields(cls)),
                remedy="reprenez le fichier d'origine",
            )
        return cls(**{**values, "targets": tuple(str(target) for target in targets)})
