"""Les conversations JSONL : lignes refusées, ce qui s'apprend, rangées complétées."""

import json

import numpy as np
import pytest
import torch

from gpt_architecture.data.sampler import IGNORED, learned_tokens, make_batch
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE, render_chat
from gpt_architecture.data.texts.conversations import (
    ConversationTokens,
    encode_conversation,
    read_conversations,
)
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


EXPORTED = [  # ce que les clients d'OpenAI écrivent d'un message
    {"role": "user", "content": [{"type": "text", "text": "Qui "}, {"type": "text", "text": "?"}]},
    {
        **{"role": "assistant", "content": "Lui.", "name": None, "refusal": None},
        **{"tool_calls": None, "annotations": [], "function_call": None},
    },
]


@pytest.mark.parametrize(
    "content",
    [
        [{"messages": EXPORTED}, {"messages": EXPORTED}],
        [EXPORTED, EXPORTED],
        {"messages": EXPORTED},
        EXPORTED,
        {"conversations": [{"from": "human", "value": "Qui ?"}, {"from": "gpt", "value": "Lui."}]},
    ],
    ids=["objets", "listes", "un objet", "une liste", "sharegpt"],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["c.json", "c.jsonl"])
def test_one_json_document(tmp_path, content, indent, name):
    """Une liste ou un objet d'un seul tenant ; champs nuls, listes vides, contenu en parties."""
    text = "\ufeff" + json.dumps(content, indent=indent)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="\r\n")
    if name == "c.jsonl" and indent and isinstance(content, dict):
        with pytest.raises(DataError, match="ligne 1 : ce n'est pas du JSON"):
            read_conversations(tmp_path / name)
        return
    found, _ = read_conversations(tmp_path / name)
    plain = [{"role": "user", "content": "Qui ?"}, {"role": "assistant", "content": "Lui."}]
    is_list = isinstance(content, list) and content is not EXPORTED
    assert [each.messages for each in found] == [plain] * (2 if is_list else 1)


def test_lines_in_a_json_file(tmp_path):
    """Du JSONL nommé .json, ou des lignes qui sont des listes, se lisent ligne à ligne."""
    path = write(tmp_path / "c.json", line(*TALK), line(*TALK[:2]))
    assert [each.place for each in read_conversations(path)[0]] == ["ligne 1", "ligne 2"]
    path = write(tmp_path / "c.jsonl", json.dumps(TALK), json.dumps(TALK[:2]))
    assert [each.place for each in read_conversations(path)[0]] == ["ligne 1", "ligne 2"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"messages": []}]', "conversation 1 : une conversation de 0 messages"),
        ('[\n {"messages": ', "ligne 2 : ce n'est pas du JSON"),
        ("[3]", "conversation 1 : messages manque"),
        ("3", "conversation 1 : messages manque"),
        ("[]", "aucune conversation"),
    ],
)
def test_a_bad_document_is_named(tmp_path, content, found):
    (tmp_path / "c.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=found):
        read_conversations(tmp_path / "c.json")


def test_what_is_not_text_in_a_message_is_refused(tmp_path):
    """Une image, un appel d'outil : refusés, non ignorés."""
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    call = {**TALK[1], "tool_calls": [{"id": "1"}]}
    for bad, words in ((image, "message 1 : content vaut"), (call, "message 2 : 'tool_calls'")):
        talk = [bad, TALK[1]] if bad is image else [TALK[0], bad]
        with pytest.raises(DataError, match=words):
            read_conversations(write(tmp_path / "c.jsonl", line(*talk)))


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(line(*TALK).encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        read_conversations(tmp_path / "c.jsonl")


def test_a_line_that_is_not_text(tmp_path):
    (tmp_path / "c.jsonl").write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match="ligne 1"):
        read_conversations(tmp_path / "c.jsonl")


def test_no_file_no_conversation(tmp_path):
    with pytest.raises(DataError, match="est illisible"):
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
