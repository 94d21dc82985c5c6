"""Les tâches d'une préparation sur le disque : `DIR.taches`, un dossier de fragments par tâche.

`tache_00003_sur_00007` est un dossier de fragments comme un autre, dont une part peut être vide ;
`hygiene_00003_sur_00007` garde les empreintes de ses documents tant que la réunion n'est pas faite,
et `decisions` ce que la comparaison de tous a décidé.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.data.hygiene.store import (
    JoinedStore,
    Store,
    damaged,
    read_object,
    write_object,
)
from gpt_architecture.data.shards.layout import INDEX_NAME, identity_of_index, read_index
from gpt_architecture.data.shards.work import differences, remove_idle, saved_identity
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.errors import DataError, GPTArchitectureError
from gpt_architecture.french import counted

logger = logging.getLogger(__name__)

_PART = re.compile(r"tache_\d{5}_sur_\d{5}")
_OURS = re.compile(r"((tache|hygiene)_\d{5}_sur_\d{5}(\.incomplete)?|decisions)")
_MARKER = "decisions.json"
_WORK = ".incomplete"
_SHOWN = 10


def parts_folder(out: Path | str) -> Path:
    """Le dossier de toutes les tâches de la préparation de `out`."""
    out = Path(out)
    return out.with_name(f"{out.name}.taches")


def part_folder(out: Path | str, share: Share) -> Path:
    """Le dossier de fragments d'une tâche."""
    return parts_folder(out) / f"tache_{share.number:05d}_sur_{share.count:05d}"


def part_store(out: Path | str, share: Share) -> Store:
    """Les fichiers de travail de l'hygiène d'une tâche."""
    name = f"hygiene_{share.number:05d}_sur_{share.count:05d}"
    return Store(parts_folder(out).resolve() / name)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Une tâche trouvée sur le disque.

    Attributes:
        share: son numéro.
        folder: son dossier.
        identity: ce qui distingue la préparation dont elle vient, sans son numéro.
        index: son index ; None : elle n'est pas finie.
    """

    share: Share
    folder: Path
    identity: dict[str, Any]
    index: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path | str) -> Part | None:
        """Lit une tâche ; None : rien n'y est encore enregistré.

        Raises:
            DataError: son index est illisible.
            OutputError: l'état de son travail l'est.
        """
        folder = Path(folder)
        index = read_index(folder) if (folder / INDEX_NAME).exists() else None
        identity = saved_identity(folder) if index is None else identity_of_index(index)
        if identity is None or "task" not in identity:
            return None
        share = Share.parse(str(identity.pop("task")))
        return cls(share=share, folder=folder, identity=identity, index=index)


def find_parts(out: Path | str, identity: Mapping[str, Any]) -> list[Part]:
    """Les tâches, toutes et chacune une fois, dans l'ordre ; certaines peuvent ne pas être finies.

    Args:
        out: le dossier demandé.
        identity: ce qui distingue la préparation demandée.

    Raises:
        DataError: une tâche manque, est en double, ou vient d'un autre découpage, d'autres réglages
            ou d'autres sources.
    """
    place = parts_folder(out)
    names = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    found = [
        part
        for name in names
        if _PART.fullmatch(name.removesuffix(_WORK))
        and (part := Part.read(place / name)) is not None
    ]
    if not found:
        raise DataError(
            f"aucune tâche dans {place}",
            expected="des tâches préparées pour ce dossier",
            remedy="préparez-les par `task` : 1/N, 2/N… N/N",
        )
    return in_order(found, identity)


def in_order(found: Sequence[Part], identity: Mapping[str, Any]) -> list[Part]:
    """Des tâches, vérifiées et rangées ; au moins une. Voir `find_parts`."""
    by_share: dict[Share, Part] = {}
    place = found[0].folder.parent
    for part in found:
        _check_same(part, found[0], identity)
        if (other := by_share.get(part.share)) is not None:
            raise DataError(
                f"la tâche {part.share} est en double : {other.folder.name} et {part.folder.name}",
                expected="chaque tâche une fois",
                remedy=f"effacez de {place} celle qui est de trop",
            )
        by_share[part.share] = part
    count = found[0].share.count
    check_all(place, [n for n in range(1, count + 1) if Share(n, count) not in by_share], count)
    return [by_share[share] for share in sorted(by_share)]


def check_all(place: Path | str, missing: Sequence[int], count: int, what: str = "") -> None:
    """Vérifie qu'il ne manque aucune tâche.

    Raises:
        DataError: il en manque ; elles sont nommées.
    """
    if missing:
        more = ", …" if len(missing) > _SHOWN else ""
        raise DataError(
            f"il manque {what}{counted(len(missing), 'tâche')} sur {count} dans {place} : "
            f"{', '.join(map(str, missing[:_SHOWN]))}{more}",
            expected=f"les {count} tâches, de 1/{count} à {count}/{count}",
            remedy="lancez celles qui manquent, ou relancez-les : elles reprennent",
        )


def _check_same(part: Part, first: Part, identity: Mapping[str, Any]) -> None:
    if part.share.count != first.share.count:
        raise DataError(
            f"{part.folder.parent} a des tâches de deux découpages : {first.share} et {part.share}",
            expected="un seul nombre de tâches",
            remedy="effacez de ce dossier celles de l'autre découpage",
        )
    changed = differences(part.identity, identity)
    if changed == "sources":
        raise DataError(
            f"la tâche {part.share} vient d'autres sources ({_other_source(part, identity)})",
            expected="les sources données ici, au même chemin, de mêmes taille et date",
            remedy="donnez les siennes, ou relancez-la avec `force`",
        )
    if changed:
        raise DataError(
            f"la tâche {part.share} vient d'autres réglages ({changed})",
            expected="ceux qui sont demandés ici",
            remedy="donnez les siens, ou relancez-la avec `force`",
        )


def _other_source(part: Part, identity: Mapping[str, Any]) -> str:
    """La première source qui diffère."""
    theirs, ours = (list(each["sources"] or ()) for each in (part.identity, identity))
    pairs = zip(theirs, ours, strict=False)
    extra = [*theirs[len(ours) :], *ours[len(theirs) :]]
    odd = next((mine for mine, other in pairs if mine != other), (extra or [{}])[0])
    return str(odd.get("path", "?"))


def save_decisions(out: Path | str, identity: Mapping[str, Any], counts: Sequence[int]) -> None:
    """Note, pour les tâches, que les décisions sont prises.

    Args:
        out: le dossier demandé.
        identity: la préparation dont elles sont.
        counts: tâches d'hygiène de chaque tâche, dans l'ordre.
    """
    write_object(
        parts_folder(out) / "decisions" / _MARKER, {"identity": identity, "counts": [*counts]}
    )


def joined_store(out: Path | str, counts: Sequence[int]) -> JoinedStore:
    """Les fichiers de travail de toutes les tâches, vus comme un seul dossier."""
    shares = [Share(number, len(counts)) for number in range(1, len(counts) + 1)]
    return JoinedStore(
        parts_folder(out).resolve() / "decisions",
        [(part_store(out, share).folder, n) for share, n in zip(shares, counts, strict=True)],
    )


def saved_decisions(out: Path | str, identity: Mapping[str, Any], count: int) -> JoinedStore | None:
    """Ce que voient les tâches une fois les décisions prises ; None : elles ne le sont pas.

    Raises:
        DataError: ce qui le dit est abîmé.
    """
    path = parts_folder(out) / "decisions" / _MARKER
    if not path.exists():
        return None
    found = read_object(path)
    counts = found.get("counts")
    if not isinstance(counts, list) or any(type(each) is not int or each < 0 for each in counts):
        raise damaged(path)
    if found.get("identity") != identity or len(counts) != count:
        return None  # d'un autre découpage, ou d'autres réglages : elles seront reprises
    return joined_store(out, counts)


def remove_parts(out: Path | str, identity: Mapping[str, Any]) -> None:
    """Efface les tâches réunies, et leur dossier s'il n'a rien d'autre.

    Restent, et sont dites, celles d'autres réglages, illisibles, ou qu'une machine fait à présent.

    Args:
        out: le dossier demandé.
        identity: la préparation réunie.
    """
    place = parts_folder(out)
    if not place.is_dir():
        return
    names = sorted(path.name for path in place.iterdir() if _OURS.fullmatch(path.name))
    tasks = [name for name in names if _PART.match(name)]
    kept = [name for name in tasks if not _remove_part(place / name, identity)]
    theirs = {name.removesuffix(_WORK).replace("tache", "hygiene") for name in kept}
    for name in names:
        if name not in tasks and name not in theirs and (name != "decisions" or not kept):
            shutil.rmtree(place / name, ignore_errors=True)
    if kept:
        logger.warning(
            "restent dans %s, d'autres réglages ou en cours : %s", place, ", ".join(kept)
        )
    with suppress(OSError):  # autre chose y est : il reste
        place.rmdir()


def _remove_part(folder: Path, identity: Mapping[str, Any]) -> bool:
    try:
        part = Part.read(folder)
    except GPTArchitectureError:
        return False  # d'on ne sait quelle préparation
    if part is not None and differences(part.identity, identity):
        return False
    if folder.name.endswith(_WORK):
        return remove_idle(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return True
