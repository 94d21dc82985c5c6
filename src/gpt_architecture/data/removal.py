"""Un retrait : les tokens qu'un entraînement ne lit ni n'apprend, par leurs places.

Le texte n'y est pas, ni son empreinte : un nom ou un numéro se retrouveraient à force d'essais. Les
places, avec l'empreinte des données et celle du tokenizer, disent assez à qui a les données.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.storage import json_bytes, read_json_object, write_atomically
from gpt_architecture.storage.chain import canonical

REMOVAL_NAME = "retrait.json"
"""Son nom, à côté du modèle."""

FORMAT = "gpt-architecture/retrait"
VERSION = 1
MAX_SPANS = 200_000
_MAX_BYTES = 16 << 20
_MAX_TOKEN = 1 << 53
_WRITTEN = "un retrait écrit par « gpt-architecture forget »"

Span = tuple[int, int]
"""Un morceau [début, fin[ d'une suite de tokens."""


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Les mêmes places, en morceaux disjoints, croissants, séparés."""
    found = list[Span]()
    for start, stop in sorted(spans):
        if stop <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return tuple(found)


def subtracted(spans: Sequence[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """Les places de `spans` qui ne sont pas dans `others`, tous deux disjoints et croissants."""
    found, index = list[Span](), 0
    for start, stop in spans:
        while index < len(others) and others[index][1] <= start:
            index += 1
        left, at = start, index
        while at < len(others) and others[at][0] < stop:
            found.append((left, others[at][0]))
            left, at = others[at][1], at + 1
        found.append((left, stop))
    return tuple(each for each in found if each[0] < each[1])


def span_array(spans: Sequence[Span]) -> NDArray[np.int64]:
    """Les morceaux, (N, 2) int64."""
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Ce qui est retiré d'un entraînement, et de ses mesures.

    Attributes:
        data: empreinte des données, telles que l'entraînement les nomme.
        tokenizer: empreinte du tokenizer qui les code.
        neutral: identifiant qui tient la place d'un token retiré.
        train: places retirées de la suite d'entraînement, disjointes et croissantes.
        val: places retirées de la validation.

    Raises:
        ConfigurationError: morceaux mal formés, ou trop nombreux.
    """

    data: str
    tokenizer: str
    neutral: int
    train: tuple[Span, ...]
    val: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        numbers = [self.neutral, *(n for span in (*self.train, *self.val) for n in span)]
        sound = (
            all(isinstance(each, str) for each in (self.data, self.tokenizer))
            and all(type(each) is int and 0 <= each < _MAX_TOKEN for each in numbers)
            and all(spans == merged(spans) for spans in (self.train, self.val))
        )
        if not sound or not 0 < len(self.train) + len(self.val) <= MAX_SPANS:
            raise ConfigurationError(
                f"un retrait de {len(self.train) + len(self.val)} morceaux, ou mal formé",
                expected=f"de 1 à {MAX_SPANS} morceaux disjoints, dans l'ordre",
                remedy="retirez un texte plus long, donc plus rare, ou rendez le fichier d'origine",
            )

    @property
    def sha256(self) -> str:
        """Son empreinte : ce qui reste d'un entraînement en dépend tout entier."""
        return hashlib.sha256(canonical(self.to_dict()).encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens retirés de l'entraînement."""
        return sum(stop - start for start, stop in self.train)

    def union(self, other: Removal | None) -> Removal:
        """Les places de l'un et de l'autre.

        Raises:
            ConfigurationError: ils ne sont pas des mêmes données.
        """
        if other is None:
            return self
        self.check_same(other.data, other.tokenizer)
        return Removal(
            data=self.data,
            tokenizer=self.tokenizer,
            neutral=self.neutral,
            train=merged((*self.train, *other.train)),
            val=merged((*self.val, *other.val)),
        )

    def check_same(self, data: str, tokenizer: str) -> None:
        """Refuse d'autres données que les siennes, ou un autre tokenizer.

        Raises:
            DataError: les places n'y désigneraient pas les mêmes tokens.
        """
        for what, own, found in (
            ("d'autres données", self.data, data),
            ("un autre tokenizer", self.tokenizer, tokenizer),
        ):
            if own != found:
                raise DataError(
                    f"ce retrait a été fait pour {what}",
                    expected=f"l'empreinte {own[:12]}… (ici {found[:12]}…)",
                    remedy="rendez les données et le tokenizer d'origine, ou refaites le retrait",
                )

    def to_dict(self) -> dict[str, Any]:
        """En types simples."""
        return {
            "data": self.data,
            "tokenizer": self.tokenizer,
            "neutral": self.neutral,
            "train": [list(each) for each in self.train],
            "val": [list(each) for each in self.val],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Removal:
        """Relit `to_dict`.

        Raises:
            ConfigurationError: il est mal formé.
        """
        try:
            train, val = (
                tuple((start, stop) for start, stop in values[name]) for name in ("train", "val")
            )
            data, tokenizer, neutral = (values[n] for n in ("data", "tokenizer", "neutral"))
        except (KeyError, TypeError, ValueError):
            raise ConfigurationError(
                "un retrait mal formé", expected=_WRITTEN, remedy="reprenez le fichier d'origine"
            ) from None
        return cls(data=data, tokenizer=tokenizer, neutral=neutral, train=train, val=val)

    def save(self, path: Path | str, history: Sequence[Mapping[str, Any]] = ()) -> None:
        """L'écrit, entier ou pas du tout.

        Args:
            path: le fichier.
            history: ce qui a été retiré et quand, hors de l'empreinte.

        Raises:
            OutputError: le disque refuse.
        """
        head = {"format": FORMAT, "version": VERSION, "sha256": self.sha256}
        content = json_bytes({**head, "history": list(history), **self.to_dict()})
        write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_removal(path: Path | str) -> Removal:
    """Lit un retrait ; voir `Removal.save`.

    Raises:
        ConfigurationError: fichier absent, illisible, retouché ou d'un autre format.
    """
    return Removal.from_dict(_content(path))


def removal_history(path: Path | str) -> list[Mapping[str, Any]]:
    """Ce qu'un fichier de retrait dit des retraits faits ; vide s'il n'est pas là.

    Raises:
        ConfigurationError: voir `read_removal`.
    """
    found = _content(path).get("history") if Path(path).exists() else []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _content(path: Path | str) -> dict[str, Any]:
    path, remedy = Path(path), "corrigez `forget`, ou reprenez le fichier d'origine"
    content = read_json_object(
        path, _MAX_BYTES, error=ConfigurationError, expected=_WRITTEN, remedy=remedy, finite=True
    )
    if content.get("format") != FORMAT:
        raise ConfigurationError(f"{path} n'est pas un retrait", expected=_WRITTEN, remedy=remedy)
    if content.get("version") != VERSION:
        raise ConfigurationError.other_version(
            path, content.get("version"), expected=f"la version {VERSION}"
        )
    if content.get("sha256") != Removal.from_dict(content).sha256:
        raise ConfigurationError(
            f"{path} a été retouché : son empreinte n'est pas la sienne",
            expected=_WRITTEN,
            remedy=remedy,
        )
    return content
