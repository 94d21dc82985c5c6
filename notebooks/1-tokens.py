# %% [markdown]
# # 1. Du texte aux tokens
#
# Ce carnet accompagne le chapitre 1 du cours, `docs/comprendre/1-tokens.md` : chaque nombre de la
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
from collections import Counter
from itertools import pairwise

from gpt_architecture import GPTArchitectureError, get_tokenizer
from gpt_architecture.data.texts.corpus import load_corpus

text = load_corpus(["la-lampe-du-passeur"]).text
characters, size = len(text), len(text.encode("utf-8"))
print(text[:236])
print(characters, "caractères,", size, "octets,", len(text.split()), "mots")

# %% [markdown]
# ## Quatre façons de couper la même phrase

# %%
sentence = "Le passeur leva la lampe."
names = ("char", "simple-v1", "gpt2", "bpe-1024")
tokenizers = {name: get_tokenizer(name, text=text) for name in names}
ids = {name: tokenizer.encode(sentence) for name, tokenizer in tokenizers.items()}
pieces = {
    name: [tokenizer.decode([i]) for i in ids[name]] for name, tokenizer in tokenizers.items()
}
for name in names:
    print(f"{name:10} {len(ids[name]):2} tokens : {pieces[name]}")

# %% [markdown]
# ## Le texte entier, et retour
#
# Décoder redonne le texte exact, sauf avec un vocabulaire de mots, qui ne garde pas les blancs.

# %%
sizes = {name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()}
encoded = {name: tokenizer.encode(text) for name, tokenizer in tokenizers.items()}
lengths = {name: len(each) for name, each in encoded.items()}
exact = {name: tokenizer.decode(encoded[name]) == text for name, tokenizer in tokenizers.items()}
for name in names:
    kept = "exact" if exact[name] else "abîmé"
    print(f"{name:10} vocabulaire {sizes[name]:6}, {lengths[name]:6} tokens, retour {kept}")

# %% [markdown]
# ## Le mot que le vocabulaire ne connaît pas

# %%
stranger = "Le passeur leva la tablette."
try:
    tokenizers["simple-v1"].encode(stranger)
except GPTArchitectureError as error:
    print(error)

second = get_tokenizer("simple-v2", text=text)
unknown = second.decode(second.encode(stranger))
print(unknown)
tablet = [tokenizers["bpe-1024"].decode([i]) for i in tokenizers["bpe-1024"].encode(" tablette")]
print(tablet)

# %% [markdown]
# ## Les octets
#
# Un BPE par octets part des 256 octets : tout texte s'écrit donc avec lui, même jamais vu.

# %%
accent, smile = list("é".encode()), list("🙂".encode())
print(accent, smile)
gpt2 = tokenizers["gpt2"]
smile_tokens = gpt2.encode("🙂")
print(smile_tokens, [gpt2.token_bytes()[i] for i in smile_tokens])

# %% [markdown]
# ## Le BPE, à la main
#
# À chaque tour, la paire voisine la plus fréquente devient un nouveau token.


# %%
def most_frequent(words: list[list[str]]) -> tuple[tuple[str, str], int]:
    """La paire voisine la plus fréquente, et son compte ; à égalité, la première rencontrée."""
    pairs = Counter(pair for word in words for pair in pairwise(word))
    return pairs.most_common(1)[0]


def merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    """Le mot, chaque occurrence de la paire réunie en un token."""
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


words = [list(word) for word in ("la", "lampe", "la", "lame", "la", "lampe")]
steps = []
for turn in range(1, 5):
    pair, count = most_frequent(words)
    words = [merged(word, pair) for word in words]
    steps.append((pair, count, sum(map(len, words))))
    print(f"fusion {turn} : {pair[0]} + {pair[1]} (vue {count} fois) →", words)

by_hand = "\n".join(
    f"fusion {turn} : {first} + {second} → {first + second}   ({count} fois ; reste {left} tokens)"
    for turn, ((first, second), count, left) in enumerate(steps, start=1)
)
print(by_hand)

# %% [markdown]
# ## Votre phrase
#
# Changez-la. Le studio montre la même coupe pendant que vous tapez : vue « Vocabulaire ».

# %%
mine = "anticonstitutionnellement"
mine_pieces = {
    name: [tokenizer.decode([i]) for i in tokenizer.encode(mine)]
    for name, tokenizer in tokenizers.items()
    if name != "simple-v1"  # un vocabulaire de mots refuserait ce mot
}
for name, cut in mine_pieces.items():
    print(f"{name:10} {len(cut):2} tokens : {cut}")

# %%
apart = gpt2.encode("lampe"), gpt2.encode(" lampe"), gpt2.encode("Lampe")
print(apart)
