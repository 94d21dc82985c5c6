"""Un document nettoyé, rangé, coupé : les mêmes règles, d'un bloc ou octet par octet."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.texts import documents
from gpt_architecture.data.texts.documents import (
    Rejected,
    clean_bytes,
    cut_pieces,
    decode_stream,
    documents_in,
    json_field,
    last_boundary,
    split_documents,
    split_of,
)
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.storage import decode_text

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
    """Le texte rendu ; vide s'il est refusé, ou n'est que blanc."""
    try:
        text = call()
    except (Rejected, DataError):
        return ""
    return text if text.strip() else ""


@pytest.mark.slow
@property_test
@given(RAW, st.integers(1, 5))
def test_stream_has_the_rules_of_the_corpus(data, size):
    """En morceaux de toute taille, le même texte, ou le même refus, que storage.decode_text."""
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
        ("é".encode("utf-16"), documents.NOT_PLAIN, "UTF-16"),
        (b"%PDF-1.7\n1 0 obj", documents.NOT_PLAIN, "PDF"),
        (b"\x1f\x8b\x08\0", documents.NOT_PLAIN, "compressé"),
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
    assert caught.value.detail == "position 3, sans doute en ISO-8859-1"


def test_no_encoding_is_guessed_after_accents_in_utf8():
    """Convertir le fichier entier abîmerait ce qui était juste."""
    with pytest.raises(Rejected) as caught:
        list(decode_stream(["déjà ".encode() * 10, b"bon \xff jour"]))
    assert caught.value.detail == "position 74"
    assert "mêle" in caught.value.remedy


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


def test_split_depends_on_text_and_seed_only():
    """Même texte, même part, quel que soit le découpage ; une autre graine en décide autrement."""
    texts = [f"document {i}" for i in range(2000)]
    first = [split_of([t], seed=0, val_fraction=0.1) for t in texts]
    assert first == [split_of([t[:3], t[3:]], seed=0, val_fraction=0.1) for t in texts]
    assert first != [split_of([t], seed=1, val_fraction=0.1) for t in texts]
    assert 150 < first.count("val") < 250


MARKED = st.lists(
    st.sampled_from(["a", " ", "<", "<|", "endoftext", "|>", END_OF_TEXT]), max_size=9
).map("".join)


@property_test
@given(MARKED, st.integers(1, 20))
def test_separators_are_seen_wherever_chunks_cut(text, size):
    """Au fil de l'eau, les documents et les rangs d'un découpage d'un bloc."""
    found = {}
    for rank, chunk in split_documents(text[i : i + size] for i in range(0, len(text), size)):
        assert chunk
        found[rank] = found.get(rank, "") + chunk
    whole = {rank: part for rank, part in enumerate(text.split(END_OF_TEXT)) if part}
    assert found == whole
    if any(part.strip() for part in whole.values()):
        assert documents_in(text) == [(r, part) for r, part in whole.items() if part.strip()]
    else:
        with pytest.raises(Rejected):
            documents_in(text)


WORDS = st.text(alphabet="aé1. \n\t\u00a0\x1c'!", max_size=60)
RUNS = st.lists(
    st.tuples(
        st.sampled_from(["a", "é", "7", ".", "'", " ", "\n", "\u00a0", "s"]), st.integers(1, 30)
    ),
    max_size=12,
).map(lambda runs: "".join(character * count for character, count in runs))


@property_test
@given(WORDS | RUNS, st.integers(1, 20), st.integers(1, 20))
def test_pieces_make_the_text(text, size, chunk):
    """Bout à bout, les morceaux sont le texte, et les mêmes d'où que le texte arrive."""
    pieces = list(cut_pieces([text[i : i + chunk] for i in range(0, len(text), chunk)], size))
    assert "".join(pieces) == text
    assert all(pieces)
    assert pieces == list(cut_pieces([text], size))
    assert [list(cut_pieces([piece], size)) for piece in pieces] == [[piece] for piece in pieces]


@pytest.fixture(scope="module")
def modern():
    """Un petit BPE au découpage moderne, qui sait fusionner signes, blancs et lettres."""
    text = "aaaa ééé 777 ... \"'' 's don't \n\n\n    a1a1 é.é.é .\n.\n '\n" * 20
    return BPETokenizer.from_text(text, 400, pattern="moderne")


@pytest.mark.slow
@property_test
@given(text=WORDS | RUNS, size=st.integers(1, 12))
def test_pieces_keep_the_tokens(modern, text, size):
    """L'oracle : les tokens des morceaux sont ceux du texte entier, aux deux découpages."""
    for tokenizer in (get_tokenizer("gpt2"), modern):
        ids = [token for piece in cut_pieces([text], size) for token in tokenizer.encode(piece)]
        assert ids == tokenizer.encode(text)


def test_a_cut_recedes_to_a_safe_place():
    """Avant un blanc, sinon à la fin de lettres ou de chiffres ; jamais dans une suite."""
    assert last_boundary("un deux trois", 9) == 7
    assert last_boundary("abc,def;gh", 9) == 7
    assert last_boundary("12a34b", 5) == 5
    assert last_boundary("aaaa aaaa", 9, 5) == 5  # la suite va jusqu'à la fin : rien de sûr
    assert last_boundary("don'''t", 6) == 3


def test_a_run_is_cut_only_when_it_is_enormous(monkeypatch):
    """Une suite plus longue que demandé reste entière ; démesurée, elle est coupée."""
    monkeypatch.setattr(documents, "_LONGEST_RUN", 64)
    assert [len(piece) for piece in cut_pieces(["a" * 50 + " b" * 20], 10)] == [64, 10, 10, 6]
    assert [len(piece) for piece in cut_pieces(["a" * 150], 10)] == [64, 64, 22]


def test_json_escapes_survive():
    """Un texte quelconque passe par JSON sans changer."""
    text = '« Été » \u2028 \U0001f600 \\ " fin'
    for ascii_only in (True, False):
        line = json.dumps({"t": text}, ensure_ascii=ascii_only).encode()
        assert json_field(line, "t") == text
