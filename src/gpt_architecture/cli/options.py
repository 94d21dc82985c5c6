"""Options que plusieurs commandes partagent, dont la forme de leur résultat."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import MODEL_NAME, command_line, find_model
from gpt_architecture.config import check_float, check_int
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.reports.console import say_aside
from gpt_architecture.storage import GENERATOR, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPTING = Group("Invite", sort_key=-1)
COMPUTING = Group("Calcul", sort_key=6)

Prompt = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""Une invite ; elle peut commencer par un tiret, et « - » seul lit l'entrée standard."""

Text = Annotated[str, Parameter(allow_leading_hyphen=True)]

ModelSource = Annotated[
    Path | None,
    Parameter(
        name="--model",
        group=Group("Modèle", sort_key=0),
        metavar="MODÈLE",
        help="Modèle : fichier, adaptateurs, point de reprise, dossier d'entraînement ou de "
        "Transformers, hub:DÉPÔT ; sans lui, gpt-model.pt ici ou dans un dossier parent.",
    ),
]
"""Le modèle, donné par son chemin ou par son nom ; `formats.door.locate` le trouve."""


def model_path(model: Path | None, *, whole: bool = False) -> Path:
    """Ce qu'une commande lira du modèle demandé ; un nom du Hub n'est pas encore téléchargé.

    Args:
        model: le modèle demandé.
        whole: vrai si ses poids seront lus : leur vérification commence tout de suite.
    """
    source = find_model(model)
    if whole:  # avant d'importer PyTorch
        from gpt_architecture.storage.archives import check_ahead

        check_ahead(source / MODEL_NAME if source.is_dir() else source)
    from gpt_architecture.api import is_remote, locate

    return source if is_remote(source) else locate(source)


NamedModel = Annotated[
    Path | None,
    Parameter(
        name="--model",
        group=Group("Modèle", sort_key=0),
        metavar="MODÈLE",
        help="Le modèle, au lieu du premier argument.",
    ),
]
"""Là où d'autres arguments suivent le modèle ; voir `model_and_rest`."""


def model_and_rest(
    model: Path | None, first: str | None, second: Path | None, *, usage: str
) -> tuple[str, Path]:
    """Le modèle et ce qui le suit, que le modèle soit le premier argument ou --model.

    Args:
        model: la valeur de --model.
        first: premier argument.
        second: deuxième argument.
        usage: la commande attendue, pour le message.

    Raises:
        ConfigurationError: il en manque un, ou le modèle est donné deux fois.
    """
    named = any(each.partition("=")[0] == "--model" for each in command_line())
    if model is not None and second is None and first is not None:
        return str(model), Path(first)
    if first is not None and second is not None and not named:  # l'environnement cède
        return first, second
    problem = "il manque un argument"
    if second is not None:
        problem = f"le modèle est donné deux fois, {model} et {first}"
    raise ConfigurationError(problem, expected=usage, remedy="corrigez la commande")


def named_paths(option: str, values: Sequence[str]) -> dict[str, Path]:
    """Le chemin de chaque nom que donne une option répétée.

    Raises:
        ConfigurationError: un nom ou un chemin manque, ou un nom est donné deux fois.
    """
    found = dict[str, Path]()
    for each in values:
        name, _, path = each.partition("=")
        if not (name and path) or name in found:
            raise ConfigurationError.wrong(option, each, expected="NOM=CHEMIN, chaque nom une fois")
        found[name] = Path(path)
    return found


_SIZE = re.compile(r"(\d+(?:\.\d+)?)(?: ?([MGT])(i?)[oB]?)?")
_BYTES = {"M": (10**6, 2**20), "G": (10**9, 2**30), "T": (10**12, 2**40)}


def gigabytes(option: str, text: str) -> float:
    """Des milliards d'octets : « 4 », ou une taille comme « 500M », « 2Go », « 1.5Gi ».

    Raises:
        ConfigurationError: ce n'est pas une taille, ou elle est nulle.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        expected = "des milliards d'octets, ou une taille comme 500M, 2G ou 1.5Gi"
        raise ConfigurationError.wrong(option, text, expected=expected)
    size = float(found[1]) * _BYTES[found[2] or "G"][bool(found[3])] / 1e9
    check_float(option, size, above=0.0)
    return size


@Parameter(name="*", group=Group("Données de l'entraînement", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class TrainedSources:
    """Ce que l'entraînement a lu."""

    data: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="SOURCE…")] = ()
    """Textes de l'entraînement, comme pour « train » ; sans eux, ce que nomme son dernier point
    de reprise : un corpus connu ; pour « forget », vos fichiers aussi."""

    sources: Annotated[tuple[str, ...], Parameter(name="--source", metavar="NOM=CHEMIN:POIDS")] = ()
    """Source d'un mélange, à la place de data ; une par option."""

    field: str | None = None
    """Champ ou colonne du texte, si l'entraînement en a nommé un."""

    chat: Path | None = None
    """Conversations de l'entraînement."""

    chat_template: Path | None = None
    """Fichier de leur gabarit Jinja, si l'entraînement en a nommé un."""

    classify: Path | None = None
    """Textes étiquetés de l'entraînement."""

    val: Path | None = None
    """Textes étiquetés de sa validation, s'il en a nommé."""

    start: Annotated[Path | None, Parameter(name="--from", metavar="MODÈLE")] = None
    """Modèle dont l'entraînement est parti."""

    preferences: Path | None = None
    """Paires de préférences de l'entraînement."""

    distill: Annotated[Path | None, Parameter(metavar="MODÈLE")] = None
    """Professeur de l'entraînement."""

    @property
    def others(self) -> dict[str, Any]:
        """Ce qui n'est pas `data`, tel que la bibliothèque le nomme."""
        return {
            "sources": self.sources or None,
            "field": self.field,
            "chat": self.chat,
            "chat_template": self.chat_template,
            "classify": self.classify,
            "val": self.val,
            "start": self.start,
            "preferences": self.preferences,
            "distill": self.distill,
        }


@Parameter(name="*", group=Group("Résultat", sort_key=7))
@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Sous quelle forme rendre le résultat."""

    as_json: Annotated[bool, Parameter(name="--json")] = False
    """Écrit le résultat en JSON sur la sortie standard, au lieu du texte."""

    json_file: Path | None = None
    """Fichier où écrire aussi ce JSON."""

    force: bool = False
    """Remplace un fichier qui existe déjà, s'il n'est pas lu par cette commande."""

    @property
    def wants_json(self) -> bool:
        """Vrai si le résultat est demandé en JSON, ici ou là."""
        return self.as_json or self.json_file is not None

    def save(
        self, records: Sequence[Mapping[str, Any]], command: str, *, indent: int | None = None
    ) -> None:
        """Écrit le fichier JSON, s'il est demandé : un objet par ligne, signé de la commande.

        Raises:
            OutputError: le disque refuse.
        """
        if self.json_file is None:
            return
        signed = [{"generator": f"{GENERATOR} {command}", **record} for record in records]
        text = "".join(f"{_dump(record, indent)}\n" for record in signed)
        write_atomically(
            self.json_file, lambda temporary: temporary.write_text(text, encoding="utf-8")
        )
        say_aside(f"JSON : {self.json_file}")

    def emit(
        self, records: Sequence[Mapping[str, Any]], command: str, *, indent: int | None = None
    ) -> bool:
        """Écrit le résultat sous les formes JSON demandées ; vrai si le texte n'est plus à dire.

        Raises:
            OutputError: le disque refuse.
        """
        self.save(records, command, indent=indent)
        for record in records:
            self.show(record, indent=indent)
        return self.as_json

    def show(self, record: Mapping[str, Any], *, indent: int | None = None) -> None:
        """Écrit un objet sur la sortie standard, si --json le demande."""
        if self.as_json:
            print(_dump(record, indent), flush=True)  # un lecteur parti arrête la commande


def _dump(record: Mapping[str, Any], indent: int | None) -> str:
    return json.dumps(record, ensure_ascii=False, indent=indent)


QuantName = Literal["int8", "int4"]
"""Quantification des poids au chargement."""


@Parameter(name="*", group=COMPUTING)
@dataclass(frozen=True, kw_only=True)
class DeviceChoice:
    """Où faire calculer le modèle."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Quantifie les poids au chargement (CPU) : moins de mémoire lue, plus de tokens/s."""


@Parameter(name="*", group=COMPUTING)
@dataclass(frozen=True, kw_only=True)
class ModelChoice(DeviceChoice):
    """Où faire calculer un modèle qui écrit, et ce qu'il propose d'avance."""

    drafts: int = 5
    """Décodage spéculatif : nombre de tokens que le modèle propose lui-même, puis vérifie, quand
    il écrit un seul texte (poids fp32, CPU) ; 0 : aucun. Le texte reste le même."""

    def __post_init__(self) -> None:
        check_int("drafts", self.drafts, minimum=0, maximum=5)

    @property
    def asked(self) -> dict[str, object]:
        """Ce qui demande le modèle lui-même : option → sa valeur ; None : elle n'est pas donnée."""
        drafts = None if self.drafts == ModelChoice.drafts else self.drafts
        return {"--quant": self.quant, "--drafts": drafts}


@Parameter(name="*", group=COMPUTING)
@dataclass(frozen=True, kw_only=True)
class ServerChoice:
    """Le service qui écrit à la place d'un modèle chargé ici."""

    server: Annotated[str | None, Parameter(metavar="ADRESSE")] = None
    """Adresse d'un service (http://127.0.0.1:8000) qui génère à la place d'un modèle chargé ici."""

    server_model: Annotated[str | None, Parameter(metavar="NOM")] = None
    """Lequel de ses modèles ou adaptateurs répond ; sans lui, son premier modèle."""

    def __post_init__(self) -> None:
        if self.server_model is not None and self.server is None:
            raise ConfigurationError(
                "--server-model est donné sans --server",
                expected="l'adresse du service où ce modèle répond",
                remedy="ajoutez --server, ou donnez le modèle lui-même (--model)",
            )
