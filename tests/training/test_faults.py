"""Le docteur : chaque faute nommée d'après son effet, et le silence devant un entraînement sain."""

import math
from dataclasses import replace

import pytest
import torch
from page_helpers import read_cell

from gpt_architecture import train
from gpt_architecture.config import GPTConfig, OptimizerConfig, ScheduleConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.errors import DataError
from gpt_architecture.training.baselines import Baselines
from gpt_architecture.training.checkpoint import TrainingState
from gpt_architecture.training.diagnosis import Case, dead_units, step_losses
from gpt_architecture.training.faults import COURSE_RULES, DATA_RULES, check_targets, diagnose
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.preparation import prepare, request_of
from gpt_architecture.training.run import train_model
from gpt_architecture.training.session import Settings
from gpt_architecture.training.survey import Survey

BASELINES = Baselines(
    uniform=7.0, unigram=5.7, bigram=4.5, ngram=4.2, order=4, counted=100_000, total=100_000
)
SURVEY = Survey(
    baselines=BASELINES,
    learned=1.0,
    shift=1,
    overlap=0.01,
    extra_tokens=1.02,
    bytes_per_token=3.0,
    unknown=0.0,
    garbled=0.0,
    drift=0.1,
    order=0.2,
    transfer=0.8,
)
SETTINGS = Settings(
    model=GPTConfig(vocab_size=1024, context_length=64, emb_dim=64, n_heads=2, n_layers=2),
    window=64,
    device=torch.device("cpu"),
    prompt="a",
    training=TrainingConfig(batch_size=8, lr=2e-3, max_steps=200),
    schedule=ScheduleConfig(schedule="cosine", warmup_steps=10),
)


def falling(first=7.0, last=4.4, count=200):
    """Une perte qui descend, vite puis lentement."""
    return [last + (first - last) * math.exp(-4 * step / count) for step in range(count)]


def measured(train_losses, val_losses):
    steps = [20 * index for index in range(len(val_losses))]
    best = min(val_losses)
    return TrainingState(
        step=200,
        eval_steps=steps,
        train_losses=train_losses,
        val_losses=val_losses,
        best_loss=best,
        best_step=steps[val_losses.index(best)],
    )


GOOD = [7.0, 6.0, 5.5, 5.0, 4.7, 4.5]
HEALTHY = Case(
    settings=SETTINGS,
    survey=SURVEY,
    train_tokens=100_000,
    total_steps=200,
    losses=falling(),
    state=measured(GOOD, GOOD),
    dead=0.0,
)


def codes(case):
    return [each.code for each in diagnose(case)]


def with_settings(case=HEALTHY, *, training=None, **changed):
    settings = replace(case.settings, **changed)
    return replace(case, settings=replace(settings, training=training or settings.training))


def with_survey(**changed):
    return replace(HEALTHY, survey=replace(SURVEY, **changed))


def training(**changed):
    return replace(SETTINGS.training, **changed)


def test_nothing_is_said_of_a_healthy_training():
    assert codes(HEALTHY) == []
    assert codes(replace(HEALTHY, state=None, losses=(), dead=None)) == []


class TestData:
    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({"learned": 0.01}, "cibles-masquees"),
            ({"shift": 0}, "cibles-decalees"),
            ({"shift": 2}, "cibles-decalees"),
            ({"shift": -1}, "cibles-decalees"),
            ({"shift": None}, "cibles-decalees"),
            ({"overlap": 0.4}, "validation-vue"),
            ({"extra_tokens": 1.3}, "tokenizer"),
            ({"unknown": 0.05}, "tokenizer"),
            ({"garbled": 0.02}, "texte-mal-decode"),
            ({"drift": 1.5}, "validation-d-ailleurs"),
            ({"transfer": 0.1}, "validation-d-ailleurs"),
            ({"order": 0.01}, "texte-sans-suite"),
        ],
    )
    def test_a_fault_of_the_data_is_named_before_and_after(self, changed, code):
        case = with_survey(**changed)
        assert codes(case) == [code]
        assert codes(replace(case, state=None, losses=(), dead=None)) == [code]

    @pytest.mark.parametrize(
        "changed",
        [
            {"overlap": None, "extra_tokens": None},
            {"learned": 0.2},
            {"baselines": replace(BASELINES, counted=1000), "order": 0.01},
            {"order": 0.05, "transfer": 0.1},
        ],
    )
    def test_what_is_not_measured_or_too_small_says_nothing(self, changed):
        assert codes(with_survey(**changed)) == []

    def test_text_that_is_never_read(self):
        assert codes(with_settings(training=training(stride=640))) == ["texte-saute"]
        assert codes(with_settings(training=training(stride=32))) == []
        assert codes(with_settings(training=training(stride=65))) == []  # des conversations

    def test_a_rate_that_never_reaches_its_peak(self):
        schedule = ScheduleConfig(schedule="cosine", warmup_steps=150)
        assert codes(with_settings(schedule=schedule)) == ["echauffement-trop-long"]

    def test_nothing_to_learn_is_refused(self):
        check_targets(replace(SURVEY, learned=0.01))
        with pytest.raises(DataError, match="toutes sont masquées"):
            check_targets(replace(SURVEY, learned=0.0))


class TestCourse:
    def test_high_rate(self):
        stuck = [7.0] * 5 + [5.8] * 195
        high = with_settings(replace(HEALTHY, losses=stuck), training=training(lr=0.05))
        assert codes(high) == ["taux-trop-haut"]
        rising = falling(7.0, 5.0, 100) + falling(9.0, 6.8, 100)
        high = with_settings(replace(HEALTHY, losses=rising), training=training(lr=0.05))
        assert codes(high) == ["taux-trop-haut"]
        assert "`lr=0.05`" in str(diagnose(high)[0])

    def test_a_high_rate_that_works_is_not_a_fault(self):
        assert codes(with_settings(training=training(lr=0.05))) == []

    def test_a_usual_rate_is_not_blamed(self):
        stuck = [7.0] * 5 + [5.8] * 195
        assert "taux-trop-haut" not in codes(replace(HEALTHY, losses=stuck))

    def test_muon_has_its_own_rate(self):
        stuck = replace(HEALTHY, losses=[7.0] * 5 + [5.8] * 195)
        muon = OptimizerConfig(optimizer="muon", muon_lr=2.0)
        (found,) = diagnose(with_settings(stuck, optimizer=muon))
        assert found.code == "taux-trop-haut"
        assert "`muon_lr=2" in found.found
        assert "`muon_lr=0.02`" in found.remedy
        assert "`lr" not in str(found)  # celui d'AdamW est usuel
        high = training(lr=0.5)
        (found,) = diagnose(
            with_settings(stuck, optimizer=OptimizerConfig(optimizer="muon"), training=high)
        )
        assert "`lr=0.5`" in found.found
        assert "muon_lr" not in str(found)

    def test_both_low_rates_of_muon_are_named(self):
        slow = replace(HEALTHY, losses=falling(7.0, 6.5), state=measured([7.0, 6.6], [7.0, 6.6]))
        muon = OptimizerConfig(optimizer="muon", muon_lr=1e-4)
        (found,) = diagnose(with_settings(slow, optimizer=muon, training=training(lr=1e-5)))
        assert found.code == "taux-trop-bas"
        assert "`lr=0.001`" in found.remedy
        assert "`muon_lr=0.02`" in found.remedy

    def test_skipped_steps(self):
        state = replace(HEALTHY.state, skipped=3)
        high = with_settings(replace(HEALTHY, state=state), training=training(lr=0.05))
        assert codes(high) == ["taux-trop-haut"]

    def test_the_spike_of_a_missing_warmup(self):
        losses = [7.0, 7.2, 8.4, 8.0, 7.1, *falling()]
        none = with_settings(replace(HEALTHY, losses=losses), schedule=ScheduleConfig())
        assert codes(none) == ["sans-echauffement"]
        assert "étape 2" in str(diagnose(none)[0])
        assert codes(replace(HEALTHY, losses=losses)) == []  # il y en a une
        assert codes(with_settings(schedule=ScheduleConfig())) == []  # aucun pic

    def test_low_rate(self):
        slow = replace(HEALTHY, losses=falling(7.0, 6.5), state=measured([7.0, 6.6], [7.0, 6.6]))
        assert codes(with_settings(slow, training=training(lr=1e-5))) == ["taux-trop-bas"]
        assert codes(slow) == []  # un taux usuel, trop peu d'étapes : ce n'est pas lui

    @pytest.mark.parametrize(
        ("tokens", "code"), [(5_000, "texte-trop-petit"), (90_000, "trop-d-epoques")]
    )
    def test_overfitting(self, tokens, code):
        state = measured([7.0, 5.0, 3.0, 2.0, 1.0, 0.5], [7.0, 5.2, 4.8, 5.0, 5.4, 6.0])
        assert codes(replace(HEALTHY, state=state, train_tokens=tokens)) == [code]

    def test_noise_is_not_overfitting(self):
        state = measured([7.0, 5.0, 4.8, 4.7, 4.6], [7.0, 5.2, 4.80, 4.85, 4.83])
        assert codes(replace(HEALTHY, state=state, train_tokens=5_000)) == []

    def test_dead_units(self):
        assert codes(replace(HEALTHY, dead=0.25)) == ["unites-mortes"]

    def test_dropout(self):
        model = replace(SETTINGS.model, drop_rate=0.8)
        noisy = replace(HEALTHY, losses=falling(7.0, 5.4))
        assert codes(with_settings(noisy, model=model)) == ["dropout-trop-fort"]
        stuck = replace(HEALTHY, losses=[5.7] * 200, state=measured([7.0, 5.9], [7.0, 5.9]))
        assert codes(with_settings(stuck, model=model)) == ["dropout-trop-fort"]
        gentle = replace(SETTINGS.model, drop_rate=0.2)
        assert codes(with_settings(stuck, model=gentle)) == []
        assert codes(noisy) == []

    def test_weight_decay(self):
        high = replace(HEALTHY, state=measured([7.0, 5.6], [7.0, 5.6]))
        decay = training(weight_decay=20.0, lr=4e-3)
        assert codes(with_settings(high, training=decay)) == ["decroissance-trop-forte"]

    def test_each_rule_is_tried_here(self):
        """Une règle de plus demande un test de plus."""
        assert len(DATA_RULES) + len(COURSE_RULES) == 16


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (-1, "en retard de 1 token sur"),
        (-2, "en retard de 2 tokens sur"),
        (3, "en avance de 3 tokens sur"),
    ],
)
def test_a_shift_is_counted_without_a_sign(shift, words):
    (found,) = diagnose(with_survey(shift=shift))
    assert words in found.found.replace("\u00a0", " ")


class TestDeadUnits:
    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_the_share_is_that_of_the_units_put_out(self, share):
        torch.manual_seed(0)
        model = GPTModel(SETTINGS.model).train()
        with torch.no_grad():
            for block in model.trf_blocks:
                bias = block.ff.layers[0].bias
                bias[: int(share * len(bias))] = -30.0
        source = TokenArray(torch.randint(0, 1024, (500,)).numpy())
        assert dead_units(model, source, 64) == pytest.approx(share)
        assert model.training
        assert not any(each._forward_hooks for each in model.modules())


class TestJournal:
    def test_losses_are_read_back(self, tmp_path):
        path = tmp_path / "journal.jsonl"
        lines = [
            '{"kind": "step", "loss": 2.5}',
            '{"kind": "evaluation", "val_loss": 1}',
            '{"kind": "step", "loss": "nan"}',
            '{"kind": "step", "lo',
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
        first, second = step_losses(path)
        assert first == 2.5
        assert math.isnan(second)

    def test_an_unreadable_journal_says_nothing(self, tmp_path):
        assert step_losses(tmp_path / "absent.jsonl") == []
        (tmp_path / "odd.jsonl").write_text('{"kind": "step", "loss": []}', encoding="utf-8")
        assert step_losses(tmp_path / "odd.jsonl") == []


TINY = {
    **{"data": "la-lampe-du-passeur", "tokenizer": "bpe-400", "context_length": 32},
    **{"positions": 32, "emb_dim": 32, "n_heads": 2, "n_layers": 1, "drop_rate": 0.0},
    **{"batch_size": 8, "max_steps": 40, "eval_freq": 10, "engine": "autograd"},
    **{"warmup_steps": 4, "clip": 1.0, "lr": 4e-3, "progress": False},
}


@pytest.mark.slow
class TestTrainings:
    """Quelques-uns des entraînements de benchmarks/doctor.py, en petit."""

    def test_a_healthy_one(self, tmp_path):
        run = train(**TINY, output_dir=tmp_path)
        assert run.diagnosis == ()
        assert run.baselines.passed(run.state.eval_steps, run.state.val_losses) is not None
        assert run.model.metadata["diagnosis"] == []
        assert run.model.metadata["baselines"] == run.baselines.to_dict()
        events = [each["message"] for each in run._journal if each["kind"] == "event"]
        assert "unigramme" in " ".join(events)

    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({"lr": 1.0, "clip": None, "warmup_steps": 0}, "taux-trop-haut"),
            ({"lr": 1e-6}, "taux-trop-bas"),
            ({"warmup_steps": 500}, "echauffement-trop-long"),
            ({"drop_rate": 0.9}, "dropout-trop-fort"),
            ({"stride": 320}, "texte-saute"),
        ],
    )
    def test_a_planted_fault(self, tmp_path, changed, code):
        run = train(**{**TINY, **changed}, output_dir=tmp_path)
        assert code in [each.code for each in run.diagnosis]
        shown = " ".join(read_cell(run._repr_html_()).text.split())
        assert all(" ".join(each.found.split()) in shown for each in run.diagnosis)

    def test_targets_all_masked_are_refused_before_the_first_step(self, tmp_path):
        class Masked(TokenArray):
            def read_targets(self, start, length):
                return torch.full((length,), IGNORED)

            def count_learned(self, starts, window):
                return 0

        asked = {name: value for name, value in TINY.items() if name != "progress"}
        run = prepare(request_of({**asked, "output_dir": tmp_path / "m"}, Origins()))
        masked = Masked(run.data.train.read(0, 2000).numpy())
        run = replace(run, data=replace(run.data, train=masked))
        with pytest.raises(DataError, match="toutes sont masquées"):
            train_model(run)
        assert not (tmp_path / "m").exists()

    def test_a_doctor_that_fails_does_not_cost_the_model(self, tmp_path, monkeypatch, caplog):
        def broken(*_arguments):
            raise RuntimeError("mémoire insuffisante")

        monkeypatch.setattr("gpt_architecture.training.run.dead_units", broken)
        run = train(**{**TINY, "max_steps": 2, "warmup_steps": 0}, output_dir=tmp_path)
        assert run.complete
        assert run.path.is_file()
        assert run.diagnosis == ()
        assert "diagnostic non fait" in caplog.text

    @pytest.mark.parametrize("error", [ValueError, IndexError, ZeroDivisionError, MemoryError])
    def test_data_that_cannot_be_examined_are_learned_all_the_same(
        self, tmp_path, monkeypatch, caplog, error
    ):
        def broken(*_arguments):
            raise error("panne")

        monkeypatch.setattr("gpt_architecture.training.survey._overlap", broken)
        run = train(**{**TINY, "max_steps": 2, "warmup_steps": 0}, output_dir=tmp_path)
        assert run.complete
        assert run.path.is_file()
        assert "examen des données non fait" in caplog.text

    def test_damaged_data_are_still_refused(self, tmp_path, monkeypatch):
        def damaged(*_arguments):
            raise DataError("fragment abîmé", expected="le même", remedy="refaites-le")

        monkeypatch.setattr("gpt_architecture.training.survey._overlap", damaged)
        with pytest.raises(DataError, match="fragment abîmé"):
            train(**{**TINY, "max_steps": 2}, output_dir=tmp_path)

    def test_a_constant_text(self, tmp_path):
        (tmp_path / "a.txt").write_text("a" * 3000, encoding="utf-8")
        asked = {**TINY, "data": str(tmp_path / "a.txt"), "tokenizer": "char", "max_steps": 2}
        run = train(**{**asked, "warmup_steps": 0}, output_dir=tmp_path / "m")
        assert run.complete
        assert "validation-vue" in [each.code for each in run.diagnosis]

    def test_a_text_pasted_twice(self, tmp_path):
        from gpt_architecture.data.texts.corpus import load_corpus

        path = tmp_path / "double.txt"
        path.write_text(load_corpus(["la-lampe-du-passeur"]).text * 2, encoding="utf-8")
        brief = {**TINY, "data": str(path), "max_steps": 5, "warmup_steps": 1}
        run = train(**brief, output_dir=tmp_path / "m")
        assert [each.code for each in run.diagnosis] == ["validation-vue"]
