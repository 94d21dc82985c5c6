"""Le bilan d'une préparation : ce qui est entré, ce qui est sorti, ce qui a été retiré."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.layout import read_index
from gpt_architecture.data.shards.prepare import PreparedTokens
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts.documents import SPLITS
from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.french import decimal, french_size, percent, plural, thousands
from gpt_architecture.reports.pages import render
from gpt_architecture.storage import write_atomically

_READ_TOKENS = 1 << 22
_STEP_NAMES = {
    "nfc": "forme normale NFC",
    "controls": "caractères invisibles",
    "personal": "données personnelles",
    "languages": "langues gardées",
    "exact": "doublons exacts",
    "near": "quasi-doublons",
    "lines": "lignes répétées",
    "paragraphs": "paragraphes répétés",
    "validation": "recouvrement avec la validation",
    "evaluation": "textes d'évaluation",
    "ngram": "mots d'un recouvrement",
}
_RULE_NAMES = {
    "min_words": "mots, au moins",
    "min_word_length": "longueur moyenne d'un mot, au moins",
    "max_word_length": "longueur moyenne d'un mot, au plus",
    "symbols": "symboles par mot, au plus",
    "letters": "part des mots qui ont une lettre, au moins",
    "function_words": "mots-outils différents, au moins",
    "bullets": "part des lignes à puce, au plus",
    "ellipses": "part des lignes à points de suspension, au plus",
    "punctuated": "part des lignes ponctuées, au moins",
    "repeated_lines": "part des lignes répétées, au plus",
    "top_bigram": "part de la paire de mots la plus fréquente, au plus",
    "top_trigram": "part des trois mots les plus fréquents, au plus",
    "top_fourgram": "part des quatre mots les plus fréquents, au plus",
    "repeated_fivegrams": "part des suites de cinq mots répétées, au plus",
    "repeated_tengrams": "part des suites de dix mots répétées, au plus",
}
_LANGUAGES = {
    **{"?": "inconnue", "zxx": "aucune", "ar": "arabe", "bg": "bulgare", "br": "breton"},
    **{"ca": "catalan", "cs": "tchèque", "da": "danois", "de": "allemand", "el": "grec"},
    **{"en": "anglais", "eo": "espéranto", "es": "espagnol", "eu": "basque", "fa": "persan"},
    **{"fi": "finnois", "fr": "français", "gl": "galicien", "he": "hébreu", "hi": "hindi"},
    **{"hr": "croate", "hu": "hongrois", "id": "indonésien", "it": "italien", "ja": "japonais"},
    **{"ko": "coréen", "la": "latin", "lb": "luxembourgeois", "nl": "néerlandais"},
    **{"no": "norvégien", "oc": "occitan", "pl": "polonais", "pt": "portugais", "ro": "roumain"},
    **{"ru": "russe", "sk": "slovaque", "sl": "slovène", "sr": "serbe", "sv": "suédois"},
    **{"tr": "turc", "uk": "ukrainien", "vi": "vietnamien", "wa": "wallon", "zh": "chinois"},
}
_VALUES = {True: "oui", False: "non", "mask": "masquées", "drop": "écartent", "keep": "laissées"}


@dataclass(frozen=True)
class Bar:
    """Une barre : son nom, ce qu'elle compte, et sa longueur de 0 à 1."""

    label: str
    count: str
    share: float
    note: str = ""


def write_hygiene_page(path: Path | str, prepared: PreparedTokens) -> None:
    """Écrit la page, d'un seul fichier, qui ne demande rien au réseau.

    Args:
        path: le fichier.
        prepared: un dossier préparé, qui existe encore.

    Raises:
        OutputError: le fichier ne peut pas être écrit.
        DataError: le dossier est illisible.
    """
    content = hygiene_page(prepared)
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def hygiene_page(prepared: PreparedTokens) -> str:
    """Le texte HTML de la page."""
    index = read_index(prepared.folder)
    found = prepared.hygiene or {"effects": {}, "languages": {}, "read": None, "kept": None}
    effects: Mapping[str, Mapping[str, Any]] = found["effects"]
    ordered = sorted(effects.items(), key=lambda each: (-each[1]["characters"], each[0]))
    return render(
        "hygiene",
        facts=_facts(prepared, index),
        tiles=_tiles(prepared, found),
        effects=_effect_bars(ordered),
        languages=_language_bars(found["languages"]),
        lengths=length_bars(document_lengths(prepared)),
        examples=[
            (reason, _counted(effect), effect["examples"])
            for reason, effect in ordered
            if effect["examples"]
        ],
        skipped=sorted(prepared.skipped.items()),
        settings=_settings(index["settings"].get("hygiene")),
    )


def document_lengths(prepared: PreparedTokens) -> list[int]:
    """Combien de documents par tranche de longueur : de 2ⁿ à 2ⁿ⁺¹ − 1 tokens, au rang n.

    Les fragments sont relus par morceaux. Un document coupé entre les deux parts y est deux fois.
    """
    counts = torch.zeros(64, dtype=torch.int64)
    for split in SPLITS:
        if not prepared.tokens[split]:
            continue
        shards = open_shards(prepared.folder, split)
        assert shards.tokenizer is not None  # noqa: S101 — un dossier préparé a un index
        eos = separator_of(tokenizer_from_dict(shards.tokenizer))
        before = -1
        for start in range(0, shards.num_tokens, _READ_TOKENS):
            ids = shards.read(start, min(_READ_TOKENS, shards.num_tokens - start))
            places = torch.nonzero(ids == eos).flatten() + start
            edges = torch.cat([torch.tensor([before]), places])
            lengths = edges.diff() - 1
            counts += _by_octave(lengths[lengths > 0])
            before = int(edges[-1])
        counts += _by_octave(torch.tensor([max(shards.num_tokens - before - 1, 1)]))
    return [int(each) for each in counts]


def _by_octave(lengths: torch.Tensor) -> torch.Tensor:
    return torch.bincount(lengths.double().log2().long(), minlength=64)


def length_bars(counts: Sequence[int]) -> list[Bar]:
    """Les barres des tranches occupées, sans trou entre elles."""
    used = [rank for rank, count in enumerate(counts) if count]
    if not used:
        return []
    most = max(counts)
    return [
        Bar(
            "1" if rank == 0 else f"{thousands(2**rank)} à {thousands(2 ** (rank + 1) - 1)}",
            thousands(counts[rank]),
            counts[rank] / most,
        )
        for rank in range(used[0], used[-1] + 1)
    ]


def _effect_bars(ordered: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Bar]:
    most = max((effect["characters"] for _, effect in ordered), default=0)
    return [
        Bar(
            reason,
            _counted(effect),
            effect["characters"] / most if most else 0.0,
            thousands(effect["characters"]),
        )
        for reason, effect in ordered
    ]


def _counted(effect: Mapping[str, Any]) -> str:
    return f"{thousands(effect['count'])} {plural(effect['count'], effect['unit'])}"


def _language_bars(languages: Mapping[str, Sequence[int]]) -> list[Bar]:
    ordered = sorted(languages.items(), key=lambda each: (-each[1][1], each[0]))
    total = sum(size for _, (_, size) in ordered) or 1
    return [
        Bar(
            _LANGUAGES.get(name, f"code {name}"),
            thousands(count),
            size / ordered[0][1][1] if ordered[0][1][1] else 0.0,
            percent(size / total),
        )
        for name, (count, size) in ordered
    ]


def _tiles(prepared: PreparedTokens, found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Ce qui ressort : (titre, valeur, précision)."""
    tiles = list[tuple[str, str, str]]()
    if found["read"] is not None:
        read, kept = found["read"], found["kept"]
        for title, key, shown in (
            ("Documents", "documents", thousands),
            ("Texte", "bytes", french_size),
        ):
            share = kept[key] / read[key] if read[key] else 0.0
            detail = f"gardés sur {shown(read[key])} ({percent(share)})"
            tiles.append((title, shown(kept[key]), detail))
    else:
        tiles.append(("Documents", thousands(sum(prepared.documents.values())), "aucune hygiène"))
    tokens = sum(prepared.tokens.values())
    ratio = f"{decimal(prepared.bytes_per_token)} octets par token"
    tiles.append(("Tokens", thousands(tokens), ratio))
    held_out = prepared.tokens["val"]
    note = f"{thousands(held_out)} tokens ; demandé : {percent(prepared.val_fraction)}"
    tiles.append(("Validation", percent(held_out / tokens), note))
    return tiles


def _facts(prepared: PreparedTokens, index: Mapping[str, Any]) -> list[tuple[str, str]]:
    train, held_out = (thousands(prepared.documents[split]) for split in SPLITS)
    return [
        ("fichiers lus", thousands(len(index["sources"]))),
        ("tokenizer", _name_of(index)),
        ("documents d'entraînement", train),
        ("documents de validation", held_out),
        ("graine", str(index["settings"]["seed"])),
    ]


def _name_of(index: Mapping[str, Any]) -> str:
    return str(index["tokenizer"].get("name", "?"))[:80]


def _settings(steps: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Les seuils, en mots."""
    return [] if steps is None else [*_said(steps)]


def _said(steps: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, name in _STEP_NAMES.items():
        value = steps[key]
        if isinstance(value, list):
            names = [str(each[0] if isinstance(each, list) else each) for each in value]
            yield name, ", ".join(names) or "toutes" * (key == "languages") or "aucun"
        elif isinstance(value, (bool, str)):
            yield name, _VALUES.get(value, str(value))
        else:
            yield name, str(value).replace(".", ",") if value else "non"
    rules = steps["quality"]
    if rules is None:
        yield "qualité", "non"
    for key, value in (rules or {}).items():
        yield f"qualité : {_RULE_NAMES[key]}", str(value).replace(".", ",")
