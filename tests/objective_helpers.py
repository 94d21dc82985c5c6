"""Trois apprentissages minuscules, à un ou à plusieurs processus : classer, préférer, distiller."""

from conftest import FRENCH_TEXT
from preference_helpers import TEMPLATE, TOKENIZER, TRAINING, WINDOW, settings_of, write_pairs
from training import test_distillation as distilled
from training import test_labelled_training as labelled

from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.preferences import load_preferences
from gpt_architecture.training.session import build_trainer


def write_sources(folder):
    """Les fichiers que `courses` lit."""
    labelled.table(folder / "mots.csv")
    write_pairs(folder / "paires.jsonl")
    (folder / "texte.txt").write_text(FRENCH_TEXT, encoding="utf-8")


def courses(folder, **shared):
    """Les pertes de trois étapes, puis celles que mesure l'évaluation, par apprentissage."""
    return {name: _course(*case, **shared) for name, case in _cases(folder).items()}


def _cases(folder):
    examples = labelled.data_of(folder / "mots.csv", balance=True)
    pairs = load_preferences(
        folder / "paires.jsonl", TOKENIZER, window=WINDOW, training=TRAINING, template=TEMPLATE
    )
    text = load_training_data(
        [str(folder / "texte.txt")],
        "gpt2",
        window=distilled.WINDOW,
        training=distilled.TRAINING,
        vocabulary=distilled.VOCABULARY,
    )
    return {
        "classer": (labelled.settings_of(examples), examples),
        "préférer": (settings_of(pairs), pairs),
        "distiller": (distilled.settings_of(text), text),
    }


def _course(settings, data, **shared):
    trainer = build_trainer(settings, data, **shared)
    losses = [trainer.advance().loss for _ in range(3)]
    found = trainer.evaluate(lambda: False)
    return [*losses, found.train, found.val]
