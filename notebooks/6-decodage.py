# %% [markdown]
# # 6. Le décodage en dix minutes
#
# Ce carnet accompagne le chapitre 6 du cours, `docs/comprendre/6-decodage.md` : chaque nombre de la
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
from pathlib import Path

import torch

from gpt_architecture import (
    compare,
    greedy,
    load,
    softmax_avec_temperature,
    top_k,
    top_p,
    train,
)

torch.set_printoptions(precision=3, sci_mode=False)

# %% [markdown]
# ## Six candidats pour « La lampe du passeur… »

# %%
words = ["brille", "tremble", "attend", "fume", "chante", "rouille"]
logits = torch.tensor([[3.0, 2.0, 1.5, 1.0, 0.0, -1.0]])  # (1, 6) : un lot d'une ligne

temperatures = (0.3, 1.0, 2.0)
cold, plain, hot = (softmax_avec_temperature(logits, t)[0] for t in temperatures)
for t, distribution in zip(temperatures, (cold, plain, hot), strict=True):
    print(t, distribution)

# %% [markdown]
# ## Le choix glouton

# %%
chosen = words[int(greedy(logits))]
print(chosen)

# %% [markdown]
# Il choisit bien chaque token, et pas toujours bien le texte : un arbre de deux pas le montre.

# %%
tree = {"brille": (0.6, {"fort": 0.4, "peu": 0.35, "encore": 0.25}), "tremble": (0.4, {"un": 0.9})}
greedy_path = tree["brille"][0] * max(tree["brille"][1].values())
other_path = tree["tremble"][0] * max(tree["tremble"][1].values())
print(greedy_path, other_path)

# %% [markdown]
# ## Top-k : un nombre fixe de candidats

# %%
k = 3
kept_k = top_k(logits, k)
by_k = torch.softmax(kept_k, dim=-1)[0]
print(kept_k, by_k)

# %% [markdown]
# ## Top-p : une masse fixe de probabilité

# %%
p = 0.9
cumulative = plain.cumsum(dim=0)
by_p = torch.softmax(top_p(logits, p), dim=-1)[0]
nucleus = int((by_p > 0).sum())
hot_nucleus = int(torch.isfinite(top_p(logits / 2.0, p)).sum())
cold_nucleus = int(torch.isfinite(top_p(logits / 0.3, p)).sum())
assert cold_nucleus == 1  # le premier candidat dépasse déjà le seuil
print(cumulative, by_p, nucleus, hot_nucleus, cold_nucleus)

# %% [markdown]
# ## Échantillonner mille tokens
#
# Les fréquences suivent les probabilités ; une graine redonne les mêmes tokens.

# %%
source = torch.Generator().manual_seed(123)
draws = torch.multinomial(plain, 1000, replacement=True, generator=source)
frequencies = torch.bincount(draws, minlength=len(words)) / 1000
print(frequencies)


# %%
def entropy(distribution: torch.Tensor) -> float:
    """Entropie, en bits : combien de questions par oui ou non pour deviner le token."""
    seen = distribution[distribution > 0]
    return -(seen * seen.log2()).sum().item()


entropies = [entropy(each) for each in (cold, plain, hot, by_k, by_p)]
print(entropies)

# %% [markdown]
# ## Un vrai modèle
#
# Celui du chapitre 5, entraîné ici s'il ne l'est pas encore.

# %%
if not Path("eclair/gpt-model.pt").exists():
    train(preset="eclair", output_dir="eclair")
gpt = load("eclair")
prompt = "Un soir d'octobre, la cloche"
gpt.complete(prompt, temperature=0.8, top_p=0.9, max_tokens=30, seed=1)

# %% [markdown]
# La distribution réelle du token suivant, sous chaque réglage.

# %%
gpt.distribution(prompt)

# %% [markdown]
# ## Les six variantes, côte à côte

# %%
comparison = compare(gpt, prompt, max_tokens=30)
variants = len(comparison.summaries)
comparison

# %% [markdown]
# ## À vous
#
# Une variante est une ligne de réglages. Ajoutez la vôtre.

# %%
compare(
    gpt,
    prompt,
    variants=["top_p p=0.9 temperature=0.8 nom=Sage", "sample min_p=0.1 temperature=1.3 nom=Vive"],
    max_tokens=30,
)
