"""Le vocabulaire d'un fichier GGUF, tiré de la description `tokenizer.json` de notre tokenizer.

llama.cpp ne lit pas de motif de découpage : il connaît par leur nom ceux des modèles publiés. Un
vocabulaire n'est donc exporté que si son motif est l'un d'eux, au caractère près.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpt_architecture.data.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_json
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.gpt2 import PatternName
from gpt_architecture.data.tokenizers.protocol import role_ids
from gpt_architecture.errors import TokenizerError

PRE_TOKENIZERS: dict[PatternName, str] = {"gpt2": "gpt-2", "moderne": "dbrx"}
"""Motif de découpage → nom que llama.cpp lui donne.

« llama-bpe » a le motif de « dbrx », mais ajoute un token de début et passe outre les fusions.
"""


@dataclass(frozen=True, kw_only=True)
class GGUFVocabulary:
    """Ce que les clés `tokenizer.ggml.*` d'un fichier disent du vocabulaire.

    Attributes:
        tokens: texte de chaque identifiant, octets écrits comme GPT-2 les écrit.
        special: identifiants des tokens spéciaux.
        merges: fusions « gauche droite », dans l'ordre appris.
        pre: nom du découpage chez llama.cpp.
        start: identifiant de début de texte ; None : il n'y en a pas.
        end: identifiant de fin de texte ; None : il n'y en a pas.
    """

    tokens: list[str]
    special: frozenset[int]
    merges: list[str]
    pre: str
    start: int | None
    end: int | None


def gguf_vocabulary(tokenizer: Tokenizer) -> GGUFVocabulary:
    """Le vocabulaire d'un tokenizer.

    Raises:
        TokenizerError: ce tokenizer n'est pas un BPE par octets, ou llama.cpp n'a pas son motif
            de découpage.
    """
    if not isinstance(tokenizer, (GPT2Tokenizer, BPETokenizer)):
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas d'équivalent en GGUF",
            expected="un BPE par octets : gpt2, ou le vôtre (bpe-N)",
            remedy="exportez en ONNX, ou entraînez un autre modèle avec le tokenizer gpt2 ou "
            "bpe-4096",
        )
    document = tokenizer_json(tokenizer)
    special = {each["id"]: each["content"] for each in document["added_tokens"]}
    tokens = {index: token for token, index in document["model"]["vocab"].items()} | special
    return GGUFVocabulary(
        tokens=[tokens[index] for index in range(len(tokens))],
        special=frozenset(special),
        merges=list(document["model"]["merges"]),
        pre=_pre_tokenizer(tokenizer),
        start=role_ids(tokenizer).get("bos_token"),
        end=tokenizer.eos_id,
    )


def _pre_tokenizer(tokenizer: GPT2Tokenizer | BPETokenizer) -> str:
    """Le nom que llama.cpp donne au découpage de ce tokenizer."""
    pattern: PatternName = "gpt2" if isinstance(tokenizer, GPT2Tokenizer) else tokenizer.pattern
    name = PRE_TOKENIZERS.get(pattern)
    if name is None:
        raise TokenizerError(
            f"llama.cpp n'a pas le motif de découpage {pattern}",
            expected=", ".join(PRE_TOKENIZERS),
            remedy="refaites le vocabulaire avec l'un d'eux, ou exportez en ONNX",
        )
    return name
