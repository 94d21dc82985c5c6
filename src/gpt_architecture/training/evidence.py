"""D'où se relit ce qu'un entraînement a lu : de là où l'appel le dit.

Un certificat ou un point de reprise reçu peut nommer un fichier privé, ou une adresse. Les données,
le modèle de départ et leurs gabarits viennent donc de l'appel ; un point de reprise ne fait que
nommer un corpus connu, lu ici et vérifié par son empreinte. Seul « forget », qui refait comme une
reprise un entraînement que l'on dit sien, rouvre les fichiers de celui-ci ; jamais une adresse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpt_architecture.config import RunConfig, TrainingRequest
from gpt_architecture.config.mixture import parse_sources
from gpt_architecture.data.removal import Removal
from gpt_architecture.data.texts.corpus import CORPUS_NAMES, find_texts
from gpt_architecture.data.texts.labelled import KNOWN as LABELLED
from gpt_architecture.errors import ConfigurationError, DataError, ModelFileError
from gpt_architecture.storage import exists
from gpt_architecture.training.arithmetic import same_calculation
from gpt_architecture.training.checkpoint import Checkpoint
from gpt_architecture.training.saved import is_tokenizer_name

_SOURCES = (
    *("data", "source", "chat", "chat_template", "classify", "val", "preferences"),
    *("from", "distill", "field"),
)
TEXTS = frozenset(("data", "source", "chat", "classify", "preferences"))
"""Ce dont un entraînement apprend : l'un d'eux."""

_NAMED = (
    *("source", "chat", "classify", "preferences", "data", "val", "from", "distill"),
    "chat_template",
)
_FIELDS = {"from": "start", "source": "sources"}
_REMOTE = ("hf:", "hub:", "://")


def origins_of(
    given: Mapping[str, Any], latest: Checkpoint | None, *, own: bool = False
) -> dict[str, Any]:
    """D'où lire : ce qui est donné, sinon le corpus connu que nomme le dernier point de reprise.

    Args:
        given: par nom d'option ; None : non donné.
        latest: le dernier point de reprise gardé, s'il y en a un.
        own: les fichiers qu'il nomme sont repris ; sinon, aucun chemin.

    Raises:
        ConfigurationError: réglage inconnu, ou non donné alors que l'entraînement en a lu un.
    """
    found = {name: value for name, value in given.items() if value not in (None, ())}
    unknown = set(found) - set(_SOURCES)
    if unknown:
        raise ConfigurationError(
            f"réglage inconnu : {', '.join(sorted(unknown))}",
            expected="data, sources, chat, chat_template, classify, val, preferences, start, "
            "distill ou field",
            remedy="corrigez ou retirez ce réglage",
        )
    options = None if latest is None else latest.state.get("options")
    told = {name: options.get(name) if isinstance(options, Mapping) else None for name in _SOURCES}
    if TEXTS & found.keys():
        told |= dict.fromkeys(TEXTS)
    readable = _is_local if own else _is_corpus
    known = {name: value for name, value in told.items() if readable(name, value)}
    found = known | found
    for name in _NAMED:
        if told[name] is not None and name not in found:
            raise _unnamed(name, told[name])
    return found | {"offline": not any(map(_is_remote, found.values()))}


def _is_local(_name: str, value: Any) -> bool:
    """Vrai si ce qu'un point de reprise nomme est donné, et ne se cherche pas sur le réseau."""
    return value is not None and not _is_remote(value)


def _is_corpus(name: str, value: Any) -> bool:
    """Vrai si un point de reprise ne nomme que des corpus connus, qu'aucun fichier ne masque."""
    names = value if isinstance(value, list) else [value]
    return name == "data" and all(each in CORPUS_NAMES and not exists(each) for each in names)


def _unnamed(name: str, told: object) -> ConfigurationError:
    """Ce que l'entraînement a lu, et que seule la personne peut désigner."""
    field = _FIELDS.get(name, name)
    first = told[0] if isinstance(told, list) and told else told
    return ConfigurationError(
        f"`{field}` n'est pas donné ; un point de reprise nomme {str(first)[:200]}",
        expected="ce que « train » a lu, nommé par vous : un point de reprise reçu pourrait "
        "désigner n'importe quel fichier",
        remedy=f"donnez `{field}`",
    )


def check_given(given: Mapping[str, Any]) -> None:
    """Ce que la personne donne est là : ce n'est pas au certificat d'en répondre.

    Raises:
        DataError: texte ou conversations absents.
        ModelFileError: modèle de départ ou professeur absent.
    """
    data = given.get("data") or ()
    data = [data] if isinstance(data, str | Path) else data
    mixed = [each.path for each in parse_sources(given.get("source") or ())]
    for name in (*data, *mixed):
        if not exists(name) and not _is_remote(name):
            find_texts([name], offline=True)
    for name in ("chat", "preferences", "chat_template", "classify", "val"):
        value = given.get(name)
        if value is not None and str(value) not in LABELLED and not exists(value):
            expected = "un fichier que « train » a lu"
            raise DataError.unreadable(
                given[name], "fichier absent", expected=expected, remedy=f"corrigez `{name}`"
            )
    for name, expected in (
        ("from", "le modèle dont l'entraînement est parti"),
        ("distill", "le professeur de l'entraînement"),
    ):
        model, field = given.get(name), _FIELDS.get(name, name)
        if model is not None and not exists(model) and not _is_remote(model):
            raise ModelFileError.missing(model, expected=expected, remedy=f"corrigez `{field}`")


def request_at(facts: Mapping[str, Any], given: Mapping[str, Any]) -> TrainingRequest:
    """Ce qui était demandé, sur les données d'ici ; aucun chemin n'est pris du certificat.

    Args:
        facts: ce qui valait, d'après lui.
        given: voir `origins_of`.

    Raises:
        ConfigurationError: les réglages du certificat ne conviennent pas.
    """
    told = facts["options"]
    apart = {*(each.name for each in fields(RunConfig)), *_SOURCES, *_FIELDS.values()}
    kept = {name: told.get(name) for name in ("field", "skip_bad")}
    kept |= {name: value for name, value in told.items() if name not in apart}
    if isinstance(told.get("tokenizer"), str) and is_tokenizer_name(told["tokenizer"]):
        kept["tokenizer"] = told["tokenizer"]
    options = {**kept, **given, **same_calculation(facts["arithmetic"])}
    known = {_FIELDS.get(n, n): value for n, value in options.items() if value is not None}
    if {"sources", "chat", "classify", "preferences"} & known.keys():
        known.pop("data", None)
    return TrainingRequest.of(known)


def removal_in(facts: Mapping[str, Any]) -> Removal | None:
    """Ce qui était retiré des données, d'après un certificat ; None : rien.

    Raises:
        ConfigurationError: il le dit mal.
    """
    told = facts.get("removal")
    return None if told is None else Removal.from_dict(told)


def _is_remote(value: Any) -> bool:
    """Vrai si une valeur, ou l'une des siennes, se cherche sur le réseau."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_remote, value))
    return isinstance(value, str) and any(part in value for part in _REMOTE)
