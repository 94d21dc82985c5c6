"""Où un texte est lu : ses occurrences, ses documents, ses lignes ; comparé à la main."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import RunConfig, TrainingConfig
from gpt_architecture.config.mixture import parse_sources
from gpt_architecture.data import named_places, places
from gpt_architecture.data.canaries import PlantedTokens
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.mixtures import MixtureTokens
from gpt_architecture.data.places import Target, find_places, occurrences
from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.simple import split_words, word_places
from gpt_architecture.errors import ConfigurationError, DataError

RATIO = 0.9


def read(folder, tokenizer="char"):
    """Les données de tous les textes d'un dossier."""
    training = TrainingConfig(train_ratio=RATIO)
    run = RunConfig(data=(str(folder),), tokenizer=tokenizer)
    return load_training_data([str(folder)], tokenizer, window=4, training=training), run


def found_text(data, spans):
    return [data.tokenizer.decode(data.train.read(a, b - a).tolist()) for a, b in spans]


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "textes"
    place.mkdir()
    (place / "a.txt").write_text("Un quai.\nDeux quais.\nTrois lampes, l'été.", encoding="utf-8")
    rows = [{"texte": f"Note numéro {n}."} for n in range(1, 5)]
    (place / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (place / "c.txt").write_text("Début<|endoftext|>Milieu du texte<|endoftext|>Fin " * 3)
    return place


def spans_of(data, run, **target):
    return find_places(Target(**target), data, run, train_ratio=RATIO)[0]


def test_documents_by_their_name(folder):
    data, run = read(folder)
    cases = {
        "a.txt": ["Un quai.\nDeux quais.\nTrois lampes, l'été."],
        "b.jsonl:2": ["Note numéro 2."],
        "b.jsonl": [f"Note numéro {n}." for n in range(1, 5)],
        "c.txt#2": ["Milieu du texte"],
        str(folder / "a.txt"): ["Un quai.\nDeux quais.\nTrois lampes, l'été."],
    }
    for name, expected in cases.items():
        assert found_text(data, spans_of(data, run, documents=(name,))) == expected, name


def test_lines_of_a_file_or_its_records(folder):
    data, run = read(folder)
    found = spans_of(data, run, documents=("a.txt",), lines=(2, 3))
    assert found_text(data, found) == ["Deux quais.\nTrois lampes, l'été."]
    found = spans_of(data, run, documents=("b.jsonl",), lines=(3, 4))
    assert found_text(data, found) == ["Note numéro 3.", "Note numéro 4."]
    with pytest.raises(ConfigurationError, match="de 1 à 3"):
        spans_of(data, run, documents=("a.txt",), lines=(2, 4))
    with pytest.raises(DataError, match="n'ont pas de texte"):
        spans_of(data, run, documents=("b.jsonl",), lines=(8, 9))
    with pytest.raises(DataError, match="3 fichiers"):
        spans_of(data, run, lines=(1, 2))
    with pytest.raises(DataError, match=r"aucun document 'd\.txt'"):
        spans_of(data, run, documents=("d.txt",))


def test_two_files_of_one_name_are_told_apart(folder):
    (folder / "autre").mkdir()
    (folder / "autre/a.txt").write_text("Un autre quai, plus loin.", encoding="utf-8")
    data, run = read(folder)
    with pytest.raises(DataError, match="2 fichiers"):
        spans_of(data, run, documents=("a.txt",))
    found = spans_of(data, run, documents=(str(folder / "autre/a.txt"),))
    assert found_text(data, found) == ["Un autre quai, plus loin."]


@pytest.mark.parametrize("tokenizer", ["char", "bpe-300", "gpt2", "simple-v2"])
def test_a_text_wherever_it_is_copied(tmp_path, tokenizer):
    place = tmp_path / "textes"
    place.mkdir()
    content = "La lampe du passeur brille, l'été. Ailleurs : La lampe du passeur, éteinte. " * 6
    (place / "a.txt").write_text(content, encoding="utf-8")
    wanted = tmp_path / "extrait.txt"
    wanted.write_text("\nlampe du passeur\n", encoding="utf-8")
    data, run = read(place, tokenizer)
    train, val = find_places(Target(texts=(str(wanted),)), data, run, train_ratio=RATIO)
    cut = int(RATIO * len(content))
    for spans, source, text in ((train, data.train, content[:cut]), (val, data.val, content[cut:])):
        assert len(spans) == text.count("lampe du passeur") > 0
        for start, stop in spans:
            ids = source.read(start, stop - start).tolist()
            assert data.tokenizer.decode(ids).strip() == "lampe du passeur"


@settings(deadline=None, max_examples=60)
@given(
    st.text("ab", min_size=1, max_size=60),
    st.text("ab", min_size=1, max_size=5),
    st.integers(1, 9),
)
def test_occurrences_are_those_brute_force_finds(text, wanted, block):
    tokenizer = get_tokenizer("char", text="ab")
    source = TokenArray(tokenizer.encode(text))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "BLOCK_TOKENS", block)
        found = {*occurrences(source, tokenizer, wanted)}
    expected = {(at, at + len(wanted)) for at in range(len(text)) if text.startswith(wanted, at)}
    assert found == expected


def test_a_token_that_holds_a_part_is_of_it():
    tokenizer = get_tokenizer("gpt2")
    ids = tokenizer.encode("une automobile rouge")
    found = list(occurrences(TokenArray(ids), tokenizer, "tomob"))
    assert len(found) == 1
    (start, stop), whole = found[0], tokenizer.decode(ids)
    assert "tomob" in tokenizer.decode(ids[start:stop])
    for shorter in (ids[start + 1 : stop], ids[start : stop - 1]):
        assert "tomob" not in tokenizer.decode(shorter)
    assert whole == "une automobile rouge"


def test_word_places_are_the_words():
    text = "L'été, « enfin » — dit-il<|endoftext|>deux  mots"
    raw = text.encode()
    assert [raw[a:b].decode() for a, b in word_places(text)] == split_words(text)


def test_conversations_by_their_line(tmp_path):
    path = tmp_path / "dialogues.jsonl"
    said = [{"role": "user", "content": "Où ?"}, {"role": "assistant", "content": "Ici."}]
    path.write_text(f"\n{json.dumps({'messages': said})}\n" * 6, encoding="utf-8")  # une sur deux
    training = TrainingConfig(train_ratio=0.5, stride=129)
    data = load_chat_data(path, "bpe-280", window=128, training=training)
    run = RunConfig()
    train, val = find_places(Target(documents=("4",)), data, run, train_ratio=0.5)
    assert (len(train), val) == (1, ())
    train, val = find_places(Target(lines=(4, 8)), data, run, train_ratio=0.5)
    assert (len(train), len(val)) == (2, 1)
    with pytest.raises(DataError, match="aucun document '3'"):
        find_places(Target(documents=("3",)), data, run, train_ratio=0.5)


@settings(max_examples=60, deadline=None)
@given(
    insertions=st.lists(st.tuples(st.integers(0, 20), st.integers(1, 3)), max_size=4),
    span=st.tuples(st.integers(0, 19), st.integers(1, 20)),
)
def test_planted_tokens_are_of_no_document(insertions, span):
    """Un passage coupé par un canari est retiré de part et d'autre ; le canari reste."""
    start, stop = span[0], min(20, span[0] + span[1])
    kept = [(place, (99,) * count) for place, count in sorted(insertions)]
    planted = PlantedTokens(TokenArray(range(20)), kept)
    places = [place for a, b in planted.places_of(start, stop) for place in range(a, b)]
    read = planted.read(0, planted.num_tokens).tolist()
    assert [read[place] for place in places] == list(range(start, stop))


@pytest.mark.parametrize("mixed", [False, True])
def test_canaries_do_not_move_what_is_forgotten(folder, mixed):
    data, run = read(folder)
    planted = replace(data, train=PlantedTokens(data.train, [(3, (5, 5)), (12, (7,) * 9)]))
    if mixed:
        sources = parse_sources([f"u={folder}:1", f"v={folder}:1"])
        both = MixtureTokens([data.train, planted.train], sources)
        planted = replace(planted, train=both, val=MixtureTokens([data.val] * 2, sources))
    name = "v/a.txt" if mixed else "a.txt"
    spans = spans_of(planted, run, documents=(name,))
    text = "".join(found_text(planted, spans))
    assert text == "Un quai.\nDeux quais.\nTrois lampes, l'été."
    at = "Deux quais"
    place = folder.with_name("demande.txt")
    place.write_text(at, encoding="utf-8")
    found = found_text(planted, spans_of(planted, run, texts=(str(place),)))
    assert "".join(found).count("quais") == (2 if mixed else 1)


def test_a_target_names_something():
    with pytest.raises(ConfigurationError, match="rien à oublier"):
        Target()
    with pytest.raises(ConfigurationError, match="3-2"):
        Target(lines=(3, 2))
    assert named_places.MAX_SHOWN > 0
