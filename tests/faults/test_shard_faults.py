"""Fragments et corpus fautifs, préparation tuée ou à court de place : rien d'autre n'est abîmé."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cli_helpers import run_process
from shard_helpers import write_folder, write_shard

from gpt_architecture.data.shards import job
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts import documents
from gpt_architecture.data.texts.readers import base, json_records
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError, OutputError

# --- Fragments -----------------------------------------------------------------------------


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


FAULTS = {
    "autre nombre magique": (lambda p: write_shard(p, [1, 2], magic=20240801), "nombre magique"),
    "version 2": (lambda p: write_shard(p, [1, 2], version=2), "version 2"),
    "aucun token": (lambda p: write_shard(p, []), "0 token annoncé"),
    "compte négatif": (lambda p: write_shard(p, [1], count=-1), "-1 token annoncé"),
    "tronqué": (lambda p: cut(p, 1026), "tronqué : 1026 octets pour 2 tokens"),
    "en-tête coupé": (lambda p: cut(p, 100), "100 octets"),
    "vide": (lambda p: cut(p, 0), "0 octets"),
    "trop long": (lambda p: write_shard(p, [1, 2, 3], count=2), "trop long"),
    "identifiant": (lambda p: write_shard(p, [1, 50257]), r"identifiant 50257 au token 1 \(octet"),
    "autre chose": (lambda p: p.write_bytes(b"\x80\x04pickle" * 200), "nombre magique"),
}


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
def test_bad_shard_is_named(tmp_path, fault, indexed):
    """Chaque défaut est dit à l'ouverture, avec le nom du fragment ; l'autre part reste lisible."""
    damage, words = FAULTS[fault]
    folder = write_folder(tmp_path / "d", {"train": [[7, 8], [9, 10]], "val": [[3]]})
    if not indexed:
        (folder / "index.json").unlink()
    damage(folder / "train_000001.bin")
    with pytest.raises(DataError, match=rf"train_000001\.bin.*{words}"):
        open_shards(folder, "train")
    assert open_shards(folder, "val").read(0, 1).tolist() == [3]


def test_missing_shard_is_named(tmp_path):
    """Un fragment de l'index qui manque ; un autre, plus court que ne le dit l'index."""
    folder = write_folder(tmp_path / "d", {"train": [[7, 8], [9, 10]]})
    write_shard(folder / "train_000000.bin", [7])
    with pytest.raises(DataError, match=r"train_000000\.bin : 1 tokens \(attendu : 2"):
        open_shards(folder, "train")
    (folder / "train_000001.bin").unlink()
    with pytest.raises(DataError, match=r"train_000001\.bin : fichier absent"):
        open_shards(folder, "train")


def test_shard_shortened_after_opening(tmp_path):
    """Un fragment raccourci entre l'ouverture et la lecture est refusé, non lu au-delà."""
    write_shard(tmp_path / "train.bin", range(10))
    shards = open_shards(tmp_path, "train")
    cut(tmp_path / "train.bin", 1026)
    with pytest.raises(DataError, match=r"train\.bin"):
        shards.read(0, 10)


# --- Corpus --------------------------------------------------------------------------------


def prepare(source, out, **options):
    options = {"workers": 1, "tokenizer": get_tokenizer("gpt2"), **options}
    return prepare_tokens([source], out, **options)


def test_bad_texts_are_left_out_and_said(tmp_path):
    """Vide, invalide, binaire, UTF-16 : écartés avec leur raison ; BOM et CRLF : nettoyés."""
    folder = tmp_path / "s"
    folder.mkdir()
    files = {
        "bom.txt": "\ufeffbonjour".encode(),
        "crlf.txt": b"un\r\ndeux\rtrois",
        "invalide.txt": b"caf\xe9",
        "nul.txt": b"a\0b",
        "utf16.txt": "bonjour".encode("utf-16"),
        "vide.txt": b"",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    result = prepare(folder, tmp_path / "d", skip_bad=True)
    counts = {reason: entry["count"] for reason, entry in result.skipped.items()}
    assert counts == {
        **{documents.BAD_UTF8: 1, documents.NOT_PLAIN: 1},
        **{documents.NUL_BYTE: 1, documents.EMPTY: 1},
    }
    tokenizer = get_tokenizer("gpt2")
    texts = []
    for split in ("train", "val"):
        shards = open_shards(tmp_path / "d", split)
        texts += tokenizer.decode(shards.read(0, shards.num_tokens).tolist()).split("<|endoftext|>")
    assert sorted(filter(None, texts)) == ["bonjour", "un\ndeux\ntrois"]


def test_corpus_of_bad_texts_only(tmp_path):
    """Rien à garder : une phrase, pas de dossier."""
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\0\0")
    with pytest.raises(DataError, match=r"a\.txt \(du texte UTF-16\)"):
        prepare(tmp_path / "a.txt", tmp_path / "d")
    with pytest.raises(DataError, match=r"a\.txt .*UTF-16.*iconv"):
        prepare(tmp_path / "a.txt", tmp_path / "d", skip_bad=True)
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "d.incomplete").exists()


def test_source_changed_on_the_way(tmp_path, monkeypatch):
    """Un fichier qui change pendant la lecture arrête tout : les tokens n'auraient pas de sens."""
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    original = json_records._fill

    def grow(*arguments):
        with source.open("a", encoding="utf-8") as file:
            file.write('{"text": "c"}\n')
        return original(*arguments)

    monkeypatch.setattr(json_records, "_fill", grow)
    with pytest.raises(DataError, match=r"a\.jsonl a changé"):
        prepare(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


# --- Préparation interrompue ---------------------------------------------------------------

SCRIPT = """
import os, signal, sys
from gpt_architecture.data.texts import documents
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.shards import job, plan
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.writer import ShardWriter
from gpt_architecture.data.tokenizer import SimpleTokenizerV2

where, after = sys.argv[1], int(sys.argv[2])
target, name = {
    "ajout": (ShardWriter, "append"),
    "disque": (os, "fsync"),
    "renommage": (os, "rename"),
}[where]
original, calls = getattr(target, name), 0

def killed(*arguments, **options):
    global calls
    calls += 1
    if calls > after:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)

setattr(target, name, killed)
plan.LONG_TEXT_BYTES, base.BLOCK_BYTES, job.CHECKPOINT_BYTES = 2000, 700, 1500
documents.cut_pieces.__defaults__ = (700,)
vocabulary = SimpleTokenizerV2.from_text(" ".join(f"mot{i}" for i in range(500)))
prepare_tokens(
    ["s"], "d", tokenizer=vocabulary, workers=1, skip_bad=True,
    config=PrepareConfig(shard_tokens=700, val_fraction=0.3),
)
print(calls)
"""


@pytest.fixture
def corpus(tmp_path):
    """Un dossier « s » de textes longs et courts et de lignes, et de quoi le préparer."""
    folder = tmp_path / "s"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        words = [f"mot{n}" for n in rng.integers(0, 500, 60 if i % 2 else 900)]
        (folder / f"{i}.txt").write_text(" ".join(words), encoding="utf-8")
    texts = [" ".join(f"mot{n}" for n in rng.integers(0, 500, 40)) for _ in range(40)]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "z.jsonl").write_text("\n".join([*lines, "{"]), encoding="utf-8")
    (tmp_path / "lance.py").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def launch(folder, where, after):
    return run_process(sys.executable, folder / "lance.py", where, after, cwd=folder)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.process
@pytest.mark.parametrize("where", ["ajout", "disque"])
def test_killed_again_and_again(corpus, where):
    """Tuée sans préavis partout, puis relancée : les mêmes octets qu'en une fois."""
    whole = launch(corpus, where, 10**6)
    assert whole.code == 0, whole.err
    reference = content(corpus / "d")
    calls = int(whole.out)
    assert calls > 15
    for path in (corpus / "d").iterdir():
        path.unlink()
    (corpus / "d").rmdir()
    kills = 0
    while (outcome := launch(corpus, where, 7)).code == -9:
        assert not (corpus / "d").exists()
        assert (corpus / "d.incomplete").is_dir()
        kills += 1
        assert kills < calls
    assert outcome.code == 0, outcome.err
    assert kills >= 2
    assert content(corpus / "d") == reference
    assert not (corpus / "d.incomplete").exists()


@pytest.mark.process
def test_killed_just_before_the_end(corpus):
    """Tuée au moment de renommer : il ne reste qu'à renommer, rien n'est recodé."""
    assert launch(corpus, "renommage", 0).code == -9
    assert not (corpus / "d").exists()
    before = content(corpus / "d.incomplete")
    done = launch(corpus, "ajout", 0)  # le premier ajout de token tuerait
    assert done.code == 0, done.err
    assert content(corpus / "d").items() <= before.items()


def interrupted(tmp_path, monkeypatch, **options):
    """Une préparation arrêtée après quelques points sûrs."""
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "un texte de plus"}\n' * 500, encoding="utf-8")
    monkeypatch.setattr(base, "BLOCK_BYTES", 1000)
    with monkeypatch.context() as patch:
        patch.setattr(job, "CHECKPOINT_BYTES", 500)
        patch.setattr(PrepareReporterThatStops, "left", 6)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, tmp_path / "d", reporter=PrepareReporterThatStops(), **options)
    return source


class PrepareReporterThatStops:
    """Interrompt après quelques tâches, comme Ctrl-C."""

    left = 0

    def on_start(self, total_bytes, done_bytes):
        self.started_at = done_bytes

    def on_progress(self, done_bytes, tokens):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_resume_continues_where_it_stopped(tmp_path, monkeypatch):
    """La relance ne refait pas ce qui est fait, et le dit ; d'autres réglages sont refusés."""
    source = interrupted(tmp_path, monkeypatch)
    with pytest.raises(OutputError, match=r"préparation interrompue.*seed 0 → 3"):
        prepare(source, tmp_path / "d", config=PrepareConfig(seed=3))
    reporter = PrepareReporterThatStops()
    assert prepare(source, tmp_path / "d", reporter=reporter).outcome == "resumed"
    assert reporter.started_at > 1000
    assert prepare(source, tmp_path / "e").outcome == "new"
    assert content(tmp_path / "d") == content(tmp_path / "e")


def test_force_starts_again(tmp_path, monkeypatch):
    """--force abandonne un travail d'autres réglages, ou dont l'état est abîmé."""
    source = interrupted(tmp_path, monkeypatch)
    config = PrepareConfig(seed=3)
    assert prepare(source, tmp_path / "d", config=config, force=True).outcome == "new"
    (tmp_path / "d").rename(tmp_path / "ancien")
    interrupted(tmp_path, monkeypatch)
    (tmp_path / "d.incomplete" / "etat.json").write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match=r"etat\.json est illisible"):
        prepare(source, tmp_path / "d")
    assert prepare(source, tmp_path / "d", force=True).outcome == "new"


def test_lost_tokens_are_noticed(tmp_path, monkeypatch):
    """Un fragment en cours plus court que son état (panne du disque) : refusé, non complété."""
    source = interrupted(tmp_path, monkeypatch)
    cut(next((tmp_path / "d.incomplete").glob("train_*.bin")), 1100)
    with pytest.raises(DataError, match="plus court que ne le dit l'état"):
        prepare(source, tmp_path / "d")


def test_two_preparations_at_once(tmp_path, monkeypatch):
    """La seconde est refusée tout de suite."""
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "un"}\n{"text": "deux"}\n', encoding="utf-8")

    class Second(PrepareReporterThatStops):
        def on_start(self, total_bytes, done_bytes):
            with pytest.raises(OutputError, match="une autre préparation"):
                prepare(source, tmp_path / "d")

    assert prepare(source, tmp_path / "d", reporter=Second()).outcome == "new"


def test_full_disk_leaves_a_clear_line(tmp_path, cli):
    """Un disque de 2 Mo se remplit : une phrase, pas de dossier final, et la reprise aboutit."""
    disk = tmp_path / "disque"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("monter un petit disque demande les droits de root")
    try:
        rng = np.random.default_rng(0)
        source = tmp_path / "a.txt"
        words = rng.integers(0, 2**40, 300_000)
        source.write_text(" ".join(f"{n:x}" for n in words), encoding="utf-8")
        outcome = cli("prepare", source, "--out", disk / "d", "--workers", "1")
        outcome.check_one_line_error(1, "disque plein", "relancez")
        assert not (disk / "d").exists()
        assert (disk / "d.incomplete").is_dir()
        assert os.listdir(disk) == ["d.incomplete"]  # noqa: PTH208
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        assert cli("prepare", source, "--out", disk / "d", "--workers", "1").code == 0
        open_shards(disk / "d", "train").verify()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
