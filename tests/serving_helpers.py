"""Ce que les tests du service partagent : des demandes, ce qu'elles reçoivent, un moteur arrêté
quoi qu'il arrive."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

from decoding_helpers import LetterTokenizer

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import (
    EngineRequest,
    Failed,
    Finished,
    Produced,
    PromptScored,
)

TOKENIZER = LetterTokenizer()
PATIENCE = 60.0
"""Secondes avant de tenir un moteur pour bloqué ; rien ne les attend quand tout va bien."""


@dataclass(eq=False)
class Inbox:
    """Les événements d'une demande."""

    events: list = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, Produced):
            self.started.set()
        if isinstance(event, Finished | Failed):
            self.done.set()

    def wait(self):
        """Le dernier événement."""
        assert self.done.wait(PATIENCE), "la demande n'a pas fini"
        return self.events[-1]

    @property
    def pieces(self):
        return [event.piece for event in self.events if isinstance(event, Produced)]

    @property
    def tokens(self):
        return [piece.token for piece in self.pieces]

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)

    @property
    def scores(self):
        (scored,) = [event for event in self.events if isinstance(event, PromptScored)]
        return scored.scores


def request(prompt="bonjour", *, client="", deadline=None, score_prompt=None, generate=True, **kw):
    ids = prompt if isinstance(prompt, tuple) else tuple(TOKENIZER.encode(prompt))
    return EngineRequest(
        prompt=ids,
        config=GenerationConfig(**({"max_tokens": 6, "ignore_eos": True} | kw)),
        client=client,
        deadline=deadline,
        score_prompt=score_prompt,
        generate=generate,
    )


@contextmanager
def running(model, tokenizer=TOKENIZER, **settings):
    """Un moteur démarré, arrêté à la sortie."""
    engine = Engine(model, tokenizer, **settings)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def submit(engine, *requests):
    """Soumet tout d'un coup ; rend les boîtes."""
    boxes = [Inbox() for _ in requests]
    for each, box in zip(requests, boxes, strict=True):
        engine.submit(each, box)
    return boxes


def ask(engine, each):
    """Soumet et attend la fin."""
    (box,) = submit(engine, each)
    box.wait()
    return box


class Gate:
    """Un modèle qui n'avance que lorsqu'on le lui permet, et compte ses passages."""

    def __init__(self, model, *, opened=False):
        self.model, self.cfg = model, model.cfg
        self.permits = threading.Semaphore(10**6 if opened else 0)
        self.calls = []
        self.error = None

    def __call__(self, in_idx, cache=None, *, at=None):
        assert self.permits.acquire(timeout=PATIENCE)
        self.calls.append(tuple(in_idx.shape))
        if self.error is not None:
            raise self.error
        return self.model(in_idx, cache, at=at)

    @property
    def device(self):
        return self.model.device

    def new_cache(self, batch_size, capacity=None):
        return self.model.new_cache(batch_size, capacity)

    def open(self, passes=10**6):
        for _ in range(passes) if passes < 10**6 else range(10**5):
            self.permits.release()
