# %% [markdown]
# # 8. Par cœur ou généraliser
#
# Ce carnet accompagne le chapitre 8 du cours, `docs/comprendre/8-par-coeur.md` : chaque nombre de
# la page est calculé ici. Il emploie le modèle du chapitre 5, et l'entraîne s'il manque.
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

from gpt_architecture import evaluate, load, train
from gpt_architecture.data.loader import split_text
from gpt_architecture.data.texts.corpus import load_corpus

train_text, val_text = split_text(load_corpus(["la-lampe-du-passeur"]).text)
if not Path("eclair/gpt-model.pt").exists():
    train(preset="eclair", output_dir="eclair")
late = load("eclair")  # allé au bout
early = train(preset="eclair", output_dir="eclair-court", max_steps=30, force=True)
tokenizer = late.tokenizer
learned, unseen = tokenizer.encode(train_text), tokenizer.encode(val_text)
print(len(learned), len(unseen))

# %% [markdown]
# ## Mesurer, à la main
#
# La part des suites de n tokens qui se trouvent, telles quelles, dans le texte appris.

# %%
orders = (2, 4, 8, 16)


def runs(ids: list[int], n: int) -> list[tuple[int, ...]]:
    """Toutes les suites de n tokens consécutifs : les n-grammes."""
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


known = {n: set(runs(learned, n)) for n in range(1, 65)}


def copied(texts: list[list[int]], n: int) -> float:
    """Part des n-grammes de ces textes qui sont dans le texte appris."""
    found = [run in known[n] for ids in texts for run in runs(ids, n)]
    return sum(found) / len(found)


def longest(ids: list[int]) -> int:
    """Le plus long passage copié mot pour mot, en tokens."""
    return max((n for n in known if any(run in known[n] for run in runs(ids, n))), default=0)


toy = [5, 8, 2, 9]
print(runs(toy, 2), len(runs(toy, 2)))

# %% [markdown]
# ## Ce que le hasard donne déjà : le texte inédit

# %%
length = 48
excerpts = [unseen[i : i + length] for i in range(0, len(unseen) - length + 1, length)]
chance = {n: 100 * copied(excerpts, n) for n in orders}
chance_longest = max(map(longest, excerpts))
print(chance, chance_longest)

# %% [markdown]
# ## Ce qu'écrivent les deux modèles

# %%
prompts = [
    "Un soir d'octobre, la cloche",
    "Basile regarda la fille",
    "Odile monta dans le bateau",
    "Le matin, la rivière",
    "La grand-mère d'Odile",
    "Il neigeait sur la ville",
]


def written(gpt, **settings) -> list[list[int]]:
    """Les textes générés, en tokens, un par invite."""
    return [list(gpt.complete(prompt, max_tokens=length, **settings).tokens) for prompt in prompts]


greedy_late, greedy_early = (written(gpt, strategy="greedy") for gpt in (late, early.model))
free_late = written(late, temperature=1.0, seed=1)
share_late, share_early, share_free = (
    {n: 100 * copied(texts, n) for n in orders} for texts in (greedy_late, greedy_early, free_late)
)
longest_late, longest_early, longest_free = (
    max(map(longest, texts)) for texts in (greedy_late, greedy_early, free_late)
)
print(share_late, longest_late)
print(share_early, longest_early)
print(share_free, longest_free)

# %%
for prompt, ids in zip(prompts, greedy_late, strict=True):
    print(f"{longest(ids):2} tokens copiés : {prompt}…{tokenizer.decode(ids)!r}")

# %% [markdown]
# ## Les pertes des deux modèles

# %%
early_rows = early.history.rows
early_train, early_val = early_rows[-1]["train_loss"], early_rows[-1]["val_loss"]
late_train, late_val = late.metadata["train_losses"][-1], late.metadata["val_losses"][-1]
print(early_train, early_val, late_train, late_val)

# %% [markdown]
# ## La même mesure, par le projet
#
# `evaluate(…, memorisation=…)` la fait pour les six stratégies, avec un seuil tiré du texte inédit.

# %%
evaluate(late, memorisation="la-lampe-du-passeur", length=length)
