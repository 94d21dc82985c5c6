"""Les variantes écrites en une ligne."""

import pytest

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.variants import parse_variant


def config_of(line, **defaults):
    return parse_variant(line, defaults)[1]


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("greedy", {"strategy": "greedy"}),
        ("top_p p=0.9 temperature=0.8", {"strategy": "top_p", "p": 0.9, "temperature": 0.8}),
        ("sample k=5 ignore_eos=true", {"strategy": "sample", "k": 5, "ignore_eos": True}),
        (
            "sample order=llama.cpp min_p=1e-2",
            {"strategy": "sample", "order": "llama.cpp", "min_p": 0.01},
        ),
        ("sample stop=Fin", {"strategy": "sample", "stop": ("Fin",)}),
        ("""sample 'stop=["\\n", "Fin."]'""", {"strategy": "sample", "stop": ("\n", "Fin.")}),
        ("sample 'stop=deux mots'", {"strategy": "sample", "stop": ("deux mots",)}),
        ("greedy stop_ids=[3,4]", {"strategy": "greedy", "stop_ids": (3, 4)}),
        ("greedy stop_ids=3", {"strategy": "greedy", "stop_ids": (3,)}),
        ("greedy 'logit_bias={7 = -1.5}'", {"strategy": "greedy", "logit_bias": {7: -1.5}}),
        ("greedy 'regex=[a-z]+ *'", {"strategy": "greedy", "regex": "[a-z]+ *"}),
    ],
)
def test_settings(line, settings):
    assert config_of(line) == GenerationConfig(**settings)


def test_label_is_the_line_or_its_name():
    assert parse_variant("  top_k   k=3 ", {})[0] == "top_k k=3"
    assert parse_variant("top_k k=3 nom='Très sage'", {})[0] == "Très sage"


def test_the_line_wins_over_the_defaults():
    assert config_of("greedy", max_tokens=7).max_tokens == 7
    assert config_of("greedy max_tokens=9", max_tokens=7).max_tokens == 9


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("", "vide"),
        ("nucleus p=0.9", "nucleus"),
        ("p=0.9", "stratégie"),
        ("top_p 0.9", "réglage"),
        ("top_p q=0.9", "'q'"),
        ("top_p p=0,9", "p vaut '0,9'"),
        ("top_p p=2", "p vaut 2"),
        ("top_k k=", "k vaut ''"),
        ("top_k seed=3", "seed"),
        ("top_k n=3", "'n'"),
        ("top_k 'nom=ouvert", "guillemet"),
        ("greedy logit_bias=3", "logit_bias"),
        ("greedy 'logit_bias={a = 1}'", "logit_bias"),
        ("greedy stop=3", "stop"),
        ("greedy k=" + "[" * 9000, "k vaut"),
        ("x" * 10_001, "10001 caractères"),
    ],
)
def test_refusals(line, word):
    with pytest.raises(ConfigurationError, match=word):
        config_of(line)
