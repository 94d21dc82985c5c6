"""Ce qu'un entraînement produit : un modèle entier, ou des adaptateurs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gpt_architecture.cli.command import MODEL_NAME, say_aside

if TYPE_CHECKING:
    from gpt_architecture.config import LoRAConfig
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.data.tokenizer import Tokenizer
    from gpt_architecture.training.session import Settings
    from gpt_architecture.training.starting_point import StartingPoint

_CHECKPOINT_COPIES = 3  # les poids et les deux moments d'AdamW


class Product(Protocol):
    """Un fichier écrit à la fin de l'entraînement."""

    title: str
    file_name: str
    nbytes: int

    @property
    def checkpoint_bytes(self) -> int:
        """Taille d'un point de reprise, en octets."""
        ...

    def read_metadata(self, path: Path) -> Mapping[str, Any]:
        """Les métadonnées d'un fichier de ce genre ; lève ModelFileError si ce n'en est pas un."""
        ...

    def save(
        self, path: Path, model: GPTModel, tokenizer: Tokenizer, metadata: dict[str, Any]
    ) -> None:
        """Écrit le fichier, entier ou pas du tout."""
        ...

    def next_command(self, path: Path, prompt: str, *, chats: bool) -> str:
        """La commande qui s'en sert, à copier."""
        ...


def product_of(settings: Settings) -> Product:
    """Ce que ces réglages produiront."""
    if settings.lora is None or settings.start is None:
        return _Model(settings)
    return _Adapter(settings, settings.lora, settings.start)


class _Model:
    title, file_name = "Modèle", MODEL_NAME

    def __init__(self, settings: Settings) -> None:
        self._config = settings.model
        self.nbytes = 4 * settings.model.num_parameters()

    @property
    def checkpoint_bytes(self) -> int:
        return _CHECKPOINT_COPIES * self.nbytes

    def read_metadata(self, path: Path) -> Mapping[str, Any]:
        from gpt_architecture.formats.model_file import read_model

        return read_model(path, verify=False).metadata

    def save(
        self, path: Path, model: GPTModel, tokenizer: Tokenizer, metadata: dict[str, Any]
    ) -> None:
        from gpt_architecture.formats.model_file import save_model

        say_aside(f"Enregistrement de {path}…")
        save_model(path, model, self._config, tokenizer=tokenizer.to_dict(), metadata=metadata)

    def next_command(self, path: Path, prompt: str, *, chats: bool) -> str:
        chosen = [] if path == Path(MODEL_NAME) else ["--model", str(path)]
        command = ["gpt-architecture", "infer", *chosen]
        if chats:
            return f'{shlex.join([*command, "--chat"])} "…"'
        return f"{shlex.join([*command, '--strategy', 'top_p', '--prompt'])} {_quoted(prompt)}"


class _Adapter:
    title = "Adaptateurs"

    def __init__(self, settings: Settings, lora: LoRAConfig, start: StartingPoint) -> None:
        from gpt_architecture.core.lora import adapter_parameters
        from gpt_architecture.formats.adapter_file import ADAPTER_NAME

        self._lora, self._start = lora, start
        self.file_name = ADAPTER_NAME
        self.nbytes = 4 * adapter_parameters(settings.model, lora)

    @property
    def checkpoint_bytes(self) -> int:
        return _CHECKPOINT_COPIES * self.nbytes

    def read_metadata(self, path: Path) -> Mapping[str, Any]:
        from gpt_architecture.formats.adapter_file import read_adapter

        return read_adapter(path).metadata

    def save(
        self, path: Path, model: GPTModel, tokenizer: Tokenizer, metadata: dict[str, Any]
    ) -> None:
        from gpt_architecture.core.lora import adapter_tensors
        from gpt_architecture.formats.adapter_file import AdapterFile, save_adapter

        del tokenizer  # celui du modèle de départ
        adapter = AdapterFile(
            lora=self._lora,
            base_sha256=self._start.sha256,
            tensors=adapter_tensors(model),
            metadata=metadata,
            base_path=_from_folder(path.parent, self._start.name),
        )
        save_adapter(path, adapter)

    def next_command(self, path: Path, prompt: str, *, chats: bool) -> str:
        del prompt, chats
        out = path.with_name("gpt-model-affine.pt")
        command = ["gpt-architecture", "merge", self._start.name, str(path), "--out", str(out)]
        return shlex.join(command)


def _from_folder(folder: Path, name: str) -> str:
    """Le chemin d'un modèle depuis un dossier, pour l'y retrouver si les deux sont déplacés."""
    if not Path(name).exists():  # hub:DÉPÔT
        return name
    try:
        return os.path.relpath(Path(name).resolve(), folder.resolve())
    except ValueError:  # deux lecteurs de Windows
        return str(Path(name).resolve())


def _quoted(text: str) -> str:
    """Le texte entre guillemets pour un terminal, protégé s'il contient de quoi l'abuser."""
    return shlex.quote(text) if set(text) & set('"$`\\!\n') else f'"{text}"'
