"""Lire et écrire un ckpt.pt de nanoGPT, comparé à un nanoGPT écrit ici, à part."""

import json
import logging
import math
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from interop_helpers import BOOK, GPT2, content, ids, logits, tokenizer
from torch import nn
from torch.nn import functional as F

from gpt_architecture.api import read_any
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import (
    GPTArchitectureError,
    ModelFileError,
    OutputError,
    TokenizerError,
)
from gpt_architecture.formats.model_file import ModelFile, save_model
from gpt_architecture.interop.nanogpt import export_nanogpt

ARGUMENTS = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 24,
    "block_size": 32,
    "vocab_size": 300,
    "dropout": 0.0,
    "bias": True,
}


class Norm(nn.Module):
    """La norme de nanoGPT, au biais facultatif."""

    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)
        self.heads = heads

    def forward(self, x):
        batch, positions, width = x.shape
        q, k, v = (
            part.view(batch, positions, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        hidden = torch.ones(positions, positions, dtype=torch.bool).triu(1)
        out = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        return self.c_proj(out.transpose(1, 2).reshape(batch, positions, width))


class MLP(nn.Module):
    def __init__(self, width, bias, approximate):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.c_proj = nn.Linear(4 * width, width, bias=bias)
        self.approximate = approximate

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, width, heads, bias, approximate):
        super().__init__()
        self.ln_1, self.attn = Norm(width, bias), Attention(width, heads, bias)
        self.ln_2, self.mlp = Norm(width, bias), MLP(width, bias, approximate)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    """Les modules et les noms de nanoGPT."""

    def __init__(self, bias=True, approximate="tanh", sizes=ARGUMENTS):
        super().__init__()
        width, heads, vocab_size = sizes["n_embd"], sizes["n_head"], sizes["vocab_size"]
        blocks = [Block(width, heads, bias, approximate) for _ in range(sizes["n_layer"])]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, width),
                "wpe": nn.Embedding(sizes["block_size"], width),
                "h": nn.ModuleList(blocks),
                "ln_f": Norm(width, bias),
            }
        )
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, idx):
        x = self.transformer["wte"](idx) + self.transformer["wpe"](torch.arange(idx.size(1)))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


def write(path, *, bias=True, approximate="tanh", prefix="_orig_mod.", **changes):
    """Écrit un ckpt.pt comme le fait train.py ; rend le modèle."""
    torch.manual_seed(0)
    model = NanoGPT(bias, approximate).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    checkpoint = {
        "model": {prefix + name: tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": {**ARGUMENTS, "bias": bias},
        "iter_num": 500,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "shakespeare_char", "batch_size": 12},
        **changes,
    }
    torch.save(checkpoint, path)
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "", "module.", "module._orig_mod."])
def test_same_logits(tmp_path, bias, prefix):
    """Avec ou sans biais, compilé ou non : les logits de nanoGPT."""
    theirs = write(tmp_path / "ckpt.pt", bias=bias, prefix=prefix)
    content = read_any(tmp_path / "ckpt.pt", tokenizer=tokenizer())
    assert content.config.qkv_bias is bias
    torch.testing.assert_close(
        logits(content.build(), ids()), logits(theirs, ids()), rtol=0, atol=1e-5
    )
    assert content.metadata["steps"] == 500
    assert content.metadata["val_losses"] == [2.5]


def test_exact_gelu_costs_little(tmp_path):
    """Depuis 2023, nanoGPT emploie la GELU exacte : l'écart existe, et reste petit."""
    theirs = write(tmp_path / "ckpt.pt", approximate="none")
    ours = read_any(tmp_path / "ckpt.pt", tokenizer=tokenizer()).build()
    gap = (logits(ours, ids()) - logits(theirs, ids())).abs().max()
    assert 1e-6 < gap < 1e-2


def test_a_character_vocabulary_must_be_given(tmp_path):
    """Le vocabulaire de nanoGPT est dans un pickle, qu'on n'ouvre pas."""
    write(tmp_path / "ckpt.pt")
    with pytest.raises(TokenizerError, match="`tokenizer`"):
        read_any(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_args": {**ARGUMENTS, "n_head": 5}}, "n_heads 5"),
        ({"model_args": {"n_layer": 2}}, "il manque vocab_size"),
        ({"model_args": {**ARGUMENTS, "n_layer": 3}}, "il manque h.2"),
        ({"model_args": {**ARGUMENTS, "n_layer": 10**4}}, "blocs annoncés"),
        ({"model_args": {**ARGUMENTS, "n_embd": 48}}, "est de forme"),
        ({"model": {"wte.weight": 3}}, "autre chose que des tenseurs"),
        ({"model": {}}, "autre chose que des tenseurs"),
        ({"optimizer": print}, "objet Python refusé"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, changes, words):
    write(tmp_path / "ckpt.pt", **changes)
    with pytest.raises(GPTArchitectureError) as refusal:
        read_any(tmp_path / "ckpt.pt", tokenizer=tokenizer())
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@dataclass
class NanoGPTConfig:
    """Les champs que la configuration de nanoGPT accepte, et eux seuls."""

    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool


def sample(path):
    """Ce que fait sample.py avec un ckpt.pt : (modèle, jeu de données)."""
    checkpoint = torch.load(path, map_location="cpu")  # poids seuls, par défaut
    sizes = NanoGPTConfig(**checkpoint["model_args"])
    model = NanoGPT(sizes.bias, sizes=vars(sizes))
    state = checkpoint["model"]
    for name in list(state):
        if name.startswith("_orig_mod."):
            state[name.removeprefix("_orig_mod.")] = state.pop(name)
    model.load_state_dict(state)
    return model.eval(), checkpoint["config"]["dataset"]


def characters(config=GPT2, **metadata):
    """Un modèle au vocabulaire de caractères."""
    vocab = CharTokenizer([chr(0x4E00 + index) for index in range(config.vocab_size)])
    return replace(content(config, **metadata), tokenizer=vocab.to_dict())


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_written_for_sample(tmp_path, qkv_bias):
    """sample.py charge le fichier, et ses logits sont les nôtres ; relu ici, c'est le même."""
    file = characters(replace(GPT2, qkv_bias=qkv_bias), steps=7, val_losses=[3.0, 2.5])
    meta = export_nanogpt(file, tmp_path / "out" / "ckpt.pt")
    theirs, dataset = sample(tmp_path / "out" / "ckpt.pt")
    ours = logits(file.build(), ids())
    torch.testing.assert_close(logits(theirs, ids()), ours, rtol=0, atol=1e-5)
    assert dataset == "gpt-architecture"
    back = read_any(tmp_path / "out" / "ckpt.pt", tokenizer=get_tokenizer(meta))
    assert torch.equal(logits(back.build(), ids()), ours)
    assert back.tokenizer == file.tokenizer
    assert (back.metadata["steps"], back.metadata["val_losses"]) == (7, [2.5])


def test_without_bias_it_stays_without(tmp_path):
    """bias=False de nanoGPT, lu puis rendu : la même forme et les mêmes poids."""
    theirs = write(tmp_path / "ckpt.pt", bias=False)
    vocab = CharTokenizer([chr(0x4E00 + index) for index in range(300)])
    export_nanogpt(read_any(tmp_path / "ckpt.pt", tokenizer=vocab), tmp_path / "again.pt")
    again, _ = sample(tmp_path / "again.pt")
    assert again.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in theirs.state_dict().items())


def test_only_learned_positions_are_written(tmp_path):
    """sample.py emploierait les autres, qui n'ont rien appris."""
    export_nanogpt(characters(window=9), tmp_path / "ckpt.pt")
    theirs, _ = sample(tmp_path / "ckpt.pt")
    assert theirs.transformer["wpe"].weight.shape == (9, GPT2.emb_dim)


def test_gpt2_needs_no_vocabulary_file(tmp_path):
    config = replace(GPT2, vocab_size=50304, emb_dim=6)
    file = replace(content(config), tokenizer={"name": "gpt2"})
    assert export_nanogpt(file, tmp_path / "ckpt.pt") is None
    assert not list(tmp_path.glob("*.json"))
    assert sample(tmp_path / "ckpt.pt")[0].lm_head.weight.shape == (50304, 6)


def test_what_nanogpt_cannot_hold(tmp_path):
    """Une phrase, et rien d'écrit."""
    bpe, untied = content(GPT2), characters(BOOK)
    small = replace(characters(), tokenizer=CharTokenizer(list("abcé")).to_dict())
    large = CharTokenizer([chr(0x4E00 + index) for index in range(301)])
    for file, error, words in (
        (bpe, TokenizerError, "tokenizer bpe"),
        (untied, ModelFileError, "tête de sortie indépendante"),
        (replace(small, tokenizer=large.to_dict()), ModelFileError, "301 tokens, modèle de 300"),
    ):
        with pytest.raises(error, match=words):
            export_nanogpt(file, tmp_path / "ckpt.pt")
    assert not list(tmp_path.glob("ckpt*"))
    (tmp_path / "ckpt.meta.json").write_text("à moi", encoding="utf-8")
    with pytest.raises(OutputError, match=r"ckpt\.meta\.json existe déjà"):
        export_nanogpt(small, tmp_path / "ckpt.pt")
    assert not (tmp_path / "ckpt.pt").exists()
    export_nanogpt(small, tmp_path / "ckpt.pt", force=True)
    assert json.loads((tmp_path / "ckpt.meta.json").read_text("utf-8"))["itos"] == list("abcé")


@pytest.mark.parametrize(
    ("name", "value"), [("inner_dim", 50), ("activation", "relu"), ("norm_eps", 1e-3)]
)
def test_a_variant_it_does_not_have_is_named(tmp_path, name, value):
    file = characters(replace(GPT2, **{name: value}))
    with pytest.raises(ModelFileError, match=f"n'a pas d'équivalent de {name} = {value}"):
        export_nanogpt(file, tmp_path / "ckpt.pt")
    assert not list(tmp_path.glob("ckpt*"))


def test_its_own_activation_is_written(tmp_path):
    """La GELU exacte : celle de nanoGPT depuis 2023."""
    export_nanogpt(characters(replace(GPT2, activation="gelu")), tmp_path / "ckpt.pt")
    assert sample(tmp_path / "ckpt.pt")


def test_an_untied_head_that_is_the_embedding(tmp_path):
    """Indépendante, mais égale : la lier ne change rien."""
    file = characters(BOOK)
    weights = dict(file.state_dict)
    weights["out_head.weight"] = weights["tok_emb.weight"].clone()
    file = ModelFile(config=BOOK, state_dict=weights, tokenizer=file.tokenizer)
    export_nanogpt(file, tmp_path / "ckpt.pt")
    theirs, _ = sample(tmp_path / "ckpt.pt")
    torch.testing.assert_close(
        logits(theirs, ids()), logits(file.build(), ids()), rtol=0, atol=1e-5
    )


def test_character_vocabulary_of_nanogpt(tmp_path):
    """Le contenu de meta.pkl en JSON : mêmes identifiants, et aucun token de plus."""
    characters = sorted(set("Le passeur, l'été.\n"))
    stoi = {character: index for index, character in enumerate(characters)}
    itos = {index: character for character, index in stoi.items()}
    meta = {"vocab_size": len(stoi), "stoi": stoi, "itos": itos}
    for part in (meta, {"stoi": stoi}, {"itos": itos}, {"itos": characters}):
        path = tmp_path / "meta.json"
        path.write_text(json.dumps(part), encoding="utf-8")
        found = get_tokenizer(path)
        assert (found.vocab_size, found.eos_id) == (len(stoi), None)
        assert found.encode("été") == [stoi[character] for character in "été"]
    learned = CharTokenizer.train(["Le passeur, l'été.\n"], end_of_text=False)
    assert learned.to_dict() == found.to_dict()
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(TokenizerError, match="pickle") as refusal:
        get_tokenizer(tmp_path / "meta.pkl")
    assert 'python -c "import json, pickle; json.dump(pickle.load(' in str(refusal.value)


@pytest.mark.parametrize(
    "meta",
    [
        {"stoi": {"a": 0, "b": 2}},
        {"stoi": {"a": 0, "b": 0}},
        {"stoi": {"a": "0"}},
        {"stoi": 3},
        {"stoi": {"ab": 0}},
        {"stoi": {}},
        {"itos": {"zéro": "a"}},
        {"itos": [1, 2]},
        {"itos": ["a", "a"]},
        {"stoi": {"a": 0, "b": 1}, "itos": ["b", "a"]},
    ],
)
def test_a_bad_character_vocabulary_is_refused(tmp_path, meta):
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(TokenizerError):
        get_tokenizer(tmp_path / "meta.json")


def test_a_vocabulary_too_small_is_told(tmp_path, caplog):
    """Plus petit que le modèle, il décalerait peut-être tout : c'est dit."""
    write(tmp_path / "ckpt.pt")
    with caplog.at_level(logging.WARNING):
        read_any(tmp_path / "ckpt.pt", tokenizer=CharTokenizer(list("abc")))
    assert "les 297 derniers n'ont pas de texte" in caplog.text
    caplog.clear()
    exact = CharTokenizer([chr(0x4E00 + index) for index in range(300)])
    read_any(tmp_path / "ckpt.pt", tokenizer=exact)
    assert "n'ont pas de texte" not in caplog.text


def test_a_weight_given_twice(tmp_path):
    theirs = write(tmp_path / "ckpt.pt", prefix="")
    both = dict(theirs.state_dict())
    both |= {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    write(tmp_path / "ckpt.pt", model=both)
    with pytest.raises(ModelFileError, match="deux fois"):
        read_any(tmp_path / "ckpt.pt", tokenizer=tokenizer())


def test_the_model_file_refuses_it_too(tmp_path):
    """Un fichier d'ici, au vocabulaire trop grand, n'est pas écrit."""
    write(tmp_path / "ckpt.pt")
    large = CharTokenizer([chr(0x4E00 + index) for index in range(301)])
    file = read_any(tmp_path / "ckpt.pt", tokenizer=large)
    with pytest.raises(ModelFileError, match="301 tokens, modèle de 300"):
        save_model(tmp_path / "m.pt", file.build(), file.config, tokenizer=file.tokenizer)
    assert not (tmp_path / "m.pt").exists()
