"""Outils des tests de préférences : des paires minuscules, un modèle de départ, des réglages."""

import json

import torch

from gpt_architecture.config import ComputeConfig, GPTConfig, ObjectiveConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.preferences import load_preferences
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.formats.model_file import ModelFile, save_model
from gpt_architecture.training.session import Settings
from gpt_architecture.training.starting import StartingPoint

WINDOW = 47
WORDS = "La lampe brille ; le bateau dort, la nuit est longue. Oui, non, ici, là ? Personne."
TOKENIZER = BPETokenizer.from_text(WORDS * 6, 270)
ANSWERS = {
    "La lampe ?": ("Elle brille.", "Non."),
    "Le bateau ?": ("Il dort ici.", "Là."),
    "La nuit ?": ("Oui.", "Personne, personne."),
}
TRAINING = TrainingConfig(
    epochs=2,
    batch_size=2,
    accumulate=2,
    lr=3e-3,
    eval_freq=3,
    stride=2 * (WINDOW + 1),
    train_ratio=0.75,
)
SHORT = "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' else '>' }}"
TEMPLATE = f"{SHORT}{{% endfor %}}"


def write_pairs(path, count=12, swap=()):
    """Un fichier de paires ; celles de rang `swap` ont leurs réponses échangées."""
    questions = list(ANSWERS)
    rows = []
    for index in range(count):
        question = questions[index % 3]
        chosen, rejected = ANSWERS[question]
        if index in swap:
            chosen, rejected = rejected, chosen
        rows.append({"prompt": question, "chosen": chosen, "rejected": rejected})
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def pair_data(folder, **options):
    path = write_pairs(folder / "paires.jsonl", **options)
    return load_preferences(path, TOKENIZER, window=WINDOW, training=TRAINING, template=TEMPLATE)


def shape(**changes):
    basic = {
        "vocab_size": TOKENIZER.vocab_size,
        "context_length": 64,
        "emb_dim": 24,
        "n_heads": 3,
        "n_layers": 2,
        "drop_rate": 0.0,
        "qkv_bias": True,
        "tie_weights": True,
    }
    return GPTConfig(**{**basic, **changes})


def a_start(config=None, seed=7, spread=0.1, **metadata):
    """Un modèle de départ dont les logits ne sont pas presque uniformes."""
    config = config or shape()
    torch.manual_seed(seed)
    model = GPTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    content = ModelFile(
        config=config,
        state_dict=model.state_dict(),
        tokenizer=TOKENIZER.to_dict(),
        metadata=metadata,
    )
    return StartingPoint(name="depart.pt", content=content)


def settings_of(data, loss="dpo", engine="autograd", **changes):
    basic = {
        "model": shape(),
        "window": WINDOW,
        "device": torch.device("cpu"),
        "prompt": data.opening,
        "training": TRAINING,
        "compute": ComputeConfig(engine=engine, precision="fp32"),
        "objective": ObjectiveConfig(preferences="paires.jsonl", preference_loss=loss),
        "start": a_start(),
    }
    return Settings(**{**basic, **changes})


def save_start(folder, **metadata):
    """Le modèle de départ, dans un fichier ; il a appris le gabarit de ces paires."""
    start = a_start(window=WINDOW, chat_template=TEMPLATE, **metadata)
    content, path = start.content, folder / "depart.pt"
    save_model(
        path,
        content.build(),
        content.config,
        tokenizer=content.tokenizer,
        metadata=dict(content.metadata),
    )
    return path
