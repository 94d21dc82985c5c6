# %% [markdown]
# # 7. Le cache
#
# Ce carnet accompagne le chapitre 7 du cours, `docs/comprendre/7-cache.md` : chaque nombre de la
# page est calculé ici.
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
import time

import torch

from gpt_architecture import GPT_CONFIG_124M, GPTConfig, GPTModel, generate_text_simple
from gpt_architecture.decoding.simple import stream_tokens
from gpt_architecture.decoding.strategies import greedy_token

torch.manual_seed(123)
cfg = GPTConfig(
    vocab_size=200,
    context_length=128,
    emb_dim=64,
    n_heads=4,
    n_layers=3,
    drop_rate=0.0,
    qkv_bias=True,
    tie_weights=True,
)
model = GPTModel(cfg).eval()
prompt = torch.randint(cfg.vocab_size, (1, 8))
n = 24

# %% [markdown]
# ## Compter les positions calculées
#
# Un crochet sur le premier bloc compte les tokens qui le traversent.

# %%
passed: list[int] = []
model.trf_blocks[0].register_forward_hook(lambda _m, inputs, _o: passed.append(inputs[0].size(1)))

without = generate_text_simple(model, prompt, n, cfg.context_length)
lengths_without = list(passed)
passed.clear()

tokens = [token for token, _ in stream_tokens(model, prompt, n, greedy_token)]
cached = torch.cat([prompt, *tokens], dim=1)
lengths_with = list(passed)

total_without, total_with = sum(lengths_without), sum(lengths_with)
print(lengths_without, total_without)
print(lengths_with, total_with)
assert torch.equal(without, cached)  # les mêmes tokens

# %% [markdown]
# La formule, puis la même chose pour un texte de mille tokens.

# %%
P = prompt.size(1)
assert total_without == n * P + n * (n - 1) // 2
assert total_with == P + n - 1
long = 1000
long_without, long_with = long * P + long * (long - 1) // 2, P + long - 1
print(long_without, long_with, long_without / long_with)

# %% [markdown]
# ## Les mêmes logits, à l'arrondi près

# %%
with torch.no_grad():
    full = model(cached)  # tout d'un coup
    cache = model.new_cache(1)
    pieces = [model(cached[:, i : i + 1], cache) for i in range(cached.size(1))]  # un à un
gap = (full - torch.cat(pieces, dim=1)).abs().max().item()
assert gap < 1e-5
print(cache.storage.shape, cache.lengths, gap)

# %% [markdown]
# ## Ce qu'il occupe

# %%
big = GPTConfig(**GPT_CONFIG_124M)


def cache_bytes(tokens: int, cfg: GPTConfig) -> int:
    """Deux vecteurs de largeur D par token et par bloc, sur quatre octets."""
    return 2 * cfg.n_layers * tokens * cfg.emb_dim * 4


one_token, one_text = cache_bytes(1, big), cache_bytes(big.context_length, big)
assert cache.storage.nbytes == cache_bytes(cfg.context_length, cfg)
print(one_token, one_text / 2**20, 32 * one_text / 2**30)

# %% [markdown]
# ## Quand la fenêtre est pleine
#
# Une fenêtre de 16 tokens, et 24 à écrire : à partir du dixième, tout est relu à chaque pas.

# %%
passed.clear()
small = [token for token, _ in stream_tokens(model, prompt, n, greedy_token, context_size=16)]
lengths_small = list(passed)
oracle = generate_text_simple(model, prompt, n, 16)
assert torch.equal(oracle[:, P:], torch.cat(small, dim=1))
print(lengths_small)

# %% [markdown]
# ## À vous : le temps, sur votre machine

# %%
for label, write in (
    ("sans cache", lambda: generate_text_simple(model, prompt, 100, cfg.context_length)),
    ("avec cache", lambda: list(stream_tokens(model, prompt, 100, greedy_token))),
):
    start = time.perf_counter()
    write()
    print(f"{label} : {time.perf_counter() - start:.2f} s")
