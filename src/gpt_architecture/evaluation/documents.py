"""Les textes à mesurer : fichiers, lignes JSONL, rangées Parquet, fragments, corpus connus.

Un texte où `<|endoftext|>` est écrit fait plusieurs documents. Rien n'est écarté en silence :
une ligne ou un fichier qui ne convient pas arrête la lecture et est nommé.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.corpus import CORPUS_NAMES, load_corpus
from gpt_architecture.data.documents import (
    EMPTY,
    UNREADABLE,
    Rejected,
    Skip,
    clean_bytes,
    json_field,
    short_runs,
)
from gpt_architecture.data.ingest import Source, find_sources, read_blocks
from gpt_architecture.data.shard_layout import INDEX_NAME
from gpt_architecture.data.shards import open_shards
from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.perplexity import TokenDocument

_MAX_RECORD_BYTES = 32 << 20
_READ_TOKENS = 1 << 20


def read_documents(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    *,
    field: str = "text",
    limit: int | None = None,
    max_tokens: int | None = None,
    offline: bool = False,
) -> list[TokenDocument]:
    """Lit et code tous les documents.

    Args:
        sources: fichiers (.txt, .md, .jsonl, .jsonl.gz, .parquet), dossiers, dossiers de
            fragments (leur part de validation), ou noms de corpus.
        tokenizer: celui du modèle.
        field: champ du texte, en JSONL et en Parquet.
        limit: documents gardés, les premiers ; None : tous.
        max_tokens: tokens gardés de chacun, les premiers ; None : tous.
        offline: interdit de télécharger un corpus connu par son nom.

    Raises:
        DataError: source absente, illisible ou vide, ligne qui ne convient pas (elle est nommée),
            ou fragments d'un autre tokenizer.
    """
    reader = _Reader(tokenizer, field=field, max_tokens=max_tokens, offline=offline)
    found = (document for source in sources for document in reader.documents(source))
    return list(islice(found, limit))


class _Reader:
    """Lit et code des sources ; voir `read_documents` pour ses réglages."""

    def __init__(
        self, tokenizer: Tokenizer, *, field: str, max_tokens: int | None, offline: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._field = field
        self._max_tokens = max_tokens
        self._offline = offline

    def documents(self, source: str) -> Iterator[TokenDocument]:
        """Les documents d'une source."""
        path = Path(source)
        if path.is_dir() and ((path / INDEX_NAME).is_file() or any(path.glob("*.bin"))):
            yield from self._from_shards(path)
            return
        for name, text in self._texts(path, source):
            parts = [part for part in text.split(END_OF_TEXT) if part.strip()]
            for number, part in enumerate(parts, start=1):
                label = f"{name}#{number}" if len(parts) > 1 else name
                ids = [i for run in short_runs(part) for i in self._tokenizer.encode(run)]
                yield self._document(label, ids, len(part.encode("utf-8")))

    def _texts(self, path: Path, source: str) -> Iterator[tuple[str, str]]:
        """(Nom, texte) de chaque enregistrement ; une ligne blanche n'en est pas un."""
        if source in CORPUS_NAMES and not path.exists():
            corpus = load_corpus([source], offline=self._offline)
            yield corpus.name, corpus.text
            return
        files, skips = find_sources([source])
        _check_skips(each for each in skips if each.reason == UNREADABLE)
        for file in files:
            try:
                yield from self._records(file)
            except Rejected as rejected:
                raise _refusal(str(file.path), rejected.reason, rejected.detail) from None

    def _records(self, source: Source) -> Iterator[tuple[str, str]]:
        blocks = read_blocks(source, field=self._field, max_record_bytes=_MAX_RECORD_BYTES)
        for block in blocks:
            _check_skips(each for each in block.skips if each.reason != EMPTY)
            for number, data in block.records:
                try:
                    text = json_field(data, self._field) if block.is_json else clean_bytes(data)
                except Rejected as rejected:
                    where = f"{source.path}, ligne {number}" if number else str(source.path)
                    raise _refusal(where, rejected.reason, rejected.detail) from None
                yield f"{source.path.name}:{number}" if number else source.path.name, text

    def _from_shards(self, path: Path) -> Iterator[TokenDocument]:
        """Les documents de la part de validation, séparés par la fin de texte."""
        tokenizer = self._tokenizer
        shards = open_shards(path, "val", vocab_size=tokenizer.vocab_size)
        if shards.tokenizer is not None and shards.tokenizer != tokenizer.to_dict():
            raise DataError(
                f"{path} est codé avec un autre tokenizer ({shards.tokenizer.get('name')!r})",
                expected=f"celui du modèle ({tokenizer.name!r})",
                remedy="préparez ces textes avec le tokenizer du modèle, ou donnez-les eux-mêmes",
            )
        number, pending = 1, list[int]()
        for start in range(0, shards.num_tokens, _READ_TOKENS):
            length = min(_READ_TOKENS, shards.num_tokens - start)
            for token in shards.read(start, length).tolist():
                if token != tokenizer.eos_id:
                    pending.append(token)
                elif pending:
                    yield self._document(f"{path.name}#{number}", pending)
                    number, pending = number + 1, []
        if pending:
            yield self._document(f"{path.name}#{number}", pending)

    def _document(self, name: str, ids: list[int], num_bytes: int | None = None) -> TokenDocument:
        """Un document, tronqué au besoin ; `num_bytes` est la taille de tout son texte."""
        kept = ids if self._max_tokens is None else ids[: self._max_tokens]
        return TokenDocument(
            name=name,
            tokens=kept,
            num_bytes=self._bytes(kept) if num_bytes is None or len(kept) < len(ids) else num_bytes,
            first_bytes=self._bytes(kept[:1]),
        )

    def _bytes(self, ids: Sequence[int]) -> int:
        """Octets que codent ces tokens."""
        if isinstance(self._tokenizer, ByteTokenizer):
            return sum(self._token_lengths[token] for token in ids)
        return len(self._tokenizer.decode(ids).encode("utf-8"))

    @cached_property
    def _token_lengths(self) -> list[int]:
        assert isinstance(self._tokenizer, ByteTokenizer)  # noqa: S101 — `_bytes` l'a vérifié
        return [len(each) for each in self._tokenizer.token_bytes()]


def _check_skips(skips: Iterable[Skip]) -> None:
    for skip in skips:
        raise _refusal(skip.where, skip.reason)


def _refusal(where: str, reason: str, detail: str = "") -> DataError:
    return DataError(
        f"{where} : {reason}{f' ({detail})' if detail else ''}",
        expected="du texte UTF-8, ou un objet JSON par ligne avec un champ de texte",
        remedy="corrigez ce fichier, ou nommez son champ avec `field`",
    )
