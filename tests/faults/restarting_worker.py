"""`train`, dont le rang 1 se tue à l'étape 5 de la première vie seulement."""

import os
import signal
import sys

from gpt_architecture.main import main
from gpt_architecture.training.trainer import Trainer

advance = Trainer.advance


def dying_advance(self):
    if (
        self.state.step == 5
        and os.environ["RANK"] == "1"
        and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    ):
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(self)


if __name__ == "__main__":
    Trainer.advance = dying_advance
    main(["train", *sys.argv[1:]])
