"""D'où part un entraînement : d'un préréglage, d'une reprise ou d'un modèle ; ce qu'il en garde."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_architecture.config.training import TRAINING_PRESETS
from gpt_architecture.errors import ConfigurationError

EXAMPLES = ("chat", "preferences", "classify")
"""Les réglages qui nomment des exemples entiers, lus à la place d'un texte."""


def kept_settings(
    implied: Mapping[str, Any], *, data: bool, sources: bool, examples: bool = False
) -> dict[str, Any]:
    """Les réglages retrouvés, sans le texte qu'un autre, demandé, remplace.

    Args:
        implied: ceux que `preset`, `resume` ou `start` dit.
        data: un texte est demandé : il remplace un mélange.
        sources: un mélange est demandé : il remplace un texte.
        examples: l'un des `EXAMPLES` est demandé : il remplace le texte d'un préréglage, et le
            décalage de ses fenêtres.
    """
    replaced = {"data"} if sources else {"source"} if data else set[str]()
    if examples:
        replaced |= {"data", "stride"}
    return {
        name: value for name, value in implied.items() if value is not None and name not in replaced
    }


def check_origin(
    *,
    preset: str | None,
    resume: object,
    start: object,
    tokenizer: object,
    teacher: object = None,
) -> None:
    """Refuse deux origines à la fois : un préréglage, une reprise, un modèle de départ.

    Raises:
        ConfigurationError: deux d'entre elles sont données, ou le préréglage est inconnu.
    """
    if resume is not None and preset is not None:
        raise ConfigurationError.together(
            "`resume`", "`preset`", expected="l'un ou l'autre : une reprise retrouve ses options"
        )
    if start is not None and preset is not None:
        raise ConfigurationError.together(
            "`start`",
            "`preset`",
            expected="l'un ou l'autre : un préréglage fixe une forme, le modèle a la sienne",
        )
    if resume is None and start is not None and tokenizer is not None:
        raise ConfigurationError.together(
            "`start`",
            "`tokenizer`",
            expected="le tokenizer du modèle de départ, que ses poids ont appris",
        )
    if resume is None and teacher is not None and tokenizer is not None:
        raise ConfigurationError.together(
            "`distill`", "`tokenizer`", expected="le tokenizer du professeur, qui est aussi le sien"
        )
    if preset is not None and preset not in TRAINING_PRESETS:
        raise ConfigurationError(
            f"préréglage inconnu : {preset}",
            expected=", ".join(TRAINING_PRESETS),
            remedy="corrigez `preset`",
        )
