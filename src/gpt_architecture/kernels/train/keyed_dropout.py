"""Dropout à clés : chaque masque est une fonction pure, sans générateur ni mémoire.

Le masque d'une séquence ne dépend que de la graine, du numéro de la séquence depuis le début
de l'entraînement et de l'endroit du modèle. Reprendre un entraînement, le répartir sur
plusieurs processus ou changer la taille des micro-lots redonne donc les mêmes masques, et la
rétropropagation les recalcule au lieu de les garder.

Pour une ligne r d'un endroit s : clé(s) → `mix32(clé basse ^ r·φ) + clé haute`, puis un mot
de 32 bits par paire de colonnes, `mix32(ligne ^ j)`, dont les 16 bits bas servent la colonne
j et les 16 bits hauts la colonne j + ⌈n/2⌉. Un élément est gardé si ses 16 bits atteignent
`threshold(p)`. `mix32` est le mélangeur « lowbias32 » de C. Wellons (2018) ; la clé vient de
splitmix64 (Steele et al., 2014).

Formes : B séquences, T tokens, H têtes, R lignes et n colonnes d'un masque.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gpt_architecture.core.attention import AttentionBackend, MultiHeadAttention, causal_mask
from gpt_architecture.core.model import GPTModel

LANES = 1 << 16
"""Finesse des probabilités : un masque tire 16 bits par élément."""

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF
_DOMAIN = int.from_bytes(b"dropout", "big")  # l'ordre des données vient de la même graine
_GOLDEN = 0x9E3779B9


def threshold(p: float) -> int:
    """Valeurs de 16 bits qui annulent un élément : p arrondi au 65 536e, sans tout annuler."""
    return min(round(p * LANES), LANES - 1)


def keep_scale(p: float) -> float:
    """Facteur des éléments gardés, exact pour la probabilité arrondie."""
    return LANES / (LANES - threshold(p))


def site_keys(seed: int, sequence_ids: Tensor, sites: int) -> NDArray[np.uint32]:
    """Clés (B, sites, 2) uint32 : une paire par séquence et par endroit du modèle.

    Args:
        seed: graine de l'entraînement.
        sequence_ids: (B,) int64, numéros des séquences depuis le début de l'entraînement.
        sites: nombre d'endroits où le modèle abandonne.
    """
    keys = np.empty((sequence_ids.numel(), sites, 2), dtype=np.uint32)
    for row, sequence in enumerate(sequence_ids.tolist()):
        state = _splitmix64(_splitmix64((seed ^ _DOMAIN) & _M64) ^ (sequence & _M64))
        for site in range(sites):
            word = _splitmix64((state + site * 0x9E3779B97F4A7C15) & _M64)
            keys[row, site] = word & _M32, word >> 32
    return keys


def keep_mask(keys: Tensor, rows: int, columns: int, p: float) -> Tensor:
    """Masque booléen (B, rows, columns), vrai là où l'élément est gardé.

    L'oracle lisible des noyaux compilés, en opérations PyTorch.

    Args:
        keys: (B, 2) int64, les clés d'un endroit.
        rows: lignes par séquence (R).
        columns: colonnes par ligne (n).
        p: probabilité de dropout.
    """
    device = keys.device
    row = torch.arange(rows, device=device) * _GOLDEN & _M32  # (R,)
    row = _mix32(keys[:, 0, None] ^ row) + keys[:, 1, None] & _M32  # (B, R)
    half = (columns + 1) // 2
    words = _mix32(row[..., None] ^ torch.arange(half, device=device))  # (B, R, n/2)
    bits = torch.cat([words & 0xFFFF, words >> 16], dim=-1)[..., :columns]
    return bits >= threshold(p)


class DropoutKeys:
    """Les clés du lot en cours, lues par tous les modules de dropout d'un modèle."""

    def __init__(self, seed: int, sites: int) -> None:
        self.seed = seed
        self.sites = sites
        self._keys: Tensor | None = None

    @contextmanager
    def sequences(self, sequence_ids: Tensor) -> Iterator[None]:
        """Fixe les séquences (B,) dont les masques valent pendant le bloc."""
        table = site_keys(self.seed, sequence_ids, self.sites).astype(np.int64)
        self._keys = torch.from_numpy(table)
        try:
            yield
        finally:
            self._keys = None

    def site(self, index: int, batch: int, device: torch.device) -> Tensor:
        """Clés (B, 2) int64 d'un endroit.

        Raises:
            RuntimeError: aucune séquence fixée, ou un lot d'une autre taille.
        """
        if self._keys is None or self._keys.size(0) != batch:
            raise RuntimeError("dropout à clés hors de DropoutKeys.sequences, ou d'un autre lot")
        return self._keys[:, index].to(device)


class KeyedDropout(nn.Module):
    """Remplace `nn.Dropout` sur un tenseur (B, T, D) : mêmes probabilités, masque à clés."""

    def __init__(self, p: float, keys: DropoutKeys, site: int) -> None:
        super().__init__()
        self.p, self.keys, self.site = p, keys, site

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) → même forme."""
        if not self.training or self.p == 0.0:
            return x
        keys = self.keys.site(self.site, x.size(0), x.device)
        keep = keep_mask(keys, x.size(1), x.size(2), self.p)
        return x * keep * keep_scale(self.p)


def use_keyed_dropout_(model: GPTModel, seed: int) -> DropoutKeys:
    """Remplace, sur place, tous les abandons de `model` par des abandons à clés.

    Les endroits sont numérotés : 0 pour les embeddings, puis trois par bloc (poids
    d'attention, branche d'attention, branche du perceptron). Le `state_dict` ne change pas.

    Returns:
        Les clés, à fixer autour de chaque lot avec `sequences`.
    """
    p = model.cfg.drop_rate
    keys = DropoutKeys(seed, sites=1 + 3 * model.cfg.n_layers)
    _replace_(model, "drop_emb", KeyedDropout(p, keys, 0))
    for index in range(model.cfg.n_layers):
        first, path = 1 + 3 * index, f"trf_blocks.{index}"
        attention = model.get_submodule(f"{path}.att")
        assert isinstance(attention, MultiHeadAttention)  # noqa: S101 — la structure de GPTModel
        attention.backend = _KeyedAttention(attention.backend, keys, first)
        _replace_(model, f"{path}.drop_shortcut", KeyedDropout(p, keys, first + 1))
        _replace_(model, f"{path}.drop_feed_forward", KeyedDropout(p, keys, first + 2))
    return keys


class _KeyedAttention:
    """Un moteur d'attention dont les poids sont abandonnés selon des clés."""

    def __init__(self, original: AttentionBackend, keys: DropoutKeys, site: int) -> None:
        self.original, self.keys, self.site = original, keys, site

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float, mask: Tensor | None = None
    ) -> Tensor:
        if dropout_p == 0.0:
            return self.original(q, k, v, dropout_p=0.0, mask=mask)
        batch, heads, queries, size = q.shape
        scores = q @ k.transpose(-2, -1) * size**-0.5  # (B, H, T, T)
        visible = causal_mask(queries, k.size(-2), q.device) if mask is None else mask
        scores = scores.masked_fill(~visible, -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        keys = self.keys.site(self.site, batch, q.device)
        keep = keep_mask(keys, heads * queries, k.size(-2), dropout_p)  # (B, H·T, T)
        keep = keep.view(batch, heads, queries, -1)
        return (weights * keep * keep_scale(dropout_p)) @ v  # (B, H, T, K)


def _replace_(model: nn.Module, path: str, module: nn.Module) -> None:
    """Met `module` à la place d'un autre, dans le même mode."""
    model.set_submodule(path, module.train(model.get_submodule(path).training))


def _splitmix64(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _M64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _M64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _M64
    return value ^ (value >> 31)


def _mix32(x: Tensor) -> Tensor:
    """lowbias32 sur des entiers de 32 bits portés par des int64."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D & _M32
    x = x ^ (x >> 15)
    x = x * 0x846CA68B & _M32
    return x ^ (x >> 16)
