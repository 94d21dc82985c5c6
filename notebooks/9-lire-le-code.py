# %% [markdown]
# # 9. Lire le code en un après-midi
#
# Ce carnet accompagne le chapitre 9 du cours, `docs/comprendre/9-lire-le-code.md` : il compte les
# lignes, ouvre les fonctions dont parle la page, et montre comment remplacer une pièce.
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
import inspect
from pathlib import Path

import torch

import gpt_architecture
from gpt_architecture import GPTConfig, GPTModel
from gpt_architecture.core import attention, kv_cache, layers, model, utils
from gpt_architecture.data import loader
from gpt_architecture.decoding import simple as writing
from gpt_architecture.decoding import strategies
from gpt_architecture.training import simple as training

# %% [markdown]
# ## Les fichiers, dans l'ordre

# %%
root = Path(gpt_architecture.__file__).parent
reading = (
    "config/model.py",
    "data/tokenizers/simple.py",
    "data/loader.py",
    "core/layers.py",
    "core/attention.py",
    "core/model.py",
    "core/utils.py",
    "training/simple.py",
    "decoding/strategies.py",
    "decoding/simple.py",
    "core/kv_cache.py",
)
lines = {name: len((root / name).read_text(encoding="utf-8").splitlines()) for name in reading}
files, total = len(reading), sum(lines.values())
for name, count in lines.items():
    print(f"{count:4} {name}")
print(f"{total} lignes")

# %% [markdown]
# ## Où est chaque chose
#
# Python sait dans quel fichier une fonction est écrite.

# %%
places = {
    "le masque causal": attention.causal_mask,
    "la division par √K": attention.attention_weights,
    "le partage en têtes": attention.MultiHeadAttention,
    "les deux additions du bloc": layers.TransformerBlock,
    "la tête de sortie liée": model.GPTModel.tie_weights_,
    "la cible décalée d'un token": loader.GPTDatasetV1,
    "la perte": utils.calc_loss_batch,
    "la boucle d'entraînement": training.train_model_simple,
    "le noyau de top-p": strategies.top_p,
    "la boucle d'écriture": writing.generate_text_simple,
    "le cache": kv_cache.KVCache,
}
where = {
    what: Path(inspect.getsourcefile(thing)).relative_to(root).as_posix()
    for what, thing in places.items()
}
assert set(where.values()) <= set(reading)
for what, place in where.items():
    print(f"{what:28} {place}")

# %%
print(inspect.getsource(attention.attention_weights))

# %%
print(inspect.getsource(layers.TransformerBlock.forward))

# %% [markdown]
# ## Remplacer une pièce, et voir ce qui casse
#
# Une attention sans masque : l'avenir fuit, et la vérification du chapitre 4 le voit.


# %%
def without_mask(q, k, v, *, dropout_p, mask=None):
    """L'attention, sans cacher l'avenir."""
    del dropout_p, mask
    return torch.softmax(q @ k.transpose(-2, -1) / q.size(-1) ** 0.5, dim=-1) @ v


cfg = GPTConfig(vocab_size=100, context_length=16, emb_dim=32, n_heads=4, n_layers=2, drop_rate=0.0)
torch.manual_seed(123)
network = GPTModel(cfg).eval()
batch = torch.randint(cfg.vocab_size, (1, 10))
changed = batch.clone()
changed[0, -1] = (changed[0, -1] + 1) % cfg.vocab_size  # le dernier token seulement


@torch.no_grad()
def leak() -> float:
    """De combien le dernier token change les prédictions qui le précèdent."""
    return (network(batch)[0, :-1] - network(changed)[0, :-1]).abs().max().item()


leaks = {}
for name, backend in (
    ("celle de PyTorch", attention.sdpa_attention),
    ("celle qui se lit", attention.eager_attention),
    ("sans masque", without_mask),
):
    attention.use_attention_(network, backend)
    leaks[name] = leak()
    print(f"{name:18} {leaks[name]:.6f}")

# %% [markdown]
# ## À vous
#
# Écrivez une stratégie de décodage : une fonction qui prend des logits (B, V) et rend un token
# (B, 1). Celle-ci prend toujours le deuxième.


# %%
def runner_up(logits: torch.Tensor) -> torch.Tensor:
    """Le deuxième token le plus probable."""
    return logits.topk(2, dim=-1).indices[:, 1:]


attention.use_attention_(network, attention.sdpa_attention)
second = torch.cat([token for token, _ in writing.stream_tokens(network, batch, 5, runner_up)])
print(second.flatten().tolist())
