"""Ce que le studio reçoit de l'intérieur du modèle, en types simples, ses tokens nommés."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.evaluation.inside.ablation import AblationStudy
from gpt_architecture.evaluation.inside.embeddings import embedding_plane, nearest_tokens
from gpt_architecture.evaluation.inside.heads import HeadPatterns
from gpt_architecture.evaluation.inside.learning import Learning
from gpt_architecture.evaluation.inside.lens import Reading
from gpt_architecture.evaluation.inside.neurons import (
    NeuronPeak,
    NeuronStudy,
    neuron_peaks,
    study_neuron,
)
from gpt_architecture.serving.context import ServingContext, TokenNames

_EXAMPLES = 10
_PEAKS = 30
_NEIGHBOURS = 24


def packed(values: Tensor) -> str:
    """Les octets d'un tenseur, petit-boutistes, en base64."""
    array = values.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _rounded(values: Tensor, digits: int = 5) -> Any:
    """Des nombres en listes, assez précis pour être montrés."""
    if values.dim() > 1:
        return [_rounded(row, digits) for row in values]
    return [round(each, digits) for each in values.tolist()]


def patterns_answer(found: HeadPatterns) -> dict[str, Any]:
    """Les notes de chaque tête, et la répétition avec et sans les meilleures."""
    notes = {
        name: _rounded(getattr(found, name))
        for name in ("induction", "duplicate", "previous", "first")
    }
    return {
        **notes,
        "length": found.length,
        "rows": found.rows,
        "chance": found.chance,
        "verdict": found.verdict,
        "first_loss": found.first_loss,
        "repeat_loss": found.repeat_loss,
        "removals": [(each.layer, each.head, each.loss) for each in found.removals],
    }


def reading_answer(found: Reading, names: TokenNames) -> dict[str, Any]:
    """La lentille : tokens et probabilités de chaque couche à chaque position."""
    tokens = sorted({*found.top_ids.flatten().tolist()})
    return {
        "names": [names.text(token) for token in found.tokens],
        "ids": found.top_ids.tolist(),
        "texts": {str(token): _named(names, token) for token in tokens},
        "probabilities": _rounded(found.top_probabilities),
        "entropies": _rounded(found.entropies),
        "divergences": _rounded(found.divergences),
        "norms": _rounded(found.norms),
        "attention_norms": _rounded(found.attention_norms),
        "feed_forward_norms": _rounded(found.feed_forward_norms),
    }


def ablation_answer(found: AblationStudy, names: TokenNames) -> dict[str, Any]:
    """Le prochain token, avec et sans chaque pièce."""
    return {
        "names": [names.text(token) for token in found.tokens],
        "mode": found.mode,
        "target": [found.target, _named(names, found.target)],
        "probability": found.probability,
        "token": [found.token, _named(names, found.token)],
        "effects": [
            {
                "kind": each.part.kind,
                "layer": each.part.layer,
                "head": each.part.head,
                "probability": each.probability,
                "divergence": each.divergence,
                "token": [each.token, _named(names, each.token)],
                "token_probability": each.token_probability,
            }
            for each in found.effects
        ],
    }


def neuron_answer(
    context: ServingContext,
    network: GPTModel,
    ids: Sequence[int],
    layer: int,
    neuron: int | None,
    size: int,
) -> dict[str, Any]:
    """Les neurones les plus tranchés de la couche, et l'un d'eux : celui demandé, ou le premier."""
    peaks = neuron_peaks(network, ids, layer, window=context.window)
    chosen = peaks[0].neuron if neuron is None else neuron
    found = study_neuron(
        network, ids, layer, chosen, top=_EXAMPLES, window=context.window, vocab_size=size
    )
    return {
        "layers": network.cfg.n_layers,
        "neurons": network.cfg.inner_width,
        "peaks": [_peak(each, ids, context.names) for each in peaks[:_PEAKS]],
        **_study(found, context.names, context.tokenizer),
    }


def _peak(peak: NeuronPeak, ids: Sequence[int], names: TokenNames) -> dict[str, Any]:
    return {
        "neuron": peak.neuron,
        "sharpness": peak.sharpness,
        "maximum": peak.maximum,
        "name": names.text(ids[peak.position]),
    }


def _study(found: NeuronStudy, names: TokenNames, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "layer": found.layer,
        "neuron": found.neuron,
        "tokens": found.tokens,
        "mean": found.mean,
        "deviation": found.deviation,
        "examples": [
            {
                "position": each.position,
                "activation": each.activation,
                "before": tokenizer.decode(list(each.before)),
                "token": names.text(each.token),
                "after": tokenizer.decode(list(each.after)),
            }
            for each in found.examples
        ],
        "raised": [(_named(names, token), value) for token, value in found.raised],
        "lowered": [(_named(names, token), value) for token, value in found.lowered],
    }


def neighbours_answer(
    names: TokenNames, network: GPTModel, token: int, size: int
) -> dict[str, Any]:
    """Les voisins d'un token, et leur carte s'ils sont au moins deux."""
    found = nearest_tokens(network, token, top=_NEIGHBOURS, vocab_size=size)
    tokens = [token, *(each.token for each in found)]
    plane = embedding_plane(network, tokens) if len(tokens) > 2 else None
    return {
        "token": [token, names.text(token)],
        "neighbours": [(each.token, names.text(each.token), each.similarity) for each in found],
        "points": [] if plane is None else _rounded(plane.points.float()),
        "shares": (0.0, 0.0) if plane is None else plane.shares,
    }


def learning_answer(found: Learning, names: TokenNames) -> dict[str, Any]:
    """La même invite, point de reprise après point de reprise."""
    return {
        "prompt": found.prompt,
        "follow": found.follow,
        "skipped": found.skipped,
        "moments": [
            {
                "step": each.step,
                "train_loss": each.train_loss,
                "val_loss": each.val_loss,
                "text": each.text,
                "probability": each.probability,
                "rank": each.rank,
                "candidates": [(_named(names, token), share) for token, share in each.candidates],
            }
            for each in found.moments
        ],
    }


def _named(names: TokenNames, token: int) -> str:
    """Le nom d'un token ; un modèle peut avoir des logits qui n'en ont pas."""
    return names.text(token) if token in names else ""
