"""Importer les fichiers de poids du livre de Raschka."""

import pytest
import torch
from interop_helpers import BOOK, GPT2, ids, logits, tokenizer
from parity_helpers import random_model

from gpt_architecture.api import read_any
from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import GPTArchitectureError, TokenizerError

WITH_BIAS = GPTConfig(**{**BOOK.to_dict(), "qkv_bias": True})


def book_file(path, config=BOOK, *, fused=False, wrapped=False):
    """Écrit un fichier comme le livre ; rend le modèle."""
    model = random_model(config)
    state = dict(model.state_dict())
    for n in range(config.n_layers):
        state[f"trf_blocks.{n}.att.mask"] = torch.ones(32, 32).triu(1)
    if fused:
        for n in range(config.n_layers):
            here = f"trf_blocks.{n}.att"
            for kind in ("weight", "bias"):
                names = [f"{here}.W_{part}.{kind}" for part in ("query", "key", "value")]
                if names[0] in state:
                    state[f"{here}.qkv.{kind}"] = torch.cat([state.pop(name) for name in names])
                state[f"{here}.proj.{kind}"] = state.pop(f"{here}.out_proj.{kind}")
    optimizer = torch.optim.AdamW(model.parameters())
    torch.save(
        {"model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()}
        if wrapped
        else state,
        path,
    )
    return model


@pytest.mark.slow
@pytest.mark.parametrize("config", [BOOK, WITH_BIAS, GPT2], ids=["livre", "biais", "openai"])
@pytest.mark.parametrize("fused", [False, True], ids=["séparés", "réunis"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["seuls", "avec optimiseur"])
def test_same_logits_and_form(tmp_path, config, fused, wrapped):
    """La forme se déduit des tenseurs ; les poids d'OpenAI, en double, sont reconnus liés."""
    original = book_file(tmp_path / "m.pth", config, fused=fused, wrapped=wrapped)
    content = read_any(tmp_path / "m.pth", tokenizer=tokenizer(), n_heads=3)
    assert content.config == config
    assert torch.equal(logits(content.build(), ids()), logits(original, ids()))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_a_wrapped_model(tmp_path, prefix):
    """torch.compile et DataParallel allongent les noms, de tout le modèle ou de ses blocs."""
    original = book_file(tmp_path / "m.pth")
    state = {prefix + name: tensor for name, tensor in original.state_dict().items()}
    torch.save(state, tmp_path / "tout.pth")
    blocks = {
        name.replace("trf_blocks.1.", f"trf_blocks.1.{prefix}"): tensor
        for name, tensor in original.state_dict().items()
    }
    torch.save(blocks, tmp_path / "bloc.pth")
    for name in ("tout.pth", "bloc.pth"):
        ours = read_any(tmp_path / name, tokenizer=tokenizer(), n_heads=3).build()
        assert torch.equal(logits(ours, ids()), logits(original, ids()))


def test_the_number_of_heads_is_asked_for(tmp_path):
    """Une largeur de 24 ne dit pas le nombre de têtes ; 64 par tête pour les GPT-2."""
    book_file(tmp_path / "m.pth")
    with pytest.raises(GPTArchitectureError, match="`n_heads`"):
        read_any(tmp_path / "m.pth", tokenizer=tokenizer())
    with pytest.raises(GPTArchitectureError, match="n_heads 5"):
        read_any(tmp_path / "m.pth", tokenizer=tokenizer(), n_heads=5)
    wide = GPTConfig(vocab_size=300, context_length=8, emb_dim=128, n_heads=2, n_layers=1)
    book_file(tmp_path / "large.pth", wide)
    content = read_any(tmp_path / "large.pth", tokenizer=tokenizer())
    assert content.config.n_heads == 2


def test_the_vocabulary_is_gpt2_only_by_its_size(tmp_path):
    book_file(tmp_path / "m.pth")
    with pytest.raises(TokenizerError, match="300 tokens"):
        read_any(tmp_path / "m.pth", n_heads=3)


def without_norm(state):
    del state["trf_blocks.1.norm2.scale"]


def flat_embedding(state):
    state["tok_emb.weight"] = state["tok_emb.weight"].flatten()


def uneven(state):
    state["trf_blocks.0.att.qkv.weight"] = torch.zeros(7, 24)


def distant_block(state):
    state["trf_blocks.99999999999.norm1.scale"] = torch.zeros(24)


def far_block(state):
    state["trf_blocks.9999.norm1.scale"] = torch.zeros(24)


def strange(state):
    state["tok_emb.weight"] = "texte"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without_norm, "il manque trf_blocks.1.norm2.scale"),
        (flat_embedding, "deux matrices"),
        (uneven, "en trop trf_blocks.0.att.qkv.weight"),
        (distant_block, "en trop trf_blocks.99999999999.norm1.scale"),
        (far_block, "blocs annoncés"),
        (strange, "autre chose que des tenseurs"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damaged_files_are_refused(tmp_path, damage, words):
    state = dict(random_model(BOOK).state_dict())
    damage(state)
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(GPTArchitectureError) as refusal:
        read_any(tmp_path / "m.pth", tokenizer=tokenizer(), n_heads=3)
    assert words in str(refusal.value)
