"""Options que plusieurs commandes partagent, dont la forme de leur résultat."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_origin

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import MODEL_NAME, command_line, find_model
from gpt_architecture.config import TEMPERATURE, check_int
from gpt_architecture.decoding.config import (
    GenerationConfig,
    ignored_warning,
    implied_strategy,
    make_config,
)
from gpt_architecture.decoding.settings import SETTINGS, Declaration, GroupName
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.reports.console import say_aside
from gpt_architecture.storage import GENERATOR, read_text, write_atomically
from gpt_architecture.storage.archives import check_ahead

if TYPE_CHECKING:
    from collections.abc import Sequence

PROMPTING = Group("Invite", sort_key=-1)
COMPUTING = Group("Calcul", sort_key=6)

Prompt = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""Une invite ; elle peut commencer par un tiret, et « - » seul lit l'entrée standard."""

Text = Annotated[str, Parameter(allow_leading_hyphen=True)]

ModelSource = Annotated[
    Path | None,
    Parameter(
        name="--model",
        group=Group("Modèle", sort_key=0),
        metavar="MODÈLE",
        help="Modèle : fichier, adaptateurs, point de reprise, dossier d'entraînement ou de "
        "Transformers, hub:DÉPÔT ; sans lui, gpt-model.pt ici ou dans un dossier parent.",
    ),
]
"""Le modèle, donné par son chemin ou par son nom ; `formats.door.locate` le trouve."""


def model_path(model: Path | None, *, whole: bool = False) -> Path:
    """Ce qu'une commande lira du modèle demandé ; un nom du Hub n'est pas encore téléchargé.

    Args:
        model: le modèle demandé.
        whole: vrai si ses poids seront lus : leur vérification commence tout de suite.
    """
    source = find_model(model)
    if whole:  # avant d'importer PyTorch
        check_ahead(source / MODEL_NAME if source.is_dir() else source)
    from gpt_architecture.api import is_remote, locate

    return source if is_remote(source) else locate(source)


NamedModel = Annotated[
    Path | None,
    Parameter(
        name="--model",
        group=Group("Modèle", sort_key=0),
        metavar="MODÈLE",
        help="Le modèle, au lieu du premier argument.",
    ),
]
"""Là où d'autres arguments suivent le modèle ; voir `model_and_rest`."""


def model_and_rest(
    model: Path | None, first: str | None, second: Path | None, *, usage: str
) -> tuple[str, Path]:
    """Le modèle et ce qui le suit, que le modèle soit le premier argument ou --model.

    Args:
        model: la valeur de --model.
        first: premier argument.
        second: deuxième argument.
        usage: la commande attendue, pour le message.

    Raises:
        ConfigurationError: il en manque un, ou le modèle est donné deux fois.
    """
    named = any(each.partition("=")[0] == "--model" for each in command_line())
    if model is not None and second is None and first is not None:
        return str(model), Path(first)
    if first is not None and second is not None and not named:  # l'environnement cède
        return first, second
    problem = "il manque un argument"
    if second is not None:
        problem = f"le modèle est donné deux fois, {model} et {first}"
    raise ConfigurationError(problem, expected=usage, remedy="corrigez la commande")


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


def _dump(record: Mapping[str, Any], indent: int | None) -> str:
    return json.dumps(record, ensure_ascii=False, indent=indent)


QuantName = Literal["int8", "int4"]
"""Quantification des poids au chargement."""


@Parameter(name="*", group=COMPUTING)
@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Où faire calculer le modèle."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Quantifie les poids au chargement (CPU) : moins de mémoire lue, plus de tokens/s."""

    drafts: int = 5
    """Décodage spéculatif : nombre de tokens que le modèle propose lui-même, puis vérifie, quand
    il écrit un seul texte (poids fp32, CPU) ; 0 : aucun. Le texte reste le même."""

    def __post_init__(self) -> None:
        check_int("drafts", self.drafts, minimum=0, maximum=5)

    @property
    def asked(self) -> dict[str, object]:
        """Ce qui demande le modèle lui-même : option → sa valeur ; None : elle n'est pas donnée."""
        drafts = None if self.drafts == ModelChoice.drafts else self.drafts
        return {"--quant": self.quant, "--drafts": drafts}


class SettingOptions:
    """Des réglages de décodage, en options : voir `decoding.settings`, qui les déclare."""

    def given(self) -> dict[str, Any]:
        """Chaque réglage et sa valeur ; None si, sans l'option, elle est à déduire."""
        return dict(vars(self))


def _options(group: GroupName, name: str, place: int, text: str) -> type[SettingOptions]:
    """La dataclass des réglages d'un cadre de l'aide."""
    found = [each for each in SETTINGS.close("cli.options") if each.setting.group == group]
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
    return re.sub(r"`(\w+)`", lambda name: f"--{name[1]}", declaration.setting.help)


def _default(declaration: Declaration) -> Any:
    if declaration.setting.implied:
        return None
    return () if get_origin(declaration.base) is Mapping else declaration.default


if TYPE_CHECKING:
    SamplingOptions: TypeAlias = SettingOptions
    FilterOptions: TypeAlias = SettingOptions
    ShapeOptions: TypeAlias = SettingOptions
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


def generation_config(
    sampling: SettingOptions,
    filters: SettingOptions,
    shape: SettingOptions,
    fallback_seed: int,
) -> GenerationConfig:
    """La configuration validée ; `fallback_seed` sert si aucune graine n'est donnée.

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
        values["seed"] = fallback_seed
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
        say_aside(f"avertissement : {f'variante « {variant} » : ' if variant else ''}{warning}")


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
