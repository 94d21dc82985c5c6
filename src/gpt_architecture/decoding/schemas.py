"""Les schémas JSON d'une contrainte : lus, leurs objets fermés, leur plus court document estimé.

La norme des schémas laisse tout objet ouvert : un modèle peut y ajouter des clés sans fin, et n'en
finit pas. Ceux qui écrivent un schéma (Pydantic, OpenAI, llama.cpp) pensent à ses seules
propriétés : un objet qui nomme les siennes est donc fermé, sauf si `additionalProperties` dit le
contraire.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

from gpt_architecture.errors import ConfigurationError

Schema = dict[str, Any]

_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_IN_LIST = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_ALONE = (
    *("items", "additionalItems", "contains", "not", "if", "then", "else", "propertyNames"),
    *("additionalProperties", "unevaluatedItems", "unevaluatedProperties"),
)
_ON_THE_SPOT = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
"""Mots-clés dont les sous-schémas décrivent le même objet que ce qui les entoure."""

# Des références emboîtées feraient recopier, ou lire, 2ⁿ fois la même définition.
_MOST_COPIED = 200_000  # caractères de définitions recopiées ouvertes
_MOST_NESTED = 4  # définitions recopiées l'une dans l'autre
_MOST_VISITS = 2_000  # sous-schémas lus pour estimer un document
_DEEPEST = 64
_LONGEST = 20_000  # caractères d'un document estimé


def read_schema(text: str) -> dict[str, Any]:
    """Le schéma d'un texte, ses objets fermés.

    Raises:
        ConfigurationError: ce n'est pas un objet JSON.
    """
    try:
        schema = json.loads(text)
        if isinstance(schema, dict):
            return close_objects(schema)
    except RecursionError:
        raise refusal("json_schema", "elle imbrique trop de niveaux") from None
    except json.JSONDecodeError as error:
        raise refusal(
            "json_schema",
            f"ce n'est pas du JSON (ligne {error.lineno}, colonne {error.colno})",
        ) from None
    except ValueError:  # un nombre démesuré
        raise refusal("json_schema", "ce n'est pas du JSON lisible") from None
    raise refusal("json_schema", "ce n'est pas un objet JSON")


def close_objects(schema: Schema) -> Schema:
    """Le même schéma, où tout objet qui nomme ses propriétés n'en admet pas d'autres.

    Reste ouvert un objet sans `properties`, ou qui dit `additionalProperties` ou
    `unevaluatedProperties`. Ce que `allOf` réunit est fermé ensemble, sur toutes ses propriétés ;
    un objet qui mêle autrement ses propriétés à d'autres schémas (`anyOf`, `if`…) reste ouvert :
    fermer une de ses parts interdirait les autres.

    Raises:
        ConfigurationError: il imbrique trop de niveaux.
    """
    try:
        return _Closer(schema).close(schema, opened=False)
    except RecursionError:
        raise refusal("json_schema", "elle imbrique trop de niveaux") from None


def make_strict(schema: Schema) -> Schema:
    """Le schéma du mode strict d'OpenAI : objets fermés, toutes leurs propriétés exigées.

    Raises:
        ConfigurationError: un objet y reste ouvert ; le mode strict ne l'approche pas, il le
            refuse.
    """
    closed = close_objects(schema)
    for each in _walk(closed):
        kind = each.get("type")
        named = "properties" in each or "patternProperties" in each
        if not (named or kind == "object" or (isinstance(kind, list) and "object" in kind)):
            continue
        if each.get("additionalProperties") is not False:
            raise ConfigurationError(
                "strict vaut true, et un objet du schéma reste ouvert "
                f"({json.dumps(each, ensure_ascii=False)[:80]})",
                expected="des objets qui nomment leurs propriétés, sans additionalProperties ni "
                "patternProperties",
                remedy="fermez cet objet, ou retirez strict",
            )
        each["required"] = list(dict.fromkeys([*_required(each), *_properties(each)]))
    return closed


def shortest_document(schema: Schema) -> str:
    """Un document parmi les plus courts du schéma : de quoi dire qu'il ne tiendra pas.

    C'est une estimation, coupée à 20 000 caractères : ce que `pattern`, `minimum`, `not` ou un
    recoupement exigent de plus n'est pas compté.
    """
    return _Shortest(schema).of(schema, _DEEPEST)


def refusal(name: str, reason: str) -> ConfigurationError:
    """L'erreur d'une contrainte qui ne convient pas."""
    return ConfigurationError(
        f"la contrainte {name} est refusée : {reason}",
        expected="une contrainte bien écrite, qu'un texte peut vérifier",
        remedy=f"corrigez {name}",
    ).naming(name)


def _children(schema: Schema) -> Iterator[tuple[str, Any, Any]]:
    """Où est chaque sous-schéma : le mot-clé, ce qui le tient (dict ou liste), sa place dedans."""
    for key in _BY_NAME:
        if isinstance(schema.get(key), dict):
            yield from ((key, schema[key], name) for name in schema[key])
    for key in _IN_LIST:
        if isinstance(schema.get(key), list):
            yield from ((key, schema[key], rank) for rank in range(len(schema[key])))
    for key in _ALONE:
        if isinstance(schema.get(key), dict):
            yield key, schema, key


def _walk(schema: Any) -> Iterator[Schema]:
    if isinstance(schema, dict):
        yield schema
        for _, holder, place in list(_children(schema)):
            yield from _walk(holder[place])


def _resolve(root: Schema, reference: Any) -> Any:
    """Ce que désigne `#/…` ; None si ce n'est pas ici."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for part in filter(None, reference[1:].split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found


class _Closer:
    """Ferme les objets d'un schéma ; ce qu'il recopie a une borne."""

    def __init__(self, root: Schema) -> None:
        self._root, self._room = root, _MOST_COPIED

    def close(self, schema: Schema, *, opened: bool, within: tuple[str, ...] = ()) -> Schema:
        """Une copie fermée.

        Args:
            schema: ce qui est à fermer.
            opened: laisser ouvert l'objet décrit ici, que quelque chose autour complète.
            within: références déjà suivies pour recopier ceci ouvert.
        """
        found = {key: copy(held) for key, held in schema.items()}
        parts = found.get("allOf")
        mixed = isinstance(parts, list) and len(parts) > 1
        if "properties" in found:
            mixed = mixed or any(key in found for key in ("$ref", *_ON_THE_SPOT))
        reference, inner = found.get("$ref"), None
        if (opened or mixed) and reference is not None:
            target = _resolve(self._root, reference)
            new = reference not in within and len(within) < _MOST_NESTED
            if isinstance(target, dict) and new and self._room > 0:
                self._room -= len(json.dumps(target))
                del found["$ref"]
                inner = self.close(target, opened=True, within=(*within, reference))
                if not found:
                    return inner
        for key, holder, place in list(_children(found)):
            if isinstance(holder[place], dict):
                here = key in _ON_THE_SPOT
                holder[place] = self.close(
                    holder[place],
                    opened=here and (opened or mixed or key in ("not", "if")),
                    within=within if here else (),
                )
        if inner is not None:  # déjà fermé : le refermer doublerait le travail à chaque niveau
            found["allOf"] = [*(parts if isinstance(parts, list) else ()), inner]
        if opened or "additionalProperties" in found or "unevaluatedProperties" in found:
            return found
        if not mixed:
            if isinstance(found.get("properties"), dict):
                found["additionalProperties"] = False
        elif (names := self._names(found)) is not None:
            found["properties"] = dict.fromkeys(names, True) | _properties(found)
            found["additionalProperties"] = False
        return found

    def _names(self, schema: Schema) -> list[str] | None:
        """Les propriétés que nomment un schéma et ses `allOf` ; None s'ils ne les disent pas."""
        if any(key in schema for key in (*_ON_THE_SPOT[1:], "$ref", "patternProperties")):
            return None
        if "additionalProperties" in schema or "unevaluatedProperties" in schema:
            return None
        names, parts = list(_properties(schema)), schema.get("allOf")
        for part in parts if isinstance(parts, list) else ():
            more = self._names(part) if isinstance(part, dict) else None
            if more is None:
                return None
            names += more
        return names or None


class _Shortest:
    """Écrit un document court ; ce qu'il lit du schéma a une borne."""

    def __init__(self, root: Schema) -> None:
        self._root, self._left = root, _MOST_VISITS
        self._known = {"#": "0"}  # référence → document ; « 0 » tant qu'il n'est pas écrit

    def of(self, schema: Any, depth: int) -> str:
        """Le document d'un sous-schéma, `depth` niveaux au plus."""
        if not isinstance(schema, dict) or depth == 0 or self._left == 0:
            return "0"
        self._left -= 1
        return self._written(schema, depth)[:_LONGEST]

    def _referred(self, reference: Any, depth: int) -> str:
        """Ce qu'une référence désigne, écrit une fois : une boucle s'arrête là."""
        name = str(reference)
        if name not in self._known:
            self._known[name] = "0"
            self._known[name] = self.of(_resolve(self._root, reference), depth - 1)
        return self._known[name]

    def _written(self, schema: Schema, depth: int) -> str:
        if "const" in schema:
            return _written(schema["const"])
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return min(map(_written, schema["enum"]), key=len)
        if "$ref" in schema:
            return self._referred(schema["$ref"], depth)
        for key, choose in (("anyOf", min), ("oneOf", min), ("allOf", max)):
            parts = schema.get(key)
            if isinstance(parts, list) and parts:
                return choose((self.of(each, depth - 1) for each in parts), key=len)
        kinds = schema.get("type")
        if kinds is None:
            kinds = next((kind for key, kind in _IMPLIED.items() if key in schema), "integer")
        kinds = kinds if isinstance(kinds, list) and kinds else [kinds]
        return min((self._kind(schema, kind, depth) for kind in kinds), key=len)

    def _kind(self, schema: Schema, kind: Any, depth: int) -> str:
        if kind == "object":
            fields, size, held = list[str](), 0, _properties(schema)
            for name in _required(schema):
                fields.append(f"{_written(name)}:{self.of(held.get(name), depth - 1)}")
                size += len(fields[-1])
                if size > _LONGEST:
                    break
            return "{" + ",".join(fields) + "}"
        if kind == "array":
            count = _count(schema, "minItems")
            item = self.of(schema.get("items"), depth - 1) if count else ""
            return "[" + ",".join([item] * min(count, _LONGEST // (len(item) + 1) + 1)) + "]"
        if kind == "string":
            return '"' + "a" * _count(schema, "minLength") + '"'
        return {"boolean": "true", "null": "null"}.get(str(kind), "0")


_IMPLIED = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "minItems": "array",
    "minLength": "string",
    "pattern": "string",
}
"""Ce qu'un mot-clé laisse attendre d'un schéma sans `type`."""


def _properties(schema: Schema) -> Schema:
    held = schema.get("properties")
    return held if isinstance(held, dict) else {}


def _required(schema: Schema) -> list[str]:
    """Les noms exigés, sans doublon ; ce qui n'en est pas un est laissé au lecteur du schéma."""
    held = schema.get("required")
    names = held if isinstance(held, list) else ()
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _count(schema: Mapping[str, Any], key: str) -> int:
    value = schema.get(key, 0)
    return min(value, _LONGEST) if isinstance(value, int) and value > 0 else 0


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
