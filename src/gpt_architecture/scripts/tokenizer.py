"""`gpt-architecture tokenizer` : apprendre un vocabulaire, en comparer, en voir le découpage."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 tokenizer.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import time
from dataclasses import dataclass
from dataclasses import field as made_of
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, read_stdin, say
from gpt_architecture.cli.options import ResultOptions
from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.french import french_duration, french_number, french_size
from gpt_architecture.reports.console import ProgressBar, output_console, say_aside
from gpt_architecture.storage import check_outputs, json_of, nothing, page_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpt_architecture.data.texts.documents import Tally
    from gpt_architecture.data.tokenizers.bpe import BPETokenizer
    from gpt_architecture.data.tokenizers.simple import CharTokenizer

_Names = Annotated[list[str], Parameter(consume_multiple=1)]
_Text = Annotated[str | None, Parameter(allow_leading_hyphen=True)]  # « - » : l'entrée standard
_VIEW_CHARACTERS = 20_000


@Parameter(name="*", group=Group("Vocabulaire", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """Quel vocabulaire apprendre, et où l'écrire."""

    vocab_size: int = 4096
    """Nombre de tokens du vocabulaire, spéciaux compris."""

    out: Path = Path("tokenizer.json")
    """Fichier à écrire."""

    kind: Literal["bpe", "char"] = "bpe"
    """Genre de vocabulaire : des morceaux de mots (bpe), ou un token par caractère (char)."""

    pattern: Literal["gpt2", "moderne"] = "gpt2"
    """Découpage en mots : celui de GPT-2, ou celui de GPT-4 (chiffres par trois)."""

    special: Annotated[list[str], Parameter(consume_multiple=1, show_default=False)] = made_of(
        default_factory=list
    )
    """Tokens spéciaux en plus de <|endoftext|>, par exemple <|user|> et <|assistant|>."""

    no_end_of_text: bool = False
    """Sans <|endoftext|> : avec char, le vocabulaire est exactement celui de nanoGPT."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Écarte et compte ce qui est illisible, abîmé ou trop gros."""

    offline: bool = False
    """Interdit tout téléchargement."""

    sample: float | None = None
    """Part des textes sur laquelle apprendre, de 0 à 1, tirée par l'empreinte de chacun ; sans
    elle, tous."""

    task: Annotated[str | None, Parameter(metavar="i/N")] = None
    """Ne fait que tirer la part de la tâche i sur N de ces textes ; auto ou auto/N : voir
    prepare."""

    merge: bool = False
    """Apprend sur les textes que les tâches ont tirés : le vocabulaire est celui d'une seule
    machine."""

    force: bool = False
    """Remplace un fichier qui existe déjà."""


@Parameter(name="*", group=Group("Comparaison", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Quels vocabulaires comparer."""

    tokenizers: _Names = made_of(default_factory=lambda: ["gpt2"])
    """Tokenizers : gpt2, des tokenizer.json, ou des modèles."""


@Parameter(name="*", group=Group("Découpage", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Quels découpages montrer, et où."""

    tokenizer: _Names = made_of(default_factory=lambda: ["gpt2"])
    """Un ou plusieurs tokenizers : gpt2, des tokenizer.json, ou des modèles."""

    html: Path | None = None
    """Écrit une page HTML d'un seul fichier au lieu du terminal."""


def train(
    *sources: Annotated[
        str, Parameter(name="SOURCE", help="Fichiers et dossiers de textes, ou noms de corpus.")
    ],
    options: VocabularyOptions = VocabularyOptions(),
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Apprend un vocabulaire sur des textes, et l'écrit en tokenizer.json.

    Chaque source est un fichier, un dossier, une archive ou un corpus connu, lu au fil de l'eau
    comme par prepare. Le fichier écrit sert à prepare et à train (--tokenizer FICHIER), et se
    charge dans la bibliothèque tokenizers. --sample n'apprend que sur une part des textes ; sur
    plusieurs machines, --task i/N en tire une partie et --merge apprend sur toutes.
    """
    if not sources:
        raise ConfigurationError(
            "aucune source",
            expected="gpt-architecture tokenizer train SOURCE…",
            remedy="donnez des fichiers ou des dossiers de textes",
        )
    if options.kind != "char" and options.no_end_of_text:
        raise ConfigurationError(
            f"--no-end-of-text avec --kind {options.kind}",
            expected="--kind char, seul à pouvoir s'en passer",
            remedy="retirez l'un des deux",
        )
    if options.task is not None and options.merge:
        raise ConfigurationError.together("`task`", "`merge`")
    check_outputs({"--out": (options.out, nothing)}, reads=(sources, common), force=options.force)
    from gpt_architecture.data.shards import samples
    from gpt_architecture.data.texts.shares import WHOLE, Share
    from gpt_architecture.data.texts.source_texts import SourceTexts

    share = WHOLE if options.task is None else Share.parse(options.task)
    start = time.perf_counter()
    with ProgressBar("Apprentissage", width=40) as bar:

        def advance(done: int, total: int) -> None:
            bar.start(total, done)
            bar.update(done, f"{french_size(done)} lus")

        texts = SourceTexts(
            sources,
            field=options.field,
            skip_bad=options.skip_bad,
            offline=options.offline,
            sample=options.sample,
            share=share,
            on_progress=advance,
        )
        identity = samples.sample_identity(texts, field=options.field, sample=options.sample)
        if options.task is not None:
            path = samples.write_sample(texts, options.out, share, identity)
            say(f"Tâche finie. Quand toutes le sont, --merge apprend sur leurs textes : {path}")
            return
        read = samples.read_samples(options.out, identity) if options.merge else texts
        learned = _learn(read, options)
    learned.save(options.out)
    if options.merge:
        samples.remove_samples(options.out)
    _report(learned, read.tally, options, time.perf_counter() - start)


def compare(
    text: _Text = None,
    /,
    *,
    options: CompareOptions = CompareOptions(),
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Compare des vocabulaires sur un texte : tokens par mot, octets par token, tokens employés.

    Args:
        text: Fichier de texte, nom de corpus, « - » pour l'entrée standard, ou le texte lui-même.
    """
    check_outputs(
        {"--json-file": (results.json_file, json_of("tokenizer compare"))},
        reads=(text, options, common),
        force=results.force,
    )
    content = _read(text)
    from gpt_architecture.api.vocabularies import fertility_record, named_tokenizers
    from gpt_architecture.evaluation.fertility import measure_fertility

    rows = [
        measure_fertility(content, tokenizer, label=label)
        for label, tokenizer in named_tokenizers(options.tokenizers).items()
    ]
    records = [fertility_record(row) for row in rows]
    if results.as_json:
        print(json.dumps(records, ensure_ascii=False))
    results.save(records, "tokenizer compare")
    if results.as_json:
        return
    from gpt_architecture.reports.vocabularies import show_fertilities

    show_fertilities(output_console(), rows)


def view(
    text: _Text = None,
    /,
    *,
    options: ViewOptions = ViewOptions(),
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Montre le découpage d'un texte, token par token, au terminal ou dans une page HTML.

    Args:
        text: Fichier de texte, nom de corpus, « - » pour l'entrée standard, ou le texte lui-même.
    """
    check_outputs(
        {
            "--html": (options.html, page_of("vocabulary")),
            "--json-file": (results.json_file, json_of("tokenizer view")),
        },
        reads=(text, options, common),
        force=results.force,
    )
    from gpt_architecture.api.vocabularies import named_tokenizers

    content, tokenizers = _read(text), named_tokenizers(options.tokenizer)
    if len(content) > _VIEW_CHARACTERS:
        say_aside(
            f"Texte de {french_number(len(content))} caractères : les "
            f"{french_number(_VIEW_CHARACTERS)} premiers sont montrés."
        )
        content = content[:_VIEW_CHARACTERS]
    if options.html is not None:
        from gpt_architecture.reports.vocabularies import vocabulary_page
        from gpt_architecture.storage import write_atomically

        page = vocabulary_page(content, tokenizers)
        write_atomically(options.html, lambda path: path.write_text(page, encoding="utf-8"))
        say(f"Découpage écrit : {options.html}")
        if not results.wants_json:
            return
    from gpt_architecture.evaluation.fertility import split_text

    splits = {label: list(split_text(content, each)) for label, each in tokenizers.items()}
    record = {
        label: [{"text": each.text, "ids": list(each.ids)} for each in segments]
        for label, segments in splits.items()
    }
    if results.emit([record], "tokenizer view") or options.html is not None:
        return
    from gpt_architecture.reports.vocabularies import show_splits

    show_splits(output_console(), splits)


def _learn(texts: Iterable[str], options: VocabularyOptions) -> BPETokenizer | CharTokenizer:
    from gpt_architecture.api.vocabularies import learn

    return learn(
        texts,
        kind=options.kind,
        vocab_size=options.vocab_size,
        pattern=options.pattern,
        special=options.special,
        end_of_text=not options.no_end_of_text,
    )


def _report(
    learned: BPETokenizer | CharTokenizer,
    tally: Tally,
    options: VocabularyOptions,
    seconds: float,
) -> None:
    from gpt_architecture.data.shards.layout import tokenizer_sha256

    say(f"Écrit en {french_duration(seconds)} : {options.out}")
    size = french_number(learned.vocab_size)
    say(f"Vocabulaire  {size} tokens, de genre {learned.name}")
    if options.kind == "bpe":
        short = learned.vocab_size < options.vocab_size
        say(f"Découpage    {options.pattern}" + (" ; texte trop court pour plus" * short))
    say(f"Texte        {french_size(tally.text_bytes)}")
    say(f"Empreinte    {tokenizer_sha256(learned.to_dict())}")
    for reason, entry in sorted(tally.skipped.items()):
        examples = " ; ".join(entry["examples"])
        say(f"Écarté       {reason} : {french_number(entry['count'])} — {examples}")
    say(f"Ensuite      gpt-architecture tokenizer compare TEXTE --tokenizers gpt2 {options.out}")


def _read(text: str | None) -> str:
    """Le texte demandé : entrée standard, fichier, corpus nommé, ou l'argument lui-même."""
    if text is None:
        raise ConfigurationError(
            "aucun texte",
            expected="un fichier, ou un texte entre guillemets",
            remedy="complétez la commande",
        )
    from gpt_architecture.data.texts.corpus import CORPUS_NAMES, read_documents
    from gpt_architecture.data.texts.readers.base import suffixes

    if text == "-":
        content = read_stdin()
    elif _is_file(text) or text in CORPUS_NAMES:
        content = "\n".join(each.text for each in read_documents([text], offline=True))
    elif text.endswith(tuple(suffixes())) and len(text.split()) == 1:  # un nom mal tapé
        raise DataError(
            f"texte introuvable : {text[:200]}",
            expected="un fichier existant, ou un texte entre guillemets",
            remedy="corrigez ce chemin",
        )
    else:
        content = text
    if not content.strip():
        raise DataError(
            "le texte est vide", expected="quelques mots", remedy="donnez un autre texte"
        )
    return content


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # trop long, ou octet nul
        return False


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["tokenizer", *sys.argv[1:]])
