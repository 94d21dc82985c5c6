"""Décodage spéculatif : proposer plusieurs tokens, les vérifier en un seul passage du modèle.

La suite est exactement celle qu'écrirait le modèle seul : les mêmes tokens pour un choix
glouton, la même distribution pour un tirage (Leviathan et al., 2023). Une proposition tirée de
q est acceptée avec la probabilité min(1, p/q), p étant la distribution filtrée du modèle à
cette place ; rejetée, elle est remplacée par un tirage dans (p − q)+.

Formes : k propositions, V vocabulaire.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Protocol

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.decoding.reader import Reader
from gpt_architecture.decoding.sampling import check_logits
from gpt_architecture.decoding.sequence import Continuation, Piece
from gpt_architecture.decoding.strategies import greedy

_HERE_ONLY = "contrainte"
"""L'étape qui ne sait parler que du prochain token, pas de ceux qui suivront."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Des tokens proposés, et la distribution d'où chacun est tiré.

    Attributes:
        tokens: les k propositions, parfois aucune.
        probabilities: (k, V), q ; None : chaque proposition était certaine.
    """

    tokens: tuple[int, ...] = ()
    probabilities: Tensor | None = None


class Proposer(Protocol):
    """Ce qui propose la suite d'un texte ; il peut se tromper sans rien fausser."""

    count: int
    """Tokens proposés à la fois, au plus."""

    def propose(self, sequence: Continuation, count: int) -> Draft:
        """Au plus `count` tokens pour continuer la suite."""
        ...


@dataclass(frozen=True, kw_only=True)
class SpeculationStats:
    """Ce que les propositions ont rapporté.

    Attributes:
        proposed: tokens proposés ; ceux qui suivent la fin ne comptent pas.
        accepted: tokens proposés et gardés.
        passes: passages du modèle.
        tokens: tokens produits.
    """

    proposed: int
    accepted: int
    passes: int
    tokens: int

    @property
    def acceptance_rate(self) -> float:
        """Part des propositions gardées ; 0 s'il n'y en a pas."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens produits par passage du modèle ; 1 sans propositions."""
        return self.tokens / self.passes if self.passes else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Les comptes et les deux rapports."""
        rates = {"acceptance_rate": self.acceptance_rate, "tokens_per_pass": self.tokens_per_pass}
        return {**asdict(self), **rates}


class PromptLookup:
    """Propose ce qui suivait les derniers tokens à leur précédente apparition.

    Ne coûte rien et ne propose rien quand le texte ne se répète pas (Saxena, 2023).

    Args:
        count: tokens proposés à la fois, au plus.
        ngram: longueur de la suite cherchée.
    """

    def __init__(self, count: int, *, ngram: int = 3) -> None:
        check_int("lookup", count, minimum=1)
        check_int("lookup_ngram", ngram, minimum=1)
        self.count, self._ngram = count, ngram

    def propose(self, sequence: Continuation, count: int) -> Draft:
        """Recopie la suite de la dernière apparition, en boucle si elle est trop courte."""
        ids = [*sequence.prompt, *sequence.tokens]
        start = self._after_previous(ids)
        return Draft() if start is None else Draft(tokens=tuple(islice(cycle(ids[start:]), count)))

    def _after_previous(self, ids: list[int]) -> int | None:
        """Rang du token qui suit la précédente apparition des derniers tokens."""
        text = array("q", ids)
        width = text.itemsize
        data = text.tobytes()  # chercher dans des octets va cent fois plus vite que dans une liste
        sought = data[-width * self._ngram :]
        end = len(data) - 1  # exclut la suite cherchée elle-même, à la fin
        while (place := data.rfind(sought, 0, end)) >= 0:
            if place % width == 0:
                return place // width + self._ngram
            end = place + len(sought) - 1
        return None


class DraftModel:
    """Propose ce qu'écrirait un modèle plus petit, avec les mêmes filtres.

    Args:
        model: de même vocabulaire que le grand.
        count: tokens proposés à la fois, au plus.
        window: derniers tokens relus, au plus ; None : tout le contexte du petit modèle.
    """

    def __init__(self, model: CausalLM, count: int, *, window: int | None = None) -> None:
        check_int("draft_tokens", count, minimum=1)
        limit = model.cfg.context_length
        self.count = count
        self._window = limit if window is None else min(window, limit)
        self._reader = Reader(model, window=self._window, capacity=self._window)
        self._start = 0  # premier token que le petit modèle lit

    def propose(self, sequence: Continuation, count: int) -> Draft:
        """Tire (ou choisit) des tokens un à un, jusqu'à la fin de texte au plus."""
        ids = [*sequence.prompt, *sequence.tokens]
        tokens, rows = list[int](), list[Tensor]()
        for _ in range(min(count, self._make_room(len(ids), count))):
            logits = self._filtered(sequence, ids, tokens)  # (1, V)
            if sequence.config.is_sampling:
                rows.append(torch.softmax(logits.float(), dim=-1))
                tokens.append(_drawn(rows[-1], sequence.generator))
            else:
                tokens.append(int(greedy(logits)))
            if tokens[-1] in sequence.eos_ids:
                break
        return Draft(tokens=tuple(tokens), probabilities=torch.cat(rows) if rows else None)

    def _make_room(self, length: int, count: int) -> int:
        """Place dans la fenêtre ; pleine, elle avance de moitié, pour tout relire rarement."""
        if self._start >= length:
            self._start = 0  # une autre suite
        if length - self._start + count > self._window:
            self._start = max(self._start, length - max(1, self._window // 2))
        return self._window - (length - self._start)

    def _filtered(self, sequence: Continuation, ids: list[int], drafted: list[int]) -> Tensor:
        """Logits (1, V) du petit modèle après les propositions, passés par les filtres."""
        text = [*ids, *drafted]
        logits = self._reader.read([text[self._start :]])[0].clone()  # (1, V)
        logits[:, sequence.tokenizer.vocab_size :] = -torch.inf  # sans texte : jamais acceptés
        check_logits(logits)
        history = torch.tensor([text], dtype=torch.int64, device=logits.device)
        for stage in sequence.stages:
            if not (drafted and stage.name == _HERE_ONLY):
                logits = stage.process(history, logits)
        return logits


class SpeculativeDecoder:
    """Écrit une suite en vérifiant des propositions ; se parcourt une fois, morceau par morceau.

    Sans proposition, et au-delà de la fenêtre, un pas coûte un passage, comme ailleurs. Le
    nombre de tokens proposés double quand tous sont gardés, et revient sinon à ce qui l'a été.

    Args:
        model: rend des logits (B, T, V).
        sequence: la suite à écrire.
        proposer: d'où viennent les propositions.
        window: derniers tokens relus, au plus.
    """

    def __init__(
        self, model: CausalLM, sequence: Continuation, proposer: Proposer, *, window: int
    ) -> None:
        capacity = len(sequence.prompt) + sequence.config.max_tokens
        self._reader = Reader(model, window=window, capacity=capacity)
        self._window, self._sequence, self._proposer = window, sequence, proposer
        self._count = proposer.count
        self._proposed = self._accepted = self._passes = 0

    @property
    def stats(self) -> SpeculationStats:
        """Le compte, jusqu'ici."""
        return SpeculationStats(
            proposed=self._proposed,
            accepted=self._accepted,
            passes=self._passes,
            tokens=len(self._sequence.tokens),
        )

    def __iter__(self) -> Iterator[Piece]:
        while self._sequence.finish is None:
            yield from self._pass()

    def _pass(self) -> Iterator[Piece]:
        """Un passage du modèle : les propositions gardées, puis un token du modèle."""
        sequence = self._sequence
        ids = [*sequence.prompt, *sequence.tokens]
        draft = self._draft(len(ids))
        size = len(draft.tokens)
        logits = self._reader.read([[*ids, *draft.tokens]], count=size + 1)[0]  # (k + 1, V)
        self._passes += 1
        for place in range(size):
            token = self._verify(sequence.filtered(logits[place]), draft, place)
            kept = token == draft.tokens[place]
            self._proposed += 1
            self._accepted += kept
            yield sequence.accept(token, logits[place])
            if sequence.finish is not None:
                return
            if not kept:
                self._proposed += size - place - 1
                self._count = max(1, place)
                return
        if size:
            self._count = min(2 * self._count, self._proposer.count)
        yield sequence.step(logits[size])

    def _draft(self, length: int) -> Draft:
        """Les propositions, s'il reste de la place dans la fenêtre et des tokens à produire."""
        left = self._sequence.config.max_tokens - len(self._sequence.tokens)
        count = min(self._count, self._window - length, left - 1)
        return self._proposer.propose(self._sequence, count) if count > 0 else Draft()

    def _verify(self, logits: Tensor, draft: Draft, place: int) -> int:
        """Le token de cette place : la proposition, ou ce qui la remplace.

        Args:
            logits: (V,) du modèle, filtrés.
        """
        sequence, proposed = self._sequence, draft.tokens[place]
        if not sequence.config.is_sampling:
            return int(greedy(logits))
        p = torch.softmax(logits.float(), dim=-1)
        if draft.probabilities is None:
            q = torch.zeros_like(p)
            q[proposed] = 1
        else:
            q = draft.probabilities[place]
        uniform = torch.rand((), generator=sequence.generator, device=p.device)
        if bool(uniform * q[proposed] < p[proposed]):
            return proposed
        left = (p - q).clamp(min=0)
        if not bool(left.sum() > 0):  # p et q ne diffèrent que par l'arrondi
            left = p
        return _drawn(left, sequence.generator)


def _drawn(weights: Tensor, generator: torch.Generator) -> int:
    """Un token au sort, d'après des poids (…, V)."""
    return int(torch.multinomial(weights, num_samples=1, generator=generator))
