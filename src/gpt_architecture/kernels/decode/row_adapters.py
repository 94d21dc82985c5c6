"""La part des adaptateurs dans un pas : chaque activation a le sien, de son rang, ou aucun.

Avant chaque produit, un noyau calcule ce que l'adaptateur de chaque activation lui ajoute
(`step_kernels.low_rank_`) ; le produit l'ajoute à ses sommes, avant biais et GELU. Tout est en
fp32, des activations aux résultats, que les poids du modèle soient quantifiés ou non, et rien n'y
dépend des autres activations.

Formes : D entrée, E sortie d'une matrice, r rang.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from gpt_architecture.core.adapters import Adapter
from gpt_architecture.kernels.decode.step_kernels import TABLE, low_rank_
from gpt_architecture.kernels.runtime.program import Program, Words


class RowAdapters:
    """Les noyaux que les adaptateurs ajoutent à un programme, et ce qu'ils lisent.

    Args:
        program: le programme, en construction.
        height: activations au plus.
    """

    def __init__(self, program: Program, height: int) -> None:
        self._program, self._height = program, height
        self._owners = Words(height)
        self._phases: dict[int, list[int]] = {}  # noyaux, par nombre de parties d'une ligne
        self._active = 1  # activations que leurs lots comptent
        self._matrices: list[tuple[str, int, int]] = []  # nom, D, E
        self._deltas: dict[int, Tensor] = {}
        self._tables: WeakKeyDictionary[Adapter, Tensor] = WeakKeyDictionary()

    def before(
        self, names: Sequence[str], rows: int, x: Tensor, gain: Tensor, shift: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Ajoute le noyau d'un produit ; rend ce que celui-ci lira : à qui, et combien ajouter.

        Args:
            names: ses matrices, de `rows` lignes chacune.
            x: (hauteur, D), ses activations.
            gain, shift: de leur norme ; vides : aucune.
        """
        parts, first = len(names), len(self._matrices)
        delta = self._deltas.setdefault(parts * rows, torch.zeros(self._height, parts * rows))
        self._matrices += [(name, x.size(1), rows) for name in names]
        arguments = (x, gain, shift, self._owners.tensor, first, parts, rows, delta)
        phase = self._program.add(low_rank_, parts, *arguments)
        self._phases.setdefault(parts, []).append(phase)
        return self._owners.tensor, delta

    def write(self, adapters: Sequence[Adapter | None]) -> None:
        """Dit l'adaptateur de chaque activation du passage."""
        self._owners.write([0 if each is None else self._table(each) for each in adapters])
        if len(adapters) != self._active:
            for parts, phases in self._phases.items():
                self._program.set_items_(phases, parts * len(adapters))
            self._active = len(adapters)

    def _table(self, adapter: Adapter) -> int:
        """Adresse de sa table, que les noyaux lisent ; gardée aussi longtemps que lui.

        Raises:
            ValueError: ses matrices ne vont pas à ce modèle : le noyau lirait ailleurs.
        """
        table = self._tables.get(adapter)
        if table is None:
            words = [self._words(adapter, *matrix) for matrix in self._matrices]
            table = torch.tensor(words, dtype=torch.int64)  # (matrices, TABLE)
            assert table.size(1) == TABLE  # noqa: S101 — ce que le noyau avance
            self._tables[adapter] = table
        return table.data_ptr()

    @staticmethod
    def _words(adapter: Adapter, name: str, width: int, rows: int) -> tuple[int, int, int]:
        if name not in adapter.layers:
            return 0, 0, 0
        a, b = adapter.layers[name]
        rank = len(a)
        shapes = a.shape == (rank, width) and b.shape == (rank, rows)
        if not (shapes and all(_is_plain(each) for each in (a, b))):
            raise ValueError(f"{name} : un adaptateur {tuple(a.shape)}, {tuple(b.shape)}")
        return a.data_ptr(), b.data_ptr(), rank


def _is_plain(tensor: Tensor) -> bool:
    is_fp32 = tensor.dtype is torch.float32 and tensor.device.type == "cpu"
    return is_fp32 and tensor.is_contiguous()
