"""D'une contrainte, expression, liste ou schéma JSON, à sa grammaire pour llguidance.

Rien ici ne charge PyTorch : le processus qui essaie les contraintes d'un service
(`serving.engine.grammar_worker`) n'emploie que ce module et `schemas`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.schemas import read_schema, refusal
from gpt_architecture.errors import MissingDependencyError

LIMITS = {
    "initial_lexer_fuel": 1_000_000,  # au plus 20 ms d'analyse d'expression
    "step_lexer_fuel": 50_000,  # au plus 6 ms par token
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # un à deux kilo-octets chacun
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}
"""Bornes de llguidance. Elles tiennent chaque pas, pas la lecture de la grammaire : celle-ci peut
durer des minutes, et c'est à l'appelant de la borner (voir `decoding.constraints`)."""

_LONG_GRAMMAR, _LONG_FUEL = 4_000, 20_000
"""Caractères au-delà desquels un pas reçoit moins : ce qu'une unité coûte croît avec la grammaire.
À 50 000 unités, un seul pas d'une expression de 40 Ko a pris dix secondes et un gigaoctet."""

_JSON_STYLE = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": False,  # un petit modèle écrirait des blancs sans fin
    "coerce_one_of": False,
    "lenient": False,  # un mot-clé que llguidance ignore est une erreur
}
_HEADER = '%llguidance {"no_forcing": true}\n'
"""Tous les tokens permis le sont : la loi est celle du modèle, restreinte aux textes permis."""

NOTHING = "aucun texte ne la vérifie"
_DETAIL = re.compile(r"error: |\(in regex\): |compile JSON schema: ")
_CONTEXT = re.compile(r"\n\s*\d+ \| |<")
_LONGEST_REASON = 300


def grammar_of(config: GenerationConfig) -> tuple[str, str]:
    """Nom du réglage qui contraint, et sa grammaire.

    Args:
        config: `regex`, `choices` ou `json_schema`, l'un des trois.

    Raises:
        ConfigurationError: contrainte mal écrite.
        MissingDependencyError: le paquet llguidance manque.
    """
    library = _library()
    if config.json_schema is not None:
        schema = {**read_schema(config.json_schema), "x-guidance": _JSON_STYLE}
        return "json_schema", f"{_HEADER}start: %json {json.dumps(schema)}"
    name, regex = "regex", config.regex
    if regex is None:
        name, regex = "choices", "|".join(re.escape(choice) for choice in config.choices)
    if (len(regex) - len(regex.rstrip("\\"))) % 2:  # llguidance l'oublierait en silence
        raise refusal(name, "une barre oblique inverse finale n'échappe rien")
    return name, f"{_HEADER}start: /{library.regex_to_lark(regex)}/"


def token_tree(
    tokens: Sequence[bytes], eos_id: int | None, encode: Callable[[str], list[int]]
) -> Any:
    """Un vocabulaire, rangé pour llguidance ; une demi-seconde pour celui de GPT-2.

    Args:
        tokens: octets de chaque identifiant.
        eos_id: fin de texte.
        encode: texte → identifiants.
    """
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokens, eos_id, encode)))


def build_matcher(tree: Any, grammar: str) -> Any:
    """Ce qui suit une grammaire, à son début ; peut durer (voir `LIMITS`), GIL rendu."""
    library = _library()
    limits = dict(LIMITS)
    if len(grammar) > _LONG_GRAMMAR:
        limits["step_lexer_fuel"] = min(LIMITS["step_lexer_fuel"], _LONG_FUEL)
    limits = library.LLParserLimits(**limits)
    return library.LLMatcher(tree, grammar, log_level=0, limits=limits)


def why_refused(matcher: Any) -> str:
    """Pourquoi une grammaire ne convient pas : invalide, ou sans aucun texte ; vide : elle va."""
    found = reason_of(matcher)
    if found:
        return found
    possible = any(matcher.compute_bitmask())
    return reason_of(matcher) or ("" if possible else NOTHING)


def reason_of(matcher: Any) -> str:
    """L'erreur de la bibliothèque en une ligne ; vide s'il n'y en a pas."""
    error = _DETAIL.split(_CONTEXT.split(matcher.get_error(), maxsplit=1)[0])[-1]
    if error.startswith("NoExtension"):
        return NOTHING
    return " ".join(error.split())[:_LONGEST_REASON]


class _Vocabulary:
    """Ce que llguidance demande à un tokenizer."""

    bos_token_id = None

    def __init__(
        self, tokens: Sequence[bytes], eos_id: int | None, encode: Callable[[str], list[int]]
    ) -> None:
        self.tokens, self.eos_token_id, self._encode = tokens, eos_id, encode
        self.special_token_ids = [] if eos_id is None else [eos_id]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.decode() if isinstance(text, bytes) else text)


def _library() -> Any:
    try:
        import llguidance  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError(
            "llguidance", purpose="contraindre le texte généré (regex, choices, json_schema)"
        ) from None
    return llguidance
