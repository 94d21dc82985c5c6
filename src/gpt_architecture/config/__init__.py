"""Configuration centrale : la forme du modèle et les réglages de l'entraînement.

Rien ici ne lit l'environnement, un fichier ou un périphérique : ce paquet ne contient que
des valeurs validées.

- `checks` : Vérifications que partagent les dataclasses de configuration.
- `labels` : Classer ou noter un texte : la tête d'un modèle, et ce qui s'en demande à
  l'entraînement.
- `mixture` : Les sources d'un mélange, telles qu'elles se demandent : `NOM=CHEMIN:POIDS`.
- `model` : La forme du modèle ; deux modes exacts coexistent (voir `GPTConfig`).
- `objectives` : Ce qui s'apprend à la place du seul token suivant : des préférences, ou un autre
  modèle.
- `origin` : D'où part un entraînement : d'un préréglage, d'une reprise ou d'un modèle ; ce qu'il en
  garde.
- `run` : Ce qui se demande d'un entraînement : des groupes de réglages, et leur réunion.
- `training` : Les réglages de l'entraînement et de ses adaptateurs, un groupe par dataclass.
"""

from gpt_architecture.config.checks import check_choice, check_float, check_int
from gpt_architecture.config.labels import HeadConfig, LabelConfig
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
from gpt_architecture.config.objectives import ObjectiveConfig, PreferenceLossName
from gpt_architecture.config.origin import EXAMPLES, check_origin, kept_settings
from gpt_architecture.config.run import (
    FREE_SETTINGS,
    FinetuningConfig,
    RunConfig,
    ShapeConfig,
    TrainingRequest,
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
    "EXAMPLES",
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
    "HeadConfig",
    "LabelConfig",
    "LoRAConfig",
    "LoRATarget",
    "MemoryMode",
    "ObjectiveConfig",
    "OptimizerConfig",
    "OptimizerName",
    "PrecisionName",
    "PreferenceLossName",
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
