"""Un flux : ses octets, ses attentes bornées, ses réveils."""

import asyncio
import json
import threading
import time

import pytest
from http_helpers import NAME, Letters
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import TokenScore
from gpt_architecture.serving.context import TokenNames
from gpt_architecture.serving.limits import Patience
from gpt_architecture.serving.openai.answers import ChatShape, CompletionShape, Delta, Transcript
from gpt_architecture.serving.openai.bodies import StreamOptions
from gpt_architecture.serving.openai.frames import Frames
from gpt_architecture.serving.openai.planning import Plan
from gpt_architecture.serving.openai.streaming import Waker

SHORT = 0.05
PLAN = Plan(prompts=((1,), (2,)), n=1, config=GenerationConfig(), max_tokens=4)
NAMES = TokenNames(Letters())
SHAPES = {
    "completions": lambda: CompletionShape(NAME, NAMES, PLAN, logprobs=True),
    "chat": lambda: ChatShape(NAME, NAMES, logprobs=True),
}
OPTIONS = [
    StreamOptions(),
    StreamOptions(include_usage=True),
    StreamOptions(include_usage=True, continuous_usage_stats=True),
]
DELTAS = st.lists(
    st.one_of(
        st.builds(Delta, index=st.integers(0, 1), text=st.text()),
        st.builds(Delta, index=st.integers(0, 1), finish=st.sampled_from(["stop", "length"])),
        st.just(Delta(index=0, text="a", tokens=(3,), scores=(TokenScore(token=3, logprob=-1.0),))),
    ),
    max_size=6,
)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS, ids=["rien", "compte", "toujours"])
@given(deltas=DELTAS)
def test_the_bytes_are_those_of_each_whole_chunk(shape, options, deltas):
    """Ce qui n'est écrit qu'une fois par suite dit ce que chaque morceau aurait dit, entier."""
    transcript = Transcript(PLAN)
    made, plain = SHAPES[shape](), SHAPES[shape]()
    plain._head = made._head  # un identifiant au hasard, et l'heure
    expected = b""
    for delta in deltas:
        chunk = plain.chunk(delta)
        if options.include_usage:
            always = options.continuous_usage_stats
            chunk["usage"] = transcript.usage(running=True) if always else None
        text = json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
        expected += f"data: {text}\n\n".encode()
    assert Frames(transcript, made, options).of(deltas) == expected


async def wait_with(patience, event):
    with patience:
        await event.wait()


class TestPatience:
    def test_each_wait_is_bounded(self):
        async def work():
            patience, never = Patience(SHORT), asyncio.Event()
            for _ in range(2):  # la même sert encore après une attente trop longue
                with pytest.raises(TimeoutError):
                    await wait_with(patience, never)
            assert asyncio.current_task().cancelling() == 0
            patience.close()

        asyncio.run(work())

    def test_short_waits_never_add_up(self):
        async def work():
            patience, loop = Patience(SHORT), asyncio.get_running_loop()
            end = loop.time() + 4 * SHORT
            while loop.time() < end:
                with patience:
                    await asyncio.sleep(SHORT / 10)
            await asyncio.sleep(2 * SHORT)  # personne n'attend : sonner n'arrête rien
            with pytest.raises(TimeoutError):
                await wait_with(patience, asyncio.Event())
            patience.close()

        asyncio.run(work())

    def test_a_cancelled_task_stays_cancelled(self):
        async def work():
            patience, started = Patience(SHORT), asyncio.Event()

            async def waiting():
                started.set()
                await wait_with(patience, asyncio.Event())

            task = asyncio.create_task(waiting())
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            patience.close()

        asyncio.run(work())

    def test_a_cancellation_beside_the_timer_is_not_lost(self):
        """Annulée, puis sonnée avant d'avoir repris la main : c'est l'annulation qui sort."""

        async def work():
            patience, loop = Patience(SHORT), asyncio.get_running_loop()
            start = loop.time()

            async def waiting():
                with patience:
                    loop.call_at(start, asyncio.current_task().cancel)
                    time.sleep(2 * SHORT)  # l'annulation, puis le minuteur, échus au même tour
                    await asyncio.Event().wait()

            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(waiting())
            patience.close()

        asyncio.run(work())

    def test_another_error_passes(self):
        async def work():
            patience = Patience(SHORT)
            with pytest.raises(KeyError), patience:
                raise KeyError
            patience.close()

        asyncio.run(work())


class TestWaker:
    def test_one_call_wakes_everyone(self):
        async def work():
            loop = asyncio.get_running_loop()
            waker, calls = Waker(loop), []
            scheduled = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda call: (calls.append(call), scheduled(call))
            events = [asyncio.Event() for _ in range(50)]
            thread = threading.Thread(target=lambda: [waker.wake(event) for event in events])
            thread.start()
            thread.join()
            async with asyncio.timeout(10):
                for event in events:
                    await event.wait()
                assert len(calls) == 1
                events[0].clear()
                waker.wake(events[0])  # de la boucle aussi, et une fois de plus
                await events[0].wait()
            assert len(calls) == 2

        asyncio.run(work())

    def test_a_closed_loop_is_told_to_each(self):
        loop = asyncio.new_event_loop()
        loop.close()
        waker = Waker(loop)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="closed"):
                waker.wake(asyncio.Event())
