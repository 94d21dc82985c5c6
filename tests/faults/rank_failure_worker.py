"""`train`, dont le rang 1 fait défaut à l'étape 5 de sa première vie.

MANIERE dit comment (voir `failing_worker`) ; NUMEROS, le dossier où chaque rang dépose son numéro
de processus.
"""

import os
import sys
from pathlib import Path

from failing_worker import misbehave

from gpt_architecture.main import main
from gpt_architecture.training.trainer import Trainer

advance = Trainer.advance


def failing_advance(self):
    if (
        self.state.step == 5
        and os.environ["RANK"] == "1"
        and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    ):
        misbehave(os.environ["MANIERE"])
    return advance(self)


if __name__ == "__main__":
    place = Path(os.environ["NUMEROS"]) / os.environ["RANK"]
    place.write_text(str(os.getpid()), encoding="utf-8")
    Trainer.advance = failing_advance
    main(["train", *sys.argv[1:]])
