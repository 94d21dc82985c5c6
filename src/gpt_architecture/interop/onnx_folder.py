"""Écrire un dossier que transformers.js charge, dans un navigateur ou dans Node.

`onnx/model.onnx` (fp32) et `onnx/model_quantized.onnx` (8 bits), avec le cache, à côté des fichiers
JSON d'un dossier de Transformers : la disposition des modèles que le Hub sert à transformers.js,
qui choisit le fichier d'après son réglage `dtype`, `fp32` ou `q8`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.interop.hf import CONFIG
from gpt_architecture.interop.hf_export import folder_documents, write_documents
from gpt_architecture.interop.onnx import INLINE_LIMIT, export_onnx
from gpt_architecture.storage import write_directory

FOLDER = "onnx"
_FILES: dict[str, Literal["int8"] | None] = {"model.onnx": None, "model_quantized.onnx": "int8"}
_BESIDE = "_data"  # le nom que transformers.js donne aux poids à part


def export_onnx_folder(
    content: ModelFile,
    dest: Path | str,
    *,
    force: bool = False,
    inline_limit: int = INLINE_LIMIT,
) -> None:
    """Écrit le dossier complet, ou rien.

    Args:
        content: le modèle, son tokenizer et ses métadonnées.
        dest: dossier à créer.
        force: remplace un dossier exporté auparavant.
        inline_limit: voir `export_onnx`.

    Raises:
        ModelFileError: les poids ne conviennent pas.
        TokenizerError: ce tokenizer ne s'écrit pas en `tokenizer.json`.
        MissingDependencyError: le paquet onnx manque.
        OutputError: destination prise, ou écriture refusée ; rien n'est laissé.
    """
    documents = folder_documents(content)

    def fill(new: Path) -> None:
        graphs = new / FOLDER
        graphs.mkdir()
        for name, quant in _FILES.items():
            export_onnx(
                content,
                graphs / name,
                cache=True,
                quant=quant,
                inline_limit=inline_limit,
                beside=_BESIDE,
            )
        apart = {name: 1 for name in _FILES if (graphs / f"{name}{_BESIDE}").exists()}
        if apart:
            documents[CONFIG]["transformers.js_config"] = {"use_external_data_format": apart}
        write_documents(new, documents)

    write_directory(dest, fill, force=force)
