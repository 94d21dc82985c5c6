"""La référence Python, lue dans les sources sans les exécuter : signatures et docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import griffe
from markdown_text import table

_SOURCES = Path(__file__).resolve().parents[2] / "src"
_SECTIONS = {
    "parameters": ("argument", "rôle"),
    "attributes": ("attribut", "rôle"),
    "raises": ("erreur", "quand"),
}


@dataclass(frozen=True)
class Documented:
    """Une classe, une fonction ou une constante d'un module.

    Attributes:
        node: ce que griffe en a lu.
    """

    node: Any

    @property
    def name(self) -> str:
        """Son nom."""
        return str(self.node.name)

    @property
    def is_dataclass(self) -> bool:
        """Vrai pour une dataclass."""
        return self.node.is_class and any("dataclass" in str(d.value) for d in self.node.decorators)

    @property
    def summary(self) -> str:
        """La première phrase de sa docstring."""
        return _text(self.node).split("\n\n")[0]

    @property
    def page(self) -> str:
        """Son passage : titre, signature, docstring, et ses méthodes publiques pour une classe."""
        parts = [f"### `{self.name}`", *_described(self.node)]
        if self.node.is_class:
            inherited = self.node.inherited_members  # celles d'un parent de ce paquet
            for member in (*inherited.values(), *self.node.members.values()):
                if member.is_function and member.docstring and not member.name.startswith("_"):
                    parts += [f"#### `{self.name}.{member.name}`", *_described(member)]
        return "\n\n".join(parts)


@cache
def _package() -> Any:
    return griffe.load("gpt_architecture", search_paths=[_SOURCES], docstring_parser="google")


def objects(module: str) -> list[Documented]:
    """Les objets publics qu'un module définit, dans l'ordre où il les écrit."""
    members = _package()[module].members.values()
    own = [each for each in members if not each.is_alias and not each.name.startswith("_")]
    return [Documented(each) for each in own if not each.is_module]


def module_summary(module: str) -> str:
    """La première phrase de la docstring d'un module."""
    return _text(_package()[module]).split("\n\n")[0]


def fields(item: Documented) -> Iterator[tuple[str, str, str, str]]:
    """Les champs d'une dataclass : nom, type, défaut, rôle."""
    said = {
        each.name: each.description
        for section in _sections(item.node)
        if section.kind.value == "attributes"
        for each in section.value
    }
    for each in item.node.members.values():
        if each.is_attribute and each.annotation is not None and "property" not in each.labels:
            role = _text(each) or said.get(each.name, "")
            default = f"`{each.value}`" if each.value is not None else "obligatoire"
            yield f"`{each.name}`", f"`{each.annotation}`", default, role


def _described(node: Any) -> Iterator[str]:
    if node.is_attribute:
        yield f"```py\n{node.name} = {node.value}\n```"
    else:
        yield f"```py\n{_signature(node)}\n```"
    for section in _sections(node):
        kind = section.kind.value
        if kind == "text":
            yield section.value
        elif kind in _SECTIONS:
            rows = [
                (f"`{each.annotation if kind == 'raises' else each.name}`", each.description)
                for each in section.value
            ]
            yield table(_SECTIONS[kind], rows)
        elif kind in ("returns", "yields"):
            yield "Rend : " + " ".join(each.description for each in section.value)
        elif kind == "admonition":
            yield f"**{section.title}.** {section.value.description}"


def _signature(node: Any) -> str:
    """La signature, un paramètre par ligne si elle est longue."""
    function = node.members.get("__init__") if node.is_class else node
    name, words, star = node.name, list[str](), False
    for each in function.parameters if function is not None else ():
        if each.name in ("self", "cls"):
            continue
        kind = each.kind.value if each.kind else ""
        if kind == "keyword-only" and not star:
            words.append("*")
        star = star or kind in ("keyword-only", "variadic positional")
        mark = {"variadic positional": "*", "variadic keyword": "**"}.get(kind, "")
        said = f"{mark}{each.name}" + (f": {each.annotation}" if each.annotation else "")
        default = "…" if "(" in str(each.default) else each.default  # fabriqué : `setting(…)`
        words.append(said + (f" = {default}" if each.default and not mark else ""))
    returned = f" -> {node.returns}" if node.is_function and node.returns else ""
    head = "class " if node.is_class else "def "
    short = f"{head}{name}({', '.join(words)}){returned}"
    if len(short) <= 88:
        return short
    return f"{head}{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){returned}"


def _sections(node: Any) -> list[Any]:
    return node.docstring.parsed if node.docstring else []


def _text(node: Any) -> str:
    return "\n\n".join(each.value for each in _sections(node) if each.kind.value == "text")
