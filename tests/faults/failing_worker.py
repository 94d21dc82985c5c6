"""Un rang qui disparaît ou se fige : `failing_worker.py MANIÈRE DÉLAI` (voir les tests)."""

import os
import signal
import sys
import threading

import torch

from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.training.distributed.group import distributed_world


def misbehave(manner):
    match manner:
        case "tue":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fige":
            threading.Event().wait()
        case "quitte":
            raise SystemExit(3)


def main(manner, timeout_s):
    signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM reçu", flush=True))
    with distributed_world(timeout_s, device="cpu") as world:
        for step in range(1000):
            world.mean(torch.ones(4))
            if step == 3 and world.rank == 1:
                misbehave(manner)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        main(sys.argv[1], float(sys.argv[2]))
    except GPTArchitectureError as error:
        print(f"erreur : {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
