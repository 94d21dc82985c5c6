"""Le bac à sable d'un gabarit de conversation : du Jinja venu d'ailleurs, dont tout est borné.

`ImmutableSandboxedEnvironment` lui ôte les attributs de Python ; il reste à borner ce qu'il
calcule. Chaque tour de boucle et chaque appel coûtent un pas, chaque texte construit est mesuré
avant de l'être, et seuls restent les filtres et les méthodes dont le résultat n'est pas plus grand
que ce qu'on leur donne.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from gpt_architecture.data.tokenizers.marked_text import (
    MarkedText,
    concatenate,
    replace_in,
    written,
)

MAX_STEPS = 1_000_000
"""Tours de boucle et appels d'un rendu, au plus."""

MAX_CHARACTERS = 8_000_000
"""Caractères d'un texte construit par un gabarit, au plus."""

_MAX_NESTING = 32
_MAX_NUMBER = 2**53
_STR_METHODS = (
    *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "upper", "lower", "title"),
    *("capitalize", "startswith", "endswith", "removeprefix", "removesuffix", "find", "count"),
    *("isdigit", "isspace", "isalpha", "isalnum", "isupper", "islower", "replace"),
)
_FILTERS = (
    *("trim", "upper", "lower", "title", "capitalize", "length", "count", "first", "last"),
    *("default", "d", "int", "float", "abs", "list", "items", "reverse", "sort", "unique"),
    *("select", "reject", "selectattr", "rejectattr", "map", "min", "max", "attr"),
)


class _Budget:
    """Ce qu'un rendu peut encore dépenser, et les textes du gabarit qu'il a déjà marqués."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.marked: dict[str, MarkedText] = {}

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise SecurityError(f"plus de {MAX_STEPS} pas")


_BUDGET: ContextVar[_Budget] = ContextVar("_BUDGET")


@contextmanager
def budget() -> Iterator[None]:
    """Ouvre le compte d'un rendu ; sans lui, aucun gabarit ne s'exécute."""
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


class Sandbox(ImmutableSandboxedEnvironment):
    """L'environnement des gabarits, aux conventions de Transformers (`trim_blocks`, `break`…)."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "/", "-"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=_scalar,
            autoescape=False,
        )
        self.filters = {name: self.filters[name] for name in _FILTERS} | {
            "join": _join,
            "replace": _replace,
            "safe": _scalar,  # rien n'est échappé
            "string": _scalar,
            "tojson": _to_json,
            "_counted": _counted,
            "_concat": _concat,
            "_written": _written,
        }
        self.globals = {"range": self.globals["range"], "namespace": self.globals["namespace"]}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Des méthodes d'un texte, celles dont le résultat est borné."""
        if isinstance(obj, str):
            return attr in _STR_METHODS
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` n'est pas permis : une largeur d'un milliard tient en onze caractères."""
        del value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Une opération : des nombres ordinaires, ou des textes et des listes qu'on ajoute."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _concat([left, right])
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            if len(left) + len(right) > MAX_STEPS:
                raise SecurityError(f"liste de plus de {MAX_STEPS} éléments")
            return left + right
        if not all(isinstance(x, (int, float)) for x in (left, right)) or operator == "**":
            raise SecurityError(f"opération {operator} refusée")
        result = super().call_binop(context, operator, left, right)
        if abs(result) > _MAX_NUMBER:
            raise SecurityError(f"nombre trop grand ({operator})")
        return result

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Un appel : un pas, et la mesure des remplacements."""
        _BUDGET.get().spend()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and getattr(__obj, "__name__", "") == "replace":
            return _replace(owner, *args, **kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Assemble ce qu'un bloc a écrit."""
        return _concat(parts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Analyse le gabarit, puis en fait passer les nœuds par nos filtres."""
        tree: nodes.Template = _Instrumented().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, par quoi Transformers désigne ce qui s'apprend."""

    tags = {"generation"}  # noqa: RUF012 — le type de Jinja

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Ce que ce bloc contient, et rien de plus."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Instrumented(NodeTransformer):
    """Passe par nos filtres les boucles, les concaténations et les textes d'un gabarit."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes), "_concat")

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        return _filtered(nodes.Const(node.data), "_written")

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        return _filtered(node, "_written") if isinstance(node.value, str) else node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


@pass_context  # sans quoi Jinja le calculerait à la compilation
def _written(_context: Context, text: str) -> MarkedText:
    known = _BUDGET.get().marked
    if text not in known:
        known[text] = written(text)
    return known[text]


def _counted(items: Any) -> Iterator[Any]:
    spend = _BUDGET.get().spend
    for item in items:
        spend()
        yield item


def _scalar(value: Any) -> Any:
    """Un texte ou un nombre, tel quel ; une structure s'écrit par `tojson`, qui est borné."""
    if value is None or isinstance(value, (str, int, float, bool, Undefined)):
        return value
    raise SecurityError(f"valeur de type {type(value).__name__} sans tojson")


def _concat(parts: Iterable[Any]) -> str:
    found, size = [], 0
    for part in parts:
        text = str(_scalar(part))
        size += len(text)
        if size > MAX_CHARACTERS:
            raise SecurityError(f"texte de plus de {MAX_CHARACTERS} caractères")
        found.append(text)
    return concatenate(found)


def _join(items: Iterable[Any], separator: str = "") -> str:
    parts: list[Any] = []
    for index, item in enumerate(_counted(items)):
        parts += [separator, item] if index else [item]
    return _concat(parts)


def _replace(text: Any, old: str, new: str, count: int = -1) -> str:
    text = str(_scalar(text))
    found = text.count(old) if count < 0 else min(count, text.count(old))
    if len(text) + found * len(new) > MAX_CHARACTERS:
        raise SecurityError(f"texte de plus de {MAX_CHARACTERS} caractères")
    return replace_in(text, old, new, count)


def _to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
    """Du JSON, sans échapper les accents (la convention de Transformers)."""
    if indent is not None and not 0 <= int(indent) <= 8:
        raise SecurityError(f"tojson avec indent={indent}")
    _check_depth(value, _MAX_NESTING)
    return _concat(json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value))


def _check_depth(value: Any, left: int) -> None:
    if left == 0:
        raise SecurityError("structure trop profonde")
    children = value.values() if isinstance(value, dict) else value
    for child in _counted(children) if isinstance(value, (dict, list, tuple)) else ():
        _check_depth(child, left - 1)
