"""Une variante écrite en une ligne : « top_p p=0.9 temperature=0.8 »."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from typing import Any

from gpt_architecture.decoding.config import STRATEGIES, GenerationConfig, make_config
from gpt_architecture.decoding.settings import ALIASES, SETTINGS
from gpt_architecture.errors import ConfigurationError

MAX_LENGTH = 10_000
LABEL = "nom"
FIXED = ("strategy", "seed", "n", "logprobs")
"""Réglages que la comparaison fixe elle-même ; la stratégie est le premier mot."""


def parse_variant(line: str, defaults: Mapping[str, Any]) -> tuple[str, GenerationConfig]:
    """Étiquette et configuration d'une variante.

    Le premier mot est la stratégie, les autres des réglages de `GenerationConfig`, chacun écrit
    comme en TOML (`p=0.9`, `ignore_eos=true`, `'stop=["\\n", "Fin"]'`) ; ce qui n'en est pas est
    un texte. `nom="…"` remplace l'étiquette, qui est sinon la ligne elle-même.

    Args:
        line: la ligne ; des guillemets protègent les espaces.
        defaults: réglages qui valent quand la ligne ne les dit pas.

    Raises:
        ConfigurationError: stratégie ou réglage inconnu, valeur hors bornes.
    """
    if len(line) > MAX_LENGTH:
        raise _refusal(f"variante de {len(line)} caractères", f"au plus {MAX_LENGTH}")
    try:
        words = shlex.split(line)
    except ValueError:
        raise _refusal(f"guillemet ouvert dans la variante {line!r}", "une paire") from None
    if not words or words[0] not in STRATEGIES:
        found = f"{words[0]!r} n'est pas une stratégie" if words else "variante vide"
        raise _refusal(found, f"l'une de {', '.join(STRATEGIES)}, puis ses réglages")
    label = " ".join(line.split())
    settings: dict[str, Any] = {**defaults, "strategy": words[0]}
    for word in words[1:]:
        name, sign, text = word.partition("=")
        if not sign:
            raise _refusal(f"{word!r} dans la variante « {label} »", "un réglage, comme p=0.9")
        if name == LABEL:
            label = text or label
        else:
            name = ALIASES.get(name, name)
            settings[name] = _value(name, text)
    return label, make_config(settings)


def _value(name: str, text: str) -> Any:
    """La valeur d'un réglage ; `GenerationConfig` en vérifie le type et les bornes."""
    known = [each for each in SETTINGS.declared if each not in FIXED]
    if name not in known:
        raise _refusal(f"réglage inconnu {name!r}", f"l'un de {', '.join(known)}")
    try:
        value = tomllib.loads(f"valeur = {text}")["valeur"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text
    if name == "logit_bias":
        if not isinstance(value, dict) or not all(key.isdecimal() for key in value):
            raise _refusal(f"logit_bias vaut {text!r}", "par exemple {262 = -1.5}")
        return {int(key): bias for key, bias in value.items()}
    if isinstance(getattr(GenerationConfig, name, None), tuple):
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def _refusal(found: str, expected: str) -> ConfigurationError:
    return ConfigurationError(found, expected=expected, remedy="corrigez cette variante")
