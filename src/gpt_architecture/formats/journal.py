"""Le journal d'un entraînement : un objet JSON par ligne, et les mesures pour TensorBoard."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from io import FileIO
from pathlib import Path
from typing import Any

from gpt_architecture.errors import MissingDependencyError, reason
from gpt_architecture.storage import write_atomically
from gpt_architecture.training.callbacks import Callback, EvaluationRecord, StepRecord
from gpt_architecture.training.state import TrainingState
from gpt_architecture.training.trainer import Trainer

JOURNAL = "journal.jsonl"
_WAITING_LINES = 10_000  # au-delà, les plus anciennes sont perdues
_RETRIES = ("evaluation", "end")  # ni à chaque étape ni jamais

logger = logging.getLogger(__name__)


class Journal(Callback):
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
        self._waiting: deque[str] = deque(maxlen=_WAITING_LINES)
        self._refusal_said = False

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """Repart de rien, ou des lignes d'avant la reprise."""
        kept = _lines_before(self._path, state) if state.step else []
        text = "".join(f"{line}\n" for line in kept)
        write_atomically(self._path, lambda temporary: temporary.write_text(text, "utf-8"))
        self._file = self._path.open("ab", buffering=0)
        self._write("start", step=state.step, total_steps=total_steps)

    def on_step(self, record: StepRecord) -> None:
        """Une ligne par étape."""
        speed = record.tokens / record.seconds if record.seconds > 0 else 0.0
        self._write(
            "step", **asdict(record), tokens_per_second=speed, peak_share=speed * self._share
        )

    def on_evaluation(self, record: EvaluationRecord, trainer: Trainer) -> None:
        """Une ligne par évaluation."""
        self._write("evaluation", **asdict(record), tokens_seen=trainer.state.tokens)

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
        self._waiting.append(_line(kind, values))
        if len(self._waiting) > 1 and kind not in _RETRIES:
            return
        try:
            _append(self._file, "".join(self._waiting).encode())
        except OSError as error:
            if not self._refusal_said:
                text = "%s n'est pas écrit : %s ; nouvel essai à chaque évaluation"
                logger.warning(text, self._path, reason(error))
            self._refusal_said = True
        else:
            self._waiting.clear()


def append_record(path: Path | str, kind: str, **values: Any) -> None:
    """Ajoute une ligne au journal d'un entraînement, fini ou en cours.

    Args:
        path: le fichier ; il doit exister.
        kind: nature de la ligne.
        values: types simples ; `step` la garde à la reprise d'un point qui n'est pas antérieur.

    Raises:
        OSError: le journal manque, ou le disque refuse.
    """
    path = Path(path)
    if not path.is_file():  # « ab » le créerait
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("ab", buffering=0) as file:
        _append(file, _line(kind, values).encode())


def _line(kind: str, values: dict[str, Any]) -> str:
    line = json.dumps({"kind": kind, **_finite(values)}, ensure_ascii=False, allow_nan=False)
    return f"{line}\n"


def _append(file: FileIO, content: bytes) -> None:
    """Ajoute tout `content`, ou rien : le fichier n'a que des lignes entières.

    Raises:
        OSError: le disque refuse.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        if file.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON n'a ni NaN ni infini : ils deviennent des textes."""
    return {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }


def _lines_before(path: Path, state: TrainingState) -> list[str]:
    """Les lignes qui restent vraies à la reprise de `state` ; une ligne abîmée est retirée."""
    if not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            kind, step = record["kind"], int(record["step"])
        except (ValueError, KeyError, TypeError):
            continue
        still_true = {
            "step": step < state.step,
            "evaluation": step in state.eval_steps,
            "sample": step <= state.sampled,
        }
        if still_true.get(kind, step <= state.step):
            kept.append(line)
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

    def on_evaluation(self, record: EvaluationRecord, trainer: Trainer) -> None:
        """Les deux pertes."""
        self._writer.add_scalar("eval/train_loss", record.train_loss, record.step)
        self._writer.add_scalar("eval/val_loss", record.val_loss, record.step)

    def on_end(self, state: TrainingState) -> None:
        """Ferme les fichiers."""
        self._writer.close()
