"""Modèles minuscules et leurs jumeaux chez les autres, pour les tests de conversion."""

import torch
from parity_helpers import random_model, to_transformers

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.formats.model_file import ModelFile

TEXT = "Le passeur leva la lampe deux fois, puis il détacha le bateau. Regarde l'eau, dit-il. " * 6
VOCAB = 300
GPT2 = GPTConfig(
    vocab_size=VOCAB,
    context_length=32,
    emb_dim=24,
    n_heads=3,
    n_layers=2,
    drop_rate=0.1,
    qkv_bias=True,
    tie_weights=True,
)
BOOK = GPTConfig(
    vocab_size=VOCAB, context_length=32, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.1
)


def tokenizer():
    """Un BPE appris sur quelques phrases."""
    return BPETokenizer.from_text(TEXT, 290)


def content(config, **metadata):
    """Un `ModelFile` aux poids aléatoires."""
    return ModelFile(
        config=config,
        state_dict=random_model(config).state_dict(),
        tokenizer=tokenizer().to_dict(),
        metadata=metadata,
    )


def ids(batch=2, length=9):
    """Identifiants (B, T) int64."""
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(1))


def logits(model, idx):
    """Logits (B, T, V) d'un modèle d'ici ou de Transformers."""
    with torch.no_grad():
        out = model(idx)
    return getattr(out, "logits", out)


def transformers_folder(path, config=GPT2, **saving):
    """Écrit par Transformers un GPT-2 aléatoire, sans vocabulaire ; rend le modèle."""
    theirs = to_transformers(random_model(config))
    theirs.save_pretrained(path, **saving)
    return theirs
