"""Le déroulement d'un plan, dans un laboratoire où la loi est connue d'avance."""

import io
import json
import math
import tomllib
from dataclasses import replace

import pytest
from rich.console import Console
from shard_helpers import write_folder

from gpt_architecture import plan
from gpt_architecture.api.plans import Plan
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.reports.plan import show_plan
from gpt_architecture.training import planner
from gpt_architecture.training.costs import StepCost
from gpt_architecture.training.experiments import (
    EPOCHS,
    LADDER,
    MATURE,
    MIN_STEPS,
    TextSize,
    Trial,
    mature_steps,
    model_of,
    preferred,
    useful,
)
from gpt_architecture.training.planner import make_plan
from gpt_architecture.training.planning import Pace, check_budget
from gpt_architecture.training.scaling import MIN_RUNS, LossLaw
from gpt_architecture.training.trials import Memory, Recipe

LAW = LossLaw(floor=0.8, size=25.0, data=40.0, alpha=0.3, beta=0.28, excess=0.03, kappa=0.3)
PACE = Pace(cost=StepCost(rates=(4e-12, 8e-12, 1e-10, 5e-3), error=0.0), evaluated=9e3, sample=0.02)
LIKED = {"bpe-1024": 0.05, "bpe-2048": 0.0, "bpe-4096": 0.03}


class KnownLaboratory:
    """Un laboratoire fabriqué : chaque perte est celle de `LAW`, selon la recette."""

    fixed_tokenizer = None
    spent = 0.0

    def __init__(self, unique=1_500_000, diverges_at=math.inf, law=LAW):
        self.unique, self.diverges_at, self.law, self.asked = unique, diverges_at, law, []
        self.validation, self.kept = 150_000, False

    def text(self, tokenizer):
        return TextSize(vocab_size=2048, unique=self.unique, validation=self.validation)

    def knows(self, recipe, body, lengths, unique):
        return self.kept

    def nats(self, recipe):
        return 2.5

    def memory(self, tokenizer):
        assert not self.asked  # un essai d'abord en ajouterait
        return Memory(resident=300 << 20, peak=400 << 20)

    def time(self, recipe, body, *, sustained=None):
        self.sustained = sustained
        return PACE.of(body, recipe, 2048)

    def startup(self, tokenizer):
        return 10.0

    def losses(self, recipe, body, lengths, unique):
        self.asked.append((recipe, body, tuple(lengths), unique))
        worse = 1 + LIKED.get(recipe.tokenizer, 0.0) + 0.02 * abs(math.log2(recipe.lr_scale / 2))
        worse += 0.01 * abs(math.log2(recipe.window / 256))
        if recipe.lr_scale >= self.diverges_at:
            worse = math.inf
        size = model_of(body, recipe, 2048).num_parameters()
        return {s: worse * self.law.loss(size, s * recipe.step_tokens, unique) for s in lengths}


def planned(lab=None, hours=1.0, **options):
    return make_plan(lab or KnownLaboratory(), hours=hours, octets=4_500_000, **options)


def test_the_best_recipe_is_found():
    best = planned().measures.recipe
    assert (best.tokenizer, best.window, best.lr_scale) == ("bpe-2048", 256, 2.0)


def test_a_longer_training_has_a_smaller_rate():
    """Quatre fois plus petit pour soixante-seize fois plus d'étapes (Bjorck et al., 2024)."""
    lab, said = KnownLaboratory(unique=10**9), []
    plan = planned(lab, hours=4.0, tell=said.append)
    rates = {steps[-1] for recipe, _, steps, _ in lab.asked if recipe.lr_scale == 0.5}
    (rated,) = rates
    assert plan.best.steps > 4 * rated
    expected = 2.0 * (rated / plan.best.steps) ** 0.32
    assert plan.best.recipe.lr_scale == pytest.approx(expected, rel=0.05)
    assert replace(plan.best.recipe, lr_scale=2.0) == plan.measures.recipe
    (line,) = [line for line in said if "étapes → " in line]
    assert f"× 2 à {rated} étapes → " in line


def test_a_rate_never_compared_is_kept():
    late = KnownLaboratory()
    late.spent = 1e4
    assert planned(late).best.recipe.lr_scale == 1.0


def test_the_loss_announced_is_the_law_s():
    """Loin des essais, six fois leur durée : à 3 % près, et dans l'intervalle."""
    for hours in (0.2, 1.0):
        plan = planned(hours=hours)
        best = plan.best
        true = LAW.loss(best.parameters, best.tokens, 1_500_000)
        assert best.loss == pytest.approx(true, rel=0.03)
        assert best.low < true < best.high


def test_the_choice_is_near_the_best_of_the_ladder():
    plan = planned()
    lowest = math.inf
    for each in (plan.best, *plan.alternatives):
        lowest = min(lowest, LAW.loss(each.parameters, each.tokens, 1_500_000))
    assert LAW.loss(plan.best.parameters, plan.best.tokens, 1_500_000) <= lowest * 1.01
    assert {each.body for each in plan.alternatives} <= set(LADDER)


def test_the_time_announced_fills_the_hours():
    """Un texte assez long ne s'épuise pas : tout le temps donné sert."""
    lab = KnownLaboratory(unique=10**9)
    best = planned(lab).best
    assert lab.sustained == pytest.approx(0.06 * 360)  # la durée du choix se mesure longtemps
    assert best.seconds == pytest.approx(3600, rel=0.02)
    assert best.epochs < 1


@pytest.mark.parametrize("unique", [30_000, 300_000])
@pytest.mark.parametrize("hours", [4.0, 24.0])
def test_a_plan_is_as_good_as_its_trials(unique, hours):
    """Un texte court pour ses heures : une durée courte, puisqu'un essai y a fait mieux."""
    plan = planned(KnownLaboratory(unique=unique), hours=hours)
    assert plan.best.loss <= 1.03 * min(each.loss for each in plan.trials)


def test_chains_all_beyond_their_best_still_give_a_law():
    """Chaque chaîne empire dès sa deuxième durée : assez d'essais restent pour conclure."""
    law = replace(LAW, excess=0.3)
    plan = planned(KnownLaboratory(unique=3000, law=law), hours=24.0)
    assert plan.best.loss <= 1.03 * min(each.loss for each in plan.trials)
    assert len(plan.measures.law.runs) == MIN_RUNS


def test_trials_do_not_reread_for_nothing():
    lab = KnownLaboratory(unique=30_000)
    recipe = planned(lab, hours=24.0, minutes=200).measures.recipe
    chains = [lengths for each, _, lengths, _ in lab.asked if each == recipe and len(lengths) > 2]
    most = max(4 * MIN_STEPS, EPOCHS * 30_000 / recipe.step_tokens)
    assert chains
    assert all(lengths[-1] <= most for lengths in chains)


def test_trials_stay_within_their_minutes():
    lab = KnownLaboratory()
    planned(lab, hours=2.0, minutes=5)
    spent = sum(
        1.2 * lengths[-1] * PACE.of(body, recipe, 2048).step
        for recipe, body, lengths, _ in set(lab.asked)  # le laboratoire n'en refait aucun
    )
    assert 60 < spent < 1.25 * 300  # la seconde approche, la plus rare, comprise


def test_the_choice_and_its_rival_are_tried_longer():
    """Les deux séries qui approchent la fin : deux tailles, plus longues qu'aucune d'avant."""
    lab = KnownLaboratory(unique=10**8)
    plan = planned(lab, hours=0.3)
    best, recipe = plan.best, plan.measures.recipe
    chains = [(body, lengths[-1]) for each, body, lengths, _ in lab.asked if each == recipe]
    *before, (first, longest), (rival, length) = chains
    assert rival != first
    assert best.body in (first, rival)
    for body, steps in ((first, longest), (rival, length)):
        assert steps > max((each for tried, each in before if tried == body), default=MATURE)


def test_a_choice_slower_than_expected_gives_way():
    """Sa durée, mesurée, est le triple de celle de la loi de coût : la suivante la remplace."""

    class SlowLaboratory(KnownLaboratory):
        def time(self, recipe, body, *, sustained=None):
            found = super().time(recipe, body, sustained=sustained)
            if sustained is None or body != usual.body:
                return found
            return replace(found, step=3 * found.step)

    usual = planned(KnownLaboratory(unique=10**8), hours=0.3).best
    found = planned(SlowLaboratory(unique=10**8), hours=0.3)
    assert found.best.body != usual.body
    assert found.best.measured
    slow = next(each for each in found.alternatives if each.body == usual.body)
    assert slow.steps < usual.steps / 2
    assert found.best.loss < slow.loss


@pytest.mark.parametrize("slower", [1.3, 2.0])
def test_a_machine_slower_than_its_probes_is_believed(slower):
    """Toutes les formes ralentissent : la durée annoncée est celle d'étapes mesurées."""

    class TiredLaboratory(KnownLaboratory):
        def time(self, recipe, body, *, sustained=None):
            found = super().time(recipe, body, sustained=sustained)
            return found if sustained is None else replace(found, step=slower * found.step)

    for hours in (0.2, 1.0, 4.0):
        best = planned(TiredLaboratory(unique=10**8), hours=hours).best
        step = slower * PACE.of(best.body, best.recipe, 2048).step
        assert best.measured
        assert best.steps * step < 3600 * hours


@pytest.mark.parametrize("unique", [1_500_000, 10**8])
@pytest.mark.parametrize("hours", [0.3, 1.0, 4.0])
def test_a_rival_is_tried_or_said_left_out(unique, hours):
    """Trop grande pour ses minutes, la rivale cède à la suivante ; aucune : c'est dit."""
    lab, said = KnownLaboratory(unique=unique), []
    recipe = planned(lab, hours=hours, tell=said.append).measures.recipe
    long = [(body, steps[-1]) for each, body, steps, part in lab.asked if each == recipe]
    assert all(steps >= mature_steps(recipe, unique) for _, steps in long[-2:])
    told = any("celui de sa rivale" in line for line in said)
    assert told or long[-1][0] != long[-2][0]


def test_late_trials_are_cut_short():
    """Les minutes dépassées, seuls restent les essais sans lesquels rien ne s'ajuste."""
    on_time, late = KnownLaboratory(), KnownLaboratory()
    late.spent = 1e4
    planned(on_time)
    best = planned(late).best
    assert len(late.asked) < len(on_time.asked) / 2
    assert math.isfinite(best.loss)


def test_trials_kept_by_a_plan_before_are_used_however_late():
    """Une série gardée ne coûte rien : la plus grande taille et les deux approchées reviennent."""
    on_time, late, said = KnownLaboratory(), KnownLaboratory(), []
    late.spent, late.kept = 1e4, True
    recipe = planned(late, tell=said.append).measures.recipe
    planned(on_time)
    assert len({body for each, body, *_ in late.asked if each == recipe}) >= 4
    assert not any("la plus grande taille" in line for line in said)


def test_a_law_of_first_steps_only_is_doubted():
    """Il a fallu la compléter d'essais de moins de 200 étapes : l'intervalle s'ouvre."""
    least, noise = [], []
    for minutes in (0.1, 6.0):
        measures = planned(minutes=minutes).measures
        tokens = min(run.tokens for run in measures.law.runs)
        least.append(tokens / measures.recipe.step_tokens)
        noise.append(measures.law.noise)
    assert least[0] < MATURE <= least[1]
    assert noise[0] > 0.03 > noise[1]


class TestValidation:
    def test_windows_fit_in_it(self):
        """Trop courte pour le contexte préféré : un plus court, et c'est dit."""
        lab, said = KnownLaboratory(), []
        lab.validation = 221
        best = planned(lab, tell=said.append).best.recipe
        assert best.window == 64
        assert all(2 * recipe.window < 221 for recipe, *_ in lab.asked)
        assert any("La validation n'a que 221 tokens" in line for line in said)

    def test_a_few_tokens_are_refused_first(self):
        lab = KnownLaboratory()
        lab.validation = 32
        with pytest.raises(DataError, match=r"part de validation : .*32 tokens"):
            planned(lab)
        assert not lab.asked

    def test_enough_is_not_said(self):
        said = []
        planned(tell=said.append)
        assert not any("validation" in line.lower() for line in said)


def test_the_same_measures_give_the_same_plan():
    assert planned() == planned()


def test_a_rate_that_diverges_is_left_aside():
    plan = planned(KnownLaboratory(diverges_at=2.0))
    assert plan.measures.recipe.lr_scale == 1.0
    assert math.isfinite(plan.best.loss)


def test_what_is_done_is_said_beforehand():
    said = []
    planned(tell=said.append)
    assert said[0].startswith("Essais prévus, en 6 min 00 s environ")
    assert any("bpe-2048" in line and "→" in line for line in said)
    assert not any("contextes, lots et taux, qui" in line for line in said)


def test_what_is_left_out_is_said_once():
    """Aucune minute de trop : ce qui ne sera pas comparé est dit, une seule fois."""
    lab, said = KnownLaboratory(unique=3_000_000), []
    lab.spent = 1e4
    planned(lab, hours=24.0, tell=said.append)
    (left,) = [line for line in said if "faute de minutes" in line]
    assert left.startswith("Laissé de côté, faute de minutes : contextes, lots et taux, qui sont")
    assert "la plus grande taille" in left
    assert any(unique < 3_000_000 for *_, unique in lab.asked)  # la part relue, elle, est essayée


def test_a_given_vocabulary_is_kept():
    lab = KnownLaboratory()
    assert planned(lab, tokenizer="bpe-4096").best.recipe.tokenizer == "bpe-4096"
    assert {recipe.tokenizer for recipe, *_ in lab.asked} == {"bpe-4096"}


def test_a_given_vocabulary_is_said():
    said = []
    planned(tokenizer="bpe-4096", tell=said.append)
    assert "recettes (contexte, lot, taux d'apprentissage)" in said[0]
    assert said[1].startswith("Vocabulaire imposé : bpe-4096, 2 048 tokens")


class TestRefusals:
    def test_a_text_too_short(self):
        with pytest.raises(DataError, match="texte trop court, 900 tokens"):
            planned(KnownLaboratory(unique=900))

    @pytest.mark.parametrize("hours", [0.0, -1.0, math.nan, math.inf, 1e9])
    def test_hours_without_sense(self, hours):
        with pytest.raises(ConfigurationError, match="hours"):
            check_budget(hours, None)

    @pytest.mark.parametrize("minutes", [0.0, -3.0, math.nan])
    def test_minutes_without_sense(self, minutes):
        with pytest.raises(ConfigurationError, match="minutes"):
            check_budget(1.0, minutes)

    def test_hours_too_few_for_any_model(self):
        with pytest.raises(ConfigurationError, match="de quoi faire 60 étapes"):
            planned(hours=0.003)


def test_minutes_are_a_tenth_of_the_hours():
    assert [check_budget(hours, None) for hours in (0.01, 1.0, 100.0)] == [4.0, 6.0, 24.0]
    assert check_budget(1.0, 3.5) == 3.5


def test_options_as_good_as_the_best_keep_their_order():
    assert preferred([("a", 2.005), ("b", 2.0), ("c", 1.9999)], 0.004) == "a"
    assert preferred([("a", 2.1), ("b", 2.0)], 0.004) == "b"
    assert preferred([("a", math.inf), ("b", math.inf)], 0.004) == "a"


def test_trials_that_reread_far_too_much_are_left_aside():
    recipe = Recipe(tokenizer="char", window=64, batch_size=4)
    losses = {40: 3.0, 80: 2.5, 160: 2.6, 320: 3.2, 640: math.inf}
    trials = [
        Trial(recipe=recipe, body=LADDER[0], steps=steps, unique=5000, loss=loss)
        for steps, loss in losses.items()
    ]
    assert [each.steps for each in useful(trials)] == [40, 80, 160]
    kept = [each.steps for each in useful(trials, least=6)]
    assert kept == [40, 80, 160, 320]  # le moins mauvais des autres ; l'infini jamais


def test_trials_too_young_for_the_law_only_fill_in():
    """La perte tombe d'abord plus vite que la loi : les premières étapes n'en disent rien."""
    recipe = Recipe(tokenizer="char", window=64, batch_size=4)
    trials = [
        Trial(recipe=recipe, body=LADDER[0], steps=steps, unique=5000, loss=3.0 - steps / 1000)
        for steps in (50, 100, 200, 400)
    ]
    assert [each.steps for each in useful(trials, mature=200)] == [200, 400]
    assert [each.steps for each in useful(trials, mature=200, least=3)] == [200, 400, 100]
    assert mature_steps(recipe, 1_000_000) == MATURE
    assert mature_steps(recipe, 6400) == 100  # seize époques font 400 étapes


@pytest.mark.parametrize(
    ("times", "share", "why"),
    [
        (0.5, 0.995, ", plus petite : une grande taille accélère parfois"),
        (2.0, 0.995, ", qu'aucun essai n'approche d'assez près"),
        (0.5, 1.0, None),
    ],
)
def test_why_a_lower_loss_is_not_chosen(times, share, why):
    """Le tableau montre alors une perte plus basse que celle du choix : une phrase dit pourquoi."""
    plan, screen = planned(), io.StringIO()
    other = replace(
        plan.best,
        body=LADDER[0],
        parameters=int(times * plan.best.parameters),
        loss=share * plan.best.loss,
    )
    show_plan(Console(file=screen, width=120), replace(plan, alternatives=(other,)), {})
    shown = screen.getvalue()
    if why is None:
        assert "se valent" not in shown
    else:
        assert f"se valent : {plan.best.body} passe devant {LADDER[0]}{why}" in shown


class TestRecord:
    def plan(self, **settings):
        return Plan(decision=planned(KnownLaboratory(diverges_at=2.0)), settings=settings)

    def test_a_trial_that_diverged_has_no_loss(self):
        found = self.plan()
        assert not all(math.isfinite(each.loss) for each in found.decision.trials)
        record = json.loads(json.dumps(found.record, allow_nan=False))
        assert None in [each["loss"] for each in record["trials"]]

    def test_settings_are_read_back(self):
        settings = {"data": ['/a\x7f"\\é\n.txt'], "lr": 0.002, "tie_weights": True}
        assert tomllib.loads(self.plan(**settings).to_toml())["train"] == settings

    @pytest.mark.parametrize("shards", [True, False])
    def test_settings_of_shards_say_nothing_of_the_text(self, tmp_path, monkeypatch, shards):
        """Des fragments ont leur vocabulaire et leur validation ; un texte dit les siens."""
        own = get_tokenizer("char", text="abcd")
        ids, source = own.encode("abcd" * 900), tmp_path / "d"
        asked = {"train_ratio": 0.5, "skip_bad": True, "field": "texte"}
        if shards:
            parts = {"train": [ids], "val": [ids]}
            write_folder(source, parts, vocab_size=own.vocab_size, tokenizer=own.to_dict())
        else:
            source.write_text("abcd" * 900, encoding="utf-8")

        def fake(lab, **_):
            return planned(tokenizer=lab.fixed_tokenizer or "char")

        monkeypatch.setattr(planner, "make_plan", fake)
        for name, value in asked.items() if shards else ():
            with pytest.raises(ConfigurationError, match=f"`{name}` est donné, et .*fragments"):
                plan(source, 1.0, progress=False, **{name: value})
        found = plan(source, 1.0, device="cpu", progress=False, **({} if shards else asked))
        said = {"tokenizer", *asked} & set(found.settings)
        assert len(said) == (0 if shards else 4)
