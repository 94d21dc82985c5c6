"""Dernier mot et choix multiple : lignes lues ou refusées, notes refaites à la main."""

import json
import math

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import SimpleTokenizerV2
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation import task_files as reading
from gpt_architecture.evaluation.task_files import read_choices, read_last_words
from gpt_architecture.evaluation.tasks import (
    ChoiceOutcome,
    ChoiceResult,
    LastWord,
    MultipleChoice,
    measure_choices,
    measure_last_words,
)

TEXT = "le passeur leva la lampe puis il prit son bateau et la rivière"


@pytest.fixture
def pair():
    """Un modèle aux logits marqués, et un tokenizer de mots."""
    tokenizer = SimpleTokenizerV2.from_text(TEXT)
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=8, emb_dim=24, n_heads=3, n_layers=2
    )
    return GPTModel(config).eval(), tokenizer


def log_prob(model, tokenizer, context, continuation):
    """log p des mots de `continuation` après `context`, mot par mot."""
    ids = tokenizer.encode(context)
    total = 0.0
    for token in tokenizer.encode(continuation):
        with torch.no_grad():
            total += model(torch.tensor([ids]))[0, -1].log_softmax(-1)[token].item()
        ids.append(token)
    return total


def greedy_word(model, tokenizer, context):
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer.encode(context)]))[0, -1]
    return tokenizer.decode([int(logits.argmax())])


def test_last_word(pair):
    """Un mot que le modèle écrirait, un qu'il n'écrirait pas : 1 sur 2, et la perplexité."""
    model, tokenizer = pair
    context = "le passeur leva"
    right = greedy_word(model, tokenizer, context)
    wrong = next(word for word in TEXT.split() if word != right)
    examples = [
        LastWord(line=number, context=context, word=word)
        for number, word in enumerate((right, wrong), start=1)
    ]
    steps = []
    found = measure_last_words(
        *(model, tokenizer, examples),
        window=8,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    expected = [log_prob(model, tokenizer, context, word) for word in (right, wrong)]
    assert found.correct == (True, False)
    assert found.accuracy == 0.5
    assert found.log_probs == pytest.approx(expected, abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(-sum(expected) / 2))
    assert found.perplexity_interval is not None
    assert 0 < found.accuracy_interval[0] < 0.5 < found.accuracy_interval[1] < 1
    assert steps[-1] == (2, 2)


def test_choices(pair):
    """Les log p de chaque suite sont ceux du calcul mot par mot."""
    model, tokenizer = pair
    choices = ("la lampe", "son bateau et la rivière")
    example = MultipleChoice(line=4, context="il prit", choices=choices, label=0)
    found = measure_choices(model, tokenizer, [example], window=8)
    (outcome,) = found.outcomes
    expected = [log_prob(model, tokenizer, "il prit", choice) for choice in choices]
    assert outcome.log_probs == pytest.approx(expected, abs=1e-5)
    assert (outcome.line, outcome.lengths) == (4, (8, 24))
    assert found.chance == 0.5


def test_acc_and_acc_norm_differ():
    """La plus probable, et la plus probable par caractère."""
    outcome = ChoiceOutcome(line=1, label=1, log_probs=(-4.0, -5.0), lengths=(4, 10))
    assert (outcome.chosen, outcome.chosen_norm) == (0, 1)
    other = ChoiceOutcome(line=2, label=0, log_probs=(-1.0, -1.0), lengths=(3, 3))
    assert other.chosen == 0  # à égalité, la première, comme numpy.argmax
    result = ChoiceResult(outcomes=(outcome, other))
    assert (result.acc, result.acc_norm) == (0.5, 1.0)
    assert result.acc_norm_interval[1] == 1.0


def test_a_long_context_is_cut(pair):
    """Un contexte plus long que la fenêtre perd son début ; la note est celle de la fin."""
    model, tokenizer = pair
    context = "le passeur leva la lampe puis il prit son bateau et"
    example = LastWord(line=1, context=context, word="la")
    (found,) = measure_last_words(model, tokenizer, [example], window=8).log_probs
    kept = " ".join(context.split()[-8:])
    assert found == pytest.approx(log_prob(model, tokenizer, kept, "la"), abs=1e-5)


@pytest.fixture
def write(tmp_path):
    """Écrit des lignes, objets ou textes, et rend le fichier."""

    def write(*rows):
        path = tmp_path / "exemples.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def test_last_words_are_read(write):
    """Le dernier mot est ce qui suit la dernière espace ; une ligne blanche compte un numéro."""
    path = write({"text": "il leva la lampe "}, "", {"text": "deux  mots."})
    first, second = read_last_words(path)
    assert (first.line, first.context, first.word) == (1, "il leva la", "lampe")
    assert (second.line, second.context, second.word) == (3, "deux ", "mots.")
    assert len(read_last_words(path, limit=1)) == 1


def test_choices_are_read(write):
    """Le format simple : début, suites, rang."""
    (example,) = read_choices(write({"ctx": "Il pleut,", "endings": [" a ", "b"], "label": 1}))
    assert (example.context, example.choices, example.label) == ("Il pleut,", ("a", "b"), 1)


@pytest.mark.slow
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
