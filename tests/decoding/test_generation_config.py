"""La configuration de génération : défauts, bornes, exclusions."""

import dataclasses

import pytest

from gpt_architecture.decoding.config import STRATEGIES, GenerationConfig
from gpt_architecture.decoding.named_settings import config_of, ignored_warning
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
        assert getattr(GenerationConfig(**{"strategy": "sample", name: value}), name) == value

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


class TestNothingIsIgnored:
    """Un réglage que rien n'appliquerait est refusé, quelle que soit la porte."""

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "mirostat"])
    @pytest.mark.parametrize(
        "setting",
        [
            {"k": 5},
            {"p": 0.5},
            {"min_p": 0.1},
            {"typical_p": 0.9},
            {"epsilon_cutoff": 0.1},
            {"eta_cutoff": 0.1},
            {"top_n_sigma": 1.0},
            {"xtc_probability": 0.5},
        ],
    )
    def test_filters_of_a_strategy_without_filters(self, strategy, setting):
        (name,) = setting
        with pytest.raises(ConfigurationError, match=f"{name} est donné avec .* {strategy}"):
            GenerationConfig(strategy=strategy, **setting)
        GenerationConfig(strategy="sample", **setting)

    @pytest.mark.parametrize("value", [-1, 9])
    def test_a_bound_set_by_another_is_said_on_both_sides(self, value):
        with pytest.raises(ConfigurationError, match=r"min_tokens vaut .*≥ 0 et ≤ 8"):
            GenerationConfig(max_tokens=8, min_tokens=value)
        assert GenerationConfig(max_tokens=8, min_tokens=8).min_tokens == 8

    @pytest.mark.parametrize("strategy", ["greedy", "beam"])
    def test_temperature(self, strategy):
        """0 dit la même chose que `greedy` ; toute autre serait ignorée."""
        with pytest.raises(ConfigurationError, match="temperature"):
            GenerationConfig(strategy=strategy, temperature=0.7)
        GenerationConfig(strategy=strategy, temperature=0)
        GenerationConfig(strategy="mirostat", temperature=0.7)
        GenerationConfig(strategy="sample", temperature=0, k=5, p=0.9)  # celle des clients d'OpenAI

    @pytest.mark.parametrize(
        ("settings", "ignored"),
        [
            ({"strategy": "sample", "k": 5, "min_p": 0.1}, ("k", "min_p")),
            ({"strategy": "top_p"}, ("strategy=top_p",)),
            ({"strategy": "top_k", "k": 7}, ("strategy=top_k", "k")),
            ({"strategy": "mirostat", "mirostat_tau": 3.0}, ("strategy=mirostat", "mirostat_tau")),
            (
                {"strategy": "sample", "xtc_probability": 0.5, "xtc_threshold": 0.2},
                ("xtc_probability", "xtc_threshold"),
            ),
            ({"strategy": "sample", "repetition_penalty": 1.2}, ()),
            ({"strategy": "temperature"}, ()),
            ({"strategy": "greedy", "dry_multiplier": 1.0, "dry_base": 2.0}, ()),
        ],
    )
    def test_what_a_null_temperature_ignores(self, settings, ignored, caplog):
        """Ni refusé ni tu ; à une température qui tire, plus rien n'est vain."""
        config = config_of({**settings, "temperature": 0})
        assert config.ignored == ignored
        warning = ignored_warning(config)
        assert caplog.messages == [warning] * bool(ignored)
        assert warning is None or warning.endswith(f"sans effet : {', '.join(ignored)}")
        if settings["strategy"] != "greedy":
            assert config_of({**settings, "temperature": 0.5}).ignored == ()

    @pytest.mark.parametrize(
        ("setting", "enabler"),
        [
            ({"xtc_threshold": 0.3}, {"strategy": "sample", "xtc_probability": 0.5}),
            ({"dry_base": 2.0}, {"dry_multiplier": 1.0}),
            ({"dry_range": 5}, {"dry_multiplier": 1.0}),
            ({"dry_allowed_length": 3}, {"dry_multiplier": 1.0}),
            ({"dry_breakers": (";",)}, {"dry_multiplier": 1.0}),
            ({"mirostat_tau": 3.0}, {"strategy": "mirostat"}),
            ({"mirostat_eta": 0.2}, {"strategy": "mirostat"}),
            ({"beams": 3}, {"strategy": "beam"}),
            ({"length_penalty": 2.0}, {"strategy": "beam"}),
            ({"early_stopping": True}, {"strategy": "beam"}),
            ({"penalty_window": 8}, {"presence_penalty": 0.5}),
            ({"lookup_ngram": 2}, {"lookup": 4}),
        ],
    )
    def test_settings_that_refine_another(self, setting, enabler):
        (name,) = setting
        with pytest.raises(ConfigurationError, match=name):
            GenerationConfig(**setting)
        GenerationConfig(**setting, **enabler)

    def test_named_settings(self):
        """`top_k` et `top_p` valent `k` et `p` ; un filtre demande un tirage ; le reste est dit."""
        assert config_of({"top_p": 0.9}) == GenerationConfig(strategy="sample", p=0.9)
        assert config_of({"top_k": 7, "strategy": "top_k"}).k == 7
        assert config_of({"temperature": 1.0}).strategy == "sample"
        assert config_of({"max_tokens": 3}).strategy == "greedy"
        with pytest.raises(ConfigurationError, match=r"top_k et k|k et top_k"):
            config_of({"top_k": 7, "k": 7})
        with pytest.raises(ConfigurationError, match=r"max_new_tokens.*essayez `max_tokens`"):
            config_of({"max_new_tokens": 3})
        with pytest.raises(ConfigurationError, match=r"tempreature.*essayez `temperature`"):
            config_of({"tempreature": 0.5})


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("stop", ["."], (".",)),
        ("stop", ".", (".",)),
        ("choices", ["oui", "non"], ("oui", "non")),
        ("stop_ids", [13], (13,)),
    ],
)
def test_a_list_or_a_lone_text_is_what_one_writes(name, given, kept):
    assert getattr(GenerationConfig(**{name: given}), name) == kept


@pytest.mark.parametrize("given", [[""], [3], {"."}])
def test_what_is_not_a_list_of_texts_is_refused(given):
    with pytest.raises(ConfigurationError, match="stop vaut"):
        GenerationConfig(stop=given)
