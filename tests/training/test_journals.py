"""Le journal : une ligne par fait, rien deux fois à la reprise, un disque plein toléré."""

import json
import math
import sys

import pytest

from gpt_architecture.errors import MissingDependencyError
from gpt_architecture.training.callbacks import EvaluationRecord, StepRecord
from gpt_architecture.training.checkpoint import TrainingState
from gpt_architecture.training.journals import JournalWriter, TensorBoardLog


class FakeTrainer:
    state = TrainingState(tokens=64)


def step(number, loss=2.0):
    return StepRecord(
        step=number,
        epoch=1,
        loss=loss,
        lr=0.1,
        grad_norm=0.5,
        tokens=32,
        seconds=0.5,
        skipped=False,
    )


def evaluation(number):
    return EvaluationRecord(step=number, epoch=1, train_loss=1.0, val_loss=2.0, is_best=True)


def run(path, state, steps):
    journal = JournalWriter(path, flops_per_token=10, peak_flops=1280.0)
    journal.on_start(state, 10)
    for number in steps:
        journal.on_step(step(number))
        if number % 2 == 0:
            journal.on_evaluation(evaluation(number), FakeTrainer)
    journal.on_end(state)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_line_per_fact(tmp_path):
    path = tmp_path / "journal.jsonl"
    run(path, TrainingState(), range(2))
    lines = read(path)
    assert [line["kind"] for line in lines] == ["start", "step", "evaluation", "step", "end"]
    first = lines[1]
    assert (first["loss"], first["lr"], first["grad_norm"]) == (2.0, 0.1, 0.5)
    assert first["tokens_per_second"] == 64.0
    assert first["peak_share"] == pytest.approx(0.5)
    assert lines[2]["tokens_seen"] == 64


def test_resume_keeps_no_step_twice(tmp_path):
    """Le point repris est l'étape 3 : les étapes 3 et 4 déjà notées s'effacent."""
    path = tmp_path / "journal.jsonl"
    run(path, TrainingState(), range(5))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "step": 5, "lo')  # tué au milieu d'une ligne
    run(path, TrainingState(step=3, eval_steps=[0]), range(3, 6))
    lines = read(path)
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(6))
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [0, 4]
    assert [line["step"] for line in lines if line["kind"] == "start"] == [0, 3]


def test_a_new_training_starts_a_new_journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text("autre chose\n", encoding="utf-8")
    run(path, TrainingState(), range(1))
    assert read(path)[0]["kind"] == "start"


def test_numbers_that_json_does_not_have(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = JournalWriter(path, flops_per_token=1, peak_flops=1.0)
    journal.on_start(TrainingState(), 1)
    journal.on_step(step(0, loss=math.nan))
    journal.on_end(TrainingState())
    assert read(path)[1]["loss"] == "nan"


class Capricious:
    """Un fichier dont le disque se remplit, puis se libère : la place à chaque écriture."""

    def __init__(self, file, rooms):
        self.file, self.rooms = file, iter(rooms)

    def write(self, content):
        room = next(self.rooms)
        if room == 0:
            raise OSError(28, "plein")
        return self.file.write(content[:room])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_disk_full_for_a_moment_loses_no_line(tmp_path, caplog):
    """Refus dit une fois ; les lignes attendent, l'évaluation les écrit, aucune n'est coupée."""
    path = tmp_path / "journal.jsonl"
    journal = JournalWriter(path, flops_per_token=1, peak_flops=1.0)
    journal.on_start(TrainingState(), 9)
    whole = 1 << 20
    journal._file = Capricious(journal._file, [whole, 0, 7, whole, 0, whole])
    journal.on_step(step(0))
    journal.on_step(step(1))  # refusée
    journal.on_step(step(2))  # attend, sans nouvel essai
    journal.on_evaluation(evaluation(2), FakeTrainer)  # écrite à moitié, donc retirée
    assert [line["kind"] for line in read(path)] == ["start", "step"]
    journal.on_evaluation(evaluation(3), FakeTrainer)
    journal.on_step(step(4))  # refusée de nouveau
    journal.on_end(TrainingState(step=5))
    facts = [(line["kind"], line["step"]) for line in read(path)]
    assert facts == [
        *[("start", 0), ("step", 0), ("step", 1), ("step", 2)],
        *[("evaluation", 2), ("evaluation", 3), ("step", 4), ("end", 5)],
    ]
    assert len(caplog.records) == 1
    assert "disque plein ; nouvel essai" in caplog.text


def test_a_disk_that_stays_full_is_said_once(tmp_path, caplog):
    """Jusqu'au bout, l'entraînement n'en est pas arrêté."""
    journal = JournalWriter(tmp_path / "journal.jsonl", flops_per_token=1, peak_flops=1.0)
    journal.on_start(TrainingState(), 9)
    journal._file = Capricious(journal._file, [0, 0, 0])
    journal.on_step(step(0))
    journal.on_evaluation(evaluation(0), FakeTrainer)
    journal.on_end(TrainingState(step=1))
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("ignore")  # ceux de tensorboard et de ses dépendances
def test_tensorboard(tmp_path):
    """Les mesures se relisent ; celles d'après le point repris sont remplacées."""
    pytest.importorskip("tensorboard", reason="tensorboard n'est pas installé")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for state, steps in ((TrainingState(), range(4)), (TrainingState(step=2), range(2, 5))):
        log = TensorBoardLog(tmp_path)
        log.on_start(state, 5)
        for number in steps:
            log.on_step(step(number, loss=float(number)))
        log.on_evaluation(evaluation(0), FakeTrainer)
        log.on_end(state)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scalars = events.Scalars("train/loss")
    assert [(event.step, event.value) for event in scalars] == [(n, float(n)) for n in range(5)]
    assert events.Scalars("eval/val_loss")[0].value == 2.0


def test_missing_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="pip install tensorboard"):
        TensorBoardLog(tmp_path)
