"""Ce qui est déjà lu n'est pas relu, et ne change rien à ce qui s'écrit."""

import numpy as np
import pytest
import torch
from decoding_helpers import sharp_model
from serving_helpers import PATIENCE, TOKENIZER, Gate, ask, request, running, submit

from gpt_architecture.decoding.cache_reader import CacheReader, Part
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.serving.engine.slots import SlotPool, shared_prefix

START = "le chat dort, le chien aussi"


@pytest.fixture
def model():
    return sharp_model(context_length=64)


def alone(model, each):
    (found,) = Generator(model, TOKENIZER).generate([list(each.prompt)], each.config)[0]
    return list(found.tokens)


def test_a_finished_start_is_not_read_again(model):
    gate = Gate(model, opened=True)
    longer = request(START + ", oui", max_tokens=10)
    with running(gate, slots=2) as engine:
        first = ask(engine, request(START))
        read = sum(width for _, width in gate.calls)
        again, more = ask(engine, request(START)), ask(engine, longer)
        passes = sum(width for _, width in gate.calls) - read
        stats = engine.stats()
    assert first.events[-1].cached_tokens == 0
    assert again.events[-1].cached_tokens == len(START) - 1
    assert more.events[-1].cached_tokens >= len(START)
    assert again.tokens == first.tokens
    assert more.tokens == alone(model, longer)
    assert passes < len(START)
    assert stats.prefix_hits == 2


def test_a_conversation_reuses_what_was_written(model):
    with running(model) as engine:
        first = ask(engine, request(START, max_tokens=10))
        written = (*TOKENIZER.encode(START), *first.tokens, *TOKENIZER.encode(" oui"))
        second = ask(engine, request(written, max_tokens=8))
    assert second.events[-1].cached_tokens == len(START) + 9  # le dernier écrit n'est pas lu
    assert second.tokens == alone(model, request(written, max_tokens=8))


def test_twins_read_their_start_once(model):
    gate = Gate(model)
    gate.open(1)
    twins = [request(START, max_tokens=8, strategy="temperature", seed=i) for i in range(6)]
    with running(gate, slots=6, prefill_chunk=64) as engine:
        boxes = submit(engine, *twins)
        gate.open()
        ends = [box.wait() for box in boxes]
    assert [end.cached_tokens for end in ends].count(0) == 1
    assert [box.tokens for box in boxes] == [alone(model, each) for each in twins]


@pytest.mark.slow
def test_a_running_start_is_copied_to_a_newcomer(model):
    gate = Gate(model)
    gate.open(3)
    newcomer = request(START + " oui", max_tokens=6)
    with running(gate, slots=2) as engine:
        (writing,) = submit(engine, request(START, max_tokens=30))
        assert writing.started.wait(PATIENCE)
        (copied,) = submit(engine, newcomer)
        gate.open()
        assert copied.wait().cached_tokens >= len(START)
        writing.wait()
    assert copied.tokens == alone(model, newcomer)
    assert writing.tokens == alone(model, request(START, max_tokens=30))


def test_more_rows_than_slots_keep_more_starts(model):
    starts = [letter * 20 for letter in "abcd"]
    for kept, hits in ((0, 0), (4 * 64, 4)):
        with running(model, slots=1, prefix_cache_tokens=kept) as engine:
            for start in (*starts, *starts):
                ask(engine, request(start, max_tokens=2))
            assert engine.stats().prefix_hits == hits


def pool(rows=3):
    model = sharp_model(context_length=16)
    return model, SlotPool(model, rows, 16)


def read(model, slots, slot, tokens):
    with torch.inference_mode():
        slots.read(CacheReader(model), [Part(row=slot, tokens=tokens)])


def test_a_line_is_taken_in_place_or_copied():
    model, slots = pool()
    first, shared = slots.acquire(np.array([1, 2, 3, 4]))
    assert shared == 0
    read(model, slots, first, [1, 2, 3, 4])
    second, shared = slots.acquire(np.array([1, 2, 3, 9, 9]))  # la première est prise : copie
    assert (second != first, shared) == (True, 3)
    assert torch.equal(
        slots.cache.storage[:, :, first, :, :3], slots.cache.storage[:, :, second, :, :3]
    )
    slots.release(first)
    again, shared = slots.acquire(np.array([1, 2, 3, 4]))
    assert (again, shared) == (first, 3)  # jamais le dernier
    assert slots.lengths[first] == 3


def test_a_long_line_keeps_its_text_when_little_is_shared():
    model, slots = pool()
    long, _ = slots.acquire(np.arange(10))
    read(model, slots, long, list(range(10)))
    slots.release(long)
    other, shared = slots.acquire(np.array([0, 1, 2, 30]))
    assert (other != long, shared) == (True, 3)
    assert slots.acquire(np.arange(10)) == (long, 9)


def test_the_oldest_line_is_taken_first():
    model, slots = pool()
    for start in (1, 2, 3):
        row, _ = slots.acquire(np.array([start, 9]))
        read(model, slots, row, [start, 9])
        slots.release(row)
    assert slots.acquire(np.array([5, 5]))[0] == 0
    assert slots.acquire(np.array([2, 9, 9])) == (1, 2)


def test_a_spoiled_line_is_emptied():
    model, slots = pool()
    row, _ = slots.acquire(np.array([1, 2]))
    read(model, slots, row, [1, 2])
    slots.release(row, spoiled=True)
    assert slots.lengths[row] == 0
    assert not slots.cache.storage[:, :, row].any()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [([1, 2, 3], [1, 2, 4], 2), ([1], [1, 2], 1), ([1, 2], [3], 0), ([], [1], 0)],
)
def test_the_shared_prefix(first, second, expected):
    ids = [np.array(each, dtype=np.int64) for each in (first, second)]
    assert shared_prefix(*ids) == expected
