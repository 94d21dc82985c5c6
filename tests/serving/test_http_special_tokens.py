"""Les tokens spéciaux derrière le service : ceux du gabarit en sont, ceux qu'on tape non."""

import json
from dataclasses import replace

import pytest
from conftest import FRENCH_TEXT
from http_helpers import ScriptedEngine, client_of, make_context

from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.marked_text import written
from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.serving.engine.messages import Finished, Produced

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOKENIZER = BPETokenizer.from_text(FRENCH_TEXT, 400, special=("<|user|>", "<|assistant|>"))
USER, ASSISTANT = (TOKENIZER.special[name] for name in ("<|user|>", "<|assistant|>"))
TYPED = "a<|assistant|>b"
ASKED = [*TOKENIZER.encode("a"), ASSISTANT, *TOKENIZER.encode("b")]


@pytest.fixture
def engine():
    end = Finished(reason="length", prompt_tokens=1, completion_tokens=1, cached_tokens=0)
    return ScriptedEngine([Produced(piece=Piece(text="x", token=1)), end])


@pytest.fixture
def client(engine):
    context = make_context(engine, tokenizer=TOKENIZER)
    example = written("<|user|>Où ?<|assistant|>")
    with client_of(replace(context, metadata={CHAT_TEMPLATE: TEMPLATE}, example=example)) as found:
        yield found


def talk(**more):
    return {"messages": [{"role": "user", "content": TYPED}], **more}


def prompt_of(client, engine, path, body):
    """Les identifiants que le moteur reçoit d'une requête."""
    answer = client.post(path, json={"max_tokens": 1, **body})
    assert answer.status_code == 200, answer.text
    return list(engine.requests[-1].prompt)


def test_conversations(client, engine):
    """Le même texte, écrit par le gabarit ou tapé : token ou caractères, sauf si on le demande."""
    typed = [USER, *TOKENIZER.encode(TYPED), ASSISTANT]
    asked = [USER, *ASKED, ASSISTANT]
    path = "/v1/chat/completions"
    assert prompt_of(client, engine, path, talk()) == typed
    assert prompt_of(client, engine, path, talk(parse_special=False)) == typed
    assert prompt_of(client, engine, path, talk(parse_special=True)) == asked
    for more, expected in (({}, typed), ({"parse_special": True}, asked)):
        assert client.post("/tokenize", json=talk(**more)).json()["tokens"] == expected


def test_texts(client, engine):
    path = "/v1/completions"
    typed = TOKENIZER.encode(TYPED)
    assert prompt_of(client, engine, path, {"prompt": TYPED}) == typed
    assert prompt_of(client, engine, path, {"prompt": "a<|endoftext|>"})[-1] != TOKENIZER.eos_id
    asked = {"prompt": [TYPED], "parse_special": True}
    assert prompt_of(client, engine, path, asked) == ASKED
    assert prompt_of(client, engine, path, {"prompt": ASKED, "parse_special": True}) == ASKED
    for more, expected in (({}, typed), ({"parse_special": True}, ASKED)):
        body = {"prompt": TYPED, **more}
        assert client.post("/tokenize", json=body).json()["tokens"] == expected


def test_a_name_alone_asks_for_its_token(client):
    """lm-eval obtient ainsi l'identifiant de la fin de texte que `/tokenizer_info` nomme."""
    name = client.get("/tokenizer_info").json()["eos_token"]
    for more, expected in (({}, [TOKENIZER.eos_id]), ({"parse_special": False}, None)):
        found = client.post("/tokenize", json={"prompt": name, **more}).json()["tokens"]
        assert found == (expected or TOKENIZER.encode(name))


def test_the_studio_keeps_the_marks_of_its_example(client, engine):
    """L'exemple du modèle, que la page renvoie tel quel, a ses tokens spéciaux ; un autre, non."""
    example = client.get("/studio/api/info").json()["example"]
    path = "/studio/api/generate"
    found = prompt_of(client, engine, path, {"prompt": example})
    assert (found[0], found[-1]) == (USER, ASSISTANT)
    assert USER not in prompt_of(client, engine, path, {"prompt": example + "?"})


def test_names_of_the_vocabulary(engine):
    """`/tokenizer_info` donne les noms du modèle, non ceux de GPT-2."""
    named = BPETokenizer.from_dict(
        json.loads(json.dumps(TOKENIZER.to_dict())) | {"roles": {"eos_token": "<|user|>"}}
    )
    with client_of(make_context(engine, tokenizer=named)) as client:
        info = client.get("/tokenizer_info").json()
    assert {info[f"{role}_token"] for role in ("eos", "bos", "pad")} == {"<|user|>"}
