"""Le rapport : une page seule, tout échappé, chaque mesure et chaque texte présents."""

import dataclasses

import pytest
from decoding_helpers import ByteTokenizer, LetterTokenizer, sharp_model
from page_helpers import HOSTILE, read_page

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.evaluation.comparison import VariantResult, compare_strategies, summarize
from gpt_architecture.evaluation.repetition import distinct_n, repetition
from gpt_architecture.reports.comparison import comparison_page, highlights, passages


def result_of(tokens, text, label="essai", prompt="abc", seed=1, **changes):
    result = VariantResult(
        label=label,
        config=GenerationConfig(seed=seed),
        prompt=prompt,
        prompt_ids=(0, 1, 2),
        text=text,
        tokens=tuple(tokens),
        finish="length",
        distinct_1=distinct_n(tokens, 1),
        distinct_2=distinct_n(tokens, 2),
        distinct_3=distinct_n(tokens, 3),
        repetition=repetition(tokens),
        mean_log_prob=-1.5,
        seconds=0.5,
    )
    return dataclasses.replace(result, **changes)


@pytest.fixture(scope="module")
def summaries():
    variants = [
        ("Glouton", GenerationConfig(max_tokens=20)),
        ("Top-k", GenerationConfig(strategy="top_k", k=5, max_tokens=20)),
        ("Mirostat", GenerationConfig(strategy="mirostat", max_tokens=20)),
    ]
    generator = Generator(sharp_model(), LetterTokenizer())
    return summarize(list(compare_strategies(generator, ["abc", "le mot"], variants, seeds=[1, 2])))


@pytest.mark.slow
def test_page_is_alone_and_complete(summaries):
    reader = read_page(comparison_page(summaries, LetterTokenizer(), facts=[("graines", "1, 2")]))
    for summary in summaries:
        for result in summary.results:
            assert result.text.strip() in reader.text
            assert result.prompt in reader.text
    for name in ("Distinct-1", "Distinct-2", "Distinct-3", "Répétition", "Self-BLEU", "Perplexité"):
        assert name in reader.text
    assert "graines" in reader.text
    assert ("lang", "fr") in reader.attributes


def test_one_generation_has_no_self_bleu():
    page = comparison_page(summarize([result_of([1, 2, 3], "bcd")]), LetterTokenizer())
    reader = read_page(page)
    assert "Self-BLEU" in reader.text  # la colonne du tableau, vide
    assert "ressemblance entre graines" not in reader.text  # pas de barres


def test_hostile_texts_are_shown_not_run():
    tokens = tuple(HOSTILE.encode())
    result = result_of(tokens, HOSTILE, label=HOSTILE, prompt=HOSTILE)
    page = comparison_page(summarize([result]), ByteTokenizer(), facts=[("nom", HOSTILE)])
    reader = read_page(page)
    assert reader.text.count("</script><img src=x onerror=alert(1)>") >= 4
    assert "\x00" not in page
    assert "\u202e" not in page
    assert "script" not in reader.tags  # ce gabarit n'en a pas


def test_many_variants_reuse_colors():
    results = [result_of([1, 2, 3], "bcd", label=f"variante {n}") for n in range(11)]
    reader = read_page(comparison_page(summarize(results), LetterTokenizer()))
    assert "variante 10" in reader.text


def test_infinite_perplexity():
    result = result_of([1], "b", mean_log_prob=-1e9)
    assert "∞" in read_page(comparison_page(summarize([result]), LetterTokenizer())).text


class TestPassages:
    def test_a_repeated_passage(self):
        tokens = [1, 2, 3, 4, 9, 1, 2, 3, 4, 8]
        result = result_of(tokens, "bcdejbcdei")
        assert passages(result, LetterTokenizer()) == [
            ("bcdej", False),
            ("bcde", True),
            ("i", False),
        ]

    def test_text_stops_where_the_generation_did(self):
        """Le texte d'arrêt et la fin de texte n'en sont pas."""
        assert passages(result_of([1, 2, 3, 30], "bc"), LetterTokenizer()) == [("bc", False)]

    def test_an_accent_on_two_tokens(self):
        result = result_of("né".encode(), "né")
        assert "".join(text for text, _ in passages(result, ByteTokenizer())) == "né"


class TestHighlights:
    def test_best_of_each(self):
        quick = result_of([1, 2, 3, 4], "bcde", label="vive", seconds=0.1)
        sure = result_of([1, 1, 1, 1], "bbbb", label="sûre", mean_log_prob=-0.1)
        found = {title: labels for title, labels, _ in highlights(summarize([quick, sure]))}
        assert found == {
            "La plus attendue": "sûre",
            "La plus variée": "vive",
            "La plus rapide": "vive",
        }

    def test_more_than_two_winners(self):
        same = [result_of([1, 2], "bc", label=label) for label in "abc"]
        other = result_of([1, 1], "bb", label="d")
        found = {title: labels for title, labels, _ in highlights(summarize([*same, other]))}
        assert found == {"La plus variée": "a, b et d'autres"}

    def test_alone(self):
        titles = [title for title, _, _ in highlights(summarize([result_of([1, 2], "bc")]))]
        assert titles == [
            "La plus attendue",
            "La plus variée",
            "La plus répétitive",
            "La plus rapide",
        ]
