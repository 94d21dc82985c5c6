"""L'étape d'entraînement fusionnée : passe avant et rétropropagation à la main, sur CPU.

Les produits de matrices sont ceux de PyTorch, dans des tampons réemployés ; tout ce qui les
entoure est compilé (`kernels.py`). L'oracle est autograd sur le même
modèle, muni du dropout à clés : les tests exigent les mêmes pertes et les mêmes gradients.

Formes : B lot, T tokens, N = B·T, D largeur.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.kernels import shape_obstacle
from gpt_architecture.kernels.runtime.kernel import launch
from gpt_architecture.kernels.runtime.matmul import fastest_matmul
from gpt_architecture.kernels.runtime.workspace import Workspace
from gpt_architecture.kernels.train import kernels
from gpt_architecture.kernels.train.gradients import (
    GradientSink,
    GradientStore,
    LeanAdamW,
    LeanSink,
)
from gpt_architecture.kernels.train.keyed_dropout import keep_scale, site_keys, threshold
from gpt_architecture.kernels.train.layers import (
    OUTSIDE,
    BlockPass,
    Pass,
    head_loss,
    head_loss_and_gradients,
    normalize,
    normalize_backward,
)

_WORKSPACES = 4  # formes de lot dont les tampons sont gardés : accumulation, évaluation, reste


def why_not_fused(model: nn.Module) -> str | None:
    """La raison pour laquelle l'étape fusionnée ne convient pas à `model` ; None s'il convient."""
    if type(model) is not GPTModel:
        return "le modèle n'est pas un GPTModel"
    weight = model.tok_emb.weight
    if weight.device.type != "cpu":
        return f"le modèle est sur {weight.device}, l'étape fusionnée calcule sur CPU"
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        return "l'étape fusionnée garde ses poids en fp32"
    if (model.out_head.weight is weight) is not model.cfg.tie_weights:
        return "la tête de sortie et l'embedding ne sont pas liés comme la configuration le dit"
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return "des paramètres sont gelés"
    return shape_obstacle(model.cfg)


class SequenceBatch(Protocol):
    """Un lot et les numéros de ses séquences, clés des masques de dropout."""

    @property
    def inputs(self) -> Tensor:
        """(B, T) int64."""
        ...

    @property
    def targets(self) -> Tensor:
        """(B, T) int64 ; `data.sampler.IGNORED` : ni perte ni gradient."""
        ...

    @property
    def sequence_ids(self) -> Tensor:
        """(B,) int64."""
        ...

    @property
    def document_starts(self) -> Tensor | None:
        """(B, T) int64, voir `data.sampler.document_starts` ; None : un document par rangée."""
        ...


class LogitsLoss(Protocol):
    """Une perte sur les logits de certains tokens, à la place de l'entropie croisée."""

    def positions(self, batch: Any) -> Tensor:
        """(n,) int64, croissants : les tokens du lot aplati dont elle veut les logits."""
        ...

    def __call__(self, logits: Tensor, batch: Any) -> Tensor:
        """Logits (n, V) de ces tokens → perte moyenne du lot, avec son graphe."""
        ...


class FusedStep:
    """Calcule perte et gradients d'un `GPTModel`, sans autograd.

    Args:
        model: sur CPU, en fp32 (voir `why_not_fused`).
        seed: graine des masques de dropout.
        lean: l'optimiseur du mode économe, qui met à jour les poids pendant la rétropropagation ;
            None : les gradients vont dans les `.grad` des paramètres.
        recompute: ne garde de la passe avant que l'entrée de chaque bloc, et recalcule le reste ;
            le mode économe le fait toujours.
        dtype: type des produits de matrices, fp32 ou bf16 ; l'attention, les logits et tout ce qui
            entoure les produits restent en fp32.
        objective: la perte ; None : l'entropie croisée, dont tous les logits ne coexistent jamais.
        trains: faux : aucun gradient ne sera demandé, et rien ne leur est réservé.

    Raises:
        ValueError: le modèle ne convient pas.
    """

    def __init__(
        self,
        model: GPTModel,
        *,
        seed: int,
        lean: LeanAdamW | None = None,
        recompute: bool = False,
        dtype: torch.dtype = torch.float32,
        objective: LogitsLoss | None = None,
        trains: bool = True,
    ) -> None:
        problem = why_not_fused(model)
        if problem is not None:
            raise ValueError(problem)
        self.model, self.seed = model, seed
        self.held_back: Sequence[str] = ()  # `LeanEngine`, qui l'enveloppe, le sait
        self._dtype, self._kernels = dtype, kernels_for(dtype)
        self._recompute = recompute or lean is not None
        self._objective, self._trains = objective, trains
        self._sink: GradientSink = GradientStore(model) if lean is None else LeanSink(model, lean)
        self._sites = 1 + 3 * model.cfg.n_layers
        self._blocks = [
            BlockPass(block, 1 + 3 * index)  # type: ignore[arg-type]
            for index, block in enumerate(model.trf_blocks)
        ]
        self._workspaces: dict[tuple[int, int, bool], Workspace] = {}

    @fastest_matmul()
    def forward_backward(self, batch: SequenceBatch, *, scale: float = 1.0) -> Tensor:
        """Perte moyenne du lot (nats par token) ; ajoute `scale` × son gradient.

        Si la perte n'est pas finie, elle est rendue sans rétropropagation : les `.grad` absents le
        restent, ceux d'un lot précédent ne valent plus rien, et l'étape est à sauter. NaN si un
        gradient du mode économe n'était pas fini.

        Args:
            batch: le lot.
            scale: facteur des gradients, par exemple 1 / nombre de micro-lots.

        Raises:
            ValueError: types, formes ou identifiants hors de ce que le modèle accepte.
        """
        model, sink = self.model, self._sink
        inputs, targets = batch.inputs, batch.targets
        sink.begin()
        with torch.no_grad():
            sequences = batch.sequence_ids if model.training else None
            run = self._start(inputs, targets, sequences, batch.document_starts)
            layers = self._forward(run, inputs, keep=True)
            h = normalize(run, model.final_norm, layers[-1], "stats", OUTSIDE)
            dh = run.get("dh", *h.shape, slot=OUTSIDE)
            head = model.out_head.weight
            loss = self._head(run, h, head, batch, scale, dh)
            if not torch.isfinite(loss):
                return loss
            sink.flush()
            dx = run.workspace.get("dx", *h.shape, slot=OUTSIDE)
            where = (model.final_norm, layers[-1], "stats", OUTSIDE)
            normalize_backward(run, *where, dh, dx, sink, accumulate=False)
            for index in reversed(range(len(self._blocks))):
                block, x = self._blocks[index], layers[index]
                slot = 0 if self._recompute else index
                if self._recompute:
                    block.forward(run, x, layers[index + 1], slot)
                block.backward(run, x, dx, sink, slot)
                sink.flush()
            self._embedding_backward(run, inputs, dx)
            return loss if sink.finish() else torch.full_like(loss, torch.nan)

    def _head(
        self, run: Pass, h: Tensor, head: Tensor, batch: SequenceBatch, scale: float, dh: Tensor
    ) -> Tensor:
        """La perte du lot, et les gradients de la tête et de ce qu'elle lit."""
        objective, sink = self._objective, self._sink
        if objective is None:
            return head_loss_and_gradients(run, h, head, batch.targets.reshape(-1), scale, dh, sink)
        places = objective.positions(batch)
        held = h[places].float()  # (n, D)
        with torch.enable_grad():  # autograd ne dérive que la perte, sur les logits
            logits = (held @ head.detach().t()).requires_grad_()  # (n, V)
            loss = objective(logits, batch)
            if not torch.isfinite(loss):
                return loss.detach()
            (gradient,) = torch.autograd.grad(loss * scale, logits)
        out, beta = sink.buffer(head)
        torch.addmm(out, gradient.t(), held, beta=beta, out=out)
        dh.zero_()[places] = (gradient @ head.detach()).to(dh.dtype)
        return loss.detach()

    @fastest_matmul()
    def logits(
        self, inputs: Tensor, positions: Tensor, document_starts: Tensor | None = None
    ) -> Tensor:
        """Logits (n, V) fp32 de certains tokens, sans dropout ni gradient.

        Args:
            inputs: (B, T) int64.
            positions: (n,) int64, rangs de ces tokens dans le lot aplati.
            document_starts: voir `SequenceBatch`.
        """
        with torch.no_grad():
            run = self._start(inputs, inputs, None, document_starts)
            x = self._forward(run, inputs, keep=False)[-1]
            h = normalize(run, self.model.final_norm, x, "stats", OUTSIDE)
            return h[positions].float() @ self.model.out_head.weight.detach().t()

    @fastest_matmul()
    def loss(
        self, inputs: Tensor, targets: Tensor, document_starts: Tensor | None = None
    ) -> Tensor:
        """Perte moyenne (nats par token), sans dropout ni gradient.

        Args:
            inputs: (B, T) int64.
            targets: (B, T) int64.
            document_starts: voir `SequenceBatch`.
        """
        with torch.no_grad():
            run = self._start(inputs, targets, None, document_starts)
            x = self._forward(run, inputs, keep=False)[-1]
            h = normalize(run, self.model.final_norm, x, "stats", OUTSIDE)
            return head_loss(run, h, self.model.out_head.weight, targets.reshape(-1))

    def _start(
        self,
        inputs: Tensor,
        targets: Tensor,
        sequence_ids: Tensor | None,
        document_starts: Tensor | None,
    ) -> Pass:
        """Les tampons et les clés d'un lot ; sans séquences, rien n'est abandonné."""
        cfg = self.model.cfg
        batch, length = inputs.shape
        if length > cfg.context_length:
            raise ValueError(
                f"{length} positions demandées, le modèle en accepte {cfg.context_length} ; "
                "gardez les derniers tokens"
            )
        _check_ids("inputs", inputs, inputs.shape, cfg.vocab_size)
        known = targets.masked_fill(targets == IGNORED, 0)
        _check_ids("targets", known, inputs.shape, cfg.vocab_size)
        if sequence_ids is not None and sequence_ids.shape != (batch,):
            raise ValueError(f"{sequence_ids.numel()} numéros de séquence pour un lot de {batch}")
        places = torch.arange(length)
        first = torch.zeros_like(inputs) if document_starts is None else document_starts
        if first.shape != inputs.shape or bool(((first < 0) | (first > places)).any()):
            raise ValueError(
                "des documents qui commencent hors de leur rangée, ou après leurs tokens"
            )
        keys = torch.zeros(self._sites, 2 * batch, dtype=torch.int64)
        if sequence_ids is not None:
            table = site_keys(self.seed, sequence_ids, self._sites)  # (B, endroits, 2)
            keys = torch.from_numpy(table.astype("int64")).transpose(0, 1).flatten(1).contiguous()
        return Pass(
            workspace=self._workspace(batch, length),
            batch=batch,
            length=length,
            places=(places - first).flatten(),
            first=first.flatten(),
            keys=keys,
            drop=0 if sequence_ids is None else threshold(cfg.drop_rate),
            scale=keep_scale(cfg.drop_rate),
            kernels=self._kernels,
            dtype=self._dtype,
        )

    def _workspace(self, batch: int, length: int) -> Workspace:
        arenas = self._sink.arenas() if self._trains else {}
        key = (batch, length, bool(arenas))
        if key not in self._workspaces:
            while len(self._workspaces) >= _WORKSPACES:
                del self._workspaces[next(iter(self._workspaces))]
            self._workspaces[key] = Workspace(arenas)
        return self._workspaces[key]

    def _forward(self, run: Pass, inputs: Tensor, *, keep: bool) -> list[Tensor]:
        """Entrée de chaque bloc, puis sortie du dernier (N, D).

        `keep` garde tout ce que la rétropropagation relira ; sans lui, deux tampons alternent.
        """
        rows, width = run.batch * run.length, self.model.cfg.emb_dim
        count = len(self._blocks)
        layers = []
        for index in range(count + 1):
            slot = index if keep else index % 2
            lasting = OUTSIDE if self._recompute else slot
            layers.append(run.workspace.get(f"x{slot}", rows, width, slot=lasting))
        tables = (self.model.tok_emb.weight, self.model.pos_emb.weight)
        ids = (inputs.flatten(), run.places)
        run.by_rows(kernels.embed_, *ids, *tables, *run.dropout(0), layers[0])
        for index, block in enumerate(self._blocks):
            slot = index if keep and not self._recompute else 0
            block.forward(run, layers[index], layers[index + 1], slot)
        return layers

    def _embedding_backward(self, run: Pass, inputs: Tensor, dx: Tensor) -> None:
        if run.drop:
            run.by_rows(kernels.embed_backward_, dx, *run.dropout(0))
        for table, ids in (
            (self.model.pos_emb.weight, run.places),
            (self.model.tok_emb.weight, inputs.flatten()),
        ):
            gradient = self._sink.zeroed(table)
            order = torch.argsort(ids, stable=True)
            rows, counts = torch.unique_consecutive(ids[order], return_counts=True)
            starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            launch(kernels.scatter_rows_, len(rows), order, starts, ids, dx, gradient)


def kernels_for(dtype: torch.dtype) -> Any:
    """Les noyaux qui entourent des produits de ce type ; ceux de bf16 ne se chargent qu'ici."""
    if dtype == torch.float32:
        return kernels
    return importlib.import_module("gpt_architecture.kernels.train.half_kernels")


def _check_ids(name: str, ids: Tensor, shape: torch.Size, vocab_size: int) -> None:
    """Refuse ce que les noyaux liraient hors de leurs tableaux."""
    if ids.dtype != torch.int64 or ids.shape != shape or ids.numel() == 0:
        raise ValueError(f"{name} {tuple(ids.shape)} {ids.dtype}, attendu {tuple(shape)} int64")
    low, high = (int(bound) for bound in torch.aminmax(ids))
    if low < 0 or high >= vocab_size:
        raise ValueError(f"{name} va de {low} à {high}, hors du vocabulaire [0, {vocab_size}[")
