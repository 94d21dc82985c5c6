"""Des textes étiquetés : lus sous toutes leurs formes, partagés toujours de même, refusés net."""

import csv
import json
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gpt_architecture.config import HeadConfig, LabelConfig, TrainingConfig
from gpt_architecture.data.labelled import targets_of
from gpt_architecture.data.labelling import load_labelled_data
from gpt_architecture.data.sampler import IGNORED, LabelledSource, make_batch
from gpt_architecture.data.splits import split_examples
from gpt_architecture.data.texts import labelled
from gpt_architecture.data.texts.labelled import KNOWN, Example, ordered_labels, read_examples
from gpt_architecture.errors import DataError

ROWS = [
    ("Où est mon colis ?", "livraison"),
    ("Un « bug », puis ; plus\nrien", "panne"),
    ('Il a dit "non"', "retour"),
    ("ça marche, merci", "panne"),
]
WINDOW = 7
TOOL = Path(__file__).resolve().parents[2] / "tools" / "messages.py"
TRAINING = TrainingConfig(batch_size=2, train_ratio=0.75, stride=WINDOW + 1)


def table(path, rows=ROWS, *, separator=",", header=("texte", "classe"), encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def pairs(examples):
    return [(each.text, each.label) for each in examples.rows]


@pytest.mark.parametrize(
    ("name", "separator", "encoding"),
    [
        ("a.csv", ",", "utf-8"),
        ("a.csv", ";", "utf-8"),
        ("a.csv", "\t", "utf-8"),
        ("a.tsv", "\t", "utf-8"),
        ("a.csv", "|", "utf-8-sig"),
    ],
)
def test_tables(tmp_path, name, separator, encoding):
    found = read_examples(table(tmp_path / name, separator=separator, encoding=encoding))
    assert pairs(found) == ROWS
    assert (found.text_field, found.label_field) == ("texte", "classe")
    assert [each.place for each in found.rows] == [2, 3, 4, 5]


def test_json_and_lines(tmp_path):
    objects = [{"text": text, "label": label, "autre": None} for text, label in ROWS]
    lines, whole = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text("\n\n".join(map(json.dumps, objects)), encoding="utf-8")
    whole.write_text(json.dumps(objects), encoding="utf-8")
    assert pairs(read_examples(lines)) == pairs(read_examples(whole)) == ROWS


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="l'extra parquet n'est pas installé")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    columns = {"text": [text for text, _ in ROWS], "label": [3, 1, 2, 1]}
    pyarrow.parquet.write_table(arrow.table(columns), path)
    assert [each.label for each in read_examples(path).rows] == ["3", "1", "2", "1"]


def test_values(tmp_path):
    path = table(tmp_path / "a.csv", [("un", "1,5"), ("deux", "-2"), ("trois", " 3e1 ")])
    assert [each.label for each in read_examples(path, regress=True).rows] == [1.5, -2.0, 30.0]


def test_labels_are_ordered(tmp_path):
    path = table(tmp_path / "a.csv", [("t", each) for each in ("10", "9", "-1", "9")])
    assert ordered_labels(read_examples(path), path) == ("-1", "9", "10")
    path = table(tmp_path / "b.csv", [("t", each) for each in ("b", "10", "a")])
    assert ordered_labels(read_examples(path), path) == ("10", "a", "b")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("titre,avis\na,b\n", ("quelle colonne est l'étiquette", "titre, avis", "`label`")),
        ("classe,a,b\nx,y,z\n", ("quelle colonne est le texte", "a, b")),
        ("texte,classe\na,\n", ("étiquette vide", "rangée 2")),
        ("texte,classe\n  ,x\n", ("texte vide", "rangée 2")),
        ("texte,classe\na,b,c\n", ("rangée 2", "3 cases pour 2 colonnes", "guillemets")),
        ('texte,classe\n"a,b\n', ("guillemet n'est jamais fermé",)),
        ("texte,texte,classe\na,b,c\n", ("deux colonnes",)),
        ("texte,classe\n", ("aucun exemple",)),
        ("", ("aucun exemple",)),
        ("texte,classe\na,x\nb,x\n", ("qu'une classe", "'x'")),
        (f"texte,classe\na,x\nb,{'9' * 5000}\n", ("rangée 3", "5 000 caractères", "classe")),
        (
            "texte,classe\n" + "".join(f"a,{n}\n" for n in range(10_001)),
            ("10 001 classes", "colonne classe", "10 000 classes au plus"),
        ),
    ],
)
def test_a_bad_table_is_said(tmp_path, content, words):
    path = tmp_path / "a.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as refusal:
        ordered_labels(read_examples(path), path)
    for word in (path.name, *words):
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1]", ("rangée 1", "au lieu d'un objet")),
        ('{"text": "a", "label"', ("ligne 1, colonne",)),
        ('{"text": 3, "label": "x"}', ("3 pour texte",)),
        ('{"text": "a", "label": ["x"]}', ("['x'] pour étiquette",)),
        ('{"text": "a", "label": null}', ("étiquette vide",)),
        ('{"text": "\\ud800", "label": "x"}', ("pour texte",)),
        ('{"text": "a", "label": "\\ud800"}', ("pour étiquette",)),
        ("[" * 100_000, ("pas du JSON lisible",)),
        ('{"text": "a", "label": "\\u001b[31mx"}', ("x1b[31mx' (colonne", "de commande")),
    ],
)
def test_a_bad_line_is_said(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    path.write_text(line if line.startswith("{") else f"{line}\n", encoding="utf-8")
    if line.startswith("["):
        path = path.rename(tmp_path / "a.json")
    with pytest.raises(DataError) as refusal:
        read_examples(path)
    for word in words:
        assert word in str(refusal.value)


def test_a_parquet_file_is_bounded_once_unfolded(tmp_path, monkeypatch):
    """Répété, un long texte n'y tient que sa place ; une colonne en double est dite."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(labelled, "MAX_BYTES", 100_000)
    columns = {"text": ["a" * 5_000] * 200, "label": ["x", "y"] * 100}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(DataError, match="100 000 octets, une fois déplié"):
        read_examples(tmp_path / "a.parquet")
    twice = pa.table([["a"], ["x"], ["y"]], names=["text", "label", "label"])
    pq.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(DataError, match="deux colonnes 'label'"):
        read_examples(tmp_path / "b.parquet")


def test_an_asked_column_must_exist(tmp_path):
    path = table(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"texte, classe.*essayez `classe`"):
        read_examples(path, label="clase")
    with pytest.raises(DataError, match="n'a pas de colonne 'corps'"):
        read_examples(path, text="corps")


def test_other_encodings_and_values_are_refused(tmp_path):
    path = table(tmp_path / "a.csv", encoding="cp1252")
    with pytest.raises(DataError, match="UTF-8"):
        read_examples(path)
    path = table(tmp_path / "c.csv", [("un", "1e308"), ("deux", "1e308"), ("trois", "-1e308")])
    with pytest.raises(DataError, match=r"rangée 2.*'1e308'.*de 1e\+30 au plus"):
        read_examples(path, regress=True)
    path = table(tmp_path / "b.csv", [("un", "beaucoup")])
    with pytest.raises(DataError, match=r"'beaucoup'.*un nombre"):
        read_examples(path, regress=True)
    with pytest.raises(DataError, match="illisible"):
        read_examples(tmp_path / "absent.csv")


def test_the_split_keeps_each_class_and_the_seed_decides():
    rows = [
        Example(place=n, text=str(n), label=label)
        for n, label in enumerate("a" * 40 + "b" * 8 + "c")
    ]
    groups = [each.label for each in rows]
    train, val = split_examples(rows, 0.75, 5, groups=groups)
    assert Counter(each.label for each in val) == {"a": 10, "b": 2}
    assert [each.place for each in train] == sorted(each.place for each in train)
    assert {*train, *val} == set(rows)
    assert split_examples(rows, 0.75, 5, groups=groups) == (train, val)
    assert split_examples(rows, 0.75, 6, groups=groups)[1] != val
    assert [each.place for each in val] != sorted(each.place for each in val)


def load(path, **changes):
    return load_labelled_data(
        LabelConfig(classify=path, **changes), "gpt2", window=WINDOW, training=TRAINING
    )


def test_each_row_has_one_target_after_its_last_token(tmp_path, caplog):
    rows = [(f"{text} {n}", label) for n in range(4) for text, label in ROWS]
    data = load(table(tmp_path / "a.csv", rows))
    labelled = data.labelled
    assert labelled.head.labels == ("livraison", "panne", "retour")
    assert isinstance(data.train, LabelledSource)
    assert "texte" in caplog.text  # certains sont coupés, et c'est dit
    assert "seul le début" in caplog.text
    starts = np.arange(data.train.count) * (WINDOW + 1)
    inputs, targets = make_batch(data.train, starts, WINDOW)
    for row, (tokens, wanted) in zip(
        labelled.train, zip(inputs, targets, strict=True), strict=True
    ):
        ids = data.tokenizer.encode(row.text)[:WINDOW]
        assert tokens[: len(ids)].tolist() == ids
        assert set(tokens[len(ids) :].tolist()) <= {data.tokenizer.eos_id}
        (place,) = (wanted != IGNORED).nonzero().tolist()
        assert place == [len(ids) - 1]
        assert labelled.head.labels[int(wanted[place[0]])] == row.label
    assert data.train.count_learned(starts, WINDOW) == len(labelled.train)


def test_what_changes_the_identity(tmp_path):
    path = table(tmp_path / "a.csv", [(str(n), "ab"[n % 2]) for n in range(12)])
    first = load(path).sha256
    assert load(path).sha256 == first
    assert load(path, balance=True).sha256 != first
    other = table(tmp_path / "b.csv", [(str(n), "ba"[n % 2]) for n in range(12)])
    assert load(other).sha256 != first
    assert load(path, val=other).sha256 != first


def test_weights_balance_the_classes(tmp_path):
    path = table(tmp_path / "a.csv", [(str(n), "b" if n % 4 else "a") for n in range(16)])
    found = load(path, balance=True).labelled
    assert found.counts == {"a": 3, "b": 9}
    assert found.weights == (2.0, 12 / 18)
    assert load(path).labelled.weights is None


def test_values_are_reduced(tmp_path):
    path = table(tmp_path / "a.csv", [(str(n), n) for n in range(12)])
    labelled = load(path, regress=True).labelled
    values = [each.label for each in labelled.train]
    assert labelled.head.center == pytest.approx(np.mean(values))
    assert labelled.head.scale == pytest.approx(np.std(values))
    assert len(targets_of(labelled.train, labelled.head)) == len(values)
    same = table(tmp_path / "b.csv", [(str(n), 3) for n in range(12)])
    with pytest.raises(DataError, match="toutes les valeurs"):
        load(same, regress=True)


def test_a_validation_of_its_own(tmp_path, caplog):
    path, other = table(tmp_path / "a.csv", ROWS * 2), tmp_path / "b.csv"
    data = load(path, val=table(other, [("Inédit", "panne"), ROWS[0]]))
    assert (len(data.labelled.train), len(data.labelled.val)) == (8, 2)
    assert not data.labelled.split
    assert "1 texte de validation sur 2 déjà dans l'entraînement" in caplog.text
    table(other, [("a", "inconnue")])
    with pytest.raises(DataError, match=r"'inconnue', inconnue du modèle.*livraison"):
        load(path, val=other)


def test_too_few_examples(tmp_path):
    path = table(tmp_path / "a.csv", [("un", "a"), ("deux", "b")])
    with pytest.raises(DataError, match=r"un exemple par classe.*`val`"):
        load(path)


@pytest.mark.parametrize("name", KNOWN)
def test_the_project_has_its_own(name):
    found = read_examples(name)
    assert ordered_labels(found, name) == (
        *("compte", "facturation", "indésirable"),
        *("livraison", "panne", "retour"),
    )
    assert len(found.rows) in (480, 72)
    assert len({each.text for each in found.rows}) == len(found.rows)
    if name == KNOWN[0]:  # refaire : python tools/messages.py
        made = runpy.run_path(str(TOOL))["messages"]()
        assert [(each.text, each.label) for each in found.rows] == [each[:2] for each in made]
    assert HeadConfig(labels=ordered_labels(found, name)).said.startswith("6 classes")
