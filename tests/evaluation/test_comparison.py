"""Comparaison de stratégies : mesures refaites à la main, graines, arrêt."""

import dataclasses

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.decoding.generator import (
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
)
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.comparison import (
    SIX_VARIANTS,
    VariantResult,
    compare_strategies,
    distinct_n,
)

CONTEXT = 16
PROMPT = torch.tensor([[5, 17, 42]])


class ScriptedModel:
    """Dicte ses tokens l'un après l'autre, presque sûrement."""

    def __init__(self, *tokens):
        self.cfg = GPTConfig(
            vocab_size=10, context_length=CONTEXT, emb_dim=1, n_heads=1, n_layers=1
        )
        self.tokens = iter(tokens)

    def __call__(self, in_idx, cache=None, *, at=None):
        if cache is not None:
            cache.advance_(in_idx.size(1))
        logits = torch.zeros(1, 1 if at is not None else in_idx.size(1), 10)
        logits[0, -1, next(self.tokens)] = 100.0
        return logits

    def new_cache(self, batch_size, capacity=None):
        return KVCache(self.cfg, batch_size, capacity=capacity)


def compare_one(model, config, **options):
    """Le résultat d'une seule variante."""
    (result,) = compare_strategies(model, PROMPT, [("essai", config)], **options)
    return result


class TestDistinct:
    @pytest.mark.parametrize(
        ("tokens", "n", "expected"),
        [
            ([1, 2, 3, 4], 1, 1.0),
            ([1, 1, 1, 1], 1, 0.25),
            ([1, 2, 1, 2, 1], 1, 0.4),
            ([1, 2, 1, 2, 1], 2, 0.5),  # 12 21 12 21 : deux sur quatre
            ([1, 2, 3, 1, 2], 2, 0.75),
            ([1, 1, 1, 1, 1], 4, 0.5),
            ([1, 2, 3, 4], 4, 1.0),
            ([1, 2, 3], 4, 1.0),  # aucun quadruplet
            ([], 1, 1.0),
        ],
    )
    def test_by_hand(self, tokens, n, expected):
        assert distinct_n(tokens, n) == expected


class TestVariants:
    def test_six_labels_and_configurations(self):
        assert [label for label, _ in SIX_VARIANTS] == [
            "Glouton",
            "Température 0,3",
            "Température 1,0",
            "Température 2,0",
            "Top-k (k = 50)",
            "Top-p (p = 0,9)",
        ]
        configs = [config for _, config in SIX_VARIANTS]
        assert [c.strategy for c in configs] == [
            "greedy",
            "temperature",
            "temperature",
            "temperature",
            "top_k",
            "top_p",
        ]
        assert [c.temperature for c in configs[1:]] == [0.3, 1.0, 2.0, 1.0, 1.0]
        assert (configs[4].k, configs[5].p) == (50, 0.9)

    def test_results_come_in_order_with_their_configuration(self, tiny_model):
        results = list(compare_strategies(tiny_model, PROMPT, max_tokens=7, seed=3))
        assert [result.label for result in results] == [label for label, _ in SIX_VARIANTS]
        for result, (_, variant) in zip(results, SIX_VARIANTS, strict=True):
            assert result.config == dataclasses.replace(variant, max_tokens=7, seed=3)
            assert len(result.tokens) == 7

    def test_one_variant_at_a_time(self):
        """Une personne voit chaque résultat dès qu'il est prêt."""
        results = compare_strategies(ScriptedModel(1, 2), PROMPT, max_tokens=2)
        assert next(results).tokens == (1, 2)


class TestMeasures:
    def test_of_a_scripted_text(self):
        result = compare_one(
            ScriptedModel(1, 2, 3, 4, 1, 2, 3, 4, 1), GenerationConfig(), max_tokens=9
        )
        assert result.tokens == (1, 2, 3, 4, 1, 2, 3, 4, 1)
        assert result.distinct_1 == pytest.approx(4 / 9)
        assert result.distinct_2 == pytest.approx(4 / 8)
        assert result.repetition == pytest.approx(1 - 4 / 6)  # 1234 2341 3412 4123 1234 2341
        assert result.mean_log_prob == pytest.approx(0.0, abs=1e-6)

    def test_short_text_repeats_nothing(self):
        result = compare_one(ScriptedModel(1, 1, 1), GenerationConfig(), max_tokens=3)
        assert result.repetition == 0.0

    @pytest.mark.parametrize("max_tokens", [1, 8, 40])
    @pytest.mark.parametrize(
        "config",
        [
            GenerationConfig(),
            GenerationConfig(strategy="temperature", temperature=2.0),
            GenerationConfig(strategy="top_k", k=5),
            GenerationConfig(strategy="top_p", p=0.5, temperature=0.7),
        ],
    )
    def test_log_probability_is_that_of_the_raw_model(self, tiny_model, config, max_tokens):
        """Refaite sans cache, et sans la température ni le filtre, même au-delà du contexte."""
        result = compare_one(tiny_model, config, max_tokens=max_tokens, seed=1)
        ids = PROMPT
        total = 0.0
        for token in result.tokens:
            with torch.no_grad():
                log_probs = tiny_model(ids[:, -CONTEXT:])[0, -1].double().log_softmax(dim=-1)
            total += log_probs[token].item()
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert len(result.tokens) == max_tokens
        assert result.mean_log_prob == pytest.approx(total / max_tokens, abs=1e-5)

    def test_greedy_is_more_likely_than_a_hot_draw(self, tiny_model):
        greedy, hot = (
            compare_one(tiny_model, config, max_tokens=20, seed=0).mean_log_prob
            for config in (
                GenerationConfig(),
                GenerationConfig(strategy="temperature", temperature=5.0),
            )
        )
        assert greedy > hot

    def test_throughput(self):
        result = VariantResult(
            label="",
            config=GenerationConfig(),
            tokens=(1, 2, 3),
            distinct_1=1.0,
            distinct_2=1.0,
            repetition=0.0,
            mean_log_prob=0.0,
            seconds=2.0,
        )
        assert result.tokens_per_second == 1.5
        assert dataclasses.replace(result, seconds=0.0).tokens_per_second == 0.0

    def test_duration_is_measured(self, tiny_model):
        assert compare_one(tiny_model, GenerationConfig(), max_tokens=2).seconds > 0


class TestTokens:
    @pytest.mark.parametrize(
        ("config", "oracle", "settings"),
        [
            (GenerationConfig(), generate_text_simple, {}),
            (
                GenerationConfig(strategy="temperature", temperature=0.8),
                generate_text_temperature,
                {"temperature": 0.8},
            ),
            (GenerationConfig(strategy="top_k", k=4), generate_text_top_k, {"k": 4}),
            (GenerationConfig(strategy="top_p", p=0.6), generate_text_top_p, {"p": 0.6}),
        ],
    )
    def test_are_those_of_the_oracle(self, tiny_model, config, oracle, settings):
        result = compare_one(tiny_model, config, max_tokens=25, seed=11)
        expected = oracle(
            tiny_model,
            PROMPT,
            25,
            CONTEXT,
            **settings,
            generator=torch.Generator().manual_seed(11),
        )
        assert list(result.tokens) == expected[0, 3:].tolist()

    def test_seeds(self, tiny_model):
        def tokens(seed):
            return [r.tokens for r in compare_strategies(tiny_model, PROMPT, seed=seed)]

        first = tokens(1)
        assert tokens(1) == first
        other = tokens(2)
        assert other[0] == first[0]  # glouton
        assert all(one != two for one, two in zip(other[1:], first[1:], strict=True))

    def test_a_variant_does_not_depend_on_its_neighbours(self, tiny_model):
        alone = list(compare_strategies(tiny_model, PROMPT, SIX_VARIANTS[3:4], seed=5))
        among = list(compare_strategies(tiny_model, PROMPT, seed=5))
        assert alone[0].tokens == among[3].tokens

    def test_stops_at_end_of_text(self):
        model = ScriptedModel(1, 2, 9, 4, 5)
        result = compare_one(model, GenerationConfig(), max_tokens=5, eos_id=9)
        assert result.tokens == (1, 2, 9)

    def test_without_end_of_text_goes_on(self):
        result = compare_one(ScriptedModel(1, 9, 4), GenerationConfig(), max_tokens=3)
        assert result.tokens == (1, 9, 4)

    def test_the_global_generator_does_not_move(self, tiny_model):
        before = torch.get_rng_state()
        list(compare_strategies(tiny_model, PROMPT, max_tokens=3))
        assert torch.equal(torch.get_rng_state(), before)


class TestRefusals:
    def test_empty_prompt(self, tiny_model):
        with pytest.raises(ConfigurationError, match="début vide"):
            next(compare_strategies(tiny_model, torch.zeros(1, 0).long()))

    @pytest.mark.parametrize("options", [{"max_tokens": 0}, {"seed": -1}])
    def test_out_of_bounds(self, tiny_model, options):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            next(compare_strategies(tiny_model, PROMPT, **options))
