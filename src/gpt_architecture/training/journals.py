"""Ce qui s'écrit d'un entraînement à mesure : son journal, et les mesures de TensorBoard."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import asdict, replace
from io import FileIO
from pathlib import Path
from typing import Any

from gpt_architecture.errors import MissingDependencyError, reason
from gpt_architecture.formats.journal import append_whole, line_of, record_of
from gpt_architecture.storage import write_atomically
from gpt_architecture.training.callbacks import (
    Callback,
    EvaluationRecord,
    OngoingTraining,
    StepRecord,
)
from gpt_architecture.training.checkpoint import TrainingState

logger = logging.getLogger(__name__)

_WAITING_LINES = 10_000  # au-delà, les plus anciennes sont perdues
_RETRIES = ("evaluation", "end")  # ni à chaque étape ni jamais


class JournalWriter(Callback):
    """Ajoute une ligne par étape, évaluation, exemple, point de reprise ou événement.

    À la reprise, les lignes au-delà du point repris sont retirées : aucune étape n'y est deux
    fois. Un disque qui refuse est dit, une fois, et n'arrête pas l'entraînement : les lignes
    attendent en mémoire, et sont proposées de nouveau à chaque évaluation et à la fin.

    Args:
        path: le fichier.
        flops_per_token: opérations d'un token.
        peak_flops: opérations par seconde que la machine atteint ; la part en est notée.
    """

    def __init__(self, path: Path | str, *, flops_per_token: int, peak_flops: float) -> None:
        self._path = Path(path)
        self._share = flops_per_token / peak_flops
        self._file: FileIO | None = None
        self._waiting: deque[bytes] = deque(maxlen=_WAITING_LINES)
        self._refusal_said = False

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """Repart de rien, ou des lignes d'avant la reprise."""
        kept = _lines_before(self._path, state) if state.step else []
        text = b"".join(kept)
        write_atomically(self._path, lambda temporary: temporary.write_bytes(text))
        self._file = self._path.open("ab", buffering=0)
        self._write("start", step=state.step, total_steps=total_steps)

    def on_step(self, record: StepRecord) -> None:
        """Une ligne par étape."""
        speed = record.tokens / record.seconds if record.seconds > 0 else 0.0
        values = _flat(record)
        self._write("step", **values, tokens_per_second=speed, peak_share=speed * self._share)

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Une ligne par évaluation."""
        values = _flat(record)
        if not record.sources:
            del values["sources"]
        self._write("evaluation", **values, tokens_seen=trainer.state.tokens)

    def on_sample(self, step: int, epoch: int, text: str) -> None:
        """Une ligne par exemple."""
        self._write("sample", step=step, epoch=epoch, text=text)

    def on_save(self, step: int, path: str) -> None:
        """Une ligne par point de reprise."""
        self._write("checkpoint", step=step, path=Path(path).name)

    def on_event(self, step: int, message: str) -> None:
        """Une ligne par événement."""
        self._write("event", step=step, message=message)

    def on_end(self, state: TrainingState) -> None:
        """La dernière ligne, puis ferme le fichier."""
        self._write("end", step=state.step, skipped=state.skipped, seconds=state.seconds)
        if self._file is not None:
            self._file.close()

    def _write(self, kind: str, **values: Any) -> None:
        if self._file is None:
            return
        self._waiting.append(line_of(kind, values))
        if len(self._waiting) > 1 and kind not in _RETRIES:
            return
        try:
            append_whole(self._file, b"".join(self._waiting))
        except OSError as error:
            if not self._refusal_said:
                text = "%s n'est pas écrit : %s ; nouvel essai à chaque évaluation"
                logger.warning(text, self._path, reason(error))
            self._refusal_said = True
        else:
            self._waiting.clear()


def _flat(record: StepRecord | EvaluationRecord) -> dict[str, Any]:
    """Les champs d'un enregistrement, et ses mesures à leur suite."""
    values = asdict(replace(record, measures={}))
    del values["measures"]
    return {**values, **record.measures}


def _lines_before(path: Path, state: TrainingState) -> list[bytes]:
    """Les lignes qui restent vraies à la reprise de `state` ; une ligne abîmée est retirée."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_bytes().splitlines():
        record = record_of(line) or {}
        try:
            kind, step = record["kind"], int(record["step"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
        still_true = {
            "step": step < state.step,
            "evaluation": step in state.eval_steps,
            "sample": step <= state.sampled,
        }
        if still_true.get(kind, step <= state.step):
            kept.append(line + b"\n")
    return kept


class TensorBoardLog(Callback):
    """Écrit les mesures pour TensorBoard.

    Args:
        folder: dossier des événements.

    Raises:
        MissingDependencyError: tensorboard n'est pas installé.
    """

    def __init__(self, folder: Path | str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 — facultatif
        except ImportError:
            raise MissingDependencyError("tensorboard", purpose="son journal") from None
        self._open: Any = SummaryWriter
        self._folder = str(folder)
        self._writer: Any = None

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """Ouvre le dossier ; les mesures au-delà du point repris sont effacées."""
        self._writer = self._open(self._folder, purge_step=state.step)

    def on_step(self, record: StepRecord) -> None:
        """Perte, taux, norme du gradient."""
        self._writer.add_scalar("train/loss", record.loss, record.step)
        self._writer.add_scalar("train/lr", record.lr, record.step)
        if record.grad_norm is not None:
            self._writer.add_scalar("train/grad_norm", record.grad_norm, record.step)
        for name, value in record.measures.items():
            self._writer.add_scalar(f"train/{name}", value, record.step)

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Les deux pertes, et ce que l'objectif mesure de plus."""
        for name, value in record.measures.items():
            self._writer.add_scalar(f"eval/{name}", value, record.step)
        self._writer.add_scalar("eval/train_loss", record.train_loss, record.step)
        self._writer.add_scalar("eval/val_loss", record.val_loss, record.step)

    def on_end(self, state: TrainingState) -> None:
        """Ferme les fichiers."""
        self._writer.close()
