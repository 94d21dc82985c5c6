"""Trente-deux clients, départs et erreurs au hasard : rien ne s'use, rien ne reste.

La durée est celle que supporte une suite de tests ; ENDURANCE=1800 la porte à une demi-heure.
"""

import os
import random
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from http_helpers import HTTP, post
from serve_process import ready, served

pytestmark = pytest.mark.process

SECONDS = float(os.environ.get("ENDURANCE", "12"))
CLIENTS = 32
GOOD = [
    {"prompt": "Le passeur", "max_tokens": 12},
    {"prompt": ["Le lac", "La rive"], "max_tokens": 6, "n": 2, "temperature": 0.7, "seed": 3},
    {"prompt": "Le passeur " * 4, "max_tokens": 3, "logprobs": 2, "echo": True},
    {"prompt": "Le lac", "max_tokens": 8, "top_p": 0.8, "presence_penalty": 0.4},
]
BAD = [{"prompt": "", "max_tokens": -1}, {"prompt": "a", "n": 10**9}, {"prompt": 3.5}]


def memory(process):
    """Mémoire présente, en Mio."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def gauge(url, name):
    lines = HTTP.get(url + "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


class Crowd:
    """Des clients qui demandent sans relâche jusqu'à une date."""

    def __init__(self, url, end):
        self.url, self.end = url, end
        self.statuses, self.faults, self.lock = Counter(), [], threading.Lock()

    def run(self, number):
        chance = random.Random(number)  # noqa: S311
        while time.monotonic() < self.end:
            try:
                status = self.one(chance)
            except Exception as error:
                with self.lock:
                    self.faults.append(repr(error))
                return
            with self.lock:
                self.statuses[status] += 1

    def one(self, chance):
        if chance.random() < 0.2:
            return post(self.url, "/v1/completions", chance.choice(BAD)).status_code
        body = chance.choice(GOOD) | {"ignore_eos": True}
        if chance.random() < 0.5:
            return post(self.url, "/v1/completions", body).status_code
        leave = chance.randrange(1, 6) if chance.random() < 0.5 else None
        with HTTP.stream(
            "POST", self.url + "/v1/completions", json=body | {"stream": True}, timeout=60
        ) as response:
            for index, _ in enumerate(response.iter_lines()):
                if index == leave:
                    return "parti"
            return response.status_code


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="la mémoire se lit dans /proc")
def test_hours_of_random_clients_wear_nothing_out(trained):
    with served(trained, "--slots", "8", "--max-waiting", "64") as (url, process):
        ready(url)
        crowd = Crowd(url, time.monotonic() + SECONDS)
        threads = [threading.Thread(target=crowd.run, args=(i,)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS / 3)  # tampons et caches sont alors en place
        before = memory(process)
        for thread in threads:
            thread.join(SECONDS + 120)
        assert not any(thread.is_alive() for thread in threads), "une requête n'a jamais fini"
        assert crowd.faults == []
        assert set(crowd.statuses) <= {200, 400, 422, 429, "parti"}
        for kind in (200, 400, "parti"):
            assert crowd.statuses[kind] > CLIENTS // 4
        deadline = time.monotonic() + 10
        while gauge(url, "vllm:num_requests_") > 0:  # les places des clients partis
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert memory(process) < 1.03 * before
        assert post(url, "/v1/completions", GOOD[0]).status_code == 200
        assert process.poll() is None
