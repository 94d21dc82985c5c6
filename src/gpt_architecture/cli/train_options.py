"""Les options de `train` : groupes, préréglages, et celles qu'une reprise retrouve."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.config import Dict as ConfigDict

from gpt_architecture.cli.finetune_options import FinetuneOptions, starting_shape
from gpt_architecture.cli.launch import ScaleOptions
from gpt_architecture.cli.options import Prompt
from gpt_architecture.config import (
    GPT_CONFIG_124M,
    TRAINING_PRESETS,
    CheckpointConfig,
    ComputeConfig,
    GPTConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    check_float,
    check_int,
)
from gpt_architecture.errors import ConfigurationError

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import ArgumentCollection

    from gpt_architecture.data.tokenizer import Tokenizer
    from gpt_architecture.training.checkpoint import Checkpoint


def _split_paths(_type: Any, value: str, *, delimiter: str | None = None) -> list[str]:
    """Chemins d'une variable d'environnement, séparés comme ceux de PATH."""
    return value.split(delimiter or os.pathsep)


@Parameter(name="*", group=Group("Données et sorties", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """D'où vient le texte, où va le modèle."""

    data: Annotated[
        list[str],
        Parameter(consume_multiple=True, env_var_split=_split_paths),
    ] = field(default_factory=lambda: ["the-verdict"])
    """Texte : fichiers et dossiers (.txt, .md, .jsonl, .jsonl.gz, .parquet), les noms the-verdict
    et la-lampe-du-passeur, ou un dossier de fragments de tokens écrit par prepare."""

    text_field: Annotated[str, Parameter(name="--field")] = "text"
    """Champ du texte, en JSONL et en Parquet."""

    tokenizer: str = "gpt2"
    """Tokenizer : gpt2, simple-v1, simple-v2, char (caractères), bpe-N (BPE de N tokens appris
    sur la part d'entraînement), ou un tokenizer.json, par exemple de « tokenizer train »."""

    output_dir: Path = Path()
    """Dossier où écrire gpt-model.pt, loss-plot.pdf, journal.jsonl et checkpoints/."""

    prompt: Prompt = None
    """Début des exemples générés à chaque époque ; sans lui, celui qui convient au texte."""

    device: str = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    preset: str | None = None
    """Préréglage ; les options données l'emportent sur lui."""

    resume: Path | None = None
    """Dossier de sortie d'un entraînement à reprendre, avec ses options."""

    override: bool = False
    """Reprend même si les données ou les options ont changé."""

    force: bool = False
    """Écrase un modèle existant et recommence au début, même d'un autre entraînement."""

    estimate: bool = False
    """Mesure quelques étapes, annonce durée, mémoire et disque, et quitte sans rien écrire."""

    price_per_hour: float | None = None
    """Prix d'une heure de la machine, pour que --estimate annonce le coût."""

    tensorboard: bool = False
    """Écrit aussi les mesures pour TensorBoard, dans tensorboard/."""

    offline: bool = False
    """Interdit tout téléchargement."""

    def __post_init__(self) -> None:
        if self.resume is not None and self.output_dir not in (Path(), self.resume):
            raise ConfigurationError(
                f"--output-dir {self.output_dir} et --resume {self.resume}",
                expected="le même dossier : une reprise écrit où l'entraînement écrivait",
                remedy="retirez --output-dir",
            )
        if self.price_per_hour is not None:
            check_float("price_per_hour", self.price_per_hour, minimum=0.0)


@Parameter(name="*", group=Group("Modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Forme du modèle ; la taille du vocabulaire vient du tokenizer."""

    context_length: int = 256
    """Longueur du contexte appris, en tokens : celle des fenêtres d'entraînement."""

    positions: int = GPT_CONFIG_124M["context_length"]
    """Positions du modèle, au moins le contexte ; celles qui le dépassent n'apprennent rien."""

    emb_dim: int = GPT_CONFIG_124M["emb_dim"]
    """Largeur du modèle, multiple du nombre de têtes."""

    n_heads: int = GPT_CONFIG_124M["n_heads"]
    """Nombre de têtes d'attention."""

    n_layers: int = GPT_CONFIG_124M["n_layers"]
    """Nombre de blocs."""

    drop_rate: float = GPT_CONFIG_124M["drop_rate"]
    """Probabilité d'abandon (dropout)."""

    qkv_bias: bool = GPT_CONFIG_124M["qkv_bias"]
    """Biais sur les projections requête, clé et valeur."""

    tie_weights: bool = False
    """Lie la tête de sortie à l'embedding (mode GPT-2)."""

    def to_config(self, vocab_size: int = GPTConfig.vocab_size) -> GPTConfig:
        """La forme du modèle.

        Raises:
            ConfigurationError: valeur hors bornes, ou moins de positions que de contexte.
        """
        values = asdict(self)
        window = values.pop("context_length")
        positions = values.pop("positions")
        check_int("context_length", window, minimum=1)
        if positions < window:
            raise ConfigurationError(
                f"--positions vaut {positions} et --context-length {window}",
                expected="au moins autant de positions que de contexte",
                remedy=f"ajoutez --positions {window}",
            )
        return GPTConfig(**values, context_length=positions, vocab_size=vocab_size)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Toutes les options de `train`, par groupe."""

    run: RunOptions
    shape: ModelOptions
    finetune: FinetuneOptions
    training: TrainingConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    saving: CheckpointConfig
    compute: ComputeConfig
    scale: ScaleOptions


def _group(title: str, sort_key: int) -> Parameter:
    return Parameter(name="*", group=Group(title, sort_key=sort_key))


LearningOptions = Annotated[TrainingConfig, _group("Entraînement", 3)]
OptimizerOptions = Annotated[OptimizerConfig, _group("Optimiseur", 4)]
ScheduleOptions = Annotated[ScheduleConfig, _group("Taux d'apprentissage", 5)]
CheckpointOptions = Annotated[CheckpointConfig, _group("Points de reprise", 6)]
ComputeOptions = Annotated[ComputeConfig, _group("Calcul", 7)]

_TOKENIZER_NAME = re.compile(r"gpt2|simple-v[12]|char|bpe-[0-9]+")
_LEARNED_TOKENIZER = re.compile(r"simple-v2|char|bpe-[0-9]+")  # simple-v1 ignore les mots nouveaux
_OF_THIS_CALL = (
    *("output_dir", "preset", "resume", "override", "force", "offline"),
    *("estimate", "price_per_hour"),
)
"""Options d'un appel : une reprise ne les retrouve pas."""

FREE_OPTIONS = (
    *("epochs", "max_steps", "device", "prompt", "eval_freq", "eval_iter", "patience"),
    *("checkpoint_activations", "data", "field", "tokenizer"),
    *("tensorboard", "from", "chat", "chat_template"),
    *(item.name for item in fields(CheckpointConfig)),
)
"""Options qu'une reprise peut changer sans rien défaire ; des données, l'empreinte juge."""


def saved_options(options: TrainOptions, prompt: str | None) -> dict[str, Any]:
    """Les options à plat, telles qu'un point de reprise les garde : chemins absolus.

    Args:
        options: toutes ; celles qui ne valent que pour un appel sont laissées.
        prompt: le début des exemples demandé, une fois lu.
    """
    run = options.run
    flat = {name: value for name, value in asdict(run).items() if name not in _OF_THIS_CALL}
    flat["prompt"], flat["field"] = prompt, flat.pop("text_field")
    flat["data"] = [_absolute(source) for source in run.data]
    if options.finetune.chat is not None:
        flat["data"] = None
    if not _TOKENIZER_NAME.fullmatch(run.tokenizer):
        flat["tokenizer"] = _absolute(run.tokenizer)
    for group in (
        *(options.shape, options.training, options.optimizer),
        *(options.schedule, options.saving, options.compute),
    ):
        flat |= asdict(group)
    return flat | options.finetune.saved()


def _absolute(source: str) -> str:
    """Le chemin absolu d'une source qui existe ; un nom reste un nom."""
    try:
        return str(Path(source).resolve()) if Path(source).exists() else source
    except OSError:  # nom trop long pour ce système
        return source


@lru_cache(maxsize=1)
def resumable(output_dir: Path) -> Checkpoint:
    """Le dernier point de reprise intact d'un dossier de sortie.

    Raises:
        ConfigurationError: il n'y en a pas.
    """
    from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore

    latest = CheckpointStore(output_dir / CHECKPOINTS).latest()
    if latest is None or not isinstance(latest.state.get("options"), Mapping):
        raise ConfigurationError(
            f"rien à reprendre dans {output_dir}",
            expected=f"le dossier de sortie d'un entraînement, avec {CHECKPOINTS}/step-…",
            remedy="corrigez --resume, ou entraînez sans lui",
        )
    return latest


def learned_tokenizer(run: RunOptions) -> Tokenizer | None:
    """Le vocabulaire appris du point à reprendre, si c'est lui qui est demandé ; sinon None.

    L'apprendre de nouveau, sur un texte qui a changé, donnerait d'autres tokens à des poids qui ont
    appris ceux-là.
    """
    from gpt_architecture.data.tokenizer import tokenizer_from_dict

    if run.resume is None or not _LEARNED_TOKENIZER.fullmatch(run.tokenizer):
        return None
    state = resumable(run.resume).state
    if state["options"].get("tokenizer") != run.tokenizer:
        return None
    return tokenizer_from_dict(state["tokenizer"])


def training_defaults(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Dernière source des options de `train` : point de reprise, préréglage ou modèle de départ.

    Ce qui est donné sur la ligne de commande, dans l'environnement ou dans un fichier TOML est
    déjà lu et l'emporte.
    """
    if commands != ("train",):
        return
    given = {argument.name: argument.tokens for argument in arguments if argument.tokens}
    if "--resume" in given and "--preset" in given:
        raise ConfigurationError(
            "--resume et --preset ensemble",
            expected="l'un ou l'autre : une reprise retrouve ses options",
            remedy="retirez --preset",
        )
    if "--from" in given and "--preset" in given:
        raise ConfigurationError(
            "--from et --preset ensemble",
            expected="l'un ou l'autre : un préréglage fixe une forme, le modèle a la sienne",
            remedy="retirez --preset",
        )
    if "--resume" in given:
        folder = Path(given["--resume"][0].value)
        options: Mapping[str, Any] = resumable(folder).state["options"]
        source = f"le point de reprise de {folder}"
    elif "--preset" in given:
        name = given["--preset"][0].value
        if name not in TRAINING_PRESETS:
            raise ConfigurationError(
                f"préréglage inconnu : {name}",
                expected=", ".join(TRAINING_PRESETS),
                remedy="corrigez --preset",
            )
        options, source = TRAINING_PRESETS[name], f"le préréglage {name}"
    elif "--from" in given:
        if "--tokenizer" in given:
            raise ConfigurationError(
                "--from et --tokenizer ensemble",
                expected="le tokenizer du modèle de départ, que ses poids ont appris",
                remedy="retirez --tokenizer",
            )
        path = Path(given["--from"][0].value)
        options, source = starting_shape(path), f"le modèle {path}"
    else:
        return
    known = {name: value for name, value in options.items() if value is not None}
    ConfigDict({"train": known}, source=source)(app, commands, arguments)
