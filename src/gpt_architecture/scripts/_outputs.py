"""Ce que l'entraînement écrit : où, sous quel nom, et sans rien écraser d'autre."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.config import GPTConfig, TrainingConfig
from gpt_architecture.errors import MissingDependencyError, OutputError
from gpt_architecture.scripts._cli import MODEL_NAME, french_size

if TYPE_CHECKING:
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.data.corpus import Corpus
    from gpt_architecture.data.tokenizer import Tokenizer

PLOT_NAME = "loss-plot.pdf"


def run_identity(
    config: GPTConfig,
    window: int,
    training: TrainingConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Ce qui fait qu'un entraînement est le même qu'un autre."""
    description = json.dumps(tokenizer.to_dict(), sort_keys=True).encode()
    return {
        "training": asdict(training),
        "data": {"name": corpus.name, "sha256": corpus.sha256},
        "tokenizer_sha256": hashlib.sha256(description).hexdigest(),
        "config": config.to_dict(),
        "window": window,
    }


def check_output(
    output_dir: Path, identity: Mapping[str, Any], config: GPTConfig, *, force: bool
) -> None:
    """Vérifie avant d'entraîner que le modèle pourra être écrit, et qu'il n'écrase rien d'autre.

    Raises:
        OutputError: modèle d'un autre entraînement, dossier refusé ou place insuffisante.
    """
    from gpt_architecture.core.weights import read_model, write_atomically
    from gpt_architecture.errors import ModelFileError

    path = output_dir / MODEL_NAME
    if path.is_dir():
        raise OutputError(
            f"{path} est un dossier",
            expected="un nom libre pour le modèle",
            remedy="renommez-le ou changez --output-dir",
        )
    if path.exists() and not force:
        try:
            existing = read_model(path).metadata
        except ModelFileError:
            existing = {}
        if any(existing.get(key) != value for key, value in identity.items()):
            raise OutputError(
                f"{path} existe déjà et vient d'un autre entraînement",
                expected="un dossier sans modèle, ou le modèle de ces mêmes réglages",
                remedy="ajoutez --force pour l'écraser, ou changez --output-dir",
            )
    probe = output_dir / ".gpt-architecture-essai"
    write_atomically(probe, lambda temporary: temporary.write_bytes(b"essai"))
    probe.unlink()
    needed = 4 * config.num_parameters() + (16 << 20)
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise OutputError(
            f"il reste {french_size(free)} dans {output_dir.resolve()}",
            expected=f"{french_size(needed)} pour le modèle",
            remedy="libérez de la place ou changez --output-dir",
        )


def free_name(path: Path) -> Path:
    """Un nom libre : gpt-model-interrompu.pt, gpt-model-interrompu-2.pt…"""
    for number in itertools.count(1):
        suffix = "-interrompu" if number == 1 else f"-interrompu-{number}"
        candidate = path.with_name(f"{path.stem}{suffix}{path.suffix}")
        if not candidate.exists():
            return candidate
    raise AssertionError("itertools.count ne finit pas")


def save(
    path: Path,
    model: GPTModel,
    config: GPTConfig,
    tokenizer: Tokenizer,
    metadata: dict[str, Any],
) -> None:
    """Écrit le modèle, et le dit sur stderr."""
    from gpt_architecture.core.weights import save_model

    print(f"Enregistrement de {path}…", file=sys.stderr)
    save_model(path, model, config, tokenizer=tokenizer.to_dict(), metadata=metadata)


def plot(path: Path, metadata: dict[str, Any], training: TrainingConfig, steps: int) -> bool:
    """Trace les courbes ; si c'est impossible, le dit et continue."""
    from gpt_architecture.training.plots import plot_losses

    if not metadata["train_losses"]:
        return False
    evaluations = range(len(metadata["train_losses"]))
    epochs_seen = [(index * training.eval_freq + 1) / steps for index in evaluations]
    try:
        plot_losses(
            epochs_seen,
            metadata["tokens_seen"],
            metadata["train_losses"],
            metadata["val_losses"],
            path,
        )
    except (MissingDependencyError, OutputError) as error:  # le modèle, lui, est écrit
        print(f"avertissement : courbes non tracées, {error}", file=sys.stderr)
        return False
    return True
