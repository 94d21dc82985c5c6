"""Les formes où l'on trouve des dialogues : reconnues au contenu, refusées par leur champ."""

import json
import logging

import pytest

from gpt_architecture.config import TrainingConfig
from gpt_architecture.data.dialogues import load_chat_data
from gpt_architecture.data.texts.chat import DEFAULT_CHAT_TEMPLATE
from gpt_architecture.data.texts.chat_records import recognise
from gpt_architecture.data.texts.conversations import encode_conversation, read_conversations
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.errors import DataError


def said(*texts, first="user"):
    roles = ["user", "assistant"] * len(texts)
    roles = roles if first == "user" else ["system", *roles]
    return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]


FORMS = [
    ("messages", {"messages": said("Qui ?", "Lui."), "prompt": "Qui ?"}, said("Qui ?", "Lui.")),
    ("messages", said("Qui ?", "Lui."), said("Qui ?", "Lui.")),
    (
        "ShareGPT",
        {
            "id": "a_0",
            "messages": None,
            "system": "Bref.",
            "conversations": [{"from": "human", "value": "Qui ?"}, {"from": "gpt", "value": "Lui"}],
        },
        said("Bref.", "Qui ?", "Lui", first="system"),
    ),
    ("ShareGPT", {"conversations": said("Qui ?", "Lui.")}, said("Qui ?", "Lui.")),
    (
        "alpaca",
        {"instruction": "Traduis.", "input": "the boat", "output": "le bateau"},
        said("Traduis.\n\nthe boat", "le bateau"),
    ),
    ("alpaca", {"instruction": "Va.", "input": "", "output": "Oui."}, said("Va.", "Oui.")),
    (
        "alpaca",
        {
            **{"instruction": "Va.", "input": None, "output": "Oui.", "text": "…"},
            **{"system": None, "history": [["Qui ?", "Lui."]]},
        },
        said("Qui ?", "Lui.", "Va.", "Oui."),
    ),
    (
        "dolly",
        {"instruction": "Quand ?", "context": "À midi.", "response": "Midi.", "category": "qa"},
        said("Quand ?\n\nÀ midi.", "Midi."),
    ),
    ("invite et réponse", {"prompt": "Qui ?", "completion": " Lui."}, said("Qui ?", " Lui.")),
    (
        "invite et réponse",
        {"prompt": said("Qui ?"), "completion": said("", "Lui.")[1:]},
        said("Qui ?", "Lui."),
    ),
]


@pytest.mark.parametrize(("form", "value", "messages"), FORMS)
def test_each_form_gives_its_messages(form, value, messages, tmp_path):
    found = recognise(value)
    assert (found.form, found.messages, found.muted) == (form, messages, frozenset())
    (tmp_path / "c.json").write_text(json.dumps([value, value]), encoding="utf-8")
    (tmp_path / "c.jsonl").write_text(f"{json.dumps(value)}\n" * 2, encoding="utf-8")
    for name in ("c.json", "c.jsonl"):
        read, _ = read_conversations(tmp_path / name)
        assert [(each.form, each.messages) for each in read] == [(form, messages)] * 2


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (3, "messages manque"),
        ({"texte": "a"}, "messages manque"),
        ({"conversations": "a"}, "messages manque"),
        ({"instruction": "a", "input": "b"}, "output ou response manque"),
        ({"instruction": "a", "output": None}, "output ou response manque"),
        ({"prompt": "a"}, "completion manque"),
        ({"prompt": ["a"], "completion": "b"}, "prompt n'est pas un texte"),
        ({"instruction": "a", "input": 3, "output": "b"}, "input n'est pas un texte"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "history n'est pas une liste"),
        ({"instruction": "a", "output": "b", "system": 1}, "system n'est pas un texte"),
        ({"instruction": "a", "output": "b", "history": [[1, "c"]]}, "message 1 : content vaut 1"),
        ({"conversations": [{"from": "human", "value": "a"}, 3]}, "message 2 : ce n'est pas un"),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "outil", "value": "b"}]},
            "message 2 : role vaut 'outil'",
        ),
        ({"messages": [*said("a"), {**said("", "b")[1], "weight": 2}]}, "message 2 : weight n'est"),
        ({"messages": [*said("a"), {**said("", "b")[1], "weight": 0}]}, "weight y est nul partout"),
    ],
)
def test_what_is_missing_is_named_with_its_line(value, found, tmp_path):
    good = json.dumps({"prompt": "Qui ?", "completion": "Lui."})
    path = tmp_path / "c.jsonl"
    path.write_text(f"{good}\n\n{json.dumps(value)}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"c\.jsonl, ligne 3 : ") as error:
        read_conversations(path)
    assert found in error.value.found


def test_an_answer_of_weight_zero_is_read_and_not_learned():
    """Le champ d'OpenAI et d'axolotl : mêmes tokens, d'autres cibles."""
    talk = said("Qui ?", "Lui.", "Quand ?", "À la nuit.")
    weighted = [{**m, "weight": int(i == 3)} if i % 2 else m for i, m in enumerate(talk)]
    found = recognise({"messages": weighted})
    assert (found.messages, found.muted) == (talk, {1})
    tokenizer = get_tokenizer("gpt2")
    whole = encode_conversation(talk, DEFAULT_CHAT_TEMPLATE, tokenizer, limit=200)
    part = encode_conversation(talk, DEFAULT_CHAT_TEMPLATE, tokenizer, limit=200, muted=found.muted)
    assert part.ids == whole.ids
    learned = [i for i, known in zip(part.ids, part.learned, strict=True) if known]
    assert tokenizer.decode(learned) == "À la nuit.<|endoftext|>"


def test_the_forms_are_said(tmp_path, caplog):
    """Un fichier peut les mêler : chacune est comptée, et l'on apprend de toutes."""
    rows = [value for _, value, _ in FORMS[2:]]
    path = tmp_path / "melange.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    training = TrainingConfig(batch_size=1, train_ratio=0.5, stride=65)
    with caplog.at_level(logging.INFO):
        data = load_chat_data(path, "gpt2", window=64, training=training)
    assert "alpaca (3), ShareGPT (2), invite et réponse (2), dolly (1)" in caplog.text
    assert data.train.count + data.val.count == len(rows)
