"""Ce qu'est un réglage du décodage : son aide, ses bornes, qui peut le donner ; le registre.

Un réglage est déclaré une fois, à côté de son type et de son défaut : dans `GenerationConfig`, ou
par `register_sampler` pour un filtre venu d'ailleurs. Les options des commandes, les champs des
requêtes HTTP, `infer --server` et les vérifications en sont tirés.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from gpt_architecture.config import StrategyName, check_choice, check_float, check_int
from gpt_architecture.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from gpt_architecture.decoding.processors import Processor

GroupName = Literal["Décodage", "Filtres", "Arrêt, forme et vitesse"]
"""Cadre de l'aide où une commande montre un réglage."""

ALIASES = {"top_k": "k", "top_p": "p"}
"""Noms que d'autres bibliothèques donnent à des réglages d'ici."""

MAX_STRINGS = 64
MAX_STRING_LENGTH = 2_000
MAX_CONSTRAINT_LENGTH = 200_000


@dataclass(frozen=True, kw_only=True)
class RequestField:
    """Le champ d'une requête HTTP qui porte un réglage.

    Attributes:
        name: son nom ; vide : celui du réglage.
        minimum: borne du service, si elle est plus étroite que celle du réglage.
        maximum: de même.
        own_form: OpenAI lui donne une autre forme qu'ici : `serving.openai.bodies` l'écrit, et
            `serving.openai.planning` la traduit.
    """

    name: str = ""
    minimum: float | None = None
    maximum: float | None = None
    own_form: bool = False


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Ce qu'il faut savoir d'un réglage, en plus de son nom, de son type et de son défaut.

    Attributes:
        help: une phrase, celle de `--help`.
        group: où les commandes le montrent ; None : elles ne l'offrent pas.
        options: noms de l'option, s'il y en a d'autres que le sien.
        implied: sans l'option, la valeur est déduite des autres.
        minimum: plus petite valeur.
        above: valeur qu'il dépasse.
        maximum: plus grande valeur.
        is_filter: sans objet pour une stratégie qui n'échantillonne pas, et pour `mirostat`, qui a
            le sien.
        strategy: la seule stratégie qui s'en sert.
        refines: réglages qu'il précise : sans l'un d'eux, il n'aurait aucun effet.
        request: le champ d'une requête HTTP ; None : le service ne l'a pas.
    """

    help: str
    group: GroupName | None = None
    options: tuple[str, ...] = ()
    implied: bool = False
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    is_filter: bool = False
    strategy: StrategyName | None = None
    refines: tuple[str, ...] = ()
    request: RequestField | None = None


SETTING = "réglage"
"""Clé des métadonnées d'un champ."""


def setting(default: Any, help: str, **more: Any) -> Any:
    """Un champ de dataclass et ce qu'il faut en savoir.

    Args:
        default: sa valeur par défaut, ou ce qui la fabrique.
        help: une phrase, celle de `--help`.
        more: le reste d'un `Setting`.
    """
    metadata = {SETTING: Setting(help=help, **more)}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Un réglage déclaré.

    Attributes:
        name: son nom.
        kind: son type, tel qu'il est annoté.
        default: sa valeur par défaut.
        setting: le reste.
    """

    name: str
    kind: Any
    default: Any
    setting: Setting

    @cached_property
    def base(self) -> Any:
        """Le type, None mis à part."""
        return next((each for each in get_args(self.kind) if self.is_optional), self.kind)

    @cached_property
    def is_optional(self) -> bool:
        """Vrai si le réglage peut valoir None."""
        return NoneType in get_args(self.kind)

    def given(self, value: Any) -> Any:
        """La valeur que la configuration garde : d'une liste, ou d'une valeur seule, un tuple.

        Ce qui ne convient pas est rendu tel quel, à `check`.
        """
        if get_origin(self.base) is tuple and isinstance(value, list):
            return tuple(value)
        alone: Any = {tuple[str, ...]: str, tuple[int, ...]: int}.get(self.base)
        if alone is not None and isinstance(value, alone):
            return (value,)
        return value

    def check(self, value: Any) -> None:
        """Vérifie le type et les bornes d'une valeur.

        Raises:
            ConfigurationError: elle n'est pas permise.
        """
        name, base, bounds = self.name, self.base, self.setting
        above, maximum = bounds.above, bounds.maximum
        if value is None and self.is_optional:
            return
        if base is int:
            most = None if maximum is None else int(maximum)
            least = bounds.minimum or 0 if above is None else math.floor(above) + 1
            check_int(name, value, minimum=int(least), maximum=most)
        elif base is float:
            check_float(name, value, minimum=bounds.minimum, above=above, maximum=maximum)
        elif get_origin(base) is Literal:
            check_choice(name, value, get_args(base))
        elif base is str:
            if not _is_text(value, MAX_CONSTRAINT_LENGTH):
                limits = f"un texte de 1 à {MAX_CONSTRAINT_LENGTH} caractères"
                raise ConfigurationError.wrong(name, value, expected=limits)
        elif base == tuple[str, ...]:
            few = isinstance(value, tuple) and len(value) <= MAX_STRINGS
            if not few or not all(_is_text(each, MAX_STRING_LENGTH) for each in value):
                limits = f"au plus {MAX_STRINGS} textes de 1 à {MAX_STRING_LENGTH} caractères"
                raise ConfigurationError.wrong(name, value, expected=limits)
        elif base == tuple[int, ...]:
            if not isinstance(value, tuple):
                raise ConfigurationError.wrong(name, value, expected="des identifiants de tokens")
            for token in value:
                check_int(name, token, minimum=0)
        elif get_origin(base) is Mapping and not isinstance(value, Mapping):
            raise ConfigurationError.wrong(name, value, expected="un dictionnaire")


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Un filtre venu d'ailleurs : une fonction, son réglage, sa place.

    Attributes:
        name: nom du réglage, et de l'étape dans la trace.
        build: valeur du réglage → processeur, pur (voir `decoding.processors.Processor`).
        setting: aide, bornes, et qui peut le donner.
        kind: int ou float.
        default: valeur qui ne change rien : l'étape n'est alors pas construite.
        after: étape (`decoding.pipeline.STAGE_ORDERS`) qu'il suit.
    """

    name: str
    build: Callable[[float], Processor]
    setting: Setting
    kind: type[int] | type[float] = float
    default: float = 0.0
    after: str = "top_p"

    @property
    def declaration(self) -> Declaration:
        """Son réglage : celui d'un filtre, qui suppose d'échantillonner."""
        setting = replace(self.setting, is_filter=True)
        return Declaration(name=self.name, kind=self.kind, default=self.default, setting=setting)


class SettingsRegistry:
    """Tous les réglages : ceux de `GenerationConfig`, puis ceux des filtres enregistrés.

    Attributes:
        own: ceux de `GenerationConfig`.
        samplers: les filtres enregistrés, par nom.
        declared: tous les réglages, par nom.
    """

    def __init__(self) -> None:
        self.own: tuple[Declaration, ...] = ()
        self.samplers = dict[str, Sampler]()
        self.declared = dict[str, Declaration]()
        self._read_by = ""

    def declare(self, config: type[Any]) -> None:
        """Les champs d'une dataclass, chacun créé par `setting`."""
        kinds = get_type_hints(config)
        self.own = tuple(
            Declaration(
                name=each.name,
                kind=kinds[each.name],
                default={} if each.default is MISSING else each.default,
                setting=each.metadata[SETTING],
            )
            for each in fields(config)
        )
        known = {each.name: each for each in self.own if each.name != "samplers"}
        for name in known.keys() & self.samplers.keys():
            raise _taken(name)
        self.declared = known | self.declared

    def add(self, sampler: Sampler) -> None:
        """Ajoute un filtre (voir `register_sampler`)."""
        if self._read_by:
            raise ConfigurationError(
                f"le filtre {sampler.name} est enregistré après l'import de {self._read_by}",
                expected="un filtre enregistré avant les commandes et le service",
                remedy="appelez `register_sampler` plus tôt",
            )
        taken = {*self.declared, *ALIASES, "samplers"}
        if sampler.name in taken or not sampler.name.isidentifier():
            raise _taken(sampler.name)
        sampler.declaration.check(sampler.default)
        self.samplers[sampler.name] = sampler
        self.declared[sampler.name] = sampler.declaration

    def check_effects(self, strategy: StrategyName, given: Mapping[str, Any]) -> None:
        """Refuse un réglage que rien n'appliquerait, plutôt que de l'ignorer.

        Args:
            strategy: la stratégie.
            given: les réglages qui diffèrent du défaut.
        """
        draws = strategy not in ("greedy", "beam")
        filters = draws and strategy != "mirostat"
        for name, value in given.items():
            each = self.declared[name].setting
            useless = each.is_filter and not filters
            if name == "temperature" and not draws:
                useless = value > 0  # 0 dit la même chose que greedy
            if useless or each.strategy not in (None, strategy):
                others = "une stratégie qui filtre avant d'échantillonner"
                better = "choisissez la stratégie sample"
                raise ConfigurationError(
                    f"{name} est donné avec la stratégie {strategy}, qui n'en fait rien",
                    expected=others if useless else f"la stratégie {each.strategy}",
                    remedy=f"{better if useless else 'choisissez-la'}, ou retirez {name}",
                ).naming(name)
            refined = each.refines
            if refined and given.keys().isdisjoint(refined):
                raise ConfigurationError(
                    f"{name} est donné sans {' ni '.join(refined)}, et n'aurait aucun effet",
                    expected=f"{' ou '.join(refined)}",
                    remedy=f"ajoutez-le, ou retirez {name}",
                ).naming(name, *refined)

    def close(self, reader: str) -> Iterable[Declaration]:
        """Tous les réglages, pour qui en fait ses options ou ses champs : aucun ne suivra."""
        self._read_by = self._read_by or reader
        return self.declared.values()


SETTINGS = SettingsRegistry()


def register_sampler(sampler: Sampler) -> None:
    """Ajoute un filtre : `infer --help`, l'API, le service et la trace le connaissent.

    À appeler avant que les commandes ou le service soient importés : leurs options et leurs champs
    sont écrits à ce moment.

    Raises:
        ConfigurationError: le nom est pris ou impossible, ou il est trop tard.
    """
    SETTINGS.add(sampler)


def unknown_setting(name: str) -> ConfigurationError:
    """Le refus d'un réglage inconnu, avec le nom le plus proche."""
    return ConfigurationError(
        f"réglage inconnu : {name}",
        expected="les réglages de GenerationConfig",
        remedy=nearest(name, [*SETTINGS.declared, *ALIASES]) or "corrigez son nom",
    )


def _taken(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"un filtre se nomme {name!r}",
        expected="un identifiant qu'aucun réglage ne porte",
        remedy="changez son nom",
    )


def _is_text(value: object, longest: int) -> bool:
    """Vrai pour un texte non vide et borné."""
    return isinstance(value, str) and 0 < len(value) <= longest
