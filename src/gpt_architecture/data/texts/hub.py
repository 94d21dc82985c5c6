"""Les jeux de données de Hugging Face, par leur nom : `hf:AUTEUR/NOM[:CONFIG[:PART]]`.

Hugging Face tient de chacun une copie en Parquet (la révision `refs/convert/parquet`) : c'est elle
qui est prise, dans le cache de huggingface_hub, et lue comme tout autre fichier. Hors ligne, ce que
le cache contient déjà suffit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpt_architecture.errors import ConfigurationError, DataError, MissingDependencyError, reason

PREFIX = "hf:"
ENDPOINT: str | None = None
"""Le serveur ; None : celui de huggingface_hub, que HF_ENDPOINT change."""

_REVISION = "refs/convert/parquet"
_PART = re.compile(r"(?!\.+$)[^/\\*?\[\]]+")  # ni un chemin, ni un motif
_PATTERN = "hf:AUTEUR/NOM, hf:AUTEUR/NOM:CONFIG ou hf:AUTEUR/NOM:CONFIG:PART"


def dataset_files(name: str, *, offline: bool) -> list[Path]:
    """Les fichiers Parquet d'un jeu de données, téléchargés s'ils ne sont pas en cache.

    Args:
        name: le nom, `hf:` compris ; sans configuration, la seule, ou `default` ; sans part,
            `train`.
        offline: n'emploie que le cache.

    Raises:
        ConfigurationError: nom mal formé.
        DataError: jeu absent, ou plusieurs configurations entre lesquelles choisir.
        MissingDependencyError: huggingface_hub n'est pas installé.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError(
            "huggingface_hub", purpose="lire un jeu de données de Hugging Face", extra="hub"
        ) from None
    repository, *rest = name.removeprefix(PREFIX).split(":")
    parts = [*repository.split("/"), *filter(None, rest)]
    malformed = repository.count("/") > 1 or len(rest) > 2
    if malformed or not all(_PART.fullmatch(each) for each in parts):
        raise ConfigurationError(
            f"{name[:200]} n'est pas un nom de jeu de données",
            expected=_PATTERN,
            remedy="corrigez ce nom",
        )
    config, split = (*rest, "", "")[:2]
    split = split or "train"
    place: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset", "revision": _REVISION}
    try:
        if offline:
            folder = Path(snapshot_download(**place, local_files_only=True))
            known = [str(each.relative_to(folder)) for each in folder.rglob("*.parquet")]
        else:
            known = HfApi(endpoint=ENDPOINT).list_repo_files(**place)
        config = config or _only_config(name, known)
        wanted = [f"{config}/{part}/*.parquet" for part in (split, f"partial-{split}")]
        if not offline:
            kept = snapshot_download(**place, allow_patterns=wanted, endpoint=ENDPOINT)
            folder = Path(kept)
    except DataError:
        raise
    except Exception as error:  # ses erreurs viennent de trois bibliothèques
        said = "il n'est pas en cache, et le réseau est interdit" if offline else reason(error)
        raise DataError(
            f"{name} est introuvable : {said}"[:400],
            expected=f"un jeu de données de Hugging Face, {_PATTERN}",
            remedy="vérifiez le nom et le réseau",
        ) from None
    found = sorted(path for pattern in wanted for path in folder.glob(pattern))
    if not found:
        there = sorted({each.split("/")[1] for each in known if each.startswith(f"{config}/")})
        raise DataError(
            f"{name} n'a pas de part {split} dans sa configuration {config}",
            expected=f"l'une des parts : {', '.join(there) or 'aucune'}",
            remedy=f"donnez-en une par {PREFIX}AUTEUR/NOM:CONFIG:PART",
        )
    return found


def _only_config(name: str, files: Iterable[str]) -> str:
    configs = sorted({each.split("/")[0] for each in files if each.count("/") == 2})
    if "default" in configs or len(configs) == 1:
        return "default" if "default" in configs else configs[0]
    shown = ", ".join(configs[:12]) + (", …" if len(configs) > 12 else "")
    raise DataError(
        f"{name} a {len(configs)} configurations : {shown or 'aucune en Parquet'}",
        expected="une seule, ou son nom",
        remedy=f"donnez-la par {PREFIX}AUTEUR/NOM:CONFIG",
    )
