"""Ce qu'un plan décide, de mesures fabriquées : la même loi donne le même choix, et le bon."""

import itertools
import math
from dataclasses import replace

import pytest

from gpt_architecture.training.costs import StepCost
from gpt_architecture.training.experiments import (
    LADDER,
    MIN_STEPS,
    TextSize,
    block_weights,
    chain_lengths,
    first_recipe,
    model_of,
    reread_tokens,
    trial_bodies,
    vocabulary_names,
)
from gpt_architecture.training.planning import (
    Measures,
    Pace,
    approach,
    decide,
    memory_of,
    steps_within,
    supported,
    training_seconds,
)
from gpt_architecture.training.scaling import FittedLaw, LossLaw, TrialRun
from gpt_architecture.training.trials import EVALUATIONS, Memory, Recipe, StepTime

LAW = LossLaw(floor=0.8, size=25.0, data=40.0, alpha=0.3, beta=0.28, excess=0.03, kappa=0.3)
TEXT = TextSize(vocab_size=2048, unique=1_500_000, validation=150_000)
RECIPE = Recipe(tokenizer="bpe-2048", window=128, batch_size=16)
PACE = Pace(cost=StepCost(rates=(4e-12, 8e-12, 1e-10, 5e-3), error=0.0), evaluated=9e3, sample=0.02)


def measures(law=LAW, text=TEXT, noise=0.01):
    fitted = FittedLaw(law=law, resampled=(law, replace(law, floor=law.floor + 0.02)), noise=noise)
    return Measures(
        recipe=RECIPE,
        text=text,
        pace=PACE,
        law=fitted,
        largest=500_000,
        memory=Memory(resident=300 << 20, peak=400 << 20),
        startup=20.0,
        nats=2.5,
    )


class TestDecision:
    def test_it_is_the_best_of_every_size_and_length(self):
        """Contre un oracle : toutes les tailles, toutes les durées, une à une."""
        found = decide(measures(), 0.5)
        oracle = math.inf
        for body in LADDER:
            size = model_of(body, RECIPE, TEXT.vocab_size).num_parameters()
            if block_weights(body) > 4 * 500_000:  # trop loin des essais
                break
            time = PACE.of(body, RECIPE, TEXT.vocab_size)
            most = steps_within(time, RECIPE, 1800 - 20, TEXT.unique)
            for steps in range(MIN_STEPS, most + 1, 7):
                oracle = min(oracle, LAW.loss(size, steps * RECIPE.step_tokens, TEXT.unique))
        assert found[0].loss == pytest.approx(oracle, rel=0.002)
        assert [each.loss for each in found] == sorted(each.loss for each in found)

    def test_every_choice_fits_in_the_hours(self):
        for hours in (0.1, 1.0, 8.0):
            assert all(each.seconds <= 3600 * hours * 1.001 for each in decide(measures(), hours))

    def test_more_hours_never_hurt(self):
        """À un millième près : une durée plus courte qui vaut autant est préférée."""
        losses = [decide(measures(), hours)[0].loss for hours in (0.1, 0.5, 2.0, 8.0)]
        assert all(more <= less * 1.001 for less, more in itertools.pairwise(losses))

    def test_more_hours_want_a_larger_model(self):
        sizes = [decide(measures(), hours)[0].parameters for hours in (0.05, 1.0, 8.0)]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1]

    def test_a_short_text_is_not_reread_for_nothing(self):
        """Trop relire fait monter la perte : le plan s'arrête avant la fin des heures."""
        short = TextSize(vocab_size=2048, unique=6000, validation=600)
        spoilt = replace(LAW, excess=0.05, delta=2.0)
        best = decide(measures(spoilt, short), 2.0)[0]
        assert best.seconds < 3600
        assert best.epochs < 60

    def test_a_size_far_beyond_the_trials_is_not_offered(self):
        found = decide(measures(), 1000.0)
        assert max(block_weights(each.body) for each in found) <= 4 * 500_000
        assert max(block_weights(each.body) for each in found) > 500_000

    def test_no_time_no_choice(self):
        assert decide(measures(), 20.5 / 3600) == ()

    def test_the_interval_holds_the_loss(self):
        for each in decide(measures(), 1.0):
            assert each.low < each.loss < each.high


def test_the_memory_of_a_training():
    """À la main : états, activations, scores et logits ; jamais moins que la lecture du texte."""
    body, recipe = LADDER[5], replace(RECIPE, window=256, batch_size=32)
    size = model_of(body, recipe, 4096).num_parameters()
    states = 16 * (size - 3_145_728) + 12 * 3_145_728
    activations = 4 * 8192 * (4 * 10 * 256 + 4 * 1.1 * 4 * 256 + 0.25 * 4096)
    expected = states + activations
    assert memory_of(body, recipe, model_of(body, recipe, 4096)) == pytest.approx(expected)
    assert (437 << 20) + expected == pytest.approx(1005 << 20, rel=0.05)  # mesurées
    found = decide(measures(), 8.0)
    for each in found:
        needed = memory_of(each.body, RECIPE, model_of(each.body, RECIPE, 2048))
        assert each.memory == max(400 << 20, (300 << 20) + needed)
    assert {each.memory > 400 << 20 for each in found} == {True, False}


def tried(choice, share, unique=TEXT.unique):
    """Un essai de cette taille, qui a lu cette part de ce qu'elle lirait."""
    tokens = share * choice.tokens
    return TrialRun(parameters=choice.parameters, tokens=tokens, unique=unique, loss=2.0)


class TestSupport:
    """À un centième près, deux pertes se valent : la plus grande qu'un essai approche l'emporte."""

    def choices(self, *losses):
        found = decide(measures(), 1.0)
        return [replace(each, loss=loss) for each, loss in zip(found, losses, strict=False)]

    def law(self, *runs):
        return replace(measures().law, runs=runs, gaps=(0.0,) * len(runs))

    def test_the_one_a_trial_comes_near(self):
        best, second, third = self.choices(2.0, 2.01, 2.015)
        law = self.law(tried(best, 0.04), tried(second, 0.06), tried(third, 0.5))
        assert supported([third, second, best], law) == (second, best, third)

    def test_the_larger_of_two(self):
        shapes = sorted(self.choices(2.0, 2.0, 2.0), key=lambda each: each.parameters)
        law = self.law(*map(tried, shapes, (0.5, 0.06, 0.01)))
        for losses in ((2.0, 2.01, 2.01), (2.0, 2.01, 2.0)):
            pairs = zip(shapes, losses, strict=True)
            found = [replace(each, loss=loss) for each, loss in pairs]
            assert supported(found, law)[0].body == shapes[1].body

    def test_not_a_larger_one_already_seen(self):
        """Un essai en a lu plus de la moitié : elle n'a plus de surprise à faire."""
        best, other = self.choices(2.0, 2.01)
        large, small = replace(other, parameters=2 * best.parameters), best
        law = self.law(tried(small, 0.9), tried(large, 0.9))
        assert supported([large, small], law) == (small, large)
        law = self.law(tried(small, 0.9), tried(large, 0.4))
        assert supported([large, small], law) == (large, small)

    def test_not_one_whose_loss_is_worse(self):
        best, far = self.choices(2.0, 2.03)
        law = self.law(tried(best, 0.01), tried(far, 0.9))
        assert supported([far, best], law) == (best, far)

    def test_not_by_a_part_reread(self):
        best, second = self.choices(2.0, 2.01)
        law = self.law(tried(best, 0.01), tried(second, 0.9, unique=1000))
        assert supported([best, second], law) == (best, second)
        assert approach(best, law) == pytest.approx(0.01)
        assert approach(second, law) == 0

    def test_nothing_to_choose(self):
        assert supported([], self.law()) == ()


class TestTime:
    @pytest.mark.parametrize("seconds", [30.0, 300.0, 3e4])
    def test_the_steps_found_take_that_long(self, seconds):
        time = StepTime(step=0.05, evaluation=0.4, sample=0.06)
        steps = steps_within(time, RECIPE, seconds, TEXT.unique)
        assert training_seconds(time, RECIPE, steps, TEXT.unique) <= seconds + time.sample
        assert training_seconds(time, RECIPE, steps + 3, TEXT.unique) > seconds - time.sample

    def test_no_room_is_no_step(self):
        time = StepTime(step=1.0, evaluation=1.0, sample=1.0)
        assert steps_within(time, RECIPE, 5.0, TEXT.unique) == 0

    def test_by_hand(self):
        time = StepTime(step=0.1, evaluation=2.0, sample=1.0)
        recipe = Recipe(tokenizer="char", window=10, batch_size=10)
        found = training_seconds(time, recipe, 25, 1000)  # deux époques et demie
        assert found == pytest.approx(25 * 0.1 + (EVALUATIONS + 1) * 2.0 + 3 * 1.0)


class TestDesign:
    def test_vocabularies_grow_with_the_text(self):
        assert vocabulary_names(18_000) == ("bpe-512", "bpe-1024", "bpe-2048")
        assert vocabulary_names(4_500_000) == ("bpe-1024", "bpe-2048", "bpe-4096")
        assert vocabulary_names(10**10) == ("bpe-8192", "bpe-16384", "bpe-32768")

    def test_the_first_recipe(self):
        assert first_recipe("x", TEXT, epochs=1.0) == Recipe(
            tokenizer="x", window=128, batch_size=16, drop_rate=0.0
        )
        short = TextSize(vocab_size=300, unique=6000, validation=600)
        found = first_recipe("x", short, epochs=50.0)
        assert (found.window, found.batch_size, found.drop_rate) == (64, 4, 0.1)

    def test_lengths_double(self):
        assert chain_lengths(400) == (100, 200, 400)
        assert chain_lengths(150) == (75, 150)
        assert chain_lengths(3) == (3,)
        assert chain_lengths(900, least=200) == (225, 450, 900)
        assert chain_lengths(500, least=200) == (250, 500)

    @pytest.mark.parametrize(
        "affordable", [[0] * 11, [9999] * 11, [900, 500, 300, 200, 100] + [9] * 6]
    )
    def test_three_sizes_are_tried(self, affordable):
        bodies = trial_bodies(affordable)
        assert len(set(bodies)) == 3
        sizes = [LADDER.index(each) for each in bodies]
        assert sizes == sorted(sizes)

    def test_the_largest_tried_makes_enough_steps(self):
        assert trial_bodies([2000, 1200, 800, 500, 300] + [9] * 6)[-1] == LADDER[3]

    def test_the_reread_part(self):
        """Autant d'époques qu'au bout des heures ; rien si le texte n'est pas relu."""
        assert reread_tokens(400_000, 8.0, TEXT.unique, RECIPE) == 50_000
        assert reread_tokens(400_000, 1.2, TEXT.unique, RECIPE) is None
        assert reread_tokens(400_000, 8.0, 60_000, RECIPE) is None  # le texte entier l'est déjà
        assert reread_tokens(1000, 8.0, TEXT.unique, RECIPE) == 8 * RECIPE.step_tokens

    def test_each_rung_weighs_about_double(self):
        sizes = [model_of(each, RECIPE, 2048).num_parameters() for each in LADDER]
        assert all(1.3 < b / a < 4 for a, b in itertools.pairwise(sizes))
