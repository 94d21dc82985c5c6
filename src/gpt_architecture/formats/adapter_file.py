"""Le fichier d'adaptateurs `adapter.safetensors` : A et B, réglages, empreinte du modèle de départ.

Un point de reprise d'un entraînement LoRA se lit de même. Aucun pickle : safetensors ne contient
que des tenseurs et du texte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig, HeadConfig, LoRAConfig
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.lora import (
    HEAD,
    adapter_tensors,
    add_lora_,
    load_adapter_,
    merge_lora_,
    runtime_adapter,
)
from gpt_architecture.errors import (
    CheckpointError,
    GPTArchitectureError,
    ModelFileError,
    malformed,
)
from gpt_architecture.formats.checkpoint import read_checkpoint
from gpt_architecture.formats.model_file import GENERATION_KEYS, ModelFile
from gpt_architecture.formats.tensor_files import SafetensorsFile, save_safetensors
from gpt_architecture.storage import parse_json, write_atomically

ADAPTER_NAME = "adapter.safetensors"
ADAPTER_GROUP = "adapter"
"""Nom, dans un point de reprise, des tenseurs d'un modèle en partie gelé."""

FORMAT = "gpt-architecture/adapter"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """Contenu d'un fichier d'adaptateurs.

    Attributes:
        lora: leurs réglages.
        base_sha256: empreinte des poids du modèle de départ (`weights_sha256`) ; None : un fichier
            venu d'ailleurs ne la dit pas, seules les formes sont alors vérifiées.
        tensors: matrices A et B, par nom.
        metadata: provenance et résultats, en types simples ; le gabarit de conversation y est.
        base_path: où était le modèle de départ, depuis le dossier de ce fichier ; None : inconnu.
        sparse: vrai si une matrice absente vaut zéro.
    """

    lora: LoRAConfig
    base_sha256: str | None
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    base_path: str | None = None
    sparse: bool = False

    def merged(self, base: ModelFile) -> ModelFile:
        """Le modèle de départ, adaptateurs fondus ; voir `merge_adapters`."""
        return merge_adapters(base, [(self, 1.0)])

    def beside(
        self, cfg: GPTConfig, base_sha256: str | None, *, device: torch.device | str = "cpu"
    ) -> Adapter:
        """L'adaptateur que sert, sans qu'il y soit fondu, un modèle déjà chargé.

        Args:
            cfg: la forme du modèle.
            base_sha256: l'empreinte de ses poids ; None : inconnue, les formes seules sont vues.
            device: où il est.

        Raises:
            ModelFileError: ce n'est pas leur modèle de départ, ou des matrices ne lui vont pas.
        """
        if None not in (base_sha256, self.base_sha256) and base_sha256 != self.base_sha256:
            raise _other_base(base_sha256, self.base_sha256)
        return runtime_adapter(cfg, self.lora, self.tensors, sparse=self.sparse, device=device)


def merge_adapters(base: ModelFile, weighted: Sequence[tuple[AdapterFile, float]]) -> ModelFile:
    """Le modèle de départ où des adaptateurs sont fondus, tel qu'un fichier le contiendrait.

    Chaque matrice devient W + Σ poids · (alpha / r) · B·A. `base` n'est pas modifié.

    Args:
        base: le modèle de départ de tous.
        weighted: les adaptateurs et leur poids, qui peut être négatif ; les métadonnées du résultat
            sont celles du premier.

    Raises:
        ModelFileError: ce n'est pas leur modèle de départ, ou des matrices ne lui vont pas.
    """
    known = {adapter.base_sha256 for adapter, _ in weighted} - {None}
    found = weights_sha256(base) if known else None
    for expected in known - {found}:
        raise _other_base(found, expected)
    model, config = base.build(), base.config
    head = _head_of(weighted[0][0])
    if len(weighted) > 1 and any(HEAD in adapter.tensors for adapter, _ in weighted):
        raise ModelFileError(
            "plusieurs affinages, dont un a une tête de classe ou de valeur",
            expected="un seul : deux têtes ne se mêlent pas",
            remedy="fondez-les un par un",
        )
    if head is not None and head != base.config.head:
        headed = base.headed(head, seed=0)  # la sienne vient avec les adaptateurs
        model, config = headed.build(), headed.config
    for adapter, weight in weighted:
        add_lora_(model, adapter.lora, seed=0)
        tensors = dict(adapter.tensors)
        if adapter.sparse:
            own = adapter_tensors(model).items()
            tensors = {n: t if n == HEAD else torch.zeros_like(t) for n, t in own} | tensors
        if weight != 1:
            tensors |= {n: t * weight for n, t in tensors.items() if n.endswith(".lora_B")}
        load_adapter_(model, tensors)
        merge_lora_(model)
    for parameter in model.parameters():  # un poids voisin, dans le fichier, garderait le sien
        parameter.data = parameter.data.clone()
    return ModelFile(
        config=config,
        state_dict=model.state_dict(),
        tokenizer=base.tokenizer,
        metadata={**base.metadata, **weighted[0][0].metadata},
    )


def _head_of(adapter: AdapterFile) -> HeadConfig | None:
    """La tête de classe ou de valeur apprise avec des adaptateurs ; None : ils n'en ont pas."""
    config = adapter.metadata.get("config")
    return HeadConfig.coerce(config.get("head")) if isinstance(config, Mapping) else None


def _other_base(found: str | None, expected: str | None) -> ModelFileError:
    return ModelFileError(
        f"ces adaptateurs viennent d'un autre modèle (empreinte {str(found)[:12]}…)",
        expected=f"les poids d'empreinte {str(expected)[:12]}…, ceux du départ",
        remedy="donnez le modèle dont l'affinage est parti",
    )


def weights_sha256(content: ModelFile) -> str:
    """Empreinte des poids d'un modèle : noms, formes, valeurs en fp32.

    Elle ne dépend ni du fichier qui les porte, ni du dropout. Un tenseur lié compte une fois.
    """
    digest = hashlib.sha256()
    shape = replace(content.config, drop_rate=0.0)
    digest.update(json.dumps(shape.to_dict(), sort_keys=True).encode())
    for name in sorted(content.state_dict):
        is_copy = name == "out_head.weight" and shape.tie_weights
        if is_copy or name.endswith(".att.mask"):  # le masque constant des fichiers du livre
            continue
        tensor = content.state_dict[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_adapter(path: Path | str, adapter: AdapterFile) -> None:
    """Écrit le fichier d'adaptateurs, entier ou pas du tout.

    Raises:
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
    """
    description = {
        "lora": adapter.lora.to_dict(),
        "base_sha256": adapter.base_sha256,
        "metadata": dict(adapter.metadata),
        "base_path": adapter.base_path,
    }
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "description": json.dumps(description, ensure_ascii=False),
    }
    tensors = {name: t.detach().to("cpu").contiguous() for name, t in adapter.tensors.items()}
    write_atomically(Path(path), lambda temporary: save_safetensors(temporary, tensors, header))


def read_adapter(
    path: Path | str, *, opened: SafetensorsFile | None = None, weights: bool = True
) -> AdapterFile:
    """Lit un fichier d'adaptateurs, ou un point de reprise d'un entraînement LoRA (un dossier).

    Args:
        path: le fichier ou le dossier.
        opened: le fichier, s'il est déjà ouvert.
        weights: lit les matrices d'un fichier ; sinon, seulement ce qu'il dit de lui.

    Raises:
        ModelFileError: absent, illisible ou d'un autre format.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _from_checkpoint(path)
        return _from_file(opened or SafetensorsFile(path), weights=weights)
    except GPTArchitectureError as error:
        found = error.found.removeprefix(f"{path} ").removeprefix(": ")
        raise not_adapters(path, found) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise not_adapters(path, f"illisible ({malformed(error)})") from None


def _from_file(file: SafetensorsFile, *, weights: bool) -> AdapterFile:
    header, tensors = file.metadata, file.tensors() if weights else {}
    if header.get("format") != FORMAT:
        raise ValueError("ce ne sont pas des adaptateurs de ce projet")
    if header.get("version") != str(VERSION):
        raise ValueError(f"version {str(header.get('version'))[:20]}")
    description = parse_json(header["description"])
    return _adapter(
        description["lora"],
        description["base_sha256"],
        tensors,
        description["metadata"],
        description.get("base_path"),
    )


def _from_checkpoint(path: Path) -> AdapterFile:
    checkpoint = read_checkpoint(path)  # empreintes vérifiées
    if ADAPTER_GROUP not in checkpoint.names:
        raise CheckpointError(
            "ce point de reprise n'a pas d'adaptateurs",
            expected="celui d'un affinage par adaptateurs",
            remedy="c'est un modèle entier : donnez-le comme tel",
        )
    state = checkpoint.state
    identity = state["identity"]
    metadata = {key: state[key] for key in (*GENERATION_KEYS, "config") if key in state}
    tensors = checkpoint.tensors(ADAPTER_GROUP)
    return _adapter(
        identity["lora"],
        identity["start"]["sha256"],
        tensors,
        metadata,
        state.get("options", {}).get("from"),
    )


def _adapter(
    lora: object,
    base_sha256: object,
    tensors: Mapping[str, Tensor],
    metadata: object,
    base_path: object,
) -> AdapterFile:
    if not isinstance(lora, dict) or not isinstance(metadata, dict):
        raise TypeError("description mal formée")
    if not isinstance(base_sha256, str):
        raise TypeError("empreinte mal formée")
    return AdapterFile(
        lora=LoRAConfig.from_dict(lora),
        base_sha256=base_sha256,
        tensors=tensors,
        metadata=metadata,
        base_path=base_path if isinstance(base_path, str) else None,
    )


def not_adapters(path: Path | str, found: str) -> ModelFileError:
    """L'erreur d'un chemin qui ne tient pas d'adaptateurs lisibles."""
    return ModelFileError(
        f"{path} : {found}",
        expected=f"un fichier {ADAPTER_NAME} écrit par « gpt-architecture train --lora-rank », "
        "l'un de ses points de reprise, ou un dossier de PEFT",
        remedy="corrigez ce chemin",
    )
