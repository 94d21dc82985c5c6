"""Le moteur sous les abandons, les échéances, la surcharge, les arrêts et les échecs."""

import gc
import logging
import random
import threading
import time
import weakref

import pytest
import torch
from decoding_helpers import sharp_model
from serving_helpers import PATIENCE, TOKENIZER, Gate, Inbox, ask, request, running, submit

from gpt_architecture.decoding.generator import Generator
from gpt_architecture.errors import GenerationError
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.engine.messages import EngineClosed, Failed, Finished, Overloaded


@pytest.fixture
def model():
    return sharp_model(context_length=64)


def until(condition):
    """Attend qu'une condition du moteur soit vraie."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, "rien ne vient"
        time.sleep(0.001)


def test_a_cancelled_request_leaves_within_a_step(model):
    gate = Gate(model)
    gate.open(2)
    with running(gate, slots=1) as engine:
        box, other = Inbox(), Inbox()
        ticket = engine.submit(request(max_tokens=40), box)
        assert box.started.wait(PATIENCE)
        engine.submit(request("oui", max_tokens=2), other)
        ticket.cancel()
        gate.open(1)  # le pas déjà commencé, s'il l'est
        assert box.wait().reason == "cancelled"
        assert len(box.pieces) <= 2
        gate.open()
        assert other.wait().reason == "length"
        ticket.cancel()  # sans effet
        assert isinstance(box.events[-1], Finished)


def test_a_waiting_request_can_be_cancelled(model):
    gate = Gate(model)
    gate.open(1)
    with running(gate, slots=1) as engine:
        (first,) = submit(engine, request(max_tokens=3))
        until(lambda: engine.stats().running == 1)
        box = Inbox()
        engine.submit(request("oui"), box).cancel()
        gate.open()
        assert box.wait() == Finished(
            reason="cancelled", prompt_tokens=3, completion_tokens=0, cached_tokens=0
        )
        first.wait()
        assert engine.stats().finished == {"cancelled": 1, "length": 1}


@pytest.mark.slow
def test_a_deadline_ends_a_request_running_or_waiting(model):
    gate = Gate(model)
    gate.open(2)
    with running(gate, slots=1) as engine:
        soon = time.monotonic() + 0.2
        boxes = submit(
            engine,
            request(max_tokens=40, deadline=soon),
            request(max_tokens=40, deadline=soon),
            request("oui", deadline=soon + 1e6),
        )
        until(lambda: time.monotonic() > soon)
        gate.open()
        assert [box.wait().reason for box in boxes] == ["timeout", "timeout", "length"]
        assert boxes[1].pieces == []


def test_beyond_the_queue_a_request_is_refused(model):
    gate = Gate(model)
    gate.open(1)
    with running(gate, slots=1, max_waiting=2) as engine:
        boxes = submit(engine, request())
        until(lambda: engine.stats().running == 1)
        boxes += submit(engine, request("oui"), request("le"))
        with pytest.raises(Overloaded, match="2 demandes attendent déjà") as refused:
            engine.submit(request(), Inbox())
        assert 1 <= refused.value.retry_after <= 60
        gate.open()
        assert all(box.wait().reason == "length" for box in boxes)
        assert ask(engine, request()).events[-1].reason == "length"


def test_free_slots_lengthen_the_queue(model):
    """Une rafale venue entre deux pas remplit les places libres avant la file."""
    engine = Engine(model, TOKENIZER, slots=3, max_waiting=2)
    boxes = submit(engine, *[request() for _ in range(5)])
    with pytest.raises(Overloaded):
        engine.submit(request(), Inbox())
    engine.start()
    assert [box.wait().reason for box in boxes] == ["length"] * 5
    engine.stop()


def test_clients_are_served_in_turn(model):
    gate = Gate(model)
    gate.open(1)
    order = []
    with running(gate, slots=1) as engine:
        (first,) = submit(engine, request("a", max_tokens=1))
        until(lambda: engine.stats().running == 1)
        boxes = []
        for client in ["avide"] * 6 + ["sobre"] * 2:
            box = Inbox()

            def note(event, box=box, client=client):
                box(event)
                if isinstance(event, Finished):
                    order.append(client)

            engine.submit(request("oui", max_tokens=1, client=client), note)
            boxes.append(box)
        gate.open()
        for box in (first, *boxes):
            box.wait()
    assert order == ["avide", "sobre", "avide", "sobre", "avide", "avide", "avide", "avide"]


def test_draining_finishes_what_was_accepted(model):
    gate = Gate(model)
    gate.open(1)
    with running(gate, slots=1) as engine:
        boxes = submit(engine, request(), request("oui"), request("le chat"))
        assert not engine.drain(0.01)
        assert engine.state == "draining"
        with pytest.raises(EngineClosed, match="n'accepte plus"):
            engine.submit(request(), Inbox())
        gate.open()
        assert engine.drain(PATIENCE)
        assert [box.events[-1].reason for box in boxes] == ["length"] * 3
    assert engine.state == "dead"


def test_stopping_fails_what_is_left(model):
    gate = Gate(model)
    gate.open(2)
    with running(gate, slots=1) as engine:
        boxes = submit(engine, request(max_tokens=40), request())
        assert boxes[0].started.wait(PATIENCE)
        threading.Timer(0.05, gate.open).start()
        engine.stop()
        assert [type(box.wait().error) for box in boxes] == [EngineClosed, EngineClosed]


class Exploding:
    """Une contrainte qui échoue au deuxième token."""

    is_complete = False

    def __init__(self):
        self.left = 1

    def allowed(self):
        return torch.ones(TOKENIZER.vocab_size, dtype=torch.bool)

    def advance(self, token):
        if not self.left:
            raise GenerationError("contrainte rompue", expected="rien", remedy="rien")
        self.left -= 1


def test_an_error_in_one_request_ends_that_one_only(model, monkeypatch, caplog):
    module = "gpt_architecture.serving.engine.engine.build_constraint"
    monkeypatch.setattr(module, lambda config, *_, **__: Exploding() if config.seed == 13 else None)
    healthy = request("le chat", max_tokens=20)
    (alone,) = Generator(model, TOKENIZER).generate([list(healthy.prompt)], healthy.config)[0]
    with running(model, slots=2) as engine, caplog.at_level(logging.CRITICAL):
        broken, fine = submit(engine, request(seed=13), healthy)
        assert "contrainte rompue" in str(broken.wait().error)
        fine.wait()
        assert len(broken.pieces) == 1
        assert fine.tokens == list(alone.tokens)
        assert engine.state == "ready"
        assert engine.stats().failed == 1


def test_an_error_in_a_callback_ends_that_request_only(model, caplog):
    def refuse(event):
        raise RuntimeError("client parti")

    with running(model, slots=2) as engine, caplog.at_level(logging.CRITICAL):
        engine.submit(request(max_tokens=40), refuse)
        assert ask(engine, request("oui")).events[-1].reason == "length"
        until(lambda: engine.stats().running == 0)
        assert engine.stats().finished["cancelled"] == 1


def test_nan_logits_end_their_request_and_their_slot_serves_again(model, caplog):
    """Un NaN laissé dans le cache, même masqué, gâterait la demande suivante (0 × NaN)."""
    poisoned = TOKENIZER.encode("z")[0]
    with torch.no_grad():
        model.tok_emb.weight[poisoned] = torch.nan
    healthy = request("bonjour", max_tokens=20)
    (alone,) = Generator(model, TOKENIZER).generate([list(healthy.prompt)], healthy.config)[0]
    with running(model, slots=2) as engine, caplog.at_level(logging.CRITICAL):
        for _ in range(3):
            sick, fine = submit(engine, request("le z et la suite"), healthy)
            assert isinstance(sick.wait().error, GenerationError)
            fine.wait()
            assert fine.tokens == list(alone.tokens)
        again = submit(engine, healthy, healthy, healthy)
        assert [box.wait().reason for box in again] == ["length"] * 3
        assert all(box.tokens == list(alone.tokens) for box in again)


def test_a_model_failure_fails_the_running_requests_and_the_engine_goes_on(model, caplog):
    gate = Gate(model)
    gate.open(1)
    with running(gate, slots=2) as engine, caplog.at_level(logging.CRITICAL):
        until(lambda: engine.state == "ready")
        gate.error = RuntimeError("carte débranchée")
        first = submit(engine, request(), request("oui"))
        gate.open(2)  # le second peut n'arriver qu'après l'échec du premier
        assert all("débranchée" in str(box.wait().error) for box in first)
        restarts = engine.stats().restarts
        gate.error = None
        gate.open()
        assert ask(engine, request()).events[-1].reason == "length"
        assert engine.state == "ready"
        assert engine.stats().restarts == restarts > 0


def test_repeated_model_failures_kill_the_engine(model, caplog):
    gate = Gate(model, opened=True)
    with running(gate, slots=1) as engine, caplog.at_level(logging.CRITICAL):
        ask(engine, request())
        gate.error = RuntimeError("carte débranchée")
        gate.permits = threading.Semaphore(0)  # il ne meurt qu'une fois les cinq acceptées
        boxes = submit(engine, *[request() for _ in range(5)])
        gate.open()
        errors = [box.wait().error for box in boxes]
        assert [isinstance(error, EngineClosed) for error in errors] == [False] * 3 + [True] * 2
        until(lambda: engine.state == "dead")
        with pytest.raises(EngineClosed):
            engine.submit(request(), Inbox())
        assert engine.drain(0)


def test_a_model_that_never_starts_leaves_a_dead_engine(model, caplog):
    gate = Gate(model, opened=True)
    gate.error = RuntimeError("pas assez de mémoire")
    with running(gate) as engine, caplog.at_level(logging.CRITICAL):
        engine.wait_started()
        assert engine.state == "dead"


def test_waiting_for_the_first_pass(model):
    """`wait_started` ne rend la main qu'à un moteur prêt."""
    gate = Gate(model)
    with running(gate) as engine:
        waiting = threading.Thread(target=engine.wait_started)
        waiting.start()
        assert engine.state == "starting"
        assert waiting.is_alive()
        gate.open()
        waiting.join(PATIENCE)
        assert engine.state == "ready"


@pytest.mark.slow
def test_hundreds_of_random_requests_and_cancels(model):
    """Chacune finit une fois et une seule ; celles qui vont au bout ont le bon texte."""
    dice = random.Random(0)  # noqa: S311
    generator = Generator(model, TOKENIZER)
    starts = ["bonjour", "bonjour, le chat", "bonjour, le chien", "a", "il pleut, il mouille"]
    kinds = [
        request(
            starts[i % 5],
            max_tokens=1 + 3 * (i % 7),
            client=f"client {i % 3}",
            strategy="temperature",
            temperature=0.5 + i / 20,
            seed=i,
        )
        for i in range(30)
    ]
    alone = [list(generator.generate([list(k.prompt)], k.config)[0][0].tokens) for k in kinds]
    sent = []
    with running(model, slots=5, max_waiting=1000, prefill_chunk=7) as engine:
        for _ in range(400):
            number, box = dice.randrange(30), Inbox()
            ticket = engine.submit(kinds[number], box)
            sent.append((number, box))
            if dice.random() < 0.2:
                ticket.cancel()
            elif dice.random() < 0.1:
                assert box.started.wait(PATIENCE)
                ticket.cancel()
        assert engine.drain(PATIENCE)
        stats = engine.stats()
    ends = [box.events[-1] for _, box in sent]
    assert all(isinstance(end, Finished) for end in ends)
    assert all(
        sum(isinstance(event, Finished | Failed) for event in box.events) == 1 for _, box in sent
    )
    for number, box in sent:
        reached = box.tokens
        assert reached == alone[number][: len(reached)]
        if box.events[-1].reason == "length":
            assert reached == alone[number]
    assert sum(stats.finished.values()) == 400
    assert stats.finished["length"] > 200
    assert stats.cached_tokens > 0
    assert (stats.running, stats.waiting, stats.kv_tokens, stats.failed) == (0, 0, 0, 0)


@pytest.mark.slow
def test_nothing_of_a_finished_request_is_kept(model):
    with running(model, slots=2) as engine:
        boxes = weakref.WeakSet(ask(engine, request()) for _ in range(20))
        ask(engine, request())
        gc.collect()
        assert len(boxes) == 0
