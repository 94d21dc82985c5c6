"""Les réglages de l'entraînement et de ses adaptateurs, un groupe par dataclass.

Une valeur du mauvais type ou hors bornes est refusée dès la construction (`ConfigurationError`).
Chaque champ qui a une docstring est aussi une option de `gpt-architecture train`, dont elle est
l'aide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from gpt_architecture.config.checks import check_bool, check_choice, check_float, check_int
from gpt_architecture.errors import ConfigurationError

OptimizerName = Literal["adamw", "muon"]
ScheduleName = Literal["constant", "linear", "cosine", "wsd"]
PrecisionName = Literal["auto", "fp32", "bf16"]
StepEngineName = Literal["auto", "fused", "autograd"]
MemoryMode = Literal["default", "lean"]
LoRATarget = Literal["query", "key", "value", "output", "up", "down"]
"""Matrice d'un bloc : les projections de l'attention, puis les deux couches du perceptron."""

MAX_RANK = 4096
MAX_CANARIES = 1000


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Ce qui est appris, et combien ; les défauts sont ceux du document d'origine."""

    epochs: int = 10
    """Nombre d'époques, c'est-à-dire de passages sur le texte."""

    max_steps: int | None = None
    """Nombre maximal d'étapes ; sans lui, celles des époques."""

    batch_size: int = 2
    """Nombre de séquences par lot."""

    accumulate: int = 1
    """Nombre de lots dont les gradients s'ajoutent avant chaque mise à jour des poids."""

    stride: int | None = None
    """Décalage entre deux fenêtres, en tokens ; sans lui, le contexte d'entraînement."""

    lr: float = 4e-4
    """Taux d'apprentissage, à son plus haut."""

    weight_decay: float = 0.1
    """Décroissance des matrices et des embeddings ; ni les biais ni les normes n'en ont."""

    train_ratio: float = 0.9
    """Part du texte gardée pour l'entraînement."""

    eval_freq: int = 5
    """Nombre d'étapes entre deux évaluations."""

    eval_iter: int = 5
    """Nombre de lots lus à chaque évaluation, dans chacun des deux jeux."""

    patience: int | None = None
    """Nombre d'évaluations sans progrès de la validation avant de s'arrêter ; sans lui, jamais."""

    seed: int = 123
    """Graine des poids, de l'ordre des données et du dropout."""

    document_mask: bool = False
    """Chaque document n'est lu qu'avec lui-même, depuis la première position, même si une fenêtre
    en a plusieurs ; les conversations sont alors réunies à plusieurs par rangée."""

    canaries: int = 0
    """Nombre de canaris plantés dans le texte d'entraînement : des phrases au secret tiré au sort,
    répétées de 1 à 16 fois, que « dossier » cherche ensuite dans le modèle."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "eval_freq", "eval_iter"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("max_steps", "stride", "patience"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=1)
        check_int("seed", self.seed, minimum=0, maximum=2**63 - 1)
        check_float("lr", self.lr, above=0.0)
        check_float("weight_decay", self.weight_decay, minimum=0.0)
        check_float("train_ratio", self.train_ratio, above=0.0, below=1.0)
        check_bool("document_mask", self.document_mask)
        check_int("canaries", self.canaries, minimum=0, maximum=MAX_CANARIES)

    def to_dict(self) -> dict[str, Any]:
        """Les réglages, tels qu'un point de reprise et un modèle les gardent.

        Un réglage venu après les premiers n'y est que s'il est demandé : ceux qui ont été écrits
        avant lui restent ceux du même entraînement.
        """
        values = asdict(self)
        for name in ("document_mask", "canaries"):
            if not values[name]:
                del values[name]
        return values


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Comment les poids sont mis à jour."""

    optimizer: OptimizerName = "adamw"
    """Optimiseur ; avec muon, Muon s'occupe des matrices des blocs et AdamW du reste."""

    beta1: float = 0.9
    """Inertie de la moyenne des gradients, dans AdamW."""

    beta2: float = 0.999
    """Inertie de la moyenne de leurs carrés, dans AdamW."""

    eps: float = 1e-8
    """Terme d'AdamW qui évite la division par zéro."""

    muon_lr: float = 0.02
    """Taux d'apprentissage, à son plus haut, des matrices confiées à Muon."""

    muon_momentum: float = 0.95
    """Inertie de Muon."""

    clip: float | None = None
    """Norme au-delà de laquelle le gradient est réduit ; sans elle, il ne l'est jamais."""

    max_bad_steps: int = 5
    """Nombre d'étapes consécutives, au gradient ou à la perte non finis, avant d'abandonner."""

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, get_args(OptimizerName))
        for name in ("beta1", "beta2", "muon_momentum"):
            check_float(name, getattr(self, name), minimum=0.0, below=1.0)
        for name in ("eps", "muon_lr"):
            check_float(name, getattr(self, name), above=0.0)
        if self.clip is not None:
            check_float("clip", self.clip, above=0.0)
        check_int("max_bad_steps", self.max_bad_steps, minimum=1)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Comment le taux d'apprentissage évolue."""

    schedule: ScheduleName = "constant"
    """Évolution du taux d'apprentissage ; wsd : montée, palier, descente."""

    warmup_steps: int = 0
    """Nombre d'étapes de montée linéaire du taux, au début."""

    final_lr: float = 0.0
    """Taux à la dernière étape, en part du plus haut (linear, cosine et wsd)."""

    decay_fraction: float = 0.2
    """Part des étapes que prend la descente (wsd)."""

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, get_args(ScheduleName))
        check_int("warmup_steps", self.warmup_steps, minimum=0)
        check_float("final_lr", self.final_lr, minimum=0.0, maximum=1.0)
        check_float("decay_fraction", self.decay_fraction, above=0.0, maximum=1.0)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Quand l'état complet est écrit, et ce qui en est gardé."""

    save_every: int | None = None
    """Nombre d'étapes entre deux points de reprise ; sans lui, seul le temps en décide."""

    save_minutes: float = 15.0
    """Nombre maximal de minutes d'entraînement entre deux points de reprise."""

    save_best: bool = False
    """Écrit aussi un point de reprise à chaque meilleure validation."""

    keep: int = 2
    """Nombre de points de reprise gardés, les plus récents, en plus du meilleur."""

    keep_spread: int | None = None
    """Nombre de points de reprise gardés, à la place de keep : serrés vers la fin, de plus en plus
    rares vers le début, pour qu'un oubli reparte de moins loin."""

    def __post_init__(self) -> None:
        if self.save_every is not None:
            check_int("save_every", self.save_every, minimum=1)
        check_float("save_minutes", self.save_minutes, above=0.0)
        check_bool("save_best", self.save_best)
        check_int("keep", self.keep, minimum=1)
        if self.keep_spread is not None:
            check_int("keep_spread", self.keep_spread, minimum=2)
            if self.keep != CheckpointConfig.keep:
                raise ConfigurationError.together("`keep_spread`", "`keep`")


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Comment la machine calcule ; ce qui est appris ne change qu'aux arrondis près."""

    engine: StepEngineName = "auto"
    """Moteur d'une étape ; auto : l'étape fusionnée sur CPU, autograd ailleurs."""

    memory: MemoryMode = "default"
    """Mode de mémoire ; lean en demande moins : moments en bf16, poids mis à jour pendant la
    rétropropagation, passe avant recalculée ; un gradient non fini n'y arrête que son paramètre."""

    precision: PrecisionName = "auto"
    """Précision des produits ; auto : bf16 si le matériel le calcule (GPU, AMX, et AVX512-BF16 pour
    l'étape fusionnée), fp32 ailleurs."""

    compile: bool = False
    """Compile le modèle (torch.compile) : le départ est plus lent, les étapes plus rapides."""

    checkpoint_activations: bool = False
    """Recalcule les activations au lieu de les garder : il faut moins de mémoire, plus de temps."""

    deterministic: bool = False
    """N'emploie que des algorithmes au résultat toujours identique."""

    @property
    def wants_fused(self) -> bool:
        """Vrai si l'étape fusionnée est exigée."""
        return self.engine == "fused" or self.memory == "lean"

    def __post_init__(self) -> None:
        check_choice("engine", self.engine, get_args(StepEngineName))
        check_choice("memory", self.memory, get_args(MemoryMode))
        check_choice("precision", self.precision, get_args(PrecisionName))
        for name in ("compile", "checkpoint_activations", "deterministic"):
            check_bool(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adaptateurs de rang faible (LoRA, Hu et al., 2021) : W + (alpha / rank) · B·A.

    Attributes:
        rank: rang des matrices ajoutées (r).
        alpha: force des adaptateurs ; leur facteur est alpha / rank.
        targets: matrices adaptées, dans chaque bloc.
        dropout: probabilité de dropout à l'entrée des adaptateurs, dans [0, 1[.
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
                self.targets,
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


TRAINING_PRESETS: dict[str, dict[str, Any]] = {
    "verdict": {},
    "express": {
        "batch_size": 1,
        "epochs": 6,
        "drop_rate": 0.0,
        "lr": 5e-4,
        "weight_decay": 0.0,
        "beta2": 0.99,
        "clip": 1.0,
        "schedule": "wsd",
        "warmup_steps": 10,
        "decay_fraction": 0.35,
        "eval_freq": 107,
        "eval_iter": 18,
    },
    "eclair": {
        "data": ["la-lampe-du-passeur"],
        "output_dir": "eclair",
        "tokenizer": "bpe-1024",
        "context_length": 64,
        "positions": 64,
        "emb_dim": 112,
        "n_heads": 4,
        "n_layers": 3,
        "drop_rate": 0.0,
        "qkv_bias": True,
        "tie_weights": True,
        "epochs": 14,
        "max_steps": 150,
        "batch_size": 16,
        "stride": 32,
        "optimizer": "muon",
        "lr": 4e-3,
        "beta2": 0.95,
        "clip": 1.0,
        "schedule": "cosine",
        "warmup_steps": 10,
        "final_lr": 0.1,
        "eval_freq": 25,
        "engine": "autograd",
    },
    "petit": {
        "tokenizer": "bpe-2048",
        "context_length": 128,
        "positions": 128,
        "emb_dim": 256,
        "n_heads": 4,
        "n_layers": 4,
        "qkv_bias": True,
        "tie_weights": True,
        "epochs": 2,
        "batch_size": 16,
        "train_ratio": 0.95,
        "optimizer": "muon",
        "lr": 2e-3,
        "beta2": 0.95,
        "clip": 1.0,
        "schedule": "cosine",
        "warmup_steps": 100,
        "final_lr": 0.05,
        "eval_freq": 200,
        "eval_iter": 20,
    },
}
"""Préréglages de `gpt-architecture train` : nom → options."""

PRESET_NOTES = {
    "verdict": "refait l'entraînement du document d'origine, par les valeurs par défaut",
    "express": "atteint la même perte d'entraînement au plus vite, en apprenant par cœur : sans "
    "dropout, une fenêtre par étape",
    "eclair": "apprend une nouvelle en une vingtaine de secondes, ou ce qu'il peut d'un texte plus "
    "long, sans noyau de calcul à compiler",
    "petit": "apprend un texte de quelques mégaoctets, avec un vocabulaire à lui",
}
"""À quoi sert chaque préréglage."""
