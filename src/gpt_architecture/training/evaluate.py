"""Ce que la boucle mesure en chemin : deux pertes, et un exemple de texte.

Rien ici ne tire des générateurs de l'entraînement ; chaque calcul rend la main si l'arrêt est
demandé. Formes : B lot, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import (
    evaluation_mode,
)
from gpt_architecture.data.sampler import WindowSampler, learned_tokens, make_batch
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.data.tokenizers.protocol import Tokenizer
from gpt_architecture.decoding.simple import stream_tokens
from gpt_architecture.decoding.strategies import greedy_token
from gpt_architecture.training.simple import SAMPLE_TOKENS

_TRAIN_SEED = 0


def evaluation_starts(
    source: TokenSource, window: int, *, stride: int | None, count: int, shuffle: bool
) -> NDArray[np.int64]:
    """Premiers tokens des fenêtres d'une évaluation : toujours les mêmes, (N,) int64, N ≤ count.

    Args:
        shuffle: vrai : réparties au hasard, mais fixes ; faux : les premières.
    """
    sampler = WindowSampler(
        source.num_tokens, window, stride=stride, batch_size=1, seed=_TRAIN_SEED, shuffle=shuffle
    )
    return np.array(
        [sampler.start_of(index) for index in range(min(count, sampler.num_windows))],
        dtype=np.int64,
    )


class LossEvaluator:
    """Mesure la perte sur des fenêtres fixes de chaque jeu.

    Args:
        model: mis en évaluation le temps de la mesure.
        sets: pour chaque jeu, ses tokens et les débuts de ses fenêtres.
        window: longueur d'une fenêtre (T).
        batch_size: fenêtres par lot (B).
        loss: perte moyenne d'un lot, en nats par token.
    """

    def __init__(
        self,
        model: nn.Module,
        sets: Sequence[tuple[TokenSource, NDArray[np.int64]]],
        *,
        window: int,
        batch_size: int,
        loss: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self._model = model
        self._sets = list(sets)
        self._window = window
        self._batch_size = batch_size
        self._batch_loss = loss

    def __call__(self, should_stop: Callable[[], bool]) -> tuple[float, float] | None:
        """Les deux pertes (nats par token), ou None si l'arrêt demandé l'a interrompu."""
        losses = []
        with evaluation_mode(self._model):
            for source, starts in self._sets:
                loss = self._loss(source, starts, should_stop)
                if loss is None:
                    return None
                losses.append(loss)
        train_loss, val_loss = losses
        return train_loss, val_loss

    @torch.no_grad()
    def _loss(
        self, source: TokenSource, starts: NDArray[np.int64], should_stop: Callable[[], bool]
    ) -> float | None:
        total, tokens = 0.0, 0
        for first in range(0, len(starts), self._batch_size):
            if should_stop():
                return None
            chosen = starts[first : first + self._batch_size]
            inputs, targets = make_batch(source, chosen, self._window)
            learned = learned_tokens(source, chosen, self._window)
            total += self._batch_loss(inputs, targets).item() * learned
            tokens += learned
        return total / tokens


class TextSampler:
    """Écrit un exemple glouton de `SAMPLE_TOKENS` tokens, début compris.

    Args:
        model: le modèle entraîné.
        tokenizer: pour coder le début et décoder l'exemple.
        device: où calculer.
        start: début de l'exemple.
        window: derniers tokens relus, au plus.
        eos_id: token qui achève l'exemple ; None : aucun.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        device: torch.device,
        start: str,
        *,
        window: int,
        eos_id: int | None = None,
    ) -> None:
        self._model = model
        self._eos_id = eos_id
        self._tokenizer = tokenizer
        self._device = device
        self._start = torch.tensor([encode_text(start, tokenizer)])  # un mot inconnu se dit ici
        self._window = window

    def __call__(self, should_stop: Callable[[], bool]) -> str | None:
        """Le texte, ou None si l'arrêt demandé l'a interrompu."""
        ids = self._start.to(self._device)
        produced = []
        stream = stream_tokens(
            self._model,
            ids,
            SAMPLE_TOKENS,
            greedy_token,
            context_size=self._window,
            eos_id=self._eos_id,
        )
        for token, _ in stream:
            produced.append(token)
            if should_stop():
                return None
        return self._tokenizer.decode(torch.cat([ids, *produced], dim=1)[0].tolist())
