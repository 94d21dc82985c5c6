"""Importer un ckpt.pt de nanoGPT, comparé à un nanoGPT écrit ici, à part."""

import math

import pytest
import torch
from interop_helpers import ids, logits, tokenizer
from torch import nn
from torch.nn import functional as F

from gpt_architecture.errors import GPTArchitectureError, TokenizerError
from gpt_architecture.interop.reading import read_source

ARGUMENTS = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 24,
    "block_size": 32,
    "vocab_size": 300,
    "dropout": 0.0,
    "bias": True,
}


class Norm(nn.Module):
    """La norme de nanoGPT, au biais facultatif."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)
        self.heads = heads

    def forward(self, x):
        batch, positions, width = x.shape
        q, k, v = (
            part.view(batch, positions, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        hidden = torch.ones(positions, positions, dtype=torch.bool).triu(1)
        out = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return self.c_proj(out.transpose(1, 2).reshape(batch, positions, width))


class MLP(nn.Module):
    def __init__(self, width, bias, approximate):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.c_proj = nn.Linear(4 * width, width, bias=bias)
        self.approximate = approximate

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, width, heads, bias, approximate):
        super().__init__()
        self.ln_1, self.attn = Norm(width, bias), Attention(width, heads, bias)
        self.ln_2, self.mlp = Norm(width, bias), MLP(width, bias, approximate)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """Les modules et les noms de nanoGPT."""

    def __init__(self, bias=True, approximate="tanh"):
        super().__init__()
        width, heads = ARGUMENTS["n_embd"], ARGUMENTS["n_head"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(ARGUMENTS["vocab_size"], width),
                "wpe": nn.Embedding(ARGUMENTS["block_size"], width),
                "h": nn.ModuleList([Block(width, heads, bias, approximate) for _ in range(2)]),
                "ln_f": Norm(width, bias),
            }
        )
        self.lm_head = nn.Linear(width, ARGUMENTS["vocab_size"], bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, idx):
        x = self.transformer["wte"](idx) + self.transformer["wpe"](torch.arange(idx.size(1)))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def write(path, *, bias=True, approximate="tanh", prefix="_orig_mod.", **changes):
    """Écrit un ckpt.pt comme le fait train.py ; rend le modèle."""
    torch.manual_seed(0)
    model = NanoGPT(bias, approximate).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = {
        "model": {prefix + name: tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": {**ARGUMENTS, "bias": bias},
        "iter_num": 500,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "shakespeare_char", "batch_size": 12},
        **changes,
    }
    torch.save(checkpoint, path)
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["_orig_mod.", ""])
def test_same_logits(tmp_path, bias, prefix):
    """Avec ou sans biais, compilé ou non : les logits de nanoGPT."""
    theirs = write(tmp_path / "ckpt.pt", bias=bias, prefix=prefix)
    content = read_source(tmp_path / "ckpt.pt", tokenizer=tokenizer())
    assert content.config.qkv_bias is bias
    torch.testing.assert_close(
        logits(content.build(), ids()), logits(theirs, ids()), rtol=0, atol=1e-5
    )
    assert content.metadata["steps"] == 500
    assert content.metadata["val_losses"] == [2.5]


def test_exact_gelu_costs_little(tmp_path):
    """Depuis 2023, nanoGPT emploie la GELU exacte : l'écart existe, et reste petit."""
    theirs = write(tmp_path / "ckpt.pt", approximate="none")
    ours = read_source(tmp_path / "ckpt.pt", tokenizer=tokenizer()).build()
    gap = (logits(ours, ids()) - logits(theirs, ids())).abs().max()
    assert 1e-6 < gap < 1e-2


def test_a_character_vocabulary_must_be_given(tmp_path):
    """Le vocabulaire de nanoGPT est dans un pickle, qu'on n'ouvre pas."""
    write(tmp_path / "ckpt.pt")
    with pytest.raises(TokenizerError, match="`tokenizer`"):
        read_source(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_args": {**ARGUMENTS, "n_head": 5}}, "n_heads 5"),
        ({"model_args": {"n_layer": 2}}, "il manque vocab_size"),
        ({"model_args": {**ARGUMENTS, "n_layer": 3}}, "il manque h.2"),
        ({"model_args": {**ARGUMENTS, "n_layer": 10**8}}, "blocs annoncés"),
        ({"model_args": {**ARGUMENTS, "n_embd": 48}}, "est de forme"),
        ({"model": {"wte.weight": 3}}, "autre chose que des tenseurs"),
        ({"model": {}}, "autre chose que des tenseurs"),
        ({"optimizer": print}, "objet Python refusé"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, changes, words):
    write(tmp_path / "ckpt.pt", **changes)
    with pytest.raises(GPTArchitectureError) as refusal:
        read_source(tmp_path / "ckpt.pt", tokenizer=tokenizer())
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
