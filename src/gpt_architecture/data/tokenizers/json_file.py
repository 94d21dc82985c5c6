"""Les fichiers JSON de tokenizers : lus dans des bornes, écrits d'un seul coup.

Le `tokenizer.json` de Hugging Face dit un BPE par octets en listes. Les identifiants que la
bibliothèque `tokenizers` en tire sont ceux d'ici, à un détail près : elle reconnaît toujours les
tokens spéciaux écrits dans un texte, comme `allowed_special="all"`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.tokenizers.gpt2 import PATTERNS, SPELLINGS, PatternName
from gpt_architecture.errors import TokenizerError, reason
from gpt_architecture.storage import (
    exists,
    json_bytes,
    open_regular,
    parse_json,
    read_text,
    write_atomically,
)

TOKENIZER_JSON = "tokenizer.json"
_MAX_BYTES = 64 << 20
"""Un vocabulaire de 65 536 tokens en pèse trois ou quatre."""

_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

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


@dataclass(frozen=True, kw_only=True)
class BPELists:
    """Un BPE par octets, tel qu'un `tokenizer.json` le dit.

    Attributes:
        vocab: tokens dans l'ordre de leurs identifiants.
        merges: fusions « gauche droite », de la première apprise à la dernière.
        pattern: motif de découpage.
        special: tokens spéciaux et leurs identifiants.
    """

    vocab: list[str]
    merges: list[str]
    pattern: PatternName
    special: dict[str, int]

    def document(self) -> dict[str, Any]:
        """Le document `tokenizer.json`, que la bibliothèque `tokenizers` sait charger."""
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added_token(name, index) for name, index in self.special.items()],
            "normalizer": None,
            "pre_tokenizer": _pre_tokenizer(self.pattern),
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
                "vocab": {token: index for index, token in enumerate(self.vocab)},
                "merges": self.merges,
            },
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> BPELists:
        """Relit un document.

        Raises:
            TokenizerError: autre genre de tokenizer, ou document incohérent ; le message dit quoi.
        """
        if not isinstance(document, Mapping):
            _refuse("ce n'est pas un objet JSON")
        _check_neutral(document)
        pattern = _pattern(document.get("pre_tokenizer"))
        ids, merges = _model(document.get("model"))
        special = _special(document.get("added_tokens"), ids)
        vocab = _in_order({**ids, **special})
        return cls(vocab=vocab, merges=merges, pattern=pattern, special=special)


def lists_document(
    ids: Mapping[str, int], merges: Sequence[str], *, added: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Le même document, depuis `vocab.json` et `merges.txt`, les fichiers qui l'ont précédé.

    Args:
        ids: les tokens et leurs identifiants.
        merges: les fusions « gauche droite ».
        added: les tokens de `added_tokens.json`.
    """
    special = {END_OF_TEXT: ids.get(END_OF_TEXT), **(added or {})}
    return {
        "added_tokens": [_added_token(name, index) for name, index in special.items()],
        "pre_tokenizer": _pre_tokenizer("gpt2"),
        "model": {"type": "BPE", "vocab": ids, "merges": list(merges)},
    }


def read_tokenizer_json(path: Path | str, *, names: Sequence[str]) -> Any:
    """Le contenu d'un fichier de tokenizer, ou du `tokenizer.json` d'un dossier.

    Args:
        path: le fichier ou le dossier.
        names: les noms de tokenizers, pour dire ce qui aurait convenu.

    Raises:
        TokenizerError: ni fichier ni dossier de tokenizer, ou fichier illisible.
    """
    path = Path(path)
    inside = path / TOKENIZER_JSON
    path = inside if exists(inside) else path
    if not exists(path) or path.is_dir():
        raise TokenizerError(
            f"tokenizer inconnu : {str(path)[:200]}",
            expected=f"{', '.join(names)} ou un fichier JSON existant",
            remedy="corrigez `tokenizer`",
        )
    expected = "un fichier JSON écrit par save(), ou un tokenizer.json"
    with suppress(OSError), open_regular(path) as file:
        if file.read(2).startswith(_PICKLE):
            raise _pickled(path)
    text = read_text(path, expected=expected, limit=_MAX_BYTES, error=TokenizerError)
    try:
        return parse_json(text)
    except ValueError as error:
        raise TokenizerError(
            f"{path} n'est pas un tokenizer lisible ({reason(error)})",
            expected=expected,
            remedy="recréez-le",
        ) from None


def _pickled(path: Path) -> TokenizerError:
    """Le `meta.pkl` de nanoGPT : l'ouvrir exécuterait ce qu'il contient."""
    target = path.with_suffix(".json")
    code = f"import json, pickle; json.dump(pickle.load(open({str(path)!r}, 'rb')), "
    code += f"open({str(target)!r}, 'w'))"
    quoted = shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'
    return TokenizerError(
        f"{path} est un pickle, que ce projet n'ouvre pas : il peut exécuter n'importe quoi",
        expected="le même contenu en JSON",
        remedy=f"si vous vous fiez à son auteur : python -c {quoted}, et donnez {target}",
    )


def write_json(path: Path | str, document: dict[str, Any], *, indent: int | None = None) -> None:
    """Écrit un document en JSON (UTF-8) : en entier, ou pas du tout.

    Raises:
        OutputError: le système refuse ; ce qui était là n'a pas changé.
    """
    data = json_bytes(document, indent=indent)
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(data))


def _refuse(problem: str) -> NoReturn:
    raise TokenizerError(
        f"tokenizer.json non pris en charge : {problem}",
        expected="un BPE par octets comme celui de GPT-2, sans normalisation",
        remedy="prenez un modèle de la famille GPT-2, ou gpt2",
    )


def _added_token(name: str, index: int | None) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": name, **plain, "special": True}


def _pre_tokenizer(pattern: PatternName) -> dict[str, Any]:
    if pattern == "gpt2":  # le motif que ByteLevel porte en lui
        return {**_BYTE_LEVEL, "use_regex": True}
    regex = {"Regex": PATTERNS[pattern]}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


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
