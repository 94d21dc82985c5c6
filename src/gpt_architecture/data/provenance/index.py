"""L'index d'un texte d'entraînement, ouvert : chercher un passage, situer ses occurrences.

L'index est dans le dossier des fragments, et ne recopie aucun token. Chaque bloc se cherche à part,
par dichotomie ; un passage à cheval sur deux blocs est cherché à leur frontière. La recherche est
exacte : elle trouve ce que trouverait la comparaison à toutes les places.

Formes : M tokens du texte cherché.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from gpt_architecture.config import check_int
from gpt_architecture.data.datasets import stored_tokenizer
from gpt_architecture.data.provenance.chance import Chance
from gpt_architecture.data.provenance.suffixes import (
    MAX_BLOCK_TOKENS,
    PLACE_BYTES,
    Block,
    Integers,
    blocks_of,
    common_end,
    common_start,
    place_at,
    raw_tokens,
)
from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.layout import (
    HEADER_BYTES,
    MAX_VOCABULARY,
    PROVENANCE_NAME,
    TOKEN_DTYPE,
    file_sha256,
    read_index,
    tokenizer_sha256,
)
from gpt_architecture.data.shards.reader import TokenShards, open_shards
from gpt_architecture.errors import DataError, GPTArchitectureError, on_one_line, reason
from gpt_architecture.storage import check_regular, read_json_object

FORMAT = "gpt-architecture/provenance"
VERSION = 1

STRETCH_TOKENS = 1 << 16
"""Tokens entre deux comptes des séparateurs : un document se situe en lisant un tel morceau."""

_MAX_JSON_BYTES = 64 << 20
_MAX_OPEN_MAPS = 256  # une projection garde un descripteur
_NEAR_BYTES = 128  # comparés d'abord : peu de passages sont plus longs
_TOKEN_BYTES = TOKEN_DTYPE.itemsize
REBUILD = "refaites l'index : « gpt-architecture evaluate --index DOSSIER --force »"


def identity_of(tokens: TokenShards, block_tokens: int) -> dict[str, Any]:
    """Ce dont l'index dépend : le texte, son tokenizer, et la taille des blocs."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "text_sha256": tokens.sha256,
        "tokenizer_sha256": tokenizer_sha256(stored_tokenizer(tokens.path).to_dict()),
        "tokens": tokens.num_tokens,
        "block_tokens": block_tokens,
    }


def read_description(folder: Path | str) -> dict[str, Any]:
    """La description d'un index, vérifiée en surface.

    Raises:
        DataError: elle est absente, illisible, ou d'une autre version.
    """
    path = Path(folder) / PROVENANCE_NAME
    if not path.exists():
        raise DataError(
            f"{folder} n'a pas d'index du texte d'entraînement ({PROVENANCE_NAME})",
            expected="un dossier de fragments, et son index",
            remedy="construisez-le : « gpt-architecture evaluate --index DOSSIER »",
        )
    expected = f"un index {FORMAT} en version {VERSION}"
    found = read_json_object(
        path, _MAX_JSON_BYTES, error=DataError, expected=expected, remedy=REBUILD
    )
    if found.get("format") != FORMAT:
        raise DataError.unreadable(path, "autre format", expected=expected, remedy=REBUILD)
    if found.get("version") != VERSION:
        raise DataError.other_version(path, found.get("version"), expected=expected)
    return found


def unseen_part(folder: Path | str, vocab_size: int) -> TokenShards | None:
    """La part de validation d'un dossier de fragments ; None : il n'y en a pas."""
    try:
        return open_shards(folder, "val", vocab_size=vocab_size)
    except DataError:
        return None


class TextIndex:
    """Un index ouvert, en lecture seule ; rien n'est chargé d'avance.

    Args:
        folder: dossier des fragments, où est l'index.
        description: celle de l'index, quand elle n'est pas encore écrite ; None : la sienne.

    Attributes:
        folder: ce dossier.
        tokens: la part d'entraînement.
        tokenizer: celui qui l'a codée.
        chance: ce que le hasard donne.

    Raises:
        DataError: index absent, tronqué, d'un autre texte, d'un autre tokenizer ou d'une autre
            version ; ou fragments abîmés.
    """

    def __init__(self, folder: Path | str, description: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        found = read_description(self.folder) if description is None else description
        self.tokenizer = stored_tokenizer(self.folder)
        self.tokens = open_shards(self.folder, "train", vocab_size=self.tokenizer.vocab_size)
        self._separator = separator_of(self.tokenizer)
        # Le premier document n'a pas toujours le séparateur qui commence les autres
        self._unopened = int(self.tokens.read(0, 1).item() != self._separator)
        try:
            size = int(found["block_tokens"])
            check_int("block_tokens", size, minimum=1, maximum=MAX_BLOCK_TOKENS)
            self.chance = Chance.from_dict(found["chance"])
            self._hashes = [str(each) for each in found["blocks"]]
            self._counts = [int(each) for each in found["separators"]]
        except (KeyError, TypeError, ValueError, GPTArchitectureError):
            raise self._wrong("sa description est incomplète") from None
        for name, value in identity_of(self.tokens, size).items():
            if found.get(name) != value:
                what = _CHANGED.get(name, name)
                raise self._wrong(f"{what} a changé depuis")
        self._blocks = blocks_of(self.tokens, size)
        self._orders = [self.folder / block.name for block in self._blocks]
        stretches = -(-self.tokens.num_tokens // STRETCH_TOKENS)
        if len(self._hashes) != len(self._blocks) or len(self._counts) != stretches + 1:
            raise self._wrong("sa description est incomplète")
        for block in self._blocks:
            self._check_size(block)
        self._maps: dict[Path, mmap.mmap] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens indexés."""
        return self.tokens.num_tokens

    @property
    def num_documents(self) -> int:
        """Documents indexés."""
        return self._counts[-1] + self._unopened

    @property
    def size(self) -> int:
        """Octets de l'index sur disque, sans les tokens."""
        return sum(path.stat().st_size for path in (self.folder / PROVENANCE_NAME, *self._orders))

    @cached_property
    def unseen(self) -> TokenShards | None:
        """La part de validation, que l'entraînement n'apprend pas ; None : il n'y en a pas."""
        return unseen_part(self.folder, self.tokenizer.vocab_size)

    def verify(self) -> None:
        """Relit les fragments et l'index, et compare leurs empreintes.

        Raises:
            DataError: un fichier a changé ; il est nommé.
        """
        for part in (self.tokens, self.unseen):
            if part is not None:
                part.verify()
        for block, digest in zip(self._blocks, self._hashes, strict=True):
            if file_sha256(self._orders[block.number]) != digest:
                raise self._wrong(f"le contenu de {block.name} a changé")

    def lengths(self, text: Sequence[int]) -> list[int]:
        """Longueur de la plus longue suite du corpus qui commence à chaque place du texte, (M,).

        Aucune n'enjambe un séparateur de documents ; 0 : ce token n'est nulle part.
        """
        found = [0] * len(text)
        for first, piece in self.pieces(text):
            ends = self._ends(piece)
            found[first : first + len(piece)] = [max(0, end - i) for i, end in enumerate(ends)]
        return found

    def find(self, passage: Sequence[int], limit: int) -> tuple[int, list[int]]:
        """Le nombre d'occurrences d'un passage, et les places des premières trouvées.

        Args:
            passage: ses tokens, au moins un, sans séparateur.
            limit: occurrences situées, au plus.

        Returns:
            (occurrences, places du premier token dans la part, croissantes).
        """
        raw = raw_tokens(passage)
        count, places = 0, list[int]()
        for block in self._blocks:
            head = self._heads(block, len(raw))
            ranks = range(block.tokens)
            low = bisect_left(ranks, raw, key=head)
            high = bisect_right(ranks, raw, lo=low, key=head)
            count += high - low
            taken = range(low, min(high, low + limit))
            order = self._map(self._orders[block.number])
            places += [block.place + place_at(order, rank) for rank in taken]
        astride = set[int]()
        piece = np.asarray(passage, dtype=np.int64)
        for border, split, left, right in self._crossings(piece):
            if left == split and right == len(piece) - split:
                astride.add(border - split)
        return count + len(astride), sorted([*places, *astride])[:limit]

    def document(self, place: int) -> tuple[int, int]:
        """Le document d'une place : son numéro, à partir de 1, et la place de son premier token."""
        stretch = place // STRETCH_TOKENS
        start = stretch * STRETCH_TOKENS
        inside = self._separators(start, place + 1 - start)
        count = self._counts[stretch] + len(inside)
        if not count:
            return 1, 0
        if not len(inside):  # il a commencé dans un morceau d'avant
            start = (bisect_left(self._counts, count) - 1) * STRETCH_TOKENS
            inside = self._separators(start, STRETCH_TOKENS)
        return count + self._unopened, start + int(inside[-1]) + 1

    def name_of(self, document: int) -> str | None:
        """La source d'un document, par son numéro ; None : les fragments ne la disent pas."""
        last, names = self._origins
        rank = bisect_left(last, document)
        return names[rank] if rank < len(names) else None

    def around(self, place: int, length: int, width: int) -> tuple[list[int], list[int], list[int]]:
        """Un passage et ce qui l'entoure dans son document.

        Args:
            place: son premier token.
            length: ses tokens.
            width: tokens rendus de part et d'autre, au plus.

        Returns:
            (avant, passage, après), en identifiants.
        """
        first = max(0, place - width)
        last = min(self.num_tokens, place + length + width)
        ids = self.tokens.read(first, last - first).tolist()
        before, passage = ids[: place - first], ids[place - first : place - first + length]
        after = ids[place - first + length :]
        if self._separator in before:
            before = before[len(before) - before[::-1].index(self._separator) :]
        if self._separator in after:
            after = after[: after.index(self._separator)]
        return before, passage, after

    @cached_property
    def _origins(self) -> tuple[list[int], list[str]]:
        """Le dernier document de chaque source, et son nom."""
        if self.tokens.tokenizer is None:  # des fragments sans index
            return [], []
        runs = read_index(self.folder).get("origins", [])
        try:
            return list(accumulate(int(count) for _, count in runs)), [
                on_one_line(str(n)) for n, _ in runs
            ]
        except (TypeError, ValueError):
            return [], []

    def pieces(self, text: Sequence[int]) -> Iterator[tuple[int, Integers]]:
        """Le texte, coupé aux séparateurs et à ce qu'aucun fragment ne peut contenir."""
        ids = np.asarray(text, dtype=np.int64)
        stops = np.flatnonzero((ids == self._separator) | (ids < 0) | (ids >= MAX_VOCABULARY))
        for before, after in pairwise([-1, *stops.tolist(), len(ids)]):
            if after > before + 1:
                yield before + 1, ids[before + 1 : after]

    def _ends(self, piece: Integers) -> list[int]:
        """Où finit la plus longue suite commune qui commence à chaque place, ou avant elle."""
        raw = raw_tokens(piece)
        ends = [
            start + max(self._longest(block, raw, start) for block in self._blocks)
            for start in range(len(piece))
        ]
        for _, split, left, right in self._crossings(piece):
            ends[split - left] = max(ends[split - left], split + right)
        for place in range(1, len(ends)):  # ce qui est dans une suite commune en est une
            ends[place] = max(ends[place], ends[place - 1])
        return ends

    def _longest(self, block: Block, raw: bytes, start: int) -> int:
        """Tokens de la plus longue suite de ce bloc qui commence à cette place du texte."""
        first = start * _TOKEN_BYTES
        best = 0
        for room in (_NEAR_BYTES, len(raw)):
            wanted = raw[first : first + room]
            head = self._heads(block, len(wanted))
            rank = bisect_left(range(block.tokens), wanted, key=head)
            near = range(max(0, rank - 1), min(block.tokens, rank + 1))
            best = max(common_start(wanted, head(each)) for each in near)
            if best < len(wanted) or first + room >= len(raw):
                break
        return best // _TOKEN_BYTES

    def _crossings(self, piece: Integers) -> Iterator[tuple[int, int, int, int]]:
        """Les suites communes à cheval sur deux blocs.

        Yields:
            (place de la frontière, rang du texte qui y tombe, tokens communs avant, après).
        """
        size = len(piece)
        raw = raw_tokens(piece)
        for block in self._blocks[1:]:
            border = block.place
            first = max(0, border - size)
            around = self.tokens.read(first, min(border + size, self.num_tokens) - first).numpy()
            middle = border - first
            fits = (piece[:-1] == around[middle - 1]) & (piece[1:] == around[middle])
            splits = (np.flatnonzero(fits) + 1).tolist()
            if not splits:
                continue
            before, after = raw_tokens(around[:middle]), raw_tokens(around[middle:])
            for split in splits:
                cut = split * _TOKEN_BYTES
                left = common_end(raw[:cut], before) // _TOKEN_BYTES
                yield border, split, left, common_start(raw[cut:], after) // _TOKEN_BYTES

    def _separators(self, start: int, length: int) -> Integers:
        """Où sont les séparateurs d'un morceau, de `length` tokens au plus."""
        length = min(length, self.num_tokens - start)
        found: Integers = np.flatnonzero(self.tokens.read(start, length).numpy() == self._separator)
        return found

    def _heads(self, block: Block, length: int) -> Callable[[int], bytes]:
        """Ce qui rend, d'un rang, les premiers octets du suffixe, sans dépasser le bloc."""
        tokens, order = self._map(block.path), self._map(self._orders[block.number])
        base = HEADER_BYTES + block.start * _TOKEN_BYTES
        end = base + block.tokens * _TOKEN_BYTES

        def head(rank: int) -> bytes:
            first = base + place_at(order, rank) * _TOKEN_BYTES
            last = first + length
            return tokens[first : last if last < end else end]

        return head

    def _map(self, path: Path) -> mmap.mmap:
        found = self._maps.get(path)
        if found is None:
            if len(self._maps) >= _MAX_OPEN_MAPS:
                self._maps.clear()
            try:
                check_regular(path)
                with path.open("rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise self._wrong(f"{path.name} : {reason(error)}") from None
            self._maps[path] = found
        return found

    def _check_size(self, block: Block) -> None:
        path, wanted = self._orders[block.number], block.tokens * PLACE_BYTES
        try:
            check_regular(path)
            size = path.stat().st_size
        except OSError as error:
            raise self._wrong(f"{path.name} : {reason(error)}") from None
        if size != wanted:
            raise self._wrong(f"{path.name} a {size} octets au lieu de {wanted}")

    def _wrong(self, found: str) -> DataError:
        return DataError(
            f"l'index de {self.folder} ne convient pas : {found}",
            expected="l'index entier de ce texte, celui de ces fragments",
            remedy=REBUILD,
        )


_CHANGED: Mapping[str, str] = {
    "text_sha256": "le texte",
    "tokens": "le texte",
    "tokenizer_sha256": "le tokenizer",
}
