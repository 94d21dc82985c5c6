"""La configuration de génération : défauts, bornes, exclusions."""

import dataclasses

import pytest

from gpt_architecture.decoding.config import STRATEGIES, GenerationConfig
from gpt_architecture.errors import ConfigurationError

INF, NAN = float("inf"), float("nan")


class TestConfig:
    def test_defaults(self):
        assert GenerationConfig() == GenerationConfig(
            strategy="greedy", max_tokens=50, temperature=1.0, k=None, p=None, seed=None
        )

    def test_immutable_and_keyword_only(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            GenerationConfig().k = 3
        with pytest.raises(TypeError):
            GenerationConfig("greedy")

    def test_strategies(self):
        assert STRATEGIES[:4] == ("greedy", "temperature", "top_k", "top_p")
        assert STRATEGIES[4:] == ("sample", "mirostat", "beam")

    def test_each_seed_strategy_has_its_own_filter(self):
        """Les valeurs du document d'origine, sauf si une autre est donnée."""
        assert (GenerationConfig().top_k, GenerationConfig().top_p) == (None, None)
        assert GenerationConfig(strategy="top_k").top_k == 50
        assert GenerationConfig(strategy="top_p").top_p == 0.9
        both = GenerationConfig(strategy="top_p", k=7)
        assert (both.top_k, both.top_p) == (7, 0.9)

    def test_differences_in_plain_types(self):
        config = GenerationConfig(strategy="sample", k=3, stop=("fin",), logit_bias={5: -1.0})
        assert config.to_dict() == {
            "strategy": "sample",
            "k": 3,
            "stop": ["fin"],
            "logit_bias": {"5": -1.0},
        }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("strategy", "top_p"),
            ("max_tokens", 1),
            ("max_tokens", 1_000_000),
            ("temperature", 0),
            ("temperature", 1e9),
            ("k", 1),
            ("p", 0),
            ("p", 1),
            ("seed", 0),
            ("seed", 2**63 - 1),
        ],
    )
    def test_bounds_are_included(self, name, value):
        assert getattr(GenerationConfig(**{name: value}), name) == value

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("strategy", "faisceau"),
            ("strategy", None),
            ("strategy", "Greedy"),
            ("max_tokens", 0),
            ("max_tokens", 1_000_001),
            ("max_tokens", 5.0),
            ("max_tokens", True),
            ("temperature", -0.1),
            ("temperature", NAN),
            ("temperature", INF),
            ("temperature", "1"),
            ("k", 0),
            ("k", 1.5),
            ("p", -0.1),
            ("p", 1.01),
            ("p", NAN),
            ("seed", -1),
            ("seed", 2**63),
            ("seed", 1.0),
            ("min_tokens", 51),
            ("min_p", 1.5),
            ("typical_p", -1),
            ("top_n_sigma", 0),
            ("xtc_probability", 2),
            ("dry_base", 0.5),
            ("mirostat_tau", 0),
            ("repetition_penalty", 0),
            ("presence_penalty", NAN),
            ("penalty_window", 0),
            ("no_repeat_ngram", -1),
            ("n", 0),
            ("n", 129),
            ("beams", 0),
            ("logprobs", 101),
            ("lookup", 33),
            ("order", "alphabétique"),
            ("stop", ("",)),
            ("stop", "fin"),
            ("stop_ids", (-1,)),
            ("logit_bias", {-1: 2.0}),
            ("logit_bias", {3: INF}),
            ("regex", ""),
            ("json_schema", ""),
        ],
    )
    def test_out_of_bounds_names_the_value(self, name, value):
        with pytest.raises(ConfigurationError) as caught:
            GenerationConfig(**{name: value})
        assert name in caught.value.found or repr(value) in caught.value.found
        assert caught.value.exit_code == 2

    @pytest.mark.parametrize(
        "settings",
        [
            {"regex": "a+", "choices": ("a",)},
            {"choices": ("a",), "json_schema": "{}"},
            {"strategy": "beam", "n": 5, "beams": 4},
            {"strategy": "beam", "lookup": 3},
            {"strategy": "beam", "regex": "a+"},
            {"strategy": "mirostat", "lookup": 3},
        ],
    )
    def test_what_excludes_itself(self, settings):
        with pytest.raises(ConfigurationError) as caught:
            GenerationConfig(**settings)
        assert caught.value.exit_code == 2
