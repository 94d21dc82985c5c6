"""La configuration : valeurs refusées, aller-retour strict, comptes de paramètres."""

import math
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import (
    END_OF_TEXT,
    GPT_CONFIG_124M,
    MAX_SIZES,
    PRESETS,
    GPTConfig,
    TrainingConfig,
    check_float,
    check_int,
)
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ConfigurationError

SIZES = ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers")
NOT_POSITIVE_INTEGERS = (0, -1, 1.0, "8", None, True, math.nan)
NOT_BOOLEANS = (0, 1, "oui", None)
NOT_DROP_RATES = (-0.1, 1, 1.0, 1.5, math.nan, math.inf, "0.1", None, True)

SHAPES = [
    {"vocab_size": 7, "context_length": 3, "emb_dim": 4, "n_heads": 1, "n_layers": 1},
    {"vocab_size": 61, "context_length": 16, "emb_dim": 24, "n_heads": 3, "n_layers": 2},
    {"vocab_size": 5, "context_length": 40, "emb_dim": 8, "n_heads": 8, "n_layers": 5},
]


def refused(build, *names):
    """Le refus attendu de `build` : une ConfigurationError qui nomme chaque fautif."""
    with pytest.raises(ConfigurationError) as caught:
        build()
    error = caught.value
    assert error.exit_code == 2
    for name in names:
        assert name in str(error)
    return error


class TestGPTConfig:
    def test_defaults_are_the_original_document(self):
        config = GPTConfig()
        assert {name: getattr(config, name) for name in GPT_CONFIG_124M} == GPT_CONFIG_124M
        assert config.tie_weights is False
        assert GPT_CONFIG_124M == {
            "vocab_size": 50257,
            "context_length": 1024,
            "emb_dim": 768,
            "n_heads": 12,
            "n_layers": 12,
            "drop_rate": 0.1,
            "qkv_bias": False,
        }

    @pytest.mark.parametrize("value", NOT_POSITIVE_INTEGERS, ids=repr)
    @pytest.mark.parametrize("name", SIZES)
    def test_sizes_are_positive_integers(self, name, value):
        error = refused(lambda: GPTConfig(**{name: value}), name)
        assert repr(value) in error.found

    @pytest.mark.parametrize("value", NOT_BOOLEANS, ids=repr)
    @pytest.mark.parametrize("name", ["qkv_bias", "tie_weights"])
    def test_flags_are_booleans(self, name, value):
        refused(lambda: GPTConfig(**{name: value}), name)

    @pytest.mark.parametrize("value", NOT_DROP_RATES, ids=repr)
    def test_drop_rate_is_a_probability_below_one(self, value):
        refused(lambda: GPTConfig(drop_rate=value), "drop_rate")

    @pytest.mark.parametrize("value", [0, 0.0, 0.1, 0.999])
    def test_drop_rate_accepts_zero_and_up_to_one(self, value):
        assert GPTConfig(drop_rate=value).drop_rate == value

    def test_width_is_a_multiple_of_heads(self):
        refused(lambda: GPTConfig(emb_dim=10, n_heads=3), "emb_dim", "n_heads", "10", "3")

    def test_head_dim(self):
        assert GPTConfig(emb_dim=24, n_heads=3).head_dim == 8

    def test_frozen(self):
        with pytest.raises(FrozenInstanceError):
            GPTConfig().emb_dim = 3

    def test_keyword_only(self):
        with pytest.raises(TypeError):
            GPTConfig(50257)

    def test_equal_configurations_have_equal_hashes(self):
        assert hash(GPTConfig(n_layers=3)) == hash(replace(GPTConfig(), n_layers=3))


class TestDictionaries:
    @settings(deadline=None, max_examples=25)
    @given(data=st.data())
    def test_round_trip(self, data):
        heads = data.draw(st.integers(1, 8))
        config = GPTConfig(
            vocab_size=data.draw(st.integers(1, 10**6)),
            context_length=data.draw(st.integers(1, 10**6)),
            emb_dim=heads * data.draw(st.integers(1, 100)),
            n_heads=heads,
            n_layers=data.draw(st.integers(1, 100)),
            drop_rate=data.draw(st.floats(0, 1, exclude_max=True)),
            qkv_bias=data.draw(st.booleans()),
            tie_weights=data.draw(st.booleans()),
            inner_dim=data.draw(st.none() | st.integers(1, 10**6)),
            activation=data.draw(st.sampled_from(["gelu_tanh", "gelu", "relu"])),
            norm_eps=data.draw(st.sampled_from([1e-5, 1e-6])),
        )
        values = config.to_dict()
        standard = [*GPT_CONFIG_124M, "tie_weights"]
        assert list(values) == standard + list(config.variants())
        assert GPTConfig.from_dict(values) == config

    def test_original_dictionary_is_accepted_as_it_is(self):
        assert GPTConfig.from_dict(GPT_CONFIG_124M) == GPTConfig()

    def test_missing_keys_take_the_defaults(self):
        assert GPTConfig.from_dict({"n_layers": 2}) == GPTConfig(n_layers=2)

    def test_to_dict_is_a_copy(self):
        config = GPTConfig()
        config.to_dict()["emb_dim"] = 1
        assert config == GPTConfig()

    def test_unknown_keys_are_all_named_with_the_known_ones(self):
        error = refused(
            lambda: GPTConfig.from_dict({"emb_dim": 12, "n_embd": 12, "bias": True}),
            "n_embd",
            "bias",
        )
        assert "n_embd" in error.found
        assert all(field.name in error.expected for field in fields(GPTConfig))

    def test_unknown_keys_of_mixed_types_are_refused_cleanly(self):
        refused(lambda: GPTConfig.from_dict({1: 2, "n_embd": 12}), "n_embd", "1")

    def test_invalid_value_in_a_dictionary(self):
        refused(lambda: GPTConfig.from_dict({"n_layers": "deux"}), "n_layers")

    def test_coerce_keeps_a_configuration_and_reads_a_dictionary(self):
        config = GPTConfig(n_layers=2)
        assert GPTConfig.coerce(config) is config
        assert GPTConfig.coerce({"n_layers": 2}) == config
        refused(lambda: GPTConfig.coerce({"n_layer": 2}), "n_layer")


class TestVariants:
    def test_gpt2_is_written_as_before_variants_existed(self):
        """Mêmes fichiers, mêmes empreintes : une version précédente relit ce dictionnaire."""
        config = GPTConfig(inner_dim=4 * 768, activation="gelu_tanh", norm_eps=1e-5)
        assert list(config.to_dict()) == [*GPT_CONFIG_124M, "tie_weights"]
        assert config == GPTConfig()
        assert config.variants() == {}

    def test_each_one_is_named(self):
        config = GPTConfig(inner_dim=100, activation="relu", norm_eps=1e-6)
        assert config.variants() == {"inner_dim": 100, "activation": "relu", "norm_eps": 1e-6}
        assert (config.inner_width, GPTConfig().inner_width) == (100, 3072)

    @pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_tanh"])
    @pytest.mark.parametrize("inner", [None, 5, 96])
    def test_parameters_are_those_of_the_model(self, activation, inner):
        config = GPTConfig(
            vocab_size=7,
            context_length=4,
            emb_dim=12,
            n_heads=2,
            n_layers=2,
            inner_dim=inner,
            activation=activation,
        )
        assert config.num_parameters() == GPTModel(config).num_parameters()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("inner_dim", 0),
            ("inner_dim", 2**21),
            ("inner_dim", True),
            ("activation", "silu"),
            ("activation", ["relu"]),
            ("norm_eps", 0.0),
            ("norm_eps", "1e-5"),
        ],
    )
    def test_other_values_are_refused(self, name, value):
        refused(lambda: GPTConfig(**{name: value}), name)


class TestSizes:
    @pytest.mark.parametrize("name", list(MAX_SIZES))
    @pytest.mark.parametrize("value", [2**63, 10**5_000], ids=["2^63", "5000-chiffres"])
    def test_absurd_sizes_are_refused_in_one_short_sentence(self, name, value):
        error = refused(lambda: GPTConfig(**{name: value}), name)
        assert len(str(error)) < 200

    def test_the_largest_shape_has_fewer_parameters_than_an_index_can_count(self):
        largest = GPTConfig(**{**MAX_SIZES, "tie_weights": False})
        assert largest.num_parameters() < 2**63


class TestTrainingConfig:
    def test_defaults_are_valid(self):
        config = TrainingConfig()
        assert (config.epochs, config.batch_size, config.lr) == (10, 2, 4e-4)
        assert (config.weight_decay, config.train_ratio, config.seed) == (0.1, 0.9, 123)
        assert (config.eval_freq, config.eval_iter, config.stride) == (5, 5, None)

    @pytest.mark.parametrize("value", NOT_POSITIVE_INTEGERS, ids=repr)
    @pytest.mark.parametrize("name", ["epochs", "batch_size", "eval_freq", "eval_iter"])
    def test_counts_are_positive_integers(self, name, value):
        refused(lambda: TrainingConfig(**{name: value}), name)

    @pytest.mark.parametrize("value", [0, -1, 1.5, "4", True], ids=repr)
    def test_stride_is_none_or_a_positive_integer(self, value):
        refused(lambda: TrainingConfig(stride=value), "stride")
        assert TrainingConfig(stride=4).stride == 4

    @pytest.mark.parametrize("value", [-1, 2**63, 1.0, "1", None, True], ids=repr)
    def test_seed_fits_a_torch_generator(self, value):
        refused(lambda: TrainingConfig(seed=value), "seed")

    @pytest.mark.parametrize("value", [0, 2**63 - 1])
    def test_accepted_seeds_are_accepted_by_torch(self, value):
        seed = TrainingConfig(seed=value).seed
        assert torch.Generator().manual_seed(seed).initial_seed() == value

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("lr", (0, 0.0, -1e-3, math.nan, math.inf, "1e-3", None, True)),
            ("weight_decay", (-0.1, math.nan, math.inf, "0", None, False)),
            ("train_ratio", (0, 0.0, 1, 1.0, -0.5, 2, math.nan, "0.9", None, True)),
        ],
    )
    def test_numbers_are_finite_and_bounded(self, name, values):
        for value in values:
            refused(lambda value=value: TrainingConfig(**{name: value}), name)

    def test_weight_decay_may_be_zero(self):
        assert TrainingConfig(weight_decay=0.0).weight_decay == 0.0

    def test_frozen(self):
        with pytest.raises(FrozenInstanceError):
            TrainingConfig().lr = 1.0


class TestChecks:
    @pytest.mark.parametrize("value", [2, 3, 5])
    def test_integer_bounds_are_inclusive(self, value):
        check_int("n", value, minimum=2, maximum=5)

    @pytest.mark.parametrize("value", [1, 6])
    def test_integer_out_of_bounds_states_both_bounds(self, value):
        error = refused(lambda: check_int("n", value, minimum=2, maximum=5), "n")
        assert error.expected == "un entier ≥ 2 et ≤ 5"

    def test_float_bounds(self):
        check_float("x", 0.0, minimum=0.0, maximum=1.0)
        check_float("x", 1, minimum=0.0, maximum=1.0)
        refused(lambda: check_float("x", 0.0, above=0.0), "x")
        refused(lambda: check_float("x", 1.0, below=1.0), "x")
        error = refused(lambda: check_float("x", 2, above=0.0, maximum=1.0), "x")
        assert error.expected == "un nombre > 0 et ≤ 1"

    def test_integer_too_large_for_a_float_is_refused_cleanly(self):
        refused(lambda: check_float("lr", 10**400, above=0.0), "lr")


class TestParameterCounts:
    @pytest.mark.parametrize("tie_weights", [False, True], ids=["livre", "gpt2"])
    @pytest.mark.parametrize("qkv_bias", [False, True], ids=["sans-biais", "avec-biais"])
    @pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"D{shape['emb_dim']}")
    def test_formula_equals_the_built_model(self, shape, qkv_bias, tie_weights):
        config = GPTConfig(**shape, qkv_bias=qkv_bias, tie_weights=tie_weights)
        model = GPTModel(config)
        distinct = {id(p): p.numel() for p in model.parameters()}
        assert config.num_parameters() == sum(distinct.values()) == model.num_parameters()

    @pytest.mark.parametrize(
        ("config", "count"),
        [
            pytest.param(GPTConfig(), 163_009_536, id="livre"),
            pytest.param(PRESETS["gpt2-small"], 124_439_808, id="gpt2"),
        ],
    )
    def test_published_size_small(self, config, count):
        with torch.device("meta"):
            model = GPTModel(config)
        assert config.num_parameters() == count
        assert model.num_parameters() == count
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}

    def test_book_mode_weighs_the_published_size(self):
        assert round(GPTConfig().num_parameters() * 4 / 2**20, 2) == 621.83


class TestPresets:
    @pytest.mark.parametrize("name", sorted(PRESETS))
    def test_all_are_in_gpt2_mode(self, name):
        config = PRESETS[name]
        assert config.tie_weights
        assert config.qkv_bias
        assert (config.vocab_size, config.context_length, config.head_dim) == (50257, 1024, 64)

    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("gpt2-small", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
        ],
    )
    def test_published_parameter_counts(self, name, count):
        assert PRESETS[name].num_parameters() == count

    def test_names(self):
        assert sorted(PRESETS) == ["gpt2-large", "gpt2-medium", "gpt2-small", "gpt2-xl"]


def test_end_of_text_is_the_gpt2_special_token():
    assert END_OF_TEXT == "<|endoftext|>"
