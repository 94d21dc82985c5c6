"""Ce qui se demande d'un entraînement : des groupes de réglages, et leur réunion.

Chaque champ est aussi une option de `gpt-architecture train` : sa docstring en est l'aide.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from dataclasses import field as made_of
from pathlib import Path
from types import NoneType
from typing import Any

from gpt_architecture.config.checks import check_int
from gpt_architecture.config.labels import LabelConfig
from gpt_architecture.config.mixture import WeightedSource, parse_sources, source_texts
from gpt_architecture.config.model import GPT_CONFIG_124M, GPTConfig
from gpt_architecture.config.objectives import ObjectiveConfig
from gpt_architecture.config.training import (
    CheckpointConfig,
    ComputeConfig,
    LoRAConfig,
    LoRATarget,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
)
from gpt_architecture.errors import ConfigurationError, nearest

_LORA = {"lora_alpha": "alpha", "lora_targets": "targets", "lora_dropout": "dropout"}

FREE_SETTINGS = (
    *("epochs", "max_steps", "device", "prompt", "eval_freq", "eval_iter", "patience"),
    *("checkpoint_activations", "data", "source", "field", "skip_bad", "tokenizer"),
    *("tensorboard", "from", "chat", "chat_template", "forget", "classify", "val"),
    *("preferences", "distill"),
    *(item.name for item in fields(CheckpointConfig)),
)
"""Réglages qu'une reprise peut changer sans rien défaire ; des données, l'empreinte juge."""


_KINDS: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("data", (tuple, list), "un chemin, un nom de corpus, ou une suite d'entre eux"),
    ("sources", (tuple, list), "des sources NOM=CHEMIN:POIDS, ou {nom: (chemin, poids)}"),
    *((name, str, "un texte") for name in ("tokenizer", "device")),
    *((name, (str, NoneType), "un texte") for name in ("prompt", "field")),
    ("output_dir", Path, "un chemin"),
    *((name, (Path, NoneType), "un chemin") for name in ("resume", "sign_key", "forget")),
    *((name, bool, "un booléen") for name in ("override", "force", "tensorboard", "offline")),
    ("skip_bad", bool, "un booléen"),
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """D'où vient le texte, où va le modèle."""

    data: Sequence[str] = ("the-verdict",)
    """Texte : fichiers, dossiers et archives (texte, tableaux, pages, livres, PDF…), les noms
    the-verdict et la-lampe-du-passeur, un jeu de Hugging Face (hf:AUTEUR/NOM), ou un dossier de
    fragments de tokens écrit par prepare."""

    sources: Sequence[str] = ()
    """Source d'un mélange, à la place de data ; une par option. Le poids est une part (0.7) ou,
    suivi de x, un nombre d'époques de la source à chaque époque du mélange (2x)."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Laisse de côté, en le disant, ce qui est illisible, abîmé ou trop gros."""

    tokenizer: str = "gpt2"
    """Tokenizer : gpt2, simple-v1, simple-v2, char (caractères), bpe-N (BPE de N tokens appris
    sur la part d'entraînement), ou un tokenizer.json, par exemple de « tokenizer train »."""

    output_dir: Path = Path()
    """Dossier où écrire gpt-model.pt, certificat.json, loss-plot.pdf, journal.jsonl et
    checkpoints/."""

    prompt: str | None = None
    """Invite des exemples générés à chaque époque ; sans elle, une qui convient au texte."""

    device: str = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    resume: Path | None = None
    """Dossier de sortie d'un entraînement à reprendre, avec ses options."""

    override: bool = False
    """Reprend même si les données ou les options ont changé."""

    force: bool = False
    """Remplace un modèle existant, même d'un autre entraînement, et recommence au début."""

    tensorboard: bool = False
    """Écrit aussi les mesures pour TensorBoard, dans tensorboard/."""

    offline: bool = False
    """Interdit tout téléchargement."""

    sign_key: Path | None = None
    """Clé privée Ed25519 (PEM, lue de vous seul) qui signe certificat.json."""

    forget: Path | None = None
    """Retrait, écrit par « forget » : ces tokens ne sont ni lus, ni appris, ni mesurés."""

    def __post_init__(self) -> None:
        for name, kind, expected in _KINDS:
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigurationError.wrong(f"`{name}`", value, expected=expected)
        if self.mixture and tuple(self.data) != RunConfig.data:
            raise ConfigurationError.together(
                "`sources`",
                "`data`",
                expected="l'un ou l'autre : un mélange dit toutes ses sources",
            )
        if self.resume is not None and self.output_dir not in (Path(), self.resume):
            raise ConfigurationError(
                f"`output_dir={self.output_dir}` et `resume={self.resume}`",
                expected="le même dossier : une reprise écrit où l'entraînement écrivait",
                remedy="retirez `output_dir`",
            )

    @property
    def mixture(self) -> tuple[WeightedSource, ...]:
        """Les sources du mélange ; aucune : le texte est celui de `data`."""
        return parse_sources(self.sources)


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """Forme du modèle ; la taille du vocabulaire vient du tokenizer."""

    context_length: int = 256
    """Contexte d'entraînement, en tokens : la longueur des fenêtres que le modèle apprend."""

    positions: int = GPT_CONFIG_124M["context_length"]
    """Nombre de positions du modèle, au moins égal au contexte d'entraînement ; celles qui le
    dépassent n'apprennent rien."""

    emb_dim: int = GPT_CONFIG_124M["emb_dim"]
    """Largeur du modèle, multiple du nombre de têtes d'attention."""

    n_heads: int = GPT_CONFIG_124M["n_heads"]
    """Nombre de têtes d'attention."""

    n_layers: int = GPT_CONFIG_124M["n_layers"]
    """Nombre de blocs."""

    drop_rate: float = GPT_CONFIG_124M["drop_rate"]
    """Probabilité de dropout."""

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
        check_int("positions", positions, minimum=1)
        if positions < window:
            raise ConfigurationError(
                f"`positions` vaut {positions} et `context_length` {window}",
                expected="au moins autant de positions que de contexte",
                remedy=f"ajoutez `positions={window}`",
            )
        return GPTConfig(**values, context_length=positions, vocab_size=vocab_size)


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig:
    """D'où repartir, sur quelles conversations, avec quels adaptateurs."""

    start: Path | None = None
    """Modèle dont viennent les poids, la forme et le tokenizer : fichier, point de reprise, dossier
    d'entraînement ou de Transformers, hub:DÉPÔT."""

    chat: Path | None = None
    """Conversations, en JSONL ou en JSON (OpenAI, ShareGPT, alpaca, prompt et completion), à la
    place des textes ; seules les réponses s'apprennent."""

    chat_template: Path | None = None
    """Fichier du gabarit Jinja des conversations ; sans lui, celui du modèle, sinon du projet."""

    lora_rank: int | None = None
    """Rang d'adaptateurs LoRA, seuls à apprendre ; sans lui, tous les poids apprennent."""

    lora_alpha: float = LoRAConfig.alpha
    """Force des adaptateurs : leur facteur est lora-alpha / lora-rank."""

    lora_targets: tuple[LoRATarget, ...] = LoRAConfig.targets
    """Matrices adaptées dans chaque bloc : query, key, value, output, up, down."""

    lora_dropout: float = LoRAConfig.dropout
    """Probabilité de dropout à l'entrée des adaptateurs."""

    def __post_init__(self) -> None:
        if self.lora_rank is None:
            for option, name in _LORA.items():
                if getattr(self, option) != getattr(LoRAConfig, name):
                    raise _together(f"`{option}` sans `lora_rank`", "ajoutez `lora_rank`")
        elif self.start is None:
            raise _together("`lora_rank` sans `start`", "ajoutez `start=MODÈLE`")
        self.lora()  # refuse tout de suite un réglage hors bornes

    def lora(self) -> LoRAConfig | None:
        """Les réglages des adaptateurs ; None : tous les poids apprennent.

        Raises:
            ConfigurationError: valeur hors bornes.
        """
        if self.lora_rank is None:
            return None
        values = {name: getattr(self, option) for option, name in _LORA.items()}
        return LoRAConfig(rank=self.lora_rank, **values)


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """Tout ce qui se demande d'un entraînement, par groupe."""

    run: RunConfig = made_of(default_factory=RunConfig)
    shape: ShapeConfig = made_of(default_factory=ShapeConfig)
    finetuning: FinetuningConfig = made_of(default_factory=FinetuningConfig)
    objective: ObjectiveConfig = made_of(default_factory=ObjectiveConfig)
    labels: LabelConfig = made_of(default_factory=LabelConfig)
    training: TrainingConfig = made_of(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = made_of(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = made_of(default_factory=ScheduleConfig)
    checkpoints: CheckpointConfig = made_of(default_factory=CheckpointConfig)
    compute: ComputeConfig = made_of(default_factory=ComputeConfig)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> TrainingRequest:
        """La demande de ces réglages, nommés à plat : `epochs`, `emb_dim`, `output_dir`…

        Raises:
            ConfigurationError: réglage inconnu, hors bornes, ou qui ne va pas avec un autre.
        """
        left = {name: _typed(name, value) for name, value in settings.items()}
        made, groups, known = cls(), dict[str, Any](), {"preset"}
        for group in fields(cls):
            default: Any = getattr(made, group.name)
            known |= (own := {each.name for each in fields(default)})
            given = {name: left.pop(name) for name in own & left.keys()}
            groups[group.name] = replace(default, **given)
        if left:
            raise ConfigurationError(
                f"réglage inconnu : {', '.join(sorted(left))}",
                expected="une option de « gpt-architecture train », en soulignés",
                remedy=nearest(min(left), known) or "corrigez ou retirez ce réglage",
            )
        return cls(**groups)

    @property
    def learning(self) -> TrainingConfig:
        """Ce qui est appris ; une conversation, ou une paire, par fenêtre fixe leur décalage.

        Raises:
            ConfigurationError: `chat`, `preferences` ou `classify` avec ce qui n'y va pas.
        """
        pitch = self.shape.context_length + 1
        if self.objective.preferences is not None:
            self._check_preferences()
            return replace(self.training, stride=2 * pitch)
        if self.labels.classify is not None:
            self._refuse(
                "classify",
                "chaque texte est un exemple entier",
                chat=self.finetuning.chat is not None,
                distill=self.objective.distill is not None,
                document_mask=self.training.document_mask,
                canaries=self.training.canaries > 0,
                forget=self.run.forget is not None,
                prompt=self.run.prompt is not None,
            )
            return replace(self.training, stride=pitch)
        if self.finetuning.chat is None:
            if self.finetuning.chat_template is not None:
                raise _together("`chat_template` sans `chat`", "ajoutez `chat=FICHIER.jsonl`")
            return self.training
        self._refuse("chat", "chaque conversation est un exemple entier")
        return replace(self.training, stride=pitch)

    def _check_preferences(self) -> None:
        if self.finetuning.start is None:
            raise _together("`preferences` sans `start`", "ajoutez `start=MODÈLE`")
        self._refuse(
            "preferences",
            "chaque paire est un exemple entier",
            chat=self.finetuning.chat is not None,
            classify=self.labels.classify is not None,
            document_mask=self.training.document_mask,
            canaries=self.training.canaries > 0,
            forget=self.run.forget is not None,
        )
        if self.finetuning.lora_rank is not None and self.finetuning.lora_dropout > 0:
            raise ConfigurationError.together(
                "`preferences`",
                "`lora_dropout`",
                expected="aucun dropout : le modèle se compare à lui-même, sans tirage",
            )

    def _refuse(self, name: str, why: str, **others: bool) -> None:
        """Refuse, avec le réglage `name`, un autre texte et les autres réglages donnés."""
        conflicts = {
            "data": tuple(self.run.data) != RunConfig.data,
            "sources": bool(self.run.sources),
            "stride": self.training.stride is not None,
            **others,
        }
        for other, given in conflicts.items():
            if given:
                raise ConfigurationError.together(
                    f"`{name}`", f"`{other}`", expected=f"l'un ou l'autre : {why}"
                )


_PATHS = frozenset(
    (
        *("output_dir", "resume", "start", "chat", "chat_template", "sign_key", "forget"),
        *("preferences", "distill", "classify", "val"),
    )
)


def _typed(name: str, value: Any) -> Any:
    """Un réglage tel que sa dataclass l'attend : en Python, un chemin est souvent un texte."""
    if name in _PATHS and isinstance(value, str):
        return Path(value)
    if name in ("device", "tokenizer"):
        return str(value)  # un `torch.device`, un Path
    if name == "data" and isinstance(value, (str, Path)):
        return (str(value),)
    if name == "data" and isinstance(value, Iterable):
        return tuple(map(str, value))
    if name == "sources":
        return source_texts(value)
    return tuple(value) if name == "lora_targets" and isinstance(value, list) else value


def _together(found: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(found, expected="les deux ensemble", remedy=remedy)
