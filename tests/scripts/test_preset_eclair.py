"""Le premier contact : un petit modèle, ses mots, et la visite qui y mène."""

import re
from pathlib import Path

import pytest

from gpt_architecture import load
from gpt_architecture.data.texts.corpus import load_corpus

WORD = re.compile(r"[^\W\d_]+")


@pytest.mark.slow
def test_the_embedded_story_becomes_french_words(cli):
    """Sans rien donner d'autre : un demi-million de paramètres, et des mots de la nouvelle."""
    outcome = cli("train", "--preset", "eclair")
    assert outcome.code == 0, outcome.err
    assert Path("eclair/loss-plot.pdf").is_file()
    assert not Path("gpt-model.pt").exists()  # la place de « make train » reste libre
    gpt = load("eclair/gpt-model.pt")
    assert 400_000 < gpt.config.num_parameters() < 700_000
    known = set(WORD.findall(load_corpus(["la-lampe-du-passeur"]).text.lower()))
    text = gpt.generate("Un soir d'octobre, la cloche", strategy="greedy", max_tokens=60)
    words = WORD.findall(text.lower())[:-1]  # le dernier est peut-être coupé
    assert len(words) > 20
    assert sum(word in known for word in words) >= 0.9 * len(words), text


@pytest.mark.slow
def test_another_text_may_be_given(cli, tmp_path):
    """Les options données l'emportent sur le préréglage."""
    text = tmp_path / "mien.txt"
    text.write_text("La mer est belle, et le vent se lève. " * 60, encoding="utf-8")
    outcome = cli(
        *("train", "--preset", "eclair", "--data", text, "--output-dir", "ici", "--max-steps", 2)
    )
    assert outcome.code == 0, outcome.err
    assert Path("ici/gpt-model.pt").is_file()


def test_the_tour_starts_with_it(cli):
    """La visite propose d'abord les premiers mots."""
    lines = [line.strip() for line in cli().out.splitlines()]
    first = lines.index("gpt-architecture train --preset eclair")
    assert first < lines.index("gpt-architecture train")
