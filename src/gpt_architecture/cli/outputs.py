"""Ce que l'entraînement écrit : où, sous quel nom, et sans rien écraser d'autre."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.cli.command import say_aside
from gpt_architecture.cli.products import Product
from gpt_architecture.cli.results import check_not_read, check_outputs, own_figure
from gpt_architecture.cli.train_options import FREE_OPTIONS
from gpt_architecture.config import CheckpointConfig
from gpt_architecture.errors import CheckpointError, MissingDependencyError, OutputError
from gpt_architecture.french import french_size

if TYPE_CHECKING:
    from gpt_architecture.training.checkpoint import Checkpoint, CheckpointStore
    from gpt_architecture.training.state import TrainingState

PLOT_NAME = "loss-plot.pdf"
_MARGIN = 16 << 20  # octets : journal, courbes, manifestes


def checkpoints_kept(saving: CheckpointConfig) -> int:
    """Points de reprise gardés au plus ; même sans --save-every, le temps en fait écrire."""
    return saving.keep + saving.save_best


def check_output(
    output_dir: Path,
    identities: Sequence[Mapping[str, Any]],
    product: Product,
    *,
    checkpoints: int,
    reads: Sequence[object],
    force: bool,
) -> None:
    """Vérifie avant d'entraîner que tout pourra être écrit, et que rien d'autre n'est écrasé.

    Args:
        output_dir: dossier de sortie.
        identities: entraînements dont le fichier peut être remplacé.
        product: ce qui sera écrit à la fin.
        checkpoints: points de reprise qui tiendront ensemble sur le disque.
        reads: ce que l'entraînement lit (voir `_results.check_outputs`).
        force: accepte d'écraser.

    Raises:
        OutputError: modèle d'un autre entraînement, dossier refusé ou place insuffisante.
    """
    from gpt_architecture.errors import ModelFileError
    from gpt_architecture.formats.journal import JOURNAL
    from gpt_architecture.storage import check_writable

    path = output_dir / product.file_name
    check_not_read(path, reads, "--output-dir")
    for written in ((output_dir / JOURNAL, _journal), (output_dir / PLOT_NAME, own_figure)):
        check_outputs({"--output-dir": written}, reads=reads, force=force)
    if path.is_dir():
        raise OutputError(
            f"{path} est un dossier",
            expected="un nom libre pour le modèle",
            remedy="renommez-le ou changez --output-dir",
        )
    if path.exists() and not force:
        try:
            existing = product.read_metadata(path)
        except ModelFileError:
            existing = {}
        if not any(_contains(existing, identity) for identity in identities):
            raise OutputError(
                f"{path} existe déjà et vient d'un autre entraînement",
                expected="un dossier sans modèle, ou le modèle de ces mêmes réglages",
                remedy="ajoutez --force pour l'écraser, ou changez --output-dir",
            )
    check_writable(output_dir)
    needed = product.nbytes + checkpoints * product.checkpoint_bytes + _MARGIN
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise OutputError(
            f"il reste {french_size(free)} dans {output_dir.resolve()}",
            expected=f"{french_size(needed)} pour le modèle et les points de reprise",
            remedy="libérez de la place ou changez --output-dir",
        )


def _journal(head: bytes, _tail: bytes) -> bool:
    """Le journal d'un entraînement, ou le fichier vide qui le précède."""
    return not head or head.startswith(b'{"kind": "')


def _contains(metadata: Mapping[str, Any], identity: Mapping[str, Any]) -> bool:
    return all(metadata.get(key) == value for key, value in identity.items())


def check_same_training(
    checkpoint: Checkpoint, identity: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Refuse de reprendre avec d'autres données, un autre tokenizer ou d'autres options.

    Raises:
        CheckpointError: la différence est montrée.
    """
    from gpt_architecture.training.session import identity_differences

    saved = checkpoint.state.get("identity", {})
    differences = identity_differences(_essence(saved), _essence(identity))
    differences += identity_differences(checkpoint.state["options"], options, ignored=FREE_OPTIONS)
    if differences:
        raise CheckpointError(
            f"cet entraînement n'est plus celui de {checkpoint.path} ({' ; '.join(differences)})",
            expected="les mêmes données et les mêmes options",
            remedy="rendez-les, ou ajoutez --override pour l'accepter",
        )


def check_same_vocabulary(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuse, même avec --override, des tokens que les poids à reprendre ne connaissent pas.

    Raises:
        CheckpointError: le tokenizer n'est pas celui du point de reprise.
    """
    if checkpoint.state["identity"].get("tokenizer_sha256") != identity["tokenizer_sha256"]:
        raise CheckpointError(
            f"le tokenizer n'est plus celui de {checkpoint.path}",
            expected="le vocabulaire que ces poids ont appris : --override n'en change pas",
            remedy="rendez-le (--tokenizer, ou les fragments d'origine), ou recommencez avec "
            "--force",
        )


def _essence(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Ce que les options ne disent pas d'un entraînement."""
    return {
        "données": identity.get("data", {}).get("sha256"),
        "tokenizer": identity.get("tokenizer_sha256"),
        "vocab_size": identity.get("config", {}).get("vocab_size"),
        "modèle de départ": (identity.get("start") or {}).get("sha256"),
    }


def check_no_checkpoint(store: CheckpointStore, output_dir: Path, *, force: bool) -> None:
    """Refuse de recommencer là où un entraînement peut être repris.

    Raises:
        OutputError: il y a des points de reprise, et `force` est faux.
    """
    steps = store.steps()
    if steps and not force:
        raise OutputError(
            f"{output_dir} contient un entraînement enregistré à l'étape {steps[-1]}",
            expected="un dossier sans points de reprise",
            remedy=f"reprenez-le (gpt-architecture train --resume {output_dir}), ou ajoutez "
            "--force pour recommencer",
        )


def erase_checkpoints(store: CheckpointStore) -> None:
    """Efface ce qu'un entraînement précédent a laissé ; son verrou est tenu."""
    if store.steps():
        for path in [*store.root.glob("step-*"), store.root / "best.json"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def plot(path: Path, state: TrainingState, steps_per_epoch: float) -> bool:
    """Trace les courbes ; si c'est impossible, le dit et continue."""
    from gpt_architecture.training.simple import plot_losses

    if not state.train_losses:
        return False
    epochs_seen = [(step + 1) / steps_per_epoch for step in state.eval_steps]
    try:
        plot_losses(epochs_seen, state.tokens_seen, state.train_losses, state.val_losses, path)
    except (MissingDependencyError, OutputError) as error:  # le modèle, lui, est écrit
        say_aside(f"avertissement : courbes non tracées, {error}")
        return False
    return True
