"""Le lot vu par NumPy dit ce que dirait une lecture lente, document par document."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.data.hygiene import batch as batches
from gpt_architecture.data.hygiene.batch import Batch, Known, hash_text, union
from gpt_architecture.data.hygiene.config import FUNCTION_WORDS
from gpt_architecture.data.hygiene.quality import FunctionWords, features_of

WORDS = [
    "l'eau",
    "Été",
    "DE",
    "la",
    "ÎLE",
    "x_1",
    "42",
    "naïve",
    "«",
    "…",
    "...",
    "-",
    "—",
    "•",
    "#",
]
TEXTS = st.lists(
    st.lists(
        st.one_of(
            st.sampled_from([*WORDS, "est", "the", "and", "dans"]),
            st.sampled_from(["\n", "\n\n", " \n", "\t", ".\n", "…\n", "\u00a0"]),
            st.text(alphabet="aàé'Z9 \n.İß²٣漢\U0001f600", min_size=1, max_size=4),
        ),
        max_size=40,
    ).map(" ".join),
    min_size=1,
    max_size=5,
).filter(any)


def words_of(text):
    return re.findall(r"\w+", text.lower())


def lines_of(text):
    return [line.strip() for line in text.lower().split("\n")]


def paragraphs_of(text):
    """(Première ligne, ligne qui suit) : des lignes que séparent des blanches, ou chaque ligne."""
    lines = lines_of(text)
    filled = [number for number, line in enumerate(lines) if line]
    if not filled:
        return []
    spaced = any(not lines[n] for n in range(filled[0], filled[-1]))
    spans = []
    for number in filled:
        if spaced and spans and spans[-1][1] == number:
            spans[-1] = (spans[-1][0], number + 1)
        else:
            spans.append((number, number + 1))
    return spans


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_words_and_lines_are_those_of_a_slow_reading(texts):
    """Mots, lignes et paragraphes : mêmes empreintes, mêmes bornes, dans l'ordre."""
    batch = Batch(texts)
    expected = [words_of(text) for text in texts]
    assert batch.word_counts.tolist() == [len(words) for words in expected]
    assert batch.words.tolist() == [hash_text(word) for words in expected for word in words]
    lines = [lines_of(text) for text in texts]
    assert np.diff(batch.lines.first).tolist() == [len(each) for each in lines]
    flat = [line for each in lines for line in each]
    assert batch.lines.lengths.tolist() == [len(line) for line in flat]
    assert batch.lines.hashes.tolist() == [hash_text(line) for line in flat]
    hashes, starts, ends = batch.lines.paragraphs()
    found = [
        (int(batch.lines.owners[low]), low - int(batch.lines.first[batch.lines.owners[low]]), high)
        for low, high in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    wanted = [
        (number, low, int(batch.lines.first[number]) + high)
        for number, text in enumerate(texts)
        for low, high in paragraphs_of(text)
    ]
    assert found == wanted
    contents = [tuple(flat[low:high]) for low, high in zip(starts, ends, strict=True)]
    assert len(set(contents)) == len(set(hashes.tolist()))


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 6))
def test_ngrams_stay_inside_documents(texts, size):
    """Une suite par place, jamais à cheval ; même suite, même empreinte."""
    hashes, places = Batch(texts).ngrams(size)
    expected, first = [], 0
    for words in map(words_of, texts):
        expected += [(first + n, tuple(words[n : n + size])) for n in range(len(words) - size + 1)]
        first += len(words)
    assert places.tolist() == [place for place, _ in expected]
    pairs = set(zip((ngram for _, ngram in expected), hashes.tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def slow_features(text):
    """Les mesures d'un document, écrites comme on les dit."""
    words = words_of(text)
    count = max(1, len(words))
    lines = [line for line in lines_of(text) if line]
    rows = max(1, len(lines))

    def share(condition):
        return sum(map(condition, lines)) / rows

    def ngrams(size):
        return [tuple(words[n : n + size]) for n in range(len(words) - size + 1)]

    def top(size):
        most = max(map(ngrams(size).count, ngrams(size)), default=0)
        return min(1.0, size * most / count) if most > 1 else 0.0

    def repeated(size):
        found = ngrams(size)
        return 1 - len(set(found)) / len(found) if found else 0.0

    known = [set(words) & set(listed.split()) for listed in FUNCTION_WORDS.values()]
    symbols = len(re.findall(r"[#{}…]", text)) + len(re.findall(r"\.{3,}", text))
    return {
        "words": len(words),
        "word_length": sum(map(len, words)) / count,
        "symbols": symbols / count,
        "letters": sum(bool(re.search(r"[^\W\d_]", word)) for word in words) / count,
        "function_words": max(map(len, known)),
        "bullets": share(lambda line: line[0] in "•‣▪●◦■□*" or line.startswith("- ")),
        "ellipses": share(lambda line: line.endswith(("…", "..."))),
        "punctuated": share(lambda line: line[-1] in ".!?…:;»”\"’')]"),
        "repeated_lines": 1 - len(set(lines)) / rows if lines else 0.0,
        "top_bigram": top(2),
        "top_trigram": top(3),
        "top_fourgram": top(4),
        "repeated_fivegrams": repeated(5),
        "repeated_tengrams": repeated(10),
        "placeholder": int("lorem ipsum" in text.lower()),
    }


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_features_are_those_of_a_slow_reading(texts):
    """Chaque mesure est celle de l'oracle, quels que soient les voisins du document."""
    batch = Batch(texts)
    found = features_of(batch, FunctionWords.of(batch))
    for number, text in enumerate(texts):
        for name, value in slow_features(text).items():
            assert getattr(found, name)[number] == pytest.approx(value), name


def test_features_of_repetitive_texts():
    """Des échos longs, qu'un tirage au hasard ne fait pas ; et un faux texte de maquette."""
    verse = "le passeur leva la lampe et le bateau quitta lentement la rive du grand fleuve gris. "
    texts = [verse * 4, "a b " * 30, f"{verse}\n{verse}\nLorem IPSUM dolor\n{verse}", "fin"]
    batch = Batch(texts)
    found = features_of(batch, FunctionWords.of(batch))
    for number, text in enumerate(texts):
        for name, value in slow_features(text).items():
            assert getattr(found, name)[number] == pytest.approx(value), name
    assert found.repeated_tengrams[0] > 0.6
    assert found.top_bigram[1] == 1.0
    assert found.placeholder.tolist() == [0, 0, 1, 0]


def test_hashes_do_not_depend_on_the_place():
    """Au-delà d'une table de puissances, un mot garde son empreinte."""
    words = ["passeur", *(f"m{n}" for n in range(12_000)), "passeur"]
    batch = Batch([" ".join(words)])
    assert batch.codes.size > batches._STEP
    assert batch.words[0] == batch.words[-1] == hash_text("passeur")
    assert len(set(batch.words.tolist())) == 12_001


@given(st.lists(st.integers(0, 2**64 - 1), max_size=50), st.lists(st.integers(0, 2**64 - 1)))
def test_known_hashes(inside, others):
    """L'appartenance est exacte ; zéro, qui dit « aucune empreinte », n'en est jamais."""
    known = Known(np.array(inside, np.uint64))
    assert bool(known) == bool(inside)
    if inside:
        asked = [*inside, *others]
        expected = [each in inside and each != 0 for each in asked]
        assert known.among(np.array(asked, np.uint64)).tolist() == expected


@pytest.mark.parametrize("unsorted", [1, 10, 1 << 16])
def test_union_is_numpy_s(monkeypatch, unsorted):
    """Triées au fur et à mesure ou à la fin : les mêmes, et les suites données restent entières."""
    monkeypatch.setattr(batches, "_UNSORTED", unsorted)
    generator = np.random.default_rng(0)
    pieces = [generator.integers(0, 99, size, dtype=np.uint64) for size in (40, 0, 7, 90, 1, 60)]
    before = [each.copy() for each in pieces]
    found = union(iter(pieces))
    assert found.dtype == np.uint64
    assert np.array_equal(found, np.unique(np.concatenate(pieces)))
    assert all(map(np.array_equal, pieces, before))
    assert union([]).size == 0
