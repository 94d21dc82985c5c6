"""Des entraînements minuscules à faire oublier, et l'oracle : les mêmes, masqués dès le début."""

import json
from pathlib import Path

from shard_helpers import write_folder

from gpt_architecture import forget, train
from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.formats.adapter_file import ADAPTER_NAME, read_adapter
from gpt_architecture.formats.model_file import MODEL_NAME, read_model
from gpt_architecture.training.certificate import learned_sha256, tensors_sha256

TINY = {
    "tokenizer": "char",
    "context_length": 16,
    "positions": 16,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.1,
    "batch_size": 2,
    "eval_freq": 5,
    "eval_iter": 1,
    "train_ratio": 0.85,
    "engine": "autograd",
    "precision": "fp32",
    "device": "cpu",
    "progress": False,
}
KEPT = {"save_every": 3, "keep": 99, "max_steps": 12, "epochs": 9}
DOCUMENTS = 4


def write_documents(folder, *, size=500):
    """Quatre textes différents, de `a.txt` à `d.txt` ; rend leur dossier."""
    text = load_corpus(["la-lampe-du-passeur"]).text
    place = Path(folder) / "textes"
    place.mkdir(parents=True, exist_ok=True)
    for index in range(DOCUMENTS):
        part = text[index * size : (index + 1) * size].strip()
        (place / f"{'abcd'[index]}.txt").write_text(part, encoding="utf-8")
    return place


def late_passage(texts, sampler_of):
    """Douze caractères d'une seule fenêtre, lue presque à la fin de la première époque.

    Args:
        texts: dossier des textes.
        sampler_of: du nombre de tokens, le `WindowSampler` de l'entraînement.
    """
    training = TrainingConfig(train_ratio=TINY["train_ratio"])
    data = load_training_data([str(texts)], "char", window=16, training=training)
    sampler = sampler_of(data.train.num_tokens)
    whole = data.tokenizer.decode(data.train.read(0, data.train.num_tokens).tolist())
    for sequence in reversed(range(sampler.num_windows)):
        start = sampler.start_of(sequence) + 2
        text = data.tokenizer.decode(data.train.read(start, 12).tolist())
        if text == text.strip() and "<|" not in text and whole.count(text) == 1:
            return text
    raise AssertionError("aucun passage ne convient")


def write_talks(folder, count=12):
    """Des conversations, chacune différente, une par ligne."""
    path = Path(folder) / "dialogues.jsonl"
    lines = []
    for number in range(count):
        said = [
            {"role": "user", "content": f"Le quai {number} ?"},
            {"role": "assistant", "content": f"Au bout, passé {number * 7} pas."},
        ]
        lines.append(json.dumps({"messages": said}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_shards(folder, texts):
    """Les mêmes textes, en fragments de caractères : le dernier est la validation."""
    parts = [path.read_text(encoding="utf-8") for path in sorted(texts.iterdir())]
    tokenizer = CharTokenizer.train(parts)
    coded = [[tokenizer.eos_id, *tokenizer.encode(part)] for part in parts]
    splits = {"train": [[each for ids in coded[:-1] for each in ids]], "val": [coded[-1]]}
    description, size = tokenizer.to_dict(), tokenizer.vocab_size
    return write_folder(Path(folder) / "fragments", splits, vocab_size=size, tokenizer=description)


def weights_of(folder):
    """L'empreinte des poids finis, qui ont appris, d'un dossier d'entraînement."""
    if (folder / ADAPTER_NAME).exists():
        return tensors_sha256(read_adapter(folder / ADAPTER_NAME).tensors)
    return learned_sha256(read_model(folder / MODEL_NAME).build())


def masked_from_the_start(folder, data, settings, removal):
    """L'oracle : l'entraînement refait du début, le retrait donné à `train`."""
    asked = {**settings, "output_dir": folder, "forget": removal}
    train(data, **asked)
    return weights_of(folder)


def forgotten(folder, data=None, **target):
    """L'oubli, mené au bout."""
    found = forget(folder, data, progress=False, **target)
    assert found.done, str(found)
    return found
