"""D'où « verify » lit ce qu'il rejoue : jamais d'un endroit que le certificat nomme.

Un certificat reçu peut nommer un fichier privé, ou une adresse. Les données, le modèle de départ et
leurs gabarits viennent donc de l'appel, sinon des points de reprise gardés, et jamais du réseau si
la personne ne le nomme pas elle-même.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gpt_architecture.config import RunConfig, TrainingRequest
from gpt_architecture.config.mixture import parse_sources
from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.errors import ConfigurationError, DataError, ModelFileError
from gpt_architecture.storage import exists
from gpt_architecture.training.arithmetic import same_calculation
from gpt_architecture.training.checkpoint import Checkpoint
from gpt_architecture.training.inputs import is_tokenizer_name

_SOURCES = ("data", "source", "chat", "chat_template", "from", "field")
_FIELDS = {"from": "start", "source": "sources"}
_REMOTE = ("hf:", "hub:", "://")


def origins_of(given: Mapping[str, Any], latest: Checkpoint | None) -> dict[str, Any]:
    """D'où lire : ce qui est donné, sinon ce que le dernier point de reprise nomme.

    Args:
        given: par nom d'option ; None : non donné.
        latest: le dernier point de reprise gardé, s'il y en a un.

    Raises:
        ConfigurationError: réglage inconnu, ou point de reprise qui nomme le réseau.
    """
    said = {name: value for name, value in given.items() if value not in (None, ())}
    unknown = set(said) - set(_SOURCES)
    if unknown:
        raise ConfigurationError(
            f"réglage inconnu : {', '.join(sorted(unknown))}",
            expected="data, sources, chat, chat_template, start ou field",
            remedy="corrigez ou retirez ce réglage",
        )
    options = {} if latest is None else latest.state.get("options", {})
    known = {name: options.get(name) for name in _SOURCES}
    if {"data", "source", "chat"} & said.keys():
        known |= dict.fromkeys(("data", "source", "chat"))
    for name, value in known.items():
        if name not in said and _is_remote(value):
            raise ConfigurationError(
                f"un point de reprise nomme ce qui n'est pas ici : {str(value)[:200]}",
                expected="un fichier, ou un nom du réseau que vous donnez vous-même",
                remedy=f"donnez `{_FIELDS.get(name, name)}`",
            )
    found = {name: value for name, value in (known | said).items() if value is not None}
    return found | {"offline": not any(map(_is_remote, said.values()))}


def check_given(given: Mapping[str, Any]) -> None:
    """Ce que la personne donne est là : ce n'est pas au certificat d'en répondre.

    Raises:
        DataError: texte ou conversations absents.
        ModelFileError: modèle de départ absent.
    """
    data = given.get("data") or ()
    data = [data] if isinstance(data, str | Path) else data
    mixed = [each.path for each in parse_sources(given.get("source") or ())]
    for name in (*data, *mixed):
        if not exists(name) and not _is_remote(name):
            find_texts([name], offline=True)
    for name in ("chat", "chat_template"):
        if given.get(name) is not None and not exists(given[name]):
            expected = "un fichier que « train » a lu"
            raise DataError.unreadable(
                given[name], "fichier absent", expected=expected, remedy=f"corrigez `{name}`"
            )
    start = given.get("from")
    if start is not None and not exists(start) and not _is_remote(start):
        expected = "le modèle dont l'entraînement est parti"
        raise ModelFileError.missing(start, expected=expected, remedy="corrigez `start`")


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
    if "sources" in known or "chat" in known:
        known.pop("data", None)
    return TrainingRequest.of(known)


def _is_remote(value: Any) -> bool:
    """Vrai si une valeur, ou l'une des siennes, se cherche sur le réseau."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_remote, value))
    return isinstance(value, str) and any(part in value for part in _REMOTE)
