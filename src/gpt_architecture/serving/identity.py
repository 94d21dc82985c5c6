"""Ce qui répond : le modèle, ses réglages, son tokenizer, le logiciel, l'arithmétique."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpt_architecture.storage.chain import canonical

SECTIONS = ("model", "service", "tokenizer", "software", "arithmetic")
"""Ce qu'une identité dit, et qu'un reçu recopie."""


@dataclass(frozen=True)
class Identity:
    """Tout ce dont une réponse dépend, hors de la requête.

    Attributes:
        facts: les `SECTIONS`, chacune un objet de types simples : `model` (empreinte des poids tels
            qu'ils calculent, quantification, adaptateur s'il y en a un), `service` (contexte,
            empreinte du gabarit), `tokenizer`, `software` (version, empreinte des sources),
            `arithmetic` (jeu d'instructions, threads, précision, noyaux, versions).
    """

    facts: Mapping[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """Son nom court, le `system_fingerprint` d'OpenAI : autre dès que l'un d'eux change."""
        return f"fp_{sha256_of(self.facts)[:16]}"

    def with_adapter(self, adapter: Mapping[str, Any], *, chat_template: str | None) -> Identity:
        """La même, avec un adaptateur.

        Args:
            adapter: ce qu'il faut en dire : son empreinte, son rang.
            chat_template: l'empreinte du gabarit qui sert alors ; None : aucun.
        """
        model = {**self.facts["model"], "adapter": adapter}
        service = {**self.facts["service"], "chat_template": chat_template}
        return Identity({**self.facts, "model": model, "service": service})


def sha256_of(value: Mapping[str, Any]) -> str:
    """L'empreinte d'un objet, par son JSON canonique (voir `storage.chain.canonical`)."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
