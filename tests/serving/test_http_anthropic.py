"""`/v1/messages`, tel que le client officiel d'Anthropic l'emploie : une autre forme, le même
texte."""

import anthropic
import pytest
from http_helpers import (
    HTTP,
    NAME,
    LateEngine,
    ScriptedEngine,
    client_of,
    closed,
    make_context,
    serving,
    small_service,
)

from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.serving.anthropic.bodies import MessagesBody
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Failed, Finished, Overloaded, Produced
from gpt_architecture.serving.http.access import KeyRing
from gpt_architecture.serving.http.server import LoadingGate

MESSAGES, COUNT, CHAT = "/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"
KEY = "clef-" + "0123456789abcdef"
USER = [{"role": "user", "content": "bonjour"}]
ASKED = {"model": NAME, "max_tokens": 8, "extra_body": {"seed": 3, "ignore_eos": True}}
BODY = {"model": NAME, "max_tokens": 8, "messages": USER}
END = Finished(reason="stop", prompt_tokens=3, completion_tokens=1, cached_tokens=2)


def anthropic_client(url, *, key=KEY):
    """Le client officiel, tourné vers le service."""
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def service():
    """Le petit modèle, son gabarit, et une clé."""
    with small_service(chat=True, keys=KeyRing([KEY])) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(service):
    """Le client officiel."""
    with anthropic_client(service) as found:
        yield found


def chat(client, messages, **options):
    """Ce que /v1/chat/completions écrit, demandé avec la même clé."""
    body = {"messages": messages, "max_tokens": 8, "seed": 3, "ignore_eos": True} | options
    return client.post(CHAT, body=body, cast_to=object)["choices"][0]


def test_a_message_is_the_answer_to_a_conversation(client):
    """Texte, morceaux, consigne : la conversation que l'on croit."""
    wanted = chat(client, USER)["message"]["content"]
    part = {"type": "text", "text": "bonjour", "cache_control": {"type": "ephemeral"}}
    for content in ("bonjour", [part]):
        messages = [{"role": "user", "content": content}]
        found = client.messages.create(messages=messages, **ASKED)
        assert [(each.type, each.text) for each in found.content] == [("text", wanted)]
    told = [{"role": "system", "content": "sois bref"}, *USER]
    wanted = chat(client, told)["message"]["content"]
    for system in ("sois bref", [{"type": "text", "text": "sois bref"}]):
        found = client.messages.create(messages=USER, system=system, **ASKED)
        assert found.content[0].text == wanted


def test_a_whole_message(client):
    """Ses champs, son compte, et pourquoi il s'arrête."""
    found = client.messages.create(messages=USER, **ASKED)
    assert (found.type, found.role, found.model) == ("message", "assistant", NAME)
    assert (found.stop_reason, found.stop_sequence) == ("max_tokens", None)
    assert found.usage.output_tokens == 8
    counted = client.messages.count_tokens(model=NAME, messages=USER)
    assert found.usage.input_tokens == counted.input_tokens
    assert found._request_id


def test_a_stop_sequence_is_named(client):
    """Le texte d'arrêt trouvé, et `end_turn` quand le modèle finit de lui-même."""
    text = chat(client, USER)["message"]["content"]
    stop = text[3:5]
    found = client.messages.create(messages=USER, stop_sequences=["?!", stop], **ASKED)
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", stop)
    assert found.content[0].text == text[: text.index(stop)]
    with client.messages.stream(messages=USER, stop_sequences=[stop], **ASKED) as stream:
        last = stream.get_final_message()
    assert (last.stop_reason, last.stop_sequence) == ("stop_sequence", stop)
    with client_of(make_context(ScriptedEngine([END]), chat=True)) as quick:
        assert quick.post(MESSAGES, json=BODY).json()["stop_reason"] == "end_turn"


def test_the_stream_says_the_same(client):
    """Les événements d'Anthropic, dans l'ordre ; le client en fait le même message."""
    whole = client.messages.create(messages=USER, **ASKED)
    events = list(client.messages.create(messages=USER, stream=True, **ASKED))
    names = [event.type for event in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    assert "".join(event.delta.text for event in events[2:-3]) == whole.content[0].text
    with client.messages.stream(messages=USER, **ASKED) as stream:
        text = "".join(stream.text_stream)
        found = stream.get_final_message()
    assert text == found.content[0].text == whole.content[0].text
    assert (found.usage, found.stop_reason) == (whole.usage, whole.stop_reason)


def test_a_conversation_goes_on(client):
    """Un message reçu est renvoyé tel quel."""
    first = client.messages.create(messages=USER, **ASKED)
    text = first.content[0].text
    again = [*USER, {"role": "assistant", "content": text}, *USER]
    wanted = chat(client, again)["message"]["content"]
    for content in (first.content, [each.model_dump() for each in first.content]):
        messages = [*USER, {"role": "assistant", "content": content}, *USER]
        assert client.messages.create(messages=messages, **ASKED).content[0].text == wanted


NEUTRAL = {
    "tools": [[], None],
    "tool_choice": [{"type": "auto"}, {"type": "none"}],
    "thinking": [{"type": "disabled"}, None],
    "metadata": [{"user_id": "x"}],
    "service_tier": ["auto", "standard_only"],
    "stop_sequences": [[], None],
    "system": [None, "", []],
    "output_config": [None, {"effort": "low"}],
    "container": [None],
    "stream": [False, None],
    "temperature": [1, 0.5, None],
    "top_k": [5],
    "top_p": [0.9],
    "cache_control": [{"type": "ephemeral"}],
    "inference_geo": ["eu"],
}
REFUSED = {
    "tools": [{"name": "x", "input_schema": {}}],
    "tool_choice": {"type": "any"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "container": "x",
    "mcp_servers": [{}],
    "stop": ["a"],
    "n": 2,
    "response_format": {"type": "json_object"},
    "max_tokens": 0,
    "temperature": -1,
    "stop_sequences": "a",
    "system": 3,
    "messages": [],
    "output_config": {"format": {"type": "json_schema"}},
}


@pytest.fixture(scope="module")
def quick():
    """Un service qui répond toujours la même chose."""
    piece = Produced(piece=Piece(text="oui", token=1))
    with client_of(make_context(ScriptedEngine([piece, END]), chat=True)) as found:
        yield found


def check_error(response, status, kind):
    """Une erreur à la forme d'Anthropic ; rend sa phrase."""
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"type", "error", "request_id"}
    assert (content["type"], content["error"]["type"]) == ("error", kind)
    assert content["request_id"] == response.headers["request-id"]
    return content["error"]["message"]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in NEUTRAL.items() for value in values]
)
def test_what_asks_for_nothing_is_accepted(quick, name, value):
    answer = quick.post(MESSAGES, json={**BODY, name: value})
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"] == [{"type": "text", "text": "oui"}]


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_answer_is_refused(quick, name):
    """400, qui nomme le champ."""
    answer = quick.post(MESSAGES, json={**BODY, name: REFUSED[name]})
    assert name in check_error(answer, 400, "invalid_request_error")


def test_a_schema_is_a_constraint():
    """`output_config.format` est le `response_format` d'OpenAI."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "schema": schema}}
    body = MessagesBody.model_validate({**BODY, "output_config": form})
    assert body.to_chat().constraints == [("response_format", "json_schema", schema)]


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens"])
def test_what_a_request_must_have(quick, name):
    """`count_tokens` n'a pas de longueur à demander."""
    body = {field: value for field, value in BODY.items() if field != name}
    message = check_error(quick.post(MESSAGES, json=body), 400, "invalid_request_error")
    assert f"{name} est absent" in message
    if name != "max_tokens":
        check_error(quick.post(COUNT, json=body), 400, "invalid_request_error")


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": [{"type": "image", "source": {}}]}], "image"),
        ([{"role": "user", "content": [{"type": "tool_result"}]}], "tool_result"),
        ([*USER, {"role": "assistant", "content": "je"}], "finit par une réponse"),
        ([{"role": "robot", "content": "a"}], "role"),
        ([{"role": "user"}], "content"),
    ],
)
def test_messages_that_are_not_text(quick, messages, words):
    answer = quick.post(MESSAGES, json={**BODY, "messages": messages})
    assert words in check_error(answer, 400, "invalid_request_error")


def test_a_system_too_many_is_the_fault_of_the_request(quick, caplog):
    """La consigne compte parmi les messages ; rien de leur texte ne va au journal."""
    messages = [{"role": "user", "content": "secret"}] * 1024
    asked = {"model": NAME, "max_tokens": 2, "messages": messages, "system": "a"}
    answer = quick.post("/v1/messages", json=asked)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "secret" not in caplog.text


def test_versions(quick):
    """Celle dont le flux a cette forme et les suivantes, ou aucune ; une plus vieille, non."""
    accepted = ("2023-06-01", anthropic._constants.ANTHROPIC_API_VERSION)
    for version, status in (*((each, 200) for each in accepted), ("2023-01-01", 400), ("x", 400)):
        answer = quick.post(MESSAGES, json=BODY, headers={"anthropic-version": version})
        assert answer.status_code == status
    assert "2023-06-01" in check_error(answer, 400, "invalid_request_error")


def test_errors_have_their_classes(service, client):
    """Chaque refus devient l'exception que le client attend, avec l'identifiant de la requête."""
    for key in ("fausse", KEY[:-1], KEY.upper()):
        with anthropic_client(service, key=key) as stranger:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                stranger.messages.create(messages=USER, **ASKED)
            assert refused.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(messages=USER, **{**ASKED, "model": "autre"})
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(messages=USER, **{**ASKED, "max_tokens": 10**6})
    assert "max_tokens" in refused.value.message
    assert refused.value.request_id


def test_both_kinds_of_keys_open_every_door(service):
    """`x-api-key` vaut `Authorization: Bearer`, ici et sur les routes d'OpenAI."""
    for path in ("/v1/models", "/tokenizer_info"):
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert HTTP.get(service + path, headers=headers).status_code == 200
        for headers in ({"x-api-key": "fausse"}, [("x-api-key", KEY), ("x-api-key", KEY)]):
            assert HTTP.get(service + path, headers=headers).status_code == 401
    both = {"x-api-key": KEY, "authorization": "Bearer fausse"}
    assert HTTP.get(service + "/v1/models", headers=both).status_code == 401


def test_doors_speak_this_language_too():
    """Clé, quota, taille, moteur plein ou arrêté, méthode, chargement : toujours cette forme."""
    engine = ScriptedEngine()
    keys = KeyRing([f"sobre {KEY} requests/min=6"])
    headers = {"x-api-key": KEY}
    context = make_context(engine, chat=True, body_bytes=200)
    with client_of(context, keys=keys) as client:
        check_error(client.post(MESSAGES, json=BODY), 401, "authentication_error")
        answer = client.post(MESSAGES, content=b" " * 201, headers=headers)
        check_error(answer, 413, "request_too_large")
        check_error(client.get(MESSAGES, headers=headers), 405, "invalid_request_error")
        check_error(client.get(MESSAGES + "/x", headers=headers), 404, "not_found_error")
        for error, status, kind in (
            (Overloaded(64, 3.2), 429, "rate_limit_error"),
            (closed(), 503, "overloaded_error"),
        ):
            engine.error = error
            answer = client.post(MESSAGES, json=BODY, headers=headers)
            check_error(answer, status, kind)
            assert "retry-after" in answer.headers
        client.post(MESSAGES, json=BODY, headers=headers)
        check_error(client.post(MESSAGES, json=BODY, headers=headers), 429, "rate_limit_error")
    with serving(LoadingGate(ScriptedEngine)) as url:
        check_error(HTTP.post(url + MESSAGES, json=BODY), 503, "overloaded_error")


def test_without_a_template():
    """Un modèle qui ne converse pas le dit, et compte encore moins."""
    with client_of(make_context(ScriptedEngine())) as client:
        for path in (MESSAGES, COUNT):
            message = check_error(client.post(path, json=BODY), 400, "invalid_request_error")
            assert "gabarit" in message


def test_a_failure_in_the_stream_is_raised():
    """Le code 200 est parti : un événement `error`, que le client lève."""
    engine = LateEngine([Produced(piece=Piece(text="oui", token=1))])
    context = make_context(engine, chat=True)
    with serving(create_app(context)) as url, anthropic_client(url) as client:
        stream = client.messages.create(messages=USER, stream=True, **ASKED)
        assert next(iter(stream)).type == "message_start"
        engine.on_event(Failed(error=RuntimeError("panne")))
        with pytest.raises(anthropic.APIStatusError, match="erreur interne") as raised:
            list(stream)
    assert "panne" not in str(raised.value)
