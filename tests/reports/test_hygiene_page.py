"""Le bilan d'une préparation : ses nombres sont ceux de l'index, et un texte n'y exécute rien."""

import json
import random
import re
from dataclasses import fields, replace
from html import unescape

import pytest

from gpt_architecture.data.hygiene.config import HygieneConfig, QualityRules
from gpt_architecture.data.hygiene.effects import excerpt
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.reports import hygiene
from gpt_architecture.reports.hygiene import (
    document_lengths,
    hygiene_page,
    length_bars,
    write_hygiene_page,
)

GPT2 = get_tokenizer("gpt2")
HOSTILE = "<script>alert('lampe')</script><img src=x onerror=alert(1)>\u202e"


def texts_of_all_lengths():
    rng = random.Random(0)  # noqa: S311 — un corpus d'essai
    texts = [f"texte {n} " + "mot " * rng.randrange(1, 300) for n in range(60)]
    return [*texts, *[HOSTILE] * 30, texts[0]]


def prepared(tmp_path, texts, **options):
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return prepare_tokens([source], tmp_path / "d", tokenizer=GPT2, workers=1, **options)


def test_the_page_says_what_the_index_says(tmp_path):
    """Documents, retraits, seuils et exemples ; vingt exemples d'une sorte, pas plus."""
    result = prepared(tmp_path, texts_of_all_lengths(), hygiene=HygieneConfig(exact=True))
    write_hygiene_page(tmp_path / "bilan.html", result)
    page = (tmp_path / "bilan.html").read_text("utf-8")
    words = unescape(re.sub(r"<[^>]*>", " ", page)).replace("\u00a0", " ")
    assert "gardés sur 91" in words
    assert re.search(r"doublon exact\s+30 documents", words)
    assert page.count('<p class="where">') == 20
    assert re.search(r"doublons exacts\s+oui", words)
    assert re.search(r"de \S*a\.jsonl:61", words)


def test_a_language_has_its_name(tmp_path):
    """Le nom plutôt que son code ; d'une langue que la page ne nomme pas, le code."""
    found = {"fr": [3, 600], "en": [1, 300], "xh": [1, 90], "?": [1, 10]}
    result = prepared(tmp_path, ["un texte"] * 4, hygiene=HygieneConfig(exact=True))
    page = hygiene_page(replace(result, hygiene={**result.hygiene, "languages": found}))
    words = unescape(re.sub(r"<[^>]*>", " ", page))
    shown = [re.search(rf"\s{name}\s", words) for name in ("français", "anglais", "code xh")]
    assert [match.start() for match in shown] == sorted(match.start() for match in shown)
    assert re.search(r"\sinconnue\s", words)


def test_a_hostile_text_is_only_shown(tmp_path):
    """Ce qu'un document contient est échappé ; ce qui ne se voit pas est rendu visible."""
    result = prepared(tmp_path, texts_of_all_lengths(), hygiene=HygieneConfig(exact=True))
    page = hygiene_page(result)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert not re.search(r"<[^>]*(src|href|onerror)=", page)


@pytest.mark.parametrize("chunk", [1 << 22, 37])
def test_lengths_are_those_of_the_documents(tmp_path, monkeypatch, chunk):
    """L'histogramme relu des fragments, où que tombent les morceaux."""
    texts = texts_of_all_lengths()
    monkeypatch.setattr(hygiene, "_READ_TOKENS", chunk)
    found = document_lengths(prepared(tmp_path, texts))
    expected = [0] * 64
    for text in texts:
        expected[len(GPT2.encode(text)).bit_length() - 1] += 1
    assert found == expected
    bars = length_bars(found)
    assert sum(int(bar.count) for bar in bars) == len(texts)
    assert max(bar.share for bar in bars) == 1.0


def test_without_hygiene_the_page_still_says_what_was_prepared(tmp_path):
    """Ni retraits ni langues : les tokens, les longueurs, et ce qui n'a pas été lu."""
    page = hygiene_page(prepared(tmp_path, ["un deux trois", "quatre cinq", " "]))
    assert "aucune hygiène" in page
    assert "Ce qui a été retiré" not in page
    assert "Ce qui n'a pas été lu" in unescape(page)
    assert length_bars([0] * 64) == []


def test_thresholds_and_excerpts_are_readable(tmp_path):
    """Chaque seuil a un nom français, et un extrait ne coupe aucun mot."""
    loose = QualityRules(min_words=0, function_words=0, max_word_length=99, repeated_lines=1.0)
    result = prepared(
        tmp_path, ["Il est sur la rive.", "Elle va."], hygiene=HygieneConfig(quality=loose)
    )
    page = unescape(hygiene_page(result))
    assert "qualité : mots, au moins" in page
    assert not any(each.name in page for each in fields(QualityRules) if "_" in each.name)
    words = excerpt("fragmentation " * 90).split()
    assert set(words) == {"fragmentation", "[…]"}
    assert excerpt("x" * 500).startswith("x" * 200)
