"""Un calcul à la fois : chacun son tour, et un calcul abandonné garde le sien jusqu'à sa fin."""

import asyncio
import threading
from functools import partial

import pytest
from serving_helpers import PATIENCE

from gpt_architecture.serving.engine.messages import Overloaded
from gpt_architecture.serving.http.access import Exchange, entered
from gpt_architecture.serving.turns import Turns


def test_turns_alternate_between_requests():
    """Une longue demande laisse passer une courte entre deux de ses calculs."""

    async def work():
        turns, order = Turns(), []
        long = turns.each([lambda number=number: order.append(number) for number in range(5)])
        await asyncio.gather(long, turns.each([partial(order.append, "courte")]))
        return order

    order = asyncio.run(work())
    assert order.index("courte") <= 1
    assert [each for each in order if each != "courte"] == list(range(5))


def test_too_many_requests_wait():
    """La neuvième est refusée avant d'avoir rien lu, et celles d'avant finissent."""

    async def work():
        turns, gate = Turns(), threading.Event()
        waiting = [asyncio.ensure_future(turns.each([gate.wait])) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await turns.each([gate.wait])
        gate.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(work()) == [[True]] * 8


def test_an_abandoned_calculation_keeps_its_turn():
    """Un thread ne s'interrompt pas : celui qui suit ne calcule pas en même temps que lui."""

    async def work():
        turns, gate, order = Turns(), threading.Event(), []
        started = threading.Event()

        def slow():
            started.set()
            gate.wait(PATIENCE)
            order.append("abandonné")

        left = asyncio.ensure_future(turns.each([slow, lambda: order.append("jamais")]))
        await asyncio.to_thread(started.wait, PATIENCE)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        following = asyncio.ensure_future(turns.each([partial(order.append, "suivant")]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(following), 0.05)
        assert turns._waiting == 2  # le calcul abandonné a encore sa place
        gate.set()
        await following
        assert turns._waiting == 0
        return order

    assert asyncio.run(work()) == ["abandonné", "suivant"]


def test_abandoned_calculations_do_not_pile_up():
    """Huit demandes parties laissent une seule place prise, et un seul thread."""

    async def work():
        turns, gate, threads = Turns(), threading.Event(), []

        def slow():
            threads.append(threading.get_ident())
            gate.wait(PATIENCE)

        waiting = [asyncio.ensure_future(turns.each([slow])) for _ in range(8)]
        while not threads:
            await asyncio.sleep(0.01)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert turns._waiting == 1
        gate.set()
        assert await turns.each([lambda: 3]) == [3]
        return threads

    assert len(asyncio.run(work())) == 1


def test_an_abandoned_calculation_keeps_what_it_reads():
    """Le modèle n'est rendu qu'à la fin du calcul que plus personne n'attend."""

    async def work():
        turns, gate, started, released = Turns(), threading.Event(), threading.Event(), []

        def slow():
            started.set()
            gate.wait(PATIENCE)

        with entered(Exchange()) as exchange:
            exchange.at_end.append(lambda: released.append("modèle"))
            left = asyncio.ensure_future(turns.each([slow]))
        await asyncio.to_thread(started.wait, PATIENCE)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        exchange.finish()  # la réponse est envoyée
        before = list(released)
        gate.set()
        await turns.each([lambda: None])
        return before, released

    assert asyncio.run(work()) == ([], ["modèle"])


def test_a_failure_frees_the_turn():
    async def work():
        turns = Turns()
        with pytest.raises(ZeroDivisionError):
            await turns.each([lambda: 1 / 0])
        return await turns.each([lambda: 3]), turns._waiting

    assert asyncio.run(work()) == ([3], 0)
