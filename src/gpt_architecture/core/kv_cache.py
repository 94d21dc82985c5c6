"""Cache des clés et valeurs : chaque position n'est projetée qu'une fois.

Les séquences d'un lot peuvent avoir des longueurs différentes : chacune garde la sienne, et ce
qui est au-delà n'est jamais vu.

Formes : B lot, T positions nouvelles, S positions au total, H têtes, K taille d'une tête.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.machine import huge_zeros
from gpt_architecture.errors import GenerationError


class Alone:
    """Un seul thread à la fois ; un autre, refusé, écrirait dans la séquence du premier."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise GenerationError(
                "un autre thread se sert de ce cache",
                expected="un cache par séquence en cours",
                remedy="donnez le sien à chaque thread (new_cache)",
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Alone], tuple[()]]:
        """Une copie n'est à personne."""
        return Alone, ()


@dataclass(frozen=True)
class Placement:
    """Où vont les positions qui arrivent, et ce que chaque requête peut voir."""

    start: int | None  # même départ pour toutes les séquences ; None : `positions` le dit
    end: int
    positions: Tensor
    mask: Tensor | None


class LayerCache:
    """Clés et valeurs d'une couche : deux vues (B, H, capacité, K) du tampon commun."""

    def __init__(self, owner: KVCache, index: int) -> None:
        self._owner, self._index = owner, index

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ajoute k et v (B, H, T, K) à la suite de chaque séquence.

        Returns:
            Clés et valeurs (B, H, S, K) de toutes les positions, et le masque (B, 1, T, S), vrai
            là où une requête voit une clé ; None : l'ordre causal suffit.

        Raises:
            ValueError: le tampon est plein.
        """
        owner = self._owner
        placement, rows = owner.placement(k.size(-2)), owner.rows
        keys, values = owner.storage[self._index]
        if isinstance(rows, slice):
            keys, values = keys[rows], values[rows]  # des vues : rien n'est copié
            rows = slice(None)
        if placement.start is not None:
            keys[rows, :, placement.start : placement.end] = k
            values[rows, :, placement.start : placement.end] = v
        else:
            each = torch.arange(len(k), device=k.device) if isinstance(rows, slice) else rows
            keys[each[:, None], :, placement.positions] = k.transpose(1, 2)  # (B, T, H, K)
            values[each[:, None], :, placement.positions] = v.transpose(1, 2)
        return keys[rows, :, : placement.end], values[rows, :, : placement.end], placement.mask


class KVCache:
    """Cache de toutes les couches d'un modèle.

    Args:
        cfg: configuration du modèle.
        batch_size: nombre de séquences (B).
        capacity: positions au plus ; None : `cfg.context_length`.
        dtype: type des tampons, celui des activations.
        device: périphérique des tampons.

    Attributes:
        storage: (couches, 2, B, H, capacité, K) : clés, puis valeurs.
        lengths: positions présentes de chaque séquence.
        rows: lignes du tampon où sont les séquences : une tranche, ou (B,) int64.
        adapters: l'adaptateur avec lequel chaque séquence est lue ; None : le modèle seul.
        alone: le thread qui s'en sert, le temps d'un passage ; un second est refusé.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        batch_size: int,
        *,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        capacity = cfg.context_length if capacity is None else capacity
        shape = (cfg.n_layers, 2, batch_size, cfg.n_heads, capacity, cfg.head_dim)
        # Des zéros : une position masquée est multipliée par 0, elle doit donc être un nombre.
        on_cpu = torch.device(device).type == "cpu"
        self.storage = (
            huge_zeros(*shape, dtype=dtype)
            if on_cpu
            else torch.zeros(shape, dtype=dtype, device=device)
        )
        self.capacity = capacity
        self.lengths = [0] * batch_size
        self.adapters: list[Adapter | None] = [None] * batch_size
        self.rows: slice | Tensor = slice(None)
        self.alone = Alone()
        self._placement: Placement | None = None

    @property
    def layers(self) -> list[LayerCache]:
        """Le cache de chaque couche.

        Fait à la demande : gardées, ces vues et lui se tiendraient l'un l'autre, et le tampon ne
        serait rendu qu'au passage du ramasse-miettes.
        """
        return [LayerCache(self, index) for index in range(len(self.storage))]

    @property
    def lines(self) -> Sequence[int]:
        """Ces lignes, une par une."""
        return range(len(self.lengths))

    @property
    def length(self) -> int:
        """Positions de la plus longue séquence (S)."""
        return max(self.lengths, default=0)

    def end_of(self, count: int) -> int:
        """Positions de la plus longue séquence après `count` de plus.

        Raises:
            ValueError: le tampon est trop petit.
        """
        end = self.length + count
        if end > self.capacity:
            raise ValueError(
                f"cache plein : {end} positions pour {self.capacity} ; "
                "videz-le avec reset() ou allouez-le plus grand"
            )
        return end

    def positions(self, count: int) -> Tensor:
        """Positions des `count` prochains tokens : (T,), ou (B, T) si les longueurs diffèrent.

        Raises:
            ValueError: le tampon est trop petit.
        """
        return self.placement(count).positions

    def placement(self, count: int) -> Placement:
        """Où vont les `count` prochaines positions ; gardé jusqu'à ce que les longueurs changent.

        Raises:
            ValueError: le tampon est trop petit.
        """
        placement = self._placement
        if placement is not None and placement.positions.size(-1) == count:
            return placement
        end = self.end_of(count)
        device = self.storage.device
        if len(set(self.lengths)) <= 1:
            positions = torch.arange(self.length, end, device=device)  # (T,)
            placement = Placement(self.length, end, positions, None)
        else:
            starts = torch.tensor(self.lengths, device=device).unsqueeze(1)  # (B, 1)
            positions = starts + torch.arange(count, device=device)  # (B, T)
            visible = torch.arange(end, device=device) <= positions.unsqueeze(-1)  # (B, T, S)
            placement = Placement(None, end, positions, visible.unsqueeze(1))
        self._placement = placement
        return placement

    def advance_(self, count: int) -> None:
        """Compte `count` positions de plus dans chaque séquence ; une fois par passage."""
        self.advance_each_([count] * len(self.lengths))

    def advance_each_(self, counts: Sequence[int]) -> None:
        """Compte `counts[i]` positions de plus dans la séquence i."""
        pairs = zip(self.lengths, counts, strict=True)
        self._set_lengths([length + count for length, count in pairs])

    def rewind_(self, lengths: Sequence[int]) -> None:
        """Oublie les dernières positions de chaque séquence.

        Args:
            lengths: ce qu'il en reste, par séquence.

        Raises:
            ValueError: une longueur est négative ou plus grande que la présente.
        """
        pairs = zip(lengths, self.lengths, strict=True)
        if any(not 0 <= wanted <= present for wanted, present in pairs):
            raise ValueError(f"longueurs {list(lengths)} pour un cache de {self.lengths}")
        self._set_lengths(list(lengths))

    def select_(self, rows: Sequence[int]) -> None:
        """Garde, range ou répète des séquences : la nouvelle i est l'ancienne `rows[i]`."""
        with self.alone:
            present = self.storage[:, :, :, :, : self.length]
            if len(rows) == len(self.lengths):  # en place : seules celles qui changent bougent
                moved = [row for row, source in enumerate(rows) if row != source]
                if moved:
                    present[:, :, moved] = present[:, :, [rows[row] for row in moved]]
            else:
                shape = (*self.storage.shape[:2], len(rows), *self.storage.shape[3:])
                self.storage = self.storage.new_zeros(shape)
                self.storage[:, :, :, :, : self.length] = present[:, :, list(rows)]
            self.adapters = [self.adapters[row] for row in rows]
            self._set_lengths([self.lengths[row] for row in rows])

    def load_(self, other: KVCache, first: int) -> None:
        """Copie toutes les séquences d'un autre cache à partir de la ligne `first`.

        Raises:
            ValueError: il n'y a pas la place.
        """
        rows = slice(first, first + len(other.lengths))
        if rows.stop > len(self.lengths) or other.length > self.capacity:
            raise ValueError(
                f"{len(other.lengths)} séquences de {other.length} positions à partir de la ligne "
                f"{first}, dans un cache de {len(self.lengths)} séquences de {self.capacity}"
            )
        with self.alone, other.alone:
            self.storage[:, :, rows, :, : other.length] = other.storage[:, :, :, :, : other.length]
            self.adapters[rows] = other.adapters
            self._set_lengths([*self.lengths[:first], *other.lengths, *self.lengths[rows.stop :]])

    def reset(self) -> None:
        """Oublie toutes les positions, sans rendre la mémoire."""
        self._set_lengths([0] * len(self.lengths))

    def set_length_(self, row: int, length: int) -> None:
        """Dit combien de positions de la ligne `row` sont présentes."""
        with self.alone:
            self.lengths[row], self._placement = length, None

    def copy_(self, source: int, target: int, length: int) -> None:
        """La ligne `target` devient les `length` premières positions de la ligne `source`.

        Raises:
            ValueError: elles n'y sont pas.
        """
        if not 0 <= length <= self.lengths[source]:
            raise ValueError(f"{length} positions d'une ligne qui en a {self.lengths[source]}")
        with self.alone:
            rows = self.storage[:, :, :, :, :length]
            rows[:, :, target] = rows[:, :, source]
            self.set_length_(target, length)

    def clear_(self, row: int) -> None:
        """Vide une ligne, valeurs comprises : un NaN masqué se propagerait encore (0 × NaN)."""
        with self.alone:
            self.storage[:, :, row] = 0.0
            self.set_length_(row, 0)

    def _set_lengths(self, lengths: list[int]) -> None:
        with self.alone:
            self.lengths, self._placement = lengths, None


class CacheView(KVCache):
    """Quelques séquences d'un cache, sans copie : un passage n'avance que celles-là.

    Args:
        pool: le cache commun ; ses longueurs avancent avec la vue.
        slots: lignes du cache, distinctes, dans l'ordre des séquences du passage.
    """

    def __init__(self, pool: KVCache, slots: Sequence[int]) -> None:
        self.storage, self.capacity = pool.storage, pool.capacity
        self.lengths = [pool.lengths[slot] for slot in slots]
        self.adapters = [pool.adapters[slot] for slot in slots]
        self.alone = pool.alone
        self._slots, self._pool, self._placement = list(slots), pool, None
        first = self._slots[0]
        consecutive = self._slots == list(range(first, first + len(self._slots)))
        self.rows = (
            slice(first, first + len(self._slots))
            if consecutive
            else torch.tensor(self._slots, device=self.storage.device)
        )

    @property
    def lines(self) -> Sequence[int]:
        """Voir `KVCache.lines`."""
        return self._slots

    def select_(self, rows: Sequence[int]) -> None:
        """Refusé : les lignes appartiennent au cache commun."""
        raise ValueError("une vue ne range pas les lignes du cache commun")

    def load_(self, other: KVCache, first: int) -> None:
        """Refusé, comme `select_`."""
        raise ValueError("une vue ne remplit pas les lignes du cache commun")

    def _set_lengths(self, lengths: list[int]) -> None:
        super()._set_lengths(lengths)
        for slot, length in zip(self._slots, lengths, strict=True):
            self._pool.set_length_(slot, length)
