"""Nos genres de modèles, tels que la porte les reconnaît : modèle, quantifié, adaptateurs…"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpt_architecture.config import GPTConfig, LoRAConfig
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import (
    CheckpointError,
    ConfigurationError,
    GPTArchitectureError,
    ModelFileError,
    malformed,
)
from gpt_architecture.formats import adapter_file, model_file, quantized_file
from gpt_architecture.formats.adapter_file import (
    ADAPTER_GROUP,
    AdapterFile,
    not_adapters,
    read_adapter,
)
from gpt_architecture.formats.checkpoint import MANIFEST, SUFFIX, read_checkpoint
from gpt_architecture.formats.door import (
    Facts,
    ModelFormat,
    OpenedModel,
    Use,
    is_remote,
    open_model,
    register,
)
from gpt_architecture.formats.model_file import MODEL_NAME, ModelFile, model_from, read_model
from gpt_architecture.formats.tensor_files import SafetensorsFile, tensor_infos

logger = logging.getLogger(__name__)


class ModelFileFormat(ModelFormat):
    """`gpt-model.pt`."""

    kind, name = "model", "modèle gpt-architecture"
    use = Use.IMPORT

    def recognises(self, model: OpenedModel) -> bool:
        """Un fichier de PyTorch qui annonce notre format."""
        found = model.torch
        return bool(isinstance(found, dict) and found.get("format") == model_file.FORMAT)

    def facts(self, model: OpenedModel) -> Facts:
        """Tout y est ; les poids, projetés en mémoire, restent sur le disque."""
        content = model_from(model.path, model.torch, verify=False)
        return Facts(
            config=content.config,
            tensors=tensor_infos(content.state_dict),
            tokenizer=lambda: tokenizer_from_dict(content.tokenizer),
            provenance=content.metadata,
        )

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Le contenu déjà lu, vérifié."""
        return model_from(model.path, model.torch)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Les sommes de contrôle sont relues, et le tenseur qui a changé nommé."""
        model_from(model.path, model.torch, verify=True)
        return True


class CheckpointFormat(ModelFormat):
    """Un point de reprise : un modèle entier, ou les adaptateurs d'un affinage."""

    kind, name = "checkpoint", "point de reprise gpt-architecture"
    use = Use.IMPORT

    def recognises(self, model: OpenedModel) -> bool:
        """Un dossier qui a un manifeste."""
        return model.is_directory and (model.path / MANIFEST).exists()

    def facts(self, model: OpenedModel) -> Facts:
        """L'état, et l'en-tête des poids."""
        path = model.path
        try:
            checkpoint = read_checkpoint(path, verify=False)
            state = checkpoint.state
            whole = "model" in checkpoint.names  # sinon des adaptateurs, comptés seuls
            config = GPTConfig.from_dict(state["config"]) if whole else None
            group = "model" if whole else ADAPTER_GROUP
            tensors = SafetensorsFile(path / f"{group}{SUFFIX}").infos
            identity = state.get("identity", {})
            described = dict[str, Any]()
            base = state.get("options", {}).get("from")
            if not whole:
                lora, start = LoRAConfig.from_dict(identity["lora"]), identity["start"]
                described = lora_facts(lora, start["sha256"], base)
        except (CheckpointError, ConfigurationError, KeyError, TypeError) as error:
            found = error.found if isinstance(error, GPTArchitectureError) else malformed(error)
            raise ModelFileError(
                f"{path} n'est pas un point de reprise complet : {found}",
                expected="un dossier checkpoints/step-… écrit par l'entraînement",
                remedy="donnez-en un autre",
            ) from None
        noted = identity if isinstance(identity, Mapping) else {}
        measured = state.get("trainer")
        losses = measured if isinstance(measured, Mapping) else {}
        return Facts(
            config=config,
            tensors=tensors,
            tokenizer=lambda: tokenizer_from_dict(state.get("tokenizer")),
            provenance={
                "steps": checkpoint.step,
                **({} if base is None else {"base": str(base)}),
                **{name: losses[name] for name in ("train_losses", "val_losses") if name in losses},
                **described,
                **noted,
            },
        )

    def holds_adapters(self, model: OpenedModel) -> bool:
        """Vrai s'il a un groupe d'adaptateurs."""
        return (model.path / f"{ADAPTER_GROUP}{SUFFIX}").is_file()

    def read_adapters(self, model: OpenedModel) -> AdapterFile:
        """Ceux d'un affinage, empreintes vérifiées."""
        return read_adapter(model.path)

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Le modèle, empreintes vérifiées."""
        path = model.path
        if self.holds_adapters(model):
            return merged_in_base(path, read_adapter(path))
        return read_model(path)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Les empreintes du manifeste sont relues."""
        try:
            read_checkpoint(model.path)
        except CheckpointError as error:
            raise ModelFileError(
                error.found, expected=error.expected, remedy=error.remedy
            ) from None
        return True


class QuantizedFormat(ModelFormat):
    """Un modèle quantifié."""

    kind, name = "quantized", "modèle quantifié gpt-architecture"
    use = Use.LOAD

    def recognises(self, model: OpenedModel) -> bool:
        """Un fichier safetensors qui annonce, en JSON, notre format."""
        return _announces(model, json.dumps(quantized_file.FORMAT))

    def facts(self, model: OpenedModel) -> Facts:
        """L'en-tête dit tout."""
        file = model.safetensors or SafetensorsFile(model.path)
        found = quantized_file.read_header(file)
        return Facts(
            config=found.config,
            tensors=file.infos,
            tokenizer=lambda: tokenizer_from_dict(found.tokenizer),
            provenance={**asdict(found.scheme), **found.metadata},
        )


class AdapterFormat(ModelFormat):
    """Un fichier d'adaptateurs."""

    kind, name = "adapter", "adaptateurs LoRA gpt-architecture"
    use = Use.IMPORT  # fondus dans leur modèle de départ

    def recognises(self, model: OpenedModel) -> bool:
        """Un fichier safetensors qui annonce notre format."""
        return _announces(model, adapter_file.FORMAT)

    def facts(self, model: OpenedModel) -> Facts:
        """Les réglages, et l'empreinte du modèle de départ."""
        file = model.safetensors or SafetensorsFile(model.path)
        found = read_adapter(model.path, opened=file, weights=False)
        return Facts(
            tensors=file.infos,
            tokenizer=lambda: {"problem": "c'est celui du modèle de départ"},
            provenance={
                **lora_facts(found.lora, found.base_sha256, found.base_path),
                **found.metadata,
            },
        )

    def holds_adapters(self, model: OpenedModel) -> bool:
        """Toujours."""
        return True

    def read_adapters(self, model: OpenedModel) -> AdapterFile:
        """Voir `read_adapter`."""
        return read_adapter(model.path, opened=model.safetensors)

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Le modèle de départ, où ils sont fondus."""
        return merged_in_base(model.path, self.read_adapters(model))


def _announces(model: OpenedModel, format_name: str) -> bool:
    file = model.safetensors
    return file is not None and file.metadata.get("format") == format_name


def read_adapters(source: Path | str) -> AdapterFile:
    """Des adaptateurs, d'ici ou d'ailleurs, sans leur modèle de départ.

    Args:
        source: voir `locate`.

    Raises:
        ModelFileError: absent, abîmé, ou autre chose que des adaptateurs.
    """
    try:
        model = open_model(source)
    except ModelFileError as error:
        found = error.found.removeprefix(f"{source} ").removesuffix(f" : {source}")
        raise not_adapters(source, found) from None
    return model.format.read_adapters(model)


def lora_facts(lora: LoRAConfig, base_sha256: object, base: object) -> dict[str, Any]:
    """Ce que des adaptateurs disent d'eux : réglages, modèle de départ s'il est connu."""
    known = {"base": base, "base_sha256": base_sha256}
    return {
        **{name: str(value) for name, value in known.items() if value is not None},
        "rank": lora.rank,
        "alpha": lora.alpha,
        "targets": ", ".join(lora.targets),
    }


def merged_in_base(path: Path | str, adapter: AdapterFile) -> ModelFile:
    """Le modèle de départ d'adaptateurs, retrouvé, où ils sont fondus.

    Rien n'est téléchargé : seul convient un modèle déjà sur le disque, et d'empreinte juste. De
    ceux qui n'ont pas d'empreinte, c'est le modèle qu'ils nomment, à cette place exactement.

    Args:
        path: d'où viennent les adaptateurs.
        adapter: les adaptateurs.

    Raises:
        ModelFileError: modèle de départ introuvable.
    """
    path = Path(path)
    for candidate in dict.fromkeys(_bases(path, adapter)):
        try:
            base = open_model(candidate)
            if base.holds_adapters:
                continue
            content = adapter.merged(base.read())
        except ModelFileError:  # un autre modèle, ou rien de lisible
            continue
        logger.info("Adaptateurs fondus dans leur modèle de départ, %s.", candidate)
        return content
    where = "" if adapter.base_path is None else f", qui était {adapter.base_path}"
    raise ModelFileError(
        f"{path} ne contient que des adaptateurs, et leur modèle de départ est introuvable{where}",
        expected="le modèle dont l'affinage est parti",
        remedy="fondez-les d'abord en le nommant : gpt-architecture merge MODÈLE "
        f"{path} --out {MODEL_NAME}",
    )


def _bases(path: Path, adapter: AdapterFile) -> Iterator[Path]:
    """Où peut être le modèle de départ : à sa place d'alors, ou près des adaptateurs."""
    name = adapter.base_path
    if name is None or is_remote(name):
        return
    names = (name,) if adapter.base_sha256 is None else (name, Path(name).name)
    for folder in (path.parent, Path()):
        for candidate in (folder / each for each in names):
            if candidate.exists():
                yield candidate


register(ModelFileFormat(), CheckpointFormat(), QuantizedFormat(), AdapterFormat())
