"""Les repères d'une perte : leur calcul, ce qu'on en dit, et ce qu'ils ne changent pas."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from gpt_architecture.reports.training import loss_verdict
from gpt_architecture.training.baselines import BaselineNotice, Baselines, measure_baselines
from gpt_architecture.training.callbacks import EvaluationRecord
from gpt_architecture.training.checkpoint import TrainingState

KNOWN = Baselines(uniform=6.0, unigram=5.0, bigram=4.0, ngram=3.5, order=4, counted=100, total=100)


def test_the_four_losses_of_a_text_known_by_hand():
    """a b a b a b… : les fréquences hésitent entre deux tokens, le bigramme n'hésite pas."""
    text = np.tile([0, 1], 500)
    everything = np.ones(text.size, bool)
    rows = np.tile([0, 1], 10)[None]
    judged = np.ones((1, rows.size - 1), bool)
    found = measure_baselines([(text, everything)], rows, judged, vocab_size=8, total=1000)
    assert found.uniform == pytest.approx(math.log(8))
    assert found.unigram == pytest.approx(math.log(2), abs=0.01)
    assert found.bigram < 0.01
    assert found.ngram < 0.05
    assert (found.counted, found.total, found.order) == (1000, 1000, 4)
    assert list(found.levels) == ["uniforme", "unigramme", "bigramme", "4-gramme"]


def test_only_judged_targets_count():
    text, rows = np.tile([0, 1], 500), np.array([[0, 1, 7, 7, 7]])
    judged = np.array([[True, False, False, False]])
    found = measure_baselines(
        [(text, np.ones(text.size, bool))], rows, judged, vocab_size=8, total=1000
    )
    assert found.bigram < 0.01


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([6.5, 6.2], None),
        ([6.5, 5.5, 5.2], ("uniforme", 6.0, 10)),
        ([6.5, 4.5, 5.2, 4.9], ("unigramme", 5.0, 30)),
        ([6.5, 4.5, 3.9, 3.6], ("bigramme", 4.0, 20)),
        ([3.0, 2.9], ("4-gramme", 3.5, 0)),
        ([], None),
    ],
)
def test_since_when_the_validation_is_below(losses, expected):
    """Une remontée au-dessus d'un repère recommence le compte."""
    assert KNOWN.passed(range(0, 10 * len(losses), 10), losses) == expected


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([6.5, 3.9], ("en dessous du repère bigramme (4,00) depuis l'étape 10", "3,50")),
        ([3.0], ("en dessous du repère 4-gramme (3,50) depuis le début.",)),
        ([7.0], ("(7,00) est au-dessus de celle du hasard (6,00)",)),
    ],
)
def test_the_sentence(losses, words):
    state = TrainingState(eval_steps=list(range(0, 10 * len(losses), 10)), val_losses=losses)
    sentence = loss_verdict(KNOWN, state)
    assert all(word in sentence for word in words), sentence


def test_no_sentence_without_a_measure():
    assert loss_verdict(KNOWN, TrainingState()) is None
    assert loss_verdict(KNOWN, TrainingState(eval_steps=[0], val_losses=[math.nan])) is None


def test_written_and_read_back():
    assert Baselines.from_dict(KNOWN.to_dict()) == KNOWN
    for odd in (None, [], {}, {**KNOWN.to_dict(), "bigram": "nan"}, {"order": 4}):
        assert Baselines.from_dict(odd) is None


def test_each_baseline_is_announced_once_when_passed():
    state, said = TrainingState(), []
    trainer = SimpleNamespace(state=state, announce=said.append)
    notice = BaselineNotice(KNOWN)
    for step, loss in enumerate([6.5, 5.5, 4.9, 5.1, 4.8, 3.4]):
        state.val_losses.append(loss)
        notice.on_evaluation(
            EvaluationRecord(step=step, epoch=1, train_loss=1.0, val_loss=loss, is_best=True),
            trainer,
        )
    assert said == [
        "La validation passe sous le repère unigramme (5,00).",
        "La validation passe sous le repère 4-gramme (3,50).",
    ]
