"""Un bloc Transformer, en avant et en arrière, écrit à la main.

L'arrière recalcule les normes, GELU et les masques d'abandon au lieu de les garder.

Formes : B lot, T tokens, N = B·T, D largeur, F largeur cachée, H têtes, K taille d'une tête.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpt_architecture.core.attention import MultiHeadAttention
from gpt_architecture.core.layers import LayerNorm, TransformerBlock
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.workspace import Workspace
from gpt_architecture.kernels.train import reduction_kernels, row_kernels
from gpt_architecture.kernels.train.gradients import GradientSink


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Ce que partagent toutes les étapes d'un passage sur un lot.

    Attributes:
        workspace: les tampons.
        batch: séquences (B).
        length: tokens par séquence (T).
        keys: (endroits, 2·B) int64, les clés des masques ; voir `keyed_dropout`.
        drop: seuil d'abandon sur 16 bits ; 0 : rien n'est abandonné.
        scale: facteur des éléments gardés.
    """

    workspace: Workspace
    batch: int
    length: int
    keys: Tensor
    drop: int
    scale: float

    @property
    def row_blocks(self) -> int:
        """Lots de lignes d'un noyau."""
        return -(-self.batch * self.length // row_kernels.ROW_BLOCK)


class BlockPass:
    """Calcule un bloc et ses gradients.

    Les projections requête, clé et valeur deviennent des vues d'une seule matrice ; leurs noms
    et leurs valeurs ne changent pas.

    Args:
        block: le bloc.
        site: son premier endroit d'abandon.
    """

    def __init__(self, block: TransformerBlock, site: int) -> None:
        self.block, self.site = block, site
        self._heads, self._size = block.att.num_heads, block.att.head_dim
        self._qkv, self._qkv_bias = _pack_qkv_(block.att)
        self._up: nn.Linear = block.ff.layers[0]  # type: ignore[assignment]
        self._down: nn.Linear = block.ff.layers[2]  # type: ignore[assignment]
        self._inner = self._up.out_features

    def forward(self, run: Pass, x: Tensor, out: Tensor, slot: int) -> None:
        """out (N, D) = bloc(x) ; ce que l'arrière relira reste dans les tampons de `slot`."""
        block, get = self.block, run.workspace.get
        rows, width = x.shape
        h = normalize(run, block.norm1, x, "stats1", slot)
        qkv = get("qkv", rows, 3 * width)
        torch.mm(h, self._qkv.t(), out=qkv)
        if self._qkv_bias is not None:
            qkv += self._qkv_bias
        heads = get("heads", 3, run.batch, self._heads, run.length, self._size, slot=slot)
        heads.copy_(self._by_head(qkv, run, 3).permute(2, 0, 3, 1, 4))
        dropped = self._attention_weights(run, heads, slot)
        context = get("context.heads", *heads.shape[1:])
        torch.bmm(dropped.flatten(0, 1), heads[2].flatten(0, 1), out=context.flatten(0, 1))
        joined = get("context", rows, width, slot=slot)
        self._by_head(joined, run, 1)[:, :, 0].copy_(context.transpose(1, 2))
        branch = get("branch", rows, width)
        torch.mm(joined, block.att.out_proj.weight.t(), out=branch)
        middle = get("middle", rows, width, slot=slot)
        self._residual(run, x, branch, block.att.out_proj.bias, self.site + 1, middle)
        h = normalize(run, block.norm2, middle, "stats2", slot)
        pre, act = get("pre", rows, self._inner, slot=slot), get("act", rows, self._inner)
        torch.mm(h, self._up.weight.t(), out=pre)
        launch(row_kernels.gelu_, run.row_blocks, pre, self._up.bias, act)
        torch.mm(act, self._down.weight.t(), out=branch)
        self._residual(run, middle, branch, self._down.bias, self.site + 2, out)

    def backward(self, run: Pass, x: Tensor, dx: Tensor, sink: GradientSink, slot: int) -> None:
        """dx (N, D), gradient de la sortie, devient celui de l'entrée x (N, D)."""
        block, get = self.block, run.workspace.get
        rows, width = dx.shape
        middle = get("middle", rows, width, slot=slot)
        pre, act = get("pre", rows, self._inner, slot=slot), get("act", rows, self._inner)
        dh = get("dh", rows, width, slot=OUTSIDE)

        branch = self._residual_backward(run, dx, self.site + 2, sink, self._down.bias)
        launch(row_kernels.gelu_again_, run.row_blocks, pre, act)
        sink.add_product_(self._down.weight, branch.t(), act)
        torch.mm(branch, self._down.weight, out=act)  # gradient de l'activation
        partial = get("partial.wide", run.row_blocks, 1, self._inner)
        launch(row_kernels.gelu_backward_, run.row_blocks, act, pre, partial)
        sink.add_blocks_(self._up.bias, partial)
        h = _normalize_again(run, block.norm2, middle, "stats2", slot)
        sink.add_product_(self._up.weight, act.t(), h)
        torch.mm(act, self._up.weight, out=dh)
        normalize_backward(run, block.norm2, middle, "stats2", slot, dh, dx, sink)

        projection = block.att.out_proj
        branch = self._residual_backward(run, dx, self.site + 1, sink, projection.bias)
        joined = get("context", rows, width, slot=slot)
        sink.add_product_(projection.weight, branch.t(), joined)
        torch.mm(branch, projection.weight, out=dh)
        dqkv = self._attention_backward(run, dh, slot)
        h = _normalize_again(run, block.norm1, x, "stats1", slot)
        sink.add_qkv_(block.att, dqkv, h)
        torch.mm(dqkv, self._qkv, out=dh)
        normalize_backward(run, block.norm1, x, "stats1", slot, dh, dx, sink)

    def _attention_weights(self, run: Pass, heads: Tensor, slot: int) -> Tensor:
        """Poids d'attention abandonnés (B, H, T, T) ; `heads` (3, B, H, T, K)."""
        get = run.workspace.get
        weights = get("weights", run.batch * self._heads, run.length, run.length, slot=slot)
        torch.bmm(heads[0].flatten(0, 1), heads[1].flatten(0, 1).transpose(1, 2), out=weights)
        dropped = get("dropped", *weights.shape) if run.drop else weights
        launch(
            reduction_kernels.causal_softmax_,
            len(weights),
            weights,
            run.keys[self.site],
            self._heads,
            self._size**-0.5,
            run.drop,
            run.scale,
            dropped,
        )
        return dropped.view(run.batch, self._heads, run.length, run.length)

    def _attention_backward(self, run: Pass, dcontext: Tensor, slot: int) -> Tensor:
        """Gradient (N, 3·D) des projections, depuis celui du contexte (N, D)."""
        get = run.workspace.get
        rows, width = dcontext.shape
        shape = (run.batch, self._heads, run.length, self._size)
        q, k, v = (part.flatten(0, 1) for part in get("heads", 3, *shape, slot=slot))  # (B·H, T, K)
        weights = get("weights", run.batch * self._heads, run.length, run.length, slot=slot)
        dropped = get("dropped", *weights.shape) if run.drop else weights
        dctx = get("context.heads", *shape)
        dctx.copy_(self._by_head(dcontext, run, 1)[:, :, 0].transpose(1, 2))
        dctx = dctx.flatten(0, 1)
        dscores = get("dscores", *weights.shape)
        torch.bmm(dctx, v.transpose(1, 2), out=dscores)
        launch(
            reduction_kernels.causal_softmax_backward_,
            len(weights),
            weights,
            run.keys[self.site],
            self._heads,
            self._size**-0.5,
            run.drop,
            run.scale,
            dropped,
            dscores,
        )
        dheads = get("dheads", 3, *shape)
        torch.bmm(dscores, k, out=dheads[0].flatten(0, 1))
        torch.bmm(dscores.transpose(1, 2), q, out=dheads[1].flatten(0, 1))
        torch.bmm(dropped.transpose(1, 2), dctx, out=dheads[2].flatten(0, 1))
        dqkv = get("qkv", rows, 3 * width)
        self._by_head(dqkv, run, 3).copy_(dheads.permute(1, 3, 0, 2, 4))
        return dqkv

    def _residual(
        self, run: Pass, x: Tensor, branch: Tensor, bias: Tensor, site: int, out: Tensor
    ) -> None:
        """out = x + abandon(branch + bias), tous (N, D)."""
        keys = run.keys[site]
        launch(
            row_kernels.residual_,
            run.row_blocks,
            *(x, branch, bias, keys, run.length, run.drop, run.scale, out),
        )

    def _residual_backward(
        self, run: Pass, dx: Tensor, site: int, sink: GradientSink, bias: Tensor
    ) -> Tensor:
        """Gradient (N, D) de la branche ; celui de son biais est ajouté."""
        branch = run.workspace.get("branch", *dx.shape)
        partial = run.workspace.get("partial", run.row_blocks, 1, dx.size(1))
        keys = run.keys[site]
        launch(
            row_kernels.residual_backward_,
            run.row_blocks,
            *(dx, keys, run.length, run.drop, run.scale, branch, partial),
        )
        sink.add_blocks_(bias, partial)
        return branch

    def _by_head(self, x: Tensor, run: Pass, parts: int) -> Tensor:
        """(N, parts·D) → vue (B, T, parts, H, K)."""
        return x.view(run.batch, run.length, parts, self._heads, self._size)


OUTSIDE = -2
"""Couche fictive des tampons qui vivent pendant que les zones partagées changent d'usage."""


def normalize(run: Pass, norm: LayerNorm, x: Tensor, stats_name: str, slot: int | None) -> Tensor:
    """norme(x) (N, D) ; garde moyenne et 1/écart-type dans `stats_name`."""
    h = run.workspace.get("h", *x.shape, slot=OUTSIDE)
    stats = run.workspace.get(stats_name, len(x), 2, slot=slot)
    launch(row_kernels.layer_norm_, run.row_blocks, x, norm.scale, norm.shift, h, stats)
    return h


def _normalize_again(run: Pass, norm: LayerNorm, x: Tensor, stats_name: str, slot: int) -> Tensor:
    h = run.workspace.get("h", *x.shape, slot=OUTSIDE)
    stats = run.workspace.get(stats_name, len(x), 2, slot=slot)
    launch(row_kernels.normalize_again_, run.row_blocks, x, norm.scale, norm.shift, h, stats)
    return h


def normalize_backward(
    run: Pass,
    norm: LayerNorm,
    x: Tensor,
    stats_name: str,
    slot: int | None,
    dy: Tensor,
    dx: Tensor,
    sink: GradientSink,
    *,
    accumulate: bool = True,
) -> None:
    """dx (N, D) += (ou =) gradient de la norme en x, depuis dy (N, D)."""
    partial = run.workspace.get("partial.norm", run.row_blocks, 2, x.size(1))
    stats = run.workspace.get(stats_name, len(x), 2, slot=slot)
    keep = float(accumulate)
    launch(
        row_kernels.layer_norm_backward_,
        run.row_blocks,
        dy,
        x,
        stats,
        norm.scale,
        dx,
        partial,
        keep,
    )
    sink.add_blocks_(norm.scale, partial, 0)
    sink.add_blocks_(norm.shift, partial, 1)


def _pack_qkv_(attention: MultiHeadAttention) -> tuple[Tensor, Tensor | None]:
    """Réunit, sur place, les trois projections en une matrice (3·D, D) dont elles sont les vues."""
    layers = (attention.W_query, attention.W_key, attention.W_value)
    weight = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(layers, weight.chunk(3), strict=True):
        layer.weight.data = part
    if not all(isinstance(layer.bias, Tensor) for layer in layers):
        return weight, None
    bias = torch.cat([layer.bias.detach() for layer in layers])
    for layer, part in zip(layers, bias.chunk(3), strict=True):
        layer.bias.data = part
    return weight, bias
