"""Le modèle d'où part un affinage : sa forme, son vocabulaire, son gabarit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gpt_architecture.config import (
    GPTConfig,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import ConfigurationError, TrainingError
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.formats.door import read_any
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.training.checkpoint import Checkpoint

_WINDOW = 256


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
        apart = {*self.content.config.variants(), "vocab_size", "head"}  # que le modèle garde
        shape = {k: v for k, v in self.content.config.to_dict().items() if k not in apart}
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

    def check_task(self, data: TrainingData) -> None:
        """Refuse d'apprendre à écrire à un modèle qui n'a plus de quoi.

        Raises:
            ConfigurationError: il classe ou note des textes, et les données n'en étiquettent pas.
        """
        if self.content.config.head is not None and data.labelled is None:
            raise ConfigurationError(
                f"{self.name} classe ou note des textes : sa tête ne rend pas de token",
                expected="des textes étiquetés, ou un modèle qui écrit",
                remedy="donnez `classify`, ou un autre `start`",
            )

    def build(self, config: GPTConfig, *, seed: int = 0) -> GPTModel:
        """Le modèle à affiner, en fp32, dans une mémoire à lui.

        Args:
            config: sa forme ; seuls le dropout et la tête peuvent différer.
            seed: graine d'une tête de classe ou de valeur qu'il n'a pas.
        """
        content = self.content
        if config.head is not None and config.head != content.config.head:
            content = content.headed(config.head, seed=seed)
        model = replace(content, config=config).build()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.float32, copy=True)
        return model


def check_same_start(checkpoint: Checkpoint, start: StartingPoint | None, *, adapts: bool) -> None:
    """Refuse de poser des adaptateurs sur un autre modèle que celui qu'ils ont appris à corriger.

    Des poids entiers, eux, se suffisent.

    Raises:
        TrainingError: le modèle de départ n'est plus celui du point de reprise.
    """
    identity = checkpoint.state.get("identity", {})
    saved = identity.get("start") or {}
    if not adapts or start is None or not identity.get("lora"):
        return
    if saved.get("sha256") != start.sha256:
        raise TrainingError(
            f"le modèle de départ {start.name} n'est plus celui de {checkpoint.path}",
            expected="les poids dont les adaptateurs sont partis",
            remedy="rendez-le, ou recommencez avec `force`",
        )
