"""Boucles de génération : l'oracle sans cache, le flux avec cache, et leur accord."""

import inspect
from dataclasses import replace

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.model import GPTModel
from gpt_architecture.decoding.simple import (
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
    stream_tokens,
)
from gpt_architecture.decoding.strategies import greedy_token, sampled_token, top_k, top_p
from gpt_architecture.errors import ConfigurationError, GenerationError

ORACLES = [
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
]
SAMPLERS = ORACLES[1:]
CONTEXT = 16
VOCAB = 61


class ScriptedModel:
    """Un modèle qui dicte les tokens : ligne b, appel n → `script[b][n]`. Retient ses entrées."""

    def __init__(self, *script, vocab_size=10, context_length=CONTEXT):
        self.cfg = GPTConfig(
            vocab_size=vocab_size, context_length=context_length, emb_dim=1, n_heads=1, n_layers=1
        )
        self.script = script
        self.inputs = []

    def __call__(self, in_idx, cache=None):
        call = len(self.inputs)
        self.inputs.append(in_idx.tolist())
        logits = torch.zeros(*in_idx.shape, self.cfg.vocab_size)
        for row, tokens in enumerate(self.script):
            logits[row, -1, tokens[call]] = 100.0
        return logits

    @property
    def device(self):
        return torch.device("cpu")

    def new_cache(self, batch_size, capacity=None):
        return KVCache(self.cfg, batch_size, capacity=capacity)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def prompt(*shape, seed=0):
    return torch.randint(VOCAB, shape, generator=seeded(seed))


def streamed(model, idx, max_new_tokens, choose=greedy_token, **options):
    """Le début et les tokens du flux, comme l'oracle les rend."""
    tokens = [token for token, _ in stream_tokens(model, idx, max_new_tokens, choose, **options)]
    return torch.cat([idx, *tokens], dim=1)


@pytest.fixture(params=["livre", "gpt2"])
def model(request, tiny_config):
    """Le petit modèle dans les deux modes, aux poids assez tranchés pour varier les tokens."""
    tied = request.param == "gpt2"
    torch.manual_seed(0)
    model = GPTModel(replace(tiny_config, tie_weights=tied, qkv_bias=tied)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0 if tied else 2.0)
    return model


class TestSignatures:
    @pytest.mark.parametrize("oracle", ORACLES)
    def test_frozen(self, oracle):
        parameters = list(inspect.signature(oracle).parameters.values())
        assert [p.name for p in parameters[:4]] == [
            "model",
            "idx",
            "max_new_tokens",
            "context_size",
        ]
        assert all(p.default is p.empty for p in parameters[:4])
        assert [(p.name, p.default) for p in parameters[-2:]] == [
            ("generator", None),
            ("eos_id", None),
        ]
        assert all(p.default is not p.empty for p in parameters[4:])

    @pytest.mark.parametrize(
        ("oracle", "names"),
        [
            (generate_text_simple, []),
            (generate_text_temperature, ["temperature"]),
            (generate_text_top_k, ["k", "temperature"]),
            (generate_text_top_p, ["p", "temperature"]),
        ],
    )
    def test_settings_of_each_strategy(self, oracle, names):
        assert list(inspect.signature(oracle).parameters)[4:-2] == names


@pytest.mark.parametrize("oracle", ORACLES)
class TestOracles:
    @pytest.mark.parametrize(("rows", "length", "new"), [(1, 1, 5), (3, 4, 7), (2, 20, 3)])
    def test_prefix_then_new_tokens(self, oracle, tiny_model, rows, length, new):
        idx = prompt(rows, length)
        out = oracle(tiny_model, idx, new, CONTEXT, generator=seeded(0))
        assert out.shape == (rows, length + new)
        assert out.dtype == torch.int64
        assert torch.equal(out[:, :length], idx)
        assert bool(((out >= 0) & (out < VOCAB)).all())

    def test_input_is_left_unchanged(self, oracle, tiny_model):
        idx = prompt(2, 3)
        original = idx.clone()
        oracle(tiny_model, idx, 4, CONTEXT, generator=seeded(0))
        assert torch.equal(idx, original)

    def test_no_new_token(self, oracle, tiny_model):
        idx = prompt(2, 3)
        assert torch.equal(oracle(tiny_model, idx, 0, CONTEXT), idx)

    @pytest.mark.parametrize(
        ("arguments", "name"),
        [((-1, CONTEXT), "max_new_tokens"), ((3, 0), "context_size"), ((2.5, 4), "max_new")],
    )
    def test_arguments_out_of_bounds(self, oracle, tiny_model, arguments, name):
        with pytest.raises(ConfigurationError, match=name):
            oracle(tiny_model, prompt(1, 3), *arguments)

    def test_empty_prompt(self, oracle, tiny_model):
        with pytest.raises(ConfigurationError, match="invite vide"):
            oracle(tiny_model, prompt(1, 0), 3, CONTEXT)

    def test_only_the_last_context_is_read(self, oracle):
        model = ScriptedModel([3, 4, 5])
        oracle(model, torch.tensor([[6, 7, 8, 9]]), 3, 3, generator=seeded(0))
        assert model.inputs == [[[7, 8, 9]], [[8, 9, 3]], [[9, 3, 4]]]

    def test_beyond_the_context_only_the_window_matters(self, oracle, tiny_model):
        """Deux débuts qui ne diffèrent qu'avant la fenêtre ont la même suite."""
        idx = prompt(1, 20)
        other = idx.clone()
        other[:, : 20 - CONTEXT] = (idx[:, : 20 - CONTEXT] + 1) % VOCAB
        first, second = (
            oracle(tiny_model, start, 6, CONTEXT, generator=seeded(0)) for start in (idx, other)
        )
        assert torch.equal(first[:, 20:], second[:, 20:])

    def test_finished_rows_are_frozen(self, oracle):
        model = ScriptedModel([3, 9, 4, 5, 6], [3, 4, 5, 9, 6], [9, 1, 2, 3, 4])
        out = oracle(model, torch.zeros(3, 1).long(), 5, CONTEXT, generator=seeded(0), eos_id=9)
        assert out[:, 1:].tolist() == [[3, 9, 9, 9], [3, 4, 5, 9], [9, 9, 9, 9]]

    def test_stops_as_soon_as_every_row_is_finished(self, oracle):
        model = ScriptedModel([9] * 8, [3, 9] + [4] * 6)
        out = oracle(model, torch.zeros(2, 1).long(), 8, CONTEXT, generator=seeded(0), eos_id=9)
        assert out.tolist() == [[0, 9, 9], [0, 3, 9]]
        assert len(model.inputs) == 2

    def test_without_eos_id_nothing_stops(self, oracle):
        model = ScriptedModel([9, 9, 4])
        out = oracle(model, torch.zeros(1, 1).long(), 3, CONTEXT, generator=seeded(0))
        assert out.tolist() == [[0, 9, 9, 4]]

    def test_eos_in_the_prompt_stops_nothing(self, oracle):
        model = ScriptedModel([3, 4])
        out = oracle(model, torch.tensor([[9]]), 2, CONTEXT, generator=seeded(0), eos_id=9)
        assert out.tolist() == [[9, 3, 4]]

    def test_training_mode_is_suspended_then_restored(self, oracle, tiny_config):
        torch.manual_seed(0)
        model = GPTModel(replace(tiny_config, drop_rate=0.5)).eval()
        idx = prompt(2, 5)
        expected = oracle(model, idx, 8, CONTEXT, generator=seeded(1))
        model.train()
        model.trf_blocks[0].eval()  # un bloc gelé le reste
        modes = [module.training for module in model.modules()]
        assert torch.equal(oracle(model, idx, 8, CONTEXT, generator=seeded(1)), expected)
        assert [module.training for module in model.modules()] == modes
        assert model.training

    def test_failure_restores_the_mode_too(self, oracle, tiny_model):
        tiny_model.train()
        with torch.no_grad():
            tiny_model.out_head.weight.fill_(float("nan"))
        with pytest.raises(GenerationError):
            oracle(tiny_model, prompt(1, 3), 2, CONTEXT, generator=seeded(0))
        assert tiny_model.training

    def test_no_graph_is_kept(self, oracle, tiny_model):
        out = oracle(tiny_model, prompt(1, 3), 2, CONTEXT, generator=seeded(0))
        assert not out.requires_grad
        assert all(parameter.grad is None for parameter in tiny_model.parameters())

    def test_explicit_generator_leaves_the_global_one_alone(self, oracle, tiny_model):
        before = torch.get_rng_state()
        oracle(tiny_model, prompt(2, 3), 5, CONTEXT, generator=seeded(0))
        assert torch.equal(torch.get_rng_state(), before)


class TestGreedy:
    def test_follows_the_argmax_by_hand(self, tiny_model):
        idx = prompt(1, 4)
        out = generate_text_simple(tiny_model, idx, 3, CONTEXT)
        for end in range(4, 7):
            assert out[0, end] == tiny_model(out[:, :end])[0, -1].argmax()

    def test_batch_rows_are_those_of_single_rows(self, model):
        idx = prompt(4, 6)
        batch = generate_text_simple(model, idx, 15, CONTEXT)
        for row in range(4):
            alone = generate_text_simple(model, idx[row : row + 1], 15, CONTEXT)
            assert torch.equal(batch[row : row + 1], alone)

    def test_the_tokens_vary(self, model):
        """Sans quoi les comparaisons de ce fichier ne prouveraient rien."""
        out = generate_text_simple(model, prompt(1, 6), 30, CONTEXT)
        assert out[0, 6:].unique().numel() > 4

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("oracle", "settings"),
        [
            (generate_text_temperature, {"temperature": 0}),
            (generate_text_temperature, {"temperature": 0.0}),
            (generate_text_top_k, {"k": 1}),
            (generate_text_top_k, {"k": 5, "temperature": 0}),
            (generate_text_top_k, {"k": 1, "temperature": 7.0}),
            (generate_text_top_p, {"p": 0}),
            (generate_text_top_p, {"p": 0.0, "temperature": 7.0}),
            (generate_text_top_p, {"p": 0.9, "temperature": 0}),
        ],
    )
    def test_degenerate_settings_are_greedy(self, model, oracle, settings):
        idx = prompt(3, 5)
        expected = generate_text_simple(model, idx, 12, CONTEXT)
        assert torch.equal(oracle(model, idx, 12, CONTEXT, **settings), expected)


class TestSampled:
    @pytest.mark.parametrize("oracle", SAMPLERS)
    def test_same_generator_same_text(self, oracle, tiny_model):
        idx = prompt(2, 3)
        first, again, other = (
            oracle(tiny_model, idx, 20, CONTEXT, generator=seeded(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("oracle", SAMPLERS)
    def test_without_generator_the_global_one_decides(self, oracle, tiny_model):
        results = []
        for _ in range(2):
            torch.manual_seed(8)
            results.append(oracle(tiny_model, prompt(1, 3), 20, CONTEXT))
        assert torch.equal(*results)

    def test_neutral_filters_draw_like_plain_sampling(self, model):
        """p = 1 ou k = V ne retirent rien : mêmes tirages à graine égale."""
        idx = prompt(2, 3)
        plain = generate_text_temperature(model, idx, 15, CONTEXT, 0.8, generator=seeded(3))
        for oracle, settings in (
            (generate_text_top_k, {"k": 10 * VOCAB}),
            (generate_text_top_p, {"p": 1.0}),
        ):
            out = oracle(model, idx, 15, CONTEXT, **settings, temperature=0.8, generator=seeded(3))
            assert torch.equal(out, plain)

    def test_top_k_draws_among_the_k_best(self, tiny_model):
        idx = prompt(1, 4)
        out = generate_text_top_k(tiny_model, idx, 10, CONTEXT, k=3, generator=seeded(0))
        for end in range(4, 14):
            logits = tiny_model(out[:, max(0, end - CONTEXT) : end])[0, -1]
            assert out[0, end] in logits.topk(3).indices

    @pytest.mark.parametrize(
        ("oracle", "settings"),
        [
            (generate_text_temperature, {"temperature": -1.0}),
            (generate_text_top_k, {"k": 0}),
            (generate_text_top_k, {"temperature": float("nan")}),
            (generate_text_top_p, {"p": 1.5}),
            (generate_text_top_p, {"temperature": -0.1}),
        ],
    )
    def test_settings_out_of_bounds(self, tiny_model, oracle, settings):
        with pytest.raises(ConfigurationError):
            oracle(tiny_model, prompt(1, 3), 2, CONTEXT, **settings)


# Débuts plus courts, égaux et plus longs que le contexte ; suites en deçà et bien au-delà.
LENGTHS = [(1, 6), (5, 11), (5, 12), (5, 40), (15, 2), (16, 1), (16, 20), (17, 5), (30, 25)]


class TestStreamAgainstOracle:
    @pytest.mark.slow
    @pytest.mark.parametrize(("length", "new"), LENGTHS)
    def test_greedy(self, model, length, new):
        idx = prompt(3, length)
        expected = generate_text_simple(model, idx, new, CONTEXT)
        assert torch.equal(streamed(model, idx, new), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize(("length", "new"), [(1, 6), (5, 40), (30, 25)])
    @pytest.mark.parametrize(
        ("oracle", "settings", "keep"),
        [
            (generate_text_temperature, {}, None),
            (generate_text_top_k, {"k": 7}, lambda logits: top_k(logits, 7)),
            (generate_text_top_p, {"p": 0.8}, lambda logits: top_p(logits, 0.8)),
        ],
    )
    def test_sampled_with_the_same_generator(self, model, oracle, settings, keep, length, new):
        idx = prompt(2, length)
        expected = oracle(
            model, idx, new, CONTEXT, **settings, temperature=0.9, generator=seeded(5)
        )
        choose = sampled_token(0.9, keep, seeded(5))
        assert torch.equal(streamed(model, idx, new, choose), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize(("length", "new"), [(1, 10), (5, 30), (25, 12)])
    def test_logits_are_those_of_the_uncached_model(self, model, length, new):
        idx = prompt(2, length)
        with torch.no_grad():
            for token, logits in stream_tokens(model, idx, new, greedy_token):
                uncached = model(idx[:, -CONTEXT:])[:, -1]
                torch.testing.assert_close(logits, uncached, rtol=0, atol=1e-5)
                idx = torch.cat([idx, token], dim=1)
        assert idx.size(1) == length + new

    def test_eos_with_scripted_rows(self):
        script = [3, 9, 4, 5, 6], [3, 4, 5, 9, 6], [9, 1, 2, 3, 4]
        idx = torch.zeros(3, 1).long()
        expected = generate_text_simple(ScriptedModel(*script), idx, 5, CONTEXT, eos_id=9)
        model = ScriptedModel(*script)
        assert torch.equal(streamed(model, idx, 5, eos_id=9), expected)
        assert len(model.inputs) == 4  # la cinquième lecture serait de trop

    def test_eos_with_a_real_model(self, model):
        """EOS : un token que le modèle produit vraiment, à des moments différents."""
        idx = prompt(4, 5)
        free = generate_text_simple(model, idx, 30, CONTEXT)
        eos_id = int(free[0, 12])
        expected = generate_text_simple(model, idx, 30, CONTEXT, eos_id=eos_id)
        assert not torch.equal(expected, free)
        assert torch.equal(streamed(model, idx, 30, eos_id=eos_id), expected)

    def test_dropout_is_suspended(self, tiny_config):
        torch.manual_seed(0)
        model = GPTModel(replace(tiny_config, drop_rate=0.5)).train()
        idx = prompt(2, 5)
        expected = generate_text_simple(model, idx, 20, CONTEXT)
        assert torch.equal(streamed(model, idx, 20), expected)
        assert model.training


class TestStream:
    def test_shapes(self, tiny_model):
        for token, logits in stream_tokens(tiny_model, prompt(2, 3), 4, greedy_token):
            assert (token.shape, token.dtype) == ((2, 1), torch.int64)
            assert logits.shape == (2, VOCAB)

    def test_reads_the_prompt_once_then_one_token_at_a_time(self):
        model = ScriptedModel([3, 4, 5, 6])
        streamed(model, torch.tensor([[7, 8]]), 4)
        assert model.inputs == [[[7, 8]], [[3]], [[4]], [[5]]]

    def test_rereads_everything_only_once_the_context_is_full(self, tiny_model, monkeypatch):
        """Début de 5 : onze tokens lus seuls remplissent les 16 positions."""
        lengths = []
        forward = tiny_model.forward

        def spy(in_idx, cache=None, *, at=None):
            lengths.append(in_idx.size(1))
            return forward(in_idx, cache, at=at)

        monkeypatch.setattr(tiny_model, "forward", spy)
        streamed(tiny_model, prompt(1, 5), 14)
        assert lengths == [5] + [1] * 11 + [CONTEXT] * 2

    def test_tokens_come_one_by_one(self):
        """Rien n'est calculé avant d'être demandé."""
        model = ScriptedModel([3, 4, 5])
        flow = stream_tokens(model, torch.tensor([[7]]), 3, greedy_token)
        assert model.inputs == []
        token, _ = next(flow)
        assert token.tolist() == [[3]]
        assert len(model.inputs) == 1

    def test_no_new_token(self, tiny_model):
        assert list(stream_tokens(tiny_model, prompt(1, 3), 0, greedy_token)) == []

    def test_interrupted_stream_leaves_the_mode_alone(self, tiny_model):
        tiny_model.train()
        flow = stream_tokens(tiny_model, prompt(1, 3), 5, greedy_token)
        next(flow)
        assert tiny_model.training
        flow.close()
        assert tiny_model.training

    def test_explicit_generator_leaves_the_global_one_alone(self, tiny_model):
        before = torch.get_rng_state()
        streamed(tiny_model, prompt(2, 3), 20, sampled_token(1.0, None, seeded(0)))
        assert torch.equal(torch.get_rng_state(), before)

    def test_input_is_left_unchanged(self, tiny_model):
        idx = prompt(2, 20)
        original = idx.clone()
        streamed(tiny_model, idx, 3)
        assert torch.equal(idx, original)

    def test_cache_is_no_larger_than_needed(self):
        capacities = []

        class Recorder(ScriptedModel):
            def new_cache(self, batch_size, capacity=None):
                capacities.append((batch_size, capacity))
                return super().new_cache(batch_size, capacity)

        for length, new in ((2, 3), (2, 100), (40, 1)):
            list(stream_tokens(Recorder([1] * 100), prompt(1, length), new, greedy_token))
        assert capacities == [(1, 5), (1, CONTEXT), (1, CONTEXT)]

    def test_empty_prompt(self, tiny_model):
        with pytest.raises(ConfigurationError, match="invite vide"):
            list(stream_tokens(tiny_model, prompt(1, 0), 3, greedy_token))

    def test_negative_length(self, tiny_model):
        with pytest.raises(ConfigurationError, match="max_new_tokens"):
            list(stream_tokens(tiny_model, prompt(1, 2), -1, greedy_token))

    def test_unusable_logits(self, tiny_model):
        with torch.no_grad():
            tiny_model.out_head.weight.fill_(float("nan"))
        with pytest.raises(GenerationError):
            next(stream_tokens(tiny_model, prompt(1, 3), 2, greedy_token))
