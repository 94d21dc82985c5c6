"""D'où viennent les mots d'un texte : passages maximaux, documents, hasard, verdict."""

import json

import numpy as np
import pytest
from shard_helpers import write_folder

from gpt_architecture.data.provenance.build import build_index
from gpt_architecture.data.shards.prepare import write_tokens
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.evaluation.provenance import (
    MAX_TOKENS,
    _in_validation,
    find_text,
    trace_sources,
)
from gpt_architecture.evaluation.repetition import overlaps
from gpt_architecture.reports.provenance import provenance_lines, verdict

GPT2 = get_tokenizer("gpt2")
DOCUMENTS = (
    "Le passeur leva la lampe deux fois, puis il détacha le bateau. La rive était noire.",
    "Un soir d'octobre, la cloche sonna trois fois, et personne ne vint ouvrir la porte.",
    "Elle relut la lettre deux fois, puis il détacha le bateau. Le vent tomba d'un coup.",
)
UNSEEN = "Les machines mesurent, comptent, et rendent des colonnes de chiffres verts. " * 30


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Trois documents, et un texte inédit qui ne leur ressemble pas."""
    folder = tmp_path_factory.mktemp("sources") / "d"
    train = GPT2.encode("<|endoftext|>".join(("", *DOCUMENTS)), allowed_special={"<|endoftext|>"})
    val = TokenArray(GPT2.encode(UNSEEN))
    write_tokens(folder, TokenArray(train), val, GPT2, name="contes.txt", shard_tokens=40)
    return build_index(folder)


def test_passages_are_those_of_the_exact_search(tmp_path):
    """Contre la recherche de la mémorisation, sur un texte plein de redites."""
    rng = np.random.default_rng(3)
    corpus = rng.integers(1, 5, 600).tolist()
    folder = write_folder(tmp_path / "d", {"train": [corpus[:250], corpus[250:]]})
    index = build_index(folder)
    text = [*corpus[200:300], *rng.integers(1, 5, 30).tolist(), *corpus[10:40]]
    (exact,) = overlaps(TokenArray(corpus), [text])
    found = trace_sources(index, text, shortest=3, passages=1000)
    wanted = [(start, end) for start, end, _ in exact.passages(3)]
    assert sorted((each.start, each.end) for each in found.passages) == wanted
    assert (found.longest, found.found) == (exact.longest, len(wanted))
    sizes = [each.length for each in found.passages]
    assert sizes == sorted(sizes, reverse=True)
    for each in found.passages:
        piece = text[each.start : each.end]
        count = sum(
            corpus[at : at + len(piece)] == piece for at in range(len(corpus) - len(piece) + 1)
        )
        assert each.occurrences == count


def test_a_passage_is_put_back_in_its_documents(index):
    """Deux documents l'ont ; leur contexte ne déborde pas sur le document voisin."""
    ids = GPT2.encode("Il sourit deux fois, puis il détacha le bateau. Rien.")
    found = trace_sources(index, ids, places=5)
    (first, *_) = found.passages
    assert first.text == " deux fois, puis il détacha le bateau."
    assert (first.occurrences, first.beyond_chance) == (2, True)
    assert [(each.document, each.name) for each in first.places] == [
        (1, "contes.txt"),
        (3, "contes.txt"),
    ]
    assert first.places[0].before == "Le passeur leva la lampe"
    assert first.places[0].after == " La rive était noire."
    assert first.places[1].before == "Elle relut la lettre"
    assert first.places[0].offset == len(GPT2.encode("Le passeur leva la lampe"))
    assert json.loads(json.dumps(found.to_dict()))["passages"][0]["places"][1]["document"] == 3
    shown = "\n".join(provenance_lines(found))
    assert "au-delà du hasard" in shown
    assert "Le passeur leva la lampe⟦ deux fois" in shown


def test_chance_makes_a_short_passage_say_nothing(index):
    ids = index.tokens.read(1, index.chance.length(16)).tolist()
    found = trace_sources(index, ids, shortest=1)
    assert found.longest == len(ids) > 0
    assert not any(each.beyond_chance for each in found.passages)
    assert "comme dans un texte jamais vu" in "\n".join(provenance_lines(found))


def test_what_is_shown_is_bounded(index):
    ids = GPT2.encode(" ".join(DOCUMENTS))
    found = trace_sources(index, ids, passages=1, places=0)
    assert len(found.passages) == 1 < found.found
    assert found.passages[0].places == ()
    assert found.passages[0].occurrences >= 1
    assert "de plus" in "\n".join(provenance_lines(found))
    with pytest.raises(ConfigurationError, match=str(MAX_TOKENS)):
        trace_sources(index, [1] * (MAX_TOKENS + 1))
    with pytest.raises(ConfigurationError, match="shortest"):
        trace_sources(index, ids, shortest=0)


@pytest.mark.parametrize(
    ("text", "whole", "said"),
    [
        (DOCUMENTS[1], True, "Présent : le texte entier"),
        (f"\n {DOCUMENTS[2]}\n", True, "Présent : le texte entier"),
        ("la cloche sonna trois fois, et personne ne vint", True, "Présent : le texte entier"),
        (f"Il mentit. {DOCUMENTS[0]} Il mentit encore, sans y croire.", False, "en partie"),
        ("Quarante bûcherons dormaient sous la neige.", False, "Absent"),
        ("lampe", True, "trop court"),
    ],
)
def test_is_this_text_in_the_data(index, text, whole, said):
    """Entier, en partie, absent ; au milieu d'une phrase, le premier mot se code autrement."""
    found = find_text(index, text)
    assert found.is_whole is whole
    assert said in verdict(found)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("ir d'octobre, la cloche sonna trois fois, et personne ne vint ouvrir la por", True),
        ("ir d'octobre, la cloche sonna trois fois, et personne ne vint ouvrir la mare", False),
        ("Zoé d'octobre, la cloche sonna trois fois, et personne ne vint ouvrir la porte", False),
        (f"{DOCUMENTS[1]} Durand", False),
        (f"{DOCUMENTS[1][:-2]}42", False),
    ],
)
def test_the_edges_are_those_of_the_document(index, text, whole):
    """Un mot coupé se code autrement ; un autre nom, un autre numéro, n'y sont pas."""
    found = find_text(index, text)
    assert found.is_beyond_chance
    assert found.is_whole is whole
    assert ("le texte entier" in verdict(found)) is whole


def test_an_unknown_character_cuts_the_text(tmp_path):
    """Un vocabulaire fermé n'a pas « Ω » : le texte est cherché de part et d'autre."""
    tokenizer = CharTokenizer.train([DOCUMENTS[0]])
    write_tokens(
        tmp_path / "d", TokenArray(tokenizer.encode(DOCUMENTS[0])), None, tokenizer, name="conte"
    )
    index = build_index(tmp_path / "d")
    found = find_text(index, f"{DOCUMENTS[0][:40]}Ω{DOCUMENTS[0][40:]}")
    assert not found.is_whole
    assert found.covered == found.tokens - 1 == len(DOCUMENTS[0])
    assert find_text(index, DOCUMENTS[0]).is_whole
    assert "Absent" in verdict(find_text(index, "ΩΩΩΩ"))


def test_a_text_of_the_validation_is_said(index):
    """Le modèle ne l'a pas appris, mais qui demande « l'avez-vous ? » doit le savoir."""
    text = UNSEEN[: len(UNSEEN) // 3]
    found = find_text(index, text)
    assert not found.is_beyond_chance
    assert found.validation >= found.tokens - 2
    assert "Dans la validation, non dans l'entraînement" in verdict(found)
    assert found.to_dict()["validation"] == found.validation
    both = find_text(index, f"{DOCUMENTS[0]} {UNSEEN[:76]}")
    assert 0 < both.validation < both.tokens
    assert "Présent en partie" in verdict(both)
    assert "que le modèle n'a pas apprise" in verdict(both)
    assert find_text(index, DOCUMENTS[0]).validation is None
    assert "validation" not in trace_sources(index, [1, 2]).to_dict()


def test_the_validation_search_is_exact(index):
    """Par morceaux qui se recouvrent, ou d'un seul tenant : les mêmes tokens."""
    inside = GPT2.encode(UNSEEN)
    rng = np.random.default_rng(5)
    for _ in range(20):
        ids = [*rng.integers(0, 99, 7).tolist(), *inside[5 : 5 + int(rng.integers(1, 60))], 3]
        ids += [-1, index.tokenizer.eos_id, *inside[40:52]]
        chance = index.chance.length(len(ids))
        (whole,) = overlaps(index.unseen, [[each if each >= 0 else 60_000 for each in ids]])
        wanted = {at for start, end, _ in whole.passages(chance + 1) for at in range(start, end)}
        assert _in_validation(index, ids, chance) == len(wanted)


def test_a_text_of_several_documents_is_in_part(index):
    """Aucun passage n'enjambe un séparateur."""
    found = find_text(index, "<|endoftext|>".join(DOCUMENTS[:2]))
    assert not found.is_whole
    assert found.covered == found.tokens - 1
    assert max(each.length for each in found.passages) < found.tokens - 10


def test_an_empty_text_is_refused(index):
    with pytest.raises(DataError, match="vide"):
        find_text(index, " \n")
