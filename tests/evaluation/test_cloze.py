"""Mots à deviner : les exemples viennent du texte, toujours les mêmes, et disent vrai."""

from collections import Counter

import pytest
from conftest import SHARED_DATA

from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.cloze import MAX_EXAMPLES, build_cloze

PASSAGE = (
    "Le vieux passeur posa sa lanterne sur la pierre et regarda longtemps la rivière monter vers "
    "les arbres. Personne ne passerait plus ce soir-là. Il reprit alors, sans se hâter, le chemin "
    "de la maison, en tenant bien haut sa lanterne. "
)
RIVALS = "Une citerne, une caverne, une poterne et une taverne dormaient. " * 3


@pytest.fixture(scope="module")
def bible():
    path = SHARED_DATA / "segond-1910.fr.txt"
    if not path.is_file():
        pytest.skip(f"{path} manque")
    return path.read_text(encoding="utf-8")


def test_the_last_word_is_known_from_the_passage():
    """Le passage entier, moins son dernier mot, qui se trouve déjà plus haut."""
    (found,) = build_cloze([PASSAGE]).last_words
    assert found.word == "lanterne"
    assert f"{found.context} {found.word}. " == PASSAGE
    with pytest.raises(DataError, match="aucun exemple à deviner"):
        build_cloze([PASSAGE.replace("sa lanterne sur", "sa lampe sur")])


@pytest.mark.parametrize("last", ["aujourd'hui", "aujourd’hui", "vingt-sept", "presqu'île"])
def test_half_a_word_is_not_to_be_guessed(last):
    """« aujourd » n'est pas un mot : ni dernier mot d'un passage, ni mot manquant."""
    text = PASSAGE.replace("sa lanterne", last)
    with pytest.raises(DataError, match="aucun exemple à deviner"):
        build_cloze([text])


def test_half_a_word_is_not_missing_either():
    rivals = "Un abord, un accord, un égard et un hasard dormaient. " * 3
    text = rivals + "Le passeur qui revenait de loin le fera {}. " + PASSAGE
    for word, count in (("abord", 1), ("aujourd'hui", 0)):
        found = build_cloze([text.format(word)]).choices
        assert sum("revenait" in each.context for each in found) == count


def test_a_missing_word_has_three_rivals():
    """Quatre suites qui ne diffèrent que par un mot ; la bonne refait la phrase."""
    sentence = "Le passeur qui revenait de loin posa enfin sa lanterne. "
    found = [
        each for each in build_cloze([RIVALS + sentence]).choices if each.context.endswith("sa")
    ]
    (example,) = found
    assert f"{example.context} {example.choices[example.label]} " == sentence
    others = {*example.choices} - {"lanterne."}
    assert len(others) == 3
    assert others < {"citerne.", "caverne.", "poterne.", "taverne."}


def test_a_real_text_gives_enough(bible):
    """Au moins cinq cents exemples de chaque épreuve, répartis sur tout le texte, sans doublon."""
    found = build_cloze([bible])
    flat = " ".join(bible.split())
    assert 500 <= len(found.last_words) <= MAX_EXAMPLES
    assert 500 <= len(found.choices) <= MAX_EXAMPLES
    for each in found.last_words:
        assert f"{each.context} {each.word}" in flat
        assert each.word in each.context
        assert 30 <= len(each.context.split()) + 1 <= 90
    for each in found.choices:
        assert f"{each.context} {each.choices[each.label]}" in flat
        assert len({*each.choices}) == 4
    labels = Counter(each.label for each in found.choices)
    assert min(labels.values()) > len(found.choices) / 6
    assert len({each.context for each in found.last_words}) == len(found.last_words)


def test_it_depends_on_the_text_alone(bible):
    text = bible[:200_000]
    assert build_cloze([text]) == build_cloze([text])
    assert len(build_cloze([text], limit=7).choices) == 7


@pytest.mark.parametrize("text", ["", "Trop court.", "a " * 500, "\n\n".join(["Un. Deux."] * 9)])
def test_a_text_with_nothing_to_guess(text):
    with pytest.raises(DataError, match="aucun exemple à deviner"):
        build_cloze([text])
