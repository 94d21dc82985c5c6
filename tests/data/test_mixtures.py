"""Les mélanges : la tresse de Webster, l'ordre des fenêtres, le chargement de sources mêlées."""

import math
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from conftest import FRENCH_TEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_helpers import write_folder

from gpt_architecture.config import TrainingConfig, WeightedSource
from gpt_architecture.config.mixture import parse_sources, source_texts
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.mixtures import (
    MixtureSampler,
    MixtureTokens,
    apportion,
    load_mixture,
    sampler_of,
    weave,
)
from gpt_architecture.data.sampler import WindowSampler, make_batch
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.errors import ConfigurationError, DataError, GPTArchitectureError

WINDOW = 4


def mixture(*described, **options):
    """Des sources de fenêtres de 4 tokens, décrites par (fenêtres, poids) ; jamais deux fois
    le même token.
    """
    parts, first = [], 0
    for windows, _ in described:
        length = windows * WINDOW + 1
        parts.append(TokenArray(np.arange(first, first + length)))
        first += length
    names = [f"s{index}" for index in range(len(described))]
    sources = parse_sources([f"{n}=x:{w}" for n, (_, w) in zip(names, described, strict=True)])
    tokens = MixtureTokens(parts, sources)
    return tokens, MixtureSampler(tokens, WINDOW, **{"batch_size": 5, "seed": 3, **options})


def slow_order(count, shares):
    """L'oracle : toutes les fenêtres, triées par instant puis par source."""
    items = [
        (Fraction(2 * rank + 1, 2 * share), source, rank)
        for source, share in enumerate(shares)
        for rank in range(count)
    ]
    return [(source, rank) for _, source, rank in sorted(items)[:count]]


class TestWeave:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 80))
    def test_is_the_sorted_order_of_all_windows(self, shares, count):
        assert [weave(place, shares) for place in range(count)] == slow_order(count, shares)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.integers(1, 10**9), min_size=1, max_size=8), st.integers(0, 10**15))
    def test_counts_follow_the_order_anywhere(self, shares, place):
        """Loin du début, une place de plus va à la source que la tresse annonce."""
        before, after = apportion(place, shares), apportion(place + 1, shares)
        source, rank = weave(place, shares)
        assert sum(before) == place
        assert rank == before[source]
        before[source] += 1
        assert before == after

    def test_every_prefix_has_its_shares(self):
        """À deux sources, jamais plus d'une demi-place d'écart avec la part exacte."""
        for places in range(300):
            first, second = apportion(places, [7, 3])
            assert abs(10 * first - 7 * places) <= 5
            assert first + second == places

    def test_order_is_pinned(self):
        """Le même dans toutes les versions : une reprise en dépend."""
        assert [weave(place, [7, 3])[0] for place in range(10)] == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]


class TestSampler:
    def test_shares_are_exact_at_each_period(self):
        tokens, sampler = mixture((30, 0.5), (50, 0.3), (7, 0.2), batch_size=10)
        assert sampler.shares == [5, 3, 2]
        for step in range(40):
            owners = tokens.by_source(sampler.batch(step)[0])
            assert {name: len(starts) for name, starts in owners.items()} == {
                "s0": 5,
                "s1": 3,
                "s2": 2,
            }

    def test_each_source_keeps_its_own_epochs(self):
        """Chaque fenêtre d'une source vient une fois avant qu'aucune ne revienne."""
        tokens, sampler = mixture((11, 0.8), (6, 0.2), batch_size=1)
        seen = {"s0": [], "s1": []}
        for step in range(110):
            (name, starts), *others = tokens.by_source(sampler.batch(step)[0]).items()
            assert not others
            seen[name].append(int(starts[0]))
        for starts, windows in ((seen["s0"], 11), (seen["s1"], 6)):
            for first in range(0, len(starts) - windows + 1, windows):
                assert len(set(starts[first : first + windows])) == windows
        assert len(seen["s0"]) == 88

    def test_epochs_as_weights(self):
        """Une époque du mélange lit chaque fenêtre de chaque source autant de fois que demandé."""
        tokens, sampler = mixture((12, "1x"), (5, "3x"), batch_size=1)
        assert sampler.num_windows == 12 + 15
        starts = [sampler.start_of(index) for index in range(27)]
        grouped = tokens.by_source(np.array(starts))
        assert set(Counter(grouped["s0"].tolist()).values()) == {1}
        assert set(Counter(grouped["s1"].tolist()).values()) == {3}
        assert len(set(grouped["s1"].tolist())) == 5

    def test_half_an_epoch_is_a_weight(self):
        _, sampler = mixture((9, "1x"), (8, "0.5x"))
        assert sampler.num_windows == 13
        assert sampler.use_after(13)["s1"].epochs == 0.5

    def test_an_epoch_of_shares_has_the_windows_of_all_sources(self):
        _, sampler = mixture((9, 1), (8, 99))
        assert sampler.num_windows == 17

    def test_ranks_and_restarts_change_nothing(self):
        """1, 2 ou 4 processus, du début ou du milieu : les mêmes séquences."""
        _, sampler = mixture((30, 2), (50, 1), batch_size=8)
        _, again = mixture((30, 2), (50, 1), batch_size=8)
        for step in (0, 1, 17, 10**9):
            whole, ids = sampler.batch(step)
            for size in (2, 4):
                parts = [again.batch(step, rank=r, world_size=size) for r in range(size)]
                assert np.concatenate([starts for starts, _ in parts]).tolist() == whole.tolist()
                assert np.concatenate([part for _, part in parts]).tolist() == ids.tolist()

    def test_a_larger_batch_reads_the_same_sequences(self):
        _, small = mixture((30, 2), (50, 1), batch_size=4)
        _, large = mixture((30, 2), (50, 1), batch_size=8)
        joined = np.concatenate([small.batch(0)[0], small.batch(1)[0]])
        assert joined.tolist() == large.batch(0)[0].tolist()

    def test_no_window_crosses_sources(self):
        """Ni en entrée ni en cible, même pour la dernière fenêtre d'une source."""
        tokens, sampler = mixture((3, 1), (4, 1), (2, 1))
        edges = tokens.bases
        for step in range(20):
            starts, _ = sampler.batch(step)
            inputs, targets = make_batch(tokens, starts, WINDOW)
            assert (targets == inputs + 1).all()
            for start in starts.tolist():
                assert not any(start < edge <= start + WINDOW for edge in edges[1:])

    def test_reading_is_that_of_the_sources_in_a_row(self):
        tokens, _ = mixture((3, 1), (4, 1), (2, 1))
        edge, total = tokens.bases[1], tokens.num_tokens
        assert tokens.read(edge - 2, 2).tolist() == [edge - 2, edge - 1]
        assert tokens.read(edge - 2, 4).tolist() == list(range(edge - 2, edge + 2))
        assert tokens.read(0, total).tolist() == list(range(total))
        assert tokens.read(total, 0).tolist() == []
        for start, length in ((total - 1, 2), (-1, 1)):
            with pytest.raises(DataError, match="lecture des tokens"):
                tokens.read(start, length)

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_one_source_alone_is_no_mixture(self, shuffle):
        """Le même ordre que sans mélange, étape par étape."""
        tokens, sampler = mixture((23, 0.4), shuffle=shuffle)
        plain = WindowSampler(tokens.num_tokens, WINDOW, batch_size=5, seed=3, shuffle=shuffle)
        assert sampler.steps_in(7) == plain.steps_in(7)
        for step in range(30):
            assert sampler.batch(step)[0].tolist() == plain.batch(step)[0].tolist()

    def test_use_is_what_was_read(self):
        tokens, sampler = mixture((30, 0.6), (10, 0.4), batch_size=7)
        read = Counter()
        for step in range(9):
            for name, starts in tokens.by_source(sampler.batch(step)[0]).items():
                read[name] += len(starts)
        use = sampler.use_after(63)
        assert {name: each.tokens for name, each in use.items()} == {
            name: count * WINDOW for name, count in read.items()
        }
        assert use["s1"].epochs == read["s1"] / 10
        assert use["s0"].share == read["s0"] / 63
        assert sampler.use_after(0)["s0"].tokens == 0

    def test_a_huge_mixture_costs_nothing(self):
        """Rien n'est gardé de l'ordre : un poids infime, 10**12 séquences plus loin."""
        _, sampler = mixture((30, "0.000001"), (50, "999999.5"))
        assert len(sampler.batch(10**12)[0]) == 5

    def test_a_short_source_is_named(self):
        sources = parse_sources(["un=x:1", "deux=x:1"])
        tokens = MixtureTokens([TokenArray(range(9)), TokenArray(range(3))], sources)
        with pytest.raises(DataError, match=r"source deux : 3 tokens"):
            sampler_of(tokens, WINDOW, stride=None, batch_size=1, seed=0)


class TestNotation:
    def test_round_trip(self):
        for text in (
            "fr=livres:0.7",
            r"en=C:\livres:2x",
            "a-b=x=y:z:1",
            "é=x:12.5x",
            "z=x:0.000001",
        ):
            assert str(WeightedSource.parse(text)) == text
        assert WeightedSource.parse("fr=livres:,5").weight == Fraction(1, 2)

    @pytest.mark.parametrize(
        "text",
        [
            *("fr", "fr=livres", "fr=livres:", "=livres:1", "fr=:1", "fr=x:0", "fr=x:-1"),
            *("fr=x:1y", "fr=x:0.0x", "fr=x:inf", "fr=x:1e3", "a b=x:1", f"fr=x:{'9' * 30}"),
        ],
    )
    def test_what_is_not_a_source_is_refused(self, text):
        with pytest.raises(ConfigurationError, match=r"`sources`.*NOM=CHEMIN:POIDS"):
            WeightedSource.parse(text)

    @pytest.mark.parametrize(
        ("texts", "word"),
        [
            (["a=x:1", "a=y:1"], "deux sources ont le nom a"),
            (["a=x:1", "b=y:2x"], "deux genres : 1, 2x"),
            ([f"s{index}=x:1" for index in range(65)], "65 sources"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, texts, word):
        with pytest.raises(ConfigurationError, match=word):
            parse_sources(texts)

    def test_a_dictionary_is_written(self):
        given_ = {"fr": ("livres", 0.7), "en": "books:0.3", "de": ["x", "2"], "it": ("x", 1e-5)}
        assert source_texts(given_) == (
            "fr=livres:0.7",
            "en=books:0.3",
            "de=x:2",
            "it=x:0.00001",
        )

    @pytest.mark.parametrize(
        "weight",
        [1 / 3, 0.1 + 0.2, 1e-5 / 3, np.float64(0.5), np.float32(0.1), Fraction(1, 4), np.int64(3)],
    )
    def test_a_weight_of_python_is_kept_exactly(self, weight):
        """Un quotient a plus de décimales qu'on n'en taperait ; NumPy écrit les siens à part."""
        (source,) = parse_sources(source_texts({"fr": ("x", weight)}))
        assert source.weight == Fraction(str(float(weight)))
        assert WeightedSource.parse(str(source)) == source

    @pytest.mark.parametrize("weight", [math.nan, math.inf, -0.5, np.float64("nan"), True, None])
    def test_a_weight_that_is_not_one_is_refused(self, weight):
        with pytest.raises(ConfigurationError, match="`sources` vaut"):
            parse_sources(source_texts({"fr": ("x", weight)}))

    def test_a_long_weight_is_written_in_full(self):
        text = f"fr=x:123456789.{'1234567890' * 3}".rstrip("0")
        assert str(WeightedSource.parse(text)) == text


class TestLoading:
    TRAINING = TrainingConfig(batch_size=2)

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "fr.txt").write_text(FRENCH_TEXT, encoding="utf-8")
        english = "The ferryman raised his lamp twice, and untied the boat. " * 30
        (tmp_path / "en.txt").write_text(english, encoding="utf-8")
        ids = np.random.default_rng(0).integers(0, 50257, 400)
        write_folder(tmp_path / "tokens", {"train": [ids[:200], ids[200:350]], "val": [ids[350:]]})
        return tmp_path

    def load(self, folder, *described, tokenizer="gpt2", **options):
        sources = parse_sources([f"{re.split('[.:]', d)[0]}={folder}/{d}" for d in described])
        return load_mixture(sources, tokenizer, window=8, training=self.TRAINING, **options)

    def test_texts_and_shards_together(self, folder):
        """Chaque source a les tokens qu'elle a seule ; l'empreinte est celle de leur ensemble."""
        data = self.load(folder, "fr.txt:2", "tokens:1")
        for name, part, val in zip(
            ("fr.txt", "tokens"), data.train.parts, data.val.parts, strict=True
        ):
            alone = load_training_data(
                [str(folder / name)], "gpt2", window=8, training=self.TRAINING
            )
            assert part.sha256 == alone.train.sha256
            assert val.sha256 == alone.val.sha256
        assert data.name == "fr+tokens"
        assert data.train.num_tokens == sum(part.num_tokens for part in data.train.parts)
        other = self.load(folder, "fr.txt:2", "en.txt:1")
        assert other.sha256 != data.sha256
        assert self.load(folder, "fr.txt:9", "tokens:1").sha256 == data.sha256

    @pytest.mark.parametrize("tokenizer", ["char", "simple-v2", "bpe-300"])
    def test_a_vocabulary_is_learned_on_all_texts(self, folder, tokenizer):
        data = self.load(folder, "fr.txt:1", "en.txt:1", tokenizer=tokenizer)
        for word in ("passeur", "ferryman"):
            assert word in data.tokenizer.decode(data.tokenizer.encode(word))
        alone = load_training_data(
            [str(folder / "fr.txt")], tokenizer, window=8, training=self.TRAINING
        )
        assert data.tokenizer.to_dict() != alone.tokenizer.to_dict()
        same = self.load(folder, "fr.txt:1", tokenizer=tokenizer)
        assert same.tokenizer.to_dict() == alone.tokenizer.to_dict()
        assert same.train.parts[0].sha256 == alone.train.sha256

    @pytest.mark.parametrize(
        ("described", "options", "words"),
        [
            (["fr.txt:1", "rien.txt:1"], {}, "source rien : source de texte introuvable"),
            (
                ["fr.txt:1", "court.txt:1"],
                {},
                "source court : part d'entraînement : texte trop court",
            ),
            (
                ["fr.txt:1", "tokens:1"],
                {"tokenizer": "bpe-300"},
                "source tokens : le tokenizer bpe",
            ),
            (["tokens:1"], {"tokenizer": "bpe-300"}, "pas de texte dont tirer son vocabulaire"),
        ],
    )
    def test_a_refusal_names_its_source(self, folder, described, options, words):
        (folder / "court.txt").write_text("Trop court.", encoding="utf-8")
        with pytest.raises(GPTArchitectureError, match=words):
            self.load(folder, *described, **options)
