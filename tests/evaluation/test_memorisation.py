"""La mémorisation : un perroquet est pris, un texte neuf ne l'est pas."""

import random

import pytest
from decoding_helpers import ByteTokenizer, LetterTokenizer, sharp_model

from gpt_architecture.data.shards.reader import TokenArray
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.comparison import VariantResult, compare_strategies
from gpt_architecture.evaluation.memorisation import (
    WITHOUT_REFERENCE,
    measure_memorisation,
    openings,
)


def written(tokens, *, label="Glouton", prompt=(1, 2, 3), text=None, seed=1):
    return VariantResult(
        label=label,
        config=GenerationConfig(seed=seed),
        prompt="abc",
        prompt_ids=tuple(prompt),
        text=bytes(tokens).decode(errors="replace") if text is None else text,
        tokens=tuple(tokens),
        finish="length",
        distinct_1=1.0,
        distinct_2=1.0,
        distinct_3=1.0,
        repetition=0.0,
        mean_log_prob=-1.0,
        seconds=1.0,
    )


def noise(seed, size):
    return random.Random(seed).choices(range(20), k=size)  # noqa: S311 — une graine, pas un secret


TRAINING = noise(1, 3000)
UNSEEN = TokenArray(noise(2, 1500))


def test_a_parrot_is_told_from_chance():
    parrot = written(TRAINING[400:440], label="Perroquet", prompt=TRAINING[390:400])
    author = written(noise(3, 40), label="Auteur", prompt=[19] * 10)
    report = measure_memorisation([parrot, author], TokenArray(TRAINING), unseen=UNSEEN)
    first, second = report.variants
    assert (first.label, second.label) == ("Perroquet", "Auteur")
    assert first.longest == 40
    assert [first.share(n) for n in report.orders] == [1.0] * 5
    assert second.longest < report.threshold <= 8
    assert second.share(16) == 0.0
    assert first.recited(report.threshold) == (1, 1)
    assert second.recited(report.threshold) == (0, 1)
    assert report.recited == (1, 2)
    assert first.texts[0].known_prompt
    assert not second.texts[0].known_prompt
    assert first.recited(report.threshold, known_prompt=False) == (0, 0)


def test_the_longest_passage_is_shown_where_it_was_learned():
    parrot = written([255, *TRAINING[10:40], 255], label="Perroquet")
    excerpt = measure_memorisation([written([3]), parrot], TokenArray(TRAINING)).excerpt
    assert excerpt.label == "Perroquet"
    assert list(excerpt.before + excerpt.passage + excerpt.after) == TRAINING[: 40 + 24]
    assert list(excerpt.passage) == TRAINING[10:40]
    nothing = measure_memorisation([written([255])], TokenArray(TRAINING))
    assert nothing.excerpt is None
    assert nothing.variants[0].longest == 0


def test_reference_is_the_same_measure_on_unseen_text():
    report = measure_memorisation([written(noise(3, 50))], TokenArray(TRAINING), unseen=UNSEEN)
    assert len(report.reference) == 30
    assert {len(each.lengths) for each in report.reference} == {50}
    known = {tuple(TRAINING[i : i + 2]) for i in range(len(TRAINING) - 1)}
    unseen = noise(2, 1500)
    pairs = [
        tuple(unseen[start + i : start + i + 2]) for start in range(0, 1500, 50) for i in range(49)
    ]
    assert report.reference_share(2) == pytest.approx(sum(p in known for p in pairs) / len(pairs))
    longest = sorted(each.longest for each in report.reference)
    assert report.chance_length == longest[28]  # 29 extraits sur 30 ne le dépassent pas
    assert report.reference_longest == longest[-1]


def test_without_reference():
    report = measure_memorisation([written(TRAINING[:20])], TokenArray(TRAINING))
    assert report.threshold == WITHOUT_REFERENCE
    assert (report.chance_length, report.reference_longest, report.reference_share(2)) == (
        None,
        None,
        None,
    )
    assert report.to_dict()["reference"]["texts"] == 0


def test_unseen_text_shorter_than_a_generation():
    report = measure_memorisation(
        [written(noise(3, 50))], TokenArray(TRAINING), unseen=TokenArray([1, 2, 3])
    )
    assert len(report.reference) == 1


def test_a_text_too_short_has_no_ngram():
    report = measure_memorisation([written([7])], TokenArray(TRAINING))
    assert report.variants[0].share(2) is None


@pytest.mark.parametrize("results", [[], [written([])]])
def test_nothing_generated(results):
    with pytest.raises(DataError, match="aucun texte"):
        measure_memorisation(results, TokenArray(TRAINING))


def test_passages_are_shown_where_they_are():
    training = TokenArray(list(b"il regardait la mer sans rien dire du tout"))
    text = "XYZ regardait la mer sans WXé"
    report = measure_memorisation([written(text.encode(), text=text)], training)
    pieces = report.variants[0].texts[0].marked_text(report.threshold, ByteTokenizer())
    assert pieces == [("XYZ", False), (" regardait la mer sans ", True), ("WXé", False)]


def test_a_real_model_end_to_end():
    generator = Generator(sharp_model(), LetterTokenizer())
    variants = [
        ("Glouton", GenerationConfig(max_tokens=12)),
        ("Top-k", GenerationConfig(strategy="top_k", k=5, max_tokens=12)),
    ]
    results = list(compare_strategies(generator, ["abc", "mot"], variants, seeds=[1]))
    training = LetterTokenizer().encode("abc" + results[0].text)
    report = measure_memorisation(results, TokenArray(training))
    assert report.variants[0].longest == 12
    content = report.to_dict()
    assert [each["label"] for each in content["variants"]] == ["Glouton", "Top-k"]
    assert content["variants"][0]["texts"] == 2


class TestOpenings:
    TEXT = (
        "un. Le chat dort. Il rêve. La mer monte encore ! Elle se tait. Où va-t-il ? Nul ne sait."
    )

    def test_they_begin_sentences(self):
        source = TokenArray(list(self.TEXT.encode()))
        found = openings(source, ByteTokenizer(), count=3, length=7)
        assert len(found) == 3
        for opening in found:
            text = ByteTokenizer().decode(opening)
            assert text in self.TEXT
            assert text[0].isupper()

    def test_no_character_is_cut(self):
        source = TokenArray(list("ééééé".encode()))
        (first, *_) = openings(source, ByteTokenizer(), count=1, length=3)
        assert ByteTokenizer().decode(first) == "é"

    def test_a_short_text_gives_fewer(self):
        assert openings(TokenArray([65, 66]), ByteTokenizer(), count=5, length=8) == []
