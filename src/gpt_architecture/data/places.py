"""Où un texte, un document ou des lignes se trouvent dans les tokens d'un entraînement.

Un token appartient à un passage dès qu'un de ses octets en est. Les données sont relues par blocs,
ou du texte déjà en mémoire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt_architecture.config import RunConfig
from gpt_architecture.data.canaries import PlantedTokens
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.mixtures import MixtureTokens
from gpt_architecture.data.named_places import (
    BLOCK_TOKENS,
    MAX_SHOWN,
    ConversationPlaces,
    Found,
    Places,
    ShardPlaces,
    TextPlaces,
)
from gpt_architecture.data.removal import Span, merged
from gpt_architecture.data.shards.reader import TokenShards, TokenSource
from gpt_architecture.data.texts.conversations import ConversationTokens
from gpt_architecture.data.texts.corpus import read_documents
from gpt_architecture.data.tokenizers.protocol import ByteTokenizer, Tokenizer
from gpt_architecture.errors import ConfigurationError, DataError, nearest


@dataclass(frozen=True, kw_only=True)
class Target:
    """Ce qui est cherché ; tout ce qui est nommé l'est.

    Attributes:
        documents: noms de documents ; numéros de conversations, ou de documents de fragments.
        texts: fichiers dont le texte est cherché, mot pour mot, chaque document à part.
        lines: première et dernière lignes d'un fichier, à partir de 1 ; de celui que `documents`
            nomme, s'il y en a plusieurs.

    Raises:
        ConfigurationError: rien, ou des lignes à l'envers.
    """

    documents: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    lines: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not (self.documents or self.texts or self.lines):
            raise ConfigurationError(
                "rien à oublier n'est nommé",
                expected="`document`, `text` ou `lines`",
                remedy="ajoutez l'un d'eux",
            )
        if self.lines is not None and not 1 <= self.lines[0] <= self.lines[1]:
            shown = f"{self.lines[0]}-{self.lines[1]}"
            raise ConfigurationError.wrong("`lines`", shown, expected="des lignes a-b, 1 ≤ a ≤ b")
        if self.lines is not None and len(self.documents) > 1:
            raise ConfigurationError.together(
                "`lines`", "`document`", expected="un fichier au plus"
            )


_Search = Callable[[Places, str | None], Found | None]


def find_places(target: Target, data: TrainingData, run: RunConfig, *, train_ratio: float) -> Found:
    """Tous les tokens de ce qui est cherché.

    Args:
        target: ce qui est cherché.
        data: les données, retrait compris.
        run: d'où elles sont lues.
        train_ratio: part des textes gardée pour l'entraînement.

    Raises:
        DataError: un nom ou un texte n'y est pas, ou désigne plusieurs fichiers.
    """
    data, planted = _unplanted(data), data
    parts = _parts(data, run, train_ratio)
    found = [_of_text(path, data, parts) for path in target.texts]
    if target.lines is not None:
        first, last = target.lines
        name = target.documents[0] if target.documents else None
        found.append(_in_parts(parts, name, lambda each, own: each.lines(first, last, own)))
    else:
        for name in target.documents:
            found.append(_in_parts(parts, name, lambda each, own: each.document(own or "")))
    train_spans, val_spans = (merged(s for each in found for s in each[k]) for k in (0, 1))
    return merged(_moved(train_spans, data.train, planted.train)), val_spans


def _unplanted(data: TrainingData) -> TrainingData:
    """Les mêmes données sans leurs canaris : eux ne sont d'aucun document."""
    train = data.train
    if isinstance(train, MixtureTokens):
        parts = [each.base if isinstance(each, PlantedTokens) else each for each in train.parts]
        return replace(data, train=MixtureTokens(parts, train.sources))
    return replace(data, train=train.base) if isinstance(train, PlantedTokens) else data


def _moved(spans: Sequence[Span], bare: TokenSource, planted: TokenSource) -> Iterator[Span]:
    """Des morceaux du texte nu, là où ils sont dans le texte planté."""
    if isinstance(planted, PlantedTokens):
        for start, stop in spans:
            yield from planted.places_of(start, stop)
    elif isinstance(bare, MixtureTokens) and isinstance(planted, MixtureTokens):
        for part, own, base, moved in zip(
            planted.parts, bare.parts, bare.bases, planted.bases, strict=True
        ):
            inside = [
                (max(start, base) - base, min(stop, base + own.num_tokens) - base)
                for start, stop in spans
                if start < base + own.num_tokens and stop > base
            ]
            for start, stop in _moved(inside, own, part):
                yield start + moved, stop + moved
    else:
        yield from spans


@dataclass(frozen=True, kw_only=True)
class _Part:
    name: str
    places: Places
    bases: tuple[int, int]

    def shifted(self, found: Found) -> Found:
        """Les places de cette source, là où elles sont dans l'entraînement entier."""
        train, val = (
            tuple((start + base, stop + base) for start, stop in spans)
            for spans, base in zip(found, self.bases, strict=True)
        )
        return train, val


def _parts(data: TrainingData, run: RunConfig, train_ratio: float) -> list[_Part]:
    """Chaque source de l'entraînement, et ce qu'elle nomme."""
    sources = [("", list(run.data), data.train, data.val, 0, 0)]
    if isinstance(data.train, MixtureTokens) and isinstance(data.val, MixtureTokens):
        sources = [
            (each.name, [each.path], train, val, base, val_base)
            for each, (train, base), (val, val_base) in zip(
                data.train.sources,
                zip(data.train.parts, data.train.bases, strict=True),
                zip(data.val.parts, data.val.bases, strict=True),
                strict=True,
            )
        ]
    return [
        _Part(
            name=name,
            places=_places(paths, train, val, data.tokenizer, run, train_ratio),
            bases=(base, val_base),
        )
        for name, paths, train, val, base, val_base in sources
    ]


def _places(
    paths: Sequence[str],
    train: TokenSource,
    val: TokenSource,
    tokenizer: Tokenizer,
    run: RunConfig,
    train_ratio: float,
) -> Places:
    if isinstance(train, ConversationTokens) and isinstance(val, ConversationTokens):
        return ConversationPlaces(train, val)
    if isinstance(train, TokenShards):
        return ShardPlaces(train, tokenizer)
    options = {"field": run.field, "offline": run.offline, "skip_bad": run.skip_bad}
    documents = list(read_documents(paths, **options))  # type: ignore[arg-type]
    return TextPlaces(
        documents=documents, train=train, val=val, tokenizer=tokenizer, ratio=train_ratio
    )


def _in_parts(parts: Sequence[_Part], name: str | None, search: _Search) -> Found:
    """Ce qu'une seule source a de ce nom ; « SOURCE/NOM » la désigne."""
    found = list[tuple[str, Found]]()
    for part in parts:
        own = name
        if name is not None and part.name and name.startswith(f"{part.name}/"):
            own = name.removeprefix(f"{part.name}/")
        places = search(part.places, own)
        if places is not None:
            found.append((part.name, part.shifted(places)))
    if len(found) > 1:
        names = ", ".join(each for each, _ in found)
        raise DataError(
            f"{name or 'ces lignes'} : plusieurs sources en ont ({names})",
            expected="une seule source",
            remedy="nommez-la, SOURCE/NOM, par `document`",
        )
    if not found:
        known = [each for part in parts for each in part.places.names]
        shown = ", ".join([*known[:MAX_SHOWN], *(["…"] if len(known) > MAX_SHOWN else [])])
        near = (nearest(name or "", known) or "").replace("`", "")
        raise DataError(
            f"aucun document {name!r} dans ces données",
            expected=shown or "le rang d'un document : des fragments ne gardent pas leurs noms",
            remedy=near or "corrigez `document`, ou donnez son texte par `text`",
        )
    return found[0][1]


def _of_text(path: str, data: TrainingData, parts: Sequence[_Part]) -> Found:
    """Chaque place où le texte d'un fichier se lit, blancs de bord exceptés.

    Un texte suivi est coupé en deux parts : ce qui est à cheval est cherché à part.
    """
    train, val = list[Span](), list[Span]()
    for each in read_documents([path], offline=True):
        text = each.text.strip()
        here = [list(occurrences(s, data.tokenizer, text)) for s in (data.train, data.val)]
        for part in parts:
            if isinstance(part.places, TextPlaces):
                across = part.shifted(part.places.across(text))
                here = [[*own, *more] for own, more in zip(here, across, strict=True)]
        if not any(here):
            raise DataError(
                f"le texte de {each.name} n'est pas dans les données de l'entraînement",
                expected="un passage recopié tel quel : casse, signes et blancs compris",
                remedy="corrigez `text`, ou nommez le document",
            )
        train += here[0]
        val += here[1]
    return merged(train), merged(val)


def occurrences(source: TokenSource, tokenizer: Tokenizer, text: str) -> Iterator[Span]:
    """Chaque place d'un texte dans une suite de tokens, chevauchements compris.

    Les octets sont comparés si les tokens en sont ; sinon, les tokens. Un bloc est relu à la fois.

    Args:
        source: la suite.
        tokenizer: celui qui l'a codée.
        text: le texte, non vide.

    Yields:
        Les tokens qui en portent une part, [début, fin[.
    """
    if isinstance(tokenizer, ByteTokenizer):
        pieces = tokenizer.token_bytes()
        wanted = text.encode("utf-8")
        kept = len(wanted) - 1
    else:
        ids = tokenizer.encode(text)
        pieces = [int(each).to_bytes(8, "big") for each in range(tokenizer.vocab_size)]
        wanted, kept = b"".join(pieces[each] for each in ids), 8 * len(ids) - 1
    lengths = np.array([len(each) for each in pieces], dtype=np.int64)
    held, first = np.empty(0, np.int64), 0  # les tokens gardés du bloc d'avant, et le premier
    for start in range(0, source.num_tokens, BLOCK_TOKENS):
        count = min(BLOCK_TOKENS, source.num_tokens - start)
        block = np.concatenate([held, source.read(start, count).numpy()])
        first = start - len(held)
        ends = np.cumsum(lengths[block])
        content = b"".join([pieces[each] for each in block.tolist()])
        at = content.find(wanted)
        while at >= 0:
            if isinstance(tokenizer, ByteTokenizer) or at % 8 == 0:
                low = int(np.searchsorted(ends, at, side="right"))
                high = int(np.searchsorted(ends, at + len(wanted), side="left")) + 1
                yield first + low, first + high
            at = content.find(wanted, at + 1)
        cut = int(np.searchsorted(ends, len(content) - kept, side="right"))
        held = block[cut:] if kept else block[:0]
