"""La préparation : les tokens sont ceux des documents, où que tombent coupes et processus."""

import json

import numpy as np
import pytest

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.shards import job, plan
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts import documents
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.tokenizer import SimpleTokenizerV1, SimpleTokenizerV2, get_tokenizer
from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
    GPTArchitectureError,
    OutputError,
    TokenizerError,
)

GPT2 = get_tokenizer("gpt2")
EOS = GPT2.eos_id
TEXTS = [f"Le document numéro {i} ; l'eau frottait les graviers. {'mot ' * i}" for i in range(60)]


def write_lines(path, texts, field="text"):
    path.write_text(
        "".join(json.dumps({field: t}, ensure_ascii=False) + "\n" for t in texts), encoding="utf-8"
    )
    return path


def tokens_of(folder, split):
    shards = open_shards(folder, split)
    return shards.read(0, shards.num_tokens).tolist()


def documents_of(folder, split):
    """Les documents d'une part, décodés."""
    parts = GPT2.decode(tokens_of(folder, split)).split(END_OF_TEXT)
    assert parts[0] == ""
    return parts[1:]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(sources, out, **options):
    config = PrepareConfig(
        **{
            name: options.pop(name)
            for name in list(options)
            if name in PrepareConfig.__dataclass_fields__
        }
    )
    return prepare_tokens(sources, out, tokenizer=GPT2, config=config, **{"workers": 1, **options})


def test_every_document_once_in_order(tmp_path):
    """L'oracle : chaque part est la suite de ses documents, précédés de <|endoftext|>."""
    source = write_lines(tmp_path / "a.jsonl", TEXTS)
    result = run([source], tmp_path / "d", val_fraction=0.2)
    parts = {split: documents_of(tmp_path / "d", split) for split in ("train", "val")}
    assert sorted(parts["train"] + parts["val"]) == sorted(TEXTS)
    for part in parts.values():
        assert part == [text for text in TEXTS if text in set(part)]
    assert result.documents == {split: len(part) for split, part in parts.items()}
    assert result.text_bytes == sum(len(text.encode()) for text in TEXTS)
    expected = sum(len(GPT2.encode(text)) for text in TEXTS)
    assert result.bytes_per_token == pytest.approx(result.text_bytes / expected)
    assert 3 < len(parts["val"]) < 25


@pytest.mark.slow
def test_workers_and_shards_do_not_change_the_tokens(tmp_path):
    """Deux processus écrivent les mêmes octets qu'un seul."""
    (tmp_path / "s").mkdir()
    write_lines(tmp_path / "s" / "a.jsonl", TEXTS)
    (tmp_path / "s" / "b.txt").write_text("Un texte.\r\n" * 50, encoding="utf-8-sig")
    run([tmp_path / "s"], tmp_path / "un", shard_tokens=500)
    run([tmp_path / "s"], tmp_path / "deux", shard_tokens=500, workers=2)
    assert content(tmp_path / "un") == content(tmp_path / "deux")
    assert len(list((tmp_path / "un").glob("train_*.bin"))) > 3
    run([tmp_path / "s"], tmp_path / "gros")
    for split in ("train", "val"):
        assert tokens_of(tmp_path / "un", split) == tokens_of(tmp_path / "gros", split)


def test_index_describes_the_files(tmp_path):
    """Comptes, empreintes et documents de l'index sont ceux des fichiers."""
    source = write_lines(tmp_path / "a.jsonl", TEXTS)
    run([source], tmp_path / "d", shard_tokens=300)
    index = json.loads((tmp_path / "d" / "index.json").read_text(encoding="utf-8"))
    assert index["vocab_size"] == 50257
    assert index["tokenizer"] == {"name": "gpt2"}
    for split, described in index["splits"].items():
        open_shards(tmp_path / "d", split).verify()
        assert described["tokens"] == sum(shard["tokens"] for shard in described["shards"])
        assert described["documents"] == sum(shard["documents"] for shard in described["shards"])
        assert described["documents"] == tokens_of(tmp_path / "d", split).count(EOS)
    names = {shard["name"] for part in index["splits"].values() for shard in part["shards"]}
    assert names | {"index.json"} == {path.name for path in (tmp_path / "d").iterdir()}


def test_split_follows_the_text_not_its_place(tmp_path):
    """Un document garde sa part si l'ordre, le format ou les voisins changent."""
    run([write_lines(tmp_path / "a.jsonl", TEXTS)], tmp_path / "a", val_fraction=0.3)
    texts = [*reversed(TEXTS), "un autre", TEXTS[3]]
    run([write_lines(tmp_path / "b.jsonl", texts)], tmp_path / "b", val_fraction=0.3)
    first, second = (set(documents_of(tmp_path / name, "val")) for name in "ab")
    assert first == second - {"un autre"}
    run([tmp_path / "a.jsonl"], tmp_path / "c", val_fraction=0.3, seed=1)
    assert set(documents_of(tmp_path / "c", "val")) != first


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_no_part_is_empty(tmp_path, fraction):
    """Le hasard ne laisse pas de part vide ; l'entraînement garde le plus de texte possible."""
    texts = ["court", "un texte bien plus long que l'autre", "un texte moyen"]
    run([write_lines(tmp_path / "a.jsonl", texts)], tmp_path / "d", val_fraction=fraction)
    assert documents_of(tmp_path / "d", "val") == ([texts[0]] if fraction < 0.5 else texts[::2])
    same = write_lines(tmp_path / "b.jsonl", ["pareil", "pareil"])
    run([same], tmp_path / "e", val_fraction=fraction)
    assert documents_of(tmp_path / "e", "train") == documents_of(tmp_path / "e", "val")


@pytest.mark.parametrize("kind", ["texte", "texte long", "jsonl"])
def test_a_single_document_is_cut_by_position(tmp_path, monkeypatch, kind):
    """Les deux parts bout à bout sont le document entier, token pour token."""
    text = " ".join(f"mot{i}" for i in range(3000))
    if kind == "jsonl":
        lines = [json.dumps({"text": t}) for t in ("", text, " ")]
        source = tmp_path / "a.jsonl"
        source.write_text("\n".join(lines), encoding="utf-8")
    else:
        source = tmp_path / "a.txt"
        source.write_text(text, encoding="utf-8")
    if kind == "texte long":
        monkeypatch.setattr(plan, "LONG_TEXT_BYTES", 100)
        monkeypatch.setattr(documents.cut_pieces, "__defaults__", (1000,))
    result = run([source], tmp_path / "d", val_fraction=0.1)
    train, val = (tokens_of(tmp_path / "d", split) for split in ("train", "val"))
    assert train + val == [EOS, *GPT2.encode(text)]
    assert 0.09 < len(val) / (len(train) + len(val)) < 0.11
    assert result.single_document
    assert result.documents == {"train": 1, "val": 0}


def test_long_texts_are_streamed(tmp_path, monkeypatch):
    """Par morceaux ou d'un bloc, mêmes tokens et même part."""
    (tmp_path / "s").mkdir()
    for i in range(12):
        text = f"\ufeffTexte {i}\r\n" + f"une phrase, l'eau {i} ; " * 400
        (tmp_path / "s" / f"{i:02d}.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "s" / "zz.txt").write_bytes(b"faux \xe9 " * 200)
    run([tmp_path / "s"], tmp_path / "bloc", val_fraction=0.3, skip_bad=True)
    monkeypatch.setattr(plan, "LONG_TEXT_BYTES", 1000)
    monkeypatch.setattr(documents.cut_pieces, "__defaults__", (700,))
    monkeypatch.setattr(job, "CHECKPOINT_BYTES", 1)
    run([tmp_path / "s"], tmp_path / "flux", val_fraction=0.3, skip_bad=True)
    assert content(tmp_path / "bloc") == content(tmp_path / "flux")
    index = json.loads((tmp_path / "flux" / "index.json").read_text(encoding="utf-8"))
    assert list(index["skipped"]) == [documents.BAD_UTF8]


def test_skips_are_counted_with_examples(tmp_path):
    """Chaque raison a son compte et ses premiers exemples."""
    lines = [*(json.dumps({"text": t}) for t in TEXTS), *["{"] * 9, '{"titre": "x"}', ""]
    source = tmp_path / "a.jsonl"
    source.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:61 \(colonne .*skip_bad"):
        run([source], tmp_path / "d")
    result = run([source], tmp_path / "d", skip_bad=True)
    assert sum(result.documents.values()) == 60
    assert {reason: entry["count"] for reason, entry in result.skipped.items()} == {
        documents.BAD_JSON: 9,
        documents.NO_FIELD: 1,
        documents.EMPTY: 2,
    }
    assert result.skipped[documents.BAD_JSON]["examples"][0].startswith(f"{source}:61 (colonne")
    assert len(result.skipped[documents.BAD_JSON]["examples"]) == 2


def test_no_file_hides_the_others(tmp_path):
    """Deux exemples par fichier, cinq en tout ; d'un « nom (1) », c'est le nom qui compte."""
    skips = [
        documents.Skip(reason="r", where=f"{name}:{line} (colonne 2)")
        for name in ("a (1).csv", "a (2).csv", "b.csv", "c.csv")
        for line in range(3)
    ]
    whole, parts, other = documents.Tally(), documents.Tally(), documents.Tally()
    whole.add_skips(skips)
    assert [each.split(" (col")[0] for each in whole.skipped["r"]["examples"]] == [
        *("a (1).csv:0", "a (1).csv:1", "a (2).csv:0", "a (2).csv:1", "b.csv:0")
    ]
    assert whole.skipped["r"]["count"] == 12
    parts.add_skips(skips[:5])
    other.add_skips(skips[5:])
    parts.merge(0, other.skipped)
    assert parts.skipped == whole.skipped


SEPARATED = f"{END_OF_TEXT}\n{END_OF_TEXT}".join(
    f"Récit {i} ; l'eau frottait les graviers.\n{'mot ' * (7 * i)}" for i in range(40)
)


@pytest.mark.parametrize("kind", ["texte", "texte long", "jsonl"])
def test_a_written_separator_separates(tmp_path, monkeypatch, kind):
    """L'oracle : les documents de « train --data » sur le même texte, token pour token."""
    source = tmp_path / ("a.jsonl" if kind == "jsonl" else "a.txt")
    text = f"{END_OF_TEXT}{SEPARATED} {END_OF_TEXT}\n"
    if kind == "jsonl":
        half = text.index(END_OF_TEXT, len(text) // 2)
        write_lines(source, [text[:half], text[half:], END_OF_TEXT])
    else:
        source.write_text(text, encoding="utf-8")
    if kind == "texte long":
        monkeypatch.setattr(plan, "LONG_TEXT_BYTES", 100)
        monkeypatch.setattr(plan, "PIECE_CHARACTERS", 300)
        monkeypatch.setattr(base, "BLOCK_BYTES", 19)  # coupe dans les séparateurs
        monkeypatch.setattr(documents.cut_pieces, "__defaults__", (50,))
    result = run([source], tmp_path / "d", val_fraction=0.3)
    parts = {split: documents_of(tmp_path / "d", split) for split in ("train", "val")}
    trained = GPT2.encode(load_corpus([source]).text, allowed_special={END_OF_TEXT})
    expected = GPT2.decode(trained).split(END_OF_TEXT)
    assert len(expected) == 40
    assert sorted(parts["train"] + parts["val"]) == sorted(expected)
    assert all(part == [each for each in expected if each in set(part)] for part in parts.values())
    counted = sum(tokens_of(tmp_path / "d", split).count(EOS) for split in parts)
    assert counted == 40 == sum(result.documents.values())
    tokens = sum(len(tokens_of(tmp_path / "d", split)) for split in parts)
    assert tokens == len(trained) + 1  # prepare commence aussi le premier document
    assert result.separated == (38 if kind == "jsonl" else 39)
    if kind == "jsonl":
        assert result.skipped[documents.EMPTY]["count"] == 1


def test_one_document_between_separators_is_the_training_text(tmp_path):
    """Un seul document : les deux parts bout à bout sont les tokens de « train --data »."""
    source = tmp_path / "a.txt"
    source.write_text(f"{END_OF_TEXT}\n{END_OF_TEXT}{'Le passeur leva la lampe. ' * 90}", "utf-8")
    result = run([source], tmp_path / "d")
    ids = tokens_of(tmp_path / "d", "train") + tokens_of(tmp_path / "d", "val")
    assert ids == [EOS, *GPT2.encode(load_corpus([source]).text, allowed_special={END_OF_TEXT})]
    assert result.single_document


def test_nothing_but_separators_is_empty(tmp_path, monkeypatch):
    """Un fichier de séparateurs est vide, lu d'un bloc comme en flux."""
    (tmp_path / "a.txt").write_text(END_OF_TEXT * 30, encoding="utf-8")
    (tmp_path / "b.txt").write_text("des mots et des mots", encoding="utf-8")
    for size in (plan.LONG_TEXT_BYTES, 100):
        monkeypatch.setattr(plan, "LONG_TEXT_BYTES", size)
        result = run([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / f"d{size}")
        assert result.skipped[documents.EMPTY]["count"] == 1


def test_a_known_corpus_has_a_validation_worth_a_window(tmp_path):
    """La nouvelle embarquée, par son nom : un dixième, non un centième, fait la validation."""
    result = run(["la-lampe-du-passeur"], tmp_path / "d")
    assert result.val_fraction == 0.1
    assert result.tokens["val"] > 257
    ids = tokens_of(tmp_path / "d", "train") + tokens_of(tmp_path / "d", "val")
    assert ids == [EOS, *GPT2.encode(load_corpus(["la-lampe-du-passeur"]).text)]
    assert run(["la-lampe-du-passeur"], tmp_path / "d").outcome == "present"


def test_done_already(tmp_path):
    """Relancer ne refait rien ; d'autres réglages ou sources demandent --force."""
    source = write_lines(tmp_path / "a.jsonl", TEXTS)
    assert run([source], tmp_path / "d").outcome == "new"
    before = content(tmp_path / "d")
    assert run([source], tmp_path / "d").outcome == "present"
    with pytest.raises(OutputError, match="seed 0 → 1"):
        run([source], tmp_path / "d", seed=1)
    assert content(tmp_path / "d") == before
    write_lines(source, TEXTS[:30])
    with pytest.raises(OutputError, match="sources"):
        run([source], tmp_path / "d")
    assert run([source], tmp_path / "d", force=True).outcome == "new"
    assert sum(run([source], tmp_path / "d").documents.values()) == 30


@pytest.mark.parametrize("force", [False, True])
def test_foreign_folders_are_left_alone(tmp_path, force):
    """Un dossier qui ne vient pas d'ici n'est jamais effacé, même avec --force."""
    source = write_lines(tmp_path / "a.jsonl", TEXTS)
    for name in ("thèse.txt", "train_000000.bin"):
        out = tmp_path / f"d-{name}"
        out.mkdir()
        (out / name).write_text("précieux", encoding="utf-8")
        with pytest.raises(OutputError, match="existe et"):
            run([source], out, force=force)
        assert content(out) == {name: "précieux".encode()}
    with pytest.raises(OutputError, match="n'est pas un dossier"):
        run([source], source, force=force)
    empty = tmp_path / "vide"
    empty.mkdir()
    assert run([source], empty, force=force).outcome == "new"


@pytest.mark.slow
def test_tokenizers_that_do_not_fit(tmp_path):
    """Trop grand pour 16 bits, ou sans séparateur ; un mot inconnu dit d'où il vient."""
    source = write_lines(tmp_path / "a.jsonl", ["un mot", "deux"])
    large = SimpleTokenizerV2([*(f"m{i}" for i in range(65_535)), END_OF_TEXT, "<|unk|>"])
    with pytest.raises(TokenizerError, match="65537 tokens"):
        prepare_tokens([source], tmp_path / "d", tokenizer=large)
    with pytest.raises(TokenizerError, match="endoftext"):
        prepare_tokens([source], tmp_path / "d", tokenizer=SimpleTokenizerV1(["un", "mot"]))
    closed = SimpleTokenizerV1(["un", "mot", END_OF_TEXT])
    for workers in (1, 2):
        with pytest.raises(GPTArchitectureError, match=r"a\.jsonl : mot inconnu.*'deux'"):
            prepare_tokens([source], tmp_path / "d", tokenizer=closed, workers=workers)
    small = SimpleTokenizerV2.from_text("un mot deux")
    prepare_tokens([source], tmp_path / "s", tokenizer=small, workers=2)
    shards = open_shards(tmp_path / "s", "train")
    assert (shards.vocab_size, shards.tokenizer) == (5, small.to_dict())


@pytest.mark.parametrize(
    "options",
    [
        {"field": ""},
        {"val_fraction": 0.0},
        {"val_fraction": 1.0},
        {"shard_tokens": 0},
        {"shard_tokens": 2**31},
        {"seed": -1},
        {"max_record_bytes": 0},
    ],
)
def test_bad_settings(options):
    """Chaque réglage est borné et nommé."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        PrepareConfig(**options)


def test_nothing_to_prepare_leaves_nothing(tmp_path):
    """Sans document valable : une phrase, et aucun dossier."""
    source = write_lines(tmp_path / "a.jsonl", [" "])
    with pytest.raises(DataError, match=r"a\.jsonl:1 : vide \(attendu : du texte\)"):
        run([source], tmp_path / "d")
    (tmp_path / "b.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="un seul document, de 1 caractère"):
        run([tmp_path / "b.txt"], tmp_path / "d")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.txt", "travail"]


def test_progress_reaches_the_total(tmp_path):
    """L'avancement finit au nombre d'octets annoncé."""
    (tmp_path / "s").mkdir()
    write_lines(tmp_path / "s" / "a.jsonl", TEXTS)
    (tmp_path / "s" / "b.txt").write_text("du texte " * 100, encoding="utf-8")

    class Reporter:
        def __init__(self):
            self.calls = []

        def on_start(self, total_bytes, done_bytes):
            self.total = total_bytes
            assert done_bytes == 0

        def on_progress(self, done_bytes, tokens):
            self.calls.append((done_bytes, tokens))

    reporter = Reporter()
    result = run([tmp_path / "s"], tmp_path / "d", reporter=reporter)
    assert reporter.calls == sorted(reporter.calls)
    assert reporter.calls[-1] == (reporter.total, sum(result.tokens.values()))


def test_shards_are_readable_by_numpy_alone(tmp_path):
    """Comme le lecteur de modded-nanogpt : 256 int32, puis des uint16."""
    run([write_lines(tmp_path / "a.jsonl", TEXTS)], tmp_path / "d")
    path = tmp_path / "d" / "train_000000.bin"
    head = np.fromfile(path, dtype=np.int32, count=256)
    tokens = np.fromfile(path, dtype=np.uint16, offset=1024)
    assert head[:3].tolist() == [20240520, 1, len(tokens)]
    assert tokens[0] == EOS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "déjà l'été".encode("latin-1"), "iconv"),
        ("a.txt", "déjà l'été".encode("utf-16"), "iconv"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n{"text": 3}\n', "a.jsonl:2"),
    ],
)
def test_the_only_file_says_its_fault(tmp_path, name, content, words):
    """Seul ou non, un fichier fautif dit son défaut et son remède, non « aucun document »."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        run([tmp_path / name], tmp_path / "d")
    assert "skip_bad" in str(caught.value)
    assert "aucun document" not in str(caught.value)
