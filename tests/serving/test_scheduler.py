"""La file et le partage d'un pas, sans modèle ni fil."""

from collections import Counter

import pytest
from serving_helpers import request

from gpt_architecture.serving.engine.scheduler import (
    PROMPT_TOKENS,
    EngineJob,
    FairQueue,
    prompt_budget,
    share,
)


def job(number, prompt=(1, 2, 3), *, client="", computed=0):
    found = EngineJob(
        number,
        request(prompt, client=client, generate=True),
        _Sequence(),
        print,
        lambda delivery: delivery(),
    )
    found.computed = computed
    return found


class _Sequence:
    def __init__(self):
        self.tokens = []


def counts(jobs, budget):
    return {each.id: count for each, count in share(jobs, budget)}


def prompt(number, length):
    return tuple(range(100 * number, 100 * number + length))


def test_writers_read_one_token_each_beyond_the_budget():
    writers = [job(i, computed=2) for i in range(5)]
    assert counts(writers, 1) == dict.fromkeys(range(5), 1)


def test_the_budget_is_shared_between_the_oldest_and_the_shortest():
    jobs = [job(1, prompt(1, 50)), job(2, prompt(2, 30)), job(3, prompt(3, 4))]
    assert counts(jobs, 20) == {1: 10, 3: 4, 2: 6}


def test_nobody_leaves_budget_unused():
    assert counts([job(1, prompt(1, 5)), job(2, prompt(2, 30))], 20) == {1: 5, 2: 15}
    assert counts([job(1, prompt(1, 50))], 20) == {1: 20}


def test_a_long_start_always_moves():
    long = job(0, prompt(0, 90))
    for _ in range(8):
        shorts = [job(i, prompt(i, 3)) for i in range(1, 20)]
        found = counts([long, *shorts], 16)
        assert found[0] >= 8
        long.computed += found[0]
    assert counts([long], 16).keys() == {0}


def test_prompts_fill_the_last_pass_of_the_writers():
    assert prompt_budget(0, 32) == PROMPT_TOKENS
    assert prompt_budget(5, 32) == PROMPT_TOKENS - 5
    assert prompt_budget(32, 32) == PROMPT_TOKENS
    assert prompt_budget(5, 128) == prompt_budget(5, 1024) == PROMPT_TOKENS - 5
    assert prompt_budget(32, 128) == 96
    assert prompt_budget(120, 128) == 8 + 128  # un passage de plus, ou qui arrive attendrait trop
    assert prompt_budget(7, 0) == PROMPT_TOKENS


@pytest.mark.parametrize("height", [1, 7, 32, 48, 128, 129, 512])
def test_no_step_starves_a_prompt_nor_a_writer(height):
    for writing in range(300):
        budget = prompt_budget(writing, height)
        assert PROMPT_TOKENS // 4 <= budget < 5 * PROMPT_TOKENS // 4
        whole = height > PROMPT_TOKENS or (writing + budget) % height == 0
        assert whole, "le dernier passage n'est pas plein"


def test_twins_wait_for_the_first():
    same = prompt(1, 40)
    jobs = [job(1, same), job(2, same), job(3, (*same[:30], 7, 8)), job(4, (*same[:8], 9, 9))]
    assert counts(jobs, 100) == {1: 40, 4: 10}


def test_the_queue_alternates_clients_and_keeps_each_one_s_order():
    queue = FairQueue(100)
    for number, client in enumerate("aaabbc"):
        queue.push(job(number, client=client))
    order = [queue.pop(Counter()) for _ in range(6)]
    assert [each.id for each in order] == [0, 3, 5, 1, 4, 2]
    assert len(queue) == 0


def test_the_queue_serves_first_who_holds_the_fewest_slots():
    queue = FairQueue(100)
    for number, client in enumerate("ab"):
        queue.push(job(number, client=client))
    assert queue.pop(Counter(a=3, b=1)).id == 1


def test_a_single_client_leaves_room_to_the_others():
    queue = FairQueue(8)
    for number in range(6):
        assert queue.has_room("avide")
        queue.push(job(number, client="avide"))
    assert not queue.has_room("avide")
    assert queue.has_room("sobre")
    for number in (6, 7):
        queue.push(job(number, client="sobre"))
    assert not queue.has_room("nouveau")


def test_a_request_can_leave_the_queue():
    queue = FairQueue(8)
    first, second = job(1), job(2)
    queue.push(first)
    queue.push(second)
    queue.remove(first)
    assert list(queue) == [second]
    queue.remove(second)
    assert (list(queue), len(queue)) == ([], 0)
