"""Ce que cherche chaque tête d'attention : la place d'avant, la première, ou la suite d'un déjà-vu.

L'épreuve d'Olsson et al. (2022) : des tokens au hasard, répétés une fois. Rien ne s'y devine, hors
la répétition. Une tête d'induction regarde, à chaque token, celui qui suivait sa première
apparition ; c'est elle qui permet de recopier.

Formes : B suites, n tokens d'une suite, T = 2·n, L couches, H têtes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_int
from gpt_architecture.core.anatomy import Site, embedded, through_blocks, unembedded
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.inside.ablation import Part, measured, removing
from gpt_architecture.evaluation.inside.sentence import network_of
from gpt_architecture.french import decimal, percent

LENGTH = 24
ROWS = 8
CHECKED = 3
"""Têtes dont l'absence est mesurée : les mieux notées en induction."""

MOST_LENGTH = 512
MOST_ROWS = 64

FAR_FROM_CHANCE = 3.0
"""Combien de fois la note du hasard a une tête qui recopie, au moins : un choix de ce projet."""

HOLDS = 1 / 3
"""Part de ce que la répétition fait gagner, au moins, que son absence fait perdre : un autre."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Ce que devient la répétition sans une tête.

    Attributes:
        layer: sa couche, depuis 0.
        head: la tête, depuis 0.
        loss: perte sur la seconde fois, sans elle (nats par token).
    """

    layer: int
    head: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class HeadPatterns:
    """Les têtes d'un modèle, notées sur des répétitions au hasard.

    Les notes sont des parts d'attention, de 0 à 1, moyennes sur les suites et les positions.

    Attributes:
        length: tokens d'une suite, avant sa répétition.
        rows: suites.
        induction: (L, H) : du token répété à celui qui suivait sa première apparition.
        duplicate: (L, H) : du token répété à sa première apparition.
        previous: (L, H) : au token d'avant.
        first: (L, H) : au premier token.
        chance: ce qu'une tête qui regarde tout également aurait en induction.
        first_loss: perte sur la première fois, hors du premier token (nats par token).
        repeat_loss: perte sur la seconde : basse, le modèle recopie.
        removals: la même, sans chacune des têtes les mieux notées en induction.
    """

    length: int
    rows: int
    induction: Tensor
    duplicate: Tensor
    previous: Tensor
    first: Tensor
    chance: float
    first_loss: float
    repeat_loss: float
    removals: tuple[Removal, ...]

    @property
    def copying(self) -> tuple[int, int] | None:
        """(couche, tête), depuis 0, de celle qui recopie ; None : aucune ne le fait à elle seule.

        C'est la mieux notée en induction, si sans elle un tiers au moins de ce que la répétition
        fait gagner est perdue : où regarde une tête ne dit pas si le modèle s'en sert.
        """
        ((layer, head, note),) = self.best("induction", 1)
        gain = self.first_loss - self.repeat_loss
        if gain <= 0 or note < FAR_FROM_CHANCE * self.chance:
            return None
        without = (each.loss for each in self.removals if (each.layer, each.head) == (layer, head))
        holds = any(loss - self.repeat_loss >= HOLDS * gain for loss in without)
        return (layer, head) if holds else None

    @property
    def verdict(self) -> str:
        """Quelle tête recopie, et ce que la répétition devient sans elle, en une phrase ou deux."""
        ((layer, head, note),) = self.best("induction", 1)
        digits = 1 if note >= 0.1 else 2  # près du hasard, l'entier ne dit rien
        where = f"la tête {head + 1} de la couche {layer + 1}"
        share = f"{percent(note, digits)} de son attention (au hasard : "
        share += f"{percent(self.chance, digits)})"
        says = f"Aucune tête ne recopie à elle seule ; la mieux placée est {where}, avec {share}."
        if self.copying is not None:
            says = f"Celle qui recopie est {where} : elle donne {share} au token qui suivait la "
            says += "première fois."
        says += f" La perte va de {decimal(self.first_loss)} à {decimal(self.repeat_loss)} nats "
        says += "quand la suite se répète"
        if self.removals and self.first_loss <= self.repeat_loss:
            return f"{says} : ce modèle ne recopie pas."
        for each in self.removals:
            if (each.layer, each.head) == (layer, head):
                says += f", et à {decimal(each.loss)} sans cette tête"
        return f"{says}."

    def best(self, pattern: str, count: int = 5) -> list[tuple[int, int, float]]:
        """(couche, tête, note) des mieux notées pour `induction`, `previous`… ; depuis 0."""
        scores: Tensor = getattr(self, pattern)
        values, places = scores.flatten().sort(descending=True, stable=True)
        heads = scores.size(1)
        return [
            (place // heads, place % heads, value)
            for value, place in zip(values[:count].tolist(), places[:count].tolist(), strict=True)
        ]


def find_heads(
    model: CausalLM,
    *,
    length: int | None = None,
    rows: int = ROWS,
    seed: int = 0,
    checked: int = CHECKED,
    vocab_size: int | None = None,
    window: int | None = None,
) -> HeadPatterns:
    """Note chaque tête d'attention sur des suites de tokens au hasard, répétées.

    Args:
        model: un `GPTModel`.
        length: tokens d'une suite ; None : 24, ou ce que tient la moitié du contexte.
        rows: suites.
        seed: graine des suites.
        checked: têtes dont l'absence est mesurée, au plus.
        vocab_size: tokens où prendre les suites ; None : tous ceux du modèle.
        window: contexte d'entraînement ; None : tout le contexte du modèle.

    Raises:
        ConfigurationError: modèle quantifié, réglage hors bornes, ou contexte trop court.
    """
    network = network_of(model)
    limit = min(window or network.cfg.context_length, network.cfg.context_length) // 2
    if limit < 2:
        raise ConfigurationError(
            f"contexte de {2 * limit} tokens",
            expected="au moins 4, pour répéter une suite",
            remedy="donnez un modèle de plus long contexte",
        )
    length = min(LENGTH, limit) if length is None else length
    check_int("length", length, minimum=2, maximum=min(MOST_LENGTH, limit))
    check_int("rows", rows, minimum=1, maximum=MOST_ROWS)
    check_int("checked", checked, minimum=0)
    tokens = repeated_tokens(
        vocab_size or network.cfg.vocab_size, length=length, rows=rows, seed=seed
    ).to(network.device)
    notes: dict[str, list[Tensor]] = {name: [] for name in _PATTERNS}

    def keep(site: Site, layer: int, value: Tensor) -> None:
        del layer
        if site == "weights":
            for name, note in zip(_PATTERNS, pattern_notes(value, length), strict=True):
                notes[name].append(note)

    with torch.inference_mode(), evaluation_mode(network):
        last = through_blocks(network, embedded(network, tokens), keep)
        first_loss, repeat_loss = _losses(network, last, tokens, length)
        scores = {name: torch.stack(each).float().cpu() for name, each in notes.items()}
        found = HeadPatterns(
            length=length,
            rows=rows,
            chance=sum(1 / (place + 1) for place in range(length, 2 * length)) / length,
            first_loss=first_loss,
            repeat_loss=repeat_loss,
            removals=(),
            **scores,
        )
        best = found.best("induction", checked)
        removals = _removals(network, tokens, length, [(layer, head) for layer, head, _ in best])
    return HeadPatterns(**{**vars(found), "removals": removals})


_PATTERNS = ("induction", "duplicate", "previous", "first")


def repeated_tokens(vocab_size: int, *, length: int, rows: int, seed: int) -> Tensor:
    """Des suites de tokens au hasard, chacune répétée : (B, 2·n) int64.

    Les tokens d'une suite sont différents, si le vocabulaire en a assez.
    """
    generator = torch.Generator().manual_seed(seed)
    if vocab_size >= length:
        drawn = [torch.randperm(vocab_size, generator=generator)[:length] for _ in range(rows)]
        once = torch.stack(drawn)
    else:
        once = torch.randint(vocab_size, (rows, length), generator=generator)
    return torch.cat([once, once], dim=1)


def pattern_notes(weights: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Notes (H) d'une couche : induction, répétition, token d'avant, premier token.

    Args:
        weights: (B, H, 2·n, 2·n).
        length: n. « Avant » et « premier » sont comptés à partir du troisième token : plus tôt, ils
            se confondent.
    """
    again = torch.arange(length, 2 * length, device=weights.device)
    later = torch.arange(2, 2 * length, device=weights.device)
    places = (
        (again, again - length + 1),
        (again, again - length),
        (later, later - 1),
        (later, torch.zeros_like(later)),
    )
    one, two, three, four = (
        weights[:, :, queries, keys].mean(dim=(0, 2)) for queries, keys in places
    )
    return one, two, three, four


def _losses(model: GPTModel, x: Tensor, tokens: Tensor, length: int) -> tuple[float, float]:
    """Pertes de la première fois et de la seconde, depuis le flux final (B, 2·n, D).

    La seconde ne compte que ce qui se recopie : les n − 1 tokens qui suivent un token répété.
    """
    logits = unembedded(model, x[:, :-1]).float()
    losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")  # (B, 2n − 1)
    return float(losses[:, : length - 1].mean()), float(losses[:, length:].mean())


def _removals(
    model: GPTModel, tokens: Tensor, length: int, heads: list[tuple[int, int]]
) -> tuple[Removal, ...]:
    """La perte de la seconde fois sans chaque tête, remplacée par sa moyenne."""
    if not heads:
        return ()
    entrances, fills, _ = measured(model, tokens, "mean")
    found = []
    for layer, head in heads:
        visit = removing([[Part(kind="head", layer=layer, head=head)]], fills)
        last = through_blocks(model, entrances[layer], visit, first=layer)
        _, loss = _losses(model, last, tokens, length)
        found.append(Removal(layer=layer, head=head, loss=loss))
    return tuple(found)
