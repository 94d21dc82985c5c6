"""Construire l'index d'un dossier de fragments : par blocs, en mémoire bornée, repris s'il le faut.

Chaque bloc se range seul, et s'écrit en entier ou pas du tout ; `provenance.etat.json` dit lesquels
le sont. Une relance reprend au premier qui manque, et rend les mêmes octets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from gpt_architecture.config import check_int
from gpt_architecture.data.datasets import stored_tokenizer
from gpt_architecture.data.provenance.chance import measure_chance
from gpt_architecture.data.provenance.index import (
    STRETCH_TOKENS,
    TextIndex,
    identity_of,
)
from gpt_architecture.data.provenance.suffixes import (
    MAX_BLOCK_TOKENS,
    Block,
    blocks_of,
    sorted_block,
)
from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.layout import (
    PROVENANCE_NAME,
    PROVENANCE_STATE,
    file_sha256,
)
from gpt_architecture.data.shards.reader import TokenShards, open_shards
from gpt_architecture.data.shards.work import LOCK_NAME
from gpt_architecture.data.shards.workers import run_in_order, usable_cores
from gpt_architecture.data.tokenizers.json_file import write_json
from gpt_architecture.errors import OutputError, reason
from gpt_architecture.storage import read_json, write_atomically

MEMORY = 512 << 20
"""Octets qu'une construction peut prendre, par défaut."""

SORT_BYTES = 72
"""Octets que ranger un bloc demande par token, au plus fort : un seul token répété."""

MIN_MEMORY = 16 << 20
_SHARED_TOKENS = 1 << 20
_MAX_JSON_BYTES = 64 << 20
_SORTED, _CHANCE = 0.9, 0.1  # parts du travail, pour l'avancement

Progress = Callable[[int, int], None]


def build_index(
    folder: Path | str,
    *,
    memory: int = MEMORY,
    workers: int | None = None,
    force: bool = False,
    on_progress: Progress = lambda _done, _total: None,
) -> TextIndex:
    """Construit l'index de la part d'entraînement d'un dossier de fragments, ou finit de le faire.

    Un index déjà là, s'il est celui de ce texte, est rendu tel quel.

    Args:
        folder: le dossier ; l'index y est écrit.
        memory: octets que le rangement peut prendre, tous processus compris ; il décide de la
            taille des blocs, au plus 2²⁴ tokens, et un index à plus grands blocs répond plus vite.
        workers: processus, au plus ; None : autant que la mémoire et les cœurs le permettent. Le
            résultat n'en dépend pas.
        force: refait un index, même s'il est celui de ce texte, ou s'il est abîmé.
        on_progress: reçoit les tokens indexés, et leur nombre.

    Raises:
        ConfigurationError: mémoire trop petite.
        DataError: fragments absents ou abîmés, ou index d'un autre texte.
        OutputError: le disque refuse, ou une autre construction est en cours.
        TokenizerError: vocabulaire sans séparateur.
    """
    folder = Path(folder)
    check_int("memory", memory, minimum=MIN_MEMORY)
    tokenizer = stored_tokenizer(folder)
    tokens = open_shards(folder, "train", vocab_size=tokenizer.vocab_size)
    separator_of(tokenizer)
    if (folder / PROVENANCE_NAME).exists() and not force:
        return TextIndex(folder)
    longest = max(count for _, count in tokens.files)
    block_tokens = min(MAX_BLOCK_TOKENS, memory // SORT_BYTES, longest)
    room = max(1, memory // (SORT_BYTES * block_tokens))
    if workers is None:  # un petit texte se range plus vite que ne se lance un processus
        workers = usable_cores() if tokens.num_tokens >= _SHARED_TOKENS else 1
    workers = min(room, workers)
    try:
        with FileLock(folder / LOCK_NAME, timeout=0):
            _build(tokens, block_tokens, workers, on_progress, force=force)
        (folder / LOCK_NAME).unlink(missing_ok=True)
    except Timeout:
        raise OutputError(
            f"une autre commande écrit dans {folder}",
            expected="une seule à la fois",
            remedy="attendez sa fin",
        ) from None
    except OSError as error:
        raise OutputError(
            f"construction de l'index de {folder} arrêtée : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place puis relancez la même commande, elle reprend",
        ) from error
    return TextIndex(folder)


def _build(
    tokens: TokenShards, block_tokens: int, workers: int, on_progress: Progress, *, force: bool
) -> None:
    folder = tokens.path
    tokens.verify()
    identity = identity_of(tokens, block_tokens)
    hashes = [] if force else _done(folder, identity)
    if not hashes:
        _erase(folder)
        write_json(folder / PROVENANCE_STATE, {**identity, "blocks": []})
    blocks = blocks_of(tokens, block_tokens)
    for old in blocks[len(hashes) :]:
        (folder / old.name).unlink(missing_ok=True)
    total = tokens.num_tokens
    done = sum(block.tokens for block in blocks[: len(hashes)])
    left = ((block, block) for block in blocks[len(hashes) :])
    sort = partial(_sorter, folder)
    for block, digest in run_in_order(left, sort, workers=min(workers, len(blocks))):
        hashes.append(digest)
        write_json(folder / PROVENANCE_STATE, {**identity, "blocks": hashes})
        done += block.tokens
        on_progress(int(_SORTED * done), total)
    separator = separator_of(stored_tokenizer(folder))
    counts = [0]
    for start in range(0, total, STRETCH_TOKENS):
        piece = tokens.read(start, min(STRETCH_TOKENS, total - start)).numpy()
        counts.append(counts[-1] + int(np.count_nonzero(piece == separator)))
    none = {"tokens": total, "lengths": {}, "windows": 0, "entropy": 1.0}
    found = {**identity, "blocks": hashes, "separators": counts, "chance": none}
    # Le hasard se mesure avec l'index lui-même, tant qu'aucun nom ne le dit entier
    index = TextIndex(folder, found)
    chance = measure_chance(
        tokens,
        index.unseen,
        index.lengths,
        lambda each, count: on_progress(int(total * (_SORTED + _CHANCE * each / count)), total),
    )
    write_json(folder / PROVENANCE_NAME, {**found, "chance": chance.to_dict()})
    (folder / PROVENANCE_STATE).unlink(missing_ok=True)
    on_progress(total, total)


def _sorter(folder: Path) -> Callable[[Block], str]:
    return partial(_write_block, folder)


def _write_block(folder: Path, block: Block) -> str:
    """Range un bloc, l'écrit, et rend l'empreinte de son fichier."""
    data = sorted_block(block.path, block.start, block.tokens)
    path = folder / block.name
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return file_sha256(path)


def _done(folder: Path, identity: Mapping[str, Any]) -> list[str]:
    """Les empreintes des blocs qu'une construction interrompue a laissés, s'ils sont les mêmes."""
    try:
        state = read_json(folder / PROVENANCE_STATE, _MAX_JSON_BYTES)
        hashes = [str(each) for each in state["blocks"]]
        same = {name: state[name] for name in identity} == identity
    except (OSError, ValueError, KeyError, TypeError):
        return []
    kept = list[str]()
    for number, digest in enumerate(hashes if same else ()):
        path = folder / f"provenance_{number:06d}.suf"
        if not path.is_file() or file_sha256(path) != digest:
            break
        kept.append(digest)
    return kept


def _erase(folder: Path) -> None:
    """Retire un index, sa description d'abord."""
    for path in (
        folder / PROVENANCE_NAME,
        folder / PROVENANCE_STATE,
        *folder.glob("provenance_*.suf"),
    ):
        path.unlink(missing_ok=True)
