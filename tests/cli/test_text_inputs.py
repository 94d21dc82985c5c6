"""Un texte d'une personne, de quelque système qu'il vienne : le même partout, ou un refus clair."""

import gzip
import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt_architecture.cli.command import read_stdin
from gpt_architecture.cli.sampling import (
    FilterOptions,
    SamplingOptions,
    ShapeOptions,
    generation_config,
)
from gpt_architecture.config import END_OF_TEXT, TrainingConfig
from gpt_architecture.data.datasets import load_training_data
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.evaluation.perplexity import read_token_documents
from gpt_architecture.interop import vocabulary
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.http.access import read_keys
from gpt_architecture.serving.openai.strict_bodies import parse_body

TEMPLATE = "{% for m in messages %}\n{{ m.content }}\n{% endfor %}"


@pytest.fixture
def model(trained):
    return trained / "gpt-model.pt"


def of_windows(text):
    """Le même texte, enregistré par un éditeur de Windows."""
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()


def typed(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="cp1252"))


FILES = {
    "prompts": ("La lampe\nLe passeur\n", ["infer", "--model", "M", "--prompts", "F"]),
    "config": ('[infer]\nprompt = "La lampe"\n', ["infer", "--model", "M", "--config", "F"]),
    "texte": ("La lampe.\nLe passeur.\n", ["tokenizer", "view", "F", "--json"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_windows_gives_the_same(cli, model, name):
    """BOM et CRLF ne changent rien ; un autre encodage est refusé en une phrase."""
    text, command = FILES[name]
    found = []
    for data in (text.encode(), of_windows(text)):
        Path("f").write_bytes(data)
        arguments = [part.replace("F", "f").replace("M", str(model)) for part in command]
        seeded = ["--seed", "1", "--max-tokens", "9"] if command[0] == "infer" else []
        outcome = cli(*arguments, *seeded)
        assert outcome.code == 0, outcome.err
        found.append(outcome.out)
    assert found[0] == found[1]
    for encoding in ("utf-16", "cp1252"):
        Path("f").write_bytes(f"{text}’".encode(encoding))
        outcome = cli(*arguments)
        named = "WINDOWS-1252" if encoding == "cp1252" else "UTF-16"
        outcome.check_one_line_error(2 if name == "config" else 1, "f", f"iconv -f {named}")


@pytest.mark.parametrize("command", [["infer", "--prompt", "-"], ["tokenizer", "view", "-"]])
def test_standard_input_of_windows(cli, model, monkeypatch, command):
    """« - » lit des octets : ni la langue du système ni le BOM n'y changent rien."""
    more = ["--model", str(model), "--seed", "1"] if command[0] == "infer" else []
    found = []
    for data in ("Été\nnoir".encode(), of_windows("Été\nnoir")):
        typed(monkeypatch, data)
        outcome = cli(*command, *more)
        assert outcome.code == 0, outcome.err
        found.append(outcome.out)
    assert found[0] == found[1]
    for data, words in (("é".encode("utf-16"), "UTF-16"), (b"c\x9cur", "WINDOWS-1252")):
        typed(monkeypatch, data)
        cli(*command, *more).check_one_line_error(1, "l'entrée standard", words)


def test_schemas_of_windows():
    """« --json-schema @fichier » se lit comme le reste."""
    schema = '{"type": "string",\n "maxLength": 3}'
    Path("s.json").write_bytes(of_windows(schema))
    shape, settings = ShapeOptions(json_schema="@s.json"), (SamplingOptions(), FilterOptions())
    assert generation_config(*settings, shape).json_schema == schema
    Path("s.json").write_bytes(schema.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        generation_config(*settings, shape)


def test_bodies_of_windows():
    """Un corps HTTP qui commence par un BOM est du JSON."""
    assert parse_body(of_windows('{"a":\n1}'), max_depth=3) == {"a": 1}
    with pytest.raises(ApiError, match="UTF-8"):
        parse_body('{"a": 1}'.encode("utf-16"), max_depth=3)


def test_keys_of_windows():
    """La première clé d'un fichier n'a pas de BOM, la dernière pas de CR."""
    Path("k").write_bytes(of_windows("# nos clés\nune-clé-assez-longue\nune-autre-clé-longue\n"))
    assert read_keys(Path("k")) == ["une-clé-assez-longue", "une-autre-clé-longue"]
    Path("k").write_bytes("une-clé-assez-longue".encode("utf-16"))
    with pytest.raises(ConfigurationError, match="UTF-16"):
        read_keys(Path("k"))


def test_merges_of_windows(tmp_path):
    """Les fusions d'un dossier de Transformers passé par Windows."""
    own = BPETokenizer.from_text("le passeur leva la lampe " * 9, 270)
    description = own.to_dict()
    ids = {token: index for index, token in enumerate(description["vocab"])}
    (tmp_path / "vocab.json").write_bytes(of_windows(json.dumps(ids)))
    merges = "\n".join(["#version: 0.2", *description["merges"]])
    (tmp_path / "merges.txt").write_bytes(of_windows(merges))
    text = "le passeur leva"
    assert vocabulary._from_vocabulary_files(tmp_path).encode(text) == own.encode(text)


@pytest.mark.slow
def test_tokenizers_templates_and_conversations(cli, tmp_path):
    """Le tokenizer, le gabarit et les conversations d'un Windows."""
    own = tmp_path / "t.json"
    cli("tokenizer", "train", "la-lampe-du-passeur", "--out", own, "--vocab-size", "300")
    expected = get_tokenizer(own).to_dict()
    own.write_bytes(of_windows(own.read_text(encoding="utf-8")))
    assert get_tokenizer(own).to_dict() == expected
    talk = [{"role": "user", "content": "Qui ?"}, {"role": "assistant", "content": "Lui."}]
    (tmp_path / "c.jsonl").write_bytes(of_windows((json.dumps({"messages": talk}) + "\n") * 8))
    (tmp_path / "g").write_bytes(of_windows(TEMPLATE))
    outcome = cli(
        *("train", "--chat", tmp_path / "c.jsonl", "--chat-template", tmp_path / "g"),
        *("--tokenizer", own, "--output-dir", tmp_path / "m", "--emb-dim", 16, "--n-heads", 2),
        *("--n-layers", 1, "--context-length", 32, "--max-steps", 1, "--batch-size", 1),
    )
    assert outcome.code == 0, outcome.err


# --- Un seul lecteur -------------------------------------------------------------------------

TEXTS = [f"Document {i} : l'eau frottait les graviers. " + "mot " * i for i in range(30)]


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet", "txt"])
def source(tmp_path, request):
    """Les mêmes documents dans chaque format, et un champ que personne n'a demandé."""
    path = tmp_path / f"corpus.{request.param}"
    lines = "".join(json.dumps({"corps": t, "id": "bruit"}) + "\n" for t in TEXTS).encode()
    if request.param == "parquet":
        pq.write_table(pa.table({"corps": TEXTS, "id": ["bruit"] * len(TEXTS)}), path)
    elif request.param == "txt":
        path.write_text(END_OF_TEXT.join(TEXTS), encoding="utf-8")
    else:
        path.write_bytes(gzip.compress(lines) if request.param.endswith("gz") else lines)
    return path


@pytest.mark.slow
def test_every_command_sees_the_same_documents(source, tmp_path):
    """Apprendre, mesurer, préparer et faire un vocabulaire : les mêmes textes, token pour token."""
    gpt2, training = get_tokenizer("gpt2"), TrainingConfig(batch_size=1, train_ratio=0.5)
    expected = [gpt2.encode(text) for text in TEXTS]
    measured = read_token_documents([str(source)], gpt2, field="corps")
    assert [document.tokens for document in measured] == expected

    data = load_training_data([str(source)], "gpt2", window=8, training=training, field="corps")
    learned = [i for part in (data.train, data.val) for i in part.read(0, part.num_tokens).tolist()]
    assert gpt2.decode(learned) == END_OF_TEXT.join(TEXTS)
    assert data.sha256 == load_corpus([source], field="corps").sha256

    config = PrepareConfig(field="corps", val_fraction=0.3)
    prepare_tokens([source], tmp_path / "d", tokenizer=gpt2, config=config, workers=1)
    prepared = []
    for split in ("train", "val"):
        shards = open_shards(tmp_path / "d", split)
        prepared += shards.read(0, shards.num_tokens).tolist()
    documents = gpt2.decode(prepared).split(END_OF_TEXT)[1:]
    assert sorted(documents) == sorted(TEXTS)
    assert "".join(SourceTexts([str(source)], field="corps")) == "".join(TEXTS)


@pytest.mark.slow
def test_a_resumed_training_keeps_its_field(cli, tmp_path):
    """--field se retrouve à la reprise, et à l'évaluation de la mémorisation."""
    path = tmp_path / "c.jsonl"
    lines = [json.dumps({"corps": text * 4}) + "\n" for text in TEXTS]
    path.write_text("".join(lines), encoding="utf-8")
    shape = ("--emb-dim", 16, "--n-heads", 2, "--n-layers", 1, "--context-length", 16)
    out = ("--output-dir", tmp_path / "m")
    run = ("--data", path, "--field", "corps", "--max-steps", 2, "--save-every", 2)
    first = cli("train", *run, *shape, *out, "--tokenizer", "char")
    assert first.code == 0, first.err
    again = cli("train", "--resume", tmp_path / "m", "--max-steps", 3)
    assert again.code == 0, again.err
    absent = cli("train", "--data", path, *shape, "--field", "absent")
    absent.check_one_line_error(1, "ligne 1 (absent ; il y a corps)", "champ absent")


@pytest.mark.slow
def test_what_a_folder_leaves_out_is_said(cli, tmp_path):
    """Une extension inconnue dans un dossier : le compte et les noms, bornés."""
    folder = tmp_path / "textes"
    folder.mkdir()
    (folder / "a.txt").write_text("Le passeur leva la lampe. " * 60, encoding="utf-8")
    (folder / "b.jsonl").write_text('{"text": " "}\n{"text": "deux"}\n', encoding="utf-8")
    for i in range(7):
        (folder / f"x{i}.xyz").write_text("a,b", encoding="utf-8")
    shape = ("--emb-dim", 16, "--n-heads", 2, "--n-layers", 1, "--context-length", 16)
    outcome = cli("train", "--data", folder, *shape, "--max-steps", 1)
    assert outcome.code == 0, outcome.err
    assert "7 laissés de côté, extension inconnue : " in outcome.err
    assert "x4.xyz ; …" in outcome.err
    assert "x5.xyz" not in outcome.err
    assert "1 laissé de côté, vide : " in outcome.err


@pytest.mark.slow
def test_a_written_separator_is_said_by_training(cli, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(END_OF_TEXT.join(["Le passeur leva la lampe. " * 9] * 9), encoding="utf-8")
    shape = ("--emb-dim", 16, "--n-heads", 2, "--n-layers", 1, "--context-length", 16)
    outcome = cli("train", "--data", path, *shape, "--max-steps", 1)
    assert "y sépare 8 documents de plus" in outcome.err, outcome.err


def test_lines_of_standard_input(monkeypatch):
    """Les questions d'une conversation, lues une à une dans un fichier de Windows."""
    typed(monkeypatch, of_windows("Été\nnoir") + b"\r\n\x92\r\n")
    assert [read_stdin(line=True) for _ in range(2)] == ["Été\n", "noir\n"]
    with pytest.raises(DataError, match="WINDOWS-1252"):
        read_stdin(line=True)
    assert read_stdin(line=True) == ""
