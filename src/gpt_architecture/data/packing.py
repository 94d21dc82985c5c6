"""Des conversations réunies à plusieurs par rangée, au lieu d'une, complétée de remplissage.

Leurs frontières sont gardées à part : une conversation peut contenir des fins de texte. Elles n'ont
d'effet que si l'attention s'y tient (`core.documents`) : chacune s'apprend alors comme si elle
était seule.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.data.texts.conversations import ConversationTokens, EncodedConversation


class PackedConversations(ConversationTokens):
    """Des conversations en rangées de `window` + 1 tokens, plusieurs par rangée (`pack`).

    Args:
        rows, window, padding: voir `ConversationTokens`.
    """

    def __init__(self, rows: Sequence[EncodedConversation], window: int, padding: int) -> None:
        groups = pack([len(row.ids) for row in rows], window + 1)
        bounds = np.zeros((len(groups), window + 1), dtype=np.bool_)
        merged, places = [], list[tuple[int, int, int]]()
        for index, group in enumerate(groups):
            ids, learned = list[int](), list[bool]()
            for each in group:
                bounds[index, len(ids)] = True
                first = index * (window + 1) + len(ids)
                places.append((rows[each].line, first, first + len(rows[each].ids)))
                ids += rows[each].ids
                # Rien ne précède son premier token : la conversation d'avant n'a pas à le prédire.
                learned += [False, *rows[each].learned[1:]]
            merged.append(EncodedConversation(ids=ids, learned=learned))
        super().__init__(merged, window, padding)
        self.count, self.places = len(rows), places
        self._bounds = bounds.reshape(-1)

    def read_boundaries(self, start: int, length: int) -> Tensor:
        """(length,) booléen : les tokens, depuis `start`, qui commencent une conversation."""
        return torch.from_numpy(self._bounds[start : start + length])


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Réunit en rangées : chaque longueur va dans la plus pleine de celles qui l'acceptent encore.

    Args:
        lengths: longueurs, de 1 à `room`.
        room: place d'une rangée.

    Returns:
        Les rangs, dans `lengths`, de ce que contient chaque rangée, dans l'ordre.
    """
    rows = list[list[int]]()
    waiting = dict[int, deque[int]]()  # tokens libres → rangées, les anciennes d'abord
    places = list[int]()  # ces nombres, triés
    for index, length in enumerate(lengths):
        at = bisect_left(places, length)
        if at == len(places):
            row, left = len(rows), room
            rows.append([])
        else:
            left = places[at]
            row = waiting[left].popleft()
            if not waiting[left]:
                del waiting[left], places[at]
        rows[row].append(index)
        left -= length
        if left > 0:
            if left not in waiting:
                waiting[left] = deque()
                insort(places, left)
            waiting[left].append(row)
    return rows
