# %% [markdown]
# # 4. Le bloc, le modèle, les formes
#
# Ce carnet accompagne le chapitre 4 du cours, `docs/comprendre/4-modele.md` : chaque nombre de la
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
import torch

from gpt_architecture import GELU, GPT_CONFIG_124M, GPTConfig, GPTModel, LayerNorm, TransformerBlock

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## La normalisation, à la main

# %%
x = torch.tensor([1.0, 1.0, 5.0, 5.0])
mean = x.mean()
variance = ((x - mean) ** 2).mean()  # divisée par 4, et non par 3
by_hand = (x - mean) / variance.sqrt()
with torch.no_grad():
    by_module = LayerNorm(4)(x)
norm_gap = (by_hand - by_module).abs().max().item()
assert norm_gap < 1e-5  # l'epsilon du module, seul, les sépare
print(mean, variance, by_hand, norm_gap)

# %% [markdown]
# ## L'activation

# %%
points = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
activated = GELU()(points)
print(activated)
curve_x = torch.linspace(-4, 4, 41)
curve_y = GELU()(curve_x)

# %% [markdown]
# ## Les formes, du début à la fin
#
# Un petit modèle, et un crochet sur chaque module : il note la forme de ce qui en sort.

# %%
torch.manual_seed(123)
cfg = GPTConfig(
    vocab_size=1000, context_length=32, emb_dim=48, n_heads=4, n_layers=2, drop_rate=0.0
)
model = GPTModel(cfg).eval()
shapes: dict[str, tuple[int, ...]] = {}


def note(name: str):
    """Un crochet qui retient la forme de la sortie de ce module."""

    def hook(_module, _inputs, output):
        shapes[name] = tuple(output.shape)

    return hook


for name, module in model.named_modules():
    if name:
        module.register_forward_hook(note(name))
batch = torch.randint(cfg.vocab_size, (2, 10))  # B = 2 séquences, T = 10 tokens
with torch.no_grad():
    logits = model(batch)
for name in ("tok_emb", "pos_emb", "trf_blocks.0.att", "trf_blocks.0.ff.layers.0", "trf_blocks.0"):
    print(f"{name:26} {shapes[name]}")
print(f"{'final_norm':26} {shapes['final_norm']}\n{'out_head':26} {tuple(logits.shape)}")

# %% [markdown]
# ## Le bloc garde la forme, et le chemin résiduel laisse passer
#
# Avec deux sous-couches dont la dernière matrice est nulle, le bloc rend exactement son entrée.

# %%
block = TransformerBlock(cfg).eval()
with torch.no_grad():
    for last in (block.att.out_proj, block.ff.layers[2]):
        last.weight.zero_()
        last.bias.zero_()
    h = torch.randn(2, 10, 48)
    residual_gap = (block(h) - h).abs().max().item()
print(residual_gap)

# %% [markdown]
# ## L'avenir ne change pas le passé

# %%
changed = batch.clone()
changed[:, 7] = (changed[:, 7] + 1) % cfg.vocab_size  # un autre huitième token
with torch.no_grad():
    moved = (model(changed) - logits).abs().amax(dim=(0, 2))  # (T,) : écart à chaque position
before, after = moved[:7].max().item(), moved[7:].min().item()
print(before, after)

# %% [markdown]
# ## Compter les paramètres de GPT-2 « small »

# %%
full = GPTConfig(**GPT_CONFIG_124M)
V, T, D, L = full.vocab_size, full.context_length, full.emb_dim, full.n_layers
counts = {
    "embedding des tokens": V * D,
    "embedding des positions": T * D,
    "attention, par bloc": 3 * D * D + D * D + D,
    "perceptron, par bloc": D * 4 * D + 4 * D + 4 * D * D + D,
    "deux normes, par bloc": 2 * 2 * D,
    "norme finale": 2 * D,
    "tête de sortie": V * D,
}
blocks = L * sum(count for name, count in counts.items() if "par bloc" in name)
total = blocks + sum(count for name, count in counts.items() if "par bloc" not in name)
assert total == full.num_parameters()
tied = GPTConfig(**{**GPT_CONFIG_124M, "qkv_bias": True}, tie_weights=True).num_parameters()
mebibytes = total * 4 / 2**20
print(counts, blocks, total, tied, mebibytes)

# %% [markdown]
# ## À vous
#
# Changez une taille à la fois : laquelle coûte le plus de paramètres ?

# %%
for change in ({"emb_dim": 1536}, {"n_layers": 24}, {"vocab_size": 8000}, {"n_heads": 24}):
    print(change, GPTConfig(**{**GPT_CONFIG_124M, **change}).num_parameters())
wide = GPTConfig(**{**GPT_CONFIG_124M, "emb_dim": 1536}).num_parameters()
deep = GPTConfig(**{**GPT_CONFIG_124M, "n_layers": 24}).num_parameters()
many_heads = GPTConfig(**{**GPT_CONFIG_124M, "n_heads": 24}).num_parameters()
small_vocabulary = GPTConfig(**{**GPT_CONFIG_124M, "vocab_size": 8000}).num_parameters()
