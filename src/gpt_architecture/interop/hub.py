"""Le Hub de Hugging Face : un dépôt, téléchargé dans son cache seulement quand on le demande."""

from __future__ import annotations

import logging
from pathlib import Path

from gpt_architecture.errors import MissingDependencyError, ModelFileError, reason
from gpt_architecture.formats.door import RemoteSource
from gpt_architecture.interop.hf import WEIGHTS

logger = logging.getLogger(__name__)

SCHEME = "hub:"
"""Ce qui distingue un nom du Hub d'un chemin : `hub:gpt2`."""

TIMEOUT_S = 10
"""Secondes sans réponse du Hub avant d'abandonner."""

_TEXTS = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
    "additional_chat_templates/*.jinja",
)
"""Tout ce que lit l'import d'un dossier, en plus des poids."""


def download(name: str) -> Path:
    """Télécharge un dépôt dans le cache de Hugging Face et rend son dossier.

    Les poids safetensors sont préférés ; `pytorch_model.bin` ne vient qu'à défaut.

    Args:
        name: « gpt2 », « distilgpt2 », « auteur/modèle ».

    Raises:
        MissingDependencyError: huggingface_hub manque.
        ModelFileError: dépôt inconnu, ou réseau absent.
    """
    try:
        import huggingface_hub  # noqa: PLC0415 — facultatif
        from huggingface_hub.errors import HFValidationError  # noqa: PLC0415
    except ImportError:
        raise MissingDependencyError(
            "huggingface_hub", purpose="télécharger un modèle du Hub"
        ) from None
    try:
        for weights in WEIGHTS:
            stem, suffix = Path(weights).stem, Path(weights).suffix
            wanted = [*_TEXTS, weights, f"{stem}-*{suffix}", f"{weights}.index.json"]
            found = huggingface_hub.snapshot_download(
                name, allow_patterns=wanted, etag_timeout=TIMEOUT_S
            )
            if any(Path(found).glob(f"{stem}*{suffix}")):
                return Path(found)
    except HFValidationError:
        raise ModelFileError(
            f"{name[:200]!r} n'est pas un nom de dépôt du Hub",
            expected=f"par exemple {SCHEME}gpt2 ou {SCHEME}auteur/modèle",
            remedy="corrigez ce nom",
        ) from None
    except Exception as error:  # réseau, dépôt inconnu, disque plein : plusieurs bibliothèques
        raise ModelFileError(
            f"le Hub n'a pas donné {name[:200]} ({reason(error)})",
            expected="un dépôt public, et le réseau ou un cache déjà rempli",
            remedy="vérifiez le nom et la connexion, ou donnez un dossier local",
        ) from None
    raise ModelFileError(
        f"le dépôt {name[:200]} n'a pas de poids PyTorch",
        expected=" ou ".join(WEIGHTS),
        remedy="choisissez un autre dépôt",
    )


def fetch(name: str) -> Path:
    """Le dossier d'un dépôt, dont on annonce le téléchargement ; voir `download`."""
    logger.info("Téléchargement de %s depuis le Hub de Hugging Face…", name)
    return download(name)


HUB = RemoteSource(
    prefix=SCHEME,
    fetch=fetch,
    origin=lambda name: {"source": f"https://huggingface.co/{name}", "name": name},
)
"""L'adresse, telle que la porte la connaît."""
