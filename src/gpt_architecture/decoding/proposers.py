"""Ce qui propose des tokens : le texte lui-même, le modèle allégé, un modèle auxiliaire.

Un proposeur peut se tromper sans rien fausser : `decoding.speculative` vérifie tout ce qu'il dit.

Formes : B séquences, k propositions, V vocabulaire.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import CausalLM
from gpt_architecture.decoding.driver import Driver
from gpt_architecture.decoding.sequence import Continuation
from gpt_architecture.decoding.strategies import check_logits, greedy

MAX_SELF_DRAFT = 5
"""Tokens que le modèle propose lui-même à une séquence, au plus : les suivants sont trop rares."""

_HERE_ONLY = "contrainte"
"""L'étape qui ne sait parler que du prochain token, pas de ceux qui suivront."""

_DRAFT_COST, _CHECK_COST = 0.3, 0.05
"""Durée d'une proposition du modèle, et d'un token de plus à vérifier, en passages."""

_KEPT, _TRIED = 4.5, 5.0  # ce qu'on suppose gardé d'une séquence dont on ne sait rien
_MEMORY = 0.9  # poids de ce qui a été vu jusqu'au pas d'avant
_FIRST_WORDS = 8  # tokens qu'un texte écrit sans attendre de copie
_REST = 16  # pas sans rien proposer avant d'essayer encore


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Des tokens proposés, et la distribution d'où chacun est échantillonné.

    Attributes:
        tokens: les k propositions, parfois aucune.
        probabilities: (k, V), q ; None : rien n'a été échantillonné d'une loi propre au proposeur.
    """

    tokens: tuple[int, ...] = ()
    probabilities: Tensor | None = None


class Pace(Protocol):
    """Combien proposer à une séquence, d'après ce qu'elle a gardé jusque-là."""

    def count(self, most: int) -> int:
        """Combien cette fois, `most` au plus."""
        ...

    def learn(self, proposed: int, kept: int) -> None:
        """Note le sort de propositions."""
        ...


class Proposer(Protocol):
    """Ce qui propose de quoi continuer des textes ; il peut se tromper sans rien fausser."""

    def pace(self) -> Pace:
        """L'allure d'une séquence qui commence."""
        ...

    def propose(
        self, sequences: Sequence[Continuation], cache: KVCache | None, count: int
    ) -> list[Draft]:
        """Au plus `count` tokens pour continuer chaque séquence.

        Args:
            sequences: les séquences.
            cache: celui du modèle, où chacune a tout lu sauf son dernier token ; ses longueurs
                sont les mêmes au retour. None : rien n'est encore lu.
            count: au moins 1.
        """
        ...


class DoublingPace:
    """Pour des propositions presque gratuites : le double quand tout est gardé.

    Args:
        limit: propositions au plus, et pour commencer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._count = limit

    def count(self, most: int) -> int:
        """Voir `Pace`."""
        return min(self._count, most)

    def learn(self, proposed: int, kept: int) -> None:
        """Tout gardé : le double ; sinon, autant qu'il en a été gardé."""
        self._count = min(2 * self._count, self._limit) if kept == proposed else max(1, kept)


class CostPace:
    """Pour des propositions qui coûtent : le nombre qui promet le plus de tokens par seconde.

    D'un texte échantillonné à haute température, rien ne se devine, et proposer la ralentirait.
    """

    def __init__(self) -> None:
        self._kept, self._tried, self._rested = _KEPT, _TRIED, 0

    def count(self, most: int) -> int:
        """Voir `Pace` ; parfois un, pour voir si cela vaut de nouveau la peine."""
        share = self._kept / self._tried
        best = max(range(most + 1), key=lambda count: expected_speed(share, count))
        if best or not most:
            return best
        self._rested += 1
        return int(self._rested % _REST == 0)

    def learn(self, proposed: int, kept: int) -> None:
        """Voir `Pace` ; ce qui suit la première refusée n'a pas été jugé."""
        self._kept = _MEMORY * self._kept + kept
        self._tried = _MEMORY * self._tried + min(kept + 1, proposed)


def expected_speed(share: float, count: int) -> float:
    """Tokens attendus par unité de temps, si `share` des propositions jugées sont gardées."""
    tokens = sum(share**i for i in range(count + 1))
    return tokens / (1 + count * (_DRAFT_COST + _CHECK_COST))


class PromptLookup:
    """Propose ce qui suivait les derniers tokens à leur précédente apparition.

    Ne coûte rien et ne propose rien quand le texte ne se répète pas (Saxena, 2023).

    Args:
        count: tokens proposés à la fois, au plus.
        ngram: longueur de la séquence cherchée.
    """

    def __init__(self, count: int, *, ngram: int = 3) -> None:
        check_int("lookup", count, minimum=1)
        check_int("lookup_ngram", ngram, minimum=1)
        self._count, self._ngram = count, ngram

    def pace(self) -> Pace:
        """Voir `Proposer`."""
        return DoublingPace(self._count)

    def propose(
        self, sequences: Sequence[Continuation], cache: KVCache | None, count: int
    ) -> list[Draft]:
        """Recopie ce qui suivait la dernière apparition, en boucle si c'est trop court."""
        del cache
        return [self._one(list(each.ids), count) for each in sequences]

    def _one(self, ids: list[int], count: int) -> Draft:
        start = self._after_previous(ids)
        return Draft() if start is None else Draft(tokens=tuple(islice(cycle(ids[start:]), count)))

    def _after_previous(self, ids: list[int]) -> int | None:
        """Rang du token qui suit la précédente apparition des derniers tokens."""
        text = array("q", ids)
        width = text.itemsize
        data = text.tobytes()  # chercher dans des octets va cent fois plus vite que dans une liste
        sought = data[-width * self._ngram :]
        end = len(data) - 1  # exclut la séquence cherchée elle-même, à la fin
        while (place := data.rfind(sought, 0, end)) >= 0:
            if place % width == 0:
                return place // width + self._ngram
            end = place + len(sought) - 1
        return None


@runtime_checkable
class DraftingLM(Protocol):
    """Un modèle qui propose ses prochains tokens (voir `kernels.decode.packed`)."""

    @property
    def can_draft(self) -> bool:
        """Vrai s'il le sait."""
        ...

    def draft(
        self,
        last: Sequence[int],
        cache: KVCache,
        count: int,
        choose: Callable[[Tensor], list[int]] | None = None,
    ) -> list[list[int]]:
        """`count` tokens à la suite de chaque séquence, dont `last` n'est pas dans le cache."""
        ...


class SelfDraft:
    """Fait proposer le modèle lui-même, par une copie plus légère de ses poids.

    Avec quelques activations, un passage dure à peu près ce que dure la lecture des poids : la
    copie va deux à trois fois plus vite, et en vérifier plusieurs coûte à peine plus qu'en lire
    une. Un token échantillonné l'est avec le nombre au hasard qui servira (`Continuation.guesser`).

    Args:
        model: celui qui écrit.
        wait: ce que dure la copie, en tokens : elle est faite quand il en a été demandé autant, ou
            qu'il reste autant à écrire à un texte qui ne s'arrête pas à ses premiers mots.
    """

    def __init__(self, model: DraftingLM, *, wait: int = 0) -> None:
        self._model, self._wait, self._left = model, wait, wait

    def warm_up(self, cache: KVCache) -> None:
        """Fait la copie : propose un token à la seule séquence d'un cache, vide."""
        with torch.inference_mode():
            self._model.draft([0], cache, 1)

    def pace(self) -> Pace:
        """Voir `Proposer`."""
        return CostPace()

    def propose(
        self, sequences: Sequence[Continuation], cache: KVCache | None, count: int
    ) -> list[Draft]:
        """Voir `Proposer`."""
        if cache is None or not self._is_worth_it(cache.capacity - cache.length):
            return [Draft()] * len(sequences)
        guesses = [each.guesser() for each in sequences]

        def choose(logits: Tensor) -> list[int]:
            return [guess(row) for guess, row in zip(guesses, logits, strict=True)]

        with torch.inference_mode():  # comme le passage qui vérifiera : leurs tampons le veulent
            found = self._model.draft([each.ids[-1] for each in sequences], cache, count, choose)
        return [Draft(tokens=tuple(tokens)) for tokens in found]

    def _is_worth_it(self, room: int) -> bool:
        """Vrai si la copie est faite, ou s'il faut la faire ; `room` tokens tiennent encore."""
        if self._left > 0:
            self._left -= 1
            asked = self._wait - self._left
            if asked >= _FIRST_WORDS and room >= self._wait:
                self._left = 0
        return self._left <= 0


def self_draft(model: CausalLM, *, wait: int = 0) -> SelfDraft | None:
    """De quoi faire proposer un modèle ; None : il ne le sait pas, ou n'y gagnerait rien."""
    if isinstance(model, DraftingLM) and model.can_draft:
        return SelfDraft(model, wait=wait)
    return None


class DraftModel:
    """Propose ce qu'écrirait un modèle auxiliaire, avec les mêmes filtres ; une séquence à la fois.

    Args:
        model: le modèle auxiliaire, de même vocabulaire que le modèle.
        count: tokens proposés à la fois, au plus.
        window: derniers tokens relus, au plus ; None : tout le contexte du modèle auxiliaire.
    """

    def __init__(self, model: CausalLM, count: int, *, window: int | None = None) -> None:
        check_int("draft_tokens", count, minimum=1)
        self._count = count
        self._driver = Driver(model, window=window)
        self._start = 0  # premier token que le modèle auxiliaire lit

    def pace(self) -> Pace:
        """Voir `Proposer`."""
        return DoublingPace(self._count)

    def propose(
        self, sequences: Sequence[Continuation], cache: KVCache | None, count: int
    ) -> list[Draft]:
        """Échantillonne (ou choisit) des tokens un à un, jusqu'à la fin de texte au plus."""
        del cache
        return [self._one(each, count) for each in sequences]

    def _one(self, sequence: Continuation, count: int) -> Draft:
        ids, tokens, rows = list(sequence.ids), list[int](), list[Tensor]()
        for _ in range(min(count, self._make_room(len(ids), count))):
            logits = self._filtered(sequence, ids, tokens)  # (1, V)
            if sequence.config.is_sampling:
                rows.append(torch.softmax(logits.float(), dim=-1))
                tokens.append(drawn(rows[-1], sequence.generator))
            else:
                tokens.append(int(greedy(logits)))
            if tokens[-1] in sequence.eos_ids:
                break
        return Draft(tokens=tuple(tokens), probabilities=torch.cat(rows) if rows else None)

    def _make_room(self, length: int, count: int) -> int:
        """Place dans la fenêtre ; pleine, elle avance de moitié, pour tout relire rarement."""
        window = self._driver.window
        if self._start >= length:
            self._start = 0  # une autre séquence
        if length - self._start + count > window:
            self._start = max(self._start, length - max(1, window // 2))
        return window - (length - self._start)

    def _filtered(self, sequence: Continuation, ids: list[int], drafted: list[int]) -> Tensor:
        """Logits (1, V) du modèle auxiliaire après les propositions, passés par les filtres."""
        text = [*ids, *drafted]
        logits = self._driver.read([text[self._start :]])[0].clone()  # (1, V)
        logits[:, sequence.tokenizer.vocab_size :] = -torch.inf  # sans texte : jamais acceptés
        check_logits(logits)
        history = torch.tensor([text], dtype=torch.int64, device=logits.device)
        for stage in sequence.stages:
            if not (drafted and stage.name == _HERE_ONLY):
                logits = stage.process(history, logits)
        return logits


def drawn(weights: Tensor, generator: torch.Generator) -> int:
    """Un token au sort, d'après des poids (…, V)."""
    return int(torch.multinomial(weights, num_samples=1, generator=generator))
