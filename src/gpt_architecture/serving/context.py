"""Ce que les routes partagent : le moteur, le modèle qu'il sert, ses bornes, le nom des tokens."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.data.provenance.index import TextIndex
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import TextStream
from gpt_architecture.errors import reason
from gpt_architecture.serving.adapters import AdapterShelf
from gpt_architecture.serving.engine.engine import Engine
from gpt_architecture.serving.identity import Identity
from gpt_architecture.serving.limits import Limits
from gpt_architecture.serving.openai.strict_bodies import FieldPolicy
from gpt_architecture.storage import open_regular
from gpt_architecture.storage.chain import Signer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServingContext:
    """Un modèle en service.

    Attributes:
        engine: le moteur, démarré.
        model: rend des logits ; lui seul l'emploie pour écrire.
        tokenizer: celui du modèle.
        name: nom sous lequel les clients le demandent.
        metadata: provenance et résultats de l'entraînement.
        window: positions qu'une séquence peut occuper, invite compris.
        limits: ce qu'une requête peut demander.
        fields: ce qui est fait des champs que le service n'a pas.
        run_directory: dossier d'entraînement montré par le studio ; None : aucun.
        example: invite que le studio propose.
        network: le réseau en virgule flottante, où le studio regarde ; None : le modèle, quantifié,
            ne laisse pas voir son intérieur.
        embed: le vecteur d'un texte (voir `evaluation.embeddings.embed`, contexte fixé) ; None : le
            modèle, quantifié, n'en donne pas.
        index: ses données d'entraînement, où chercher d'où viennent des mots ; None : aucun.
        variants: étiquettes et configurations que le studio compare d'abord.
        digest: empreinte SHA-256 de ses poids (voir `digest_of`) ; None : inconnue.
        card: sa fiche (nom, valeur), que le studio montre.
        identity: ce dont ses réponses dépendent, calculé au démarrage ; None, ou un résultat
            None : inconnu.
        shelf: les adaptateurs qu'un client peut demander par leur nom ; None : il n'y en a pas.
        adapter: celui qui répond ici ; None : le modèle seul.
        signer: la clé qui signe les reçus ; None : aucune.
        version: celle du logiciel.
        created: date de mise en service, en secondes depuis 1970.
        names: le nom de chaque token.
    """

    engine: Engine
    model: CausalLM
    tokenizer: Tokenizer
    name: str
    metadata: Mapping[str, Any]
    window: int
    limits: Limits = field(default_factory=Limits)
    fields: FieldPolicy = field(default_factory=FieldPolicy)
    run_directory: Path | None = None
    example: str = ""
    network: GPTModel | None = None
    embed: Callable[..., Tensor] | None = None
    index: TextIndex | None = None
    variants: tuple[tuple[str, GenerationConfig], ...] = ()
    digest: str | None = None
    card: Sequence[tuple[str, str]] = ()
    identity: Future[Identity | None] | None = None
    shelf: AdapterShelf | None = None
    adapter: Adapter | None = None
    signer: Signer | None = None
    version: str = "inconnue"
    created: int = field(default_factory=lambda: int(time.time()))
    names: TokenNames = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", TokenNames(self.tokenizer))

    async def identified(self) -> Identity | None:
        """Ce dont ses réponses dépendent, dès que c'est su : seule une première réponse attend."""
        if self.identity is None or self.identity.done():
            return None if self.identity is None else self.identity.result()
        return await asyncio.shield(asyncio.wrap_future(self.identity))

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
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TokenNames:
    """Nomme les tokens comme le fait OpenAI.

    Deux tokens différents gardent deux noms : un bout de caractère se nomme par ses octets,
    `bytes:\\xc3`, et non par le même U+FFFD que tous les autres.

    Args:
        tokenizer: celui du modèle.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __contains__(self, token: int) -> bool:
        return 0 <= token < self._tokenizer.vocab_size

    def text(self, token: int) -> str:
        """Texte du token, tel qu'il s'écrit seul."""
        raw = self.raw(token)
        if raw is None:
            return self._tokenizer.decode([token])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def places(self, prompt: Sequence[int] = ()) -> Places:
        """De quoi situer les tokens du texte qui suit une invite."""
        return Places(self, self._tokenizer, prompt)

    def raw(self, token: int) -> bytes | None:
        """Octets du token ; None si le tokenizer découpe en mots."""
        return None if self._bytes is None else self._bytes[token]

    @cached_property
    def _bytes(self) -> list[bytes] | None:
        tokenizer = self._tokenizer
        return tokenizer.token_bytes() if isinstance(tokenizer, ByteTokenizer) else None


class Places:
    """Situe des tokens dans leur texte, en caractères ; un bout de caractère est où est le sien.

    Args:
        names: nom des tokens.
        tokenizer: celui du modèle.
        prompt: identifiants qui précèdent le texte.
    """

    def __init__(self, names: TokenNames, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._names = names
        self._words = TextStream(tokenizer.decode, prompt)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        for token in prompt[-4:]:  # un caractère compte au plus quatre octets
            self._characters.decode(names.raw(token) or b"")
        # L'invite montre déjà, par un U+FFFD, le caractère qu'elle ne finit pas.
        self._next = -1 if self._characters.getstate()[0] else 0

    def add(self, token: int) -> int:
        """Le rang, dans le texte, du premier caractère d'un token, qui suit les précédents."""
        raw = self._names.raw(token)
        if raw is None:
            place = self._next
            self._next += len(self._words.push(token))
            return place
        self._next += len(self._characters.decode(raw[:1]))
        # Le caractère du premier octet est en cours, ou c'est le dernier que cet octet finit.
        place = self._next if self._characters.getstate()[0] or not raw else self._next - 1
        self._next += len(self._characters.decode(raw[1:]))
        return max(0, place)
