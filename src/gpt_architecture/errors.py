"""Hiérarchie d'erreurs destinées à la personne qui utilise le projet.

Chaque erreur tient en une phrase et répond à trois questions : qu'a-t-on trouvé,
qu'attendait-on, que faire. Les commandes l'affichent telle quelle, sans pile
d'appels, et terminent avec `exit_code`.
"""

from __future__ import annotations

import errno

_REASONS = {
    errno.ENOENT: "fichier absent",
    errno.EACCES: "accès refusé",
    errno.EPERM: "opération refusée",
    errno.EISDIR: "c'est un dossier",
    errno.ENOTDIR: "un élément du chemin n'est pas un dossier",
    errno.ENOSPC: "disque plein",
    errno.EROFS: "système de fichiers en lecture seule",
    errno.EEXIST: "existe déjà",
    errno.ENAMETOOLONG: "nom trop long",
}


class GPTArchitectureError(Exception):
    """Racine de toutes les erreurs prévues par le projet.

    Args:
        found: ce qui a été trouvé (« `lr` vaut -1 »).
        expected: ce qui était attendu (« un nombre strictement positif »).
        remedy: ce qu'il faut faire, à l'impératif (« corrigez `lr` »).

    Un réglage y est nommé entre accents graves, `batch_size` ou `device=cpu` : la bibliothèque
    ignore les options des commandes, qui les y mettent elles-mêmes.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str, remedy: str) -> None:
        self.found = found
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{found} (attendu : {expected}) ; {remedy}.")


class ConfigurationError(GPTArchitectureError, ValueError):
    """Une option, une configuration ou un argument est invalide."""

    exit_code = 2


class DataError(GPTArchitectureError, ValueError):
    """Un texte ou un fichier de données ne convient pas."""


class TokenizerError(GPTArchitectureError, ValueError):
    """Un tokenizer est inconnu, incomplet, ou ne sait pas coder un texte."""


class ModelFileError(GPTArchitectureError):
    """Un fichier de modèle manque, est illisible ou ne correspond pas à sa configuration."""


class OutputError(GPTArchitectureError):
    """Un fichier de sortie ne peut pas être écrit, ou ne doit pas être écrasé."""


class GenerationError(GPTArchitectureError):
    """Le modèle a produit des valeurs à partir desquelles on ne peut pas tirer de token."""


class TrainingError(GPTArchitectureError):
    """L'entraînement ne peut pas continuer."""


class CheckpointError(GPTArchitectureError):
    """Un point de reprise manque ou est abîmé, ou un autre entraînement tient son dossier."""


class ServiceError(GPTArchitectureError):
    """Un service distant ne répond pas, ou refuse."""


class MissingDependencyError(GPTArchitectureError, ImportError):
    """Une bibliothèque facultative manque.

    Args:
        package: nom du paquet à installer.
        purpose: ce à quoi il sert ici (« tracer les courbes »).
    """

    def __init__(self, package: str, *, purpose: str) -> None:
        super().__init__(
            f"le paquet {package} n'est pas installé",
            expected=f"{package}, pour {purpose}",
            remedy=f"installez-le : pip install {package}",
        )
        self.package = package


def reason(error: BaseException) -> str:
    """La cause d'une erreur du système ou d'une bibliothèque, en une ligne courte."""
    known = _REASONS.get(error.errno) if isinstance(error, OSError) and error.errno else None
    text = str(error).strip()
    return known or (text.splitlines()[0] if text else type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Vrai si l'erreur dit que la mémoire manque, sur le processeur ou sur une carte."""
    text = str(error)  # PyTorch lève une RuntimeError, dont seul le texte le dit
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text
