"""Une préparation partagée, dont chaque tâche et chaque réunion meurt à un endroit tiré au hasard.

`python task_worker.py TEXTES SORTIE N GRAINE MORTS` relance jusqu'à la fin et écrit le nombre de
morts ; avec 0 mort demandée, tout se fait d'une traite, sur une machine si N vaut 0.
"""

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import rensa  # noqa: F401 — lu une fois ici, et non dans chaque processus

from gpt_architecture.data.hygiene import batch, decide, prune, run
from gpt_architecture.data.hygiene.config import HygieneConfig, QualityRules
from gpt_architecture.data.shards import job, merge, parts, plan, work, writer
from gpt_architecture.data.shards.prepare import prepare_tokens
from gpt_architecture.data.texts import shares
from gpt_architecture.data.texts.readers import base
from gpt_architecture.data.tokenizer import SimpleTokenizerV2

run.TASK_BYTES, job.CHECKPOINT_BYTES, merge.MERGED_BYTES = 3000, 1000, 1000
plan.LONG_TEXT_BYTES, base.BLOCK_BYTES = 2000, 700
STEPS = {
    "hygiene": HygieneConfig(
        quality=QualityRules(min_words=5, function_words=0), exact=True, near=0.8, lines=5,
        paragraphs=60, validation=True,
    ),
    "rien": None,
}  # fmt: skip
WRITES = [
    *((module, name) for module in (prune, run, decide, parts)
      for name in ("write_lines", "write_arrays", "write_object") if hasattr(module, name)),
    (work, "write_json"),
    (writer.ShardWriter, "append"), (merge, "header"), (writer.ShardWriter, "_finish_shard"),
    (Path, "rename"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync"),
]  # fmt: skip
TOKENIZER = SimpleTokenizerV2(["le", "la", "passeur", "lampe", "<|endoftext|>", "<|unk|>"])


def step(source, out, steps, **asked):
    config = plan.PrepareConfig(shard_tokens=700)
    return prepare_tokens(
        [source], out, tokenizer=TOKENIZER, config=config, hygiene=STEPS[steps], workers=1,
        skip_bad=True, **asked,
    ).outcome  # fmt: skip


def die_after(calls):
    """Après tant d'écritures, ce processus se tue, avant ou après la dernière."""
    left = calls

    def dying(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*arguments, **options)
            if left == 1 and calls % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    for owner, name in WRITES:
        setattr(owner, name, dying(getattr(owner, name)))


def attempt(calls, *arguments, **asked):
    """L'issue d'un processus neuf ; None s'il est mort en route."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if calls:
            die_after(calls)
        os.write(writing, step(*arguments, **asked).encode())
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 100).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert os.WEXITSTATUS(status) == 0
    return said


def main(source, out, steps, count, seed, wanted):
    batch.Batch(["la table des caractères se fait ici, une fois"])
    rng, deaths = random.Random(seed), 0  # noqa: S311 — un essai
    if not count:
        attempt(0, source, out, steps)
        return 0
    numbers = [*range(1, count + 1), 0]  # 0 : la réunion, après toutes les tâches
    while True:
        for number in numbers:
            asked = {"task": shares.Share(number, count)} if number else {"merge": True}
            while True:
                calls = rng.randrange(1, 16) if deaths < wanted else 0
                said = attempt(calls, source, out, steps, **asked)
                if said is not None:
                    break
                deaths += 1
        if said in ("new", "resumed", "present"):
            return deaths
        assert said == "decided"


if __name__ == "__main__":
    source, out, steps, *numbers = sys.argv[1:]
    print(main(source, out, steps, *map(int, numbers)))
