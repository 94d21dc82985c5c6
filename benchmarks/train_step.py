"""Le pas d'entraînement, contre une référence simple, Transformers, nanoGPT et llm.c.

Question : combien de tokens par seconde pour un pas complet (avant, arrière, AdamW) de
GPT-124M en mode livre, lots de 2 × 256, dropout 0,1 ? Et quelle part du temps les produits de
matrices, à la vitesse du plus grand produit mesuré ici, prendraient-ils à eux seuls ? Les
candidats tournent en alternance dans ce même processus ; on imprime les médianes, leur étendue et
les rapports.

    python benchmarks/train_step.py [--quick] [--json FICHIER] [--pairs N] [--only NOM …]
        [--llm-c SOURCES]
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _ceilings import Ceilings, Work
from _machine import announce
from _measure import Row, absent, alternate, compare, write_rows
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_architecture.config import (
    ComputeConfig,
    GPTConfig,
    MemoryMode,
    OptimizerConfig,
    PrecisionName,
    TrainingConfig,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.training.backends import build_backend
from gpt_architecture.training.step import Batch, has_bf16

LR, WEIGHT_DECAY = TrainingConfig.lr, TrainingConfig.weight_decay
WINDOW = 256  # défaut de --context-length
OURS = "ce projet"
Step = Callable[[Tensor, Tensor], float]


class ReferenceLayerNorm(nn.Module):
    """Normalisation en opérations séparées."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + 1e-5) + self.shift


class ReferenceBlock(nn.Module):
    """Bloc pré-normé : trois projections séparées, softmax explicite, GELU en formule."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        d = cfg.emb_dim
        self.heads, self.width = cfg.n_heads, d
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.out = nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.norm1, self.norm2 = ReferenceLayerNorm(d), ReferenceLayerNorm(d)
        self.drop_attention = nn.Dropout(cfg.drop_rate)
        self.drop = nn.Dropout(cfg.drop_rate)
        mask = torch.triu(torch.ones(cfg.context_length, cfg.context_length), diagonal=1)
        self.register_buffer("mask", mask.bool(), persistent=False)

    def attention(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        batch, tokens, _ = x.shape
        shape = (batch, tokens, self.heads, self.width // self.heads)
        q, k, v = (
            layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3)  # (B, H, T, T)
        mask: Tensor = self.mask  # type: ignore[assignment]
        scores = scores.masked_fill(mask[:tokens, :tokens], -torch.inf)
        weights = torch.softmax(scores / math.sqrt(q.size(-1)), dim=-1)
        context = self.drop_attention(weights) @ v
        joined = context.transpose(1, 2).contiguous().view(batch, tokens, self.width)
        out: Tensor = self.out(joined)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        x = x + self.drop(self.attention(self.norm1(x)))
        h = self.up(self.norm2(x))
        cube = h + 0.044715 * torch.pow(h, 3)
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * cube))
        out: Tensor = x + self.drop(self.down(h))
        return out


class ReferenceGPT(nn.Module):
    """Le même modèle, écrit au plus simple."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.positions = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.drop = nn.Dropout(cfg.drop_rate)
        self.blocks = nn.Sequential(*(ReferenceBlock(cfg) for _ in range(cfg.n_layers)))
        self.norm = ReferenceLayerNorm(cfg.emb_dim)
        self.head = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) → logits (B, T, V)."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        logits: Tensor = self.head(self.norm(self.blocks(self.drop(x))))
        return logits


class NanoBlock(nn.Module):
    """Bloc à la façon de nanoGPT : projections réunies, attention et GELU de PyTorch."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        d = cfg.emb_dim
        self.heads, self.rate = cfg.n_heads, cfg.drop_rate
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, D)."""
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, dim=2)
        q, k, v = (p.view(batch, tokens, self.heads, -1).transpose(1, 2) for p in parts)
        context = F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate, is_causal=True)
        joined = context.transpose(1, 2).reshape(batch, tokens, width)
        x = x + F.dropout(self.out(joined), self.rate)
        hidden = F.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + F.dropout(self.down(hidden), self.rate)


class NanoGPT(nn.Module):
    """Le modèle à la façon de nanoGPT, tête indépendante pour la même arithmétique."""

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.positions = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.rate = cfg.drop_rate
        self.blocks = nn.Sequential(*(NanoBlock(cfg) for _ in range(cfg.n_layers)))
        self.norm = nn.LayerNorm(cfg.emb_dim)
        self.head = nn.Linear(cfg.emb_dim, cfg.vocab_size, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, T) → logits (B, T, V)."""
        x = self.tokens(ids) + self.positions(torch.arange(ids.size(1)))
        logits: Tensor = self.head(self.norm(self.blocks(F.dropout(x, self.rate))))
        return logits


def ours(
    cfg: GPTConfig, *, memory: MemoryMode = "default", precision: PrecisionName = "fp32"
) -> Step:
    """Le pas de ce projet, tel que `train` le fait ; en fp32, comme ses pairs."""
    model = GPTModel(cfg).train()
    backend = build_backend(
        model,
        ComputeConfig(engine="fused", memory=memory, precision=precision),
        OptimizerConfig(),
        TrainingConfig(lr=LR, weight_decay=WEIGHT_DECAY),
    )
    sequences = itertools.count()

    def step(x: Tensor, y: Tensor) -> float:
        ids = torch.tensor([next(sequences) for _ in range(len(x))])
        batch = Batch(inputs=x, targets=y, sequence_ids=ids)
        loss = backend.engine.forward_backward(batch, scale=1.0)
        backend.optimizer.step()
        backend.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def nano_gpt(cfg: GPTConfig) -> Step:
    """Le pas de nanoGPT, réécrit : attention de PyTorch, AdamW fusionné, deux groupes."""
    model = NanoGPT(cfg).train()
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return make_step(loss, optimizer)


def reference(cfg: GPTConfig) -> Step:
    """Le pas de la référence simple, AdamW ordinaire."""
    model = ReferenceGPT(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return make_step(loss, optimizer)


def transformers_gpt2(cfg: GPTConfig, *, fused: bool = False) -> Step:
    """Le GPT-2 de Transformers, de même forme (tête indépendante).

    AdamW est celui de PyTorch par défaut ; `fused=True` prend la variante fusionnée, comme
    le fait le `Trainer` de Transformers.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    model: Any = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_head=cfg.n_heads,
            n_layer=cfg.n_layers,
            tie_word_embeddings=False,
            use_cache=False,
        )
    ).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=fused or None
    )

    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits = model(input_ids=x, use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    return make_step(loss, optimizer)


def make_step(
    loss_of: Callable[[Tensor, Tensor], Tensor], optimizer: torch.optim.Optimizer
) -> Step:
    """Un pas complet ; rend la perte."""

    def step(x: Tensor, y: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()

    return step


def step_products(cfg: GPTConfig, tokens: int) -> float:
    """Multiplications-additions des produits d'un pas : avant, puis deux fois autant en arrière."""
    weights = cfg.n_layers * 12 * cfg.emb_dim**2 + cfg.vocab_size * cfg.emb_dim
    attention = cfg.n_layers * 2 * WINDOW * cfg.emb_dim  # q·k et poids·v, carré entier
    return 3.0 * tokens * (weights + attention)


def llm_c(cfg: GPTConfig, source: Path | None, folder: Path) -> Step:
    """Le pas de llm.c (`train_gpt2.c`), compilé comme son Makefile le fait.

    Sa tête est celle de l'embedding, et il n'a pas de dropout : deux choses de moins à faire. Ses
    poids sont les nôtres, écrits dans son format.

    Raises:
        ImportError: ses sources n'ont pas été données.
    """
    if source is None:
        raise ImportError("git clone https://github.com/karpathy/llm.c, puis --llm-c llm.c")
    from _llm_c import LlmC

    return LlmC(source, folder, cfg, lr=LR, weight_decay=WEIGHT_DECAY)


def compiled(cfg: GPTConfig) -> Step:
    """La référence simple par `torch.compile`, AdamW fusionné."""
    model = ReferenceGPT(cfg).train()
    run: Any = torch.compile(model, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(run(x).flatten(0, 1), y.flatten())

    return make_step(loss, optimizer)


def main() -> None:
    """Mesure, imprime le tableau, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="moins d'une minute, petit modèle")
    parser.add_argument("--pairs", type=int, default=9, help="passages par candidat")
    parser.add_argument("--only", nargs="+", help="candidats, en plus du nôtre")
    parser.add_argument("--llm-c", type=Path, help="sources de llm.c")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()

    torch.manual_seed(123)
    announce()
    cfg = GPTConfig()
    pairs = arguments.pairs
    if arguments.quick:
        cfg, pairs = GPTConfig(emb_dim=384, n_layers=4), 5
    with tempfile.TemporaryDirectory() as folder:
        rows = compare_steps(cfg, pairs, arguments.only, arguments.llm_c, Path(folder))
    write_rows(arguments.json, rows)


def compare_steps(
    cfg: GPTConfig, pairs: int, only: Sequence[str] | None, source: Path | None, folder: Path
) -> list[Row]:
    """Construit les candidats, les alterne avec les plafonds, imprime le tableau."""
    candidates: dict[str, Callable[[], Step]] = {
        OURS: partial(ours, cfg),
        "… --memory lean": partial(ours, cfg, memory="lean"),
        "référence simple": partial(reference, cfg),
        "… torch.compile": partial(compiled, cfg),
        "Transformers GPT-2": partial(transformers_gpt2, cfg),
        "… AdamW fusionné": partial(transformers_gpt2, cfg, fused=True),
        "nanoGPT réécrit": partial(nano_gpt, cfg),
        "llm.c": partial(llm_c, cfg, source, folder),
    }
    if has_bf16(torch.device("cpu")):
        candidates["… --precision bf16"] = partial(ours, cfg, precision="bf16")
    batches = []
    for _ in range(pairs + 1):
        ids = torch.randint(cfg.vocab_size, (2, WINDOW + 1))
        batches.append((ids[:, :-1].contiguous(), ids[:, 1:].contiguous()))
    steps: dict[str, Callable[[], float]] = {}
    for name, build in candidates.items():
        if only and name not in (OURS, *only):
            continue
        try:
            steps[name] = partial(timed, name, build(), itertools.cycle(batches))
        except ImportError as error:
            print(absent(name, error))
    gc.collect()
    ceilings = Ceilings()
    seconds = alternate({**steps, **ceilings.measures()}, pairs, retries=2)

    tokens = batches[0][0].numel()
    size = f"{cfg.num_parameters():,}".replace(",", " ")
    question = f"Pas d'entraînement, lots de 2 × {WINDOW}, dropout, fp32, {size} paramètres"
    print(f"\n{question} : {pairs} passages alternés")
    rates = ceilings.take(seconds)
    work = Work(floats=step_products(cfg, tokens))
    shares = {name: rates.shares(work, values) for name, values in seconds.items()}
    speeds = {name: [tokens / value for value in values] for name, values in seconds.items()}
    peers = [name for name in seconds if name != OURS]
    rows = compare(question, speeds, "tokens/s", OURS, peers, shares=shares)
    return rows + compare(f"{question}, durée", seconds, "s", OURS, peers, lower=True)


def timed(name: str, step: Step, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    """Durée (s) d'un pas sur le lot suivant."""
    batch = next(batches)
    start = time.perf_counter()
    loss = step(*batch)
    seconds = time.perf_counter() - start
    assert math.isfinite(loss), f"{name} : perte {loss}"
    return seconds


if __name__ == "__main__":
    main()
