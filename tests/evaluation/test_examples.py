"""Lecture des exemples : formats acceptés, lignes refusées par leur numéro."""

import json

import pytest

from gpt_architecture.errors import DataError
from gpt_architecture.evaluation import examples as reading
from gpt_architecture.evaluation.examples import read_choices, read_last_words


@pytest.fixture
def write(tmp_path):
    """Écrit des lignes, objets ou textes, et rend le fichier."""

    def write(*rows):
        path = tmp_path / "exemples.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def test_last_words(write):
    """Le dernier mot est ce qui suit la dernière espace ; une ligne blanche compte un numéro."""
    path = write({"text": "il leva la lampe "}, "", {"text": "deux  mots."})
    first, second = read_last_words(path)
    assert (first.line, first.context, first.word) == (1, "il leva la", "lampe")
    assert (second.line, second.context, second.word) == (3, "deux ", "mots.")
    assert len(read_last_words(path, limit=1)) == 1


def test_choices(write):
    """Le format simple : début, suites, rang."""
    (example,) = read_choices(write({"ctx": "Il pleut,", "endings": [" a ", "b"], "label": 1}))
    assert (example.context, example.choices, example.label) == ("Il pleut,", ("a", "b"), 1)


def test_hellaswag_rows_are_prepared_as_lm_eval_does(write):
    """Une vraie ligne de HellaSwag : même texte que le module de lm-eval."""
    row = {
        "activity_label": "Removing ice",
        "ctx_a": "[header] How to  clean [title] Start. [step] A man sits.",
        "ctx_b": "then the man",
        "endings": ["[step] is  using [substeps] wrap.", "rips."],
        "label": "1",
    }
    (example,) = read_choices(write(row))
    hellaswag = pytest.importorskip("lm_eval.tasks.hellaswag.utils", reason="lm-eval manque")
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    assert example.context == hellaswag.preprocess(context)
    assert example.choices == tuple(map(hellaswag.preprocess, row["endings"]))
    assert example.label == 1


GOOD = {"ctx": "a b", "endings": ["c", "d"], "label": 0}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "colonne"),
        ("[1]", "objet"),
        (GOOD | {"endings": ["c"]}, "endings"),
        (GOOD | {"endings": ["c", ""]}, "endings"),
        (GOOD | {"endings": ["c", 3]}, "endings"),
        (GOOD | {"label": 2}, "label vaut 2"),
        (GOOD | {"label": -1}, "label"),
        (GOOD | {"label": True}, "label"),
        (GOOD | {"label": ""}, "label"),
        (GOOD | {"ctx": ""}, "ctx"),
        ({"endings": ["c", "d"], "label": 0}, "ctx"),
        ('{"ctx": "\\ud800", "endings": ["c", "d"], "label": 0}', "ctx"),
        ("[" * 100_000, "ligne 2"),
        ('{"ctx": "a", "label": ' + "9" * 5000 + "}", "ligne 2"),
    ],
)
def test_a_bad_choice_line_is_named(write, row, words):
    with pytest.raises(DataError) as caught:
        read_choices(write(GOOD, row))
    assert "ligne 2" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("row", [{"text": "mot"}, {"text": ""}, {"texte": "a b"}, {"text": 3}])
def test_a_bad_last_word_line_is_named(write, row):
    with pytest.raises(DataError, match="ligne 3"):
        read_last_words(write({"text": "a b"}, "", row))


def test_not_utf8(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "été là"}'.encode("latin-1"))
    with pytest.raises(DataError, match="ligne 1"):
        read_last_words(path)


def test_a_long_line_is_bounded(write, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 50)
    with pytest.raises(DataError, match="ligne 2 : plus de 50 octets"):
        read_last_words(write({"text": "a b"}, {"text": "a " * 40}))


def test_missing_or_empty_file(write, tmp_path):
    with pytest.raises(DataError, match="fichier absent"):
        read_last_words(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="aucun exemple"):
        read_choices(write(""))
