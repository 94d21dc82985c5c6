"""Les emplacements : un cache alloué une fois, dont chaque ligne sert une demande après l'autre.

Une ligne libérée garde ce qu'elle a lu : la demande suivante qui commence de même en part, et une
demande en cours prête aussi son invite, par copie. Rien n'est jamais recalculé ni déplacé pour une
autre raison. Ce qui est lu avec un adaptateur ne sert qu'à lui : ses clés et valeurs en dépendent.

Formes : T tokens d'une part, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.kv_cache import CacheView
from gpt_architecture.core.model import CausalLM
from gpt_architecture.decoding.cache_reader import CacheReader, Part

Ids = NDArray[np.int64]

_UNKNOWN = -1  # un token d'aucun vocabulaire


class SlotPool:
    """Un cache de `rows` lignes de `capacity` positions, et les tokens que chacune a lus.

    Args:
        model: alloue le cache.
        rows: lignes.
        capacity: positions d'une ligne.
    """

    def __init__(self, model: CausalLM, rows: int, capacity: int) -> None:
        self.cache = model.new_cache(rows, capacity)
        # Prise dès l'ouverture : la mémoire ne doit pas manquer au milieu d'une réponse.
        self.cache.storage.zero_()
        self._tokens: Ids = np.full((rows, capacity), _UNKNOWN, dtype=np.int64)
        self._numbers: Ids = np.zeros(rows, dtype=np.int64)  # `Adapter.number`, 0 : aucun
        self._busy = [False] * rows
        self._used = [0] * rows  # date de libération
        self._clock = count(1)

    @property
    def lengths(self) -> list[int]:
        """Positions lues de chaque ligne."""
        return self.cache.lengths

    @property
    def occupied(self) -> int:
        """Positions des lignes prises."""
        return sum(length for length, busy in zip(self.lengths, self._busy, strict=True) if busy)

    def acquire(
        self, prompt: Ids, adapter: Adapter | None = None, *, reuse: bool = True
    ) -> tuple[int, int]:
        """Prend une ligne libre ; rend son numéro et combien de tokens de `prompt` y sont lus.

        Le dernier token n'est jamais compté : il faut le lire pour savoir ce qui suit.

        Args:
            prompt: l'invite à lire.
            adapter: avec quoi la lire ; None : le modèle seul.
            reuse: faux : rien de ce qui est déjà lu ne sert.
        """
        number = 0 if adapter is None else adapter.number
        donor, shared = self._longest_prefix(prompt, number) if reuse else (-1, 0)
        free = [row for row, busy in enumerate(self._busy) if not busy]
        if donor in free and 2 * shared >= self.lengths[donor]:
            slot = donor
        else:  # le donneur garde sa séquence, qui peut servir encore
            kept = donor if shared else None
            slot = min(free, key=lambda row: (row == kept, self.lengths[row] > 0, self._used[row]))
        self._busy[slot], self._numbers[slot] = True, number
        self.cache.adapters[slot] = adapter
        self._copy_prefix(donor, slot, shared)
        return slot, shared

    def extend_(self, slot: int, prompt: Ids) -> int:
        """Copie dans `slot` ce qu'une autre ligne a lu de plus de `prompt` ; rend combien."""
        donor, shared = self._longest_prefix(prompt, int(self._numbers[slot]))
        gained = shared - self.lengths[slot]
        if gained <= 0:
            return 0
        self._copy_prefix(donor, slot, shared)
        return gained

    def release(self, slot: int, *, spoiled: bool = False) -> None:
        """Rend une ligne ; `spoiled` : ce qu'elle contient est peut-être faux."""
        if spoiled:
            self.cache.clear_(slot)
        self.cache.adapters[slot] = None  # retiré du service, il n'est plus tenu par personne
        self._busy[slot], self._used[slot] = False, next(self._clock)

    def view(self, slots: Sequence[int]) -> CacheView:
        """Les lignes `slots`, pour une passe avant."""
        return CacheView(self.cache, slots)

    def read(self, reader: CacheReader, parts: Sequence[Part]) -> list[Tensor]:
        """Lit chaque part à la suite de sa ligne, qui s'en souvient ; voir `CacheReader.run`."""
        found = reader.run(self.cache, parts)
        for part in parts:
            length = self.lengths[part.row]
            self._tokens[part.row, length - len(part.tokens) : length] = part.tokens
        return found

    def keep(self, slot: int, length: int) -> None:
        """Ne garde que les `length` premières positions de la ligne."""
        self.cache.set_length_(slot, length)

    def _longest_prefix(self, prompt: Ids, number: int) -> tuple[int, int]:
        """La ligne qui a lu, avec cet adaptateur, le plus long préfixe de `prompt` ; sa longueur.

        Args:
            number: celui de l'adaptateur ; 0 : aucun.
        """
        limit = min(len(prompt) - 1, self._tokens.shape[1])
        present = np.arange(limit) < np.array(self.lengths)[:, None]  # (lignes, positions)
        present &= (self._numbers == number)[:, None]
        same = (self._tokens[:, :limit] == prompt[:limit]) & present
        # La première différence : une colonne fausse de plus arrête aussi ce qui est tout égal.
        stops = np.column_stack([same, np.zeros(len(same), dtype=bool)])
        lengths = stops.argmin(axis=1)
        best = int(lengths.argmax())
        return best, int(lengths[best])

    def _copy_prefix(self, donor: int, slot: int, length: int) -> None:
        if donor == slot or length == 0:
            self.cache.set_length_(slot, length)
            return
        self.cache.copy_(donor, slot, length)
        self._tokens[slot, :length] = self._tokens[donor, :length]


def shared_prefix(first: Ids, second: Ids) -> int:
    """Longueur du préfixe commun de deux séquences."""
    limit = min(len(first), len(second))
    different = first[:limit] != second[:limit]
    return int(different.argmax()) if different.any() else limit
