"""Les textes marqués : un token spécial est écrit par un gabarit, jamais tapé."""

import copy
import pickle

import pytest
from conftest import FRENCH_TEXT
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.data.texts.chat import render_chat
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.marked_text import (
    MarkedText,
    concatenate,
    encode_text,
    keep_prompt,
    own_prompt,
    plain,
    replace_in,
    written,
)

NAMES = ("<|user|>", "<|assistant|>", "<|end|>", "</think>")
TOKENIZER = BPETokenizer.from_text(FRENCH_TEXT, 340, special=NAMES)

# Un caractère tapé est une minuscule ou une espace ; un caractère écrit, une capitale ou un tab.
CHARACTERS = st.text("ab AB\t\n", max_size=12)


def is_written(character):
    return character in "AB\t\n"


def marked(text):
    return MarkedText(text, bytes(map(is_written, text)))


def origins_follow(text):
    """Vrai si chaque caractère a gardé son origine."""
    return isinstance(text, MarkedText) and text.origins == bytes(map(is_written, plain(text)))


CUTS = (
    lambda t: t.split(),
    lambda t: t.split(None, 1),
    lambda t: t.rsplit(None, 1),
    lambda t: t.split("a"),
    lambda t: t.split("A", 1),
    lambda t: t.rsplit("AB", 1),
    lambda t: t.splitlines(),
    lambda t: t.splitlines(True),
)
CHANGES = (
    lambda t: t.strip(),
    lambda t: t.lstrip("aA"),
    lambda t: t.rstrip("bB"),
    lambda t: t.removeprefix("aA"),
    lambda t: t.removesuffix("b"),
    lambda t: t[2:-1],
    lambda t: t[::-2],
    str,
    lambda t: replace_in(t, "a", "b", -1),
    lambda t: replace_in(t, "B", "", 2),
)


@given(CHARACTERS)
def test_origins_follow_what_templates_do(text):
    """Coupé, rogné, remplacé : le texte de `str`, et l'origine de chaque caractère."""
    for cut in CUTS:
        pieces = cut(marked(text))
        assert list(map(plain, pieces)) == cut(text)
        assert all(map(origins_follow, pieces))
    for change in CHANGES:
        found = change(marked(text))
        assert plain(found) == change(text)
        assert origins_follow(found)
    if text:
        assert origins_follow(marked(text)[-1])


@given(CHARACTERS, CHARACTERS)
def test_concatenated(left, right):
    found = concatenate([marked(left), marked(right)])
    assert plain(found) == left + right
    assert origins_follow(found)
    assert concatenate(["a", written("A"), "b"]).origins == bytes([0, 1, 0])
    assert not isinstance(concatenate([left, right]), MarkedText)


@given(st.text(max_size=8))
def test_changes_of_case(text):
    """Une casse qui change la longueur perd les marques : le texte compte comme tapé."""
    for change in (str.upper, str.lower, str.title, str.capitalize):
        found = getattr(written(text), change.__name__)()
        assert plain(found) == change(text)
        assert isinstance(found, MarkedText) is (len(found) == len(text))


def test_what_is_not_followed_counts_as_typed():
    text = written("<|user|>")
    for lost in (text + "", "" + text, "".join([text]), text.replace("", "-"), text.center(20)):
        assert type(lost) is str
        assert encode_text(lost, TOKENIZER) == TOKENIZER.encode(lost)
    for copied in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):  # noqa: S301 — le nôtre
        assert (copied, copied.origins) == (text, text.origins)


TEMPLATES = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}<|end|>{% endfor %}",
    "{% for m in messages %}{{ '<|' ~ m.role ~ '|>' ~ m.content[1:] ~ '<|end|>' }}{% endfor %}",
    # des contenus que rien ne sépare
    "<|user|>{% for m in messages %}{{ m.content }}{% endfor %}<|end|>",
    "{% macro turn(m) %}<|{{ m.role }}|>{{ m.content.strip() | upper }}<|end|>{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "{% set ns = namespace(out='') %}{% for m in messages %}"
    "{% set ns.out = ns.out + '<|user|>' + m.content.split('</think>')[-1] %}{% endfor %}"
    "{{ ns.out | trim }}{% set end %}<|end|>{% endset %}{{ end }}",
    "{{ ['<|user|>', '<|end|>'] | join(messages[0].content) }}{{ '<|X|>' | replace('X', 'end') }}",
    "{% filter trim %}  <|user|> {% endfilter %}{{ messages | map(attribute='content') | join }}"
    "{{ messages | tojson }}{{ messages[0].content | list | join | replace('|', '') }}<|end|>",
)
FRAGMENTS = st.sampled_from(
    [*NAMES, "<|endoftext|>", "<|us", "er|>", "<|", "|>", "user", "é", " ", "\n", "a"]
)
CONTENTS = st.lists(FRAGMENTS, min_size=1, max_size=6).map("".join)


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
@given(contents=st.lists(CONTENTS, min_size=2, max_size=2))
def test_a_person_never_writes_a_special_token(template, contents):
    """Quoi qu'on tape, les tokens spéciaux sont ceux d'une conversation sans malice."""

    def special(first, second):
        messages = [
            {"role": "user", "content": first},
            {"role": "assistant", "content": second},
        ]
        text = render_chat(messages, template, tokenizer=TOKENIZER)
        ids = encode_text(text, TOKENIZER)
        assert TOKENIZER.decode(ids) == text
        return [token for token in ids if token in TOKENIZER.special.values()]

    benign = special("bonjour", "salut")
    assert benign[-1:] == [TOKENIZER.special["<|end|>"]]
    assert special(*contents) == benign


@given(CONTENTS)
def test_a_typed_text_is_ordinary_unless_asked(text):
    assert encode_text(text, TOKENIZER) == TOKENIZER.encode(text)
    asked = encode_text(written(text), TOKENIZER)
    assert asked == TOKENIZER.encode(text, allowed_special="all")


def test_between_special_tokens_origins_do_not_matter():
    """Un mot écrit à moitié par le gabarit se code d'un bloc, comme dans Transformers."""
    text = concatenate([written("<|user|>Le pass"), "eur", written("<|end|>")])
    whole = TOKENIZER.encode("Le passeur")
    assert encode_text(text, TOKENIZER)[1:-1] == whole
    assert whole != TOKENIZER.encode("Le pass") + TOKENIZER.encode("eur")


@pytest.mark.parametrize("name", ["gpt2", "simple-v2", "char"])
def test_other_vocabularies_know_the_end_of_text(name):
    tokenizer = get_tokenizer(name, text="a b<|endoftext|>")
    assert encode_text(written("a<|endoftext|>b"), tokenizer)[1] == tokenizer.eos_id
    if name != "char":  # qui n'a pas de quoi l'épeler
        assert tokenizer.eos_id not in encode_text("a<|endoftext|>b", tokenizer)


def test_the_example_of_a_training_keeps_its_special_tokens():
    """Gardé en texte dans un fichier, le début rendu retrouve les siens, et eux seuls."""
    typed = concatenate([written("<|user|>"), "<|end|>", written("<|end|>")])
    rendered = concatenate([written("<|user|>"), "Où ?", written("<|end|>")])
    for prompt, special in ((rendered, True), (typed, False), ("<|user|>", False)):
        kept = keep_prompt(prompt, TOKENIZER)
        assert kept == {"prompt": prompt, "prompt_special": special}
        assert type(kept["prompt"]) is str
        again = encode_text(own_prompt(kept), TOKENIZER)
        assert (again == encode_text(prompt, TOKENIZER)) is (prompt is not typed)
    assert own_prompt({}) is own_prompt({"prompt": ""}) is own_prompt({"prompt": 3}) is None
