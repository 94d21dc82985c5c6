"""torch.compile : le modèle écrit au plus simple pour lui, à cache fixe, et torchao pour ses poids.

Formes : B lot, T tokens, D largeur, H têtes, S places du cache, V vocabulaire.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from _peers import Prompts, Run
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.interop.gguf import gguf_tensors

ROUND = 128  # places du cache : un multiple, pour que peu de formes se compilent


class _Block(nn.Module):
    """Bloc pré-normé, aux noms de GGUF."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        d, self.heads = cfg.emb_dim, cfg.n_heads
        self.attn_qkv, self.attn_output = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ffn_up, self.ffn_down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.attn_norm, self.ffn_norm = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, at: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, D) ; clés et valeurs (B, H, S, K) reçoivent les nouvelles."""
        batch, tokens, width = x.shape
        parts = self.attn_qkv(self.attn_norm(x)).split(width, dim=2)
        q, k, v = (p.view(batch, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        keys[:, :, at], values[:, :, at] = k, v
        context = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + self.attn_output(context.transpose(1, 2).reshape(batch, tokens, width))
        hidden = F.gelu(self.ffn_up(self.ffn_norm(x)), approximate="tanh")
        out: Tensor = x + self.ffn_down(hidden)
        return out


class _Network(nn.Module):
    """Les poids d'un GPTModel ; rend le token le plus probable après le dernier."""

    def __init__(self, model: GPTModel) -> None:
        super().__init__()
        cfg = model.cfg
        with torch.device("meta"):
            self.token_embd = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
            self.position_embd = nn.Embedding(cfg.context_length, cfg.emb_dim)
            self.blk = nn.ModuleList(_Block(cfg) for _ in range(cfg.n_layers))
            self.output_norm = nn.LayerNorm(cfg.emb_dim)
            self.output = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)
        self.load_state_dict(dict(gguf_tensors(model)), assign=True)
        self.eval().requires_grad_(False)

    def forward(self, ids: Tensor, cache: list[Tensor], at: Tensor) -> Tensor:
        """ids (B, T) aux places `at` (T,) → tokens (B,)."""
        x = self.token_embd(ids) + self.position_embd(at)
        mask = torch.arange(cache[0].size(2)) <= at[:, None]  # (T, S)
        for index, block in enumerate(self.blk):
            x = block(x, cache[2 * index], cache[2 * index + 1], at, mask)
        logits: Tensor = self.output(self.output_norm(x[:, -1]))
        return logits.argmax(-1)


class Compiled:
    """`torch.compile` du modèle, poids gelés ; `kind` : fp32, int8 (torchao, poids seuls)."""

    def __init__(self, model: GPTModel, kind: str) -> None:
        torch._dynamo.config.recompile_limit = 64  # une forme par question et par précision
        network = _Network(model)
        if kind == "int8":
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            quantize_(network, Int8WeightOnlyConfig())
        self._cfg = model.cfg
        self._step: Any = torch.compile(
            network, dynamic=False, fullgraph=True, options={"freezing": True}
        )

    @torch.inference_mode()
    def decode(self, prompts: Prompts, count: int) -> Run:
        """Voir `Engine.decode`."""
        ids = torch.tensor(prompts)
        rows, length = ids.shape
        cache = self._cache(rows, length + count)
        token = self._step(ids, cache, torch.arange(length))
        produced = [token]
        start = time.perf_counter()
        for place in range(length, length + count - 1):
            token = self._step(token[:, None], cache, torch.tensor([place]))
            produced.append(token)
        seconds = time.perf_counter() - start
        return Run(tokens=torch.stack(produced, dim=1).tolist(), seconds=seconds)

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> float:
        """Voir `Engine.prefill`."""
        ids, cache = torch.tensor([prompt]), self._cache(1, len(prompt))
        start = time.perf_counter()
        self._step(ids, cache, torch.arange(len(prompt)))
        return time.perf_counter() - start

    def _cache(self, rows: int, size: int) -> list[Tensor]:
        places = -(-size // ROUND) * ROUND
        shape = (rows, self._cfg.n_heads, places, self._cfg.head_dim)
        return [torch.zeros(shape) for _ in range(2 * self._cfg.n_layers)]
