"""Tête de sortie et entropie croisée, ensemble et par morceaux.

Les logits d'un morceau de tokens sont calculés transposés (V, n), un par colonne : le produit
« poids × activations » court ainsi à la vitesse des autres, et son tampon est réemployé. Tous
les logits ne sont jamais présents à la fois ; leur gradient remplace le tampon sur place.

Formes : N tokens, n tokens d'un morceau, D largeur, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.workspace import Workspace
from gpt_architecture.kernels.train import reduction_kernels
from gpt_architecture.kernels.train.gradients import HEAD

CHUNK = 256
"""Tokens d'un morceau : au-delà la mémoire croît, en deçà les produits perdent en vitesse."""


class HeadLoss:
    """Perte d'une tête linéaire sans biais, et ses gradients.

    Args:
        workspace: où prendre les tampons.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def loss(self, h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Entropie croisée moyenne (nats par token) de h (N, D), weight (V, D), targets (N,).

        Les cibles `IGNORED` n'y comptent pas ; NaN s'il n'y en a pas d'autre.
        """
        h, targets, _ = _learned(h, targets)
        if not len(targets):
            return torch.tensor(math.nan)
        total = 0.0
        for rows in _chunks(len(targets)):
            total += float(self._nll(h[rows], weight, targets[rows])[1].sum())
        return torch.tensor(total / len(targets))

    def forward_backward(
        self,
        h: Tensor,
        weight: Tensor,
        targets: Tensor,
        scale: float,
        dh: Tensor,
        gradient: Callable[[], tuple[Tensor, float]],
    ) -> Tensor:
        """Perte moyenne ; dh (N, D) reçoit le gradient de h, `gradient()` celui de weight.

        Si la perte n'est pas finie, elle est rendue aussitôt et les gradients ne valent rien. Les
        cibles `IGNORED` n'ont ni perte ni gradient, et leurs logits ne sont pas calculés.

        Args:
            scale: facteur des gradients.
            gradient: rend (tampon (V, D), poids de son contenu) ; appelé s'il y a lieu.
        """
        h, targets, kept = _learned(h, targets)
        if not len(targets):
            return torch.tensor(math.nan)
        whole = dh
        if kept is not None:
            dh = torch.empty_like(h)
        total, out, beta = 0.0, None, 0.0
        factor = scale / len(targets)
        for rows in _chunks(len(targets)):
            logits, nll, lse = self._nll(h[rows], weight, targets[rows])
            total += float(nll.sum())
            if not math.isfinite(total):
                break
            if out is None:
                out, beta = gradient()
            launch(reduction_kernels.scaled_softmax_, _blocks(weight), logits, lse, factor)
            logits[targets[rows], torch.arange(logits.size(1))] -= factor
            torch.mm(logits.t(), weight.detach(), out=dh[rows])
            torch.addmm(out, logits, h[rows], beta=beta, out=out)
            beta = 1.0
        if kept is not None:
            whole.zero_()[kept] = dh
        return torch.tensor(total / len(targets))

    def _nll(self, h: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits transposés (V, n), −log p (n,) float64 de chaque cible, log Σ exp (n,) fp32."""
        columns, width = h.shape
        vocab, blocks = weight.size(0), _blocks(weight)
        logits = self._buffer("logits", vocab, columns)
        turned = self._buffer("turned", width, columns)
        turned.copy_(h.t())
        torch.mm(weight.detach(), turned, out=logits)
        top, sums = self._buffer("top", blocks, columns), self._buffer("sums", blocks, columns)
        launch(reduction_kernels.column_lse_, blocks, logits, top, sums)
        peak = top.amax(dim=0).double()  # (n,)
        lse = peak + torch.log((sums * torch.exp(top - peak)).sum(dim=0))
        picked = logits[targets, torch.arange(columns)].double()
        return logits, lse - picked, lse.float()

    def _buffer(self, name: str, rows: int, columns: int) -> Tensor:
        """(rows, columns) contigu, pris dans un tampon à la mesure du plus grand morceau."""
        whole = self._workspace.get(name, rows * CHUNK, slot=HEAD)
        return whole[: rows * columns].view(rows, columns)


def _learned(h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ce que la perte regarde : h (n, D), cibles (n,), et leurs rangs (n,) ; None : tous."""
    if int(targets.min()) >= 0:
        return h, targets, None
    kept = torch.nonzero(targets != IGNORED).squeeze(1)
    return h[kept], targets[kept], kept


def _blocks(weight: Tensor) -> int:
    return -(-weight.size(0) // reduction_kernels.VOCAB_BLOCK)


def _chunks(rows: int) -> Iterator[slice]:
    """Morceaux d'au plus `CHUNK` lignes, de tailles voisines."""
    count = -(-rows // CHUNK)
    for index in range(count):
        yield slice(rows * index // count, rows * (index + 1) // count)
