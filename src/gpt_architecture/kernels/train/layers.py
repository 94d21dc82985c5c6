"""Un bloc Transformer, puis la tête et sa perte : passe avant et rétropropagation, à la main.

La rétropropagation recalcule les normes, GELU et les masques de dropout au lieu de les garder.

La tête va par morceaux : les logits de quelques tokens sont calculés transposés (V, n), un token
par colonne : le produit « poids × activations » court ainsi à la vitesse des autres, et son tampon
est réemployé. Tous les logits ne sont jamais présents à la fois. Leur gradient les remplace sur
place en fp32 ; en bf16, il est écrit par bandes du vocabulaire, dans un tampon à part.

Formes : B lot, T tokens, N = B·T, n tokens d'un morceau, D largeur, F largeur cachée, H têtes, K
taille d'une tête, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.core.attention import MultiHeadAttention
from gpt_architecture.core.layers import LayerNorm, TransformerBlock
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.kernels.runtime.kernel import Kernel, launch
from gpt_architecture.kernels.runtime.workspace import Workspace
from gpt_architecture.kernels.train import kernels
from gpt_architecture.kernels.train.gradients import HEAD, GradientSink, slabs

CHUNK = 256
"""Tokens d'un morceau de tête : au-delà la mémoire croît, en deçà les produits ralentissent. Deux
fois plus en bf16, où ajouter chaque gradient de la tête en fp32 coûte une lecture de plus."""

OUTSIDE = -2
"""Couche fictive des tampons qui vivent pendant que les zones partagées changent d'usage."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Ce que partagent toutes les étapes d'un passage sur un lot.

    Attributes:
        workspace: les tampons.
        batch: séquences (B).
        length: tokens par séquence (T).
        places: (N,) int64, la position de chaque token.
        first: (N,) int64, où commence son document dans sa rangée.
        keys: (endroits, 2·B) int64, les clés des masques ; voir `keyed_dropout`.
        drop: seuil de dropout sur 16 bits ; 0 : aucun dropout.
        scale: facteur des éléments gardés.
        kernels: les noyaux autour des produits ; `kernels` ou, si les produits sont en bf16,
            `half_kernels`.
        dtype: type de ce que les produits lisent et rendent.
    """

    workspace: Workspace
    batch: int
    length: int
    places: Tensor
    first: Tensor
    keys: Tensor
    drop: int
    scale: float
    kernels: Any
    dtype: torch.dtype

    def get(self, name: str, *shape: int, slot: int | None = None) -> Tensor:
        """Un tampon du type des produits ; voir `Workspace.get`."""
        return self.workspace.get(name, *shape, slot=slot, dtype=self.dtype)

    def matrix(self, name: str, weight: Tensor, slot: int, *, again: bool = False) -> Tensor:
        """`weight` dans le type des produits : elle-même, ou sa copie, déjà faite si `again`."""
        if weight.dtype == self.dtype:
            return weight.detach()
        copy = self.get(f"{name}.copy", *weight.shape, slot=slot)
        return copy if again else copy.copy_(weight.detach())

    @property
    def chunk(self) -> int:
        """Tokens d'un morceau de tête, au plus."""
        return CHUNK if self.dtype == torch.float32 else 2 * CHUNK

    @property
    def row_blocks(self) -> int:
        """Lots de lignes d'un noyau."""
        return -(-self.batch * self.length // kernels.ROW_BLOCK)

    def by_rows(self, kernel: Kernel, *arguments: Tensor | float) -> None:
        """Lance un noyau de lignes sur toutes les lignes."""
        launch(kernel, self.row_blocks, *arguments)

    def dropout(self, site: int) -> tuple[Tensor, int, int, float]:
        """Ce qu'un noyau de lignes demande pour abandonner à l'endroit `site`."""
        return self.keys[site], self.length, self.drop, self.scale


class BlockPass:
    """Calcule un bloc et ses gradients.

    Les projections requête, clé et valeur deviennent des vues d'une seule matrice ; leurs noms
    et leurs valeurs ne changent pas.

    Args:
        block: le bloc.
        site: son premier endroit de dropout.
    """

    def __init__(self, block: TransformerBlock, site: int) -> None:
        self.block, self.site = block, site
        self._heads, self._size = block.att.num_heads, block.att.head_dim
        self._qkv, self._qkv_bias = _pack_qkv_(block.att)
        self._up: nn.Linear = block.ff.layers[0]  # type: ignore[assignment]
        self._down: nn.Linear = block.ff.layers[2]  # type: ignore[assignment]
        self._inner = self._up.out_features

    def forward(self, run: Pass, x: Tensor, out: Tensor, slot: int) -> None:
        """out (N, D) = bloc(x) ; `slot` garde ce que la rétropropagation relira."""
        block, get = self.block, run.get
        rows, width = x.shape
        h = normalize(run, block.norm1, x, "stats1", slot)
        qkv = get("qkv", rows, 3 * width)
        torch.mm(h, run.matrix("qkv", self._qkv, slot).t(), out=qkv)
        shape = (3, run.batch, self._heads, run.length, self._size)
        heads = run.workspace.get("heads", *shape, slot=slot)
        heads.copy_(self._by_head(qkv, run, 3).permute(2, 0, 3, 1, 4))
        if self._qkv_bias is not None:
            heads += self._qkv_bias.view(3, 1, self._heads, 1, self._size)
        q, k, v = (part.flatten(0, 1) for part in heads)  # (B·H, T, K)
        weights, dropped = self._attention_weights(run, slot)
        torch.bmm(q, k.transpose(1, 2), out=weights)
        self._softmax(kernels.causal_softmax_, run, weights, dropped)
        context = run.workspace.get("context.heads", *heads.shape[1:])
        torch.bmm(dropped, v, out=context.flatten(0, 1))
        joined = get("context", rows, width, slot=slot)
        self._by_head(joined, run, 1)[:, :, 0].copy_(context.transpose(1, 2))
        branch = get("branch", rows, width)
        projection = block.att.out_proj
        torch.mm(joined, run.matrix("projection", projection.weight, slot).t(), out=branch)
        middle = run.workspace.get("middle", rows, width, slot=slot)
        where = run.dropout(self.site + 1)
        run.by_rows(run.kernels.residual_, x, branch, projection.bias, *where, middle)
        h = normalize(run, block.norm2, middle, "stats2", slot)
        pre, act = get("pre", rows, self._inner, slot=slot), get("act", rows, self._inner)
        torch.mm(h, run.matrix("up", self._up.weight, slot).t(), out=pre)
        run.by_rows(run.kernels.gelu_, pre, self._up.bias, act)
        torch.mm(act, run.matrix("down", self._down.weight, slot).t(), out=branch)
        where = run.dropout(self.site + 2)
        run.by_rows(run.kernels.residual_, middle, branch, self._down.bias, *where, out)

    def backward(self, run: Pass, x: Tensor, dx: Tensor, sink: GradientSink, slot: int) -> None:
        """dx (N, D), gradient de la sortie, devient celui de l'entrée x (N, D)."""
        block, get = self.block, run.get
        rows, width = dx.shape
        middle = run.workspace.get("middle", rows, width, slot=slot)
        pre, act = get("pre", rows, self._inner, slot=slot), get("act", rows, self._inner)
        dh = get("dh", rows, width, slot=OUTSIDE)

        branch = self._residual_backward(run, dx, self.site + 2, sink, self._down.bias)
        run.by_rows(run.kernels.gelu_, pre, self._up.bias, act)
        sink.add_product_(self._down.weight, branch.t(), act)
        weight = run.matrix("down", self._down.weight, slot, again=True)
        torch.mm(branch, weight, out=act)  # gradient de l'activation
        partial = run.workspace.get("partial.wide", run.row_blocks, 1, self._inner)
        run.by_rows(run.kernels.gelu_backward_, act, pre, self._up.bias, partial)
        sink.add_blocks_(self._up.bias, partial)
        h = normalize(run, block.norm2, middle, "stats2", slot, again=True)
        sink.add_product_(self._up.weight, act.t(), h)
        torch.mm(act, run.matrix("up", self._up.weight, slot, again=True), out=dh)
        normalize_backward(run, block.norm2, middle, "stats2", slot, dh, dx, sink)

        projection = block.att.out_proj
        branch = self._residual_backward(run, dx, self.site + 1, sink, projection.bias)
        joined = get("context", rows, width, slot=slot)
        sink.add_product_(projection.weight, branch.t(), joined)
        torch.mm(branch, run.matrix("projection", projection.weight, slot, again=True), out=dh)
        dqkv = self._attention_backward(run, dh, slot)
        h = normalize(run, block.norm1, x, "stats1", slot, again=True)
        sink.add_qkv_(block.att, dqkv, h)
        torch.mm(dqkv, run.matrix("qkv", self._qkv, slot, again=True), out=dh)
        normalize_backward(run, block.norm1, x, "stats1", slot, dh, dx, sink)

    def _attention_weights(self, run: Pass, slot: int) -> tuple[Tensor, Tensor]:
        """Tampons des poids d'attention (B·H, T, T), et des mêmes abandonnés."""
        shape = (run.batch * self._heads, run.length, run.length)
        weights = run.workspace.get("weights", *shape, slot=slot)
        return weights, run.workspace.get("dropped", *shape) if run.drop else weights

    def _softmax(self, kernel: Kernel, run: Pass, weights: Tensor, *outputs: Tensor) -> None:
        """Lance un noyau de l'attention, une tête par lot."""
        scale = (self._heads, self._size**-0.5, run.drop, run.scale)
        launch(kernel, len(weights), weights, run.first, run.keys[self.site], *scale, *outputs)

    def _attention_backward(self, run: Pass, dcontext: Tensor, slot: int) -> Tensor:
        """Gradient (N, 3·D) des projections, depuis celui du contexte (N, D)."""
        get = run.workspace.get
        rows, width = dcontext.shape
        shape = (run.batch, self._heads, run.length, self._size)
        q, k, v = (part.flatten(0, 1) for part in get("heads", 3, *shape, slot=slot))  # (B·H, T, K)
        weights, dropped = self._attention_weights(run, slot)
        dctx = get("context.heads", *shape)
        dctx.copy_(self._by_head(dcontext, run, 1)[:, :, 0].transpose(1, 2))
        dctx = dctx.flatten(0, 1)
        dscores = get("dscores", *weights.shape)
        torch.bmm(dctx, v.transpose(1, 2), out=dscores)
        self._softmax(kernels.causal_softmax_backward_, run, weights, dropped, dscores)
        dheads = get("dheads", 3, *shape)
        torch.bmm(dscores, k, out=dheads[0].flatten(0, 1))
        torch.bmm(dscores.transpose(1, 2), q, out=dheads[1].flatten(0, 1))
        torch.bmm(dropped.transpose(1, 2), dctx, out=dheads[2].flatten(0, 1))
        dqkv = run.get("qkv", rows, 3 * width)
        self._by_head(dqkv, run, 3).copy_(dheads.permute(1, 3, 0, 2, 4))
        return dqkv

    def _residual_backward(
        self, run: Pass, dx: Tensor, site: int, sink: GradientSink, bias: Tensor
    ) -> Tensor:
        """Gradient (N, D) de la branche ; celui de son biais est ajouté."""
        branch = run.get("branch", *dx.shape)
        partial = run.workspace.get("partial", run.row_blocks, 1, dx.size(1))
        run.by_rows(run.kernels.residual_backward_, dx, *run.dropout(site), branch, partial)
        sink.add_blocks_(bias, partial)
        return branch

    def _by_head(self, x: Tensor, run: Pass, parts: int) -> Tensor:
        """(N, parts·D) → vue (B, T, parts, H, K)."""
        return x.view(run.batch, run.length, parts, self._heads, self._size)


def normalize(
    run: Pass, norm: LayerNorm, x: Tensor, name: str, slot: int, *, again: bool = False
) -> Tensor:
    """norme(x) (N, D) ; garde moyenne et 1/écart-type dans `name`, ou les y relit (`again`)."""
    h = run.get("h", *x.shape, slot=OUTSIDE)
    stats = run.workspace.get(name, len(x), 2, slot=slot)
    run.by_rows(run.kernels.layer_norm_, x, norm.scale, norm.shift, h, stats, int(again))
    return h


def normalize_backward(
    run: Pass,
    norm: LayerNorm,
    x: Tensor,
    name: str,
    slot: int,
    dy: Tensor,
    dx: Tensor,
    sink: GradientSink,
    *,
    accumulate: bool = True,
) -> None:
    """dx (N, D) += (ou =) gradient de la norme en x, depuis dy (N, D)."""
    partial = run.workspace.get("partial.norm", run.row_blocks, 2, x.size(1))
    stats = run.workspace.get(name, len(x), 2, slot=slot)
    outputs = (dx, partial, float(accumulate))
    run.by_rows(run.kernels.layer_norm_backward_, dy, x, stats, norm.scale, *outputs)
    sink.add_blocks_(norm.scale, partial, 0)
    sink.add_blocks_(norm.shift, partial, 1)


def head_loss(run: Pass, h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Entropie croisée moyenne (nats par token) de h (N, D), weight (V, D), targets (N,).

    Les cibles `IGNORED` n'y comptent pas ; NaN s'il n'y en a pas d'autre.
    """
    h, targets, _ = _learned(h, targets)
    if not len(targets):
        return torch.tensor(math.nan)
    total = 0.0
    for rows in _chunks(len(targets), run.chunk):
        total += float(_nll(run, h[rows], weight, targets[rows])[1].sum())
    return torch.tensor(total / len(targets))


def head_loss_and_gradients(
    run: Pass,
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    scale: float,
    dh: Tensor,
    sink: GradientSink,
) -> Tensor:
    """Comme `head_loss` ; dh (N, D) reçoit `scale` fois le gradient de h, `sink` celui de weight.

    Si la perte n'est pas finie, elle est rendue aussitôt et les gradients ne valent rien. Les
    cibles `IGNORED` n'ont ni perte ni gradient, et leurs logits ne sont pas calculés.
    """
    h, targets, kept = _learned(h, targets)
    if not len(targets):
        return torch.tensor(math.nan)
    whole = dh
    if kept is not None:
        dh = torch.empty_like(h)
    total, out, beta = 0.0, None, 0.0
    factor = scale / len(targets)
    for rows in _chunks(len(targets), run.chunk):
        logits, nll, lse = _nll(run, h[rows], weight, targets[rows])
        total += float(nll.sum())
        if not math.isfinite(total):
            break
        if out is None:
            out, beta = sink.buffer(weight)
        where = (h[rows], weight.detach(), targets[rows])
        if run.dtype == weight.dtype:
            launch(kernels.scaled_softmax_, _blocks(weight), logits, lse, factor)
            logits[targets[rows], torch.arange(logits.size(1))] -= factor
            torch.mm(logits.t(), weight.detach(), out=dh[rows])
            torch.addmm(out, logits, h[rows], beta=beta, out=out)
        else:
            _half_gradients(run, logits, lse, factor, *where, dh[rows], out, beta, sink)
        beta = 1.0
    if kept is not None:
        whole.zero_()[kept] = dh
    return torch.tensor(total / len(targets))


def _half_gradients(
    run: Pass,
    logits: Tensor,
    lse: Tensor,
    factor: float,
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    dh: Tensor,
    out: Tensor,
    beta: float,
    sink: GradientSink,
) -> None:
    """Gradients d'un morceau de tête par des produits bf16 : dh (n, D), et out (V, D) += le sien.

    Par bandes du vocabulaire : gradient des logits, copie des poids et produits restent en cache,
    et la somme des bandes est faite en fp32.
    """
    columns, width = h.shape
    height = next(slabs(weight)).stop
    gradients = run.get("dlogits", height * run.chunk, slot=HEAD)
    copies = run.get("head", height * width, slot=HEAD)
    total = run.workspace.get("dh.total", run.chunk * width, slot=HEAD)[: columns * width]
    total = total.view(columns, width)
    for index, rows in enumerate(slabs(weight)):
        part = logits[rows]
        gradient = gradients[: part.numel()].view(part.shape)
        lots = -(-len(part) // kernels.VOCAB_BLOCK)
        where = (targets, rows.start, gradient)
        launch(run.kernels.head_gradient_, lots, part, lse, factor, *where)
        copy = copies[: len(part) * width].view(-1, width).copy_(weight[rows])
        sink.accumulate_(total, gradient.t(), copy, float(index > 0))
        sink.accumulate_(out[rows], gradient, h, beta)
    dh.copy_(total)


def _nll(run: Pass, h: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits transposés (V, n), −log p (n,) float64 de chaque cible, log Σ exp (n,) fp32."""
    columns, width = h.shape

    def buffer(name: str, rows: int) -> Tensor:  # pris dans celui du plus grand morceau
        whole = run.workspace.get(name, rows * run.chunk, slot=HEAD)
        return whole[: rows * columns].view(rows, columns)

    logits, turned = buffer("logits", weight.size(0)), buffer("turned", width)
    turned.copy_(h.t())
    for rows in slabs(weight):  # le produit entier déborde du cache
        torch.mm(weight.detach()[rows], turned, out=logits[rows])
    blocks = _blocks(weight)
    top, sums = buffer("top", blocks), buffer("sums", blocks)
    launch(kernels.column_lse_, blocks, logits, top, sums)
    peak = top.amax(dim=0).double()  # (n,)
    lse = peak + torch.log((sums * torch.exp(top - peak)).sum(dim=0))
    picked = logits[targets, torch.arange(columns)].double()
    return logits, lse - picked, lse.float()


def _learned(h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ce que la perte regarde : h (n, D), cibles (n,), et leurs rangs (n,) ; None : tous."""
    if int(targets.min()) >= 0:
        return h, targets, None
    kept = torch.nonzero(targets != IGNORED).squeeze(1)
    return h[kept], targets[kept], kept


def _blocks(weight: Tensor) -> int:
    return -(-weight.size(0) // kernels.VOCAB_BLOCK)


def _chunks(rows: int, most: int) -> Iterator[slice]:
    """Morceaux d'au plus `most` lignes, de tailles voisines."""
    count = -(-rows // most)
    for index in range(count):
        yield slice(rows * index // count, rows * (index + 1) // count)


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
