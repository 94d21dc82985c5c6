"""Textes à mesurer : chaque source, ses documents, ce qui est refusé."""

import json

import pytest

from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.tokenizer import GPT2Tokenizer, SimpleTokenizerV2
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.perplexity import read_token_documents


@pytest.fixture(scope="module")
def gpt2():
    return GPT2Tokenizer()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_text_and_its_parts(tmp_path, gpt2):
    """<|endoftext|> sépare des documents ; les octets sont ceux de chacun."""
    source = write(tmp_path / "a.txt", "Été.<|endoftext|>La lampe.\n<|endoftext|>\n")
    first, second = read_token_documents([source], gpt2)
    assert [first.name, second.name] == ["a.txt#1", "a.txt#2"]
    assert first.tokens == gpt2.encode("Été.")
    assert (first.num_bytes, second.num_bytes) == (6, 10)
    assert first.first_bytes == len(gpt2.token_bytes()[first.tokens[0]])


def test_every_kind_of_source(tmp_path, gpt2):
    """Dossier trié, JSONL ligne par ligne, corpus connu par son nom."""
    folder = tmp_path / "dossier"
    folder.mkdir()
    write(folder / "b.txt", "deux")
    write(folder / "a.md", "un")
    write(folder / "image.png", "ignorée")
    lines = "\n".join(json.dumps({"corps": text}) for text in ("trois", "quatre"))
    jsonl = write(tmp_path / "c.jsonl", lines)
    documents = read_token_documents([str(folder)], gpt2)
    documents += read_token_documents([jsonl], gpt2, field="corps")
    documents += read_token_documents(["la-lampe-du-passeur"], gpt2, offline=True, max_tokens=7)
    names = ["a.md", "b.txt", "c.jsonl:1", "c.jsonl:2", "la-lampe-du-passeur"]
    assert [each.name for each in documents] == names
    assert gpt2.decode(documents[3].tokens) == "quatre"
    last = documents[-1]
    assert len(last.tokens) == 7
    assert last.num_bytes == len(gpt2.decode(last.tokens).encode())


def test_limits(tmp_path, gpt2):
    source = write(tmp_path / "a.txt", "un deux trois<|endoftext|>quatre")
    (only,) = read_token_documents([source], gpt2, limit=1, max_tokens=2)
    assert len(only.tokens) == 2
    assert only.num_bytes == len(gpt2.decode(only.tokens).encode()) < 13


def test_shards(tmp_path, gpt2):
    """La part de validation d'un dossier préparé, document par document."""
    texts = [f"Document numéro {number}, avec sa propre fin." for number in range(12)]
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    source, folder = write(tmp_path / "c.jsonl", lines), tmp_path / "fragments"
    config = PrepareConfig(val_fraction=0.5)
    prepare_tokens([source], folder, tokenizer=gpt2, config=config, workers=1)
    found = read_token_documents([str(folder)], gpt2)
    assert 1 < len(found) < 12
    for each in found:
        assert gpt2.decode(each.tokens) in texts
        assert each.num_bytes == len(gpt2.decode(each.tokens).encode())
    other = SimpleTokenizerV2.from_text("un deux")
    with pytest.raises(DataError, match=r"tokenizer|identifiant"):
        read_token_documents([str(folder)], other)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "un"}\n{"text": 3}\n', "ligne 2"),
        ("a.jsonl", '{"text": "un"}\n\n{"texte": "deux"}\n', "ligne 3"),
        ("a.jsonl", "{\n", r"ligne 1 \(colonne 1\) : JSON invalide"),
        ("a.txt", "  \n", "vide"),
        ("a.txt", "un\0deux", "octet nul"),
    ],
)
def test_bad_files_are_named(tmp_path, gpt2, name, content, words):
    with pytest.raises(DataError, match=words):
        read_token_documents([write(tmp_path / name, content)], gpt2)


def test_missing_source(tmp_path, gpt2):
    with pytest.raises(DataError, match="introuvable"):
        read_token_documents([str(tmp_path / "absent.txt")], gpt2)


def test_words_have_bytes_too(tmp_path):
    """Un tokenizer de mots n'a pas d'octets par token : le texte en a."""
    tokenizer = SimpleTokenizerV2.from_text("le passeur leva la lampe")
    (found,) = read_token_documents([write(tmp_path / "a.txt", "le passeur")], tokenizer)
    assert (found.num_bytes, found.first_bytes) == (10, 2)
