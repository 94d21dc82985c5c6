"""Les conversations JSONL : lignes refusées, ce qui s'apprend, rangées complétées."""

import json

import numpy as np
import pytest
import torch

from gpt_architecture.data.chat import DEFAULT_CHAT_TEMPLATE, render_chat
from gpt_architecture.data.conversations import (
    ConversationTokens,
    encode_conversation,
    read_conversations,
)
from gpt_architecture.data.sampler import IGNORED, learned_tokens, make_batch
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError

TALK = [
    {"role": "user", "content": "Qui passe ?"},
    {"role": "assistant", "content": "Le passeur."},
    {"role": "user", "content": "Quand ?"},
    {"role": "assistant", "content": "À la nuit."},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def line(*messages):
    return json.dumps({"messages": list(messages)}, ensure_ascii=False)


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_reads_every_line(tmp_path):
    """Lignes vides permises, clés en plus aussi ; chaque conversation garde son numéro."""
    extra = json.dumps({"id": 3, "messages": TALK[:2]})
    path = write(tmp_path / "c.jsonl", line(*TALK), "", extra)
    found, sha256 = read_conversations(path)
    assert [(each.line, len(each.messages)) for each in found] == [(1, 4), (3, 2)]
    assert len(sha256) == 64
    assert sha256 != read_conversations(write(tmp_path / "d.jsonl", line(*TALK)))[1]


@pytest.mark.parametrize(
    ("bad", "found"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[1]", "messages manque"),
        ('{"conversation": []}', "messages manque"),
        ('{"messages": []}', "0 messages"),
        ('{"messages": "a"}', "liste"),
        (line(TALK[0]), "aucune réponse"),
        (line(TALK[1]), "réponse sans question"),
        (line(TALK[0], {"role": "assistant"}), "message 2 : content vaut None"),
        (line(TALK[0], {"role": "ami", "content": "a"}), "message 2 : role vaut 'ami'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, found):
    path = write(tmp_path / "c.jsonl", line(*TALK), bad)
    with pytest.raises(DataError, match=r"c\.jsonl, ligne 2 : ") as error:
        read_conversations(path)
    assert found in str(error.value)


def test_a_line_that_is_not_text(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match="ligne 1"):
        read_conversations(tmp_path / "c.jsonl")


def test_no_file_no_conversation(tmp_path):
    with pytest.raises(DataError, match="ne peut pas être lu"):
        read_conversations(tmp_path / "absent.jsonl")
    with pytest.raises(DataError, match="aucune conversation"):
        read_conversations(write(tmp_path / "vide.jsonl", "", ""))


@pytest.mark.parametrize("template", [DEFAULT_CHAT_TEMPLATE, CHATML])
def test_only_answers_are_learned(template):
    """Les tokens appris sont les réponses et leur fin ; tous ensemble, le texte rendu."""
    tokenizer = get_tokenizer("gpt2")
    found = encode_conversation(TALK, template, tokenizer, limit=1000)
    assert tokenizer.decode(found.ids) == render_chat(TALK, template)
    answers = [i for i, known in zip(found.ids, found.learned, strict=True) if known]
    end = "<|endoftext|>" if template is DEFAULT_CHAT_TEMPLATE else "<|im_end|>\n"
    assert tokenizer.decode(answers) == f"Le passeur.{end}À la nuit.{end}"


def test_tokens_are_those_the_model_will_meet():
    """Le texte entier, codé d'un coup comme à la génération, donne les mêmes tokens."""
    tokenizer = get_tokenizer("gpt2")
    found = encode_conversation(TALK, DEFAULT_CHAT_TEMPLATE, tokenizer, limit=1000)
    text = render_chat(TALK, DEFAULT_CHAT_TEMPLATE)
    assert found.ids == tokenizer.encode(text, allowed_special={"<|endoftext|>"})


def test_too_long_is_none():
    tokenizer = get_tokenizer("gpt2")
    size = len(encode_conversation(TALK, CHATML, tokenizer, limit=1000).ids)
    assert encode_conversation(TALK, CHATML, tokenizer, limit=size) is not None
    assert encode_conversation(TALK, CHATML, tokenizer, limit=size - 1) is None


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "récrit"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "rien"),
    ],
)
def test_a_template_that_does_not_append(template, found):
    with pytest.raises(DataError, match=found):
        encode_conversation(TALK, template, get_tokenizer("gpt2"), limit=1000)


def rows():
    tokenizer = get_tokenizer("gpt2")
    talks = (TALK[:2], TALK)
    encoded = [encode_conversation(t, CHATML, tokenizer, limit=200) for t in talks]
    return encoded, ConversationTokens(encoded, 199, padding=50256)


def test_rows_are_padded_and_masked():
    """Une conversation par rangée ; hors des réponses, les cibles ne comptent pas."""
    encoded, source = rows()
    assert source.num_tokens == 400
    for index, each in enumerate(encoded):
        row = source.read(200 * index, 200).tolist()
        assert row == each.ids + [50256] * (200 - len(each.ids))
        targets = source.read_targets(200 * index, 200).tolist()
        expected = [i if k else IGNORED for i, k in zip(each.ids, each.learned, strict=True)]
        assert targets == expected + [IGNORED] * (200 - len(each.ids))


def test_batches_stop_after_the_last_answer():
    """Rien à apprendre ensuite : la fin des rangées n'est pas calculée."""
    encoded, source = rows()
    inputs, targets = make_batch(source, np.array([0, 200]), 199)
    assert inputs.shape == targets.shape == (2, 128)
    counted = [sum(each.learned) for each in encoded]
    assert (targets != IGNORED).sum(dim=1).tolist() == counted
    assert learned_tokens(source, np.array([0, 200]), 199) == sum(counted)
    known = targets != IGNORED
    assert torch.equal(targets[:, :-1][known[:, :-1]], inputs[:, 1:][known[:, :-1]])
