"""Un modèle qui écrit : invites, textes, flux, conversations."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpt_architecture.api.options import checked_options
from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE, check_template, render_chat
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.data.tokenizers.marked_text import chosen_prompt, plain, written
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import cut_warning
from gpt_architecture.decoding.generator import Generation, Generator
from gpt_architecture.decoding.named_settings import config_of
from gpt_architecture.decoding.proposers import MAX_SELF_DRAFT
from gpt_architecture.decoding.sequence import Observer, Piece
from gpt_architecture.errors import ConfigurationError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, repr=False)
class Writer:
    """Un modèle qui écrit, avec son tokenizer ; `GPT`, qui en dit les attributs, montre aussi."""

    model: CausalLM
    tokenizer: Tokenizer
    device: torch.device
    metadata: Mapping[str, Any] = field(default_factory=dict)
    runner: CausalLM | None = None
    draft: CausalLM | None = None
    drafts: int = MAX_SELF_DRAFT
    name: str = ""
    quant: str | None = None

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

    @property
    def measured(self) -> CausalLM:
        """Ce qui se mesure et se regarde : `model`, ou ce que `quant` en a fait au chargement."""
        return self.model if self.quant is None or self.runner is None else self.runner

    @cached_property
    def generator(self) -> Generator:
        """Le générateur complet : lots, scores, flux (voir `decoding.generator`)."""
        self.config.check_writes()
        model = self.model if self.runner is None else self.runner
        return Generator(
            model, self.tokenizer, window=self.window, draft=self.draft, drafts=self.drafts
        )

    @checked_options
    def encode(self, prompt: str, *, parse_special: bool = False) -> Tensor:
        """Texte → (1, T) int64, sur le périphérique du modèle.

        Args:
            prompt: le texte.
            parse_special: les noms de tokens spéciaux qui s'y trouvent en sont ; sinon, seuls le
                sont ceux qu'un gabarit a écrits (`chat_prompt`).

        Raises:
            ConfigurationError: le texte ne donne aucun token.
        """
        prompt = written(prompt) if parse_special else prompt
        return torch.tensor([self.generator.encode(prompt)], device=self.device)

    @checked_options
    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Le texte d'une conversation, prêt pour la réponse du modèle.

        Ses tokens spéciaux sont ceux du gabarit ; ce qu'un message contient reste du texte. Il se
        donne tel quel à `generate` : un texte qu'on en tire (`+`, `format`) ne les a plus.

        Args:
            messages: chacun a un `role` (system, user, assistant) et un `content`.

        Raises:
            ConfigurationError: le modèle n'a pas de gabarit de conversation.
            DataError: message mal formé, ou que le gabarit refuse.
        """
        template = self.metadata.get(CHAT_TEMPLATE)
        if template is None:
            raise ConfigurationError(
                "ce modèle n'a pas de gabarit de conversation",
                expected="un modèle affiné par « gpt-architecture train --chat »",
                remedy="affinez-le ainsi, ou faites-lui continuer un texte",
            )
        return render_chat(
            messages,
            check_template(template),
            tokenizer=self.tokenizer,
            add_generation_prompt=True,
        )

    @checked_options
    def generate(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        parse_special: bool = False,
        **settings: Any,
    ) -> str:
        """Continue `prompt` et rend le tout.

        La génération s'arrête au token de fin de texte, qui n'est pas rendu.

        Args:
            prompt: invite.
            config: comment générer ; None : la configuration par défaut.
            parse_special: voir `encode`.
            settings: réglages de `GenerationConfig`, à la place de `config` ; `top_k` et `top_p`
                valent `k` et `p`. Sans `strategy`, un filtre ou une température demande
                d'échantillonner.

        Raises:
            ConfigurationError: réglage inconnu ou hors bornes, donné avec `config`, ou invite vide.
        """
        pieces = self.stream(prompt, config, parse_special=parse_special, **settings)
        return plain(prompt) + "".join(pieces)

    @checked_options
    def generate_batch(
        self,
        prompts: Sequence[str],
        config: GenerationConfig | Sequence[GenerationConfig] | None = None,
        *,
        parse_special: bool = False,
        **settings: Any,
    ) -> list[list[Generation]]:
        """Les textes de plusieurs invites, qui avancent ensemble (voir `Generator.generate`).

        Raises:
            ConfigurationError: une invite seule, ou un réglage que `generate` refuserait.
        """
        if isinstance(prompts, str):
            raise ConfigurationError.wrong("prompts", prompts, expected="une suite d'invites")
        prompts = [written(each) for each in prompts] if parse_special else prompts
        return self.generator.generate(prompts, config_or(config, settings))

    @checked_options
    def stream(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        parse_special: bool = False,
        **settings: Any,
    ) -> Iterator[str]:
        """Rend le texte généré après `prompt` morceau par morceau, sans l'invite ; voir `generate`.

        Un avertissement dit si `max_tokens` la coupe avant qu'elle vérifie sa contrainte.
        """
        config = config_or(config, settings)
        for piece in self.pieces(prompt, config, parse_special=parse_special):
            if piece.text:
                yield piece.text
            if warning := cut_warning(config, piece.finish):
                logger.warning("%s", warning)

    @checked_options
    def pieces(
        self,
        prompt: str,
        config: GenerationConfig | None = None,
        *,
        observer: Observer | None = None,
        parse_special: bool = False,
        **settings: Any,
    ) -> Iterator[Piece]:
        """Le texte généré token par token, scores et fin compris ; voir `generate`.

        Args:
            observer: reçoit ce que chaque étape a calculé (voir `Generator.stream`).
        """
        start = written(prompt) if parse_special else prompt
        return self.generator.stream(start, config_or(config, settings), observer=observer)

    @checked_options
    def opening(self, prompt: str | None) -> str:
        """L'invite demandée, sinon celle des exemples de l'entraînement.

        Raises:
            ConfigurationError: ni l'une ni l'autre.
        """
        return chosen_prompt(prompt, self.metadata)


_Given = TypeVar("_Given", bound="GenerationConfig | Sequence[GenerationConfig]")


def config_or(config: _Given | None, settings: Mapping[str, Any]) -> _Given | GenerationConfig:
    """La configuration donnée, sinon celle des réglages nommés."""
    if config is None:
        return config_of(settings)
    if settings:
        raise ConfigurationError(
            f"config et {', '.join(settings)} sont donnés ensemble",
            expected="l'un ou l'autre",
            remedy="mettez tous les réglages dans config",
        )
    return config
