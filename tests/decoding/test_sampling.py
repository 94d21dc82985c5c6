"""Des logits au token : graines, fréquences, refus."""

import pytest
import torch
from decoding_helpers import chooser

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.strategies import (
    best,
    draw,
    greedy_token,
    sampled_token,
    top_k,
    top_p,
)
from gpt_architecture.errors import ConfigurationError, GenerationError

INF, NAN = float("inf"), float("nan")
STRATEGIES = ("greedy", "temperature", "top_k", "top_p")
# P = 0,4 0,3 0,15 0,1 0,05
FIVE = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log()


def draws(choose, logits, count):
    """`count` tirages indépendants : un lot de lignes identiques."""
    return choose(logits.expand(count, -1)).flatten()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class TestChoice:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_shape_and_type(self, strategy):
        logits = torch.randn(3, 11, generator=seeded(0))
        token = chooser(strategy=strategy, seed=0, vocab_size=logits.size(-1))(logits)
        assert token.shape == (3, 1)
        assert token.dtype == torch.int64
        assert bool(((token >= 0) & (token < 11)).all())

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_input_is_left_unchanged(self, strategy):
        logits = torch.randn(3, 11, generator=seeded(0))
        original = logits.clone()
        filters = {} if strategy == "greedy" else {"k": 2, "p": 0.5}
        chooser(strategy=strategy, seed=0, vocab_size=logits.size(-1), **filters)(logits)
        assert torch.equal(logits, original)

    def test_greedy_ignores_the_seed(self):
        config = GenerationConfig(strategy="greedy", seed=3)
        assert set(draws(chooser(config), FIVE, 50).tolist()) == {0}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("config", "support"),
        [
            (GenerationConfig(strategy="temperature", seed=1), {0, 1, 2, 3, 4}),
            (GenerationConfig(strategy="top_k", k=2, seed=1), {0, 1}),
            (GenerationConfig(strategy="top_p", p=0.8, seed=1), {0, 1, 2}),
            (GenerationConfig(strategy="top_k", k=1, seed=1), {0}),
            (GenerationConfig(strategy="top_p", p=0, seed=1), {0}),
            (GenerationConfig(strategy="top_k", temperature=0, seed=1), {0}),
            (GenerationConfig(strategy="top_p", temperature=0, seed=1), {0}),
            (GenerationConfig(strategy="temperature", temperature=0, seed=1), {0}),
        ],
    )
    def test_what_can_be_drawn(self, config, support):
        assert set(draws(chooser(config), FIVE, 2000).tolist()) == support

    @pytest.mark.slow
    def test_the_filter_sees_the_heated_distribution(self):
        """À haute température, la même masse p demande plus de tokens."""
        hot = GenerationConfig(strategy="top_p", p=0.69, temperature=5.0, seed=1)
        cold = GenerationConfig(strategy="top_p", p=0.69, temperature=0.5, seed=1)
        assert set(draws(chooser(hot), FIVE, 2000).tolist()) == {0, 1, 2, 3}
        assert set(draws(chooser(cold), FIVE, 2000).tolist()) == {0, 1}

    @pytest.mark.parametrize("temperature", [1e-30, 1e-300])
    def test_tiny_temperature_is_greedy(self, temperature):
        choose = sampled_token(temperature, None, seeded(0))
        assert set(draws(choose, FIVE, 100).tolist()) == {0}

    @pytest.mark.parametrize("temperature", [-1.0, NAN, INF])
    def test_bad_temperature_is_refused_before_any_draw(self, temperature):
        with pytest.raises(ConfigurationError, match="temperature"):
            sampled_token(temperature)


class TestSeeds:
    @pytest.mark.parametrize("strategy", ["temperature", "top_k", "top_p"])
    def test_same_seed_same_draws(self, strategy):
        config = GenerationConfig(strategy=strategy, seed=9)
        first, second = chooser(config), chooser(config)
        for _ in range(3):  # la suite des tirages, non le premier seul
            assert torch.equal(draws(first, FIVE, 50), draws(second, FIVE, 50))

    def test_a_generation_has_its_own_generator(self):
        """Deux générations entremêlées ne se gênent pas."""
        config = GenerationConfig(strategy="temperature", seed=9)
        alone = chooser(config)
        expected = [draws(alone, FIVE, 20) for _ in range(2)]
        first, second = chooser(config), chooser(config)
        for index in range(2):
            assert torch.equal(draws(first, FIVE, 20), expected[index])
            assert torch.equal(draws(second, FIVE, 20), expected[index])

    def test_different_seeds_differ(self):
        results = {
            tuple(draws(chooser(strategy="temperature", seed=seed), FIVE, 50).tolist())
            for seed in range(5)
        }
        assert len(results) == 5

    def test_without_seed_unpredictable(self):
        config = GenerationConfig(strategy="temperature")
        torch.manual_seed(0)
        first = draws(chooser(config), FIVE, 200)
        torch.manual_seed(0)
        assert not torch.equal(first, draws(chooser(config), FIVE, 200))

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_the_global_generator_does_not_move(self, strategy):
        before = torch.get_rng_state()
        draws(chooser(strategy=strategy), FIVE, 10)
        draws(chooser(strategy=strategy, seed=1), FIVE, 10)
        assert torch.equal(torch.get_rng_state(), before)

    def test_without_generator_the_global_one_decides(self):
        results = []
        for _ in range(2):
            torch.manual_seed(4)
            results.append(draws(sampled_token(1.0), FIVE, 50))
        assert torch.equal(*results)


class TestFrequencies:
    COUNT = 20_000

    @pytest.mark.parametrize(
        ("temperature", "keep", "expected"),
        [
            (1.0, None, FIVE.exp()),
            (0.5, None, torch.softmax(FIVE / 0.5, dim=-1)),
            (2.0, None, torch.softmax(FIVE / 2.0, dim=-1)),
            (1.0, lambda x: top_k(x, 2), torch.tensor([4 / 7, 3 / 7, 0, 0, 0])),
            (1.0, lambda x: top_p(x, 0.8), torch.tensor([8 / 17, 6 / 17, 3 / 17, 0, 0])),
        ],
    )
    def test_draws_follow_the_distribution(self, temperature, keep, expected):
        """Chi carré à 4 degrés de liberté au plus : 30 est à moins d'une chance sur 10⁵."""
        choose = sampled_token(temperature, keep, seeded(123))
        counts = torch.bincount(draws(choose, FIVE, self.COUNT), minlength=5).double()
        assert counts[expected == 0].sum() == 0
        theory = self.COUNT * expected[expected > 0].double()
        chi_square = ((counts[expected > 0] - theory) ** 2 / theory).sum()
        assert chi_square < 30


class TestFewLeft:
    """Une ligne presque toute retirée : le tirage ne voit que ce qui en reste."""

    VOCAB, SEEDS = 4001, 200

    @pytest.mark.parametrize("left", [1, 3, 400, 600, VOCAB])
    def test_the_token_is_that_of_the_whole_row(self, left):
        """Contre les probabilités cumulées de toute la ligne, en float64."""
        row = 3 * torch.randn(self.VOCAB, generator=seeded(5))
        row[torch.randperm(self.VOCAB, generator=seeded(6))[left:]] = -INF
        cumulative = torch.softmax(row.double(), dim=-1).cumsum(dim=-1)
        for seed in range(self.SEEDS):
            place = torch.rand(1, 1, dtype=torch.float64, generator=seeded(seed))
            expected = torch.searchsorted(cumulative, place[0] * cumulative[-1], right=True)
            found = draw(row.unsqueeze(0), seeded(seed))
            assert found.tolist() == [expected.tolist()]
            assert found.dtype == torch.int64


class TestUnusableLogits:
    @pytest.mark.parametrize(
        "row", [[NAN, 1.0, 2.0], [0.0, NAN, NAN], [INF, 0.0, 0.0], [-INF, -INF, -INF]]
    )
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_refused_even_on_one_row_of_the_batch(self, row, strategy):
        logits = torch.tensor([[0.0, 1.0, 2.0], row])
        with pytest.raises(GenerationError, match="NaN"):
            chooser(strategy=strategy, seed=0, vocab_size=logits.size(-1))(logits)

    @pytest.mark.parametrize("choose", [greedy_token, sampled_token(0), sampled_token(1.0)])
    def test_refused_by_each_choice(self, choose):
        with pytest.raises(GenerationError):
            choose(torch.tensor([[NAN, 0.0]]))

    @pytest.mark.parametrize(
        "row", [[NAN, 1.0, 2.0], [0.0, NAN, NAN], [INF, 0.0, 0.0], [-INF, -INF, -INF]]
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_refused_by_the_single_reading(self, row, dtype):
        with pytest.raises(GenerationError, match="NaN"):
            best(torch.tensor(row, dtype=dtype))
        assert best(torch.tensor([0.0, -INF, 2.0, 2.0], dtype=dtype)) == 2

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_removed_tokens_are_fine(self, strategy):
        """−∞ sur une partie du vocabulaire est une contrainte, non une panne."""
        config = GenerationConfig(strategy=strategy, seed=0)
        logits = torch.tensor([-INF, 0.0, -INF, 0.0])
        assert set(draws(chooser(config), logits, 100).tolist()) <= {1, 3}

    def test_large_logits_are_fine(self):
        choose = sampled_token(1.0, None, seeded(0))
        assert draws(choose, torch.tensor([3e38, -3e38, 0.0]), 10).tolist() == [0] * 10
