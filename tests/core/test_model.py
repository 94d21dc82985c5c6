"""GPTModel : noms, initialisation, causalité, dropout, et un fait connu d'avance.

Formes : B lot, T tokens, D largeur, V vocabulaire.
"""

import copy
import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gpt_architecture.config import GPT_CONFIG_124M, GPTConfig
from gpt_architecture.core.attention import eager_attention, sdpa_attention, use_attention_
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import GPTModel, blank_model
from gpt_architecture.core.utils import text_to_token_ids, token_ids_to_text
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.decoding.generator import generate_text_simple

BOOK = GPTConfig(vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.0)
GPT2 = replace(BOOK, qkv_bias=True, tie_weights=True)
each_mode = pytest.mark.parametrize(
    "config", [pytest.param(BOOK, id="livre"), pytest.param(GPT2, id="gpt2")]
)


def build(config, seed=0):
    """Modèle en évaluation aux poids d'une graine."""
    torch.manual_seed(seed)
    return GPTModel(config).eval()


def random_ids(config, batch=2, length=None, seed=0):
    """Identifiants (B, T) int64."""
    shape = (batch, length or config.context_length)
    return torch.randint(config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def book_keys(n_layers, *, qkv_bias):
    """Les clés du livre de Raschka, dans leur ordre, écrites d'après lui."""
    keys = ["tok_emb.weight", "pos_emb.weight"]
    for n in range(n_layers):
        for projection in ("W_query", "W_key", "W_value"):
            keys.append(f"trf_blocks.{n}.att.{projection}.weight")
            if qkv_bias:
                keys.append(f"trf_blocks.{n}.att.{projection}.bias")
        keys += [
            f"trf_blocks.{n}.att.out_proj.weight",
            f"trf_blocks.{n}.att.out_proj.bias",
            f"trf_blocks.{n}.ff.layers.0.weight",
            f"trf_blocks.{n}.ff.layers.0.bias",
            f"trf_blocks.{n}.ff.layers.2.weight",
            f"trf_blocks.{n}.ff.layers.2.bias",
            f"trf_blocks.{n}.norm1.scale",
            f"trf_blocks.{n}.norm1.shift",
            f"trf_blocks.{n}.norm2.scale",
            f"trf_blocks.{n}.norm2.shift",
        ]
    return [*keys, "final_norm.scale", "final_norm.shift", "out_head.weight"]


def weights_by_hand(config, seed):
    """Poids du mode livre, tirés par PyTorch seul, dans l'ordre de création du livre."""
    torch.manual_seed(seed)
    d = config.emb_dim
    weights = {
        "tok_emb.weight": nn.Embedding(config.vocab_size, d).weight,
        "pos_emb.weight": nn.Embedding(config.context_length, d).weight,
    }
    for n in range(config.n_layers):
        layers = {
            "att.W_query": nn.Linear(d, d, bias=config.qkv_bias),
            "att.W_key": nn.Linear(d, d, bias=config.qkv_bias),
            "att.W_value": nn.Linear(d, d, bias=config.qkv_bias),
            "att.out_proj": nn.Linear(d, d),
            "ff.layers.0": nn.Linear(d, 4 * d),
            "ff.layers.2": nn.Linear(4 * d, d),
        }
        for name, layer in layers.items():
            for kind, parameter in layer.named_parameters():
                weights[f"trf_blocks.{n}.{name}.{kind}"] = parameter
        for norm in ("norm1", "norm2"):
            weights[f"trf_blocks.{n}.{norm}.scale"] = torch.ones(d)
            weights[f"trf_blocks.{n}.{norm}.shift"] = torch.zeros(d)
    weights["final_norm.scale"] = torch.ones(d)
    weights["final_norm.shift"] = torch.zeros(d)
    weights["out_head.weight"] = nn.Linear(d, config.vocab_size, bias=False).weight
    return weights


class TestNames:
    @pytest.mark.parametrize("tie_weights", [False, True])
    @pytest.mark.parametrize("qkv_bias", [False, True])
    def test_state_dict_keys_are_those_of_the_book(self, qkv_bias, tie_weights):
        config = replace(BOOK, qkv_bias=qkv_bias, tie_weights=tie_weights)
        keys = set(GPTModel(config).state_dict())
        assert keys == set(book_keys(config.n_layers, qkv_bias=qkv_bias))

    def test_dictionary_or_configuration(self):
        from_dict = build(BOOK.to_dict())
        assert from_dict.cfg == BOOK
        torch.testing.assert_close(from_dict.state_dict(), build(BOOK).state_dict(), rtol=0, atol=0)

    @each_mode
    def test_checkpoint_with_stored_masks_loads(self, config):
        source, target = build(config, 1), build(config, 2)
        stored = source.state_dict()
        for n in range(config.n_layers):
            triangle = torch.ones(config.context_length, config.context_length).triu(1)
            stored[f"trf_blocks.{n}.att.mask"] = triangle
        given = set(stored)
        target.load_state_dict(stored, strict=True)
        assert set(stored) == given  # l'argument n'est pas modifié
        idx = random_ids(config)
        assert torch.equal(target(idx), source(idx))

    def test_other_unknown_keys_are_still_refused(self):
        stored = build(BOOK).state_dict() | {"trf_blocks.0.att.masque": torch.ones(1)}
        with pytest.raises(RuntimeError, match="masque"):
            build(BOOK).load_state_dict(stored)


class TestTying:
    def test_is_by_identity_and_counted_once(self):
        model = build(GPT2)
        assert model.out_head.weight is model.tok_emb.weight
        names = [name for name, _ in model.named_parameters()]
        assert "tok_emb.weight" in names
        assert "out_head.weight" not in names
        assert model.num_parameters() == GPT2.num_parameters()
        untied = replace(GPT2, tie_weights=False)
        difference = GPTModel(untied).num_parameters() - model.num_parameters()
        assert difference == GPT2.vocab_size * GPT2.emb_dim

    @pytest.mark.parametrize(
        "transform",
        [
            pytest.param(lambda model: model.double(), id="double"),
            pytest.param(copy.deepcopy, id="deepcopy"),
            pytest.param(
                lambda model: model.load_state_dict(build(GPT2, 5).state_dict()) and model,
                id="load_state_dict",
            ),
        ],
    )
    def test_survives(self, transform):
        model = transform(build(GPT2))
        assert model.out_head.weight is model.tok_emb.weight

    def test_gradient_comes_from_both_uses(self):
        """Tokens absents de l'entrée : seul l'usage comme tête leur donne un gradient."""
        model = build(GPT2)
        model(torch.tensor([[3, 4]])).logsumexp(-1).sum().backward()
        assert (model.tok_emb.weight.grad[10:].abs().sum(-1) > 0).all()

    def test_book_mode_has_two_matrices(self):
        model = build(BOOK)
        assert model.out_head.weight.data_ptr() != model.tok_emb.weight.data_ptr()


class TestInitialization:
    @pytest.mark.parametrize("qkv_bias", [False, True])
    @pytest.mark.parametrize("seed", [0, 123])
    def test_book_weights_of_a_seed(self, seed, qkv_bias):
        config = replace(BOOK, qkv_bias=qkv_bias)
        expected = weights_by_hand(config, seed)
        state = build(config, seed).state_dict()
        assert set(state) == set(expected)
        for name, tensor in state.items():
            assert torch.equal(tensor, expected[name]), name

    @each_mode
    def test_seed_decides_everything(self, config):
        first, again, other = (build(config, seed).state_dict() for seed in (7, 7, 8))
        torch.testing.assert_close(again, first, rtol=0, atol=0)
        assert not torch.equal(other["tok_emb.weight"], first["tok_emb.weight"])

    @pytest.mark.parametrize("n_layers", [1, 4])
    def test_gpt2_distributions(self, n_layers):
        config = replace(
            GPT2, vocab_size=500, context_length=64, emb_dim=96, n_heads=3, n_layers=n_layers
        )
        for name, parameter in build(config).named_parameters():
            if name.endswith("bias") or name.endswith("shift"):
                assert not parameter.any(), name
            elif name.endswith("scale"):
                assert (parameter == 1).all(), name
            else:
                residual = name.endswith(("att.out_proj.weight", "ff.layers.2.weight"))
                std = 0.02 / math.sqrt(2 * n_layers) if residual else 0.02
                assert parameter.std().item() == pytest.approx(std, rel=0.05), name
                assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name

    def test_gpt2_weights_are_gaussian(self):
        """Loi normale : 31,7 % des tirages au-delà d'un écart-type (42 % pour une uniforme)."""
        weight = build(replace(GPT2, vocab_size=1000)).tok_emb.weight
        beyond = (weight.abs() > 0.02).float().mean().item()
        assert beyond == pytest.approx(0.317, abs=0.02)

    def test_gpt2_initial_loss_is_that_of_a_blind_guess(self):
        config = GPTConfig(
            context_length=32,
            emb_dim=48,
            n_heads=4,
            n_layers=2,
            drop_rate=0.0,
            qkv_bias=True,
            tie_weights=True,
        )
        assert config.vocab_size == 50257
        inputs, targets = random_ids(config, seed=1), random_ids(config, seed=2)
        with torch.no_grad():
            loss = F.cross_entropy(build(config)(inputs).flatten(0, 1), targets.flatten())
        assert loss.item() == pytest.approx(math.log(50257), abs=0.1)


class TestForward:
    @each_mode
    @pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 16)])
    def test_logits(self, config, shape):
        logits = build(config)(random_ids(config, *shape))
        assert logits.shape == (*shape, config.vocab_size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    @each_mode
    def test_is_the_composition_of_its_parts(self, config):
        model, idx = build(config), random_ids(config, length=5)
        x = model.tok_emb.weight[idx] + model.pos_emb.weight[:5]
        for block in model.trf_blocks:
            x = block(x)
        expected = model.final_norm(x) @ model.out_head.weight.T
        torch.testing.assert_close(model(idx), expected)

    def test_head_has_no_bias(self):
        assert build(BOOK).out_head.bias is None

    def test_order_of_tokens_matters(self):
        model = build(BOOK)
        last = [model(torch.tensor([ids]))[0, -1] for ids in ([1, 2, 3], [2, 1, 3])]
        assert (last[0] - last[1]).abs().max() > 1e-3

    @each_mode
    def test_rows_of_a_batch_do_not_mix(self, config):
        model, idx = build(config), random_ids(config, batch=3)
        alone = torch.cat([model(row[None]) for row in idx])
        torch.testing.assert_close(model(idx), alone, rtol=0, atol=1e-5)

    @each_mode
    def test_causality(self, config):
        """Changer le token t ne change aucun logit d'avant t, et tous ceux de t et d'après."""
        model, idx = build(config), random_ids(config, batch=1)
        with torch.no_grad():
            for parameter in model.parameters():  # GPT-2 naît presque muet : on le réveille
                parameter.add_(0.1 * torch.randn_like(parameter))
            before = model(idx)
            for t in range(config.context_length):
                changed = idx.clone()
                changed[0, t] = (idx[0, t] + 1) % config.vocab_size
                gap = (model(changed) - before).abs().amax(-1)[0]
                assert gap[:t].sum() == 0, t
                assert gap[t:].min() > 1e-4, t

    @each_mode
    def test_too_long_input_says_what_to_do(self, config):
        model = build(config)
        with pytest.raises(ValueError, match=r"17 positions.*16.*gardez les derniers tokens"):
            model(torch.zeros(1, 17, dtype=torch.int64))

    def test_every_parameter_receives_a_gradient(self):
        model, idx = build(GPT2), random_ids(GPT2)
        F.cross_entropy(model(idx).flatten(0, 1), idx.flatten()).backward()
        silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        # Un biais de clé décale tous les scores d'une requête : softmax ne le voit pas.
        assert [name for name in silent if not name.endswith("W_key.bias")] == []

    def test_the_device_is_that_of_the_weights(self):
        assert build(BOOK).device == torch.device("cpu")
        assert blank_model(GPTConfig.coerce(BOOK)).device == torch.device("meta")

    def test_new_cache_fits_the_model(self):
        cache = build(BOOK).new_cache(2, capacity=5)
        assert isinstance(cache, KVCache)
        assert (cache.capacity, cache.length, len(cache.layers)) == (5, 0, BOOK.n_layers)


class TestDropout:
    @pytest.fixture
    def model(self):
        return build(replace(BOOK, drop_rate=0.3))

    def test_acts_in_training_and_never_in_evaluation(self, model):
        idx = random_ids(BOOK)
        assert torch.equal(model(idx), model(idx))
        model.train()
        assert not torch.equal(model(idx), model(idx))
        model.eval()
        state = torch.get_rng_state()
        model(idx)
        assert torch.equal(torch.get_rng_state(), state)

    def test_zero_rate_is_silent_in_training(self):
        model, idx = build(BOOK), random_ids(BOOK)
        expected = model(idx)
        torch.testing.assert_close(model.train()(idx), expected)

    def test_places(self, model, monkeypatch):
        """Embeddings, puis dans chaque bloc : poids d'attention, et les deux branches."""
        seen = []
        original = F.dropout

        def recorder(x, p=0.5, training=True, inplace=False):
            seen.append((tuple(x.shape), p if training else 0.0))
            return original(x, p, training, inplace)

        monkeypatch.setattr(F, "dropout", recorder)
        use_attention_(model, eager_attention)
        model.train()(random_ids(BOOK, batch=2, length=5))
        embeddings = branch = ((2, 5, 24), 0.3)
        attention = ((2, 3, 5, 5), 0.3)
        assert seen == [embeddings] + [attention, branch, branch] * BOOK.n_layers

        seen.clear()
        model.eval()(random_ids(BOOK, batch=2, length=5))
        assert {rate for _, rate in seen} == {0.0}

    def test_fast_engine_receives_the_rate_in_training_only(self, model):
        rates = []

        def spy(q, k, v, *, dropout_p, mask=None):
            rates.append(dropout_p)
            return sdpa_attention(q, k, v, dropout_p=dropout_p, mask=mask)

        use_attention_(model, spy)
        model.train()(random_ids(BOOK))
        model.eval()(random_ids(BOOK))
        assert rates == [0.3, 0.3, 0.0, 0.0]

    def test_lost_embeddings_leave_nothing_to_tell_tokens_apart(self, model):
        model.train().drop_emb.p = 1.0
        for block in model.trf_blocks:
            block.att.dropout.p = block.drop_shortcut.p = block.drop_feed_forward.p = 0.0
        logits = model(random_ids(BOOK))
        torch.testing.assert_close(logits, logits[:1, :1].expand_as(logits))

    def test_lost_branches_leave_the_residual_stream_untouched(self, model):
        block, x = model.trf_blocks[0].train(), torch.randn(2, 5, 24)
        block.drop_shortcut.p = block.drop_feed_forward.p = 1.0
        assert torch.equal(block(x), x)

    @pytest.mark.parametrize(
        "backend",
        [pytest.param(eager_attention, id="eager"), pytest.param(sdpa_attention, id="sdpa")],
    )
    def test_lost_attention_weights_leave_the_output_bias(self, model, backend):
        attention = model.trf_blocks[0].att.train()
        use_attention_(attention, backend)
        attention.dropout.p = 1.0
        out = attention(torch.randn(2, 5, 24))
        torch.testing.assert_close(out, attention.out_proj.bias.expand_as(out))


@pytest.mark.slow
def test_golden_continuation_of_the_book():
    """Même graine, mêmes poids, même texte que le code du livre, à la taille « small »."""
    torch.manual_seed(123)
    model = GPTModel(GPT_CONFIG_124M | {"context_length": 256})
    tokenizer = get_tokenizer("gpt2")
    idx = text_to_token_ids("Every effort moves you", tokenizer)
    out = generate_text_simple(model.eval(), idx, max_new_tokens=10, context_size=256)
    assert token_ids_to_text(out, tokenizer) == (
        "Every effort moves you rentingetic wasnم refres RexMeCHicular stren"
    )


@pytest.mark.parametrize("tied", [False, True])
def test_blank_model_draws_nothing(tied):
    """Un modèle vide a les noms et les formes, n'alloue rien et ne touche pas aux générateurs."""
    cfg = GPTConfig(vocab_size=61, emb_dim=24, n_heads=3, n_layers=2, tie_weights=tied)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    blank = blank_model(cfg)
    assert torch.equal(torch.rand(2), expected)
    assert all(p.device.type == "meta" for p in blank.parameters())
    shapes = {name: tensor.shape for name, tensor in GPTModel(cfg).state_dict().items()}
    assert {name: tensor.shape for name, tensor in blank.state_dict().items()} == shapes


def test_blank_model_loads_no_compiler():
    """Le vider de ses tirages évite l'import du compilateur de PyTorch, plus de deux secondes."""
    code = (
        "import sys; from gpt_architecture.config import GPTConfig; "
        "from gpt_architecture.core.model import blank_model; "
        "blank_model(GPTConfig(vocab_size=61, emb_dim=24, n_heads=3, n_layers=2)); "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "False"
