"""Ce qu'un modèle dit d'un texte : sa classe et ses probabilités, ou sa valeur.

Formes : N textes, L sorties de la tête.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.config import HeadConfig
from gpt_architecture.core.heads import last_outputs
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.data.labelling import padding_of
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import ConfigurationError, DataError, NonFiniteError
from gpt_architecture.evaluation.likelihood import MAX_ROWS

_BATCH_TOKENS = 1 << 15  # tokens lus ensemble, au plus

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Ce qu'un modèle dit d'un texte.

    Attributes:
        text: le texte.
        label: sa classe la plus probable ; None : le modèle rend une valeur.
        probabilities: la probabilité de chaque classe, dans l'ordre du modèle.
        value: sa valeur ; None : le modèle rend une classe.
        tokens: tokens lus.
        truncated: vrai si le texte en avait plus.
    """

    text: str
    label: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    tokens: int
    truncated: bool = False

    def to_dict(self) -> dict[str, Any]:
        """En types simples, sans le texte."""
        found: dict[str, Any] = {"tokens": self.tokens, "truncated": self.truncated}
        if self.label is None:
            return {"value": self.value, **found}
        return {"label": self.label, "probabilities": dict(self.probabilities), **found}


def judge(
    model: CausalLM,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    window: int,
    max_rows: int = MAX_ROWS,
) -> list[Judgement]:
    """La classe ou la valeur de chaque texte, dont au plus `window` tokens sont lus.

    Raises:
        DataError: un texte n'a aucun token ; son rang est dit.
        ConfigurationError: le modèle n'a pas de tête de classe ou de valeur.
    """
    head = head_of(model)
    rows = [encode_text(text, tokenizer) for text in texts]
    for rank, row in enumerate(rows, 1):
        if not row:
            raise DataError(
                f"texte {rank} : aucun token",
                expected="des textes d'un mot au moins",
                remedy="ôtez celui-là",
            )
    if not rows:
        return []
    outputs = head_outputs(
        model, [row[:window] for row in rows], padding=padding_of(tokenizer), max_rows=max_rows
    )
    common: list[dict[str, Any]] = [
        {"text": text, "tokens": min(len(row), window), "truncated": len(row) > window}
        for text, row in zip(texts, rows, strict=True)
    ]
    if head.is_regression:
        values = values_of(outputs, head).tolist()
        return [Judgement(value=value, **each) for value, each in zip(values, common, strict=True)]
    return [
        Judgement(
            label=head.labels[int(np.argmax(own))],
            probabilities=dict(zip(head.labels, own.tolist(), strict=True)),
            **each,
        )
        for own, each in zip(probabilities_of(outputs), common, strict=True)
    ]


def head_of(model: CausalLM) -> HeadConfig:
    """La tête de classe ou de valeur d'un modèle.

    Raises:
        ConfigurationError: il n'en a pas : il écrit.
    """
    if model.cfg.head is None:
        raise ConfigurationError(
            "ce modèle écrit : il n'a pas de tête qui classe ou note un texte",
            expected="un modèle entraîné par « gpt-architecture train --classify »",
            remedy="affinez celui-ci ainsi, ou prenez un autre modèle",
        )
    return model.cfg.head


def probabilities_of(outputs: Tensor) -> Floats:
    """Les probabilités des classes, (N, L), en fp64."""
    found: Floats = outputs.double().softmax(dim=1).numpy()
    return found


def values_of(outputs: Tensor, head: HeadConfig) -> Floats:
    """Les valeurs, (N,), en fp64, dans l'unité des étiquettes."""
    found: Floats = (head.center + head.scale * outputs[:, 0].double()).numpy()
    return found


def head_outputs(
    model: CausalLM,
    rows: Sequence[Sequence[int]],
    *,
    padding: int,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Ce que la tête rend de chaque texte : (N, L), en fp32, dans l'ordre donné.

    Les textes sont lus par longueurs voisines.

    Args:
        model: un modèle qui a une tête de classe ou de valeur.
        rows: tokens de chaque texte, un au moins, au plus le contexte du modèle.
        padding: identifiant de remplissage.
        max_rows: textes lus ensemble, au plus.
        on_progress: appelé avec (textes lus, textes en tout).

    Raises:
        NonFiniteError: une sortie est NaN ou infinie.
    """
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    done = 0
    with evaluation_mode(model), blaming_weights(model):
        while done < len(order):
            count, widest = 0, 0
            for place in order[done : done + max_rows]:
                widest = max(widest, len(rows[place]))
                if count and (count + 1) * widest > _BATCH_TOKENS:
                    break
                count += 1
            batch = order[done : done + count]
            outputs = last_outputs(model, [rows[place] for place in batch], padding)
            if not bool(outputs.isfinite().all()):
                raise NonFiniteError("une sortie du modèle n'est pas un nombre fini")
            for place, output in zip(batch, outputs, strict=True):
                found[place] = output
            done += count
            if on_progress is not None:
                on_progress(done, len(order))
    return torch.stack(found)
