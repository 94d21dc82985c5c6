"""Le fichier de modèle `gpt-model.pt` : configuration, poids, tokenizer, métadonnées.

Un point de reprise de l'entraînement se lit comme un modèle. Le fichier est écrit de façon
atomique et lu avec `weights_only=True` seulement : aucun pickle n'est exécuté, d'où qu'il vienne.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.checkpoint_files import read_checkpoint
from gpt_architecture.core.model import GPTModel, blank_model
from gpt_architecture.errors import (
    CheckpointError,
    ConfigurationError,
    ModelFileError,
    OutputError,
    reason,
)
from gpt_architecture.storage import check_regular

FORMAT = "gpt-architecture/model"
VERSION = 1

_GENERATION_KEYS = ("window", "prompt", "chat_template")  # ce que la génération lit d'un modèle


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """Contenu d'un fichier de modèle.

    Attributes:
        config: forme du modèle.
        state_dict: poids, par nom.
        tokenizer: description sérialisable du tokenizer (voir `data.tokenizer`).
        metadata: provenance et résultats, en types simples.
    """

    config: GPTConfig
    state_dict: Mapping[str, torch.Tensor]
    tokenizer: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def build(self, device: torch.device | str = "cpu") -> GPTModel:
        """Construit le modèle, en évaluation, sans tirer de poids au hasard.

        Sur CPU, les paramètres sont les tenseurs lus : rien n'est copié.

        Raises:
            ModelFileError: les poids ne correspondent pas à la configuration.
        """
        if self.config.n_layers > len(self.state_dict):  # ne construit pas un million de blocs
            raise ModelFileError(
                f"{self.config.n_layers} blocs annoncés pour {len(self.state_dict)} poids",
                expected="les poids de chaque bloc",
                remedy="réentraînez le modèle ou reprenez le fichier d'origine",
            )
        try:
            model = blank_model(self.config)
            model.load_state_dict(dict(self.state_dict), strict=True, assign=True)
            if self.config.tie_weights:
                model.tie_weights_()
            model = model.to(device)
        except (RuntimeError, NotImplementedError) as error:
            detail = " ".join(str(error).split())[:200]
            raise ModelFileError(
                f"les poids ne correspondent pas à la configuration du fichier : {detail}",
                expected=f"les poids d'un modèle {self.config}",
                remedy="réentraînez le modèle ou reprenez le fichier d'origine",
            ) from None
        return model.eval()


def save_model(
    path: Path | str,
    model: nn.Module,
    config: GPTConfig,
    *,
    tokenizer: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Écrit le fichier de modèle, entier ou pas du tout.

    Args:
        path: fichier à écrire ; son dossier est créé au besoin.
        model: modèle dont les poids sont enregistrés (sur CPU dans le fichier).
        config: forme du modèle.
        tokenizer: description sérialisable du tokenizer.
        metadata: provenance, en types simples (texte, nombres, listes, dictionnaires).

    Raises:
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
        TypeError: une description ou une métadonnée n'est pas d'un type simple ; un tel
            fichier serait refusé à la lecture.
    """
    _check_plain("tokenizer", tokenizer)
    _check_plain("metadata", metadata or {})
    copies: dict[int, torch.Tensor] = {}  # un tenseur partagé n'est copié, puis écrit, qu'une fois
    state = {
        name: copies.setdefault(tensor.data_ptr(), tensor.detach().to("cpu"))
        for name, tensor in model.state_dict().items()
    }
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "config": config.to_dict(),
        "tokenizer": dict(tokenizer),
        "metadata": dict(metadata or {}),
        "state_dict": state,
    }
    write_atomically(Path(path), lambda temporary: torch.save(payload, temporary))


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> None:
    """Fait écrire un fichier provisoire voisin, le vide sur disque, puis le renomme en `path`.

    Raises:
        OutputError: le système refuse ; `path` n'a pas changé et le provisoire est retiré.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if path.exists():  # renommer par-dessus /dev/null le supprimerait
            check_regular(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError, ValueError) as error:
        # torch.save dit un disque plein par RuntimeError, matplotlib un format par ValueError
        raise OutputError(
            f"impossible d'écrire {path} : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place ou écrivez ailleurs",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_model(path: Path | str) -> ModelFile:
    """Lit un fichier de modèle, ou un point de reprise de l'entraînement (un dossier).

    Les poids restent projetés en mémoire depuis le disque.

    Raises:
        ModelFileError: fichier absent, illisible, dangereux ou d'un autre format.
    """
    path = Path(path)
    if path.is_dir():
        return _read_checkpoint_directory(path)
    if not path.is_file():
        raise ModelFileError(
            f"modèle introuvable : {path}",
            expected="un fichier écrit par l'entraînement",
            remedy="entraînez-en un (make train, ou gpt-architecture train), ou corrigez ce chemin",
        )
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise ModelFileError(
            f"{path} contient autre chose que des poids (objet Python refusé)",
            expected="un fichier écrit par l'entraînement",
            remedy="n'ouvrez pas ce fichier et demandez-en un sûr à sa source",
        ) from None
    except Exception as error:  # un fichier abîmé fait lever n'importe quoi à son lecteur
        raise ModelFileError(
            f"{path} est illisible : {reason(error)}",
            expected="un fichier de modèle complet",
            remedy="recopiez-le ou réentraînez le modèle",
        ) from error
    return _parse(path, payload)


def _read_checkpoint_directory(path: Path) -> ModelFile:
    """Le modèle d'un point de reprise : `model.safetensors` et `state.json`, vérifiés."""
    try:
        checkpoint = read_checkpoint(path)  # empreintes vérifiées
        if "adapter" in checkpoint.names:
            raise ModelFileError(
                f"{path} ne contient que des adaptateurs",
                expected="un modèle entier",
                remedy="fondez-les d'abord : gpt-architecture merge MODÈLE "
                f"{path} --out gpt-model.pt",
            )
        state, weights = checkpoint.state, checkpoint.tensors("model")
        config = GPTConfig.from_dict(state["config"])
        if config.tie_weights:  # un poids partagé n'est écrit qu'une fois
            weights["out_head.weight"] = weights["tok_emb.weight"]
        payload = {
            "format": FORMAT,
            "version": VERSION,
            "config": state["config"],
            "tokenizer": state["tokenizer"],
            "metadata": {key: state[key] for key in _GENERATION_KEYS if key in state},
            "state_dict": weights,
        }
    except CheckpointError as error:
        raise ModelFileError(
            error.found,
            expected="un fichier gpt-model.pt, ou un dossier checkpoints/step-… complet",
            remedy="donnez un autre modèle",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{path} n'est pas un point de reprise d'entraînement : {reason(error)}",
            expected="un fichier gpt-model.pt, ou un dossier checkpoints/step-… complet",
            remedy="donnez un autre modèle",
        ) from None
    return _parse(path, payload)


def _parse(path: Path, payload: object) -> ModelFile:
    expected = f"un fichier de modèle {FORMAT} en version {VERSION}"
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} n'est pas un modèle de ce projet",
            expected=expected,
            remedy="donnez un fichier écrit par « gpt-architecture train »",
        )
    if payload.get("version") != VERSION:
        raise ModelFileError(
            f"{path} est en version {payload.get('version')!r}",
            expected=expected,
            remedy="mettez gpt-architecture à jour",
        )
    parts = {name: payload.get(name) for name in ("config", "tokenizer", "metadata", "state_dict")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ModelFileError(
                f"{path} : la partie {name} manque ou est mal formée",
                expected=expected,
                remedy="recopiez le fichier ou réentraînez le modèle",
            )
    weights = parts["state_dict"]
    if not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in weights.items()):  # type: ignore[union-attr]
        raise ModelFileError(
            f"{path} : state_dict contient autre chose que des tenseurs nommés",
            expected=expected,
            remedy="recopiez le fichier ou réentraînez le modèle",
        )
    try:
        config = GPTConfig.from_dict(parts["config"])  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise ModelFileError(
            f"{path} : {error.found}", expected=error.expected, remedy="réentraînez le modèle"
        ) from None
    return ModelFile(
        config=config,
        state_dict=parts["state_dict"],  # type: ignore[arg-type]
        tokenizer=parts["tokenizer"],  # type: ignore[arg-type]
        metadata=parts["metadata"],  # type: ignore[arg-type]
    )


def _check_plain(name: str, value: object) -> None:
    """Refuse ce que la lecture avec `weights_only=True` refuserait."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_plain(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(f"{name}[{index}]", item)
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{name} est un {type(value).__name__} ; convertissez-le en type simple")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":  # Windows ne sait pas vider un dossier
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
