"""L'aide de chaque option, qui est la docstring de son champ : chaque module n'est lu qu'une fois.

`docstring_parser`, dont cyclopts se sert, relit et réanalyse tout le fichier pour chaque classe :
c'était un sixième de la durée de `train --help`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import docstring_parser
from docstring_parser import Docstring, DocstringParam, DocstringStyle

_ANY_OBJECT = docstring_parser.parse_from_object


@contextmanager
def modules_read_once() -> Iterator[None]:
    """Le temps d'écrire une aide, donne à cyclopts les docstrings par `documented_fields`."""
    docstring_parser.parse_from_object = documented_fields
    try:
        yield
    finally:
        docstring_parser.parse_from_object = _ANY_OBJECT


def documented_fields(obj: Any, style: DocstringStyle = DocstringStyle.AUTO) -> Docstring:
    """Ce que `docstring_parser.parse_from_object` dit des champs d'une classe, et de rien d'autre.

    Args:
        obj: une classe dont les champs ont une docstring ; le reste va à `docstring_parser`.
        style: celui d'une docstring de fonction, pour `docstring_parser`.
    """
    if not isinstance(obj, type):
        return _ANY_OBJECT(obj, style)
    docstring = Docstring()
    for name, text in _documented(obj.__module__).get(obj.__qualname__, {}).items():
        docstring.meta.append(
            DocstringParam(
                args=["attribute", name],
                description=text,
                arg_name=name,
                type_name=None,
                is_optional=None,
                default=None,
            )
        )
    return docstring


@cache
def _documented(module: str) -> dict[str, dict[str, str]]:
    """Classe d'un module → ses champs → leur docstring ; vide si le code source n'est pas là."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return {}
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return {each.name: dict(_fields(each)) for each in classes}


def _fields(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Chaque champ suivi d'une chaîne, et cette chaîne."""
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        match field, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, text
