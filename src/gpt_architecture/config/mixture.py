"""Les sources d'un mélange, telles qu'elles se demandent : `NOM=CHEMIN:POIDS`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from numbers import Integral, Real
from typing import Literal

from gpt_architecture.errors import ConfigurationError

MAX_SOURCES = 64

WeightUnit = Literal["share", "epochs"]
"""Ce que mesure un poids : une part du mélange, ou les époques d'une source à chaque époque de
celui-ci."""

_SOURCE = re.compile(r"(?P<name>[\w-]{1,40})=(?P<path>.+):(?P<weight>[^:]*)", re.DOTALL)
_DIGITS = 30  # les décimales d'un poids, au plus : un quotient de Python en a dix-sept ou plus
_WEIGHT = re.compile(rf"(\d{{1,9}}(?:[.,]\d{{1,{_DIGITS}}})?|[.,]\d{{1,{_DIGITS}}})(x?)")
_EXPECTED = (
    "NOM=CHEMIN:POIDS, le poids étant une part (0.7) ou un nombre d'époques par époque du mélange "
    "(2x)"
)


@dataclass(frozen=True, kw_only=True)
class WeightedSource:
    """Une source d'un mélange.

    Attributes:
        name: son nom, dans le journal et les messages.
        path: ce que prend aussi `data` : texte, dossier, fragments, nom de corpus.
        weight: son poids, exact et > 0.
        unit: ce qu'il mesure.
    """

    name: str
    path: str
    weight: Fraction
    unit: WeightUnit

    @property
    def measure(self) -> str:
        """Son poids, tel qu'il s'écrit : « 0.7 », « 2x »."""
        exact = Context(prec=2 * _DIGITS)
        numerator, denominator = map(Decimal, self.weight.as_integer_ratio())
        digits = exact.divide(numerator, denominator).normalize(exact)
        return f"{digits:f}{'x' if self.unit == 'epochs' else ''}"

    def __str__(self) -> str:
        return f"{self.name}={self.path}:{self.measure}"

    @classmethod
    def parse(cls, text: str) -> WeightedSource:
        """Relit `str` d'une source.

        Raises:
            ConfigurationError: ce n'en est pas une, ou son poids n'est pas > 0.
        """
        found = _SOURCE.fullmatch(text)
        weight = None if found is None else _WEIGHT.fullmatch(found["weight"].strip())
        value = Fraction(0) if weight is None else Fraction(weight[1].replace(",", "."))
        if found is None or weight is None or value <= 0:
            raise ConfigurationError.wrong("`sources`", text, expected=_EXPECTED)
        unit: WeightUnit = "epochs" if weight[2] else "share"
        return cls(name=found["name"], path=found["path"], weight=value, unit=unit)


def parse_sources(texts: Sequence[str]) -> tuple[WeightedSource, ...]:
    """Les sources d'un mélange ; aucune s'il n'y en a pas.

    Raises:
        ConfigurationError: l'une est mal écrite, deux ont le même nom, ou leurs poids ne mesurent
            pas la même chose.
    """
    sources = tuple(map(WeightedSource.parse, texts))
    names = [each.name for each in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError(
            f"deux sources ont le nom {twice[0]}",
            expected="un nom par source",
            remedy="renommez l'une d'elles dans `sources`",
        )
    if len({each.unit for each in sources}) > 1:
        raise ConfigurationError(
            f"des poids de deux genres : {', '.join(each.measure for each in sources)}",
            expected="des parts seules (0.7), ou des nombres d'époques seuls (2x)",
            remedy="récrivez les poids de `sources`",
        )
    if len(sources) > MAX_SOURCES:
        raise ConfigurationError(
            f"{len(sources)} sources",
            expected=f"au plus {MAX_SOURCES}",
            remedy="réunissez des sources dans un même dossier",
        )
    return sources


def source_texts(value: object) -> object:
    """`{"fr": ("livres", 0.7), "en": "books:0.3"}`, tel que Python l'écrit, en `NOM=CHEMIN:POIDS`.

    Autre chose est rendu tel quel.
    """
    if not isinstance(value, Mapping):
        return tuple(value) if isinstance(value, list) else value
    texts = []
    for name, described in value.items():
        pair = isinstance(described, (tuple, list)) and len(described) == 2
        texts.append(f"{name}={':'.join(map(_plain, described)) if pair else described}")
    return tuple(texts)


def _plain(value: object) -> str:
    """Un chemin ou un poids en texte ; `str` écrirait 1e-05, ou 1/3."""
    if isinstance(value, Real) and not isinstance(value, Integral):  # NumPy a les siens
        return f"{Decimal(str(float(value))):f}"
    return str(value)
