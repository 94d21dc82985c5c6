"""Les champs que d'autres clients envoient : sans effet, ignorés, ou refusés par leur nom."""

import logging

import anthropic
import openai
import pytest
from anthropic.types import message_create_params
from http_helpers import (
    ScriptedEngine,
    check_envelope,
    client_of,
    make_context,
    running_engine,
    small_model,
)
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.serving.anthropic.bodies import CountBody, MessagesBody
from gpt_architecture.serving.engine.messages import Finished, Produced
from gpt_architecture.serving.openai.bodies import ChatBody, CompletionBody, Message, TextPart
from gpt_architecture.serving.openai.embeddings import EmbeddingsBody
from gpt_architecture.serving.openai.responses import InputMessage, InputPart, ResponsesBody
from gpt_architecture.serving.openai.strict_bodies import (
    MESSAGE,
    REQUEST,
    FieldPolicy,
    Hint,
    Refused,
)

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "bonjour"}]
BODIES = {
    COMPLETIONS: {"prompt": "le lac", "max_tokens": 4, "seed": 3},
    CHAT: {"messages": MESSAGES, "max_tokens": 4, "seed": 3},
}
NEUTRAL = {  # ce qui, sur les deux routes, ne demande rien
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none"],
    "store": [False, True],
    "metadata": [{}, {"equipe": "a"}],
    "parallel_tool_calls": [False, True],
    "service_tier": ["auto", "default"],
    "reasoning_effort": ["high"],
    "verbosity": ["low"],
    "prompt_cache_key": ["clef"],
    "safety_identifier": ["x"],
    "modalities": [["text"]],
    "user": ["x"],
    "stop": ["", [], ["", ""]],
    "logit_bias": [{}],
    "stop_token_ids": [[]],
    "top_k": [0, -1],
    "n": [1],
    "min_tokens": [0],
    "lookup": [0],
    "stream_options": [{}, {"include_usage": False, "include_obfuscation": True}],
    "response_format": [{"type": "text"}],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "skip_special_tokens": [True],
    "champ_d_ailleurs": [1, "a", {"b": [None]}],
}
NULLS = [
    *("model", "temperature", "top_p", "n", "stop", "stream", "stream_options"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "user", "response_format"),
    *("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "regex", "choices"),
    *("lookup", "lookup_ngram"),
    *("json_schema", "stop_token_ids", "logprobs", "champ_d_ailleurs"),
    *REQUEST,
]
REFUSED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "audio": {"voice": "alloy", "format": "wav"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "suffix": "fin",
    "n_predict": 5,
    "repeat_penalty": 1.1,
    "use_beam_search": True,
    "length_penalty": True,
    "bad_words": ["a"],
    "best_of": 2,
}


@pytest.fixture(scope="module")
def client():
    """Un client du petit modèle, avec un gabarit de conversation."""
    with running_engine() as engine, client_of(make_context(engine, chat=True)) as found:
        yield found


def answer(client, path, **changes):
    """Les choix d'une réponse, et ce qu'elle a compté."""
    response = client.post(path, json={**BODIES[path], **changes})
    assert response.status_code == 200, response.text
    found = response.json()
    return found["choices"], found["usage"]["completion_tokens"], found["usage"]["prompt_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_values_that_ask_for_nothing_are_absence(client, path):
    """La réponse est celle d'une requête qui n'a pas ces champs, un par un et tous ensemble."""
    expected = answer(client, path)
    for name, values in NEUTRAL.items():
        for value in values:
            assert answer(client, path, **{name: value}) == expected, (name, value)
    together = {name: values[-1] for name, values in NEUTRAL.items()}
    assert answer(client, path, **together) == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_null_is_absence(client, path):
    """Null vaut l'absence, pour tout champ, connu ou non, seul ou avec les autres."""
    expected = answer(client, path)
    for name in NULLS:
        assert answer(client, path, **{name: None}) == expected, name
    assert answer(client, path, **dict.fromkeys(NULLS)) == expected


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *((CHAT, name) for name in REFUSED if name != "best_of"),
        *((COMPLETIONS, n) for n in REFUSED),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(client, path, name):
    """Un champ que le service n'a pas, et qui demande quelque chose : 400, qui le nomme."""
    response = client.post(path, json={**BODIES[path], name: REFUSED[name]})
    error = check_envelope(response, 400)
    assert error["param"] == name
    assert error["message"].startswith(name)
    if name == "n_predict":
        assert "max_tokens" in error["message"]


@pytest.mark.slow
@pytest.mark.parametrize("table", [REQUEST, MESSAGE])
def test_every_foreign_field_keeps_its_rule(client, table):
    """Chaque ligne des tables : la valeur neutre passe, le reste est refusé par son nom."""

    def post(name, value):
        fields = {name: value}
        if table is REQUEST:
            return client.post(CHAT, json={**BODIES[CHAT], **fields})
        messages = [{"role": "assistant", "content": "a", **fields}, *MESSAGES]
        return client.post(CHAT, json={**BODIES[CHAT], "messages": messages})

    for name, rule in table.items():
        passing = [rule.kind()] if isinstance(rule, Hint) else list(rule.neutral)
        for value in [None, *passing]:
            assert post(name, value).status_code == 200, (name, value)
        error = check_envelope(post(name, object_of_no_kind()), 400)
        assert error["param"] == (name if table is REQUEST else "messages")
        assert name in error["message"]
        assert (error["code"] == "unsupported_parameter") == isinstance(rule, Refused)


def object_of_no_kind():
    """Un nombre à virgule : la valeur neutre d'aucun champ, et le type d'aucun."""
    return 0.25


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": "oui"}, "store"),
        ({"metadata": []}, "metadata"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 1000}, "stop_token_ids"),
        ({"stream_options": {"include_obfuscation": 1}}, "stream_options"),
        ({"stream_options": {"continuous_usage_stats": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"lookup": 33}, "lookup"),
        ({"lookup": -1}, "lookup"),
        ({"lookup": True}, "lookup"),
        ({"lookup": 4, "lookup_ngram": 0}, "lookup_ngram"),
        ({"lookup": 4, "lookup_ngram": 33}, "lookup_ngram"),
        ({"lookup_ngram": 2}, None),  # sans lookup, il ne changerait rien
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -2}, "max_completion_tokens"),
    ],
)
def test_types_and_bounds_still_hold(client, fields, param):
    """Un champ connu garde son type et ses bornes."""
    body = {**BODIES[CHAT], **fields}
    assert check_envelope(client.post(CHAT, json=body), 400)["param"] == param


def test_unknown_fields_are_ignored_and_said_once(client, caplog):
    """Un champ que personne ne connaît : ignoré, dit une fois au journal, sans rien y forger."""
    policy = FieldPolicy()
    context = make_context(ScriptedEngine(), fields=policy)
    with client_of(context) as found, caplog.at_level(logging.WARNING):
        for _ in range(3):
            body = {"prompt": "a", "max_tokens": 0, "tempurature": 1, "b\nERREUR": 2}
            assert found.post(COMPLETIONS, json=body).status_code == 200
        many = {f"champ{number}": 1 for number in range(500)}
        assert found.post(COMPLETIONS, json={"max_tokens": 0, **many}).status_code == 200
    lines = [record.getMessage() for record in caplog.records if "ignoré" in record.getMessage()]
    assert sum("tempurature" in line for line in lines) == 1
    assert sum("ERREUR" in line for line in lines) == 1
    assert not any("\n" in line for line in lines)
    assert len(lines) == 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": "a", "tempurature": 1}, "tempurature"),
        (CHAT, {"messages": [{**MESSAGES[0], "poids": 1}]}, "messages"),
        (CHAT, {"messages": MESSAGES, "stream_options": {"x": 1}}, "stream_options"),
        ("/tokenize", {"prompt": "a", "x": 1}, "x"),
        ("/detokenize", {"tokens": [1], "x": 1}, "x"),
    ],
)
def test_a_strict_service_refuses_unknown_fields(path, body, param):
    """Avec la rigueur demandée, un champ inconnu est une erreur ; un champ d'OpenAI, non."""
    context = make_context(ScriptedEngine(), chat=True, fields=FieldPolicy(strict=True))
    with client_of(context) as client:
        error = check_envelope(client.post(path, json=body), 400)
        assert (error["param"], error["code"]) == (param, "unknown_parameter")
        fields = {"tools": [], "store": False, "champ": None}
        ending = {"prompt": "a", "max_tokens": 0, **fields}
        assert client.post(COMPLETIONS, json=ending).status_code == 200


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
        {"role": "assistant", "content": "", "tool_calls": [], "annotations": []},
        {"role": "assistant", "content": [], "id": "msg_1", "reasoning_content": "…"},
        {"role": "assistant", "content": [{"type": "text", "text": ""}], "audio": None},
    ],
)
def test_an_answer_without_text_is_an_empty_message(client, message):
    """Un message d'assistant sans texte, sous toutes ses formes, est lu comme un texte vide."""
    empty = {"role": "assistant", "content": ""}
    both = [
        client.post("/tokenize", json={"messages": [*MESSAGES, each, *MESSAGES]}).json()["tokens"]
        for each in (message, empty)
    ]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ({"role": "user", "content": None}, "content"),
        ({"role": "user"}, "content"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"id": "x"}]}, "tool_calls"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "image_url"),
        ({"role": "user", "content": [{"type": "text", "text": 1}]}, "texte"),
    ],
)
def test_messages_it_cannot_read_are_refused(client, message, word):
    """Un message sans texte, ou qui porte autre chose : 400, qui dit quoi."""
    error = check_envelope(client.post(CHAT, json={"messages": [message]}), 400)
    assert error["param"] == "messages"
    assert word in error["message"]


def test_stop_token_ids_stop(client):
    """Un identifiant d'arrêt finit la suite, et ne s'écrit pas."""
    (choice,), _, _ = answer(client, COMPLETIONS, max_tokens=20, ignore_eos=True)
    ids = client.post("/tokenize", json={"prompt": choice["text"]}).json()["tokens"]
    first = next(rank for rank, token in enumerate(ids) if token != ids[0])
    stopped = {"max_tokens": 20, "ignore_eos": True, "stop_token_ids": [ids[first]]}
    (found,), written, _ = answer(client, COMPLETIONS, **stopped)
    assert found["text"] == choice["text"][:first]
    assert found["finish_reason"] == "stop"
    assert written == first + 1


@pytest.mark.slow
@pytest.mark.parametrize("path", BODIES)
def test_lookup_changes_no_bit_of_a_packed_model(path):
    """Les noyaux rendent les mêmes bits : texte, probabilités et compte sont ceux d'avant."""
    settings = {"max_tokens": 60, "temperature": 0.7, "ignore_eos": True, "seed": 5}
    settings |= {"logprobs": 3} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": 3}
    with (
        running_engine(pack(small_model()), drafts=0) as engine,
        client_of(make_context(engine, chat=True)) as client,
    ):
        for fields in ({}, {"temperature": 0}, {"n": 2}, {"stop": "e"}):
            expected = answer(client, path, **settings | fields)
            before = engine.stats()
            assert answer(client, path, **settings | fields, lookup=7, lookup_ngram=1) == expected
            assert engine.stats().drafted_tokens > before.drafted_tokens
        assert engine.stats().accepted_tokens > 0


def test_lookup_is_in_the_schema(client):
    """Les deux champs et leurs bornes, dans le document OpenAPI et sa page."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for body in ("CompletionBody", "ChatBody"):
        fields = schemas[body]["properties"]
        bounds = [
            (fields[name]["anyOf"][0]["minimum"], fields[name]["anyOf"][0]["maximum"])
            for name in ("lookup", "lookup_ngram")
        ]
        assert bounds == [(0, 32), (1, 32)]
    assert client.get("/docs").text.count("<code>lookup_ngram</code>") == 4  # quatre routes


CLIENTS = {
    CompletionBody: completion_create_params.CompletionCreateParamsNonStreaming,
    ChatBody: chat_create_params.CompletionCreateParamsNonStreaming,
    ResponsesBody: response_create_params.ResponseCreateParamsNonStreaming,
    EmbeddingsBody: openai.types.EmbeddingCreateParams,
    MessagesBody: message_create_params.MessageCreateParamsNonStreaming,
    CountBody: anthropic.types.MessageCountTokensParams,
    Message: openai.types.chat.ChatCompletionAssistantMessageParam,
    InputMessage: openai.types.responses.ResponseOutputMessageParam,
    TextPart: openai.types.chat.ChatCompletionContentPartTextParam,
    InputPart: openai.types.responses.ResponseOutputTextParam,
}
"""Ce qu'on lit → ce que le client officiel installé peut y mettre."""


@pytest.mark.parametrize("body", CLIENTS, ids=lambda body: body.__name__)
def test_no_field_of_the_official_clients_is_unknown(body):
    """Chacun est lu, sans effet et admis, ou refusé par son nom : jamais ignoré sans le savoir."""
    fields = CLIENTS[body].__annotations__
    assert len(fields) >= 3
    known = {each.alias or name for name, each in body.model_fields.items()}
    assert set(fields) - known - set(body.foreign) == set()


def test_best_of_up_to_n(client):
    """best_of ne demande rien tant qu'il n'y a pas à trier."""
    expected = answer(client, COMPLETIONS, n=3)
    for best_of in (1, 2, 3):
        assert answer(client, COMPLETIONS, n=3, best_of=best_of) == expected


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}, {"prompt": ""}, {"prompt": [""]}])
def test_an_empty_prompt_is_the_start_of_a_text(client, prompt):
    """Sans début, le modèle commence un texte : ce qui suit la fin du précédent."""
    settings = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
    eos = make_context(ScriptedEngine()).tokenizer.eos_id
    expected = client.post(COMPLETIONS, json={"prompt": [eos], **settings}).json()
    found = client.post(COMPLETIONS, json={**prompt, **settings})
    assert found.status_code == 200, found.text
    assert found.json()["choices"] == expected["choices"]
    assert found.json()["usage"]["prompt_tokens"] == 1


def test_an_empty_prompt_needs_an_end_of_text(monkeypatch):
    """Un vocabulaire sans fin de texte n'a pas de début de texte : 400, qui le dit."""
    context = make_context(ScriptedEngine())
    monkeypatch.setattr(context.tokenizer, "eos_id", None)
    with client_of(context) as client:
        error = check_envelope(client.post(COMPLETIONS, json={"prompt": ""}), 400)
    assert error["param"] == "prompt"
    assert "fin de texte" in error["message"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "fields"),
    [(COMPLETIONS, {"prompt": "le lac"}), (CHAT, {"messages": MESSAGES})],
)
def test_minus_one_writes_to_the_end_of_the_window(client, path, fields):
    """max_tokens à −1 : tout ce que le contexte laisse, comme chez llama.cpp."""
    window = make_context(ScriptedEngine()).window
    body = {**fields, "max_tokens": -1, "ignore_eos": True, "seed": 1}
    usage = client.post(path, json=body).json()["usage"]
    assert usage["total_tokens"] == window + 1  # le dernier token écrit n'est pas relu


def test_minus_one_is_still_bounded():
    """Le service garde sa borne."""
    end = Finished(reason="length", prompt_tokens=1, completion_tokens=1, cached_tokens=0)
    engine = ScriptedEngine([Produced(piece=Piece(text="a", token=1)), end])
    with client_of(make_context(engine, max_tokens=7)) as client:
        assert client.post(COMPLETIONS, json={"max_tokens": -1}).status_code == 200
    assert engine.requests[0].config.max_tokens == 7
