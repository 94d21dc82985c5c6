"""Le compte d'une préparation : octets lus, texte codé, et ce qui a été écarté."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gpt_architecture.data.shards.encoding import Encoded
from gpt_architecture.data.texts.documents import Skip

_MAX_EXAMPLES = 5
_MAX_EXAMPLE_CHARACTERS = 300


@dataclass(kw_only=True)
class Tally:
    """Compteurs, enregistrés à chaque point sûr.

    Attributes:
        done_bytes: octets de sources lus.
        text_bytes: octets UTF-8 du texte codé.
        separated: documents qui suivent un `<|endoftext|>` écrit dans leur texte.
        skipped: raison → {"count", "examples"}, premiers exemples seulement.
    """

    done_bytes: int = 0
    text_bytes: int = 0
    separated: int = 0
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, encoded: Encoded) -> None:
        """Ajoute le résultat d'une tâche."""
        self.done_bytes += encoded.consumed
        self.text_bytes += encoded.text_bytes
        self.separated += encoded.separated
        self.add_skips(encoded.skips)

    def add_skips(self, skips: Iterable[Skip]) -> None:
        """Compte ce qui a été écarté."""
        for skip in skips:
            entry = self.skipped.setdefault(skip.reason, {"count": 0, "examples": []})
            entry["count"] += 1
            if len(entry["examples"]) < _MAX_EXAMPLES:
                entry["examples"].append(skip.where[:_MAX_EXAMPLE_CHARACTERS])

    def to_dict(self) -> dict[str, Any]:
        """En types simples, relu par `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """Relit `to_dict`."""
        return cls(**values)
