"""Configuration centrale : la forme du modèle et les réglages de l'entraînement.

Rien ici ne lit l'environnement, un fichier ou un périphérique : ce paquet ne contient que
des valeurs validées.

- `checks` : Vérifications que partagent les dataclasses de configuration.
- `mixture` : Les sources d'un mélange, telles qu'elles se demandent : `NOM=CHEMIN:POIDS`.
- `model` : La forme du modèle ; deux modes exacts coexistent (voir `GPTConfig`).
- `run` : Ce qui se demande d'un entraînement : des groupes de réglages, et leur réunion.
- `training` : Les réglages de l'entraînement et de ses adaptateurs, un groupe par dataclass.
"""

from gpt_architecture.config.checks import check_choice, check_float, check_int
from gpt_architecture.config.mixture import WeightedSource
from gpt_architecture.config.model import (
    END_OF_TEXT,
    GPT_CONFIG_124M,
    MAX_SIZES,
    MAX_TOKENS,
    PRESETS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    Activation,
    GPTConfig,
    GPTConfigDict,
    StrategyName,
)
from gpt_architecture.config.run import (
    FREE_SETTINGS,
    FinetuningConfig,
    RunConfig,
    ShapeConfig,
    TrainingRequest,
    check_origin,
    kept_settings,
)
from gpt_architecture.config.training import (
    PRESET_NOTES,
    TRAINING_PRESETS,
    CheckpointConfig,
    ComputeConfig,
    LoRAConfig,
    LoRATarget,
    MemoryMode,
    OptimizerConfig,
    OptimizerName,
    PrecisionName,
    ScheduleConfig,
    ScheduleName,
    TrainingConfig,
)

VERSION = "0.1.0"
"""Celle du paquet, que ses fichiers et ses services disent."""

__all__ = [
    "END_OF_TEXT",
    "FREE_SETTINGS",
    "GPT_CONFIG_124M",
    "MAX_SIZES",
    "MAX_TOKENS",
    "PRESETS",
    "PRESET_NOTES",
    "TEMPERATURE",
    "TOP_K",
    "TOP_P",
    "TRAINING_PRESETS",
    "VERSION",
    "Activation",
    "CheckpointConfig",
    "ComputeConfig",
    "FinetuningConfig",
    "GPTConfig",
    "GPTConfigDict",
    "LoRAConfig",
    "LoRATarget",
    "MemoryMode",
    "OptimizerConfig",
    "OptimizerName",
    "PrecisionName",
    "RunConfig",
    "ScheduleConfig",
    "ScheduleName",
    "ShapeConfig",
    "StrategyName",
    "TrainingConfig",
    "TrainingRequest",
    "WeightedSource",
    "check_choice",
    "check_float",
    "check_int",
    "check_origin",
    "kept_settings",
]
