"""Les réglages du décodage, en options : ce qu'une commande en offre, ce qu'ils donnent."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_origin

from cyclopts import Group, Parameter

from gpt_architecture.cli.options import Text
from gpt_architecture.config import TEMPERATURE
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.named_settings import (
    ignored_warning,
    implied_strategy,
    make_config,
)
from gpt_architecture.decoding.settings import SETTINGS, Declaration, GroupName
from gpt_architecture.errors import ConfigurationError, mark_settings
from gpt_architecture.reports.console import say_aside
from gpt_architecture.storage import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


class SettingOptions:
    """Des réglages de décodage, en options : voir `decoding.settings`, qui les déclare."""

    def given(self) -> dict[str, Any]:
        """Chaque réglage et sa valeur ; None si, sans l'option, elle est à déduire."""
        return dict(vars(self))


def _options(
    group: GroupName, name: str, place: int, text: str, *, without: str = ""
) -> type[SettingOptions]:
    """La dataclass des réglages d'un cadre de l'aide, sauf `without`."""
    found = [
        each
        for each in SETTINGS.close("cli.sampling")
        if each.setting.group == group and each.name != without
    ]
    made = make_dataclass(
        name,
        [(each.name, _annotation(each), _default(each)) for each in found],
        bases=(SettingOptions,),
        namespace={"__doc__": text, "__module__": __name__},
        frozen=True,
        kw_only=True,
    )
    return Parameter(name="*", group=Group(group, sort_key=place))(made)


def _annotation(declaration: Declaration) -> Any:
    """Le type de l'option ; un texte peut commencer par un tiret."""
    text: Any = Text
    kind, base, names = declaration.kind, declaration.base, declaration.setting.options
    if get_origin(base) is Mapping:
        kind = tuple[str, ...]
    elif base is str:
        kind = text | None
    elif base == tuple[str, ...]:
        kind = tuple[Text, ...]
    elif declaration.setting.implied:
        kind = base | None
    spelled = [f"--{name}" for name in names]
    return Annotated[kind, Parameter(name=spelled or None, help=_in_options(declaration))]


def _in_options(declaration: Declaration) -> str:
    """L'aide d'un réglage, les autres réglages y prenant leur nom d'option."""
    return re.sub(
        r"`(\w+)`", lambda name: f"--{name[1].replace('_', '-')}", declaration.setting.help
    )


def _default(declaration: Declaration) -> Any:
    if declaration.setting.implied:
        return None
    return () if get_origin(declaration.base) is Mapping else declaration.default


if TYPE_CHECKING:
    SamplingOptions: TypeAlias = SettingOptions
    FilterOptions: TypeAlias = SettingOptions
    ShapeOptions: TypeAlias = SettingOptions
    AnswerOptions: TypeAlias = SettingOptions
    AnswerShapeOptions: TypeAlias = SettingOptions
else:
    SamplingOptions = _options("Décodage", "SamplingOptions", 1, "Comment choisir chaque token.")
    FilterOptions = _options(
        "Filtres",
        "FilterOptions",
        4,
        "Ce qui écarte ou pénalise des tokens (docs/reference/decodage.md en donne les formules).",
    )
    ShapeOptions = _options(
        "Arrêt, forme et vitesse",
        "ShapeOptions",
        3,
        "Quand s'arrêter, sous quelle forme, par quel chemin.",
    )
    # Une conversation n'a qu'une réponse par question, et n'en montre que le texte.
    AnswerOptions = _options("Décodage", "AnswerOptions", 1, SamplingOptions.__doc__, without="n")
    AnswerShapeOptions = _options(
        "Arrêt, forme et vitesse",
        "AnswerShapeOptions",
        3,
        ShapeOptions.__doc__,
        without="logprobs",
    )


def generation_config(
    sampling: SettingOptions, filters: SettingOptions, shape: SettingOptions
) -> GenerationConfig:
    """La configuration validée ; une graine est échantillonnée si aucune n'est donnée.

    Une ligne sur stderr dit les réglages sans effet.

    Raises:
        ConfigurationError: une option est hors bornes ou mal écrite.
        DataError: le schéma nommé ne peut pas être lu.
    """
    values = sampling.given() | filters.given() | shape.given()
    if values["strategy"] is None:
        values["strategy"] = implied_strategy(values)
    if values["temperature"] is None:
        values["temperature"] = TEMPERATURE
    if values["seed"] is None:
        import secrets  # il attendrait OpenSSL

        values["seed"] = secrets.randbelow(2**31)
    values["logit_bias"] = dict(map(_bias, values["logit_bias"]))
    values["json_schema"] = _schema(values["json_schema"])
    config = make_config(values)
    warn_ignored(config)
    return config


def warn_ignored(config: GenerationConfig, variant: str = "") -> None:
    """Dit, sur stderr, les réglages demandés en vain (voir `GenerationConfig.ignored`).

    Args:
        config: comment générer.
        variant: la variante dont c'est la configuration, s'il y en a plusieurs.
    """
    if warning := ignored_warning(config):
        whose = f"variante « {variant} » : " if variant else ""
        logger.warning("%s%s", whose, mark_settings(warning, config.ignored))


def warn_cut(config: GenerationConfig, ends: Sequence[str | None]) -> None:
    """Dit, sur stderr, si des textes contraints ont été coupés par max_tokens.

    Args:
        config: comment elles ont été écrites.
        ends: pourquoi chacune s'arrête.
    """
    if not config.is_constrained:
        return
    from gpt_architecture.decoding.constraints import cut_warning

    found = [warning for end in ends if (warning := cut_warning(config, end))]
    if found:
        several = f" ({len(found)} textes sur {len(ends)})" if len(ends) > 1 else ""
        say_aside(f"avertissement : {found[0]}{several}")


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise ConfigurationError.wrong(
            "logit_bias",
            text,
            expected="IDENTIFIANT=NOMBRE, par exemple 262=-5",
            remedy="corrigez --logit-bias",
        ) from None


def _schema(text: str | None) -> str | None:
    if text is None or not text.startswith("@"):
        return text
    return read_text(
        text[1:], expected="un schéma JSON", remedy="corrigez --json-schema", limit=1 << 20
    )
