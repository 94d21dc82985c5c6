"""Le fichier de modèle `gpt-model.pt` : configuration, poids, tokenizer, métadonnées.

Un point de reprise de l'entraînement se lit comme un modèle. Le fichier est écrit de façon
atomique et lu avec `weights_only=True` seulement : aucun pickle n'est exécuté, d'où qu'il vienne.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gpt_architecture.config import PRESETS, GPTConfig, HeadConfig
from gpt_architecture.core.model import STD, GPTModel, blank_model
from gpt_architecture.errors import (
    CheckpointError,
    ConfigurationError,
    ModelFileError,
    malformed,
    reason,
)
from gpt_architecture.formats.checkpoint import read_checkpoint
from gpt_architecture.formats.tensor_files import (
    altered,
    damaged_records,
    is_cheap_to_check,
    named_tensors,
    read_torch,
)
from gpt_architecture.storage import check_plain, write_atomically

MODEL_NAME = "gpt-model.pt"
"""Le fichier qu'écrit un entraînement, dans son dossier."""

FORMAT = "gpt-architecture/model"
VERSION = 1

GENERATION_KEYS = ("window", "prompt", "prompt_special", "chat_template", "labels")
"""Ce que la génération, ou un classement, lit des métadonnées d'un modèle."""
_STORED_MASK = re.compile(r"trf_blocks\.\d+\.att\.mask")  # que les fichiers du livre portent


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
        model = self._blank()
        model.load_state_dict(dict(self.state_dict), strict=True, assign=True)
        if self.config.tie_weights:
            model.tie_weights_()
        return model.to(device).eval()

    def untied(self) -> ModelFile:
        """Le même modèle, la tête écrite à part de l'embedding dont elle est la copie.

        Pour des lecteurs qui ne savent pas les lier ; les logits ne changent pas.
        """
        if not self.config.tie_weights:
            return self
        head = self.state_dict["tok_emb.weight"].detach().clone()
        return replace(
            self,
            config=replace(self.config, tie_weights=False),
            state_dict={**self.state_dict, "out_head.weight": head},
        )

    def headed(self, head: HeadConfig, *, seed: int) -> ModelFile:
        """Le même modèle, une tête neuve à la place de la sienne : N(0 ; 0,02), comme GPT-2.

        Args:
            head: ce qu'elle rend.
            seed: graine de ses poids.
        """
        like = self.state_dict["tok_emb.weight"]
        drawn = torch.empty(head.outputs, self.config.emb_dim)
        drawn.normal_(std=STD, generator=torch.Generator().manual_seed(seed))
        return replace(
            self,
            config=self.config.with_head(head),
            state_dict={**self.state_dict, "out_head.weight": drawn.to(like.dtype)},
        )

    def _blank(self) -> GPTModel:
        """Le modèle sans poids, une fois ceux qu'on a vérifiés : noms, formes, types."""
        config, state = self.config, self.state_dict
        if config.n_layers > len(state):  # ne construit pas un million de blocs
            raise _unfit(config, f"{config.n_layers} blocs annoncés pour {len(state)} poids")
        model = blank_model(config)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        rest = {name for name in state if not _STORED_MASK.fullmatch(name)}
        for found, names in (
            ("manque", [name for name in shapes if name not in rest]),
            ("surprend", sorted(rest - set(shapes))),
        ):
            if names:
                more = f", et {len(names) - 1} autres" if len(names) > 1 else ""
                raise _unfit(config, f"{names[0][:80]} {found}{more}")
        for name, shape in shapes.items():
            tensor = state[name]
            if tensor.shape != shape:
                raise _unfit(config, f"{name} est {tuple(tensor.shape)} au lieu de {tuple(shape)}")
            if not tensor.is_floating_point() or tensor.element_size() < 2 or tensor.is_meta:
                raise _unfit(config, f"{name} est en {str(tensor.dtype).removeprefix('torch.')}")
        return model


def check_vocabulary(
    config: GPTConfig, tokenizer: Mapping[str, Any], *, name: str | None = None
) -> None:
    """Vérifie qu'un tokenizer tient dans un modèle : tout ce qui lit ou écrit les deux l'appelle.

    Args:
        config: forme du modèle.
        tokenizer: description sérialisable (voir `data.tokenizer`).
        name: le fichier lu, pour le message.

    Raises:
        ModelFileError: le tokenizer a plus de tokens que le modèle n'a de lignes.
    """
    vocab = tokenizer.get("vocab")
    size = len(vocab) if isinstance(vocab, (list, tuple)) else 0
    if tokenizer.get("name") == "gpt2":
        size = PRESETS["gpt2-small"].vocab_size
    if size > config.vocab_size:
        raise ModelFileError(
            f"{'' if name is None else f'{name} : '}tokenizer de {size} tokens, modèle de "
            f"{config.vocab_size}",
            expected="un tokenizer qui tient dans le vocabulaire du modèle",
            remedy="donnez le vocabulaire avec lequel ces poids ont été appris",
        )


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
        ModelFileError: le tokenizer ne tient pas dans le vocabulaire du modèle.
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
        TypeError: une description ou une métadonnée n'est pas d'un type simple ; un tel
            fichier serait refusé à la lecture.
    """
    check_vocabulary(config, tokenizer)
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


def read_model(path: Path | str, *, verify: bool | None = None) -> ModelFile:
    """Lit un fichier de modèle, ou un point de reprise de l'entraînement (un dossier).

    Les poids restent projetés en mémoire depuis le disque.

    Args:
        path: le fichier ou le dossier ; un dossier est toujours vérifié.
        verify: relit le fichier et ses sommes de contrôle ; None : s'il fait moins de
            `CHECKED_BELOW`.

    Raises:
        ModelFileError: fichier absent, illisible, abîmé, dangereux ou d'un autre format.
    """
    path = Path(path)
    if path.is_dir():
        return _read_checkpoint_directory(path)
    if not path.exists():
        raise missing_model(path)
    return model_from(path, read_torch(path), verify=verify)


def model_from(path: Path | str, payload: object, *, verify: bool | None = None) -> ModelFile:
    """Comme `read_model`, d'un contenu déjà lu dans `path`."""
    path = Path(path)
    content = _parse(path, payload)
    if verify or (verify is None and is_cheap_to_check(path)):
        _check_integrity(path, content.state_dict)
    return content


def missing_model(path: Path | str) -> ModelFileError:
    """L'erreur d'un modèle nommé, mais absent."""
    return ModelFileError.missing(
        path,
        expected="un fichier écrit par l'entraînement",
        remedy="entraînez-en un (make train, ou gpt-architecture train), ou corrigez ce chemin",
    )


def _check_integrity(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Vérifie que rien n'a changé dans un fichier de modèle depuis son écriture.

    Raises:
        ModelFileError: un tenseur a changé, ou la description (configuration, tokenizer…).
    """
    damaged = damaged_records(path)
    if not damaged:
        return
    first: dict[int, str] = {}  # torch.save numérote les contenus dans l'ordre où il les voit
    for name, tensor in state.items():
        first.setdefault(tensor.untyped_storage().data_ptr(), name)
    names = {f"data/{number}": name for number, name in enumerate(first.values())}
    found = [names[record] for record in damaged if record in names]
    raise altered(path, f"le tenseur {found[0]}" if found else "sa description")


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
            "metadata": {key: state[key] for key in GENERATION_KEYS if key in state},
            "state_dict": weights,
        }
    except CheckpointError as error:
        raise _not_a_checkpoint(error.found) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"{path} n'est pas un point de reprise d'entraînement : {malformed(error)}"
        raise _not_a_checkpoint(found) from None
    return _parse(path, payload)


def _not_a_checkpoint(found: str) -> ModelFileError:
    expected = "un fichier gpt-model.pt, ou un dossier checkpoints/step-… complet"
    return ModelFileError(found, expected=expected, remedy="donnez un autre modèle")


def _parse(path: Path, payload: object) -> ModelFile:
    expected = f"un fichier de modèle {FORMAT} en version {VERSION}"
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} n'est pas un modèle de ce projet",
            expected=expected,
            remedy="donnez un fichier écrit par « gpt-architecture train »",
        )
    version = payload.get("version")
    if type(version) is not int or version != VERSION:
        raise ModelFileError.other_version(path, version, expected=expected)
    parts = {name: payload.get(name) for name in ("config", "tokenizer", "metadata", "state_dict")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise _damaged(path, f"la partie {name} manque ou est mal formée", expected)
    weights = parts.pop("state_dict")
    try:
        check_plain(parts)
    except ValueError as error:
        found = f"sa description ne se lit pas ({reason(error)})"
        raise _damaged(path, found, expected) from None
    try:
        config = GPTConfig.from_dict(parts["config"])  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise _damaged(path, error.found, error.expected) from None
    return ModelFile(
        config=config,
        state_dict=named_tensors(path, weights) if path.is_file() else weights,  # type: ignore[arg-type]
        tokenizer=parts["tokenizer"],  # type: ignore[arg-type]
        metadata=parts["metadata"],  # type: ignore[arg-type]
    )


def _damaged(path: Path, found: str, expected: str) -> ModelFileError:
    remedy = "recopiez le fichier depuis l'original"
    return ModelFileError(f"{path} : {found}", expected=expected, remedy=remedy)


def _unfit(config: GPTConfig, found: str) -> ModelFileError:
    return ModelFileError(
        f"les poids ne sont pas ceux de la configuration : {found}",
        expected=f"les poids d'un modèle {config}",
        remedy="reprenez le fichier d'origine",
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
