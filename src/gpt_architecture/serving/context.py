"""Ce que les routes partagent : le moteur, le modèle qu'il sert, et sous quelles bornes."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.errors import reason
from gpt_architecture.serving.engine.messages import (
    EngineRequest,
    EngineState,
    EngineStats,
    Event,
    Ticket,
)
from gpt_architecture.serving.openai.foreign_fields import FieldPolicy
from gpt_architecture.serving.openai.limits import Limits
from gpt_architecture.serving.openai.token_names import TokenNames
from gpt_architecture.storage import open_regular

logger = logging.getLogger(__name__)

_CHUNK = 1 << 22


class ServingEngine(Protocol):
    """Ce que le service demande au moteur (voir `serving.engine.engine.Engine`)."""

    @property
    def state(self) -> EngineState:
        """Son état."""
        ...

    def submit(self, request: EngineRequest, on_event: Callable[[Event], None]) -> Ticket:
        """Accepte une demande."""
        ...

    def stats(self) -> EngineStats:
        """Où il en est."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServingContext:
    """Un modèle en service.

    Attributes:
        engine: le moteur, démarré.
        model: rend des logits ; lui seul l'emploie pour écrire.
        tokenizer: celui du modèle.
        name: nom sous lequel les clients le demandent.
        metadata: provenance et résultats de l'entraînement.
        window: positions qu'une suite peut occuper, début compris.
        limits: ce qu'une requête peut demander.
        fields: ce qui est fait des champs que le service n'a pas.
        run_directory: dossier d'entraînement montré par le studio ; None : aucun.
        example: début de texte que le studio propose.
        attention: identifiants (T) → poids d'attention (L, H, T, T), pour le studio ; None : le
            modèle ne les donne pas.
        variants: étiquettes et configurations que le studio compare d'abord.
        digest: empreinte SHA-256 de ses poids (voir `digest_of`) ; None : inconnue.
        version: celle du logiciel.
        created: date de mise en service, en secondes depuis 1970.
        names: le nom de chaque token.
    """

    engine: ServingEngine
    model: CausalLM
    tokenizer: Tokenizer
    name: str
    metadata: Mapping[str, Any]
    window: int
    limits: Limits = field(default_factory=Limits)
    fields: FieldPolicy = field(default_factory=FieldPolicy)
    run_directory: Path | None = None
    example: str = ""
    attention: Callable[[Sequence[int]], Tensor] | None = None
    variants: tuple[tuple[str, GenerationConfig], ...] = ()
    digest: str | None = None
    version: str = "inconnue"
    created: int = field(default_factory=lambda: int(time.time()))
    names: TokenNames = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", TokenNames(self.tokenizer))

    @property
    def chat_template(self) -> str | None:
        """Le gabarit de conversation du modèle, s'il en a un."""
        template = self.metadata.get(CHAT_TEMPLATE)
        return template if isinstance(template, str) and template else None


def digest_of(path: Path | str) -> str | None:
    """L'empreinte SHA-256 des poids d'un modèle, celle que donne `sha256sum`.

    D'un fichier, la sienne. D'un dossier, celle de son `model.safetensors` ; si les poids y sont en
    plusieurs fichiers, celle de la liste que `sha256sum model-*.safetensors` en fait. None : ni
    l'un ni l'autre, ou illisible.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        whole = path / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(path.glob("model-*.safetensors"))
    try:
        digests = [_sha256(file) for file in files]
    except OSError as error:
        logger.warning("empreinte du modèle inconnue : %s", reason(error))
        return None
    if len(files) == 1:
        return digests[0]
    lines = (f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest() if files else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
