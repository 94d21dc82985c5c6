"""Le modèle sans une tête, sans une couche : ce que cela change à son prochain token.

Une pièce retirée est remplacée par zéro, ou par sa moyenne : ce qu'elle rend d'ordinaire, quelle
que soit la place. La moyenne retire ce que la pièce apprend de la phrase et laisse ce dont les
couches suivantes ont l'habitude ; zéro retire tout, et les surprend.

Formes : B lot, T tokens, L couches, H têtes, K taille d'une tête, D largeur, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gpt_architecture.config import check_choice, check_int
from gpt_architecture.core.anatomy import Site, Visit, embedded, through_blocks, unembedded
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.evaluation.inside.lens import divergence
from gpt_architecture.evaluation.inside.sentence import MAX_TOKENS, network_of, sentence_of

Mode = Literal["mean", "zero"]
"""Par quoi une pièce retirée est remplacée."""

Kind = Literal["head", "attention", "feed_forward", "block"]
"""Une tête, une attention entière, un perceptron, ou les deux d'un bloc."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Une pièce du modèle, que l'on peut retirer.

    Attributes:
        kind: sa nature.
        layer: sa couche, depuis 0.
        head: sa tête, depuis 0 ; None : ce n'en est pas une.
    """

    kind: Kind
    layer: int
    head: int | None = None

    @property
    def sites(self) -> tuple[Site, ...]:
        """Les valeurs qu'elle rend."""
        if self.kind == "head":
            return ("heads",)
        return ("attention", "feed_forward") if self.kind == "block" else (self.kind,)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Ce que change l'absence d'une pièce.

    Attributes:
        part: la pièce.
        probability: part donnée, sans elle, au token suivi.
        divergence: KL de la distribution du modèle à celle-ci, en bits.
        token: le token que le modèle écrirait alors.
        token_probability: sa probabilité.
    """

    part: Part
    probability: float
    divergence: float
    token: int
    token_probability: float


@dataclass(frozen=True, kw_only=True)
class AblationStudy:
    """Le prochain token d'une invite, avec et sans chaque pièce du modèle.

    Attributes:
        tokens: identifiants de l'invite (T).
        mode: par quoi une pièce est remplacée.
        target: le token suivi.
        probability: sa probabilité sous le modèle entier.
        token: le token que le modèle entier écrirait.
        effects: ceux de chaque pièce : couche par couche, têtes d'abord.
    """

    tokens: tuple[int, ...]
    mode: Mode
    target: int
    probability: float
    token: int
    effects: tuple[Effect, ...]

    @property
    def strongest(self) -> list[Effect]:
        """Du plus grand changement au plus petit."""
        return sorted(self.effects, key=lambda each: -each.divergence)


Fills = Mapping[tuple[Site, int], Tensor]
"""Ce que rend d'ordinaire chaque pièce : (site, couche) → (H, K) ou (D,)."""


def study_ablation(
    model: CausalLM,
    ids: Sequence[int] | Tensor,
    *,
    mode: Mode = "mean",
    target: int | None = None,
    window: int | None = None,
    most: int = MAX_TOKENS,
) -> AblationStudy:
    """Retire tour à tour chaque pièce du modèle, et mesure ce que devient le prochain token.

    Args:
        model: un `GPTModel`.
        ids: identifiants de l'invite (T).
        mode: `mean` : la moyenne de la pièce sur les positions de l'invite ; `zero` : rien.
        target: token dont suivre la probabilité ; None : le plus probable.
        window: contexte d'entraînement ; None : tout le contexte du modèle.
        most: tokens de l'invite, au plus.

    Raises:
        ConfigurationError: modèle quantifié, invite vide ou trop longue, mode ou token inconnus.
    """
    check_choice("mode", mode, ("mean", "zero"))
    network = network_of(model)
    tokens = sentence_of(network, ids, window=window, most=most)
    if target is not None:
        check_int("target", target, minimum=0, maximum=network.cfg.vocab_size - 1)
    with torch.inference_mode(), evaluation_mode(network):
        entrances, fills, last = measured(network, tokens, mode)
        whole = unembedded(network, last[:, -1]).float().log_softmax(-1)[0]  # (V,)
        token = int(whole.argmax())
        followed = token if target is None else target
        effects = list[Effect]()
        for layer, x in enumerate(entrances):
            parts = parts_of(network, layer)
            visit = removing([[part] for part in parts], fills)
            rows = x.expand(len(parts), -1, -1)  # une ligne par pièce : les couches d'avant sont là
            last = through_blocks(network, rows, visit, first=layer)
            logs = unembedded(network, last[:, -1]).float().log_softmax(-1)
            gaps = divergence(whole, logs)
            for part, row, gap in zip(parts, logs, gaps.tolist(), strict=True):
                found = int(row.argmax())
                effects.append(
                    Effect(
                        part=part,
                        probability=float(row[followed].exp()),
                        divergence=gap,
                        token=found,
                        token_probability=float(row[found].exp()),
                    )
                )
    return AblationStudy(
        tokens=tuple(tokens[0].tolist()),
        mode=mode,
        target=followed,
        probability=float(whole[followed].exp()),
        token=token,
        effects=tuple(effects),
    )


def parts_of(model: GPTModel, layer: int) -> list[Part]:
    """Les pièces d'une couche : ses têtes, son attention, son perceptron, le bloc."""
    heads = [Part(kind="head", layer=layer, head=head) for head in range(model.cfg.n_heads)]
    kinds: tuple[Kind, ...] = ("attention", "feed_forward", "block")
    return [*heads, *(Part(kind=kind, layer=layer) for kind in kinds)]


def measured(model: GPTModel, tokens: Tensor, mode: Mode) -> tuple[list[Tensor], Fills, Tensor]:
    """Une passe avant : le flux à l'entrée de chaque bloc, ce qui remplace, et le flux final.

    Args:
        model: le modèle, en évaluation.
        tokens: (B, T) int64 ; les moyennes sont prises sur toutes ses positions.
        mode: par quoi remplacer.
    """
    entrances, fills = list[Tensor](), dict[tuple[Site, int], Tensor]()

    def keep(site: Site, layer: int, value: Tensor) -> None:
        if site == "residual" and layer < len(model.trf_blocks):
            entrances.append(value)
        elif site in ("heads", "attention", "feed_forward"):
            usual = value.float().mean(dim=(0, 1)).to(value.dtype)
            fills[site, layer] = usual if mode == "mean" else torch.zeros_like(usual)

    last = through_blocks(model, embedded(model, tokens), keep)
    return entrances, fills, last


def removing(rows: Sequence[Sequence[Part]], fills: Fills) -> Visit:
    """Une visite qui retire, de la ligne r du lot, les pièces `rows[r]`.

    Une seule ligne vaut pour tout le lot.
    """
    changes = dict[tuple[Site, int], list[tuple[slice, Part]]]()
    for number, parts in enumerate(rows):
        place = slice(None) if len(rows) == 1 else slice(number, number + 1)
        for part in parts:
            for site in part.sites:
                changes.setdefault((site, part.layer), []).append((place, part))

    def visit(site: Site, layer: int, value: Tensor) -> Tensor | None:
        wanted = changes.get((site, layer))
        if wanted is None:
            return None
        value, fill = value.clone(), fills[site, layer]
        for place, part in wanted:
            if part.head is None:
                value[place] = fill
            else:
                value[place, :, part.head] = fill[part.head]
        return value

    return visit
