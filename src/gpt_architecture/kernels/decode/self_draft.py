"""Le modèle propose lui-même ses prochains tokens, par une copie de ses poids sur 8 bits.

Lire les poids fixe la durée d'un token : la copie, quatre fois plus petite, va deux à trois fois
plus vite et choisit presque toujours le même token. Ce qu'elle propose est ensuite vérifié d'une
seule lecture des vrais poids (décodage spéculatif : Leviathan et al., 2023).

Elle n'a pas de cache à elle. Elle voit les clés et valeurs exactes du passé, écrit les siennes à la
suite, et la vérification les remplace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import Scheme, quantize
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.kernels.decode.step import DecodeStep, IntegerForm
from gpt_architecture.kernels.decode.weights import GroupedMatrix, PackedMatrix, gather

Choose = Callable[[Tensor], list[int]]
"""Logits (M, V) → le token de chaque séquence."""

Embed = Callable[[Sequence[int], Sequence[int]], Tensor]
"""Tokens et positions (M,) → x (M, D)."""


class LightCopy:
    """La copie sur 8 bits d'un modèle, pour proposer.

    Args:
        cfg: forme du modèle.
        matrices: ses poids fp32, par nom de module.
        vectors: ses normes et biais, par nom du `state_dict`.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, PackedMatrix],
        vectors: Mapping[str, Tensor],
    ) -> None:
        scheme = Scheme(name="int8")
        codes: dict[str, PackedMatrix] = {
            name: GroupedMatrix(quantize(matrix.dense(), scheme))
            for name, matrix in matrices.items()
            if name != "tok_emb"
        }
        self._step = DecodeStep(cfg, gather(codes), vectors, IntegerForm())
        self._positions = cfg.context_length

    def __call__(
        self,
        last: Sequence[int],
        cache: KVCache,
        count: int,
        *,
        embed: Embed,
        choose: Choose | None = None,
    ) -> list[list[int]]:
        """Les `count` tokens qui suivraient chaque séquence du cache.

        Args:
            last: dernier token de chacune, qui n'est pas dans le cache.
            cache: ses longueurs sont les mêmes au retour ; ce qui est au-delà a changé.
            count: combien.
            embed: les embeddings du modèle.
            choose: choisit les tokens, une fois par rang ; None : les plus probables.

        Raises:
            ValueError: trop de séquences, ou il ne reste pas autant de positions.
        """
        room = min(cache.capacity, self._positions) - cache.length
        if len(last) > self._step.height or count > room:
            raise ValueError(f"{count} propositions à {len(last)} séquences pour {room} positions")
        before, everyone = cache.lengths, np.arange(len(last))
        found: list[list[int]] = [[] for _ in last]
        tokens = list(last)
        for _ in range(count):
            x = embed(tokens, cache.lengths)
            logits = self._step.ragged(x, cache, [1] * len(last), everyone)
            cache.advance_(1)
            tokens = _greedy(logits) if choose is None else choose(logits)
            for each, token in zip(found, tokens, strict=True):
                each.append(token)
        cache.rewind_(before)
        return found


def _greedy(logits: Tensor) -> list[int]:
    found: list[int] = logits.numpy().argmax(axis=1).tolist()
    return found
