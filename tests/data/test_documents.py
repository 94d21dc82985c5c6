"""Un document nettoyé, rangé, coupé : les mêmes règles, d'un bloc ou octet par octet."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.data import documents
from gpt_architecture.data.corpus import decode_text
from gpt_architecture.data.documents import (
    DocumentHash,
    Rejected,
    clean_bytes,
    cut_pieces,
    decode_stream,
    json_field,
    last_boundary,
    short_runs,
    split_of,
)
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError

property_test = settings(deadline=None, max_examples=150)
RAW = st.lists(
    st.sampled_from(
        [
            *(text.encode() for text in ("a", " ", "\r", "\n", "\r\n", "é", "\ufeff", "😀")),
            *(b"\xc3", b"\x80", b"\0", b"\xff\xfe"),
        ]
    ),
    max_size=12,
).map(b"".join)


def outcome(call):
    """Le texte rendu, ou None s'il est refusé."""
    try:
        return call()
    except (Rejected, DataError):
        return None


@property_test
@given(RAW, st.integers(1, 5))
def test_stream_has_the_rules_of_the_corpus(data, size):
    """En morceaux de toute taille, le même texte, ou le même refus, que data.corpus."""
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    whole = outcome(lambda: decode_text(data, origin="x"))
    assert outcome(lambda: clean_bytes(data)) == whole
    if not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        assert outcome(lambda: "".join(decode_stream(chunks))) == whole


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", documents.EMPTY, ""),
        (b" \r\n\t", documents.EMPTY, ""),
        ("\ufeff".encode(), documents.EMPTY, ""),
        (b"abc\xe9def", documents.BAD_UTF8, "position 3"),
        (b"abc\xc3", documents.BAD_UTF8, "coupé à la position 4"),
        (b"ab\0c", documents.NUL_BYTE, "position 2"),
        ("é".encode("utf-16"), documents.BAD_UTF8, "UTF-16"),
    ],
)
def test_rejections_say_why_and_where(data, reason, detail):
    """La raison est commune, la position est exacte."""
    with pytest.raises(Rejected) as caught:
        clean_bytes(data)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_position_is_exact_across_chunks():
    """Un caractère commencé dans un morceau et faux dans le suivant est situé à son début."""
    with pytest.raises(Rejected) as caught:
        list(decode_stream([b"ab", b"c\xc3", b"\x28"]))
    assert caught.value.detail == "position 3"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "bonjour"}\n', "bonjour"),
        (b'\xef\xbb\xbf{"text": "a\\r\\nb"}', "a\nb"),
        ('{"autre": 1, "text": "é"}'.encode(), "é"),
    ],
)
def test_json_field(line, text):
    """Le champ, nettoyé comme un fichier."""
    assert json_field(line, "text") == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", documents.BAD_JSON),
        (b"[" * 100_000, documents.BAD_JSON),
        (b'{"text": ' + b"9" * 5000 + b"}", documents.BAD_JSON),
        (b"[]", documents.NO_FIELD),
        (b"{}", documents.NO_FIELD),
        (b'{"text": null}', documents.NOT_TEXT),
        (b'{"text": 3}', documents.NOT_TEXT),
        (b'{"text": " "}', documents.EMPTY),
        (b'{"text": "a\\u0000"}', documents.NUL_BYTE),
        (b'{"text": "\\ud800"}', documents.BAD_UTF8),
        (b'{"text": "\xe9"}', documents.BAD_UTF8),
    ],
)
def test_json_rejections(line, reason):
    """Chaque ligne fautive a sa raison."""
    with pytest.raises(Rejected) as caught:
        json_field(line, "text")
    assert caught.value.reason == reason


def digest(text, seed=0, size=None):
    value = DocumentHash(seed)
    for start in range(0, len(text), size or max(1, len(text))):
        value.update(text[start : start + (size or len(text))])
    return value.value()


def test_split_depends_on_text_and_seed_only():
    """Même texte, même part, quel que soit le découpage ; une autre graine en décide autrement."""
    texts = [f"document {i}" for i in range(2000)]
    first = [split_of(digest(t), 0.1) for t in texts]
    assert first == [split_of(digest(t, size=3), 0.1) for t in texts]
    assert first != [split_of(digest(t, seed=1), 0.1) for t in texts]
    assert 150 < first.count("val") < 250


WORDS = st.text(alphabet="aé1. \n\t\u00a0\x1c'!", max_size=60)


@property_test
@given(WORDS, st.integers(1, 20), st.integers(1, 20))
def test_pieces_make_the_text(text, size, chunk):
    """Bout à bout, les morceaux sont le texte ; aucun n'est vide ni plus long que demandé."""
    chunks = [text[i : i + chunk] for i in range(0, len(text), chunk)]
    pieces = list(cut_pieces(chunks, size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)


@property_test
@given(WORDS, st.integers(1, 60))
def test_cuts_before_a_blank_keep_the_tokens(text, limit):
    """L'oracle : les tokens de GPT-2 des deux moitiés sont ceux du texte entier."""
    tokenizer = get_tokenizer("gpt2")
    cut = last_boundary(text, min(limit, max(1, len(text))))
    if 0 < cut < len(text) and text[cut] in " \n\t" and not text[cut - 1].isspace():
        halves = tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:])
        assert halves == tokenizer.encode(text)


@property_test
@given(st.lists(st.sampled_from(["a", " ", "a" * 9, " " * 9, "mot "]), max_size=9).map("".join))
def test_long_runs_are_cut(text):
    """Ni suite de lettres ni suite de blancs démesurée ; un texte ordinaire reste entier."""
    bound = documents._MAX_RUN
    scaled = text.replace("a" * 9, "a" * (2 * bound + 1)).replace(" " * 9, " " * (bound + 5))
    pieces = list(short_runs(scaled))
    assert "".join(pieces) == scaled
    for piece in pieces:
        assert max(map(len, piece.split()), default=0) <= bound
        assert " " * (bound + 1) not in piece
    if len(text) == len(scaled):
        assert pieces == [scaled]


def test_a_huge_word_is_encoded_in_linear_time():
    """Un million de caractères sans blanc : des morceaux bornés, tous codés."""
    tokenizer = get_tokenizer("gpt2")
    text = "ab" * 500_000
    ids = [token for piece in short_runs(text) for token in tokenizer.encode(piece)]
    assert tokenizer.decode(ids) == text


def test_json_escapes_survive():
    """Un texte quelconque passe par JSON sans changer."""
    text = '« Été » \u2028 \U0001f600 \\ " fin'
    for ascii_only in (True, False):
        line = json.dumps({"t": text}, ensure_ascii=ascii_only).encode()
        assert json_field(line, "t") == text
