"""La bibliothèque en trois lignes : charger un modèle, générer.

from gpt_architecture import load
gpt = load("gpt-model.pt")
print(gpt.generate("Every effort", strategy="top_p", p=0.9, max_tokens=50, seed=1))
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig, StrategyName
from gpt_architecture.core.device import describe_device, resolve_device
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import text_to_token_ids
from gpt_architecture.core.weights import read_model
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.decoding.simple import stream_tokens
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.streaming import TextStream
from gpt_architecture.errors import ConfigurationError, ModelFileError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GPT:
    """Un modèle prêt à écrire, avec son tokenizer ; `load` le construit.

    Attributes:
        model: le réseau, en évaluation.
        tokenizer: celui de l'entraînement.
        device: où le modèle calcule.
        metadata: provenance et résultats de l'entraînement.
    """

    model: GPTModel
    tokenizer: Tokenizer
    device: torch.device
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> GPTConfig:
        """Forme du modèle."""
        return self.model.cfg

    @property
    def window(self) -> int:
        """Longueur de contexte apprise, en tokens : celle des fenêtres de l'entraînement.

        Les positions au-delà existent peut-être mais n'ont rien appris ; la génération ne
        s'en sert pas.
        """
        learned = self.metadata.get("window")
        limit = self.config.context_length
        return min(learned, limit) if isinstance(learned, int) and learned > 0 else limit

    def encode(self, prompt: str) -> Tensor:
        """Texte → (1, T) int64, sur le périphérique du modèle.

        Raises:
            ConfigurationError: le texte ne donne aucun token.
        """
        ids = text_to_token_ids(prompt, self.tokenizer)
        if ids.size(1) == 0:
            raise ConfigurationError(
                f"début de texte vide ({prompt!r})",
                expected="au moins un mot",
                remedy="donnez un début avec --prompt",
            )
        return ids.to(self.device)

    def generate(
        self,
        prompt: str,
        *,
        strategy: StrategyName = GenerationConfig.strategy,
        max_tokens: int = GenerationConfig.max_tokens,
        temperature: float = GenerationConfig.temperature,
        k: int = GenerationConfig.k,
        p: float = GenerationConfig.p,
        seed: int | None = GenerationConfig.seed,
    ) -> str:
        """Écrit la suite de `prompt` et rend le tout. Paramètres : voir `GenerationConfig`.

        La génération s'arrête au token de fin de texte, qui n'est pas rendu.

        Raises:
            ConfigurationError: paramètre hors bornes ou début vide.
        """
        config = GenerationConfig(
            strategy=strategy, max_tokens=max_tokens, temperature=temperature, k=k, p=p, seed=seed
        )
        return prompt + "".join(self.stream(prompt, config))

    def stream(self, prompt: str, config: GenerationConfig) -> Iterator[str]:
        """Rend la suite de `prompt` morceau par morceau, sans le début.

        Raises:
            ConfigurationError: début vide.
        """
        ids = self.encode(prompt)
        choose = config.next_token(self.device)
        text = TextStream(self.tokenizer.decode, ids[0].tolist())
        eos_id = self.tokenizer.eos_id
        stream = stream_tokens(
            self.model,
            ids,
            config.max_tokens,
            choose,
            context_size=self.window,
            eos_id=eos_id,
        )
        for token, _ in stream:
            if token.item() == eos_id:
                break
            if piece := text.push(int(token)):
                yield piece
        if piece := text.finish():
            yield piece


def load(path: Path | str = "gpt-model.pt", *, device: str = "auto") -> GPT:
    """Charge un modèle entraîné par ce projet.

    Args:
        path: fichier écrit par l'entraînement.
        device: voir `core.device.resolve_device`.

    Raises:
        ModelFileError: fichier absent, illisible, dangereux ou d'un format inconnu.
        ConfigurationError: périphérique absent.
    """
    target = resolve_device(device)
    content = read_model(path)
    tokenizer = tokenizer_from_dict(content.tokenizer)
    if tokenizer.vocab_size > content.config.vocab_size:
        raise ModelFileError(
            f"{path} : tokenizer de {tokenizer.vocab_size} tokens, "
            f"modèle de {content.config.vocab_size}",
            expected="un tokenizer qui tient dans le vocabulaire du modèle",
            remedy="reprenez le fichier d'origine",
        )
    model = content.build(target)
    logger.info("%s chargé sur %s", path, describe_device(target))
    return GPT(
        model=model,
        tokenizer=tokenizer,
        device=target,
        metadata=content.metadata,
    )
