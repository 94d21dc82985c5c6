"""Classements et notes mesurés : scikit-learn est l'oracle, le calcul à la main sinon."""

import math

import numpy as np
import pytest
import torch

from gpt_architecture.config import GPTConfig, HeadConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import ConfigurationError, DataError, NonFiniteError
from gpt_architecture.evaluation.classification import ClassResult, LabelMeasures, ValueResult
from gpt_architecture.evaluation.judgement import head_outputs, judge
from gpt_architecture.evaluation.word_weights import learn_classes, learn_values
from gpt_architecture.reports.labels import labels_notes, labels_record, labels_tables

TEXTS = [
    "le colis est en retard",
    "colis perdu, encore du retard",
    "la facture est fausse",
    "facture payée deux fois, remboursez la facture",
    "l'écran reste noir",
    "écran noir et bruit",
    "bonjour",
    "le le le colis",
]
CLASSES = [0, 0, 1, 1, 2, 2, 1, 0]


def results(size=60, labels=("a", "b", "c"), seed=0):
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet(np.ones(len(labels)), size=size)
    return ClassResult(
        labels=labels, truth=draw.integers(len(labels), size=size), probabilities=probabilities
    )


def test_classes_are_measured_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn est l'oracle")
    for labels in (("a", "b", "c"), ("a", "b", "c", "jamais")):
        found = results(labels=labels)
        if len(labels) == 4:  # une classe que rien ne montre n'entre pas dans la moyenne
            own = found.probabilities.copy()
            own[:, 3] = 0
            own /= own.sum(axis=1, keepdims=True)
            found = ClassResult(labels=labels, truth=found.truth % 3, probabilities=own)
        truth, chosen = found.truth, found.chosen
        assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, chosen))
        assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, chosen, average="macro"))
        every = list(range(len(labels)))
        expected = metrics.confusion_matrix(truth, chosen, labels=every)
        assert np.array_equal(found.confusion, expected)
        scores = metrics.precision_recall_fscore_support(
            truth, chosen, labels=every, zero_division=0
        )
        own = np.array([[c.precision, c.recall, c.f1, c.support] for c in found.classes]).T
        np.testing.assert_allclose(own, np.array(scores, dtype=float))
        loss = metrics.log_loss(truth, found.probabilities, labels=every)
        assert found.calibration.nll == pytest.approx(loss, rel=1e-6)


def test_the_calibration_by_hand():
    found = ClassResult(
        labels=("a", "b"),
        truth=np.array([0, 0, 1, 1]),
        probabilities=np.array([[0.95, 0.05], [0.45, 0.55], [0.08, 0.92], [0.4, 0.6]]),
    )
    # ]0,5 ; 0,6] : confiances 0,55 et 0,6, une juste ; ]0,9 ; 1] : 0,95 et 0,92, deux justes
    assert found.calibration.error == pytest.approx((2 * 0.075 + 2 * 0.065) / 4)
    assert found.majority == 0.5


def test_intervals_hold_their_value_and_never_change():
    found = results()
    for value, interval in (
        (found.accuracy, found.accuracy_interval),
        (found.macro_f1, found.macro_f1_interval),
    ):
        assert interval[0] < value < interval[1]
    assert found.macro_f1_interval == results().macro_f1_interval
    alone = ClassResult(
        labels=("a", "b"), truth=np.array([0]), probabilities=np.array([[0.9, 0.1]])
    )
    assert alone.macro_f1_interval is None


def answered(truth, chosen, labels="abc"):
    return ClassResult(
        labels=tuple(labels), truth=np.array(truth), probabilities=np.eye(len(labels))[chosen]
    )


def test_the_macro_f1_interval_by_hand():
    """Deux a, dont un juste, et deux b justes : r des deux a tirés sont justes, r = 0, 1 ou 2.

    F1 de a, 2r / (r + 2) ; de b, 4 / (6 - r). Une fois sur quatre 0 et 2/3, une fois sur quatre 1
    et 1 : les deux quantiles sont donc les deux extrêmes.
    """
    low, high = answered([0, 0, 1, 1], [0, 1, 1, 1]).macro_f1_interval
    assert (low, high) == pytest.approx(((0 + 2 / 3) / 2, 1))


def test_a_missed_class_counts_in_every_draw():
    """La classe c, toujours manquée, vaut 0 dans chaque tirage : jamais plus de deux tiers."""
    found = answered([0] * 4 + [1] * 4 + [2] * 2, [0, 0, 0, 1] + [1] * 4 + [0, 1])
    low, high = found.macro_f1_interval
    assert 0 < low < found.macro_f1 < high <= 2 / 3


@pytest.mark.parametrize(
    ("truth", "chosen"),
    [
        ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]),  # sans faute : tous les tirages se valent
        ([0, 0, 1, 1], [1, 1, 0, 0]),
        ([0, 0, 0, 1], [0, 0, 1, 1]),  # un exemple seul de sa classe
    ],
)
def test_an_interval_that_says_nothing_is_not_given(truth, chosen):
    """Une largeur nulle passerait pour une certitude."""
    found = answered(truth, chosen)
    assert found.macro_f1_interval is None
    low, high = found.accuracy_interval
    assert low < high
    rows = labels_tables(LabelMeasures(name="essai", result=found))[0][2]
    assert rows[1][2] == "—"


def values(seed=0, size=40):
    draw = np.random.default_rng(seed)
    truth = draw.normal(size=size).round(1)
    return ValueResult(truth=truth, found=(truth + draw.normal(size=size)).round(1))


def test_values_are_measured_as_scikit_learn_does():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn est l'oracle")
    stats = pytest.importorskip("scipy.stats", reason="scipy est l'oracle")
    found = values()
    assert found.mae == pytest.approx(metrics.mean_absolute_error(found.truth, found.found))
    squared = metrics.mean_squared_error(found.truth, found.found)
    assert found.rmse == pytest.approx(math.sqrt(squared))
    assert found.r2 == pytest.approx(metrics.r2_score(found.truth, found.found))
    expected = stats.spearmanr(found.truth, found.found).statistic
    assert found.spearman == pytest.approx(expected)
    for value, interval in (
        (found.mae, found.mae_interval),
        (found.rmse, found.rmse_interval),
        (found.r2, found.r2_interval),
        (found.spearman, found.spearman_interval),
    ):
        assert interval[0] <= value <= interval[1]
    flat = ValueResult(truth=np.ones(3), found=np.array([1.0, 2.0, 3.0]))
    assert math.isnan(flat.r2)
    assert math.isnan(flat.spearman)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_reference_is_scikit_learn_s(classes, balance):
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="l'oracle")
    from sklearn.linear_model import LogisticRegression

    ranks = [min(each, classes - 1) for each in CLASSES]
    asked = [*TEXTS, "un colis noir", "rien de connu ?"]
    words = text.TfidfVectorizer()
    oracle = LogisticRegression(
        max_iter=5000, tol=1e-10, class_weight="balanced" if balance else None
    )
    oracle.fit(words.fit_transform(TEXTS), ranks)
    expected = oracle.predict_proba(words.transform(asked))
    found = learn_classes(TEXTS, ranks, classes=classes, balance=balance)
    np.testing.assert_allclose(found.probabilities(asked), expected, atol=1e-5)
    assert sorted(found.places) == sorted(words.vocabulary_)


def test_the_reference_of_values_is_scikit_learn_s():
    text = pytest.importorskip("sklearn.feature_extraction.text", reason="l'oracle")
    from sklearn.linear_model import Ridge

    wanted = [10.0, 11.0, 3.0, 2.5, 7.0, 7.5, 4.0, 9.0]
    words = text.TfidfVectorizer()
    oracle = Ridge().fit(words.fit_transform(TEXTS).toarray(), wanted)
    asked = [*TEXTS, "un colis noir"]
    found = learn_values(TEXTS, wanted).values(asked)
    np.testing.assert_allclose(found, oracle.predict(words.transform(asked).toarray()), atol=1e-5)


def test_texts_without_words_are_taken():
    found = learn_classes(["!", "?", "a b"], [0, 1, 1], classes=2)
    assert found.probabilities(["…"])[0, 1] > 0.5


def measured(own, other):
    return LabelMeasures(name="essai", result=own, reference=other, learned=9)


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [(0.9, 0.1, "Le modèle bat la référence"), (0.1, 0.9, "bat le modèle"),
     (0.9, 0.9, "Rien ne départage")],
)  # fmt: skip
def test_who_wins_is_said(own, other, said):
    truth = np.zeros(50, dtype=np.int64)
    one, two = (
        ClassResult(labels=("a", "b"), truth=truth, probabilities=np.tile([p, 1 - p], (50, 1)))
        for p in (own, other)
    )
    found = measured(one, two)
    assert said in labels_notes(found)[-1]
    assert found.gain[0] == pytest.approx((own > 0.5) - (other > 0.5))
    assert labels_record(found)["reference"]["learned"] == 9
    assert all(len(row) == len(headings) for _, headings, rows in labels_tables(found)
               for row in rows)  # fmt: skip


def test_values_and_no_reference_are_shown():
    found = measured(values(), values(1))
    record = labels_record(found)
    assert record["gain"] == pytest.approx(values(1).mae - values().mae)
    assert "écart absolu" in labels_notes(found)[-1]
    assert labels_tables(found)[0][2][0][0] == "Écart absolu moyen (MAE)"
    alone = LabelMeasures(name="essai", result=values())
    assert alone.gain is None
    assert "`reference`" in labels_notes(alone)[-1] or "--reference" in labels_notes(alone)[-1]


LETTERS = get_tokenizer("char", text="abcdefghij ")


def model_of(head, **changes):
    torch.manual_seed(3)
    shape = {"vocab_size": LETTERS.vocab_size, "context_length": 8, "emb_dim": 16, "n_heads": 2}
    return GPTModel(GPTConfig(**{**shape, "n_layers": 1, **changes}, head=head))


def test_texts_are_judged_alone_or_together():
    model = model_of(HeadConfig(labels=("x", "y", "z")))
    texts = ["abc", "j", "a b c d e f g h i", "bb"]
    together = judge(model, LETTERS, texts, window=6, max_rows=2)
    for text, each in zip(texts, together, strict=True):
        (alone,) = judge(model, LETTERS, [text], window=6)
        assert each.text == text
        assert each.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
        assert math.fsum(each.probabilities.values()) == pytest.approx(1)
        assert each.label == max(each.probabilities, key=each.probabilities.get)
    assert [each.truncated for each in together] == [False, False, True, False]
    assert together[2].tokens == 6
    assert model.training  # rendu à son mode


def test_values_have_their_unit():
    model = model_of(HeadConfig(center=10.0, scale=4.0))
    (found,) = judge(model, LETTERS, ["abc"], window=8)
    raw = head_outputs(model.eval(), [LETTERS.encode("abc")], padding=0)
    assert found.value == pytest.approx(10 + 4 * float(raw[0, 0]))
    assert found.to_dict() == {"value": found.value, "tokens": 3, "truncated": False}


def test_what_cannot_be_judged_is_said():
    model = model_of(HeadConfig(labels=("x", "y")))
    with pytest.raises(DataError, match="texte 2 : aucun token"):
        judge(model, LETTERS, ["a", ""], window=8)
    assert judge(model, LETTERS, [], window=8) == []
    with pytest.raises(ConfigurationError, match="train --classify"):
        judge(model_of(None), LETTERS, ["a"], window=8)
    with torch.no_grad():
        model.out_head.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="out_head"):
        judge(model, LETTERS, ["a"], window=8)
