"""Décodage spéculatif : proposer plusieurs tokens, les vérifier en une seule passe avant.

Trois façons de proposer (`proposers`), une seule boucle : le proposeur continue les séquences, le
modèle lit toutes les propositions d'un coup, et chaque séquence choisit ensuite token après token,
comme sans cela ; elle s'arrête à la première proposition qu'elle n'a pas choisie. Ses tokens sont
donc ceux qu'elle aurait écrits seule, tirages compris (`simple.generate_text_speculative` le fait
en clair). Seul un modèle auxiliaire, dont les tirages ont leur loi q, suit une autre règle : une
proposition y est acceptée avec la probabilité min(1, p/q), p étant la distribution filtrée du
modèle à cette place ; rejetée, elle est remplacée par un token échantillonné dans (p − q)+. La
loi du texte reste celle du modèle (Leviathan et al., 2023).

Formes : k propositions, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.decoding.driver import Driver
from gpt_architecture.decoding.proposers import Draft, Proposer, drawn
from gpt_architecture.decoding.sequence import Continuation, Observer, Piece


@dataclass(frozen=True, kw_only=True)
class SpeculationStats:
    """Ce que les propositions ont rapporté.

    Attributes:
        proposed: tokens proposés ; ceux qui suivent la fin ne comptent pas.
        accepted: tokens proposés et gardés.
        passes: passes avant.
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
        """Tokens produits par passe avant ; 1 sans propositions."""
        return self.tokens / self.passes if self.passes else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Les comptes et les deux rapports."""
        rates = {"acceptance_rate": self.acceptance_rate, "tokens_per_pass": self.tokens_per_pass}
        return {**asdict(self), **rates}


class Speculation:
    """Ce qu'une séquence fait de propositions : combien en demander, lesquelles garder.

    Args:
        sequence: la séquence à écrire.
        proposer: d'où elles viennent ; None : il n'y en a pas.
    """

    def __init__(self, sequence: Continuation, proposer: Proposer | None) -> None:
        self.sequence, self.proposer = sequence, proposer
        self.proposed = self.accepted = self.passes = 0
        self._pace = None if proposer is None else proposer.pace()

    @property
    def left(self) -> int:
        """Tokens que la séquence peut encore écrire après le prochain."""
        return self.sequence.config.max_tokens - len(self.sequence.tokens) - 1

    @property
    def stats(self) -> SpeculationStats:
        """Le compte, jusqu'ici."""
        return SpeculationStats(
            proposed=self.proposed,
            accepted=self.accepted,
            passes=self.passes,
            tokens=len(self.sequence.tokens),
        )

    def count(self, room: int) -> int:
        """Combien de propositions demander, `room` au plus."""
        most = min(room, self.left)
        return 0 if self._pace is None or most <= 0 else self._pace.count(most)

    def accept(
        self, draft: Draft, logits: Tensor, observer: Observer | None = None
    ) -> Iterator[Piece]:
        """Choisit un token après chaque rang, tant que c'est le proposé ; un de plus à la fin.

        Args:
            draft: les k propositions.
            logits: (k + 1, V) du modèle, après le dernier token de la séquence et chacune d'elles.
            observer: reçoit les logits (V,) après chaque filtre.
        """
        size, kept = len(draft.tokens), 0
        self.passes += 1
        for place in range(size):
            token = self._chosen(draft, place, logits[place], observer)
            is_kept = token == draft.tokens[place]
            kept += is_kept
            self.proposed += 1
            self.accepted += is_kept
            yield self.sequence.accept(token, logits[place])
            if self.sequence.finish is not None:
                return
            if not is_kept:
                self.proposed += size - place - 1
                self._learn(size, kept)
                return
        self._learn(size, kept)
        yield self.sequence.step(logits[size], observer)

    def _learn(self, proposed: int, kept: int) -> None:
        if self._pace is not None and proposed:
            self._pace.learn(proposed, kept)

    def _chosen(
        self, draft: Draft, place: int, logits: Tensor, observer: Observer | None = None
    ) -> int:
        """Le token de cette place : la proposition, ou ce qui la remplace ; logits (V,)."""
        sequence, proposed = self.sequence, draft.tokens[place]
        if draft.probabilities is None:
            return sequence.choose(logits, observer)
        p = torch.softmax(sequence.filtered(logits, observer).float(), dim=-1)
        q = draft.probabilities[place]
        uniform = torch.rand((), generator=sequence.generator, device=p.device)
        if bool(uniform * q[proposed] < p[proposed]):
            return proposed
        left = (p - q).clamp(min=0)
        if not bool(left.sum() > 0):  # p et q ne diffèrent que par l'arrondi
            left = p
        return drawn(left, sequence.generator)


class SpeculativeDecoder:
    """Écrit une séquence en vérifiant des propositions ; se parcourt une fois, morceau par morceau.

    Sans proposition, et au-delà de la fenêtre, un pas coûte un passage, comme ailleurs.

    Args:
        model: rend des logits (B, T, V).
        sequence: la séquence à écrire.
        proposer: d'où viennent les propositions ; None : il n'y en a pas.
        window: derniers tokens relus, au plus.
        most: propositions par passage, au plus ; None : autant que le proposeur en veut.
        observer: reçoit les logits (V,) après chaque filtre.
    """

    def __init__(
        self,
        model: CausalLM,
        sequence: Continuation,
        proposer: Proposer | None = None,
        *,
        window: int,
        most: int | None = None,
        observer: Observer | None = None,
    ) -> None:
        capacity = len(sequence.prompt) + sequence.config.max_tokens
        self._driver = Driver(model, window=window, capacity=capacity, tokenwise=True)
        self._speculation = Speculation(sequence, proposer)
        self._most, self._observer = most, observer

    @property
    def stats(self) -> SpeculationStats:
        """Le compte, jusqu'ici."""
        return self._speculation.stats

    def __iter__(self) -> Iterator[Piece]:
        sequence = self._speculation.sequence
        while sequence.finish is None:
            draft = self._draft(sequence)
            rows = [[*sequence.ids, *draft.tokens]]
            logits = self._driver.read(rows, count=len(draft.tokens) + 1)[0]  # (k + 1, V)
            yield from self._speculation.accept(draft, logits, self._observer)

    def _draft(self, sequence: Continuation) -> Draft:
        """Les propositions, s'il reste de la place dans la fenêtre et des tokens à produire."""
        room = self._driver.window - len(sequence.ids)
        count = self._speculation.count(room if self._most is None else min(room, self._most))
        proposer = self._speculation.proposer
        if count <= 0 or proposer is None:
            return Draft()
        past = self._driver.past(sequence.ids)
        if past is None and self._driver.is_tokenwise:
            return Draft()  # lu avec des propositions, l'invite n'aurait pas les mêmes bits
        return proposer.propose([sequence], past, count)[0]
