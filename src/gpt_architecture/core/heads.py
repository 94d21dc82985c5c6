"""La tête de classe ou de valeur : sa perte, et ce qu'elle rend d'un texte.

Un texte est jugé sur son dernier token, comme `GPT2ForSequenceClassification` de Transformers : la
tête y rend L nombres, les logits des classes ou une seule valeur.

Formes : B lot, n textes jugés, L sorties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.core.model import CausalLM

Criterion = Callable[[Tensor, Tensor], Tensor]
"""(sorties (n, L), cibles (n,) int64) → perte moyenne d'un texte, avec son graphe."""

VALUE_OFFSET = 1 << 31
"""Ce qui rend positifs les bits d'un fp32, tenus pour un entier signé."""


def label_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """L'entropie croisée moyenne, en nats ; les cibles sont des classes."""
    return F.cross_entropy(outputs.float(), targets)


def class_loss(weights: Sequence[float]) -> Criterion:
    """L'entropie croisée, chaque exemple pesant le poids de sa classe.

    Args:
        weights: un poids par classe ; sur l'entraînement, leur moyenne est 1, si bien que la perte
            moyenne se divise encore par le nombre d'exemples.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        scores = outputs.float()  # bf16 arrondirait les poids
        given = torch.tensor(weights, device=scores.device)
        return F.cross_entropy(scores, targets, weight=given, reduction="sum") / len(targets)

    return loss


def value_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """L'écart quadratique moyen d'une valeur, dans l'unité de la tête (voir `decode_values`)."""
    return (outputs[:, 0].float() - decode_values(targets)).square().mean()


def decode_values(targets: Tensor) -> Tensor:
    """Des cibles entières en nombres : l'inverse de `data.labelled.encode_values`, en fp32."""
    return (targets - VALUE_OFFSET).to(torch.int32).view(torch.float32)


def last_outputs(model: CausalLM, rows: Sequence[Sequence[int]], padding: int) -> Tensor:
    """Ce que la tête rend du dernier token de chaque texte : (B, L), en fp32, sans gradient.

    Les textes sont complétés à droite : l'attention causale n'en fait rien voir à leur dernier
    token.

    Args:
        model: en évaluation.
        rows: tokens de chaque texte, un au moins, au plus le contexte du modèle.
        padding: identifiant de remplissage, du vocabulaire.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows])  # (B, T)
    last = torch.tensor([len(row) - 1 for row in rows])
    with torch.inference_mode():
        found = model(ids.to(model.device), at=last.to(model.device))  # (B, 1, L)
    return found[:, 0].float().cpu()
