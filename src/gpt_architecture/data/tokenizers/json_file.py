"""Le `tokenizer.json` de Hugging Face : l'écrire, et relire ceux qui sont un BPE par octets.

Les identifiants que la bibliothèque `tokenizers` en tire sont ceux d'ici, à un détail près : elle
reconnaît toujours les tokens spéciaux écrits dans un texte, comme `allowed_special="all"`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NoReturn

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizer import GPT2Tokenizer, Tokenizer
from gpt_architecture.data.tokenizers.bpe import BPETokenizer, byte_characters
from gpt_architecture.data.tokenizers.patterns import PATTERNS, SPELLINGS, PatternName
from gpt_architecture.errors import TokenizerError

GPT2_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
"""Empreinte de `vocab.bpe`, le fichier des fusions publié par OpenAI."""

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
_HARMLESS_MODEL = {
    "dropout": (None, 0, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
"""Réglages d'un modèle BPE, et leurs valeurs qui ne changent rien."""


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """Le document `tokenizer.json` d'un tokenizer gpt2 ou bpe, que `tokenizers` sait charger.

    Raises:
        TokenizerError: tokenizer de mots ou de caractères, que ce format ne sait pas dire.
    """
    if isinstance(tokenizer, GPT2Tokenizer):
        vocab, merges = _gpt2_vocab(), list(_gpt2_merges())
        pattern: PatternName = "gpt2"
        special = {END_OF_TEXT: len(vocab) - 1}
    elif isinstance(tokenizer, BPETokenizer):
        description = tokenizer.to_dict()
        vocab, merges = description["vocab"], description["merges"]
        pattern, special = tokenizer.pattern, tokenizer.special
    else:
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas d'équivalent en tokenizer.json : il ne code "
            "pas les octets du texte",
            expected="gpt2 ou un BPE par octets",
            remedy="entraînez le modèle avec gpt2 ou avec « gpt-architecture tokenizer train »",
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(name, special[name]) for name in special],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(pattern),
        "post_processor": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(vocab)},
            "merges": merges,
        },
    }


def tokenizer_from_json(
    document: Mapping[str, Any], *, roles: Mapping[str, str] | None = None
) -> Tokenizer:
    """Le tokenizer d'un document `tokenizer.json` : celui de GPT-2, ou un BPE par octets.

    Celui de GPT-2 se reconnaît à son contenu, et devient `GPT2Tokenizer`.

    Args:
        document: le contenu du fichier.
        roles: le nom des tokens spéciaux qui ont un rôle ; voir `BPETokenizer`.

    Raises:
        TokenizerError: autre genre de tokenizer, ou document incohérent ; le message dit quoi.
        MissingDependencyError: tiktoken (GPT-2) ou tokenizers (BPE) manque.
    """
    if not isinstance(document, Mapping):
        _refuse("ce n'est pas un objet JSON")
    _check_neutral(document)
    pattern = _pattern(document.get("pre_tokenizer"))
    vocab, merges = _model(document.get("model"))
    added = _special(document.get("added_tokens"), vocab)
    tokens = _in_order({**vocab, **added})
    special = tuple(added)
    if pattern == "gpt2" and special == (END_OF_TEXT,) and _is_gpt2(tokens, merges):
        return GPT2Tokenizer()
    return BPETokenizer(tokens, merges, pattern=pattern, special=special, roles=roles)


def tokenizer_from_lists(
    ids: Mapping[str, int],
    merges: Sequence[str],
    *,
    added: Mapping[str, int] | None = None,
    roles: Mapping[str, str] | None = None,
) -> Tokenizer:
    """Le tokenizer de `vocab.json` et `merges.txt`, les fichiers de GPT-2 avant `tokenizer.json`.

    Args:
        ids: les tokens et leurs identifiants.
        merges: les fusions « gauche droite ».
        added: les tokens de `added_tokens.json`.
        roles: voir `tokenizer_from_json`.

    Raises:
        TokenizerError: listes incohérentes, ou sans fin de texte.
        MissingDependencyError: voir `tokenizer_from_json`.
    """
    special = {END_OF_TEXT: ids.get(END_OF_TEXT), **(added or {})}
    return tokenizer_from_json(
        {
            "added_tokens": [_added_token(name, special[name]) for name in special],
            "pre_tokenizer": _pre_tokenizer("gpt2"),
            "model": {"type": "BPE", "vocab": ids, "merges": list(merges)},
        },
        roles=roles,
    )


def _refuse(problem: str) -> NoReturn:
    raise TokenizerError(
        f"tokenizer.json non pris en charge : {problem}",
        expected="un BPE par octets comme celui de GPT-2, sans normalisation",
        remedy="prenez un modèle de la famille GPT-2, ou gpt2",
    )


def _added_token(name: str, index: int | None) -> dict[str, Any]:
    return {
        "id": index,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _pre_tokenizer(pattern: PatternName) -> dict[str, Any]:
    if pattern == "gpt2":  # le motif que ByteLevel porte en lui
        return {**_BYTE_LEVEL, "use_regex": True}
    split = {"Regex": PATTERNS[pattern]}
    return {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": split, "behavior": "Isolated", "invert": False},
            _BYTE_LEVEL,
        ],
    }


def _check_neutral(document: Mapping[str, Any]) -> None:
    """Refuse ce qui changerait le texte avant le BPE, ou les tokens après."""
    if document.get("normalizer") is not None:
        _refuse(f"normalisation {_kind(document['normalizer'])}")
    for name, role in (("post_processor", "ajout de tokens"), ("decoder", "décodage")):
        step = document.get(name)
        if step is not None and _kind(step) != "ByteLevel":
            _refuse(f"{role} {_kind(step)}")


def _kind(step: Any) -> str:
    return str(step.get("type"))[:80] if isinstance(step, Mapping) else "illisible"


def _pattern(step: Any) -> PatternName:
    """Le motif du découpage : GPT-2 par ByteLevel seul, ou un motif connu puis ByteLevel."""
    if _kind(step) == "ByteLevel" and step.get("use_regex", True) is True:
        _check_prefix_space(step)
        return "gpt2"
    steps = step.get("pretokenizers") if _kind(step) == "Sequence" else None
    if (
        isinstance(steps, list)
        and [_kind(each) for each in steps] == ["Split", "ByteLevel"]
        and steps[0].get("behavior") == "Isolated"
        and steps[0].get("invert", False) is False
        and steps[1].get("use_regex", True) is False
    ):
        _check_prefix_space(steps[1])
        regex = steps[0].get("pattern")
        written = regex.get("Regex") if isinstance(regex, Mapping) else None
        if isinstance(written, str) and written in SPELLINGS:
            return SPELLINGS[written]
        _refuse("motif de découpage inconnu")
    _refuse(f"découpage {_kind(step)}")


def _check_prefix_space(step: Mapping[str, Any]) -> None:
    if step.get("add_prefix_space", True) is not False:
        _refuse("une espace ajoutée au début du texte")


def _model(model: Any) -> tuple[dict[str, int], list[str]]:
    """Le vocabulaire et les fusions « gauche droite » d'un modèle BPE."""
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE":
        _refuse(f"modèle {_kind(model)}")
    for name, harmless in _HARMLESS_MODEL.items():
        if model.get(name) not in harmless:
            _refuse(f"réglage {name} = {str(model[name])[:80]}")
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        _refuse("vocab ou merges manque")
    return vocab, [_merge(each) for each in merges]


def _merge(merge: Any) -> str:
    if isinstance(merge, str):
        return merge
    if isinstance(merge, list) and len(merge) == 2 and all(type(half) is str for half in merge):
        return " ".join(merge)
    _refuse(f"fusion illisible {str(merge)[:80]}")


def _special(added: Any, vocab: dict[str, int]) -> dict[str, int]:
    """Les tokens spéciaux, que `vocab` n'a pas toujours."""
    if not isinstance(added, list):
        _refuse("added_tokens manque")
    for token in added:
        name = token.get("content") if isinstance(token, Mapping) else None
        if type(name) is not str or not name or type(token.get("id")) is not int:
            _refuse("un token ajouté illisible")
        if token.get("special") is not True or any(
            token.get(key, False) is not False for key in ("single_word", "lstrip", "rstrip")
        ):
            _refuse(f"token ajouté {name[:80]!r}, qui n'est pas un simple token spécial")
        if vocab.get(name, token["id"]) != token["id"]:
            _refuse(f"deux identifiants pour {name[:80]!r}")
    return {token["content"]: token["id"] for token in added}


def _in_order(vocab: dict[str, int]) -> list[str]:
    """Les tokens dans l'ordre de leurs identifiants, qui doivent se suivre."""
    if any(type(index) is not int for index in vocab.values()):
        _refuse("un identifiant qui n'est pas un entier")
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[token] for token in tokens] != list(range(len(tokens))):
        _refuse("des identifiants qui ne se suivent pas")
    return tokens


def _is_gpt2(tokens: Sequence[str], merges: Sequence[str]) -> bool:
    if len(tokens) != len(merges) + 257:
        return False
    published = "\n".join(["#version: 0.2", *merges, ""])
    return hashlib.sha256(published.encode()).hexdigest() == GPT2_MERGES_SHA256 and [
        *sorted(byte_characters()),
        *(merge.replace(" ", "") for merge in merges),
        END_OF_TEXT,
    ] == list(tokens)


def _gpt2_vocab() -> list[str]:
    characters = byte_characters()
    *tokens, _ = GPT2Tokenizer().token_bytes()
    return [*("".join(characters[octet] for octet in token) for token in tokens), END_OF_TEXT]


@lru_cache(maxsize=1)
def _gpt2_merges() -> tuple[str, ...]:
    """Les fusions de GPT-2, retrouvées des rangs : chaque token coupé par les seuls précédents."""
    vocab = _gpt2_vocab()
    ranks = {token: rank for rank, token in enumerate(vocab[:-1])}
    return tuple(" ".join(_two_halves(token, ranks)) for token in vocab[256:-1])


def _two_halves(token: str, ranks: dict[str, int]) -> list[str]:
    parts, limit = list(token), ranks[token]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = pairs.index(min(pairs))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
