"""Le tokenizer que nomme une commande qui n'apprend rien."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpt_architecture.cli.command import MODEL_NAME
from gpt_architecture.errors import ConfigurationError

if TYPE_CHECKING:
    from gpt_architecture.data.tokenizer import Tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """Le tokenizer d'un nom, d'un `tokenizer.json`, d'un dossier qui en a un, ou d'un modèle.

    Raises:
        ConfigurationError: un tokenizer appris, par son nom : son vocabulaire est à faire d'abord.
        TokenizerError: nom inconnu ou fichier illisible.
        ModelFileError: fichier .pt qui n'est pas un modèle.
    """
    from gpt_architecture.data.tokenizer import get_tokenizer, learns_from_text, tokenizer_from_dict

    if learns_from_text(name):
        remedy = "apprenez-le d'abord : gpt-architecture tokenizer train SOURCE… --out FICHIER"
        if name.startswith("simple"):
            remedy = "enregistrez-le avec SimpleTokenizerV2.from_text(…).save(…)"
        raise ConfigurationError(
            f"--tokenizer vaut {name}, dont le vocabulaire vient d'un texte",
            expected="gpt2 ou le fichier JSON d'un tokenizer enregistré",
            remedy=f"{remedy} et donnez ce fichier",
        )
    if Path(name).suffix == ".pt" or _is_run(Path(name)):
        from gpt_architecture.api import locate
        from gpt_architecture.formats.model_file import read_model

        return tokenizer_from_dict(read_model(locate(name)).tokenizer)
    return get_tokenizer(name)


def _is_run(path: Path) -> bool:
    """Vrai pour un dossier d'entraînement, ou un point de reprise."""
    names = (MODEL_NAME, "checkpoints", "manifest.json")
    return any((path / name).exists() for name in names)
