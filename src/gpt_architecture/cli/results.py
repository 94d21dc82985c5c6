"""Ce que les commandes écrivent : résultats en JSON, et les signatures qui les font reconnaître."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import say_aside
from gpt_architecture.storage import GENERATOR, Signature, exists, is_own

_STANDARD_OUTPUT = "-"
_MODEL_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".gguf", ".onnx")


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
        from gpt_architecture.storage import write_atomically

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


def json_of(command: str) -> Signature:
    """Le JSON d'une commande."""
    pattern = re.compile(rb'\s*\{\s*"generator":\s*"%s"' % f"{GENERATOR} {command}".encode())
    return lambda head, _tail: pattern.match(head) is not None


def page_of(template: str) -> Signature:
    """Une page HTML d'un de nos gabarits."""
    mark = f'<meta name="generator" content="{GENERATOR} {template}">'.encode()
    return lambda head, _tail: mark in head


def text_of(title: str) -> Signature:
    """Un texte dont la première ligne commence par `title`."""
    return lambda head, _tail: head.startswith(title.encode())


def with_json_file(tokens: Sequence[str]) -> list[str]:
    """Les arguments, où l'ancienne forme `--json FICHIER` devient `--json-file FICHIER`.

    `--json` suivi d'un fichier qui existe n'est qu'un drapeau devant un argument, sauf devant le
    JSON d'une mesure passée. `evaluate` seule avait cette forme.
    """
    found = list[str]()
    for token in tokens:
        name, is_joined, value = token.partition("=")
        follows = tokens[0] == "evaluate" and found[-1:] == ["--json"]
        if name == "--json" and is_joined and value.lower() not in ("true", "false"):
            found += ["--json"] if value == _STANDARD_OUTPUT else ["--json-file", value]
        elif follows and token == _STANDARD_OUTPUT:
            continue
        elif follows and _is_old_value(token):
            found[-1:] = ["--json-file", token]
        else:
            found.append(token)
    return found


def _is_old_value(token: str) -> bool:
    path = Path(token)
    if token.startswith(("-", "hub:")) or path.suffix in _MODEL_SUFFIXES:
        return False
    if path.suffix == ".json" or not exists(path):
        return True  # un .json d'autrui sera refusé sous son nom, et non pris pour le modèle
    return path.is_file() and is_own(path, json_of("evaluate"))


def _dump(record: Mapping[str, Any], indent: int | None) -> str:
    return json.dumps(record, ensure_ascii=False, indent=indent)
