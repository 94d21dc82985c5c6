"""Les textes d'un corpus, au fil de l'eau : toutes les sortes de fichiers, mémoire bornée."""

import gzip
import json
import tracemalloc

import pytest

from gpt_architecture import train_tokenizer
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import DataError


def test_every_kind_in_order(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfun\r\ndeux")
    lines = [json.dumps({"text": "trois"}), "{cass", "", json.dumps({"text": "quatre"})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "cinq"}'))
    (tmp_path / "d.txt").write_bytes(b"\xff\xff")
    (tmp_path / "e.png").write_bytes(b"x")
    seen = []
    texts = SourceTexts(
        [str(tmp_path)],
        skip_bad=True,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert list(texts) == ["un\ndeux", "trois", "quatre", "cinq"]
    skipped = {reason: entry["count"] for reason, entry in texts.tally.skipped.items()}
    assert skipped == {"JSON invalide": 1, "vide": 1, "UTF-8 invalide": 1, "extension inconnue": 1}
    assert texts.tally.text_bytes == len("un\ndeuxtroisquatrecinq")
    assert seen == sorted(seen)
    assert seen[-1][0] <= seen[-1][1]


def test_field_and_named_corpus(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"corps": "oui", "text": "non"}', encoding="utf-8")
    assert list(SourceTexts([str(path)], field="corps")) == ["oui"]
    assert "lampe" in "".join(SourceTexts(["la-lampe-du-passeur"]))


def test_long_file_is_never_whole_in_memory(tmp_path):
    path = tmp_path / "long.txt"
    line = "Le passeur leva la lampe.\n"
    path.write_text(line * 600_000, encoding="utf-8")  # 15 Mo
    tracemalloc.start()
    try:
        count = sum(len(text) for text in SourceTexts([str(path)]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(line) * 600_000
    assert peak < 8e6


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="introuvable"):
        SourceTexts([str(tmp_path / "absent.txt")])
    (tmp_path / "vide.txt").write_text("  ", encoding="utf-8")
    with pytest.raises(DataError, match="aucun texte"):
        list(SourceTexts([str(tmp_path / "vide.txt")]))


def test_conversations_give_their_messages(tmp_path):
    """Une ligne {"messages": …} apprend les textes de ses messages ; prepare la désigne."""
    talk = [{"role": "user", "content": "Qui passe ?"}, {"role": "assistant", "content": None}]
    lines = [{"messages": [*talk, {"content": "Le passeur.\r\n"}]}, {"messages": []}, {"x": 1}]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    texts = SourceTexts([str(path)], skip_bad=True)
    assert list(texts) == ["Qui passe ?", "Le passeur.\n"]
    assert texts.tally.skipped["champ absent"]["count"] == 2
    with pytest.raises(DataError, match="la ligne est une conversation"):
        prepare_tokens([path], tmp_path / "d", tokenizer=get_tokenizer("gpt2"))


def test_separators_teach_nothing(tmp_path, monkeypatch):
    """Où que les lectures le coupent, <|endoftext|> n'est pas un texte à apprendre."""
    monkeypatch.setattr(base, "BLOCK_BYTES", 7)
    path = tmp_path / "a.txt"
    path.write_text("un<|endoftext|>deux<|endoftext|><|endoftext|>trois", encoding="utf-8")
    assert "".join(SourceTexts([str(path)])) == "undeuxtrois"
    learned = CharTokenizer.train(SourceTexts([str(path)]))
    assert sorted(learned.to_dict()["vocab"]) == sorted([*set("undeuxtrois"), "<|endoftext|>"])


def test_what_is_set_aside_teaches_nothing(tmp_path):
    """Un long fichier gâté à sa fin est laissé de côté entier, et non appris jusque-là."""
    (tmp_path / "a.txt").write_bytes(b"faux " * 500_000 + b"\xff")
    (tmp_path / "b.txt").write_text("vrai", encoding="utf-8")
    texts = SourceTexts([str(tmp_path)], skip_bad=True)
    assert list(texts) == ["vrai"]
    assert texts.tally.skipped["UTF-8 invalide"]["count"] == 1
    with pytest.raises(DataError, match=r"a\.txt.*UTF-8 invalide"):
        list(SourceTexts([str(tmp_path)]))


def test_the_library_reads_what_the_command_reads(tmp_path):
    """Un champ évident est trouvé, un fichier gâté s'écarte si on le demande, comme en ligne."""
    (tmp_path / "a.jsonl").write_text('{"contenu": "le passeur et la lampe"}\n{', encoding="utf-8")
    given, out = str(tmp_path / "a.jsonl"), tmp_path / "t.json"
    with pytest.raises(DataError, match="JSON invalide"):
        train_tokenizer(given, out, vocab_size=260, offline=True)
    assert not out.exists()
    found = train_tokenizer(given, out, vocab_size=260, skip_bad=True, offline=True)
    assert found.text_bytes == len("le passeur et la lampe")
    assert found.skipped["JSON invalide"]["count"] == 1


def test_progress_never_goes_past_the_end(tmp_path):
    """D'un texte compressé, les octets lus sont bornés par ceux du fichier."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"Le passeur. " * 500_000))
    seen = []
    texts = SourceTexts([str(tmp_path)], on_progress=lambda *counts: seen.append(counts))
    assert len("".join(texts)) == 6_000_000
    assert seen
    assert all(done <= total for done, total in seen)
    assert seen == sorted(seen)
