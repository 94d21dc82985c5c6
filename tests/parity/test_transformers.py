"""Mêmes poids, mêmes logits que le GPT-2 de la bibliothèque Transformers.

Formes : B lot, T tokens, V vocabulaire.
"""

import pytest
import torch
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel

transformers = pytest.importorskip(
    "transformers", reason="parité : le paquet transformers n'est pas installé"
)

CONFIGS = [
    pytest.param(
        GPTConfig(
            vocab_size=61,
            context_length=16,
            emb_dim=24,
            n_heads=3,
            n_layers=2,
            qkv_bias=True,
            tie_weights=True,
        ),
        id="gpt2",
    ),
    pytest.param(
        GPTConfig(
            vocab_size=113,
            context_length=32,
            emb_dim=32,
            n_heads=1,
            n_layers=4,
            qkv_bias=True,
            tie_weights=True,
        ),
        id="gpt2-H1",
    ),
    pytest.param(
        GPTConfig(vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2),
        id="livre",
    ),
    pytest.param(
        GPTConfig(
            vocab_size=61, context_length=16, emb_dim=24, n_heads=6, n_layers=1, qkv_bias=True
        ),
        id="livre-avec-biais",
    ),
]
SHAPES = [(1, 1), (1, 16), (3, 7), (2, 16)]


def random_model(config):
    """Modèle aux poids tous différents de leurs valeurs initiales, normes et biais compris."""
    torch.manual_seed(0)
    model = GPTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def to_transformers(model):
    """Le même modèle chez Transformers, par une copie écrite ici, indépendante du projet."""
    cfg = model.cfg
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_layer=cfg.n_layers,
            n_head=cfg.n_heads,
            tie_word_embeddings=cfg.tie_weights,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
    ).eval()
    ours = model.state_dict()
    state = {
        "transformer.wte.weight": ours["tok_emb.weight"],
        "transformer.wpe.weight": ours["pos_emb.weight"],
        "transformer.ln_f.weight": ours["final_norm.scale"],
        "transformer.ln_f.bias": ours["final_norm.shift"],
        "lm_head.weight": ours["out_head.weight"],
    }
    for n in range(cfg.n_layers):
        source, target = f"trf_blocks.{n}", f"transformer.h.{n}"
        names = [f"{source}.att.W_{part}" for part in ("query", "key", "value")]
        zeros = torch.zeros(cfg.emb_dim)
        # Conv1D range ses poids (entrée, sortie) : l'inverse de nn.Linear.
        state[f"{target}.attn.c_attn.weight"] = torch.cat([ours[f"{m}.weight"] for m in names]).T
        state[f"{target}.attn.c_attn.bias"] = torch.cat(
            [ours.get(f"{m}.bias", zeros) for m in names]
        )
        for mine, their in (
            ("att.out_proj", "attn.c_proj"),
            ("ff.layers.0", "mlp.c_fc"),
            ("ff.layers.2", "mlp.c_proj"),
        ):
            state[f"{target}.{their}.weight"] = ours[f"{source}.{mine}.weight"].T
            state[f"{target}.{their}.bias"] = ours[f"{source}.{mine}.bias"]
        for mine, their in (("norm1", "ln_1"), ("norm2", "ln_2")):
            state[f"{target}.{their}.weight"] = ours[f"{source}.{mine}.scale"]
            state[f"{target}.{their}.bias"] = ours[f"{source}.{mine}.shift"]
    theirs.load_state_dict(state, strict=True)
    return theirs


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    """Notre modèle et le leur."""
    model = random_model(request.param)
    return model, to_transformers(model)


def random_ids(model, shape):
    """Identifiants (B, T) int64."""
    return torch.randint(model.cfg.vocab_size, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits(pair, shape):
    ours, theirs = pair
    idx = random_ids(ours, shape)
    with torch.no_grad():
        mine, reference = ours(idx), theirs(idx).logits
    assert reference.std() > 0.1  # des logits plats ne prouveraient rien
    torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_loss(pair):
    ours, theirs = pair
    idx = random_ids(ours, (3, 16))
    with torch.no_grad():
        reference = theirs(idx, labels=idx).loss  # Transformers décale lui-même les cibles
        mine = F.cross_entropy(ours(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
    torch.testing.assert_close(mine, reference, rtol=0, atol=1e-5)


def test_gradients(pair):
    ours, theirs = pair
    idx = random_ids(ours, (2, 8))
    ours.zero_grad()
    theirs.zero_grad()
    F.cross_entropy(ours(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten()).backward()
    theirs(idx, labels=idx).loss.backward()
    for mine, reference in (
        (ours.tok_emb.weight.grad, theirs.transformer.wte.weight.grad),
        (ours.out_head.weight.grad, theirs.lm_head.weight.grad),
        (
            ours.trf_blocks[0].ff.layers[0].weight.grad.T,
            theirs.transformer.h[0].mlp.c_fc.weight.grad,
        ),
        (ours.trf_blocks[0].norm1.scale.grad, theirs.transformer.h[0].ln_1.weight.grad),
    ):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_cached_logits(pair):
    ours, theirs = pair
    idx = random_ids(ours, (2, 12))
    cache = ours.new_cache(2)
    with torch.no_grad():
        mine = torch.cat([ours(chunk, cache) for chunk in idx.split([4, 1, 5, 2], dim=1)], dim=1)
        torch.testing.assert_close(mine, theirs(idx).logits, rtol=0, atol=1e-5)


def test_tying_is_the_same_on_both_sides(pair):
    ours, theirs = pair
    tied = ours.cfg.tie_weights
    assert (ours.out_head.weight is ours.tok_emb.weight) is tied
    assert (theirs.lm_head.weight is theirs.transformer.wte.weight) is tied
    biases = 0 if ours.cfg.qkv_bias else 3 * ours.cfg.emb_dim * ours.cfg.n_layers
    assert ours.num_parameters() + biases == sum(p.numel() for p in theirs.parameters())
