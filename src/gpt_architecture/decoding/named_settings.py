"""De réglages nommés, tels qu'une personne ou un client les donne, à une configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gpt_architecture.config import StrategyName
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.settings import ALIASES, SETTINGS, unknown_setting
from gpt_architecture.errors import ConfigurationError

logger = logging.getLogger(__name__)


def ignored_warning(config: GenerationConfig) -> str | None:
    """Ce qu'il faut dire de réglages demandés en vain ; None : rien."""
    if not config.ignored:
        return None
    return (
        "à température 0, le token le plus probable est toujours choisi ; "
        f"sans effet : {', '.join(config.ignored)}"
    )


def make_config(values: Mapping[str, Any]) -> GenerationConfig:
    """La configuration de réglages nommés, filtres enregistrés compris.

    Raises:
        ConfigurationError: valeur hors bornes, ou réglages qui s'excluent.
    """
    found = {name: value for name, value in values.items() if name in SETTINGS.samplers}
    own = {name: value for name, value in values.items() if name not in found}
    if found:
        own["samplers"] = found
    return GenerationConfig(**own)


def implied_strategy(settings: Mapping[str, Any]) -> StrategyName:
    """La stratégie de réglages qui n'en nomment pas : échantillonner, si l'un le suppose."""
    asked = settings.get("temperature") is not None or any(
        settings.get(name) not in (None, each.default)
        for name, each in SETTINGS.declared.items()
        if each.setting.is_filter
    )
    return "sample" if asked else "greedy"


def config_of(settings: Mapping[str, Any]) -> GenerationConfig:
    """La configuration que décrivent des réglages nommés, `top_k` et `top_p` compris.

    Sans `strategy`, un filtre ou une température suffit à demander d'échantillonner. Un
    avertissement dit ceux qui sont sans effet.

    Raises:
        ConfigurationError: réglage inconnu, donné deux fois ou hors bornes.
    """
    values: dict[str, Any] = {}
    for given, value in settings.items():
        name = ALIASES.get(given, given)
        if name not in SETTINGS.declared:
            raise unknown_setting(given)
        if name in values:
            same = (each for each in settings if ALIASES.get(each, each) == name)
            raise ConfigurationError.together(*same)
        values[name] = value
    values.setdefault("strategy", implied_strategy(values))
    config = make_config(values)
    if warning := ignored_warning(config):
        logger.warning("%s", warning)
    return config
