"""Les courbes de perte : du journal, du modèle, et de ce qui les abîme."""

import json

import pytest

from gpt_architecture.errors import DataError
from gpt_architecture.reports.curves import (
    LossCurves,
    curves_from_journal,
    curves_from_metadata,
    curves_of,
    loss_chart,
    thinned,
)


def journal(tmp_path, *lines):
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def line(kind, **values):
    return json.dumps({"kind": kind, **values})


def test_a_journal(tmp_path):
    path = journal(
        tmp_path,
        line("start", step=0, total_steps=2),
        line("step", step=0, loss=3.0, tokens=10),
        line("evaluation", step=0, train_loss=2.5, val_loss=2.75, tokens_seen=10),
        line("step", step=1, loss=2.0, tokens=10),
        line("evaluation", step=1, train_loss=1.5, val_loss=2.9, tokens_seen=20),
        line("end", step=2),
    )
    found = curves_from_journal(path)
    assert found.steps == ((10, 3.0), (20, 2.0))
    assert found.train == ((10, 2.5), (20, 1.5))
    assert found.validation == ((10, 2.75), (20, 2.9))
    assert found.best == (10, 2.75)


BASELINES = {
    **{"uniform": 6.0, "unigram": 5.0, "bigram": 4.0, "ngram": 3.5},
    **{"order": 4, "counted": 100, "total": 100},
}


def test_baselines_cross_the_whole_chart(tmp_path):
    """Ceux du modèle, que les courbes viennent de lui ou du journal voisin."""
    kept = {"tokens_seen": [10, 20], "train_losses": [6.1, 4.5], "val_losses": [6.2, 4.6]}
    kept["baselines"] = BASELINES
    lines = [
        line("evaluation", step=step, train_loss=train, val_loss=val, tokens_seen=seen)
        for step, (seen, train, val) in enumerate([(10, 6.1, 6.2), (20, 4.5, 4.6)])
    ]
    for path in (tmp_path / "absent" / "m.pt", journal(tmp_path, *lines).with_name("m.pt")):
        curves = curves_of(path, kept)
        assert list(curves.levels.values()) == [6.0, 5.0, 4.0, 3.5]
        strokes = {each.label: each for each in loss_chart(curves, 400, 300).strokes}
        (left, height), (right, same) = strokes["bigramme"].points
        assert (strokes["bigramme"].style, height) == ("level", same)
        assert left < strokes["validation"].points[0][0]
        assert right == strokes["validation"].points[-1][0]


def test_odd_baselines_are_ignored():
    for odd in (None, [], {**BASELINES, "bigram": "x"}, {"order": 4}):
        assert curves_from_metadata({"baselines": odd}).levels == {}


def test_a_resumed_journal_goes_on_from_the_tokens_already_seen(tmp_path):
    path = journal(
        tmp_path,
        line("evaluation", step=4, train_loss=2.5, val_loss=2.75, tokens_seen=50),
        line("step", step=5, loss=2.0, tokens=10),
    )
    assert curves_from_journal(path).steps == ((60, 2.0),)


def test_damaged_lines_are_ignored(tmp_path):
    path = journal(
        tmp_path,
        "{",
        "[1, 2]",
        "[" * 100_000,
        line("step", step=0, loss="NaN", tokens=10),
        line("step", step=1, loss=True, tokens=10),
        line("step", step=2, loss=10**400, tokens=10),
        line("step", step=3, loss=1.5, tokens=10),
        line("evaluation", step=3),
    )
    assert curves_from_journal(path) == LossCurves(steps=((40, 1.5),))


def test_an_absent_journal(tmp_path):
    with pytest.raises(DataError, match="absent"):
        curves_from_journal(tmp_path / "rien.jsonl")


def test_a_huge_journal(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt_architecture.reports.curves.MAX_JOURNAL_BYTES", 3)
    with pytest.raises(DataError, match="au plus"):
        curves_from_journal(journal(tmp_path, line("step", loss=1.0)))


@pytest.mark.parametrize(
    "metadata", [{}, {"tokens_seen": "dix", "val_losses": 3}, {"val_losses": [1.0]}]
)
def test_nothing_to_draw(metadata):
    found = curves_from_metadata(metadata)
    assert found.is_empty
    assert found.best is None


def test_metadata():
    metadata = {"tokens_seen": [5, 10], "train_losses": [3.0, 2.0], "val_losses": [3.5, None]}
    found = curves_from_metadata(metadata)
    assert found.train == ((5, 3.0), (10, 2.0))
    assert found.validation == ((5, 3.5),)
    assert not found.is_empty


def test_thinning_keeps_the_mean():
    points = tuple((float(i), float(i % 2)) for i in range(1000))
    few = thinned(points, 100)
    assert len(few) == 100
    assert {y for _, y in few} == {0.5}
    assert thinned(points, 1000) == points
    assert thinned((), 5) == ()
