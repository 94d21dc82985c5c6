# %% [markdown]
# # 3. L'attention, à la main
#
# Ce carnet accompagne le chapitre 3 du cours, `docs/comprendre/3-attention.md` : chaque nombre de
# la page est calculé ici.
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

import torch

from gpt_architecture import MultiHeadAttention
from gpt_architecture.core.attention import attention_weights

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## Quatre mots, quatre dimensions qui ont un nom
#
# Nous choisissons tout : les dimensions disent « déterminant », « nom », « adjectif », « verbe ».

# %%
words = ["le", "chat", "noir", "dort"]
x = torch.eye(4)  # chaque mot allume la dimension de sa nature

# Une ligne par nature du mot qui cherche, une colonne par nature cherchée.
W_query = torch.zeros(4, 4)
W_query[2, 1] = 2.0  # un adjectif cherche un nom
W_query[3, 1] = 4.0  # un verbe cherche un nom, plus fort,
W_query[3, 2] = 2.0  # et un adjectif, un peu
W_key = torch.eye(4)  # chaque mot annonce sa nature
W_value = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0]))  # et ce qu'il donne : le nom, double

q, k, v = x @ W_query, x @ W_key, x @ W_value
print(q, k, v, sep="\n")

# %% [markdown]
# ## Les scores : une requête contre chaque clé

# %%
scores = q @ k.T
scaled = scores / math.sqrt(4)
print(scores, scaled, sep="\n")

# %% [markdown]
# ## Le masque : personne ne voit l'avenir

# %%
visible = torch.ones(4, 4, dtype=torch.bool).tril()
masked = scaled.masked_fill(~visible, -torch.inf)
print(masked)

# %% [markdown]
# ## Le softmax : des scores aux parts

# %%
e1, e2 = math.exp(1), math.exp(2)
exponentials = masked.exp()
sums = exponentials.sum(dim=1, keepdim=True)
weights = exponentials / sums
print(exponentials, sums, weights, sep="\n")

# %% [markdown]
# ## Le résultat : une moyenne pondérée des valeurs

# %%
context = weights @ v
print(context)

# %% [markdown]
# ## La même chose par `MultiHeadAttention`
#
# `nn.Linear` multiplie par la transposée de son poids : on donne donc les matrices transposées.


# %%
def by_module(num_heads: int) -> MultiHeadAttention:
    """Le module du projet, avec nos matrices, et une projection de sortie sans effet."""
    module = MultiHeadAttention(
        d_in=4, d_out=4, context_length=4, dropout=0.0, num_heads=num_heads
    ).eval()
    with torch.no_grad():
        module.W_query.weight.copy_(W_query.T)
        module.W_key.weight.copy_(W_key.T)
        module.W_value.weight.copy_(W_value.T)
        module.out_proj.weight.copy_(torch.eye(4))
        module.out_proj.bias.zero_()
    return module


with torch.no_grad():
    from_module = by_module(1)(x.unsqueeze(0))[0]
gap = (from_module - context).abs().max().item()
assert gap < 1e-6
print(from_module, gap)

# %% [markdown]
# ## Deux têtes d'attention
#
# Les quatre dimensions se partagent : les deux premières à une tête, les deux autres à la seconde.

# %%
first, second = (
    attention_weights(q[None, None, :, part], k[None, None, :, part])[0, 0]
    for part in (slice(0, 2), slice(2, 4))
)
print(first, second, sep="\n")
two_heads = torch.cat([first @ v[:, :2], second @ v[:, 2:]], dim=1)
with torch.no_grad():
    two_gap = (by_module(2)(x.unsqueeze(0))[0] - two_heads).abs().max().item()
assert two_gap < 1e-6
print(two_heads, two_gap)

# %% [markdown]
# ## Pourquoi diviser par la racine de K
#
# Le produit de deux vecteurs tirés au hasard grandit avec leur taille, et le softmax finit par tout
# donner à un seul.

# %%
torch.manual_seed(123)
spread, largest = {}, {}
for size in (4, 64, 1024):
    a, b = torch.randn(2000, size), torch.randn(2000, 8, size)
    products = (b @ a.unsqueeze(-1)).squeeze(-1)  # (2000, 8) : huit clés par requête
    spread[size] = products.std().item()
    largest[size] = [
        torch.softmax(products / scale, dim=-1).amax(dim=-1).mean().item()
        for scale in (1.0, math.sqrt(size))
    ]
    print(size, spread[size], largest[size])

# %% [markdown]
# ## À vous
#
# Changez une case de `W_query` et relancez tout : qui regarde qui ? Le studio montre les mêmes
# cartes d'un vrai modèle, vue « Attention » ; ici, `load(…).attention("votre phrase")` les rend.

# %%
W_other = W_query.clone()
W_other[3, 1], W_other[3, 2] = 2.0, 4.0  # le verbe préfère maintenant l'adjectif
other = torch.softmax(((x @ W_other) @ k.T / 2).masked_fill(~visible, -torch.inf), dim=-1)
print(other[3])
