"""Le générateur : des invites et une configuration, des séquences en retour.

Il choisit le chemin : lot à cache, décodage spéculatif, recherche en faisceau. Le modèle est
n'importe lequel qui offre `core.model.CausalLM`, compacté ou quantifié compris.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.decoding.beam import beam_search
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.constraints import budget_warning, build_constraint
from gpt_architecture.decoding.driver import BatchDecoder, Driver
from gpt_architecture.decoding.proposers import (
    MAX_SELF_DRAFT,
    DraftModel,
    PromptLookup,
    Proposer,
    self_draft,
)
from gpt_architecture.decoding.sequence import (
    Continuation,
    FinishReason,
    Observer,
    Piece,
    TokenScore,
    scores_of,
)
from gpt_architecture.decoding.simple import (
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
)
from gpt_architecture.decoding.speculative import SpeculationStats, SpeculativeDecoder
from gpt_architecture.decoding.strategies import check_logits
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import counted

logger = logging.getLogger(__name__)

__all__ = [
    "MAX_BATCH",
    "Generation",
    "Generator",
    "generate_text_simple",
    "generate_text_temperature",
    "generate_text_top_k",
    "generate_text_top_p",
]

MAX_BATCH = 32
"""Séquences qui avancent ensemble, au plus."""

_SCORED_CHUNK = 128

_DRAFT_TOKENS = 4
"""Tokens qu'un modèle auxiliaire propose à la fois."""

_COPY_AFTER = 128
"""Tokens dont les propositions épargnent ce que coûte la copie qu'elles emploient : un texte plus
court ne l'attend pas, jusqu'à ce que d'autres l'aient payée."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Une séquence achevée.

    Attributes:
        text: le texte généré, sans l'invite ni le texte d'arrêt.
        tokens: ses identifiants, fin de texte comprise.
        prompt_tokens: longueur de l'invite, en tokens.
        finish: pourquoi elle s'arrête.
        seed: graine de son échantillonnage.
        scores: probabilités de ses tokens, si elles sont demandées.
        score: note d'une hypothèse de la recherche en faisceau ; None ailleurs.
        speculation: propositions faites et acceptées, si `lookup` ou un modèle auxiliaire en font.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finish: FinishReason
    seed: int
    scores: tuple[TokenScore, ...] = ()
    score: float | None = None
    speculation: SpeculationStats | None = None


class Generator:
    """Écrit des séquences avec un modèle.

    Args:
        model: rend des logits (B, T, V).
        tokenizer: le sien.
        window: derniers tokens relus, au plus ; None : tout le contexte du modèle.
        draft: modèle auxiliaire de même vocabulaire, qui propose ce que le modèle vérifie.
        drafts: tokens que le modèle propose lui-même à une séquence seule, au plus, s'il sait le
            faire (`proposers.SelfDraft`) ; 0 : aucun. Le texte est le même, au bit près.
        max_batch: séquences qui avancent ensemble, au plus.

    Raises:
        ConfigurationError: le modèle auxiliaire a un autre vocabulaire.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        *,
        window: int | None = None,
        draft: CausalLM | None = None,
        drafts: int = MAX_SELF_DRAFT,
        max_batch: int = MAX_BATCH,
    ) -> None:
        check_int("drafts", drafts, minimum=0, maximum=MAX_SELF_DRAFT)
        check_int("max_batch", max_batch, minimum=1)
        if draft is not None and draft.cfg.vocab_size != model.cfg.vocab_size:
            raise ConfigurationError(
                f"le modèle auxiliaire a {draft.cfg.vocab_size} tokens, "
                f"le modèle {model.cfg.vocab_size}",
                expected="le même vocabulaire",
                remedy="donnez un modèle auxiliaire entraîné avec le même tokenizer",
            )
        limit = model.cfg.context_length
        self.model, self.tokenizer = model, tokenizer
        self.window = limit if window is None else min(window, limit)
        self._draft, self._drafts = draft, drafts
        self._self_draft = self_draft(model, wait=_COPY_AFTER) if drafts else None
        self._max_batch = max_batch

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Texte ou identifiants → identifiants.

        Un token spécial tapé dans un texte y reste du texte ; voir `data.tokenizers.marked_text`.

        Raises:
            ConfigurationError: l'invite est vide, ou un identifiant hors du vocabulaire.
        """
        ids = encode_text(prompt, self.tokenizer) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise ConfigurationError(
                f"invite vide ({prompt!r})",
                expected="au moins un mot",
                remedy="complétez `prompt`",
            )
        limit = self.model.cfg.vocab_size
        if min(ids) < 0 or max(ids) >= limit:
            raise ConfigurationError(
                f"identifiants de {min(ids)} à {max(ids)} dans l'invite",
                expected=f"des identifiants de 0 à {limit - 1}",
                remedy="codez le texte avec le tokenizer du modèle",
            )
        return ids

    def check(self, config: GenerationConfig) -> None:
        """Refuse tout de suite une configuration que ce modèle ne peut pas suivre.

        Raises:
            ConfigurationError: contrainte mal écrite, identifiant hors du vocabulaire, texte que
                le tokenizer ne code pas.
        """
        if config.strategy != "beam":
            self._continuations([0], replace(config, n=1))

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        config: GenerationConfig | Sequence[GenerationConfig],
    ) -> list[list[Generation]]:
        """Les `config.n` séquences de chaque invite, dans l'ordre des invites.

        Args:
            prompts: textes ou identifiants.
            config: la même pour tous, ou une par invite.

        Raises:
            ConfigurationError: invite vide, ou pas autant de configurations que d'invites.
            NonFiniteError: logits NaN ou infinis.
        """
        configs = [config] * len(prompts) if isinstance(config, GenerationConfig) else list(config)
        if len(configs) != len(prompts):
            raise ConfigurationError(
                f"{counted(len(configs), 'configuration')} pour {counted(len(prompts), 'invite')}",
                expected="une par invite, ou une seule",
                remedy="donnez-en autant",
            )
        encoded = [self.encode(prompt) for prompt in prompts]
        with blaming_weights(self.model), blaming_weights(self._draft):
            return self._generate(encoded, configs)

    def _generate(
        self, encoded: Sequence[Sequence[int]], configs: Sequence[GenerationConfig]
    ) -> list[list[Generation]]:
        found = [list[Generation]() for _ in encoded]
        together = list[tuple[int, Continuation]]()
        for index, (ids, each) in enumerate(zip(encoded, configs, strict=True)):
            if each.strategy == "beam":
                found[index] = self._beam(ids, each)
                continue
            sequences = self._continuations(ids, each)
            if self._speculates(each):
                found[index] = [self._alone(sequence) for sequence in sequences]
            else:
                together += [(index, sequence) for sequence in sequences]
        for (index, _), generation in zip(
            together, self._together([sequence for _, sequence in together]), strict=True
        ):
            found[index].append(generation)
        return found

    def stream(
        self,
        prompt: str | Sequence[int],
        config: GenerationConfig,
        *,
        observer: Observer | None = None,
    ) -> Iterator[Piece]:
        """La séquence d'une invite, token par token.

        Args:
            prompt: texte ou identifiants.
            config: `n` doit valoir 1 ; la recherche en faisceau ne rend rien avant la fin.
            observer: reçoit les logits (V,) après chaque filtre.

        Raises:
            ConfigurationError: invite vide, ou plusieurs séquences demandées.
            NonFiniteError: logits NaN ou infinis.
        """
        if config.n != 1:
            raise ConfigurationError.wrong(
                "n", config.n, expected="n = 1 pour un flux", remedy="utilisez generate"
            )
        ids = self.encode(prompt)
        with blaming_weights(self.model), blaming_weights(self._draft):
            if config.strategy == "beam":
                (best,) = self._beam(ids, config)
                yield Piece(text=best.text, finish=best.finish)
                return
            (sequence,) = self._continuations(ids, config)
            yield from self._single(sequence, observer)

    def score(self, prompt: str | Sequence[int], *, top: int = 0) -> list[TokenScore]:
        """Probabilité de chaque token d'un texte sachant les précédents, sauf du premier.

        Au-delà de la fenêtre, elle avance d'une demi-longueur : chaque token garde au moins
        une demi-fenêtre de contexte, et n'est compté qu'une fois.

        Args:
            prompt: texte ou identifiants.
            top: autres tokens à rendre à chaque place.

        Raises:
            ConfigurationError: texte vide.
            NonFiniteError: logits NaN ou infinis.
        """
        ids = self.encode(prompt)
        scores = list[TokenScore]()
        start = done = 0
        while done < len(ids) - 1:
            end = min(start + self.window, len(ids) - 1)
            scores += self._score_window(ids, start, done, end, top)
            done, start = end, max(start + 1, end - self.window // 2)
        return scores

    def _score_window(
        self, ids: Sequence[int], start: int, done: int, end: int, top: int
    ) -> list[TokenScore]:
        """Tokens done + 1 … end, lus depuis start."""
        scores = list[TokenScore]()
        driver = Driver(self.model, window=self.window, capacity=end - start)
        for first in range(start, end, _SCORED_CHUNK):
            last = min(first + _SCORED_CHUNK, end)
            with blaming_weights(self.model):
                logits = driver.read([ids[start:last]], count=last - first)[0]  # (T, V)
                check_logits(logits)
            new = max(first, done)
            scores += scores_of(logits[new - first :], ids[new + 1 : last + 1], top)
        return scores

    def _continuations(self, ids: Sequence[int], config: GenerationConfig) -> list[Continuation]:
        """Les n séquences d'une invite ; la graine de chacune suit celle de la première."""
        device = self.model.device
        base = Continuation.seed_of(config)
        if warning := budget_warning(config, self.tokenizer):
            logger.warning("%s", warning)
        return [
            Continuation(
                ids,
                config,
                self.tokenizer,
                vocab_size=self.model.cfg.vocab_size,
                device=device,
                seed=(base + number) % 2**63,
                constraint=build_constraint(
                    config, self.tokenizer, vocab_size=self.model.cfg.vocab_size, device=device
                ),
            )
            for number in range(config.n)
        ]

    def _speculates(self, config: GenerationConfig) -> bool:
        """Vrai si des propositions sont demandées : chaque séquence avance alors seule."""
        return config.lookup > 0 or (self._draft is not None and config.strategy != "mirostat")

    def _together(self, sequences: Sequence[Continuation]) -> list[Generation]:
        """Fait avancer toutes les séquences, `max_batch` à la fois."""
        if len(sequences) == 1:
            return [_generation(sequences[0], list(self._single(sequences[0])))]
        decoder = BatchDecoder(self.model, window=self.window)
        waiting, pieces = deque(sequences), {each: list[Piece]() for each in sequences}
        while waiting or decoder.active:
            room = self._max_batch - len(decoder.active)
            if waiting and room > 0:
                decoder.add([waiting.popleft() for _ in range(min(room, len(waiting)))])
            for sequence, piece in decoder.step():
                pieces[sequence].append(piece)
        return [_generation(each, pieces[each]) for each in sequences]

    def _alone(self, sequence: Continuation) -> Generation:
        decoder = self._single(sequence)
        return replace(_generation(sequence, list(decoder)), speculation=decoder.stats)

    def _single(
        self, sequence: Continuation, observer: Observer | None = None
    ) -> SpeculativeDecoder:
        """De quoi écrire une séquence seule."""
        proposer, most = self._proposer(sequence.config)
        return SpeculativeDecoder(
            self.model, sequence, proposer, window=self.window, most=most, observer=observer
        )

    def _proposer(self, config: GenerationConfig) -> tuple[Proposer | None, int]:
        """Ce qui propose à une séquence, et combien au plus."""
        if config.lookup:
            return PromptLookup(config.lookup, ngram=config.lookup_ngram), config.lookup
        if self._draft is not None and config.strategy != "mirostat":
            return DraftModel(self._draft, _DRAFT_TOKENS, window=self.window), _DRAFT_TOKENS
        return self._self_draft, self._drafts

    def _beam(self, ids: Sequence[int], config: GenerationConfig) -> list[Generation]:
        hypotheses = beam_search(
            self.model, ids, config, tokenizer=self.tokenizer, window=self.window
        )
        seed = Continuation.seed_of(config)
        return [Generation(**vars(each), prompt_tokens=len(ids), seed=seed) for each in hypotheses]


def _generation(sequence: Continuation, pieces: Sequence[Piece]) -> Generation:
    return Generation(
        text="".join(piece.text for piece in pieces),
        tokens=tuple(sequence.tokens),
        prompt_tokens=len(sequence.prompt),
        finish=sequence.finish or "length",
        seed=sequence.seed,
        scores=tuple(piece.score for piece in pieces if piece.score is not None),
    )
