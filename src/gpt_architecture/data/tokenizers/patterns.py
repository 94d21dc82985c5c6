"""Les motifs qui découpent un texte en mots avant tout BPE : celui de GPT-2, celui de GPT-4.

Une fusion n'enjambe jamais deux de ces mots : le motif décide de ce qu'un token peut contenir.
"""

from __future__ import annotations

from typing import Literal, get_args

PatternName = Literal["gpt2", "moderne"]
PATTERN_NAMES: tuple[PatternName, ...] = get_args(PatternName)

GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # motif de GPT-2
)
MODERN_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)"  # contractions, sans égard à la casse
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # des lettres, et le signe ou l'espace qui les précède
    r"|\p{N}{1,3}"  # les chiffres, par trois au plus
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # des signes, et les fins de ligne qui les suivent
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Le découpage de GPT-4 (`cl100k_base` de tiktoken, repris par Llama 3)."""

PATTERNS: dict[PatternName, str] = {"gpt2": GPT2_PATTERN, "moderne": MODERN_PATTERN}

SPELLINGS: dict[str, PatternName] = {
    GPT2_PATTERN: "gpt2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    MODERN_PATTERN: "moderne",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "moderne",
}
"""Les écritures connues d'un même motif, telles qu'un `tokenizer.json` les porte."""
