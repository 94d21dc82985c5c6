"""`/v1/responses`, tel que le client d'OpenAI l'emploie : une autre forme, le même texte."""

import json

import openai
import pytest
from http_helpers import (
    NAME,
    LateEngine,
    ScriptedEngine,
    check_envelope,
    client_of,
    make_context,
    serving,
    small_service,
)

from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Failed, Finished, Produced
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.openai.responses import ResponsesBody

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
KEY = "clef-" + "0123456789abcdef"
ASKED = {"model": NAME, "max_output_tokens": 8, "extra_body": {"seed": 3, "ignore_eos": True}}
PLAIN = {"max_tokens": 8, "seed": 3, "ignore_eos": True}
END = Finished(reason="stop", prompt_tokens=3, completion_tokens=1, cached_tokens=2)


@pytest.fixture(scope="module")
def service():
    """Le petit modèle, son gabarit, et une clé."""
    with small_service(chat=True, keys=KeyRing([KEY])) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(service):
    """Le client officiel."""
    with openai.OpenAI(base_url=f"{service}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def chat(client, messages, **options):
    """Ce que /v1/chat/completions écrit."""
    found = client.chat.completions.create(
        model=NAME, messages=messages, extra_body=PLAIN | options
    )
    return found.choices[0].message.content


def test_a_text_is_the_user_s_message(client):
    """Un texte, un message, des morceaux, une consigne : la conversation que l'on croit."""
    user = {"role": "user", "content": "bonjour"}
    wanted = chat(client, [user])
    part = {"type": "input_text", "text": "bonjour"}
    for given in ("bonjour", [user], [{"role": "user", "content": [part], "type": "message"}]):
        assert client.responses.create(input=given, **ASKED).output_text == wanted
    told = client.responses.create(input="bonjour", instructions="sois bref", **ASKED)
    assert told.output_text == chat(client, [{"role": "system", "content": "sois bref"}, user])
    assert told.instructions == "sois bref"


def test_a_whole_response(client):
    """Ses champs, son compte, et pourquoi elle s'arrête."""
    found = client.responses.create(
        input="bonjour", metadata={"equipe": "a"}, temperature=0.5, top_p=0.9, user="x", **ASKED
    )
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (found.usage.output_tokens, found.max_output_tokens) == (8, 8)
    assert found.usage.total_tokens == found.usage.input_tokens + 8
    assert (found.temperature, found.top_p, found.user) == (0.5, 0.9, "x")
    assert found.metadata == {"equipe": "a"}
    assert (found.store, found.previous_response_id, found.error) == (False, None, None)
    (message,) = found.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "incomplete")


def test_the_stream_says_the_same(client):
    """Les événements d'OpenAI, dans l'ordre, numérotés ; réunis, c'est la réponse entière."""
    whole = client.responses.create(input="bonjour", **ASKED)
    events = list(client.responses.create(input="bonjour", stream=True, **ASKED))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type.removeprefix("response.") for event in events]
    assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert names[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    assert set(names[4:-4]) == {"output_text.delta"}
    text = "".join(event.delta for event in events[4:-4])
    assert text == events[-4].text == events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage
    assert len({event.item_id for event in events[3:-2]}) == 1


def test_the_helper_of_the_client_follows_it():
    """`responses.stream` accumule, et rend la réponse achevée."""
    pieces = [Produced(piece=Piece(text=text, token=1)) for text in ("il ", "pleut")]
    context = make_context(ScriptedEngine([*pieces, END]), chat=True)
    with (
        serving(create_app(context)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
        client.responses.stream(model=NAME, input="bonjour") as stream,
    ):
        deltas = [each.delta for each in stream if each.type == "response.output_text.delta"]
        found = stream.get_final_response()
    assert "".join(deltas) == found.output_text == "il pleut"
    assert found.status == "completed"
    assert found.usage.input_tokens_details.cached_tokens == 2


def test_a_received_response_is_sent_back(client):
    """`input += response.output` : la boucle de qui converse sans état."""
    asked = [{"role": "user", "content": "bonjour"}]
    first = client.responses.create(input=asked, **ASKED)
    more = [*asked, *first.output, {"role": "user", "content": "encore"}]
    again = [*asked, *(each.model_dump() for each in first.output), more[-1]]
    wanted = chat(client, [*asked, {"role": "assistant", "content": first.output_text}, more[-1]])
    for given in (more, again):
        assert client.responses.create(input=given, **ASKED).output_text == wanted


def test_a_json_schema(client):
    """`text.format` est le `response_format` de l'autre route."""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "choix", "schema": schema, "strict": False}
    body = ResponsesBody.model_validate({"input": "a", "text": {"format": form}})
    assert body.to_chat().constraints == [("response_format", "json_schema", schema)]
    assert body.text_format == form
    with pytest.raises(openai.BadRequestError, match="par octets"):  # celui-ci est de lettres
        client.responses.create(input="bonjour", text={"format": form}, **ASKED)
    plain = client.responses.create(input="bonjour", text={"format": {"type": "text"}}, **ASKED)
    assert plain.text.format.type == "text"


NEUTRAL = {
    "store": [True, False, None],
    "metadata": [None, {}],
    "tools": [[], None],
    "tool_choice": ["auto", "none"],
    "parallel_tool_calls": [True, False],
    "previous_response_id": [None],
    "reasoning": [{"effort": "low"}, None],
    "include": [[], None],
    "background": [False, None],
    "truncation": ["disabled", None],
    "service_tier": ["auto"],
    "text": [{"verbosity": "low"}, {"format": {"type": "text"}}, None],
    "top_logprobs": [0],
    "max_tool_calls": [3],
    "prompt_cache_key": ["clef"],
    "safety_identifier": ["x"],
    "stream_options": [{"include_obfuscation": False}],
    "user": ["x"],
    "n": [1],
    "instructions": [None],
}
REFUSED = {
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "prompt": {"id": "pmpt_1"},
    "tools": [{"type": "web_search"}],
    "tool_choice": "required",
    "include": ["reasoning.encrypted_content"],
    "background": True,
    "truncation": "auto",
    "top_logprobs": 2,
    "moderation": {"model": "x"},
    "messages": [],
    "max_tokens": 3,
    "n": 2,
    "receipt": True,
    "max_output_tokens": 0,
    "text": {"format": {"type": "json_schema"}},
}


@pytest.fixture(scope="module")
def quick():
    """Un service qui répond toujours la même chose."""
    piece = Produced(piece=Piece(text="oui", token=1))
    with client_of(make_context(ScriptedEngine([piece, END]), chat=True)) as found:
        yield found


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NEUTRAL.items() for value in values]
)
def test_what_asks_for_nothing_is_accepted(quick, name, value):
    answer = quick.post(RESPONSES, json={"input": "bonjour", name: value})
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][0]["content"][0]["text"] == "oui"


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_is_refused(quick, name):
    """400, qui nomme le champ."""
    error = check_envelope(quick.post(RESPONSES, json={"input": "a", name: REFUSED[name]}), 400)
    assert error["param"] == name
    assert name in error["message"] or "schema" in error["message"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "input est vide"),
        (3, "input doit être une liste"),
        ([{"role": "user"}], "content"),
        ([{"role": "tool", "content": "a"}], "role"),
        ([{"type": "function_call_output", "call_id": "x", "output": "y"}], "function_call_output"),
        ([{"type": "item_reference", "id": "x"}], "item_reference"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input_image"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "text"),
    ],
)
def test_inputs_that_are_not_messages(quick, given, words):
    error = check_envelope(quick.post(RESPONSES, json={"input": given}), 400)
    assert words in error["message"]


def test_bounds_speak_the_names_of_this_route(quick):
    """La borne de `max_tokens` est dite de `max_output_tokens`."""
    asked = {"input": "a", "max_output_tokens": 10**6}
    error = check_envelope(quick.post(RESPONSES, json=asked), 400)
    assert error["param"] == "max_output_tokens"
    assert error["message"].startswith("max_output_tokens vaut")
    long = check_envelope(quick.post(RESPONSES, json={"input": "a" * 300}), 400)
    assert (long["code"], long["param"]) == ("context_length_exceeded", "input")


def test_a_consigne_too_many_is_the_fault_of_the_request(quick, caplog):
    """La consigne compte parmi les messages ; rien de leur texte ne va au journal."""
    asked = {"input": [{"role": "user", "content": "secret"}] * 1024, "instructions": "a"}
    error = check_envelope(quick.post(RESPONSES, json=asked), 400)
    assert (error["param"], error["message"][:13]) == ("input", "input compte ")
    assert "secret" not in caplog.text


def test_it_keeps_the_doors(service, client):
    """Clé, modèle, gabarit, corps : les mêmes refus que les autres routes."""
    with (
        openai.OpenAI(base_url=f"{service}/v1", api_key="fausse", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.responses.create(model=NAME, input="a")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="autre", input="a")
    with client_of(make_context(ScriptedEngine(), body_bytes=100)) as other:
        error = check_envelope(other.post(RESPONSES, json={"input": "a"}), 400)
        assert (error["code"], error["param"]) == ("no_chat_template", "input")
        assert "pas à des messages" in error["message"]
        check_envelope(other.post(RESPONSES, json={"input": "a" * 200}), 413)


def test_a_failure_in_the_stream_is_an_event():
    """Le code 200 est parti : `error`, puis `response.failed`."""
    engine = LateEngine([Produced(piece=Piece(text="oui", token=1))])
    context = make_context(engine, chat=True)
    with (
        serving(create_app(context)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
    ):
        stream = client.responses.create(model=NAME, input="a", stream=True)
        first = next(iter(stream))
        assert first.type == "response.created"
        engine.on_event(Failed(error=RuntimeError("panne")))
        *_, error, failed = list(stream)
    assert (error.type, error.code) == ("error", "server_error")
    assert failed.type == "response.failed"
    assert failed.response.status == "failed"
    assert failed.response.error.code == "server_error"
    assert "panne" not in json.dumps(failed.model_dump(), default=str)
