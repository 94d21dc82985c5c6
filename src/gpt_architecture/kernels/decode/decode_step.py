"""Un pas de décodage entier, d'un seul appel, sans revenir à Python.

À une séquence, la durée d'un token est celle de la lecture des poids ; tout le reste (normes,
attention, allers et retours avec Python) doit disparaître derrière elle. Le pas est donc un
programme (voir `program`) : de sept à neuf noyaux par bloc, puis la norme finale et la tête.

Des poids fp32 en lignes se lisent sous deux formes. Étroite, pour quelques activations : chaque
ligne est lue une fois et multipliée telle quelle (`linear_kernels`). Large, pour un lot : les
activations sont transposées et des tuiles de registres les multiplient ensemble (`wide_kernels`).
Séparée, pour vérifier des propositions : comme l'étroite, avec les bits d'une activation seule.
Des poids entiers, ou des poids fp32 en bandes (`strip_kernels`), n'en ont qu'une, où chaque
activation ignore les autres au bit près.

Formes : B séquences, T tokens nouveaux de chacune, M = B·T activations, D largeur, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.kernels.decode.dot_tiles import PAIRED_BLOCKS
from gpt_architecture.kernels.decode.linear_kernels import (
    GELU,
    PLAIN,
    RESIDUAL,
    linear_apart_,
    linear_float_,
    linear_integer_,
)
from gpt_architecture.kernels.decode.packed_weights import (
    STRIP,
    GroupedMatrix,
    KernelMatrix,
    StripMatrix,
)
from gpt_architecture.kernels.decode.step_kernels import (
    STATE_HEADER,
    STATE_SEQUENCE,
    attention_,
    encode_rows_,
    normalize_rows_,
)
from gpt_architecture.kernels.decode.strip_kernels import linear_strips_
from gpt_architecture.kernels.decode.strip_tiles import TOGETHER
from gpt_architecture.kernels.decode.wide_kernels import LINE, linear_wide_, transpose_rows_
from gpt_architecture.kernels.decode.wide_tiles import MAX_COLUMNS
from gpt_architecture.kernels.runtime.program import Program

_ACTIVE, _OUT = 0, 7  # arguments récrits d'un produit : activations présentes, sortie
NARROW_ROWS, APART_ROWS, ROWS = 4, 8, MAX_COLUMNS
"""Activations au plus de la forme étroite, de celle qui les sépare, et des autres (mesurées)."""

_BLOCKS, _MAX_BLOCK, _WIDE_BLOCK = 4, 1024, 24
"""Lots visés par fil d'un produit étroit : peu, car chaque lot commence une lecture que la machine
n'a pas anticipée (mesuré : seize lots par fil coûtent un quart d'un token) ; lignes au plus ;
lignes d'un lot large, un nombre entier de tuiles de chaque hauteur."""

_FEW_THREADS = 4
"""Fils au plus pour que des blocs de plusieurs bandes les occupent encore tous jusqu'au bout."""

_CACHE_LINE = STRIP  # valeurs fp32 ; un bloc en est un multiple : deux fils n'en partagent pas


class DecodeStep:
    """Le pas compilé d'un modèle.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module.
        vectors: normes et biais, par nom du `state_dict`.
        wide: forme large plutôt qu'étroite, pour des poids fp32 en lignes.
        apart: forme étroite qui sépare les activations, pour les mêmes.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, KernelMatrix],
        vectors: Mapping[str, Tensor],
        *,
        wide: bool = False,
        apart: bool = False,
    ) -> None:
        self._cfg, self._matrices, self._vectors = cfg, matrices, vectors
        self._wide, self._apart = wide, apart
        single = isinstance(matrices["out_head"], GroupedMatrix | StripMatrix)
        narrow = APART_ROWS if apart else NARROW_ROWS
        height = self.height = ROWS if wide or single else narrow
        self._program = Program()
        self._prepared: list[int] = []  # noyaux dont les lots sont les activations
        self._products: list[int] = []
        self._attentions: list[int] = []
        self._inputs: dict[tuple[int, tuple[int, ...]], tuple[Tensor, ...]] = {}  # x préparé
        self._shape = (0, 0, 0)
        self._state = torch.zeros(STATE_HEADER + STATE_SEQUENCE * height, dtype=torch.int64)
        self._chosen = torch.zeros(height, dtype=torch.int64)
        self._x, self._context, self._branch = torch.zeros(3, height, cfg.emb_dim)
        self._compose()

    def _compose(self) -> None:
        """Écrit le programme."""
        cfg, height = self._cfg, self.height
        qkv = torch.zeros(height, 3 * cfg.emb_dim)
        inner = cfg.inner_width
        hidden = torch.zeros((inner, height) if self._wide else (height, inner))
        for index in range(cfg.n_layers):
            block = f"trf_blocks.{index}."
            parts = [f"{block}att.W_{name}" for name in ("query", "key", "value")]
            self._product(parts, self._prepare(parts[0], self._x, f"{block}norm1"), qkv)
            arguments = (0, qkv, self._context, index, cfg.n_heads, self._state)
            self._attentions.append(self._program.add(attention_, 1, *arguments))
            name = f"{block}att.out_proj"
            self._product([name], self._prepare(name, self._context), self._branch, RESIDUAL)
            name = f"{block}ff.layers.0"
            self._product([name], self._prepare(name, self._x, f"{block}norm2"), hidden, GELU)
            name = f"{block}ff.layers.2"
            inputs = (hidden,) if self._wide else self._prepare(name, hidden)
            self._product([name], inputs, self._branch, RESIDUAL)
        inputs = self._prepare("out_head", self._x, "final_norm", self._chosen)
        self._product(["out_head"], inputs, torch.zeros(1, cfg.vocab_size))  # remplacé à l'appel
        self._program.seal()
        self._head_items = self._program.items(self._products[-1])

    def fits(self, rows: int, cache: KVCache) -> bool:
        """Vrai si le pas sait traiter `rows` activations avec ce cache."""
        storage = cache.storage
        return rows <= self.height and storage.dtype is torch.float32 and storage.is_contiguous()

    def __call__(self, x: Tensor, cache: KVCache, at: Tensor | None) -> Tensor:
        """x (B, T, D), embeddings des tokens nouveaux → logits (B, T, V), ou (B, 1, V) avec `at`.

        Le cache reçoit leurs clés et valeurs ; il n'est pas avancé.

        Raises:
            IndexError: un rang de `at` n'existe pas.
        """
        batch, count, width = x.shape
        wanted = np.arange(batch * count)
        if at is not None:
            chosen = at.numpy()
            if chosen.min() < 0 or chosen.max() >= count:
                raise IndexError(f"rangs {chosen.tolist()} pour {count} tokens")
            wanted = np.arange(batch) * count + chosen
        logits = self.ragged(x.view(-1, width), cache, [count] * batch, wanted)
        return logits.view(batch, -1, self._cfg.vocab_size)

    def ragged(
        self, x: Tensor, cache: KVCache, counts: Sequence[int], wanted: NDArray[np.int64]
    ) -> Tensor:
        """Comme l'appel, pour des séquences qui n'ont pas le même nombre de tokens nouveaux.

        Args:
            x: (M, D), leurs embeddings, une séquence après l'autre.
            cache: une ligne par séquence ; il n'est pas avancé.
            counts: tokens nouveaux de chacune.
            wanted: (W,), rangs dans x des logits voulus.

        Returns:
            Logits (W, V).
        """
        rows, sequences = len(x), len(counts)
        self._x[:rows] = x
        state = self._state.numpy()
        state[:STATE_HEADER] = cache.storage.data_ptr(), cache.capacity, cache.storage.size(2)
        each = state[STATE_HEADER:].reshape(-1, STATE_SEQUENCE)[:sequences]
        each[:, 0], each[:, 1], each[:, 3] = cache.lines, cache.lengths, counts
        each[:, 2] = each[:, 3].cumsum() - each[:, 3]
        self._chosen.numpy()[: len(wanted)] = wanted
        self._resize(sequences, rows, len(wanted))
        logits = torch.empty(len(wanted), self._cfg.vocab_size)
        self._program.set_word_(self._products[-1:], _OUT, logits.data_ptr())
        self._program.run()
        return logits

    def _resize(self, sequences: int, rows: int, wanted: int) -> None:
        """Dit leur taille aux noyaux, si elle a changé."""
        if self._shape == (sequences, rows, wanted):
            return
        self._shape = (0, 0, 0)  # un fork entre deux mots laisserait l'enfant avec la moitié
        self._program.set_items_(self._attentions, sequences * self._cfg.n_heads)
        for phases, size in ((slice(None, -1), rows), (slice(-1, None), wanted)):
            prepared = self._prepared[phases]
            self._program.set_items_(prepared, -(-size // LINE) if self._wide else size)
            self._program.set_word_(prepared, _ACTIVE, size)
            self._program.set_word_(self._products[phases], _ACTIVE, size)
        self._program.set_items_(self._products[-1:], self._head_items if wanted else 0)
        self._shape = (sequences, rows, wanted)

    def _product(
        self, names: Sequence[str], inputs: tuple[Tensor, ...], out: Tensor, mode: int = PLAIN
    ) -> None:
        """out = inputs · [matrices `names` empilées] + biais ; avec RESIDUAL, x du pas += out."""
        matrices = [self._matrices[name] for name in names]
        tensors = list(zip(*(matrix.tensors() for matrix in matrices), strict=True))
        weights, *scales = (torch.tensor([t.data_ptr() for t in each]) for each in tensors)
        biases = [self._vectors[key] for name in names if (key := f"{name}.bias") in self._vectors]
        rows = matrices[0].shape[0]
        first, more = matrices[0], list[Tensor | int]()
        unit = _CACHE_LINE
        if isinstance(first, StripMatrix) and torch.get_num_threads() <= _FEW_THREADS:
            unit *= TOGETHER
        block = rows * len(names) // (_BLOCKS * torch.get_num_threads()) // unit * unit
        block = _WIDE_BLOCK if self._wide else max(unit, min(_MAX_BLOCK, block))
        if isinstance(first, GroupedMatrix):
            kernel = linear_integer_
            more = [first.grouped.bits, first.grouped.group_size, scales[0], inputs[1]]
        elif isinstance(first, StripMatrix):
            kernel = linear_strips_
        elif self._apart:
            kernel = linear_apart_
        else:
            kernel = linear_wide_ if self._wide else linear_float_
        phase = self._program.add(
            kernel,
            len(names) * -(-rows // block),
            *(0, inputs[0], weights, rows, block),
            torch.cat(biases) if biases else torch.empty(0),
            *(mode, out, self._x if mode == RESIDUAL else torch.empty(0)),
            *more,
        )
        self._products.append(phase)

    def _prepare(
        self, name: str, x: Tensor, norm: str | None = None, chosen: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Ajoute, s'il le faut, le noyau qui prépare x pour la matrice `name` ; rend sa sortie.

        Args:
            chosen: lignes de x à lire ; None : toutes.
        """
        matrix, width = self._matrices[name], x.size(1)
        gain, shift = torch.empty(0), torch.empty(0)
        if norm is not None:
            gain, shift = self._vectors[f"{norm}.scale"], self._vectors[f"{norm}.shift"]
        if chosen is None:
            chosen = torch.empty(0, dtype=torch.int64)
        outputs: tuple[Tensor, ...]
        more: tuple[int, ...] = ()
        if self._wide:
            kernel, outputs = transpose_rows_, (torch.zeros(width, self.height),)
        elif isinstance(matrix, GroupedMatrix):
            codes = torch.zeros(self.height, matrix.grouped.padded, dtype=torch.int16)
            kernel, outputs = encode_rows_, (codes, torch.zeros(self.height))
            more = (int(PAIRED_BLOCKS and matrix.grouped.bits == 4),)
        elif norm is None:
            return (x,)
        else:
            kernel, outputs = normalize_rows_, (torch.zeros(self.height, width),)
        outputs = self._inputs.setdefault((width, more), outputs)
        phase = self._program.add(kernel, 1, 0, x, gain, shift, chosen, *outputs, *more)
        self._prepared.append(phase)
        return outputs
