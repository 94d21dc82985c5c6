"""Un échantillon de textes, tiré par une ou plusieurs machines, où apprendre un vocabulaire.

Chaque tâche écrit les textes qu'elle garde dans `FICHIER.taches` ; la réunion les relit dans
l'ordre : ce sont ceux que garde une seule machine, et le vocabulaire est le même.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.data.shards.parts import Part, in_order, parts_folder
from gpt_architecture.data.texts.documents import Tally
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.errors import DataError, OutputError, reason
from gpt_architecture.storage import json_bytes, write_atomically

_NAME = re.compile(r"echantillon_\d{5}_sur_\d{5}\.jsonl")


def sample_identity(
    texts: SourceTexts, *, field: str | None, sample: float | None
) -> dict[str, Any]:
    """Ce qui distingue un échantillon d'un autre."""
    return {
        "field": field,
        "sample": sample,
        "sources": [
            {"path": str(s.path), "bytes": s.size, "modified_ns": s.modified_ns}
            for s in texts.sources
        ],
    }


def write_sample(
    texts: SourceTexts, out: Path | str, share: Share, identity: dict[str, Any]
) -> Path:
    """Écrit les textes d'une tâche ; une tâche déjà faite est refaite, au même fichier.

    Args:
        texts: ceux de la tâche.
        out: le tokenizer à apprendre.
        share: la tâche.
        identity: voir `sample_identity`.

    Raises:
        DataError: un défaut des textes.
        OutputError: le disque refuse.
    """
    place = parts_folder(out)
    path = place / f"echantillon_{share.number:05d}_sur_{share.count:05d}.jsonl"

    def write(temporary: Path) -> None:
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for text in texts:
                line = json_bytes(text) + b"\n"
                digest.update(line)
                file.write(line)
            tally = {"text_bytes": texts.tally.text_bytes, "skipped": texts.tally.skipped}
            end = {"task": str(share), "identity": identity, "tally": tally}
            end["sha256"] = digest.hexdigest()  # de tout ce qui précède
            file.write(json_bytes(end) + b"\n")  # en dernier : le fichier est alors entier

    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{place} ne s'écrit pas : {reason(error)}",
            expected="un dossier accessible en écriture",
            remedy="changez `out`",
        ) from None
    write_atomically(path, write)
    return path


@dataclass(frozen=True)
class Samples:
    """Les échantillons de toutes les tâches, relus comme un seul.

    Attributes:
        parts: leurs fichiers, dans l'ordre.
        tally: leur compte.
    """

    parts: Sequence[Part]
    tally: Tally

    def __iter__(self) -> Iterator[str]:
        for part in self.parts:
            with part.folder.open("rb") as file:
                for line in file:
                    if isinstance(text := json.loads(line), str):
                        yield text


def read_samples(out: Path | str, identity: dict[str, Any]) -> Samples:
    """Les échantillons, tous et chacun une fois.

    Args:
        out: le tokenizer à apprendre.
        identity: voir `sample_identity`.

    Raises:
        DataError: une tâche manque, est en double, vient d'ailleurs ou est abîmée ; ou aucun texte.
    """
    place = parts_folder(out)
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    found, tallies = [], dict[Share, dict[str, Any]]()
    for name in filter(_NAME.fullmatch, names):
        end = _end_of(place / name)
        share = Share.parse(end["task"])
        found.append(
            Part(share=share, folder=place / name, identity=end["identity"], index=end["tally"])
        )
        tallies[share] = end["tally"]
    if not found:
        raise DataError(
            f"aucune tâche dans {place}",
            expected="des échantillons tirés pour ce fichier",
            remedy="tirez-les par `task` : 1/N, 2/N… N/N",
        )
    parts, tally = in_order(found, identity), Tally()
    for part in parts:
        tally.text_bytes += tallies[part.share]["text_bytes"]
        tally.merge(0, tallies[part.share]["skipped"])
    if not tally.text_bytes:
        raise DataError(
            "aucun texte dans les échantillons",
            expected="au moins un texte gardé",
            remedy="augmentez `sample`",
        )
    return Samples(parts, tally)


def remove_samples(out: Path | str) -> None:
    """Efface les échantillons réunis, et leur dossier s'il n'a rien d'autre."""
    place = parts_folder(out)
    if place.is_dir():
        for path in place.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink()
        with suppress(OSError):
            place.rmdir()


def _end_of(path: Path) -> dict[str, Any]:
    """La dernière ligne d'un échantillon : d'où il vient, et l'empreinte de ce qui la précède."""
    digest, last = hashlib.sha256(), b""
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(last)
                last = line
        end = json.loads(last)
        if end["sha256"] != digest.hexdigest():
            raise ValueError
        tally = end["tally"]
        return {
            "task": str(end["task"]),
            "identity": dict(end["identity"]),
            "tally": {"text_bytes": int(tally["text_bytes"]), "skipped": dict(tally["skipped"])},
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{path} est illisible, tronqué ou changé",
            expected="un échantillon entier",
            remedy="effacez-le et relancez cette tâche",
        ) from None
