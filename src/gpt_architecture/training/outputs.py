"""Ce qu'un entraînement écrit : où, sous quel nom, et sans rien écraser d'autre."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.config import FREE_SETTINGS, CheckpointConfig
from gpt_architecture.core.lora import adapter_parameters, adapter_tensors
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.canaries import CANARIES, CanarySet, described
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import (
    CheckpointError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
)
from gpt_architecture.formats.adapter_file import (
    ADAPTER_NAME,
    AdapterFile,
    read_adapter,
    save_adapter,
)
from gpt_architecture.formats.journal import JOURNAL
from gpt_architecture.formats.model_file import MODEL_NAME, read_model, save_model
from gpt_architecture.french import french_size
from gpt_architecture.storage import (
    check_not_read,
    check_outputs,
    check_writable,
    is_own,
    json_of,
    own_figure,
    write_atomically,
)
from gpt_architecture.storage.chain import CERTIFICATE, is_chain
from gpt_architecture.training.checkpoint import Checkpoint, CheckpointStore, TrainingState
from gpt_architecture.training.session import Settings
from gpt_architecture.training.simple import plot_losses

logger = logging.getLogger(__name__)

PLOT_NAME = "loss-plot.pdf"
_MARGIN = 16 << 20  # octets : journal, courbes, manifestes
_CHECKPOINT_COPIES = 3  # les poids et les deux moments d'AdamW


def checkpoints_kept(saving: CheckpointConfig) -> int:
    """Points de reprise gardés au plus ; même sans --save-every, le temps en fait écrire."""
    return (saving.keep_spread or saving.keep) + saving.save_best


def check_output(
    output_dir: Path | str,
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
        reads: ce que l'entraînement lit (voir `storage.check_outputs`).
        force: accepte d'écraser.

    Raises:
        OutputError: modèle d'un autre entraînement, dossier refusé ou place insuffisante.
    """
    output_dir = Path(output_dir)
    path = output_dir / product.file_name
    check_not_read(path, reads, "`output_dir`")
    for written in (
        (output_dir / JOURNAL, _journal),
        (output_dir / CERTIFICATE, is_chain),
        (output_dir / PLOT_NAME, own_figure),
    ):
        check_outputs({"`output_dir`": written}, reads=reads, force=force)
    if path.is_dir():
        raise OutputError(
            f"{path} est un dossier",
            expected="un nom libre pour le modèle",
            remedy="renommez-le ou changez `output_dir`",
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
                remedy="ajoutez `force` pour l'écraser, ou changez `output_dir`",
            )
    check_writable(output_dir)
    needed = product.nbytes + checkpoints * product.checkpoint_bytes + _MARGIN
    free = shutil.disk_usage(output_dir).free
    if free < needed:
        raise OutputError(
            f"il reste {french_size(free)} dans {output_dir.resolve()}",
            expected=f"{french_size(needed)} pour le modèle et les points de reprise",
            remedy="libérez de la place ou changez `output_dir`",
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
    saved = checkpoint.state.get("identity", {})
    differences = identity_differences(_essence(saved), _essence(identity))
    differences += identity_differences(checkpoint.state["options"], options, ignored=FREE_SETTINGS)
    if differences:
        raise CheckpointError(
            f"cet entraînement n'est plus celui de {checkpoint.path} ({' ; '.join(differences)})",
            expected="les mêmes données et les mêmes options",
            remedy="rendez-les, ou ajoutez `override` pour l'accepter",
        )


def check_same_vocabulary(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuse, même avec --override, des tokens que les poids à reprendre ne connaissent pas.

    Raises:
        CheckpointError: le tokenizer n'est pas celui du point de reprise.
    """
    if checkpoint.state["identity"].get("tokenizer_sha256") != identity["tokenizer_sha256"]:
        raise CheckpointError(
            f"le tokenizer n'est plus celui de {checkpoint.path}",
            expected="le vocabulaire que ces poids ont appris : `override` n'en change pas",
            remedy="rendez-le (`tokenizer`, ou les fragments d'origine), ou recommencez avec "
            "`force`",
        )


def _essence(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Ce que les options ne disent pas d'un entraînement."""
    return {
        "données": identity.get("data", {}).get("sha256"),
        "validation": identity.get("data", {}).get("split", "fin des données"),
        "mélange": identity.get("data", {}).get("mixture", {}),
        "retrait": identity.get("data", {}).get("removed"),
        "tokenizer": identity.get("tokenizer_sha256"),
        "vocab_size": identity.get("config", {}).get("vocab_size"),
        "modèle de départ": (identity.get("start") or {}).get("sha256"),
        "professeur": identity.get("objective", {}).get("teacher", {}).get("sha256"),
    }


def identity_differences(
    saved: Mapping[str, Any], current: Mapping[str, Any], *, ignored: Sequence[str] = ()
) -> list[str]:
    """Une phrase par valeur qui diffère : « lr : 0.0004 enregistré, 0.001 demandé ».

    Args:
        ignored: noms de valeurs qui peuvent changer.
    """
    before, after = _flatten(saved), _flatten(current)
    return [
        f"{name} : {_shown(before.get(name))} enregistré, {_shown(after.get(name))} demandé"
        for name in sorted(before.keys() | after.keys())
        if name.rpartition(".")[2] not in ignored and before.get(name) != after.get(name)
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def _shown(value: Any) -> str:
    text = "rien" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
    return text if len(text) <= 60 else f"{text[:12]}…"


def check_no_checkpoint(store: CheckpointStore, output_dir: Path | str, *, force: bool) -> None:
    """Refuse de recommencer là où un entraînement peut être repris.

    Raises:
        OutputError: il y a des points de reprise, et `force` est faux.
    """
    output_dir = Path(output_dir)
    steps = store.steps()
    if steps and not force:
        raise OutputError(
            f"{output_dir} contient un entraînement enregistré à l'étape {steps[-1]}",
            expected="un dossier sans points de reprise",
            remedy=f"reprenez-le (gpt-architecture train --resume {output_dir}), ou ajoutez "
            "`force` pour recommencer",
        )


def erase_checkpoints(store: CheckpointStore) -> None:
    """Efface ce qu'un entraînement précédent a laissé ; son verrou est tenu."""
    if store.steps():
        for path in [*store.root.glob("step-*"), store.root / "best.json"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_canaries(
    folder: Path | str, canaries: CanarySet | None, seed: int, *, force: bool
) -> None:
    """Écrit la liste des canaris, lisible de son propriétaire seul ; None : ôte une liste d'avant.

    Raises:
        OutputError: le disque refuse, ou un autre fichier a ce nom et `force` est faux.
    """
    path, own = Path(folder) / CANARIES, json_of("canaris")
    if canaries is None:
        if path.is_file() and is_own(path, own):
            path.unlink()
        return
    check_outputs({"`output_dir`": (path, own)}, reads=(), force=force)
    text = json.dumps(described(canaries, seed), ensure_ascii=False, indent=1)
    write_atomically(path, lambda new: new.write_text(f"{text}\n", encoding="utf-8"), private=True)


def plot(
    path: Path | str,
    state: TrainingState,
    steps_per_epoch: float,
    *,
    levels: Mapping[str, float],
) -> bool:
    """Trace les courbes et leurs repères ; si c'est impossible, le dit et continue."""
    path = Path(path)
    if not state.train_losses:
        return False
    epochs_seen = [(step + 1) / steps_per_epoch for step in state.eval_steps]
    try:
        losses = (state.train_losses, state.val_losses)
        plot_losses(epochs_seen, state.tokens_seen, *losses, path, levels=levels)
    except (MissingDependencyError, OutputError) as error:  # le modèle, lui, est écrit
        logger.warning("courbes non tracées, %s", error)
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Product:
    """Un fichier écrit à la fin de l'entraînement.

    Attributes:
        title: ce que c'est.
        file_name: son nom.
        nbytes: sa taille, en octets.
        read_metadata: les métadonnées d'un fichier de ce genre ; lève ModelFileError si ce n'en
            est pas un.
        save: écrit le fichier, entier ou pas du tout.
    """

    title: str
    file_name: str
    nbytes: int
    read_metadata: Callable[[Path], Mapping[str, Any]]
    save: Callable[[Path, GPTModel, Tokenizer, dict[str, Any]], None]

    @property
    def checkpoint_bytes(self) -> int:
        """Taille d'un point de reprise, en octets."""
        return _CHECKPOINT_COPIES * self.nbytes


def product_of(settings: Settings) -> Product:
    """Ce que ces réglages produiront : un modèle, ou les adaptateurs de celui de départ."""
    lora, start = settings.lora, settings.start
    if lora is None or start is None:

        def save_whole(
            path: Path, model: GPTModel, tokenizer: Tokenizer, metadata: dict[str, Any]
        ) -> None:
            logger.info("Enregistrement de %s…", path)
            saved = tokenizer.to_dict()
            save_model(path, model, settings.model, tokenizer=saved, metadata=metadata)

        return Product(
            title="Modèle",
            file_name=MODEL_NAME,
            nbytes=4 * settings.model.num_parameters(),
            read_metadata=lambda path: read_model(path, verify=False).metadata,
            save=save_whole,
        )

    def save_lora(
        path: Path, model: GPTModel, tokenizer: Tokenizer, metadata: dict[str, Any]
    ) -> None:
        del tokenizer  # celui du modèle de départ
        adapter = AdapterFile(
            lora=lora,
            base_sha256=start.sha256,
            tensors=adapter_tensors(model),
            metadata=metadata,
            base_path=from_folder(path.parent, start.name),
        )
        save_adapter(path, adapter)

    return Product(
        title="Adaptateurs",
        file_name=ADAPTER_NAME,
        nbytes=4 * adapter_parameters(settings.model, lora),
        read_metadata=lambda path: read_adapter(path).metadata,
        save=save_lora,
    )


def from_folder(folder: Path | str, name: str) -> str:
    """Le chemin d'un modèle depuis un dossier, pour l'y retrouver si les deux sont déplacés."""
    if not Path(name).exists():  # hub:DÉPÔT
        return name
    try:
        return os.path.relpath(Path(name).resolve(), Path(folder).resolve())
    except ValueError:  # deux lecteurs de Windows
        return str(Path(name).resolve())
