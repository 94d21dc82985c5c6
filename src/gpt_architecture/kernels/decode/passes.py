"""Les passages sur les poids d'un modèle compacté : les pas compilés, et les produits de PyTorch.

Un pas compilé sert tant qu'il y a peu d'activations. Les produits de PyTorch servent aux lots plus
grands, et partout où les noyaux manquent.

Formes : B lot, T tokens, D largeur, F largeur du perceptron, N lignes de poids, V vocabulaire.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.adapters import Adapter, add_adapters_
from gpt_architecture.core.attention import sdpa_attention
from gpt_architecture.core.grouped_codes import Scheme, quantize
from gpt_architecture.core.kv_cache import KVCache, LayerCache
from gpt_architecture.core.layers import ACTIVATIONS
from gpt_architecture.core.machine import Turn
from gpt_architecture.kernels import loading_obstacle, shape_obstacle
from gpt_architecture.kernels.decode.weights import (
    DenseMatrix,
    GroupedMatrix,
    KernelMatrix,
    PackedMatrix,
    StripMatrix,
    TorchMatrix,
    gather,
    in_strips,
)
from gpt_architecture.kernels.runtime.matmul import fastest_matmul

if TYPE_CHECKING:
    from gpt_architecture.kernels.decode.step import DecodeStep

logger = logging.getLogger(__name__)

SETTLE_AFTER = 32
"""Pas compilés avant de ranger les poids en grandes pages."""


class Passes:
    """Choisit le passage qui convient à un lot, et fait chaque pas compilé la première fois.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module ; une tête de sortie liée est la matrice même de
            `tok_emb`.
        vectors: positions, normes et biais, par nom du `state_dict`.

    Attributes:
        turn: à tenir pour employer un pas : il n'a qu'un jeu de tampons.
        matrices: les poids, là où ils sont rangés aujourd'hui.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, PackedMatrix],
        vectors: Mapping[str, Tensor],
    ) -> None:
        self.turn, self.matrices = Turn(), matrices
        self._cfg, self._vectors = cfg, vectors
        self._is_integer = isinstance(matrices["tok_emb"], GroupedMatrix)
        self._steps: tuple[DecodeStep, ...] = ()
        self._apart: DecodeStep | None = None
        self._uniform: DecodeStep | None = None
        self._draft: DecodeStep | None = None
        self._count, self._is_settled = 0, False
        self._compiles = _compiles(cfg)
        self._choose()

    @property
    def compiled(self) -> bool:
        """Vrai s'il y a des pas compilés."""
        return bool(self._steps)

    def __call__(self, in_idx: Tensor, cache: KVCache | None, at: Tensor | None) -> Tensor:
        """in_idx (B, T), tokens → logits (B, T, V), ou (B, 1, V) avec `at` (B,).

        Le cache reçoit clés et valeurs ; il n'est pas avancé.
        """
        if self._is_integer and self._steps:
            return self._read_integers(self._steps[0], in_idx, cache, at)
        if cache is not None:
            rows = in_idx.numel()
            with self.turn:
                step = next((step for step in self._steps if step.fits(rows, cache)), None)
                if step is not None:
                    logits = step(in_idx, cache, at)
                    self.count_step()
                    return logits
        return self._torch_pass(in_idx, cache, at)

    def _read_integers(
        self, step: DecodeStep, in_idx: Tensor, cache: KVCache | None, at: Tensor | None
    ) -> Tensor:
        """Comme l'appel, sur des poids entiers ; sans cache, quelques séquences à la fois."""
        if cache is not None:
            return step(in_idx, cache, at)
        count, size = in_idx.size(1), max(1, step.height // in_idx.size(1))
        pieces = torch.split(in_idx, size)
        places = [None] * len(pieces) if at is None else torch.split(at, size)
        found = [
            step(each, KVCache(self._cfg, len(each), capacity=count), place)
            for each, place in zip(pieces, places, strict=True)
        ]
        return torch.cat(found)

    def count_step(self) -> None:
        """Compte un pas ; assez nombreux, ils méritent que les poids soient rangés."""
        self._count += 1
        if self._count == SETTLE_AFTER:
            self.settle()

    def settle(self) -> None:
        """Voir `PackedModel.settle`."""
        with self.turn:
            if self._is_settled or not self._steps or self._is_integer:
                return
            read = self._dense()
            if self.matrices["tok_emb"] is not self.matrices["out_head"]:
                del read["tok_emb"]
            self.matrices = {**self.matrices, **gather(read)}
            self._is_settled = True
            self._choose()
            for step in (self._uniform, self._draft):
                if step is not None:
                    step.embed_from_(self.matrices["tok_emb"])

    def apart(self) -> DecodeStep | None:
        """Le pas qui lit plusieurs tokens comme s'ils étaient seuls."""
        if not self._steps or self._is_integer:  # les poids entiers les séparent toujours
            return next(iter(self._steps), None)
        if self._apart is None:
            self._apart = self._compile("apart", self._dense())
        return self._apart

    def uniform(self) -> DecodeStep | None:
        """Le pas dont chaque activation ignore les autres."""
        if self._uniform is None and self._steps:
            with self.turn:
                if self._is_integer:  # celui des poids entiers les ignore toujours
                    self._uniform = self._steps[0]
                elif self._uniform is None:
                    known = self._without_embedding()
                    strips = {name: StripMatrix(each.dense()) for name, each in known.items()}
                    self._uniform = self._compile("strips", strips)
        return self._uniform

    def draft(self) -> DecodeStep:
        """Le pas d'une copie, sur 8 bits, de poids fp32."""
        if self._draft is None:
            scheme = Scheme(name="int8")
            known = self._without_embedding()
            codes = {name: quantize(each.dense(), scheme) for name, each in known.items()}
            self._draft = self._compile("integer", in_strips(codes))
        return self._draft

    def _dense(self) -> dict[str, DenseMatrix]:
        """Les matrices en fp32."""
        return {n: each for n, each in self.matrices.items() if isinstance(each, DenseMatrix)}

    def _without_embedding(self) -> dict[str, PackedMatrix]:
        """Les matrices dont un pas lit toutes les lignes."""
        return {name: each for name, each in self.matrices.items() if name != "tok_emb"}

    def _choose(self) -> None:
        """Fait les passages ordinaires, sur les matrices d'aujourd'hui."""
        grouped = {n: each for n, each in self.matrices.items() if isinstance(each, GroupedMatrix)}
        dense = self._dense()
        if not self._compiles:
            self._torch_pass = TorchPass(self._cfg, {**dense, **grouped}, self._vectors)
        elif grouped:
            shared = grouped["tok_emb"] is grouped["out_head"]
            strips = in_strips({n: m.grouped for n, m in grouped.items() if n != "tok_emb"})
            embedding = {"tok_emb": strips["out_head"]} if shared else {}
            self.matrices = {**self.matrices, **strips, **embedding}
            self._steps = (self._compile("integer", strips),)
        else:
            from gpt_architecture.kernels.decode.step_kernels import activate  # noqa: PLC0415

            self._steps = tuple(self._compile(form, dense) for form in ("narrow", "wide"))
            self._apart = None  # il lisait les poids là où ils étaient
            self._torch_pass = TorchPass(self._cfg, dense, self._vectors, activate=activate)

    def _compile(self, form: str, matrices: Mapping[str, KernelMatrix]) -> DecodeStep:
        """Le pas de cette forme (voir `forms`), sur ces matrices."""
        from gpt_architecture.kernels.decode.forms import FORMS  # noqa: PLC0415
        from gpt_architecture.kernels.decode.step import DecodeStep  # noqa: PLC0415

        embedding = self.matrices["tok_emb"]
        return DecodeStep(self._cfg, matrices, embedding, self._vectors, FORMS[form], self.turn)


def _compiles(cfg: GPTConfig) -> bool:
    """Vrai si les noyaux calculent ce modèle ici ; sinon un avertissement dit pourquoi."""
    obstacle = shape_obstacle(cfg)
    if obstacle is not None:
        logger.warning("décodage par PyTorch, plus lent : %s", obstacle)
        return False
    obstacle = loading_obstacle(
        lambda: importlib.import_module("gpt_architecture.kernels.decode.step")
    )
    if obstacle is not None:
        logger.warning("%s : décodage par PyTorch, plus lent", obstacle)
    return obstacle is None


Activate = Callable[[Tensor, Tensor], Tensor]
"""(x (n, F) contigu, qui peut être récrit, biais (F,)) → activation(x + biais)."""


Rows = Sequence[Adapter | None]
"""L'adaptateur de chaque ligne d'un lot ; vide : aucune n'en a."""


class TorchPass:
    """Le passage par les produits de PyTorch.

    Args:
        cfg, matrices, vectors: voir `Passes`.
        activate: l'activation, biais compris ; None : par PyTorch.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, TorchMatrix],
        vectors: Mapping[str, Tensor],
        *,
        activate: Activate | None = None,
    ) -> None:
        self._cfg, self._matrices, self._vectors = cfg, matrices, vectors
        activation = ACTIVATIONS[cfg.activation]()
        self._activate: Activate = activate or (lambda x, bias: activation(x + bias))

    @torch.no_grad()
    @fastest_matmul()
    def __call__(self, in_idx: Tensor, cache: KVCache | None, at: Tensor | None) -> Tensor:
        """Voir `Passes`."""
        batch, count = in_idx.shape
        positions = torch.arange(count) if cache is None else cache.positions(count)
        x = self._matrices["tok_emb"].rows(in_idx) + self._vectors["pos_emb.weight"][positions]
        layers = None if cache is None else cache.layers
        rows = [] if cache is None else cache.adapters
        for index in range(self._cfg.n_layers):
            block = f"trf_blocks.{index}."
            layer = None if layers is None else layers[index]
            h = self._norm(f"{block}norm1", x)
            h = self._attention(block, h, layer, rows)
            x = x + self._linear(f"{block}att.out_proj", h, rows)
            h = self._product(f"{block}ff.layers.0", self._norm(f"{block}norm2", x), rows)
            h = self._activate(h.flatten(0, 1), self._vectors[f"{block}ff.layers.0.bias"])
            x = x + self._linear(f"{block}ff.layers.2", h.view(*x.shape[:2], -1), rows)
        if at is not None:
            x = x[torch.arange(batch), at].unsqueeze(1)  # (B, 1, D)
        return self._linear("out_head", self._norm("final_norm", x))

    def _attention(self, block: str, h: Tensor, layer: LayerCache | None, rows: Rows) -> Tensor:
        """Contexte (B, T, D) de h (B, T, D)."""
        batch, count, width = h.shape
        q, k, v = (
            self._linear(f"{block}att.W_{name}", h, rows)
            .view(batch, count, self._cfg.n_heads, self._cfg.head_dim)
            .transpose(1, 2)  # (B, H, T, K)
            for name in ("query", "key", "value")
        )
        mask = None
        if layer is not None:
            k, v, mask = layer.append(k, v)  # (B, H, S, K)
        context = sdpa_attention(q, k, v, dropout_p=0.0, mask=mask)
        return context.transpose(1, 2).reshape(batch, count, width)

    def _linear(self, name: str, x: Tensor, rows: Rows = ()) -> Tensor:
        """x (B, T, D) · matrice transposée + biais, s'il existe."""
        out, bias = self._product(name, x, rows), self._vectors.get(f"{name}.bias")
        return out if bias is None else out.add_(bias)

    def _product(self, name: str, x: Tensor, rows: Rows) -> Tensor:
        """x (B, T, D) · matrice transposée, avec ce qu'y ajoutent les adaptateurs de `rows`."""
        out = self._matrices[name].times(x.flatten(0, 1)).view(*x.shape[:2], -1)
        add_adapters_(out, x, name, rows)
        return out

    def _norm(self, name: str, x: Tensor) -> Tensor:
        gain, shift = self._vectors[f"{name}.scale"], self._vectors[f"{name}.shift"]
        return F.layer_norm(x, gain.shape, gain, shift, self._cfg.norm_eps)
