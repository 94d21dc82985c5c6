"""Ce que les tests du décodage partagent : un tokenizer minuscule, un modèle tranché."""

import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import GPTModel
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import Continuation

LETTERS = "abcdefghijklmnopqrstuvwxyz ,.!?"


class LetterTokenizer:
    """Une lettre par token ; le dernier identifiant est la fin de texte."""

    name = "lettres"
    vocab_size = len(LETTERS) + 1
    eos_id = len(LETTERS)

    def encode(self, text, *, allowed_special=frozenset()):
        del allowed_special
        return [LETTERS.index(letter) for letter in text]

    def decode(self, tokens):
        return "".join("" if token == self.eos_id else LETTERS[token] for token in tokens)

    def to_dict(self):
        return {"name": self.name}


class ByteTokenizer:
    """Un octet par token : les caractères accentués s'étendent sur plusieurs."""

    name = "octets"
    vocab_size = 257
    eos_id = 256

    def encode(self, text, *, allowed_special=frozenset()):
        del allowed_special
        return list(text.encode())

    def decode(self, tokens):
        return bytes(token for token in tokens if token < 256).decode(errors="replace")

    def to_dict(self):
        return {"name": self.name}


def sharp_model(seed=0, *, vocab_size=LetterTokenizer.vocab_size, context_length=24, **options):
    """Un petit modèle aux poids assez grands pour que ses choix varient."""
    torch.manual_seed(seed)
    settings = {"emb_dim": 24, "n_heads": 3, "n_layers": 2, "drop_rate": 0.1} | options
    model = GPTModel(GPTConfig(vocab_size=vocab_size, context_length=context_length, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(2.0)
    return model.eval()


class DictatedModel:
    """Dicte les mêmes tokens à chaque suite, l'un après l'autre, quoi qu'elle contienne."""

    def __init__(self, tokens, *, vocab_size, context_length=64):
        self.cfg = GPTConfig(
            vocab_size=vocab_size, context_length=context_length, emb_dim=1, n_heads=1, n_layers=1
        )
        self._tokens = iter(tokens)

    def __call__(self, in_idx, cache=None, *, at=None):
        if cache is not None:
            cache.advance_(in_idx.size(1))
        length = 1 if at is not None else in_idx.size(1)
        logits = torch.zeros(in_idx.size(0), length, self.cfg.vocab_size)
        logits[:, -1, next(self._tokens)] = 100.0
        return logits

    @property
    def device(self):
        return torch.device("cpu")

    def new_cache(self, batch_size, capacity=None):
        return KVCache(self.cfg, batch_size, capacity=capacity)


def chooser(config=None, *, prompt=(0,), vocab_size=5, **settings):
    """logits (B, V) → tokens (B, 1), tirés comme une suite de cette configuration."""
    config = GenerationConfig(**settings) if config is None else config
    tokenizer = LetterTokenizer()
    tokenizer.vocab_size, tokenizer.eos_id = vocab_size, None
    sequence = Continuation(prompt, config, tokenizer, vocab_size=vocab_size)
    return lambda logits: torch.tensor([[sequence.choose(row)] for row in logits])
