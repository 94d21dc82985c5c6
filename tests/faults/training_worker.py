"""Lance « train » et s'envoie des signaux à un moment choisi : python training_worker.py …

Arguments : la phase, le nombre de signaux, puis ceux de train.
"""

import os
import signal
import sys

from gpt_architecture.core.model import GPTModel
from gpt_architecture.data import datasets
from gpt_architecture.main import main
from gpt_architecture.training import checkpoint, losses, step
from gpt_architecture.training.trainer import Trainer

PHASES = {
    "données": (datasets, "load_training_data", 1),
    "modèle": (GPTModel, "__init__", 1),
    "échauffement": (Trainer, "_forward_backward", 2),
    "étape": (Trainer, "_forward_backward", 6),
    "évaluation": (losses.LossEvaluator, "_loss", 4),
    "exemple": (step, "greedy_token", 3),
    "sauvegarde": (checkpoint, "write_checkpoint", 2),
}


def signal_during(phase, count):
    """Au moment dit, envoie `count` SIGTERM à ce processus, puis laisse faire."""
    owner, name, left = PHASES[phase]
    original = getattr(owner, name)
    calls = 0

    def wrapper(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == left:
            print(f"PHASE {phase}", flush=True)
            for _ in range(count):
                os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    setattr(owner, name, wrapper)


if __name__ == "__main__":
    signal_during(sys.argv[1], int(sys.argv[2]))
    main(["train", *sys.argv[3:]])
