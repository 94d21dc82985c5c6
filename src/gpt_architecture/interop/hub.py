"""Le Hub de Hugging Face : un dépôt, téléchargé ou envoyé seulement quand on le demande.

Un lieu d'échange est un dépôt (`hub:AUTEUR/NOM`) ou un dossier, d'un disque partagé par exemple. Ce
qui y est déposé est le même : un dossier de Transformers en safetensors, sa fiche, le certificat de
l'entraînement s'il y en a un, et les empreintes du tout (`SHA256SUMS`). Rien n'en est un pickle.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpt_architecture.errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFileError,
    OutputError,
    reason,
)
from gpt_architecture.formats.door import OpenedModel, RemoteSource
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.tensor_files import altered
from gpt_architecture.interop.hf import PROVENANCE, WEIGHTS
from gpt_architecture.interop.hf_export import export_hf
from gpt_architecture.interop.peft import PEFT_CONFIG, PEFT_WEIGHTS
from gpt_architecture.storage import check_free, read_text, write_directory
from gpt_architecture.storage.chain import CERTIFICATE

logger = logging.getLogger(__name__)

SCHEME = "hub:"
"""Ce qui distingue un nom du Hub d'un chemin : `hub:gpt2`."""

TIMEOUT_S = 10
"""Secondes sans réponse du Hub avant d'abandonner."""

_MESSAGE = "Modèle déposé par gpt-architecture"
_CONFLICT = 409
_MAX_REF, _MAX_SUMS = 1024, 1 << 20

_TEXTS = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
    *("additional_chat_templates/*.jinja", PROVENANCE, PEFT_CONFIG, PEFT_WEIGHTS),
)
"""Tout ce que lit l'import d'un dossier, en plus des poids."""

ENDPOINT: str | None = None
"""Le serveur ; None : celui de huggingface_hub, que HF_ENDPOINT change."""

SUMS = "SHA256SUMS"
_CARRIED = (
    *("README.md", "config.json", "generation_config.json", "tokenizer.json", CERTIFICATE, SUMS),
    *("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", PROVENANCE),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
)
"""Ce qu'un lieu d'échange tient d'un modèle ; rien d'autre n'en est pris."""


def download(name: str) -> Path:
    """Télécharge un dépôt dans le cache de Hugging Face et rend son dossier.

    Les poids safetensors sont préférés ; `pytorch_model.bin` ne vient qu'à défaut.

    Args:
        name: « gpt2 », « distilgpt2 », « auteur/modèle ».

    Raises:
        MissingDependencyError: huggingface_hub manque.
        ModelFileError: dépôt inconnu, ou réseau absent.
    """
    hub = _library("télécharger un modèle du Hub")
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 — facultatif

    try:
        for weights in WEIGHTS:
            stem, suffix = Path(weights).stem, Path(weights).suffix
            wanted = [*_TEXTS, weights, f"{stem}-*{suffix}", f"{weights}.index.json"]
            found = Path(
                hub.snapshot_download(
                    name, allow_patterns=wanted, etag_timeout=TIMEOUT_S, endpoint=ENDPOINT
                )
            )
            if any(found.glob(f"{stem}*{suffix}")) or (found / PEFT_WEIGHTS).exists():
                return found
    except HFValidationError:
        raise _not_a_name(name) from None
    except Exception as error:  # réseau, dépôt inconnu, disque plein : plusieurs bibliothèques
        raise _not_given(name, error) from None
    raise ModelFileError(
        f"le dépôt {name[:200]} n'a pas de poids PyTorch",
        expected=" ou ".join(WEIGHTS),
        remedy="choisissez un autre dépôt",
    )


def fetch(name: str) -> Path:
    """Le dossier d'un dépôt, dont on annonce le téléchargement ; voir `download`."""
    logger.info("Téléchargement de %s depuis le Hub de Hugging Face…", name)
    return download(name)


def cached() -> list[tuple[str, Path]]:
    """Les dépôts déjà dans le cache de Hugging Face : (adresse, dossier de leur version)."""
    try:
        from huggingface_hub import constants  # noqa: PLC0415 — facultatif
    except ImportError:
        return []
    found = []
    for repository in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        name = SCHEME + repository.name.removeprefix("models--").replace("--", "/")
        versions = sorted((repository / "snapshots").glob("*"))
        main = repository / "refs" / "main"
        if main.is_file() and main.stat().st_size < _MAX_REF:
            current = main.read_text("utf-8", errors="replace").strip()
            versions = [each for each in versions if each.name == current] or versions
        found += [(name, each) for each in versions[-1:]]
    return found


def publish(
    content: ModelFile,
    place: str,
    *,
    certificate: Path | str | None = None,
    public: bool = False,
    force: bool = False,
) -> list[tuple[str, int]]:
    """Dépose un modèle dans un lieu d'échange ; rend ses fichiers et leurs tailles.

    Args:
        content: le modèle ; `license` de ses métadonnées est écrite dans la fiche.
        place: un dossier à créer, ou `hub:AUTEUR/NOM`.
        certificate: le certificat à joindre.
        public: un dépôt du Hub que tous peuvent lire ; sinon, privé.
        force: remplace ce qui y est.

    Raises:
        ConfigurationError: nom mal formé, ou aucun jeton pour écrire sur le Hub.
        MissingDependencyError: huggingface_hub manque.
        OutputError: lieu pris ou injoignable, ou écriture refusée ; rien n'est laissé à moitié.
    """
    if not place.startswith(SCHEME):
        _deposit(content, Path(place), certificate, force=force)
        return _sizes(Path(place))
    name, hub = place.removeprefix(SCHEME), _library("envoyer un modèle sur le Hub")
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 — facultatif

    token = hub.get_token()
    if not token:
        raise ConfigurationError(
            f"aucun jeton du Hub pour écrire dans {name[:200]}",
            expected="un jeton qui a le droit d'écrire, dans HF_TOKEN ou gardé par « hf auth "
            "login »",
            remedy="donnez-le, ou un dossier pour lieu",
        )
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / (name.rpartition("/")[2] or "modele")
        _deposit(content, folder, certificate, force=False)
        api = hub.HfApi(endpoint=ENDPOINT, token=token)
        try:
            api.create_repo(name, private=not public, exist_ok=force)
            added = {each.name: each for each in folder.iterdir()}
            old = api.list_repo_files(name) if force else []
            stale = [each for each in old if each not in added and _is_carried(each)]
            api.create_commit(  # tout d'un coup, ou rien
                name,
                [
                    *(hub.CommitOperationAdd(key, str(path)) for key, path in added.items()),
                    *(hub.CommitOperationDelete(each) for each in stale),
                ],
                commit_message=_MESSAGE,
            )
        except HFValidationError:
            raise _not_a_name(name) from None
        except Exception as error:  # réseau, droits, dépôt qui existe : plusieurs bibliothèques
            if getattr(getattr(error, "response", None), "status_code", None) == _CONFLICT:
                raise OutputError(
                    f"{place[:200]} existe déjà",
                    expected="un nom libre",
                    remedy="ajoutez `force` pour le remplacer, ou changez de nom",
                ) from None
            raise OutputError(
                f"le Hub n'a pas pris {name[:200]} ({reason(error)[:300]})",
                expected="un dépôt à créer, un jeton qui a le droit d'y écrire, et le réseau",
                remedy="vérifiez ces trois choses",
            ) from None
        return _sizes(folder)


def retrieve(place: str, dest: Path | str, *, force: bool = False) -> bool:
    """Copie un modèle d'un lieu d'échange dans un dossier, vérifié, ou rien.

    Args:
        place: un dossier, ou `hub:AUTEUR/NOM`.
        dest: dossier à créer.
        force: remplace un modèle qui y est.

    Returns:
        Vrai si ses empreintes ont été vérifiées ; faux si le lieu n'en a pas.

    Raises:
        MissingDependencyError: huggingface_hub manque.
        ModelFileError: lieu vide ou injoignable, fichier changé, ou autre chose qu'un GPT-2.
        OutputError: destination prise, ou écriture refusée.
    """
    dest = Path(dest)
    check_free(dest, force=force, directory=True)
    origin = _fetched(place.removeprefix(SCHEME)) if place.startswith(SCHEME) else Path(place)
    files = sorted({path for each in _CARRIED for path in origin.glob(each) if path.is_file()})
    if not any(each.suffix == ".safetensors" for each in files):
        raise ModelFileError(
            f"{place[:200]} n'a pas de modèle en safetensors",
            expected=f"ce que dépose « gpt-architecture push », avec {WEIGHTS[0]}",
            remedy="corrigez ce lieu",
        )
    known = _known_sums(origin, files)

    def fill(folder: Path) -> None:
        for file in files:
            copy = folder / file.name
            shutil.copyfile(file, copy)
            if known and file.name != SUMS and _sha256(copy) != known[file.name]:
                raise altered(file, "il")
        OpenedModel(folder).read()  # un GPT-2, entier

    write_directory(dest, fill, force=force)
    return bool(known)


def _deposit(
    content: ModelFile, folder: Path, certificate: Path | str | None, *, force: bool
) -> None:
    """Le dossier de Transformers, son certificat et les empreintes du tout."""
    check_free(folder, force=force, directory=True)

    def fill(made: Path) -> None:
        inner = made / folder.name
        export_hf(content, inner)
        if certificate is not None:
            shutil.copyfile(certificate, inner / CERTIFICATE)
        sums = "".join(f"{_sha256(each)}  {each.name}\n" for each in sorted(inner.iterdir()))
        (inner / SUMS).write_text(sums, encoding="utf-8")
        for each in inner.iterdir():
            each.rename(made / each.name)
        inner.rmdir()

    write_directory(folder, fill, force=force)


def _known_sums(origin: Path, files: Sequence[Path]) -> dict[str, str]:
    """Les empreintes que le lieu donne de chacun de ces fichiers ; vide : il n'en a pas."""
    path = origin / SUMS
    if path not in files:
        return {}
    text = read_text(path, expected="des empreintes", limit=_MAX_SUMS, error=ModelFileError)
    sums = dict(line.split("  ", 1)[::-1] for line in text.splitlines() if "  " in line)
    missing = sorted({each.name for each in files} - sums.keys() - {SUMS})
    absent = sorted(sums.keys() - {each.name for each in files})
    if missing or absent:
        name = (missing or absent)[0][:80]
        raise ModelFileError(
            f"{path} ne décrit pas ce dossier : {name}",
            expected="l'empreinte de chaque fichier, et d'eux seuls",
            remedy="demandez qu'il soit déposé de nouveau",
        )
    return sums


def _fetched(name: str) -> Path:
    """Le dossier du cache où ce qu'un dépôt tient du modèle vient d'être téléchargé."""
    hub = _library("télécharger un modèle du Hub")
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 — facultatif

    try:
        return Path(
            hub.snapshot_download(
                name, allow_patterns=list(_CARRIED), etag_timeout=TIMEOUT_S, endpoint=ENDPOINT
            )
        )
    except HFValidationError:
        raise _not_a_name(name) from None
    except Exception as error:  # réseau, dépôt inconnu, disque plein : plusieurs bibliothèques
        raise _not_given(name, error) from None


def _library(purpose: str) -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("huggingface_hub", purpose=purpose, extra="hub") from None
    return huggingface_hub


def _not_a_name(name: str) -> ModelFileError:
    return ModelFileError(
        f"{name[:200]!r} n'est pas un nom de dépôt du Hub",
        expected=f"par exemple {SCHEME}gpt2 ou {SCHEME}auteur/modèle",
        remedy="corrigez ce nom",
    )


def _not_given(name: str, error: Exception) -> ModelFileError:
    return ModelFileError(
        f"le Hub n'a pas donné {name[:200]} ({reason(error)})",
        expected="un dépôt public, et le réseau ou un cache déjà rempli",
        remedy="vérifiez le nom et la connexion, ou donnez un dossier local",
    )


def _is_carried(name: str) -> bool:
    return any(fnmatch(name, each) for each in _CARRIED)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sizes(folder: Path) -> list[tuple[str, int]]:
    return [(each.name, each.stat().st_size) for each in sorted(folder.iterdir())]


HUB = RemoteSource(
    prefix=SCHEME,
    fetch=fetch,
    origin=lambda name: {"source": f"https://huggingface.co/{name}", "name": name},
)
"""L'adresse, telle que la porte la connaît."""
