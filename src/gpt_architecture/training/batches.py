"""Les lots de chaque étape, lus dans une suite de tokens.

Formes : B séquences d'un lot, T tokens d'une fenêtre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from gpt_architecture.data.sampler import WindowSampler, learned_tokens, make_batch
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.training.distributed.world import SingleProcess, World
from gpt_architecture.training.engine import Batch


class BatchSource(Protocol):
    """Ce que la boucle demande aux données."""

    def __call__(self, step: int) -> Sequence[Batch]:
        """Les lots de l'étape, pour ce processus."""
        ...

    def epoch_of(self, step: int) -> int:
        """Époque de la première séquence de l'étape, à partir de 1."""
        ...

    def ends_epoch(self, step: int) -> bool:
        """Vrai si une époque s'achève dans l'étape."""
        ...

    def sequences_in(self, step: int) -> int:
        """Séquences de l'étape, tous processus compris."""
        ...


class TokenBatches:
    """Les lots d'un `WindowSampler` : une fonction pure de l'étape et du rang.

    Args:
        source: la suite de tokens.
        sampler: ce qui distribue les fenêtres ; son lot est celui de l'étape entière.
        micro_batch: séquences calculées ensemble, au plus.
        world: les processus qui se partagent l'étape.
    """

    def __init__(
        self,
        source: TokenSource,
        sampler: WindowSampler,
        *,
        micro_batch: int,
        world: World | None = None,
    ) -> None:
        self._source = source
        self._sampler = sampler
        self._micro_batch = micro_batch
        self._world: World = SingleProcess() if world is None else world

    def __call__(self, step: int) -> list[Batch]:
        """Voir `BatchSource`."""
        world, window = self._world, self._sampler.window
        starts, ids = self._sampler.batch(step, rank=world.rank, world_size=world.size)
        every = starts if world.size == 1 else self._sampler.batch(step)[0]
        total = learned_tokens(self._source, every, window)
        batches = []
        for first in range(0, len(starts), self._micro_batch):
            chosen = slice(first, first + self._micro_batch)
            inputs, targets = make_batch(self._source, starts[chosen], window)
            learned = learned_tokens(self._source, starts[chosen], window)
            batches.append(
                Batch(
                    inputs=inputs,
                    targets=targets,
                    sequence_ids=torch.from_numpy(ids[chosen].copy()),
                    share=learned * world.size / total,
                    is_last=first + self._micro_batch >= len(starts),
                )
            )
        return batches

    def epoch_of(self, step: int) -> int:
        """Voir `BatchSource`."""
        return step * self._sampler.batch_size // self._sampler.num_windows + 1

    def ends_epoch(self, step: int) -> bool:
        """Voir `BatchSource`."""
        return self.epoch_of(step + 1) > self.epoch_of(step)

    def sequences_in(self, step: int) -> int:
        """Voir `BatchSource`."""
        return len(self._sampler.sequence_ids(step))
