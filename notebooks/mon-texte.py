# %% [markdown]
# # De mon texte à mon modèle
#
# Ce carnet part d'un fichier de texte et arrive à un modèle servi et converti. Mettez à côté de lui
# un fichier `mon-texte.txt`, en UTF-8 ; sans lui, le texte est la nouvelle fournie avec le projet.
#
# **Installer.** Depuis un terminal de JupyterLab, de VS Code ou de Colab :
#
# ```
# git clone ADRESSE-DU-DEPOT gpt-architecture
# pip install -e "gpt-architecture[plots,serve,bpe]"
# ```
#
# Dans JupyterLab et dans VS Code, choisissez ensuite, comme noyau, le Python où vous venez
# d'installer le projet. Dans Colab, redémarrez la session après l'installation.

# %%
import json
from pathlib import Path
from urllib.request import Request, urlopen

from gpt_architecture import compare, convert, evaluate, load, serve, train

source = "mon-texte.txt" if Path("mon-texte.txt").exists() else "la-lampe-du-passeur"
source

# %% [markdown]
# ## Entraîner
#
# Le préréglage `eclair` convient à un texte de quelques pages. Au-delà d'un mégaoctet, prenez
# `preset="petit"` et retirez `max_steps`. Interrompre la cellule écrit un point de reprise.

# %%
run = train(source, preset="eclair", output_dir="mon-modele", max_steps=40, force=True)
run

# %% [markdown]
# Les pertes, étape par étape ; le chapitre 5 du cours dit à quoi les comparer.

# %%
run.history

# %%
run.plot()

# %% [markdown]
# ## Reprendre
#
# L'entraînement repart de son point de reprise, jusqu'à l'étape 50.

# %%
run = train(resume=run.output_dir, max_steps=50)
run.history["step"]

# %% [markdown]
# ## Écrire
#
# `load` rouvre le modèle, maintenant ou un autre jour.

# %%
gpt = load("mon-modele")
gpt

# %%
prompt = gpt.metadata["prompt"]
gpt.complete(prompt, temperature=0.8, top_p=0.9, max_tokens=40, seed=1)

# %%
compare(gpt, prompt, max_tokens=30)

# %% [markdown]
# ## Mesurer
#
# La perte sur un texte, et ce que le modèle récite (chapitre 8). Donnez plutôt un second texte,
# tenu à part : sur celui de l'entraînement, la perte est flatteuse.

# %%
evaluate(gpt, data=source)

# %%
evaluate(gpt, memorisation=source, length=32)

# %% [markdown]
# ## Regarder
#
# Comment il coupe une phrase, ce qu'il croit ensuite, et qui regarde qui.

# %%
gpt.tokens(prompt)

# %%
gpt.distribution(prompt)

# %%
gpt.attention(prompt)

# %% [markdown]
# ## Servir
#
# Le service parle comme celui d'OpenAI, sur cette machine seulement. Ouvrez l'adresse du studio
# dans un navigateur, avant d'exécuter la cellule qui arrête le service.

# %%
service = serve(gpt, background=True)
print(service.studio_url)
question = json.dumps({"prompt": prompt, "max_tokens": 20, "temperature": 0.5, "seed": 1}).encode()
request = Request(f"{service.api_url}/completions", question, {"Content-Type": "application/json"})
with urlopen(request) as reply:
    answer = json.load(reply)
print(answer["choices"][0]["text"])

# %%
service.stop()

# %% [markdown]
# ## Donner
#
# Un dossier que Transformers charge tel quel. `to="gguf"` écrit de même un fichier pour llama.cpp.

# %%
convert("mon-modele", "mon-modele-hf", to="hf", force=True)
