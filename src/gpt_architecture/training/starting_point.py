"""Le modèle dont part un affinage : ses poids, sa forme, son tokenizer, son gabarit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from gpt_architecture.config import GPTConfig, LoRAConfig
from gpt_architecture.core.lora import add_lora_
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.formats.adapter_file import weights_sha256
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary


@dataclass(frozen=True, kw_only=True)
class StartingPoint:
    """Un modèle déjà entraîné, d'où repartir.

    Attributes:
        name: son fichier ou son dossier, pour les messages.
        content: ce qu'il contient.
    """

    name: str
    content: ModelFile

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


def initial_model(
    config: GPTConfig, start: StartingPoint | None, lora: LoRAConfig | None, *, seed: int
) -> GPTModel:
    """Le modèle à la première étape : tiré au hasard, ou lu, et muni ou non d'adaptateurs.

    Args:
        config: sa forme.
        start: d'où viennent ses poids ; None : du générateur global.
        lora: adaptateurs à poser ; None : tous les poids apprennent.
        seed: graine des adaptateurs.
    """
    model = GPTModel(config) if start is None else start.build(config)
    if lora is not None:
        add_lora_(model, lora, seed=seed)
    return model
