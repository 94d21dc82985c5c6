"""`gpt-architecture prepare` : de textes à des fragments de tokens."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 prepare.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, say
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import (
    decimal,
    french_duration,
    french_number,
    french_size,
    plural,
    short,
)
from gpt_architecture.storage import check_not_read

if TYPE_CHECKING:
    from gpt_architecture.data.shards.prepare import PreparedTokens

_LARGE_SHARE = 5  # une validation tant de fois plus grosse que demandé mérite d'être dite


@Parameter(name="*", group=Group("Préparation", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Où écrire, et comment couper."""

    out: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Dossier à écrire."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Écarte et compte ce qui est illisible, abîmé ou trop gros ; sans elle, le premier défaut
    arrête tout."""

    offline: bool = False
    """Interdit tout téléchargement."""

    tokenizer: str = "gpt2"
    """Tokenizer : gpt2, ou un tokenizer.json, par exemple de « tokenizer train »."""

    val_fraction: float | None = None
    """Part des documents gardée pour la validation ; sans elle, 0.01, ou 0.1 pour moins de 1 Mio de
    texte."""

    shard_tokens: int = 100_000_000
    """Nombre de tokens par fragment."""

    workers: int | None = None
    """Nombre de processus ; sans lui, un par cœur. Le résultat n'en dépend pas."""

    seed: int = 0
    """Graine de la répartition des documents."""

    max_line_bytes: int = 32 << 20
    """Longueur, en octets, au-delà de laquelle une ligne ou une valeur est écartée."""

    corpus: bool = False
    """Énumère les corpus connus par leur nom, et s'arrête là."""

    force: bool = False
    """Remplace un dossier préparé avec d'autres réglages, ou recommence."""


def prepare(
    *sources: Annotated[
        str,
        Parameter(name="SOURCE", help="Fichiers et dossiers, ou noms de corpus, dans l'ordre."),
    ],
    options: PrepareOptions = PrepareOptions(),
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Prépare des textes pour l'entraînement : fragments de tokens, entraînement et validation.

    Chaque source est un fichier, un dossier, une archive, un corpus connu (the-verdict,
    la-lampe-du-passeur) ou un jeu de Hugging Face (hf:AUTEUR/NOM). Se lisent : texte, JSON,
    JSONL, CSV, Parquet, Arrow, HTML, EPUB, DOCX, ODT et PDF, compressés ou non. Une préparation
    interrompue reprend quand on relance la même commande.
    """
    if options.corpus:
        _list_corpora()
        return 0
    if not sources or options.out is None:
        raise ConfigurationError(
            "aucune source" if not sources else "--out n'est pas donné",
            expected="gpt-architecture prepare SOURCE… --out DOSSIER",
            remedy="complétez la commande",
        )
    check_not_read(options.out, (sources, options.tokenizer, common), "--out")
    from gpt_architecture.api import prepare as prepared

    settings = {name: value for name, value in vars(options).items() if name != "corpus"}
    start = time.perf_counter()
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        result = prepared(sources, **settings, progress=True)
    except KeyboardInterrupt:
        print("Interrompu ; relancez la même commande pour reprendre.", file=sys.stderr)
        return 130
    except SystemExit:
        print("Arrêté ; relancez la même commande pour reprendre.", file=sys.stderr)
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    _report(result, time.perf_counter() - start)
    return 0


def _list_corpora() -> None:
    from gpt_architecture.data.texts.corpus import CORPUS_NAMES, VERDICT
    from gpt_architecture.data.texts.installed import PACKAGES

    for name in CORPUS_NAMES:
        said = "une nouvelle anglaise, domaine public" if name == VERDICT else "embarqué, MIT"
        print(f"{name:<24} {said}")
    for each in PACKAGES:
        there = "installé" if each.files() else f"sudo apt install {each.name}"
        print(f"{each.name:<24} {there}, {each.licence} — {each.about}")


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # ce qui se dit l'est hors du signal


def _report(result: PreparedTokens, seconds: float) -> None:
    """Dit ce qui a été préparé, et ce qui ne l'a pas été."""
    documents, tokens = sum(result.documents.values()), sum(result.tokens.values())
    if result.outcome == "present":
        say(f"{result.folder} est déjà préparé, avec ces mêmes réglages ; rien à faire.")
    else:
        say(f"Préparé en {french_duration(seconds)} : {result.folder}")
    written = french_number(result.separated)
    separated = f", dont {written} après un <|endoftext|> écrit" if result.separated else ""
    say(f"Documents    {french_number(documents)}{separated}")
    say(
        f"Tokens       {french_number(tokens)} : "
        f"{french_number(result.tokens['train'])} d'entraînement, "
        f"{french_number(result.tokens['val'])} de validation"
    )
    ratio = decimal(result.bytes_per_token)
    say(f"Texte        {french_size(result.text_bytes)}, {ratio} octets par token")
    wanted = 100 * result.val_fraction
    if result.single_document:
        say("Un seul document : sa fin, et non des documents, fait la validation.")
    elif (share := 100 * result.tokens["val"] / tokens) > _LARGE_SHARE * wanted:
        say(
            f"Validation   {short(share)} % des tokens pour "
            f"{short(wanted)} % {plural(int(wanted), 'demandé')} : "
            "trop peu de documents pour mieux répartir"
        )
    for reason, entry in sorted(result.skipped.items()):
        examples = entry["examples"]
        more = " ; …" if entry["count"] > len(examples) else ""
        count = french_number(entry["count"])
        say(f"Écarté       {reason} : {count} — {' ; '.join(examples)}{more}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["prepare", *sys.argv[1:]])
