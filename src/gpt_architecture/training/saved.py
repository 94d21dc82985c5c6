"""Ce qu'un entraînement laisse pour être repris : ses réglages, son point, son retrait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from gpt_architecture.config import (
    RunConfig,
    TrainingRequest,
)
from gpt_architecture.data.removal import REMOVAL_NAME, read_removal
from gpt_architecture.errors import CertificateError, ConfigurationError
from gpt_architecture.formats.story import read_story
from gpt_architecture.storage.chain import CERTIFICATE, read_chain
from gpt_architecture.training.checkpoint import CHECKPOINTS, Checkpoint, CheckpointStore

_TOKENIZER_NAME = re.compile(r"gpt2|simple-v[12]|char|bpe-[0-9]+")
_OF_THIS_CALL = ("output_dir", "resume", "override", "force", "offline", "sign_key")
"""Réglages d'un appel : une reprise ne les retrouve pas."""


def resumable(output_dir: Path | str) -> Checkpoint:
    """Le dernier point de reprise intact d'un dossier de sortie.

    Raises:
        ConfigurationError: il n'y en a pas.
    """
    output_dir = Path(output_dir)
    latest = CheckpointStore(output_dir / CHECKPOINTS).latest()
    if latest is None or not isinstance(latest.state.get("options"), Mapping):
        raise ConfigurationError(
            f"rien à reprendre dans {output_dir}",
            expected=f"le dossier de sortie d'un entraînement, avec {CHECKPOINTS}/step-…",
            remedy="corrigez `resume`, ou entraînez sans lui",
        )
    return latest


def own_removal(output_dir: Path | str) -> Path | None:
    """Le retrait de ce dossier, si c'est celui que son certificat dit en vigueur ; sinon None.

    Toute reprise l'applique, où que le dossier ait été déplacé.

    Raises:
        ConfigurationError: le retrait est illisible.
    """
    path, certificate = Path(output_dir) / REMOVAL_NAME, Path(output_dir) / CERTIFICATE
    if not (path.exists() and certificate.exists()):
        return None
    try:
        removal = read_story(read_chain(certificate)).removal
    except CertificateError:
        return None
    return path.resolve() if removal is not None and read_removal(path) == removal else None


def saved_options(request: TrainingRequest, prompt: str | None) -> dict[str, Any]:
    """Les réglages à plat, tels qu'un point de reprise les garde : chemins absolus.

    Args:
        request: tous ; ceux qui ne valent que pour un appel sont laissés.
        prompt: l'invite des exemples demandée, une fois lue.
    """
    run, finetuning, objective = request.run, request.finetuning, request.objective
    apart = (*_OF_THIS_CALL, "sources")
    names = [each.name for each in fields(RunConfig) if each.name not in apart]
    flat: dict[str, Any] = {name: getattr(run, name) for name in names}
    flat["prompt"] = prompt
    flat["data"] = [_absolute(source) for source in run.data]
    labelled = request.labels.classify is not None
    paired = objective.preferences is not None
    if finetuning.chat is not None or run.mixture or labelled or paired:
        flat["data"] = None
    moved = [replace(each, path=_absolute(each.path)) for each in run.mixture]
    flat["source"] = [str(each) for each in moved] or None
    if not is_tokenizer_name(run.tokenizer):
        flat["tokenizer"] = _absolute(run.tokenizer)
    flat |= request.training.to_dict()
    for group in (
        *(request.shape, request.optimizer),
        *(request.schedule, request.checkpoints, request.compute),
    ):
        flat |= asdict(group)
    for name, path in (
        ("from", finetuning.start),
        ("chat", finetuning.chat),
        ("chat_template", finetuning.chat_template),
        ("forget", run.forget),
        *((("classify", request.labels.classify), ("val", request.labels.val)) if labelled else ()),
    ):
        flat[name] = None if path is None else _absolute(str(path))  # hub:DÉPÔT reste un nom
    for name, value in objective.options.items():
        flat[name] = _absolute(str(value)) if isinstance(value, Path) else value
    if labelled:
        flat |= {name: getattr(request.labels, name) for name in ("label", "regress", "balance")}
    flat["lora_rank"] = finetuning.lora_rank
    if finetuning.lora_rank is not None:
        flat["lora_alpha"] = finetuning.lora_alpha
        flat["lora_targets"] = list(finetuning.lora_targets)
        flat["lora_dropout"] = finetuning.lora_dropout
    return flat


def is_tokenizer_name(tokenizer: str) -> bool:
    """Vrai si ce tokenizer est connu par son nom ; sinon c'est un chemin."""
    return _TOKENIZER_NAME.fullmatch(tokenizer) is not None


def _absolute(source: str) -> str:
    """Le chemin absolu d'une source qui existe ; un nom reste un nom."""
    try:
        return str(Path(source).resolve()) if Path(source).exists() else source
    except OSError:  # nom trop long pour ce système
        return source
