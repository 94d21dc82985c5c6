"""Outils des tests du service : un petit modèle servi pour de bon, un moteur aux ordres."""

import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from urllib.parse import urljoin

import httpx2
from decoding_helpers import LETTERS, LetterTokenizer, sharp_model

from gpt_architecture.errors import TokenizerError
from gpt_architecture.evaluation.embeddings import embed
from gpt_architecture.serving.app import create_app
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import EngineClosed, EngineStats, Ticket
from gpt_architecture.serving.http.server import HttpServer, bind, url_of
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.openai.strict_bodies import FieldPolicy

WINDOW = 256
STUDIO_FILES = ("studio.css", "icon.svg")
HTTP = httpx2.Client(
    verify=False, trust_env=False, timeout=30, limits=httpx2.Limits(max_keepalive_connections=0)
)
"""Un client partagé : en construire un lit les autorités de certification, 50 ms à chaque fois."""

NAME = "petit"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ message.role }}, {{ message.content }}. {% endfor -%}"
    "{%- if add_generation_prompt -%}assistant, {%- endif -%}"
)


class Letters(LetterTokenizer):
    """Un vocabulaire fermé, comme `simple-v1` : une lettre inconnue est une erreur qui la nomme."""

    def encode(self, text, *, allowed_special=frozenset()):
        unknown = set(text) - set(LETTERS)
        if unknown:
            raise TokenizerError(f"lettres {unknown}", expected="une lettre", remedy="changez-les")
        return super().encode(text, allowed_special=allowed_special)


class ScriptedEngine:
    """Un moteur qui donne à chaque demande les événements qu'on lui a dictés."""

    def __init__(self, events=(), *, state="ready", error=None):
        self.events, self.state, self.error = events, state, error
        self.requests, self.cancelled = [], []

    def submit(self, request, on_event):
        if self.error is not None:
            raise self.error
        number = len(self.requests)
        self.requests.append(request)
        for event in self.events:
            on_event(event)
        return Ticket(id=number, cancel=lambda: self.cancelled.append(number))

    def stats(self):
        counts = {each.name: 0 for each in fields(EngineStats)}
        return EngineStats(**counts | {"state": self.state, "finished": {}})


class LateEngine(ScriptedEngine):
    """Le même, qui garde de quoi donner d'autres événements plus tard."""

    def submit(self, request, on_event):
        ticket = super().submit(request, on_event)
        self.on_event = on_event
        return ticket


class SlowModel:
    """Le même modèle, un peu plus lent à chaque pas : les flux durent."""

    def __init__(self, model, seconds):
        self._model, self._seconds = model, seconds

    def __getattr__(self, name):
        return getattr(self._model, name)

    def __call__(self, *args, **options):
        time.sleep(self._seconds)
        return self._model(*args, **options)


def small_model():
    """Le petit modèle de lettres."""
    return sharp_model(context_length=WINDOW)


def make_context(engine, *, chat=False, fields=None, tokenizer=None, **limits):
    """Le contexte d'un service sur le petit modèle."""
    model = small_model()
    return ServingContext(
        engine=engine,
        model=model,
        embed=partial(embed, model, window=WINDOW),
        tokenizer=Letters() if tokenizer is None else tokenizer,
        name=NAME,
        metadata={"chat_template": CHAT_TEMPLATE} if chat else {},
        window=WINDOW,
        limits=Limits(**limits),
        fields=fields or FieldPolicy(),
    )


@contextmanager
def running_engine(model=None, **options):
    """Un vrai moteur, démarré puis arrêté."""
    engine = Engine(small_model() if model is None else model, Letters(), **options)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@contextmanager
def serving(app, *, limits=None, drain_seconds=5.0):
    """Sert une application sur la boucle locale ; rend son adresse."""
    listener = bind("127.0.0.1", 0)
    server = HttpServer(app, limits=limits or Limits(), drain_seconds=drain_seconds)
    thread = threading.Thread(target=server.serve_until_stopped, args=(listener,))
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.request_stop()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def small_service(*, chat=False, keys=None, model=None, engine=None, limits=None):
    """Le petit modèle servi ; rend (adresse, moteur)."""
    limits = limits or {}
    with running_engine(model, **(engine or {})) as running:
        context = make_context(running, chat=chat, **limits)
        with serving(create_app(context, keys=keys), limits=context.limits) as url:
            yield url, running


@contextmanager
def running_service(model, tokenizer):
    """Un autre modèle, servi avec son tokenizer ; rend l'adresse."""
    engine = Engine(model, tokenizer, slots=4)
    engine.start()
    try:
        context = ServingContext(
            engine=engine,
            model=model,
            tokenizer=tokenizer,
            name=NAME,
            metadata={},
            window=engine.window,
        )
        with serving(create_app(context)) as url:
            yield url
    finally:
        engine.stop()


@contextmanager
def client_of(app_or_context, **options):
    """Un client dans ce processus, sans prise réseau."""
    from starlette.testclient import TestClient

    is_context = isinstance(app_or_context, ServingContext)
    app = create_app(app_or_context, **options) if is_context else app_or_context
    with TestClient(app) as client:
        yield client


def post(url, path, body, **options):
    """Envoie un objet JSON, ou des octets tels quels."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return HTTP.post(url + path, content=content, headers=headers, **options)


def check_envelope(response, *statuses):
    """Une erreur dans l'enveloppe d'OpenAI ; rend son contenu."""
    assert response.status_code in statuses, (response.status_code, response.text)
    assert response.headers["content-type"].startswith("application/json")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text
    return error


def check_page(response, *, reloads):
    """Une page d'attente : 503, accessible, sans rien d'ailleurs ; rend ce qu'elle dit."""
    assert response.status_code == 503
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"
    page = response.text
    assert '<html lang="fr">' in page
    assert page.count("<h1>") == 1
    assert "://" not in page
    for forbidden in ("<script", "<style", " style=", "{"):
        assert forbidden not in page
    assert ("retry-after" in response.headers) == reloads
    seconds = response.headers.get("retry-after")
    assert (f'<meta http-equiv="refresh" content="{seconds}">' in page) == reloads
    for name in re.findall(r'href="([^"]+)"', page):
        assert urljoin(str(response.url), name).partition("/studio/")[2] in STUDIO_FILES
    return page


def wait_until(condition, seconds=10.0):
    """Attend qu'une condition devienne vraie."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "la condition n'est jamais devenue vraie"
        time.sleep(0.01)


def closed():
    """L'erreur d'un moteur arrêté."""
    return EngineClosed("le moteur s'est arrêté")
