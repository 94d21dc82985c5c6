"""Hiérarchie d'erreurs destinées à la personne qui utilise le projet.

Chaque erreur tient en une phrase et répond à trois questions : qu'a-t-on trouvé,
qu'attendait-on, que faire. Les commandes l'affichent telle quelle, sans pile
d'appels, et terminent avec `exit_code`.
"""

from __future__ import annotations

import errno
import re
import reprlib
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

_REASONS = {
    errno.ENOENT: "fichier absent",
    errno.EACCES: "accès refusé",
    errno.EPERM: "opération refusée",
    errno.EISDIR: "c'est un dossier",
    errno.ENOTDIR: "un élément du chemin n'est pas un dossier",
    errno.ENOSPC: "disque plein",
    errno.EFBIG: "fichier plus gros que ce disque ou cette session ne l'admet",
    errno.EROFS: "système de fichiers en lecture seule",
    errno.EEXIST: "existe déjà",
    errno.ENAMETOOLONG: "nom trop long",
    errno.ENOTEMPTY: "dossier non vide",
    errno.EMFILE: "trop de fichiers ouverts",
    errno.EADDRINUSE: "adresse déjà prise",
    errno.EADDRNOTAVAIL: "adresse qui n'est pas de cette machine",
    errno.ECONNREFUSED: "connexion refusée",
    errno.ECONNRESET: "connexion coupée",
    errno.EHOSTUNREACH: "machine hors d'atteinte",
    errno.ENETUNREACH: "réseau hors d'atteinte",
    errno.ETIMEDOUT: "pas de réponse à temps",
    -2: "nom de machine inconnu",  # les codes négatifs sont ceux de getaddrinfo
    -3: "nom de machine introuvable à présent",
    -5: "nom de machine sans adresse",
}


# Un nom lu dans un fichier peut porter des fins de ligne, ou de quoi commander le terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


_SETTING = re.compile(r"[a-z][a-z0-9_]*(=[^`]*)?")


def on_one_line(text: str) -> str:
    """Un texte lu, sans fin de ligne ni rien qui commande le terminal."""
    return _CONTROL.sub(" ", text)


_CHECK_PATH = "vérifiez le chemin et les droits"


class GPTArchitectureError(Exception):
    """Racine de toutes les erreurs prévues par le projet.

    Args:
        found: ce qui a été trouvé (« `lr` vaut -1 »).
        expected: ce qui était attendu (« un nombre strictement positif »).
        remedy: ce qu'il faut faire, à l'impératif (« corrigez `lr` »).

    Un réglage y est nommé entre accents graves, `batch_size` ou `device=cpu` : la bibliothèque
    ignore les options des commandes, qui les y mettent elles-mêmes.

    Attributes:
        settings: réglages que la phrase nomme sans ces accents.
    """

    exit_code = 1
    settings: tuple[str, ...] = ()

    def __init__(self, found: str, *, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = map(on_one_line, (found, expected, remedy))
        super().__init__(f"{self.found} (attendu : {self.expected}) ; {self.remedy}.")

    @property
    def marked(self) -> str:
        """La phrase, chaque réglage entre accents graves."""
        return mark_settings(str(self), self.settings)

    def naming(self, *names: str) -> Self:
        """La même erreur, qui sait quels réglages sa phrase nomme."""
        self.settings = tuple(filter(_SETTING.fullmatch, names))
        return self

    @classmethod
    def unreadable(
        cls,
        path: Path | str,
        why: BaseException | str,
        *,
        expected: str,
        remedy: str | None = None,
    ) -> Self:
        """Un fichier s'ouvre mal, ou n'a pas le contenu qu'il devrait ; le remède en dépend."""
        said = reason(why) if isinstance(why, BaseException) else why
        if remedy is None:
            closed = isinstance(why, OSError)
            remedy = _CHECK_PATH if closed else "recopiez-le depuis sa source"
        return cls(f"{path} est illisible : {said}", expected=expected, remedy=remedy)

    @classmethod
    def other_version(cls, path: Path | str, version: object, *, expected: str) -> Self:
        """Un de nos fichiers est d'une version que ce code ne connaît pas, ou n'en dit aucune."""
        if version is None:
            remedy = "recopiez-le depuis sa source"
            return cls(f"{path} ne dit pas sa version", expected=expected, remedy=remedy)
        return cls(
            f"{path} est en version {shown(version)}",
            expected=expected,
            remedy="mettez gpt-architecture à jour",
        )


class ConfigurationError(GPTArchitectureError, ValueError):
    """Une option, une configuration ou un argument est invalide."""

    exit_code = 2

    @classmethod
    def wrong(cls, name: str, value: object, *, expected: str, remedy: str | None = None) -> Self:
        """Un réglage n'a pas une valeur qui convienne.

        Args:
            name: le réglage, comme la personne le connaît (`top_p`, `--server`).
            value: la valeur reçue, montrée comme Python l'écrit.
            expected: les valeurs qui conviennent.
            remedy: que faire ; None : corriger ce réglage.
        """
        remedy = f"corrigez {name}" if remedy is None else remedy
        return cls(f"{name} vaut {shown(value)}", expected=expected, remedy=remedy).naming(name)

    @classmethod
    def together(
        cls,
        first: str,
        second: str,
        *,
        expected: str = "l'un ou l'autre",
        remedy: str | None = None,
    ) -> Self:
        """Deux réglages s'excluent ; None : le remède est de retirer le second."""
        remedy = f"retirez {second}" if remedy is None else remedy
        error = cls(f"{first} et {second} sont donnés ensemble", expected=expected, remedy=remedy)
        return error.naming(first, second)


class DataError(GPTArchitectureError, ValueError):
    """Un texte ou un fichier de données ne convient pas."""


class TokenizerError(GPTArchitectureError, ValueError):
    """Un tokenizer est inconnu, incomplet, ou ne sait pas coder un texte."""


class ModelFileError(GPTArchitectureError):
    """Un fichier de modèle manque, est illisible ou ne correspond pas à sa configuration."""

    @classmethod
    def missing(cls, path: Path | str, *, expected: str, remedy: str) -> Self:
        """Il n'y a rien à ce chemin."""
        return cls(f"modèle introuvable : {path}", expected=expected, remedy=remedy)


class OutputError(GPTArchitectureError):
    """Un fichier de sortie ne peut pas être écrit, ou ne doit pas être écrasé."""

    @classmethod
    def refused(
        cls,
        path: Path | str,
        error: BaseException,
        *,
        remedy: str = "libérez de la place ou changez de dossier",
    ) -> Self:
        """Le système refuse d'écrire."""
        return cls(
            f"impossible d'écrire {path} : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy=remedy,
        )


class GenerationError(GPTArchitectureError):
    """Le modèle a produit des valeurs d'où aucun token ne peut être échantillonné."""


class NonFiniteError(GenerationError):
    """Un calcul a donné NaN ou l'infini ; qui connaît le modèle dit si ses poids en sont cause.

    Args:
        found: ce qui n'est pas fini.
    """

    def __init__(
        self,
        found: str,
        *,
        expected: str = "des nombres finis",
        remedy: str = "recommencez sur le processeur, en fp32 ; si cela revient, signalez-le",
    ) -> None:
        super().__init__(found, expected=expected, remedy=remedy)


class TrainingError(GPTArchitectureError):
    """L'entraînement ne peut pas continuer."""


class CheckpointError(GPTArchitectureError):
    """Un point de reprise manque ou est abîmé, ou un autre entraînement tient son dossier."""


class CertificateError(GPTArchitectureError):
    """Un certificat d'entraînement manque, est abîmé, ou n'est pas de ce modèle."""


class ReceiptError(GPTArchitectureError, ValueError):
    """Un reçu manque, est illisible, ou sa requête n'en est pas une."""


class ServiceError(GPTArchitectureError):
    """Un service distant ne répond pas, ou refuse."""


class MissingDependencyError(GPTArchitectureError, ImportError):
    """Une bibliothèque facultative manque.

    Args:
        package: nom du paquet à installer.
        purpose: ce à quoi il sert ici (« tracer les courbes »).
        extra: groupe facultatif du projet à installer entier ; None : ce paquet suffit.
    """

    def __init__(self, package: str, *, purpose: str, extra: str | None = None) -> None:
        command = f"pip install {package}" if extra is None else install_command(extra)
        super().__init__(
            f"le paquet {package} n'est pas installé",
            expected=f"{package}, pour {purpose}",
            remedy=f"installez-le : {command}",
        )
        self.package = package


@contextmanager
def located(where: str, kind: type[GPTArchitectureError] | None = None) -> Iterator[None]:
    """Un refus du bloc dit d'où il vient : « fichier, ligne 3 : … ».

    Args:
        where: la place.
        kind: la sorte d'erreur qu'il devient ; None : la sienne.
    """
    try:
        yield
    except GPTArchitectureError as error:
        said = {"expected": error.expected, "remedy": error.remedy}
        if kind is not None:
            raise kind(f"{where} : {error.found}", **said) from None
        GPTArchitectureError.__init__(error, f"{where} : {error.found}", **said)
        raise


def install_command(extra: str) -> str:
    """La commande qui installe un groupe facultatif, telle qu'elle marche ici.

    Depuis un clone, c'est le clone qui l'installe ; ailleurs, ses paquets sont nommés : le projet
    n'est pas forcément là d'où vient pip.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").is_file():
        return f"pip install -e {shlex.quote(f'{root}[{extra}]')}"
    # Un dixième du temps d'une aide, pour un refus rare.
    from importlib.metadata import requires  # noqa: PLC0415

    wanted = (each.partition(";") for each in requires("gpt-architecture") or ())
    mark = re.compile(f"extra == ['\"]{re.escape(extra)}['\"]")
    packages = [name.strip() for name, _, when in wanted if mark.search(when)]
    return shlex.join(["pip", "install", *packages])


def mark_settings(text: str, names: Iterable[str]) -> str:
    """Un texte, ces réglages entre accents graves : une commande y met alors ses options."""
    for name in names:
        text = re.sub(rf"(?<![\w`'\"-]){re.escape(name)}(?![\w`'\"-])", f"`{name}`", text)
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Le remède à un nom inconnu : « essayez `epochs` » ; None : rien ne lui ressemble."""
    from difflib import get_close_matches  # noqa: PLC0415 — une aide n'en a pas besoin

    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"essayez `{close[0]}`" if close else None


def reason(error: BaseException) -> str:
    """La cause d'une erreur du système ou d'une bibliothèque, en une ligne courte."""
    known = _REASONS.get(error.errno) if isinstance(error, OSError) and error.errno else None
    if isinstance(error, ConnectionError) and not error.errno:  # une bibliothèque l'a écrite
        known = _REASONS[errno.ECONNRESET]
    text = str(error).strip()
    return known or (text.splitlines()[0] if text else type(error).__name__)


def malformed(error: BaseException) -> str:
    """Pourquoi une description lue ne convient pas ; Python ne le dit qu'en anglais.

    Une `ValueError` est la nôtre, et le dit elle-même.
    """
    if isinstance(error, KeyError):
        return f"il y manque {shown(error.args[0] if error.args else '')}"
    wrong = isinstance(error, (TypeError, AttributeError, IndexError))
    return "description mal formée" if wrong else reason(error)


_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
_SHOWN.maxlong = 40


def shown(value: object) -> str:
    """Une valeur lue, comme `repr` l'écrirait, en quelques dizaines de caractères au plus.

    Un entier lu dans un fichier peut avoir des milliers de chiffres, que `repr` refuse.
    """
    if isinstance(value, int) and value.bit_length() > 128:
        return f"un entier de {value.bit_length()} bits"
    return _SHOWN.repr(value)


_NO_MEMORY = "out of memory", "can't allocate", "cannot allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Vrai si l'erreur dit que la mémoire manque, sur le processeur ou sur une carte."""
    text = str(error).lower()  # PyTorch lève une RuntimeError, dont seul le texte le dit
    return isinstance(error, MemoryError) or any(each in text for each in _NO_MEMORY)
