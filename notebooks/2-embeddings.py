# %% [markdown]
# # 2. Embeddings et positions
#
# Ce carnet accompagne le chapitre 2 du cours, `docs/comprendre/2-embeddings.md` : chaque nombre de
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
import torch
from torch import nn

from gpt_architecture import GPT_CONFIG_124M, GPTModel

torch.manual_seed(123)
torch.set_printoptions(precision=2, sci_mode=False)

# %% [markdown]
# ## Une table à consulter
#
# Cinq mots, trois nombres par mot. Nous choisissons les nombres ; un vrai modèle les apprend.

# %%
vocabulary = ["le", "chien", "mord", "homme", "."]
table = torch.tensor(
    [
        [0.1, 0.0, 0.2],
        [0.9, 0.1, 0.8],
        [0.2, 1.0, 0.3],
        [0.8, 0.2, 0.1],
        [0.0, 0.3, 0.0],
    ]
)
embedding = nn.Embedding.from_pretrained(table)
phrase = ["le", "chien", "mord"]
ids = torch.tensor([[vocabulary.index(word) for word in phrase]])  # (1, 3)
vectors = embedding(ids)  # (1, 3, 3)
print(ids, vectors)

# %% [markdown]
# La même chose par un produit de matrices : un vecteur de zéros avec un seul 1 choisit une ligne.

# %%
one_hot = nn.functional.one_hot(ids, num_classes=len(vocabulary)).float()  # (1, 3, 5)
lookup_gap = (one_hot @ table - vectors).abs().max().item()
print(one_hot[0], lookup_gap)

# %% [markdown]
# ## Sans positions, l'ordre se perd

# %%
one = torch.tensor([vocabulary.index(word) for word in ("chien", "mord", "homme")])
other = torch.tensor([vocabulary.index(word) for word in ("homme", "mord", "chien")])
sum_one, sum_other = table[one].sum(dim=0), table[other].sum(dim=0)
print(sum_one, sum_other)

# %% [markdown]
# ## On ajoute un vecteur par position

# %%
positions = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, -0.1], [0.1, -0.1, 0.2]])
x = table[ids[0]] + positions
print(x)
first_dog = table[1] + positions[0]
last_dog = table[1] + positions[2]
print(first_dog, last_dog)

# %% [markdown]
# ## Ce que cela coûte
#
# Une table de V lignes et une table d'un vecteur par position, de largeur D.

# %%
V, D = GPT_CONFIG_124M["vocab_size"], GPT_CONFIG_124M["emb_dim"]
T = GPT_CONFIG_124M["context_length"]
token_parameters, position_parameters = V * D, T * D
print(token_parameters, position_parameters)
small_vocabulary, small_width = 1024, 112
small_parameters = small_vocabulary * small_width
print(small_parameters)

# %% [markdown]
# ## L'expérience : mélanger le passé
#
# Un modèle d'un seul bloc, neuf, sans vecteurs de position : mélanger les premiers tokens ne change
# rien à ce qu'il prédit après le dernier.

# %%
tiny = {"vocab_size": 50, "context_length": 8, "emb_dim": 16, "n_heads": 2, "drop_rate": 0.0}
straight = torch.tensor([[3, 14, 15, 9, 26]])
shuffled = torch.tensor([[15, 3, 9, 14, 26]])  # le même dernier token


def gap(n_layers: int, *, with_positions: bool) -> float:
    """Plus grand écart entre les prédictions qui suivent les deux ordres."""
    torch.manual_seed(123)
    model = GPTModel({**tiny, "n_layers": n_layers, "qkv_bias": False}).eval()
    with torch.no_grad():
        if not with_positions:
            model.pos_emb.weight.zero_()
        return (model(straight)[:, -1] - model(shuffled)[:, -1]).abs().max().item()


gaps = {
    "un bloc, sans positions": gap(1, with_positions=False),
    "un bloc, avec positions": gap(1, with_positions=True),
    "deux blocs, sans positions": gap(2, with_positions=False),
}
for label, value in gaps.items():
    print(f"{label:28} {value:.6f}")

# %% [markdown]
# ## Des vecteurs proches
#
# La proximité de deux vecteurs se mesure par leur cosinus : 1 s'ils ont la même direction, 0 s'ils
# n'ont rien de commun.


# %%
def cosine(first: str, second: str) -> float:
    """Cosinus de l'angle entre deux lignes de notre petite table."""
    a, b = table[vocabulary.index(first)], table[vocabulary.index(second)]
    return torch.cosine_similarity(a, b, dim=0).item()


dog_man, dog_bites = cosine("chien", "homme"), cosine("chien", "mord")
print(dog_man, dog_bites)

# %%
# Un modèle neuf n'a encore rien rapproché : les cosinus de sa table entourent zéro.
torch.manual_seed(123)
new_table = GPTModel({**tiny, "n_layers": 1, "qkv_bias": False}).tok_emb.weight.detach()
unit = nn.functional.normalize(new_table, dim=1)
cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)]
mean_cosine = cosines.mean().item()
print(mean_cosine)
