"""D'où viennent les mots d'un texte : un index des données d'entraînement, et ce qu'on y trouve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.loading import loaded
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.api.study import read_texts
from gpt_architecture.config import check_int
from gpt_architecture.data.masking import MaskedTokens
from gpt_architecture.data.provenance.build import MEMORY, MIN_MEMORY, build_index
from gpt_architecture.data.provenance.index import TextIndex
from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.layout import holds_shards
from gpt_architecture.data.shards.prepare import write_tokens
from gpt_architecture.data.shards.reader import TokenArray, TokenSource
from gpt_architecture.data.texts.corpus import read_documents
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.provenance import (
    MAX_PASSAGES,
    MAX_PLACES,
    SHORTEST,
    Provenance,
    check_tokenizer,
    find_text,
    trace_sources,
)
from gpt_architecture.french import decimal, french_size, thousands

_MAX_NAMES = 100_000  # documents nommés un à un, dans l'index

if TYPE_CHECKING:
    from gpt_architecture.api.runs import Run


class SourceIndex(TextIndex):
    """Un index des données d'entraînement ; `index_sources` ou `open_index` le rendent."""

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Ce qu'il est, en quelques faits (nom, valeur)."""
        per_token = decimal(self.size / self.num_tokens)
        return [
            ("tokens", thousands(self.num_tokens)),
            ("documents", thousands(self.num_documents)),
            ("taille", f"{french_size(self.size)}, {per_token} octets par token"),
            ("tokenizer", self.tokenizer.name),
        ]

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self.facts)
        return f"SourceIndex({self.folder} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(f"Index des données : {self.folder}", self.facts)


@dataclass(frozen=True, kw_only=True, repr=False)
class Sources(Provenance):
    """D'où viennent les mots d'un texte ; voir `evaluation.provenance.Provenance`."""

    @classmethod
    def of(cls, found: Provenance) -> Sources:
        """Le même, qui sait se montrer."""
        return cls(**vars(found))

    @property
    def verdict(self) -> str:
        """La réponse à « ce texte est-il dans les données ? », en une phrase."""
        from gpt_architecture.reports.provenance import verdict

        return verdict(self)

    def __str__(self) -> str:
        from gpt_architecture.reports.provenance import provenance_lines

        return "\n".join(provenance_lines(self))

    def __repr__(self) -> str:
        return f"Sources({self.verdict})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell
        from gpt_architecture.reports.provenance import chance_line, heading_of

        facts = [(heading_of(each, self), each.text) for each in self.passages]
        return facts_cell("D'où viennent ces mots", facts, notes=[chance_line(self)])


def open_index(folder: SourceIndex | Path | str, tokenizer: Tokenizer | None = None) -> SourceIndex:
    """Ouvre l'index d'un dossier de fragments.

    Args:
        folder: le dossier, ou un index déjà ouvert.
        tokenizer: celui du modèle, qui doit être celui de l'index ; None : n'importe lequel.

    Raises:
        ConfigurationError: leurs tokenizers diffèrent.
        DataError: il n'y a pas d'index, ou il ne convient pas.

    Examples:
        >>> from gpt_architecture import index_sources, open_index
        >>> _ = index_sources("donnees", "texte.txt", model="modele")
        >>> open_index("donnees").num_documents
        1
    """
    found = folder if isinstance(folder, SourceIndex) else SourceIndex(folder)
    if tokenizer is not None:
        check_tokenizer(found, tokenizer)
    return found


@checked_options
def index_sources(
    folder: Path | str,
    data: str | Path | Sequence[str | Path] = (),
    *,
    model: GPT | Run | Path | str | None = None,
    memory: int = MEMORY,
    field: str | None = None,
    offline: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> SourceIndex:
    """Construit l'index des données d'un entraînement, comme `gpt-architecture evaluate --index`.

    Interrompue, une construction reprend quand on la redemande. Un index déjà là, s'il est celui
    de ce texte, est rendu tel quel.

    Args:
        folder: un dossier de fragments, où l'index est écrit ; ou un dossier à faire de `data`.
        data: les données de l'entraînement, quand elles ne sont pas des fragments ; le dossier en
            garde les tokens, coupés comme l'entraînement les a coupés.
        model: le modèle, dont le tokenizer code `data` ; None : gpt-model.pt, ici.
        memory: octets que le rangement peut prendre.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        offline: interdit tout téléchargement.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.
        force: refait un index, même s'il est celui de ce texte, ou s'il est abîmé.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: ni fragments ni données, ou mémoire trop petite.
        DataError: données absentes ou abîmées, ou index d'un autre texte.
        OutputError: le disque refuse.

    Examples:
        >>> from gpt_architecture import index_sources
        >>> found = index_sources("donnees", "texte.txt", model="modele")
        >>> found.num_tokens > 100, found.size / found.num_tokens < 6
        (True, True)
    """
    from gpt_architecture.reports.console import PaceProgress, ProgressBar

    folder, given = Path(folder), listed(data)
    check_int("`memory`", memory, minimum=MIN_MEMORY)
    if given:
        gpt = loaded(model, engine="torch")
        reading: dict[str, Any] = {"field": field, "offline": offline, "skip_bad": skip_bad}
        train, val = read_texts(gpt, given, None, setting="data", **reading)
        assert train is not None  # noqa: S101 — des données sont données
        name = Path(given[0]).name if len(given) == 1 else f"{len(given)} sources"
        names = _document_names(given, **reading)
        if isinstance(train, MaskedTokens):
            train, names = _without_hidden(train, names, gpt.tokenizer)
        if isinstance(val, MaskedTokens):
            val, _ = _without_hidden(val, [], gpt.tokenizer)
        write_tokens(*(folder, train, val, gpt.tokenizer), name=name, documents=names, force=force)
    elif not holds_shards(folder):
        raise ConfigurationError(
            f"{folder} n'a pas de fragments de tokens",
            expected="un dossier écrit par « gpt-architecture prepare », ou des données à indexer",
            remedy="corrigez ce dossier, ou donnez les données de l'entraînement",
        )
    with ProgressBar("Index", width=40, shown=progress) as bar:
        advance = PaceProgress(bar, "rangement", heading="Index")
        build_index(folder, memory=memory, force=force, on_progress=advance)
    return SourceIndex(folder)


def _document_names(sources: Sequence[str], **reading: Any) -> list[str]:
    """Le nom de chaque document, celui qu'un oubli attend ; de trop nombreux, celui du fichier.

    Des fragments n'ont plus de noms.
    """
    if len(sources) == 1 and holds_shards(Path(sources[0])):
        return []
    documents = list(read_documents(sources, **reading))
    is_short = len(documents) <= _MAX_NAMES
    return [each.name if is_short else each.origin for each in documents]


def _without_hidden(
    masked: MaskedTokens, names: Sequence[str], tokenizer: Tokenizer
) -> tuple[TokenSource, list[str]]:
    """Une suite de tokens sans ce qui en est retiré, qu'un séparateur remplace, et ses noms.

    De part et d'autre d'un retrait, deux documents : aucun passage ne l'enjambe.
    """
    ids = masked.source.read(0, masked.num_tokens).numpy()
    separator = separator_of(tokenizer)
    hidden = masked.hidden(0, masked.num_tokens).numpy()
    owners = np.cumsum(ids == separator)  # rang du document de chaque token
    kept = ~hidden
    kept[[start for start, _ in masked.spans]] = True
    ids = np.where(hidden, separator, ids)[kept]
    owners = owners[kept]
    opened = np.flatnonzero(ids == separator)
    first = [] if len(ids) and ids[0] == separator else [0]
    ranks = [*first, *owners[np.minimum(opened + 1, len(ids) - 1)].tolist()]
    return TokenArray(ids), [names[rank] for rank in ranks] if names else []


@checked_options
def provenance(
    text: str | Sequence[int],
    index: SourceIndex | Path | str,
    *,
    shortest: int = SHORTEST,
    passages: int = MAX_PASSAGES,
    places: int = MAX_PLACES,
) -> Sources:
    """D'où viennent les mots d'un texte : ses passages mot pour mot, leurs documents, le hasard.

    Args:
        text: le texte, ou ses identifiants, tels que le modèle les a écrits.
        index: l'index des données d'entraînement, ou son dossier.
        shortest: longueur, en tokens, du plus court passage montré.
        passages: passages montrés, au plus, les plus longs d'abord.
        places: occurrences montrées de chacun, au plus.

    Raises:
        ConfigurationError: réglage hors bornes, ou texte trop long.
        DataError: il n'y a pas d'index, ou il ne convient pas.

    Examples:
        >>> from gpt_architecture import index_sources, provenance
        >>> index = index_sources("donnees", "texte.txt", model="modele")
        >>> words = index.tokenizer.decode(index.tokens.read(0, 30).tolist())
        >>> found = provenance(words, index)
        >>> found.longest >= 30, found.passages[0].occurrences >= 1
        (True, True)
    """
    opened = open_index(index)
    ids = opened.tokenizer.encode(text) if isinstance(text, str) else list(text)
    settings = {"shortest": shortest, "passages": passages, "places": places}
    return Sources.of(trace_sources(opened, ids, **settings))


@checked_options
def find_in_sources(
    text: str, index: SourceIndex | Path | str, *, progress: bool | None = None
) -> Sources:
    """Ce texte est-il dans les données d'entraînement ? Comme `gpt-architecture evaluate --find`.

    Les fragments et l'index sont d'abord relus en entier, et leurs empreintes comparées : la
    réponse vaut pour ces octets-là.

    Args:
        text: le texte.
        index: l'index des données d'entraînement, ou son dossier.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: texte trop long.
        DataError: texte vide ; pas d'index, ou il ne convient pas.

    Examples:
        >>> from gpt_architecture import find_in_sources, index_sources
        >>> index = index_sources("donnees", "texte.txt", model="modele")
        >>> words = index.tokenizer.decode(index.tokens.read(5, 40).tolist())
        >>> find_in_sources(words, index).is_whole
        True
    """
    opened = open_index(index)
    opened.verify()
    return Sources.of(find_text(opened, text))
