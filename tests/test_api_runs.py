"""Un entraînement en Python : son histoire, ses courbes, sa reprise, son interruption."""

import _thread
import json
import logging
import signal
import threading

import pytest
from cli_helpers import TINY
from page_helpers import read_cell

from gpt_architecture import Run, train
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.training.callbacks import Callback

SETTINGS = {name.replace("-", "_"): value for name, value in TINY.items()}
SETTINGS |= {"max_steps": 4, "eval_freq": 2, "engine": "autograd"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(**SETTINGS, output_dir=tmp_path_factory.mktemp("entraine") / "m")


class TestRun:
    def test_what_it_holds(self, run):
        assert isinstance(run, Run)
        assert run.complete
        assert run.path == run.output_dir / "gpt-model.pt"
        assert run.model.generate("La lampe", max_tokens=2).startswith("La lampe")
        model, state = run
        assert (model, state) == (run.model, run.state)

    def test_history_is_that_of_the_file(self, run):
        metadata = run.model.metadata
        assert run.history["val_loss"] == metadata["val_losses"]
        assert run.history["train_loss"] == metadata["train_losses"]
        assert run.history["tokens"] == metadata["tokens_seen"]
        assert run.history["step"] == metadata["eval_steps"] == [0, 2, 3]
        assert run.history["epoch"] == pytest.approx(
            [(step + 1) / run.steps_per_epoch for step in (0, 2, 3)]
        )

    def test_steps_and_samples_are_those_of_the_journal(self, run):
        text = (run.output_dir / JOURNAL).read_text("utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        steps = [each for each in lines if each["kind"] == "step"]
        assert run.steps["loss"] == [each["loss"] for each in steps]
        assert run.steps["step"] == [0, 1, 2, 3]
        assert run.samples == [each["text"] for each in lines if each["kind"] == "sample"] != []

    def test_a_lost_journal_loses_only_that(self, run):
        lost = Run(**{**vars_of(run), "output_dir": run.output_dir / "ailleurs"})
        assert (len(lost.steps), lost.samples) == (0, [])
        assert "svg" in read_cell(lost._repr_html_()).tags

    def test_plot(self, run, tmp_path):
        pytest.importorskip("matplotlib", reason="matplotlib n'est pas installé")
        figure = run.plot(tmp_path / "courbes.svg")
        assert (tmp_path / "courbes.svg").read_text("utf-8").count("<svg") == 1
        (losses, _, *levels) = figure.axes[0].lines
        assert list(losses.get_ydata()) == run.history["train_loss"]
        shown = {
            each.get_text(): line.get_ydata()[0]
            for each, line in zip(figure.axes[0].texts, levels, strict=True)
        }
        assert shown == run.baselines.levels

    def test_card(self, run):
        reader = read_cell(run._repr_html_())
        assert "svg" in reader.tags
        for word in ("Entraînement terminé", "perte de validation", "lot", str(run.path)):
            assert word in reader.text
        assert repr(run).startswith("Run(entraînement terminé")


def vars_of(run):
    names = ("model", "state", "path", "output_dir", "complete", "steps_per_epoch")
    return {name: getattr(run, name) for name in names}


@pytest.mark.slow
class TestStops:
    def test_resume_takes_the_run_itself(self, run, tmp_path):
        straight = train(**{**SETTINGS, "max_steps": 6}, output_dir=tmp_path / "a")
        begun = train(**SETTINGS, output_dir=tmp_path / "b", should_stop=at_step(3))
        assert not begun.complete
        assert "train(resume=run)" in begun._repr_html_()
        ended = train(resume=begun, max_steps=6)
        assert ended.complete
        assert ended.history["val_loss"][-1] == pytest.approx(straight.history["val_loss"][-1])

    def test_start_takes_the_run_too(self, run, tmp_path):
        tuned = train(
            "la-lampe-du-passeur",
            start=run,
            **{"max_steps": 1, "context_length": 32, "engine": "autograd"},
            output_dir=tmp_path,
        )
        assert tuned.model.config == run.model.config

    def test_an_interruption_saves_and_gives_the_hand_back(self, tmp_path):
        """Ctrl-C, ou l'arrêt du noyau d'un carnet."""

        class Interrupt(Callback):
            def on_step(self, record):
                if record.step == 1:
                    _thread.interrupt_main()

        stopped = train(**SETTINGS, output_dir=tmp_path, callbacks=[Interrupt()])
        assert not stopped.complete
        assert stopped.state.step == 2
        assert stopped.path == tmp_path / "checkpoints" / "step-000002"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert train(resume=stopped).complete

    def test_what_happens_is_told_where_a_bar_is_shown(self, tmp_path, capsys):
        class Remark(Callback):
            def on_evaluation(self, record, trainer):
                trainer.announce("une remarque")

        for progress in (True, False):
            train(**SETTINGS, output_dir=tmp_path / str(progress), progress=progress,
                  callbacks=[Remark()])  # fmt: skip
            assert ("une remarque" in capsys.readouterr().err) is progress

    def test_a_second_interruption_quits(self, tmp_path):
        class Interrupt(Callback):
            def on_step(self, record):
                _thread.interrupt_main()
                _thread.interrupt_main()

        class Twice(Interrupt):
            def on_step(self, record):
                super().on_step(record)
                super().on_step(record)

        with pytest.raises(KeyboardInterrupt):
            train(**SETTINGS, output_dir=tmp_path, callbacks=[Twice()])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_another_thread_trains_too(self, tmp_path):
        found = []
        thread = threading.Thread(
            target=lambda: found.append(train(**SETTINGS, output_dir=tmp_path))
        )
        thread.start()
        thread.join()
        assert found[0].complete

    def test_a_callback_of_the_caller_is_heard(self, tmp_path):
        class Count(Callback):
            steps = 0

            def on_step(self, record):
                self.steps += 1

        count = Count()
        train(**SETTINGS, output_dir=tmp_path, callbacks=[count])
        assert count.steps == 4


def at_step(wanted):
    """Demande l'arrêt après tant de questions : au moins une par étape."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= wanted


def test_presets_and_resume_exclude_each_other(run):
    with pytest.raises(ConfigurationError, match="`preset`"):
        train(preset="petit", resume=run)
    with pytest.raises(ConfigurationError, match="préréglage inconnu : minus"):
        train(preset="minus")


def test_nothing_is_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("gpt_architecture"), "handlers", [])
    train(**{**SETTINGS, "max_steps": 1}, output_dir=tmp_path)
    assert capsys.readouterr() == ("", "")
