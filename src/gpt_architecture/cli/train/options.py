"""Les options de `train` : leurs groupes, et d'où viennent celles qui ne sont pas données."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.config import Dict as ConfigDict

from gpt_architecture.cli.options import Prompt
from gpt_architecture.cli.usage import COMMON_TITLE
from gpt_architecture.config import (
    EXAMPLES,
    CheckpointConfig,
    ComputeConfig,
    FinetuningConfig,
    LabelConfig,
    LoRAConfig,
    LoRATarget,
    ObjectiveConfig,
    OptimizerConfig,
    PreferenceLossName,
    RunConfig,
    ScheduleConfig,
    ShapeConfig,
    TrainingConfig,
    check_float,
    check_origin,
    kept_settings,
)

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

    from gpt_architecture.training.inputs import Origins


def _split_paths(_type: Any, value: str, *, delimiter: str | None = None) -> list[str]:
    """Chemins d'une variable d'environnement, séparés comme ceux de PATH."""
    return value.split(delimiter or os.pathsep)


_COMMON = Parameter(group=Group(COMMON_TITLE, sort_key=0))


def _advanced(title: str, sort_key: float) -> Parameter:
    return Parameter(name="*", group=Group(f"Avancé : {title}", sort_key=sort_key))


@_advanced("données et sorties", 1)
@dataclass(frozen=True, kw_only=True)
class RunOptions(RunConfig):
    """D'où vient le texte, où va le modèle ; et ce qui ne vaut que pour un appel."""

    data: Annotated[
        tuple[str, ...],
        _COMMON,
        Parameter(consume_multiple=1, env_var_split=_split_paths, metavar="SOURCE…"),
    ] = RunConfig.data  # type: ignore[assignment]

    sources: Annotated[tuple[str, ...], Parameter(name="--source", metavar="NOM=CHEMIN:POIDS")] = ()

    tokenizer: Annotated[str, _COMMON] = RunConfig.tokenizer

    output_dir: Annotated[Path, _COMMON, Parameter(metavar="DOSSIER")] = RunConfig.output_dir

    resume: Annotated[Path | None, _COMMON, Parameter(metavar="DOSSIER")] = None

    prompt: Prompt = None

    preset: Annotated[str | None, _COMMON, Parameter(metavar="NOM")] = None
    """Préréglage : verdict, express, eclair ou petit, décrits à la fin de cette aide ; les options
    données l'emportent sur lui."""

    estimate: Annotated[bool, _COMMON] = False
    """Mesure quelques étapes, annonce durée, mémoire et disque, et quitte sans rien écrire."""

    price_per_hour: float | None = None
    """Prix d'une heure de la machine : --estimate annonce alors le coût."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.price_per_hour is not None:
            check_float("price_per_hour", self.price_per_hour, minimum=0.0)


@_advanced("affinage", 2.5)
@dataclass(frozen=True, kw_only=True)
class FinetuningOptions(FinetuningConfig):
    """D'où repartir, sur quelles conversations, avec quels adaptateurs."""

    start: Annotated[Path | None, _COMMON, Parameter(name="--from", metavar="MODÈLE")] = None

    lora_targets: Annotated[tuple[LoRATarget, ...], Parameter(consume_multiple=1)] = (
        LoRAConfig.targets
    )


@_advanced("préférences et distillation", 2.7)
@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions(ObjectiveConfig):
    """Ce qui s'apprend à la place du seul token suivant."""

    preferences: Annotated[Path | None, Parameter(metavar="PAIRES")] = None

    preference_loss: PreferenceLossName = ObjectiveConfig.preference_loss

    distill: Annotated[Path | None, Parameter(metavar="MODÈLE")] = None


@_advanced("entraînement", 3)
@dataclass(frozen=True, kw_only=True)
class LearningOptions(TrainingConfig):
    """Ce qui est appris, et combien."""

    epochs: Annotated[int, _COMMON] = TrainingConfig.epochs

    batch_size: Annotated[int, _COMMON] = TrainingConfig.batch_size

    lr: Annotated[float, _COMMON] = TrainingConfig.lr

    def to_config(self) -> TrainingConfig:
        """Les mêmes réglages, dans la dataclass que l'entraînement compare et enregistre."""
        return TrainingConfig(**vars(self))


LabelOptions = Annotated[LabelConfig, _advanced("classer ou noter des textes", 2.7)]
ShapeOptions = Annotated[ShapeConfig, _advanced("modèle", 2)]
OptimizerOptions = Annotated[OptimizerConfig, _advanced("optimiseur", 4)]
ScheduleOptions = Annotated[ScheduleConfig, _advanced("taux d'apprentissage", 5)]
CheckpointOptions = Annotated[CheckpointConfig, _advanced("points de reprise", 6)]
ComputeOptions = Annotated[ComputeConfig, _advanced("calcul", 7)]


class TrainingDefaults:
    """Dernière source des options de `train` : point de reprise, préréglage ou modèle de départ.

    Ce qui est donné sur la ligne de commande, dans l'environnement ou dans un fichier TOML est
    déjà lu et l'emporte.

    Attributes:
        origins: ce qui a été lu en chemin, pour que la commande ne le relise pas ; None : rien.
    """

    def __init__(self) -> None:
        self.origins: Origins | None = None

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Complète les options données (protocole des sources de cyclopts)."""
        given = {each.name: each.tokens[0].value for each in arguments if each.tokens}
        preset, resume, start = (given.get(name) for name in ("--preset", "--resume", "--from"))
        check_origin(
            preset=preset,
            resume=resume,
            start=start,
            tokenizer=given.get("--tokenizer"),
            teacher=given.get("--distill"),
        )
        options: Mapping[str, Any]
        if preset is not None:
            from gpt_architecture.data.datasets import preset_settings

            sources = [
                token.value for each in arguments for token in each.tokens if each.name == "--data"
            ]
            options, source = preset_settings(preset, sources), f"le préréglage {preset}"
        elif resume is not None or start is not None:
            import gpt_architecture.interop  # noqa: F401 — les formats d'ailleurs s'inscrivent
            from gpt_architecture.training.inputs import Origins

            self.origins = Origins()
            options = self.origins.implied(
                resume=None if resume is None else Path(resume),
                start=None if start is None else Path(start),
            )
            source = f"le modèle {start}" if resume is None else f"le point de reprise de {resume}"
        else:
            return
        known = kept_settings(
            options,
            data="--data" in given,
            sources="--source" in given,
            examples=preset is not None and any(f"--{each}" in given for each in EXAMPLES),
        )
        ConfigDict({"train": known}, source=source)(app, commands, arguments)
