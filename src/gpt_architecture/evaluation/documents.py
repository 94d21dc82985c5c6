"""Les textes à mesurer : ceux de `data.texts.corpus`, et la part de validation de fragments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from gpt_architecture.data.shards.layout import INDEX_NAME
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts import corpus
from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.perplexity import TokenDocument

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
        read = corpus.read_documents([source], field=self._field, offline=self._offline)
        for each in read:
            ids = self._tokenizer.encode(each.text)
            yield self._document(each.name, ids, len(each.text.encode("utf-8")))

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
