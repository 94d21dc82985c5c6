"""La première passe : chaque document seul, nettoyé ou écarté, et ses empreintes.

Une tâche est une fonction pure de quelques documents bruts. Ce qu'elle rend suffit aux décisions
d'ensemble, qui ne relisent pas les textes.

Formes : D documents gardés de la tâche, L lignes, P paragraphes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpt_architecture.data.hygiene.batch import MAX_CHARACTERS, Batch, Hashes, hash_bytes
from gpt_architecture.data.hygiene.characters import Characters, clean_characters
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.effects import CHARACTERS, DOCUMENTS, PASSAGES, Effects
from gpt_architecture.data.hygiene.language import LANGUAGE, UNKNOWN, languages_of
from gpt_architecture.data.hygiene.minhash import BANDS, PERMUTATIONS, signatures_of
from gpt_architecture.data.hygiene.personal import mask_personal
from gpt_architecture.data.hygiene.quality import FunctionWords, check_quality, features_of
from gpt_architecture.data.texts.documents import (
    EMPTY,
    SPLITS,
    Rejected,
    Skip,
    documents_in,
    last_boundary,
    split_of,
)
from gpt_architecture.data.texts.ingest import RecordBlock

PERSONAL = "données personnelles"
MASKED = "masqué"
CONTROLS = "caractères de contrôle"
INVISIBLE = "caractères de largeur nulle"
MARKS = "accents empilés"
RECOMPOSED = "forme normale NFC"

MAX_DOCUMENT = MAX_CHARACTERS // 2
"""Caractères d'un document ; un plus long est coupé en plusieurs, à une fin de paragraphe."""
_GROUP = 1 << 18  # caractères traités ensemble : leurs tableaux tiennent dans le cache

Located = tuple[str, str]
"""Un document et sa place, pour les exemples : (« notes.jsonl:12 », texte)."""


@dataclass(frozen=True, kw_only=True)
class RawBlock:
    """Des documents bruts d'une source.

    Attributes:
        records: un bloc de la source, si elle se lit par enregistrements.
        documents: ou des documents d'un long fichier.
        skips: ce que la lecture a écarté.
        consumed: octets de la source lus.
        separated: de ces documents, ceux qui suivent un `<|endoftext|>` écrit dans le texte.
    """

    records: RecordBlock | None = None
    documents: list[Located] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    consumed: int = 0
    separated: int = 0

    @property
    def size(self) -> int:
        """Octets ou caractères bruts."""
        records = () if self.records is None else self.records.records
        read = sum(len(each) for _, each in records)
        return read + sum(len(each) for _, each in self.documents)


@dataclass(frozen=True, kw_only=True)
class CleanBlock:
    """Ce que la première passe fait d'une tâche.

    Attributes:
        documents: les documents gardés.
        arrays: leurs empreintes, voir `fingerprints`.
        effects: ce qui a été retiré, tel que `Effects.to_dict` le rend.
        languages: langue → [documents, octets], avant tout retrait.
        read: documents lus, et leurs octets UTF-8.
        separated: documents qui suivent un `<|endoftext|>` écrit dans leur texte.
        skips: enregistrements que la lecture a écartés.
    """

    documents: list[Located]
    arrays: dict[str, NDArray[np.generic]]
    effects: dict[str, dict[str, object]]
    languages: dict[str, list[int]]
    read: tuple[int, int]
    separated: int
    skips: list[Skip]


def check_dependencies(config: HygieneConfig) -> None:
    """Vérifie, avant tout travail, les bibliothèques facultatives de ces étapes.

    Raises:
        MissingDependencyError: l'une manque.
    """
    probe = Batch(["un essai"])
    if config.languages:
        languages_of(["un essai"], probe, FunctionWords.of(probe))
    if config.near:
        signatures_of(probe)


class Cleaner:
    """La première passe ; sans état d'une tâche à l'autre.

    Args:
        config: les étapes.
        text_field: champ ou colonne du texte ; None : celui dont le nom est évident.
        seed: graine de la répartition.
        val_fraction: part de la validation.
    """

    def __init__(
        self, config: HygieneConfig, *, text_field: str | None, seed: int, val_fraction: float
    ) -> None:
        self._config, self._field = config, text_field
        self._seed, self._val_fraction = seed, val_fraction

    def __call__(self, blocks: Sequence[RawBlock]) -> CleanBlock:
        """Nettoie une tâche."""
        documents, skips, separated = list[Located](), list[Skip](), 0
        for block in blocks:
            found, left_out, more = self._documents(block)
            documents += found
            skips += left_out
            separated += more
        effects, languages = Effects(), dict[str, list[int]]()
        kept: list[Located] = []
        arrays: list[dict[str, NDArray[np.generic]]] = []
        size = 0
        for group in _grouped(documents):
            size += sum(len(text.encode("utf-8")) for _, text in group)
            left, prints = self._clean(group, effects, languages)
            kept += left
            arrays.append(prints)
        return CleanBlock(
            documents=kept,
            arrays={**joined(arrays or [self._clean([], effects, languages)[1]]), **_places(kept)},
            effects=effects.to_dict(),
            languages=languages,
            read=(len(documents), size),
            separated=separated,
            skips=skips,
        )

    def _documents(self, block: RawBlock) -> tuple[list[Located], list[Skip], int]:
        skips, separated = list(block.skips), 0
        if block.records is None:
            return block.documents, skips, block.separated
        found: list[Located] = []
        skips += block.records.skips
        for number, record in block.records.records:
            place = block.records.place(number)
            try:
                parts = documents_in(block.records.text_of(record, self._field))
            except Rejected as rejected:
                skips.append(Skip.of(rejected, place))
                continue
            separated += len(parts) - 1
            for rank, text in parts:
                where = f"{place}#{rank + 1}" if rank else place
                found += ((where, section) for section in sections([text]))
        return found, skips, separated

    def _clean(
        self, group: list[Located], effects: Effects, languages: dict[str, list[int]]
    ) -> tuple[list[Located], dict[str, NDArray[np.generic]]]:
        config = self._config
        cleaned = [each for located in group for each in self._alone(located, effects)]
        texts = [text for _, text in cleaned]
        batch = Batch(texts)
        function_words = FunctionWords.of(batch)
        verdicts: list[Rejected | None] = [None] * len(texts)
        if config.quality is not None:
            verdicts = check_quality(features_of(batch, function_words), config.quality)
        if config.languages:
            for number, found in enumerate(languages_of(texts, batch, function_words)):
                entry = languages.setdefault(found, [0, 0])
                entry[0] += 1
                entry[1] += len(texts[number].encode("utf-8"))
                if found != UNKNOWN and found not in config.languages:
                    verdicts[number] = Rejected(f"{LANGUAGE} : {found}")
        for (where, text), verdict in zip(cleaned, verdicts, strict=True):
            if verdict is not None:
                effects.add(
                    *(verdict.reason, DOCUMENTS, where, text),
                    detail=verdict.detail,
                    characters=len(text),
                )
        keep = np.array([verdict is None for verdict in verdicts], np.bool_)
        kept = [each for each, wanted in zip(cleaned, keep, strict=True) if wanted]
        return kept, self._fingerprints(texts, batch, keep)

    def _alone(self, located: Located, effects: Effects) -> Iterator[Located]:
        """Le document, caractères et données personnelles nettoyés ; rien s'il est écarté."""
        where, text = located
        config = self._config
        found = clean_characters(text, nfc=config.nfc, controls=config.controls)
        if not found.text.strip():
            effects.add(EMPTY, DOCUMENTS, where, text, characters=len(text))
            return
        text, masked = found.text, dict[str, int]()
        if config.personal != "keep":
            personal = mask_personal(text)
            text, masked = personal.text, personal.found
        _count_characters(found, where, text, effects)  # un exemple ne montre que du texte masqué
        if masked and config.personal == "drop":
            detail = ", ".join(f"{kind} : {count}" for kind, count in masked.items())
            size = len(found.text)
            effects.add(PERSONAL, DOCUMENTS, where, text, detail=detail, characters=size)
            return
        for kind, count in masked.items():
            example = around_mask(text, kind)
            effects.add(f"{kind} {MASKED}", PASSAGES, where, example, count=count)
        yield where, text

    def _fingerprints(
        self, texts: Sequence[str], batch: Batch, keep: NDArray[np.bool_]
    ) -> dict[str, NDArray[np.generic]]:
        """Les empreintes des documents gardés, que `data.hygiene.decide` rassemble.

        Returns:
            `split` (D,) rang de la part ; `exact` (D,) empreinte du texte ; `signature`
            (D, permutations) et `bands` (bandes, D), voir `minhash` ; `lines` (L,) et
            `first_line` (D + 1,) ; `paragraphs` (P,), `spans` (P, 2) lignes, `first_paragraph`
            (D + 1,) ; `ngrams` (M,) et `first_ngram` (D + 1,) suites de mots des seuls documents de
            validation. L'empreinte d'une ligne ou d'un paragraphe trop court pour compter est 0.
        """
        config = self._config
        wanted = np.flatnonzero(keep)
        splits = [
            split_of([texts[n]], seed=self._seed, val_fraction=self._val_fraction)
            for n in wanted.tolist()
        ]
        ranks = np.array([SPLITS.index(split) for split in splits], np.uint8)
        found: dict[str, NDArray[np.generic]] = {
            "split": ranks,
            "exact": _exact(texts, wanted) if config.exact else np.zeros(0, np.uint64),
            "signature": np.zeros((0, PERMUTATIONS), np.uint8),
            "bands": np.zeros((BANDS, 0), np.uint64),
            "lines": np.zeros(0, np.uint64),
            "first_line": np.zeros(wanted.size + 1, np.int64),
            "paragraphs": np.zeros(0, np.uint64),
            "spans": np.zeros((0, 2), np.int64),
            "first_paragraph": np.zeros(wanted.size + 1, np.int64),
            "ngrams": np.zeros(0, np.uint64),
            "first_ngram": np.zeros(wanted.size + 1, np.int64),
        }
        if config.near and wanted.size:
            signature, bands = signatures_of(batch)
            found["signature"], found["bands"] = signature[wanted], bands[:, wanted]
        lines = batch.lines
        if config.lines:
            values = np.where(lines.lengths >= config.min_line, lines.hashes, np.uint64(0))
            mine = keep[lines.owners]
            found["lines"] = values[mine]
            found["first_line"] = _firsts(np.diff(lines.first)[wanted])
        if config.paragraphs:
            hashes, starts, ends = lines.paragraphs()
            owners = lines.owners[starts]
            sizes = lines.ends[ends - 1] - lines.starts[starts]
            mine = keep[owners]
            found["paragraphs"] = np.where(sizes >= config.paragraphs, hashes, np.uint64(0))[mine]
            offsets = lines.first[owners]
            found["spans"] = np.stack([starts - offsets, ends - offsets], axis=1)[mine]
            counts = np.bincount(owners, minlength=batch.size)
            found["first_paragraph"] = _firsts(counts[wanted])
        if config.validation:
            held = np.zeros(batch.size, np.bool_)
            held[wanted] = ranks == SPLITS.index("val")
            if held.any():
                hashes, places = batch.ngrams(config.ngram)
                owners = batch.word_owners[places]
                found["ngrams"] = hashes[held[owners]]
                counts = np.bincount(owners[held[owners]], minlength=batch.size)
                found["first_ngram"] = _firsts(counts[wanted])
        return found


def joined(parts: list[dict[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """Les empreintes de plusieurs groupes de documents, à la suite."""
    found: dict[str, NDArray[np.generic]] = {}
    for name in parts[0] if parts else ():
        arrays = [part[name] for part in parts]
        if name.startswith("first_"):
            found[name] = _firsts(np.concatenate([np.diff(each) for each in arrays]))
        else:
            found[name] = np.concatenate(arrays, axis=1 if name == "bands" else 0)
    return found


def sections(chunks: Iterable[str]) -> Iterator[str]:
    """Un document, ou plusieurs s'il dépasse `MAX_DOCUMENT`, coupé à une fin de paragraphe.

    Args:
        chunks: ses morceaux ; les coupes ne dépendent pas d'eux.
    """
    pending = ""
    for chunk in chunks:
        pending += chunk
        while len(pending) > MAX_DOCUMENT:
            cut = pending.rfind("\n\n", 0, MAX_DOCUMENT) + 2
            if cut < 2:
                cut = pending.rfind("\n", 0, MAX_DOCUMENT) + 1
            cut = cut or last_boundary(pending, MAX_DOCUMENT) or MAX_DOCUMENT
            if pending[:cut].strip():
                yield pending[:cut]
            pending = pending[cut:]
    if pending.strip():
        yield pending


def around_mask(text: str, kind: str, margin: int = 80) -> str:
    """Le texte masqué, autour du premier masque de ce genre."""
    place = text.find(f"[{kind}]")
    return text[max(0, place - margin) : place + margin]


def _count_characters(found: Characters, where: str, text: str, effects: Effects) -> None:
    counts = (
        (CONTROLS, found.controls, text),
        (INVISIBLE, found.invisible, text),
        (MARKS, found.marks, text),
        (RECOMPOSED, found.recomposed, found.example),
    )
    for reason, count, example in counts:
        if count:
            effects.add(reason, CHARACTERS, where, example, count=count, characters=count)


def _places(documents: Sequence[Located]) -> dict[str, NDArray[np.generic]]:
    """Où est chaque document : `places`, des octets UTF-8, et `first_place` (D + 1,)."""
    encoded = [where.encode("utf-8", "backslashreplace") for where, _ in documents]
    return {
        "places": np.frombuffer(b"".join(encoded), np.uint8),
        "first_place": _firsts(np.array([len(each) for each in encoded], np.int64)),
    }


def _exact(texts: Sequence[str], wanted: NDArray[np.int64]) -> Hashes:
    values = [hash_bytes(texts[n].encode("utf-8")) for n in wanted.tolist()]
    return np.array(values, np.uint64)


def _firsts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _grouped(documents: Sequence[Located]) -> Iterator[list[Located]]:
    group, size = list[Located](), 0
    for each in documents:
        if group and size + len(each[1]) > _GROUP:
            yield group
            group, size = [], 0
        group.append(each)
        size += len(each[1]) + 1
    if group:
        yield group
