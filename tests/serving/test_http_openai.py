"""Le client officiel d'OpenAI tient lieu de contrat."""

import openai
import pytest
from http_helpers import (
    NAME,
    LateEngine,
    ScriptedEngine,
    SlowModel,
    closed,
    make_context,
    serving,
    small_model,
    small_service,
    wait_until,
)

from gpt_architecture.decoding.sequence import Piece
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.engine.messages import Finished, Produced
from gpt_architecture.serving.http.access import KeyRing

KEY = "clef-" + "0123456789abcdef"
PROMPT = "le passeur"
LONG = {"ignore_eos": True}


def openai_client(url, *, key=KEY, retries=0):
    """Le client officiel, tourné vers le service."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries, timeout=30)


@pytest.fixture(scope="module")
def service():
    """Le petit modèle servi avec une clé et un gabarit."""
    with small_service(
        chat=True,
        keys=KeyRing([KEY]),
        model=SlowModel(small_model(), 0.002),
        engine={"slots": 2},
    ) as found:
        yield found


@pytest.fixture
def client(service):
    """Un client du service."""
    with openai_client(service[0]) as found:
        yield found


@pytest.mark.slow
def test_completions(client):
    """Entière, en flux, avec le compte des tokens."""
    whole = client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=8, seed=1, logprobs=1, extra_body=LONG
    )
    assert whole.usage.completion_tokens == 8
    assert "".join(whole.choices[0].logprobs.tokens).startswith(whole.choices[0].text)
    stream = client.completions.create(
        model=NAME,
        prompt=PROMPT,
        max_tokens=8,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=LONG,
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].text
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_chat(client):
    """Une conversation, entière et en flux."""
    messages = [{"role": "user", "content": "bonjour"}]
    whole = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=8, seed=3, logprobs=True, top_logprobs=2
    )
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=8, seed=3, stream=True
    )
    deltas = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(deltas) == whole.choices[0].message.content


def test_extra_fields(client):
    """Les réglages qu'OpenAI n'a pas passent par extra_body."""
    found = client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=8, extra_body={"top_k": 1, "min_p": 0.5}
    )
    greedy = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=8, temperature=0)
    assert found.choices[0].text == greedy.choices[0].text


def test_models(client):
    """Le modèle servi est dans la liste."""
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME


def test_errors_have_their_classes(service, client):
    """Chaque refus devient l'exception que le client attend."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=NAME, prompt=PROMPT, max_tokens=10**9)
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="autre", prompt=PROMPT)
    for key in ("fausse", KEY[:-1], KEY + "x", KEY.upper()):
        with (
            openai_client(service[0], key=key) as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()


def test_closing_a_stream_frees_its_slot(service, client):
    """Fermer un flux rend sa place, bien avant la fin de la suite."""
    _, engine = service
    stream = client.completions.create(
        model=NAME, prompt=PROMPT, max_tokens=240, stream=True, extra_body=LONG
    )
    next(iter(stream))
    assert engine.stats().running == 1
    stream.close()
    wait_until(lambda: engine.stats().running == 0, seconds=1.0)


@pytest.mark.slow
def test_503_is_retried():
    """Le client réessaie de lui-même après un 503, et aboutit."""

    class Recovering(ScriptedEngine):
        def submit(self, request, on_event):
            self.error = closed() if self.error is None and not self.tries else None
            self.tries += 1
            return super().submit(request, on_event)

    end = Finished(reason="stop", prompt_tokens=1, completion_tokens=1, cached_tokens=0)
    engine = Recovering([Produced(piece=Piece(text="oui", token=1)), end])
    engine.tries = 0
    with (
        serving(create_app(make_context(engine))) as url,
        openai_client(url, retries=2) as client,
    ):
        found = client.with_options(max_retries=2).completions.create(model=NAME, prompt=PROMPT)
    assert found.choices[0].text == "oui"
    assert engine.tries == 2


@pytest.mark.slow
def test_an_error_in_a_stream_is_raised():
    """Une panne au milieu d'un flux devient une exception du client, pas une fin normale."""
    end = Finished(reason="timeout", prompt_tokens=1, completion_tokens=1, cached_tokens=0)
    engine = LateEngine([Produced(piece=Piece(text="oui", token=1))])
    with serving(create_app(make_context(engine))) as url, openai_client(url) as client:
        stream = client.completions.create(model=NAME, prompt=PROMPT, stream=True)
        assert next(iter(stream)).choices[0].text == "oui"
        engine.on_event(end)
        with pytest.raises(openai.APIError, match="écoulé"):
            list(stream)


def converse(client, answer_of):
    """Trois tours : chaque message reçu est renvoyé tel que le client le rend."""
    messages = [{"role": "user", "content": "bonjour"}]
    for _ in range(3):
        messages.append(answer_of(messages))
        messages.append({"role": "user", "content": "encore"})
    return messages


def whole_message(client, messages, **options):
    """Le message d'une réponse entière."""
    found = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=4, seed=3, **options
    )
    return found.choices[0].message


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"exclude_none": True}, {"exclude_unset": True}])
def test_received_messages_are_sent_back(client, options):
    """`messages.append(message.model_dump())`, la boucle de tout programme qui converse."""
    messages = converse(
        client, lambda messages: whole_message(client, messages).model_dump(**options)
    )
    plain = converse(
        client,
        lambda messages: {"role": "assistant", "content": whole_message(client, messages).content},
    )
    assert [each["content"] for each in messages] == [each["content"] for each in plain]
    objects = converse(client, lambda messages: whole_message(client, messages))
    assert [getattr(each, "content", None) or each["content"] for each in objects] == [
        each["content"] for each in plain
    ]


@pytest.mark.slow
def test_streamed_messages_are_sent_back(client):
    """Les morceaux d'un flux, accumulés champ par champ ou par le client, le sont aussi."""

    asked = {"model": NAME, "seed": 3, "stop": [".", "?"]}  # qu'il s'arrête : le client l'exige

    def accumulated(messages):
        message = {}
        stream = client.chat.completions.create(messages=messages, stream=True, **asked)
        for chunk in stream:
            for name, value in chunk.choices[0].delta.model_dump().items():
                message[name] = (message.get(name) or "") + value if value else message.get(name)
        return message

    def helped(messages):
        with client.chat.completions.stream(messages=messages, **asked) as stream:
            return stream.get_final_completion().choices[0].message.model_dump()

    expected = [each["content"] for each in converse(client, accumulated)]
    assert min(map(len, expected)) > 0
    assert [each["content"] for each in converse(client, helped)] == expected


def test_what_frameworks_always_send(client):
    """Tous les champs facultatifs du client officiel, à leur valeur qui ne demande rien."""
    neutral = {
        "store": False,
        "metadata": None,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": None,
        "functions": [],
        "service_tier": "auto",
        "reasoning_effort": None,
        "prompt_cache_key": "clef",
        "safety_identifier": "quelqu'un",
        "modalities": ["text"],
        "prediction": None,
        "stop": "",
        "logit_bias": {},
        "stream_options": None,
        "top_logprobs": None,
        "logprobs": False,
    }
    messages = [{"role": "user", "content": "bonjour"}]
    assert whole_message(client, messages, **neutral) == whole_message(client, messages)
    settings = {"model": NAME, "max_tokens": 6, "seed": 4}
    neutral = {"suffix": None, "best_of": 1, "stop": [], "logprobs": None, "user": "x"}
    plain = client.completions.create(prompt="", **settings).choices
    assert client.completions.create(prompt=None, **settings, **neutral).choices == plain


def test_usage_as_the_stream_goes(client):
    """Ce que demandent les générateurs de charge : le compte à chaque morceau."""
    stream = client.completions.create(
        model=NAME,
        prompt=PROMPT,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        extra_body={**LONG, "stream_options": {"continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream]
    assert counts == sorted(counts)
    assert counts[-1] == 8


@pytest.mark.slow
def test_a_conversation_too_long_is_recognised(client):
    """Le code et la phrase d'OpenAI : les cadres d'applications raccourcissent et réessaient."""
    messages = [{"role": "user", "content": "a" * 400}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=NAME, messages=messages)
    assert refused.value.code == "context_length_exceeded"
    assert "This model's maximum context length is 256 tokens" in str(refused.value)
