"""Comparaison de stratégies : variantes lues, mesures refaites à la main, graines, arrêt."""

import dataclasses
import math

import pytest
import torch
from decoding_helpers import DictatedModel, LetterTokenizer, sharp_model

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import (
    Generator,
    generate_text_simple,
    generate_text_temperature,
    generate_text_top_k,
    generate_text_top_p,
)
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.comparison import (
    MAX_RESULTS,
    SIX_VARIANTS,
    VariantResult,
    by_text,
    compare_strategies,
    parse_variant,
    summarize,
    write_samples,
)

CONTEXT = 24
PROMPT = [5, 17, 22]
EOS = LetterTokenizer.eos_id


def generator_of(model=None):
    return Generator(model or sharp_model(context_length=CONTEXT), LetterTokenizer())


def dictated(*tokens):
    return generator_of(DictatedModel(tokens, vocab_size=LetterTokenizer.vocab_size))


def compare_one(generator, seed=0, **settings):
    """Le résultat d'une seule variante."""
    variants = [("essai", GenerationConfig(**{"ignore_eos": True} | settings))]
    (result,) = compare_strategies(generator, [PROMPT], variants, seeds=[seed])
    return result


def six(**changes):
    """Les six variantes, plus courtes."""
    return [(label, dataclasses.replace(config, **changes)) for label, config in SIX_VARIANTS]


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

    def test_results_come_in_order_with_their_configuration(self):
        variants = six(max_tokens=7, ignore_eos=True)
        results = list(compare_strategies(generator_of(), [PROMPT], variants, seeds=[3]))
        assert [result.label for result in results] == [label for label, _ in SIX_VARIANTS]
        for result, (_, variant) in zip(results, variants, strict=True):
            assert result.config == dataclasses.replace(variant, seed=3)
            assert len(result.tokens) == 7

    def test_every_prompt_and_seed(self):
        results = list(
            compare_strategies(generator_of(), ["abc", [1, 2]], six(max_tokens=2)[:2], seeds=[4, 5])
        )
        assert [(r.label, r.prompt, r.config.seed) for r in results] == [
            (label, prompt, seed)
            for label in ("Glouton", "Température 0,3")
            for prompt in ("abc", "bc")
            for seed in (4, 5)
        ]
        assert results[0].prompt_ids == (0, 1, 2)

    def test_one_at_a_time(self):
        """Une personne voit chaque résultat dès qu'il est prêt."""
        results = compare_strategies(
            dictated(1, 2), [PROMPT], [("a", GenerationConfig(max_tokens=2)), *six()], seeds=[0]
        )
        assert next(results).tokens == (1, 2)


class TestMeasures:
    def test_of_a_dictated_text(self):
        result = compare_one(dictated(1, 2, 3, 4, 1, 2, 3, 4, 1), max_tokens=9)
        assert result.tokens == (1, 2, 3, 4, 1, 2, 3, 4, 1)
        assert result.text == "bcdebcdeb"
        assert result.distinct_1 == pytest.approx(4 / 9)
        assert result.distinct_2 == pytest.approx(4 / 8)
        assert result.distinct_3 == pytest.approx(4 / 7)
        assert result.repetition == pytest.approx(1 - 4 / 6)  # 1234 2341 3412 4123 1234 2341
        assert result.mean_log_prob == pytest.approx(0.0, abs=1e-6)
        assert result.perplexity == pytest.approx(1.0)

    @pytest.mark.slow
    @pytest.mark.parametrize("max_tokens", [1, 8, 40])
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"strategy": "temperature", "temperature": 2.0},
            {"strategy": "top_k", "k": 5},
            {"strategy": "top_p", "p": 0.5, "temperature": 0.7},
        ],
    )
    def test_log_probability_is_that_of_the_raw_model(self, settings, max_tokens):
        """Refaite sans cache, et sans la température ni le filtre, même au-delà du contexte."""
        generator = generator_of()
        result = compare_one(generator, seed=1, max_tokens=max_tokens, **settings)
        ids, total = torch.tensor([PROMPT]), 0.0
        for token in result.tokens:
            with torch.no_grad():
                logits = generator.model(ids[:, -CONTEXT:])[0, -1]
            total += logits.double().log_softmax(dim=-1)[token].item()
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert len(result.tokens) == max_tokens
        assert result.mean_log_prob == pytest.approx(total / max_tokens, abs=1e-4)

    def test_beam_is_measured_too(self):
        generator = generator_of()
        result = compare_one(generator, strategy="beam", beams=3, max_tokens=6)
        scores = generator.score([*PROMPT, *result.tokens])[-len(result.tokens) :]
        expected = sum(each.logprob for each in scores) / len(scores)
        assert result.mean_log_prob == pytest.approx(expected)

    def test_greedy_is_more_likely_than_a_hot_draw(self):
        greedy, hot = (
            compare_one(generator_of(), max_tokens=20, **settings).mean_log_prob
            for settings in ({}, {"strategy": "temperature", "temperature": 5.0})
        )
        assert greedy > hot

    def test_throughput(self):
        result = compare_one(dictated(1, 2, 3), max_tokens=3)
        assert result.seconds > 0
        assert dataclasses.replace(result, seconds=2.0).tokens_per_second == 1.5
        assert dataclasses.replace(result, seconds=0.0).tokens_per_second == 0.0


class TestTokens:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("settings", "oracle", "arguments"),
        [
            ({}, generate_text_simple, {}),
            (
                {"strategy": "temperature", "temperature": 0.8},
                generate_text_temperature,
                {"temperature": 0.8},
            ),
            ({"strategy": "top_k", "k": 4}, generate_text_top_k, {"k": 4}),
            ({"strategy": "top_p", "p": 0.6}, generate_text_top_p, {"p": 0.6}),
        ],
    )
    def test_are_those_of_the_oracle(self, settings, oracle, arguments):
        generator = generator_of()
        result = compare_one(generator, seed=11, max_tokens=30, **settings)
        expected = oracle(
            generator.model,
            torch.tensor([PROMPT]),
            30,
            CONTEXT,
            **arguments,
            generator=torch.Generator().manual_seed(11),
        )
        assert list(result.tokens) == expected[0, len(PROMPT) :].tolist()

    @pytest.mark.slow
    def test_seeds(self):
        def tokens(seed):
            variants = six(max_tokens=20)
            results = compare_strategies(generator_of(), [PROMPT], variants, seeds=[seed])
            return [result.tokens for result in results]

        first = tokens(1)
        assert tokens(1) == first
        other = tokens(2)
        assert other[0] == first[0]  # glouton
        assert other[3] != first[3]  # température 2

    @pytest.mark.slow
    def test_a_variant_does_not_depend_on_its_neighbours(self):
        (alone,) = compare_strategies(generator_of(), [PROMPT], SIX_VARIANTS[3:4], seeds=[5])
        among = list(compare_strategies(generator_of(), [PROMPT], seeds=[5]))
        assert alone.tokens == among[3].tokens

    def test_stops_at_end_of_text(self):
        result = compare_one(dictated(1, 2, EOS, 4), max_tokens=5, ignore_eos=False)
        assert result.tokens == (1, 2, EOS)
        assert (result.text, result.finish) == ("bc", "stop")

    def test_the_global_generator_does_not_move(self):
        generator = generator_of()
        before = torch.get_rng_state()
        list(compare_strategies(generator, [PROMPT], six(max_tokens=3), seeds=[0]))
        assert torch.equal(torch.get_rng_state(), before)


class TestSummaries:
    def results(self):
        base = compare_one(dictated(1, 2, 3, 4), max_tokens=4)
        return [
            dataclasses.replace(base, label="a", mean_log_prob=-1.0, seconds=1.0, distinct_1=0.5),
            dataclasses.replace(base, label="b", mean_log_prob=-3.0, seconds=1.0),
            dataclasses.replace(
                base, label="a", tokens=(1, 2) * 6, mean_log_prob=-2.0, seconds=3.0, distinct_1=0.1
            ),
        ]

    def test_by_hand(self):
        first, second = summarize(self.results())
        assert (first.label, second.label) == ("a", "b")
        assert first.mean("distinct_1") == pytest.approx(0.3)  # chaque génération pour une
        assert first.mean_log_prob == pytest.approx(-(4 * 1 + 12 * 2) / 16)  # chaque token pour un
        assert first.perplexity == pytest.approx(math.exp(28 / 16))
        assert first.tokens_per_second == 4.0
        assert first.self_bleu is not None
        assert second.self_bleu is None

    def test_self_bleu_compares_the_texts_of_one_prompt(self):
        """Deux débuts aux suites identiques ne font pas une ressemblance."""
        base = self.results()[0]
        elsewhere = dataclasses.replace(base, prompt_ids=(9,))
        other = dataclasses.replace(base, tokens=(7, 8, 9, 10))
        assert summarize([base, elsewhere])[0].self_bleu is None
        assert summarize([base, other, elsewhere])[0].self_bleu == 0.0
        twins = [base, base, elsewhere, dataclasses.replace(elsewhere, tokens=other.tokens)]
        assert summarize(twins)[0].self_bleu == pytest.approx(0.5)

    def test_same_texts_are_shown_once(self):
        base, _, longer = self.results()
        again = dataclasses.replace(base, config=dataclasses.replace(base.config, seed=8))
        assert by_text([base, longer, again]) == [(base, (0, 8)), (longer, (0,))]

    def test_perplexity_may_be_infinite(self):
        (one,) = summarize([dataclasses.replace(self.results()[0], mean_log_prob=-1e6)])
        assert one.perplexity == math.inf

    def test_result_type(self):
        assert all(isinstance(each, VariantResult) for each in summarize(self.results())[0].results)


class TestRefusals:
    @pytest.mark.parametrize(
        ("prompts", "variants", "seeds", "word"),
        [
            ([""], SIX_VARIANTS, [0], "invite vide"),
            ([], SIX_VARIANTS, [0], "aucune invite"),
            (["a"], [], [0], "aucune variante"),
            (["a"], SIX_VARIANTS, [], "aucune graine"),
            (["a"], SIX_VARIANTS, [-1], "seed"),
            (["a"], SIX_VARIANTS, list(range(MAX_RESULTS)), "6000 générations"),
            (
                ["a"],
                [*SIX_VARIANTS, SIX_VARIANTS[0]],
                [0],
                "deux fois la même variante",
            ),
            (["a", "a"], SIX_VARIANTS, [0], "deux fois la même invite : 'a'"),
            (["a"], SIX_VARIANTS, [3, 3], "deux fois la même graine : 3"),
            (["a"], [("deux", GenerationConfig(strategy="sample", n=2))], [0], "n vaut 2"),
        ],
    )
    def test_one_sentence(self, prompts, variants, seeds, word):
        with pytest.raises(ConfigurationError, match=word):
            next(compare_strategies(generator_of(), prompts, variants, seeds=seeds))


@pytest.mark.slow
def test_samples_written_together_are_those_written_alone():
    """Glouton, tirage et faisceau : mêmes suites, mêmes mesures ; seule la durée change."""
    variants = [
        *six(max_tokens=7),
        ("Faisceau", GenerationConfig(strategy="beam", max_tokens=7)),
    ]
    prompts = ["abc", [1, 2], "le mot"]
    alone = list(compare_strategies(generator_of(), prompts, variants, seeds=[3]))
    batches = list(write_samples(generator_of(), prompts, variants, seed=3))
    assert [len(batch) for batch in batches] == [3] * 7
    together = [result for batch in batches for result in batch]
    for first, second in zip(alone, together, strict=True):
        assert second.mean_log_prob == pytest.approx(first.mean_log_prob, abs=1e-5)
        same = {"seconds": 0.0, "mean_log_prob": 0.0}
        assert dataclasses.replace(first, **same) == dataclasses.replace(second, **same)


def test_nothing_to_write():
    with pytest.raises(ConfigurationError, match="aucune invite"):
        list(write_samples(generator_of(), [], seed=1))


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
