"""Ce qu'un entraînement lit : ses données, son point de départ, ou le point qu'il reprend."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gpt_architecture.config import (
    GPTConfig,
    RunConfig,
    TrainingConfig,
    TrainingRequest,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData, load_chat_data, load_training_data
from gpt_architecture.data.mixtures import MixtureTokens, load_mixture
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template, render_chat
from gpt_architecture.data.texts.corpus import SHORT_STORY
from gpt_architecture.data.texts.recipes import VERDICT
from gpt_architecture.data.tokenizer import UNKNOWN, Tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import ConfigurationError, TokenizerError
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.formats.door import read_any
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.storage import read_text
from gpt_architecture.training.checkpoint import CHECKPOINTS, Checkpoint, CheckpointStore

SEED_PROMPT = "Every effort moves you"
STORY_PROMPT = "Un soir d'octobre, la cloche"

_MAX_TEMPLATE_FILE = 1 << 20
_WINDOW = 256
_TOKENIZER_NAME = re.compile(r"gpt2|simple-v[12]|char|bpe-[0-9]+")
_LEARNED_TOKENIZER = re.compile(r"simple-v2|char|bpe-[0-9]+")  # simple-v1 ignore les mots nouveaux
_OF_THIS_CALL = ("output_dir", "resume", "override", "force", "offline", "sign_key")
"""Réglages d'un appel : une reprise ne les retrouve pas."""


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """Un modèle déjà entraîné, d'où repartir.

    Attributes:
        name: son fichier ou son dossier, pour les messages.
        content: ce qu'il contient.
    """

    name: str
    content: ModelFile

    @classmethod
    def read(cls, source: Path | str) -> StartingPoint:
        """Le modèle de départ, d'ici ou d'ailleurs.

        Raises:
            ModelFileError: fichier absent, illisible ou d'un autre format.
        """
        return cls(name=str(source), content=read_any(source))

    @cached_property
    def sha256(self) -> str:
        """Empreinte de ses poids."""
        return weights_sha256(self.content)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Son tokenizer.

        Raises:
            ModelFileError: il ne tient pas dans le vocabulaire du modèle.
        """
        check_vocabulary(self.content.config, self.content.tokenizer, name=self.name)
        return tokenizer_from_dict(self.content.tokenizer)

    @property
    def chat_template(self) -> str | None:
        """Son gabarit de conversation, s'il en a un.

        Raises:
            DataError: il est mal écrit.
        """
        found = self.content.metadata.get(CHAT_TEMPLATE)
        return None if found is None else check_template(found)

    def shape(self) -> dict[str, Any]:
        """Les réglages de forme qu'il impose, et le contexte qu'il a appris."""
        variants = self.content.config.variants()  # sans réglage : le modèle les garde
        shape = {k: v for k, v in self.content.config.to_dict().items() if k not in variants}
        del shape["vocab_size"]
        shape["positions"] = shape["context_length"]
        learned = self.content.metadata.get("window")
        window = learned if isinstance(learned, int) and learned > 0 else _WINDOW
        shape["context_length"] = min(window, shape["positions"])
        return shape

    def check_shape(self, asked: GPTConfig) -> None:
        """Refuse une forme qui n'est pas la sienne ; le dropout est libre.

        Raises:
            ConfigurationError: la différence est montrée.
        """
        names = {"context_length": "positions"}
        before: Mapping[str, Any] = self.content.config.to_dict()
        for name, value in asked.to_dict().items():
            if name != "drop_rate" and value != before[name]:
                setting = names.get(name, name)
                raise ConfigurationError(
                    f"`{setting}` vaut {value}, et {before[name]} dans {self.name}",
                    expected="la forme du modèle de départ",
                    remedy=f"retirez `{setting}`",
                )

    def build(self, config: GPTConfig) -> GPTModel:
        """Le modèle à affiner, en fp32, dans une mémoire à lui.

        Args:
            config: sa forme ; seul le dropout peut différer.
        """
        model = replace(self.content, config=config).build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.float32, copy=True)
        return model


def resumable(output_dir: Path | str) -> Checkpoint:
    """Le dernier point de reprise intact d'un dossier de sortie.

    Raises:
        ConfigurationError: il n'y en a pas.
    """
    output_dir = Path(output_dir)
    latest = CheckpointStore(output_dir / CHECKPOINTS).latest()
    if latest is None or not isinstance(latest.state.get("options"), Mapping):
        raise ConfigurationError(
            f"rien à reprendre dans {output_dir}",
            expected=f"le dossier de sortie d'un entraînement, avec {CHECKPOINTS}/step-…",
            remedy="corrigez `resume`, ou entraînez sans lui",
        )
    return latest


@dataclass(kw_only=True)
class Origins:
    """D'où part un entraînement : chaque fichier n'est lu qu'une fois.

    Attributes:
        start: modèle de départ ; None : des poids tirés au hasard.
        checkpoint: point à reprendre ; None : le début.
        learned: vocabulaire à employer, quel que soit celui que la demande nomme ; None : aucun.
    """

    start: StartingPoint | None = None
    checkpoint: Checkpoint | None = None
    learned: Tokenizer | None = None

    def implied(self, *, resume: Path | str | None, start: Path | str | None) -> Mapping[str, Any]:
        """Les réglages qu'apporte le point à reprendre, sinon le modèle de départ.

        Raises:
            ConfigurationError: rien à reprendre.
            ModelFileError: modèle de départ illisible.
        """
        if resume is not None:
            self.checkpoint = resumable(resume)
            options: Mapping[str, Any] = self.checkpoint.state["options"]
            return options
        if start is not None:
            self.start = StartingPoint.read(start)
            return self.start.shape()
        return {}

    def of_request(self, request: TrainingRequest) -> Origins:
        """Complète de ce que la demande désigne et qui n'est pas encore lu."""
        run, start = request.run, request.finetuning.start
        if self.start is None and start is not None:
            self.start = StartingPoint.read(start)
        if self.checkpoint is None and run.resume is not None:
            self.checkpoint = resumable(run.resume)
        return self

    def vocabulary(self, tokenizer: str) -> Tokenizer | None:
        """Le vocabulaire que les poids de départ ont appris, si c'est lui qui est demandé.

        L'apprendre de nouveau, sur un texte qui a changé, donnerait d'autres tokens à des poids qui
        ont appris ceux-là.
        """
        if self.start is not None:
            return self.start.tokenizer
        if self.learned is not None:
            return self.learned
        if self.checkpoint is None or not _LEARNED_TOKENIZER.fullmatch(tokenizer):
            return None
        state = self.checkpoint.state
        is_same = state["options"].get("tokenizer") == tokenizer
        return tokenizer_from_dict(state["tokenizer"]) if is_same else None


def load_data(request: TrainingRequest, training: TrainingConfig, origins: Origins) -> TrainingData:
    """Des conversations, un mélange, ou du texte suivi.

    Args:
        request: d'où ils viennent.
        training: voir `TrainingRequest.learning`.
        origins: d'où vient le vocabulaire, si des poids l'ont appris.

    Raises:
        DataError: données absentes, abîmées ou trop courtes.
    """
    run, finetuning, window = request.run, request.finetuning, request.shape.context_length
    vocabulary = origins.vocabulary(run.tokenizer)
    if finetuning.chat is not None:
        return load_chat_data(
            finetuning.chat,
            run.tokenizer,
            window=window,
            training=training,
            template=_template(finetuning.chat_template, origins.start),
            vocabulary=vocabulary,
        )
    if run.mixture:
        return load_mixture(
            run.mixture,
            run.tokenizer,
            window=window,
            training=training,
            vocabulary=vocabulary,
            field=run.field,
            offline=run.offline,
            skip_bad=run.skip_bad,
        )
    return load_training_data(
        list(run.data),
        run.tokenizer,
        window=window,
        training=training,
        vocabulary=vocabulary,
        field=run.field,
        offline=run.offline,
        skip_bad=run.skip_bad,
    )


def _template(path: Path | None, start: StartingPoint | None) -> str | None:
    """Le gabarit demandé, sinon celui du modèle de départ, sinon None.

    Raises:
        DataError: fichier illisible, ou gabarit mal écrit.
    """
    if path is not None:
        text = read_text(
            path,
            expected="un gabarit Jinja en UTF-8",
            remedy="corrigez `chat_template`",
            limit=_MAX_TEMPLATE_FILE,
        )
        return check_template(text)
    return None if start is None else start.chat_template


def choose_prompt(prompt: str | None, data: TrainingData) -> str:
    """L'invite des exemples : celle demandée, sinon la première que le tokenizer sait coder.

    Args:
        prompt: celui demandé, déjà lu ; avec des conversations, une question.
        data: les données.

    Raises:
        ConfigurationError: il ne donne aucun token.
    """
    if prompt is None:
        known = {VERDICT: SEED_PROMPT, SHORT_STORY: STORY_PROMPT}
        named = "" if isinstance(data.train, MixtureTokens) else data.name  # libre, au mélange
        preferred = known.get(named, data.opening)
        prompt = preferred if _knows(data.tokenizer, preferred) else data.opening
    elif data.chat_template is not None:
        asked = [{"role": "user", "content": prompt}]
        prompt = render_chat(
            asked, data.chat_template, tokenizer=data.tokenizer, add_generation_prompt=True
        )
    if not encode_text(prompt, data.tokenizer):  # un mot inconnu est dit avant toute étape
        raise ConfigurationError(
            f"l'invite d'exemple {prompt!r} ne donne aucun token",
            expected="au moins un mot",
            remedy="changez `prompt`",
        )
    return prompt


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    """Vrai si chaque mot de `text` est dans le vocabulaire."""
    try:
        return UNKNOWN not in tokenizer.decode(tokenizer.encode(text))
    except TokenizerError:
        return False


def saved_options(request: TrainingRequest, prompt: str | None) -> dict[str, Any]:
    """Les réglages à plat, tels qu'un point de reprise les garde : chemins absolus.

    Args:
        request: tous ; ceux qui ne valent que pour un appel sont laissés.
        prompt: l'invite des exemples demandée, une fois lue.
    """
    run, finetuning = request.run, request.finetuning
    apart = (*_OF_THIS_CALL, "sources")
    names = [each.name for each in fields(RunConfig) if each.name not in apart]
    flat: dict[str, Any] = {name: getattr(run, name) for name in names}
    flat["prompt"] = prompt
    flat["data"] = [_absolute(source) for source in run.data]
    if finetuning.chat is not None or run.mixture:
        flat["data"] = None
    moved = [replace(each, path=_absolute(each.path)) for each in run.mixture]
    flat["source"] = [str(each) for each in moved] or None
    if not is_tokenizer_name(run.tokenizer):
        flat["tokenizer"] = _absolute(run.tokenizer)
    flat |= request.training.to_dict()
    for group in (
        *(request.shape, request.optimizer),
        *(request.schedule, request.checkpoints, request.compute),
    ):
        flat |= asdict(group)
    for name, path in (
        ("from", finetuning.start),
        ("chat", finetuning.chat),
        ("chat_template", finetuning.chat_template),
    ):
        flat[name] = None if path is None else _absolute(str(path))  # hub:DÉPÔT reste un nom
    flat["lora_rank"] = finetuning.lora_rank
    if finetuning.lora_rank is not None:
        flat["lora_alpha"] = finetuning.lora_alpha
        flat["lora_targets"] = list(finetuning.lora_targets)
        flat["lora_dropout"] = finetuning.lora_dropout
    return flat


def is_tokenizer_name(tokenizer: str) -> bool:
    """Vrai si ce tokenizer est connu par son nom ; sinon c'est un chemin."""
    return _TOKENIZER_NAME.fullmatch(tokenizer) is not None


def _absolute(source: str) -> str:
    """Le chemin absolu d'une source qui existe ; un nom reste un nom."""
    try:
        return str(Path(source).resolve()) if Path(source).exists() else source
    except OSError:  # nom trop long pour ce système
        return source
