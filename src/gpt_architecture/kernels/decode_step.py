"""Un pas de décodage entier, d'un seul appel : peu d'activations, poids lus une fois.

À une séquence, la durée d'un token est celle de la lecture des poids ; tout le reste (normes,
attention, allers et retours avec Python) doit disparaître derrière elle. Le pas est donc un
programme (voir `program`) : de sept à neuf noyaux par bloc, puis la norme finale et la tête.

Formes : B séquences, T tokens nouveaux de chacune, M = B·T activations, D largeur, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.kernels.linear_kernels import (
    GELU,
    PLAIN,
    RESIDUAL,
    linear_float_,
    linear_integer_,
)
from gpt_architecture.kernels.packed_weights import DenseMatrix, GroupedMatrix, PackedMatrix
from gpt_architecture.kernels.program import Program
from gpt_architecture.kernels.step_kernels import (
    STATE_HEADER,
    attention_,
    encode_rows_,
    normalize_rows_,
)

_ACTIVE, _OUT = 0, 7  # arguments récrits d'un produit : activations présentes, sortie
_BLOCKS, _LINE, _MAX_BLOCK = 32, 16, 256
"""Lots visés par produit : assez pour que le dernier ne fasse attendre personne. Un bloc est un
nombre entier de lignes de cache de la sortie (16 valeurs), que les fils ne se disputent pas."""


class DecodeStep:
    """Le pas compilé d'un modèle.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module.
        vectors: normes et biais, par nom du `state_dict`.
        height: activations au plus (M).
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, PackedMatrix],
        vectors: Mapping[str, Tensor],
        height: int,
    ) -> None:
        self._cfg, self._matrices, self._vectors = cfg, matrices, vectors
        self._height = height
        self._program = Program()
        self._per_row: list[int] = []  # noyaux dont les lots sont les activations
        self._products: list[int] = []
        self._attentions: list[int] = []
        self._codes: dict[int, tuple[Tensor, Tensor]] = {}
        self._shape = (0, 0, 0)
        self._state = torch.zeros(STATE_HEADER + height, dtype=torch.int64)
        self._chosen = torch.zeros(height, dtype=torch.int64)
        self._x, self._normed, self._context, self._branch = torch.zeros(4, height, cfg.emb_dim)
        self._compose()

    def _compose(self) -> None:
        """Écrit le programme."""
        cfg, height = self._cfg, self._height
        qkv = torch.zeros(height, 3 * cfg.emb_dim)
        wide = torch.zeros(height, 4 * cfg.emb_dim)
        for index in range(cfg.n_layers):
            block = f"trf_blocks.{index}."
            parts = [f"{block}att.W_{name}" for name in ("query", "key", "value")]
            self._product(parts, self._x, qkv, norm=f"{block}norm1")
            arguments = (0, qkv, self._context, index, cfg.n_heads, self._state)
            self._attentions.append(self._program.add(attention_, 1, *arguments))
            self._product([f"{block}att.out_proj"], self._context, self._branch, mode=RESIDUAL)
            self._product([f"{block}ff.layers.0"], self._x, wide, norm=f"{block}norm2", mode=GELU)
            self._product([f"{block}ff.layers.2"], wide, self._branch, mode=RESIDUAL)
        logits = torch.zeros(1, cfg.vocab_size)  # remplacés à chaque passage
        self._product(["out_head"], self._x, logits, norm="final_norm", chosen=self._chosen)
        self._program.seal()

    def fits(self, rows: int, cache: KVCache) -> bool:
        """Vrai si le pas sait traiter `rows` activations avec ce cache."""
        storage = cache.storage
        return rows <= self._height and storage.dtype is torch.float32 and storage.is_contiguous()

    def __call__(self, x: Tensor, cache: KVCache, at: Tensor | None) -> Tensor:
        """x (B, T, D), embeddings des tokens nouveaux → logits (B, T, V), ou (B, 1, V) avec `at`.

        Le cache reçoit leurs clés et valeurs ; il n'est pas avancé.

        Raises:
            IndexError: un rang de `at` n'existe pas.
        """
        batch, count, width = x.shape
        rows = batch * count
        self._x[:rows] = x.view(rows, width)
        header = (count, batch, cache.storage.data_ptr(), cache.capacity)
        self._state.numpy()[: STATE_HEADER + batch] = (*header, *cache.lengths)
        wanted = np.arange(rows)
        if at is not None:
            chosen = at.numpy()
            if chosen.min() < 0 or chosen.max() >= count:
                raise IndexError(f"rangs {chosen.tolist()} pour {count} tokens")
            wanted = np.arange(batch) * count + chosen
        self._chosen.numpy()[: len(wanted)] = wanted
        self._resize(batch, rows, len(wanted))
        logits = torch.empty(len(wanted), self._cfg.vocab_size)
        self._program.set_word_(self._products[-1:], _OUT, logits.data_ptr())
        self._program.run()
        return logits.view(batch, -1, self._cfg.vocab_size)

    def _resize(self, batch: int, rows: int, wanted: int) -> None:
        """Dit leur taille aux noyaux, si elle a changé."""
        if self._shape == (batch, rows, wanted):
            return
        self._shape = (batch, rows, wanted)
        self._program.set_items_(self._attentions, batch * self._cfg.n_heads)
        for phases, size in ((slice(None, -1), rows), (slice(-1, None), wanted)):
            self._program.set_items_(self._per_row[phases], size)
            self._program.set_word_(self._products[phases], _ACTIVE, size)

    def _product(
        self,
        names: Sequence[str],
        x: Tensor,
        out: Tensor,
        *,
        norm: str | None = None,
        chosen: Tensor | None = None,
        mode: int = PLAIN,
    ) -> None:
        """out = norme(x) · [matrices `names` empilées] + biais ; avec RESIDUAL, x du pas += out.

        Args:
            chosen: lignes de x à lire ; None : toutes.
        """
        matrices = [self._matrices[name] for name in names]
        biases = [
            self._vectors[name] for name in (f"{n}.bias" for n in names) if name in self._vectors
        ]
        bias = torch.cat(biases) if biases else torch.empty(0)
        rows = matrices[0].shape[0]
        block = max(_LINE, min(_MAX_BLOCK, rows * len(names) // _BLOCKS // _LINE * _LINE))
        items = len(names) * -(-rows // block)
        residual = self._x if mode == RESIDUAL else torch.empty(0)
        inputs = self._input(matrices[0], x, norm, chosen)
        common = (rows, block, bias, mode, out, residual)
        if isinstance(matrices[0], GroupedMatrix):
            grouped = [each.grouped for each in matrices if isinstance(each, GroupedMatrix)]
            codes, scales = (
                torch.tensor([tensor.data_ptr() for tensor in tensors])
                for tensors in ([each.codes for each in grouped], [each.scales for each in grouped])
            )
            arguments = (inputs[0], codes, *common)
            extra = (grouped[0].bits, grouped[0].group_size, scales, inputs[1])
            phase = self._program.add(linear_integer_, items, 0, *arguments, *extra)
        else:
            dense = [each.weight for each in matrices if isinstance(each, DenseMatrix)]
            addresses = torch.tensor([weight.data_ptr() for weight in dense])
            phase = self._program.add(linear_float_, items, 0, inputs[0], addresses, *common)
        self._products.append(phase)

    def _input(
        self, matrix: PackedMatrix, x: Tensor, norm: str | None, chosen: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Ajoute, s'il le faut, le noyau qui prépare x pour `matrix` ; rend ce qu'il écrit."""
        outputs: tuple[Tensor, ...]
        gain, shift = torch.empty(0), torch.empty(0)
        if norm is not None:
            gain, shift = self._vectors[f"{norm}.scale"], self._vectors[f"{norm}.shift"]
        if chosen is None:
            chosen = torch.empty(0, dtype=torch.int64)
        if isinstance(matrix, GroupedMatrix):
            width = matrix.grouped.padded
            if width not in self._codes:
                codes = torch.zeros(self._height, width, dtype=torch.int16)
                self._codes[width] = (codes, torch.zeros(self._height))
            kernel, outputs = encode_rows_, self._codes[width]
        elif norm is None:
            return (x,)
        else:
            kernel, outputs = normalize_rows_, (self._normed,)
        phase = self._program.add(kernel, 1, 0, x, gain, shift, chosen, *outputs)
        self._per_row.append(phase)
        return outputs
