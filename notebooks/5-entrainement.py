# %% [markdown]
# # 5. La perte et l'entraînement
#
# Ce carnet accompagne le chapitre 5 du cours, `docs/comprendre/5-entrainement.md` : chaque nombre
# de la page est calculé ici. Il entraîne un petit modèle en une trentaine de secondes.
#
# **Installer.** Depuis un terminal de JupyterLab, de VS Code ou de Colab :
#
# ```
# git clone ADRESSE-DU-DEPOT gpt-architecture
# pip install -e gpt-architecture
# ```
#
# Dans JupyterLab et dans VS Code, choisissez ensuite, comme noyau, le Python où vous venez
# d'installer le projet. Dans Colab, redémarrez la session après l'installation.

# %%
import math
from collections import Counter
from itertools import pairwise

import torch
from torch.nn import functional as F

from gpt_architecture import GPTConfig, GPTModel, get_tokenizer, train
from gpt_architecture.data.loader import split_text
from gpt_architecture.data.texts.corpus import load_corpus

# %% [markdown]
# ## La perte d'un seul token, à la main
#
# Trois candidats, leurs logits, et le bon est le deuxième.

# %%
logits = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
target = torch.tensor(1)
probabilities = torch.softmax(logits.detach(), dim=0)
one_loss = -math.log(probabilities[1])
loss = F.cross_entropy(logits, target)
loss.backward()
by_formula = probabilities - F.one_hot(target, 3)
assert torch.allclose(logits.grad, by_formula, atol=1e-6)
stepped = (logits - 1.0 * logits.grad).detach()  # un pas de descente, de taux 1
next_probabilities = torch.softmax(stepped, dim=0)
next_loss = F.cross_entropy(stepped, target).item()
print(probabilities, one_loss, logits.grad, stepped, next_probabilities, next_loss)

# %% [markdown]
# ## Quatre repères, sur la nouvelle fournie
#
# Neuf dixièmes pour apprendre, un dixième pour vérifier ; un BPE appris sur la première part.

# %%
text = load_corpus(["la-lampe-du-passeur"]).text
train_text, val_text = split_text(text)
tokenizer = get_tokenizer("bpe-1024", text=train_text)
V = tokenizer.vocab_size
train_ids, val_ids = tokenizer.encode(train_text), tokenizer.encode(val_text)
print(V, len(train_ids), len(val_ids))

# %%
uniform = math.log(V)

counts = Counter(train_ids)


def frequency(token: int) -> float:
    """Part de ce token dans le texte d'entraînement ; un token absent compte pour un."""
    return (counts[token] + 1) / (len(train_ids) + V)


def mean_surprise(probabilities: list[float]) -> float:
    """Perte moyenne, en nats par token."""
    return -sum(map(math.log, probabilities)) / len(probabilities)


unigram = {
    "train": mean_surprise([frequency(token) for token in train_ids]),
    "val": mean_surprise([frequency(token) for token in val_ids]),
}

pairs = Counter(pairwise(train_ids))


def after(previous: int, token: int) -> float:
    """Pour moitié, la part de ce token après le précédent ; pour moitié, sa fréquence seule."""
    seen = pairs[previous, token] / counts[previous] if counts[previous] else 0.0
    return 0.5 * seen + 0.5 * frequency(token)


bigram = {
    "train": mean_surprise([after(*pair) for pair in pairwise(train_ids)]),
    "val": mean_surprise([after(*pair) for pair in pairwise(val_ids)]),
}
print(uniform, unigram, bigram)

# %% [markdown]
# ## Un modèle neuf est à la première marche

# %%
shape = {
    "vocab_size": V,
    "context_length": 64,
    "emb_dim": 112,
    "n_heads": 4,
    "n_layers": 3,
    "drop_rate": 0.0,
}
torch.manual_seed(123)
new = GPTModel(GPTConfig(**shape, qkv_bias=True, tie_weights=True)).eval()
window = torch.tensor([val_ids[:65]])
with torch.no_grad():
    new_loss = F.cross_entropy(new(window[:, :-1])[0], window[0, 1:]).item()
parameters = new.num_parameters()
print(new_loss, parameters)

# %% [markdown]
# ## L'entraînement
#
# Le préréglage `eclair` relit la nouvelle quatorze fois. Le modèle est écrit dans le dossier
# `eclair`, que reprennent les carnets suivants.

# %%
run = train(preset="eclair", output_dir="eclair", force=True)
run.history

# %%
steps, train_losses, val_losses = (run.history[name] for name in ("step", "train_loss", "val_loss"))
total_steps = len(run.steps)
first_train, last_train = train_losses[0], train_losses[-1]
best_val, last_val = min(val_losses), val_losses[-1]
best_step = steps[val_losses.index(best_val)]
print(first_train, last_train, best_val, best_step, last_val, total_steps)

# %% [markdown]
# Un modèle a-t-il appris plus que les fréquences ? Plus que les paires ? Voici toutes les marches.

# %%
rows = [
    ("au hasard", uniform, uniform),
    ("fréquences", unigram["train"], unigram["val"]),
    ("token précédent", bigram["train"], bigram["val"]),
    ("le modèle, à la fin", last_train, last_val),
]
for label, seen, unseen in rows:
    print(f"{label:20} {seen:6.2f} {unseen:6.2f}   perplexité {math.exp(unseen):7.0f}")
perplexities = [math.exp(unseen) for _, _, unseen in rows]

# %% [markdown]
# Pour comparer deux vocabulaires, il faut compter par octet de texte.

# %%
val_bytes = len(val_text.encode("utf-8"))
bits_per_byte = bigram["val"] * len(val_ids) / math.log(2) / val_bytes
print(bits_per_byte)

# %% [markdown]
# ## Ce qu'il écrivait, à chaque époque

# %%
for sample in run.samples[:: max(1, len(run.samples) // 4)]:
    print(sample)

# %% [markdown]
# ## À vous
#
# Un taux d'apprentissage dix fois plus petit, les mêmes vingt-cinq premières étapes.

# %%
slow = train(preset="eclair", output_dir="eclair-lent", lr=4e-4, max_steps=26, force=True)
slow_loss, usual_loss = slow.history["train_loss"][1], train_losses[1]
print(slow_loss, usual_loss)
