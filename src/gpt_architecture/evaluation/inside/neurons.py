"""Ce qui allume un neurone : les passages d'un texte où il est le plus actif, et ce qu'il écrit.

Un neurone est une place de la couche cachée d'un perceptron, après l'activation. Ce qu'il ajoute au
flux résiduel est sa colonne de la matrice de sortie ; la tête de sortie dit quels tokens il pousse
(Geva et al., 2021).

Formes : T tokens, F neurones d'une couche, D largeur, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.core.anatomy import Site, embedded, through_blocks
from gpt_architecture.core.layers import TransformerBlock
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.inside.sentence import network_of, tokens_of
from gpt_architecture.evaluation.perplexity import window_ends

MOST_EXAMPLES = 100
AROUND = 8
"""Tokens montrés de part et d'autre d'un exemple."""


@dataclass(frozen=True, kw_only=True)
class NeuronExample:
    """Une place du texte où un neurone est actif.

    Attributes:
        position: rang du token dans le texte, depuis 0.
        activation: valeur du neurone.
        before: tokens d'avant.
        token: le token lu.
        after: tokens d'après.
    """

    position: int
    activation: float
    before: tuple[int, ...]
    token: int
    after: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class NeuronStudy:
    """Un neurone, sur un texte.

    Attributes:
        layer: sa couche, depuis 0.
        neuron: son rang, depuis 0.
        tokens: tokens lus.
        mean: activation moyenne.
        deviation: son écart-type.
        examples: les places où il est le plus actif, de la plus à la moins active.
        raised: (token, logit) des tokens qu'une unité d'activation pousse le plus.
        lowered: ceux qu'elle retient le plus.
    """

    layer: int
    neuron: int
    tokens: int
    mean: float
    deviation: float
    examples: tuple[NeuronExample, ...]
    raised: tuple[tuple[int, float], ...]
    lowered: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class NeuronPeak:
    """Ce qu'un neurone fait sur tout un texte, en bref.

    Attributes:
        neuron: son rang, depuis 0.
        mean: activation moyenne.
        deviation: son écart-type.
        maximum: la plus forte.
        position: où elle est.
    """

    neuron: int
    mean: float
    deviation: float
    maximum: float
    position: int

    @property
    def sharpness(self) -> float:
        """De combien d'écarts-types le maximum dépasse la moyenne : haut, le neurone est rare."""
        return (self.maximum - self.mean) / self.deviation if self.deviation > 0 else 0.0


def activations(
    model: CausalLM,
    ids: Sequence[int],
    layer: int,
    *,
    window: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """(Première position, activations (n, F) float32) d'une couche, fenêtre après fenêtre.

    Chaque token est lu une fois, avec au moins une demi-fenêtre de contexte s'il l'a.

    Args:
        model: un `GPTModel`.
        ids: identifiants du texte (T).
        layer: depuis 0.
        window: tokens lus à la fois ; None : tout le contexte du modèle.

    Raises:
        ConfigurationError: modèle quantifié, couche hors bornes, texte vide, ou identifiant hors du
            vocabulaire.
    """
    network = network_of(model)
    check_int("layer", layer, minimum=0, maximum=network.cfg.n_layers - 1)
    if not len(ids):
        raise ConfigurationError(
            "aucun token à lire", expected="un texte", remedy="donnez quelques phrases"
        )
    limit = min(window or network.cfg.context_length, network.cfg.context_length)
    tokens = tokens_of(network, ids)
    for start, end in window_ends(len(tokens), limit, max(1, limit // 2)):
        yield start, _read(network, tokens[max(0, end - limit) : end], layer)[start - end :].cpu()


def _read(model: GPTModel, tokens: Tensor, layer: int) -> Tensor:
    """Activations (T, F) d'une fenêtre (T)."""
    found = list[Tensor]()

    wanted = layer

    def keep(site: Site, layer: int, value: Tensor) -> None:
        if site == "neurons" and layer == wanted:
            found.append(value[0])

    with torch.inference_mode(), evaluation_mode(model):
        through_blocks(model, embedded(model, tokens.unsqueeze(0)), keep, last=layer + 1)
    return found[0].float()


def neuron_peaks(
    model: CausalLM, ids: Sequence[int], layer: int, *, window: int | None = None
) -> list[NeuronPeak]:
    """Chaque neurone d'une couche sur un texte, du plus tranché au moins tranché.

    Voir `activations` pour les arguments et les refus.
    """
    total = squares = torch.zeros(0, dtype=torch.float64)
    best, where, count = torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0
    for start, values in activations(model, ids, layer, window=window):
        if not count:
            total = squares = torch.zeros(values.size(1), dtype=torch.float64)
            best = torch.full((values.size(1),), -torch.inf)
            where = torch.zeros(values.size(1), dtype=torch.int64)
        total = total + values.double().sum(0)
        squares = squares + values.double().square().sum(0)
        top, place = values.max(0)
        where = torch.where(top > best, place + start, where)
        best = torch.maximum(best, top)
        count += len(values)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0.0).sqrt()
    peaks = [
        NeuronPeak(neuron=neuron, mean=m, deviation=d, maximum=top, position=place)
        for neuron, (m, d, top, place) in enumerate(
            zip(mean.tolist(), deviation.tolist(), best.tolist(), where.tolist(), strict=True)
        )
    ]
    return sorted(peaks, key=lambda each: -each.sharpness)


def study_neuron(
    model: CausalLM,
    ids: Sequence[int],
    layer: int,
    neuron: int,
    *,
    top: int = 10,
    window: int | None = None,
    vocab_size: int | None = None,
) -> NeuronStudy:
    """Les passages d'un texte où un neurone est le plus actif, et les tokens qu'il pousse.

    Args:
        model: un `GPTModel`.
        ids: identifiants du texte (T).
        layer: sa couche, depuis 0.
        neuron: son rang, depuis 0.
        top: exemples, et tokens poussés, au plus.
        window: tokens lus à la fois ; None : tout le contexte du modèle.
        vocab_size: tokens qui ont un nom ; None : tous ceux du modèle.

    Raises:
        ConfigurationError: modèle quantifié, numéro hors bornes, texte vide.
    """
    network = network_of(model)
    check_int("top", top, minimum=1, maximum=MOST_EXAMPLES)
    check_int("neuron", neuron, minimum=0, maximum=network.cfg.inner_width - 1)
    found = [each[:, neuron] for _, each in activations(network, ids, layer, window=window)]
    values = torch.cat(found)  # (T)
    order = values.sort(descending=True, stable=True)[1][:top].tolist()
    pushed = neuron_logits(network, layer, neuron)[:vocab_size]
    high, low = pushed.topk(min(top, len(pushed))), (-pushed).topk(min(top, len(pushed)))
    return NeuronStudy(
        layer=layer,
        neuron=neuron,
        tokens=len(values),
        mean=float(values.double().mean()),
        deviation=float(values.double().std(correction=0)),
        examples=tuple(
            NeuronExample(
                position=place,
                activation=float(values[place]),
                before=tuple(ids[max(0, place - AROUND) : place]),
                token=int(ids[place]),
                after=tuple(ids[place + 1 : place + 1 + AROUND]),
            )
            for place in order
        ),
        raised=_pairs(high.indices, high.values),
        lowered=_pairs(low.indices, -low.values),
    )


def neuron_logits(model: GPTModel, layer: int, neuron: int) -> Tensor:
    """Ce qu'une unité d'activation ajoute aux logits (V) : sa colonne de sortie, puis la tête.

    La norme finale est laissée de côté : elle ne change que l'échelle, et retire la moyenne.
    """
    block = model.trf_blocks[layer]
    assert isinstance(block, TransformerBlock)  # noqa: S101 — la liste perd le type
    output = block.ff.layers[-1]
    with torch.inference_mode(), evaluation_mode(model):
        unit = torch.zeros(1, model.cfg.inner_width, device=model.device)
        unit = unit.to(model.tok_emb.weight.dtype)
        nothing = output(unit)
        unit[0, neuron] = 1.0
        logits: Tensor = model.out_head(output(unit) - nothing)  # (1, V)
    return logits[0].float().cpu()


def _pairs(ids: Tensor, values: Tensor) -> tuple[tuple[int, float], ...]:
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))
