"""`text_offset` : la place de chaque token dans le texte, en caractères, quel que soit le token."""

import json

import pytest
from http_helpers import client_of
from studio_helpers import Bytes, studio_context

from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.serving.context import TokenNames

TEXT = "où 😀 nagent les œufs à 3 €, 中文 ?"
COMPLETIONS = "/v1/completions"
NO_END = {str(Bytes.eos_id): -100}


@pytest.fixture(scope="module")
def client():
    """Un client du modèle d'octets : un caractère accentué y compte plusieurs tokens."""
    with studio_context() as context, client_of(context) as found:
        yield found


def places(tokenizer, tokens, prompt=()):
    """Les places de tokens qui suivent un début."""
    found = TokenNames(tokenizer).places(prompt)
    return [found.add(token) for token in tokens]


@pytest.mark.parametrize("tokenizer", [Bytes(), get_tokenizer("gpt2")], ids=["octets", "gpt2"])
def test_a_token_is_where_its_first_byte_is(tokenizer):
    """Le rang du caractère auquel appartient le premier octet du token."""
    owner = [rank for rank, letter in enumerate(TEXT) for _ in letter.encode()]
    raw, tokens, size, expected = tokenizer.token_bytes(), tokenizer.encode(TEXT), 0, []
    for token in tokens:
        expected.append(owner[size])
        size += len(raw[token])
    assert len(set(expected)) < len(expected)  # des caractères s'étendent sur plusieurs tokens
    assert places(tokenizer, tokens) == expected


def test_bytes_that_are_no_text_count_as_they_are_shown():
    """Un octet qui n'ouvre ni ne continue un caractère est montré par un U+FFFD : il compte un."""
    raw = b"\xff\xffa\xf0\x9fb\xe2\x82"
    assert places(Bytes(), raw) == [0, 1, 2, 3, 3, 4, 5, 5]


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_prompt_cut_in_a_character_shows_it(cut):
    """Le début montre déjà le caractère que la suite finit : celle-ci compte ce qui le suit."""
    smile = list("😀".encode())
    prompt = [*b"ab", *smile[:cut]]
    assert places(Bytes(), [*smile[cut:], *b"cd"], prompt) == [0] * (4 - cut) + [0, 1]


def test_words_are_placed_with_their_spaces():
    """Un vocabulaire de mots : la place compte les espaces que le décodage ajoute."""
    tokenizer = get_tokenizer("simple-v1", text="le bac, le lac et le bateau.")
    tokens = tokenizer.encode("le lac, le bateau.")
    text, ends = tokenizer.decode(tokens), [0]
    ends += [len(tokenizer.decode(tokens[: rank + 1])) for rank in range(len(tokens))]
    assert places(tokenizer, tokens) == ends[:-1]
    assert ends[-1] == len(text)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("prompt", [TEXT, list("où 😀".encode())[:-2]])
def test_offsets_point_into_the_answer(client, prompt, echo, stream):
    """Dans la réponse : chaque token ASCII est le caractère que sa place désigne."""
    body = {"prompt": prompt, "echo": echo, "max_tokens": 48, "logprobs": 0, "stream": stream}
    response = client.post(COMPLETIONS, json={**body, "seed": 5, "logit_bias": NO_END})
    assert response.status_code == 200, response.text
    if stream:
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
        choices = [json.loads(line)["choices"][0] for line in lines]
    else:
        choices = response.json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    scores = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens = [token for each in scores for token in each["tokens"]]
    offsets = [offset for each in scores for offset in each["text_offset"]]
    assert any(token.startswith("bytes:") for token in tokens)
    assert offsets == sorted(offsets)
    shown = [(t, o) for t, o in zip(tokens, offsets, strict=True) if len(t) == 1]
    assert len(shown) > 10
    for token, offset in shown:
        assert text[offset] == token
