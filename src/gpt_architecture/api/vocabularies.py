"""Un vocabulaire appris sur des textes, et plusieurs comparés."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gpt_architecture.api.loading import find_tokenizer
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.api.views import Table
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.texts.corpus import CORPUS_NAMES, read_documents
from gpt_architecture.data.texts.source_texts import SourceTexts
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.fertility import Fertility, measure_fertility
from gpt_architecture.french import french_size, plural, thousands
from gpt_architecture.storage import check_outputs, exists, nothing

_RATIOS = ("tokens_per_word", "bytes_per_token", "share_used")


@dataclass(frozen=True, kw_only=True, repr=False)
class Vocabulary:
    """Un vocabulaire appris, et écrit.

    Attributes:
        tokenizer: le tokenizer, prêt à coder.
        output: son fichier, que `train` et `prepare` lisent.
        text_bytes: octets du texte lu.
        skipped: raison → ce qui a été écarté du texte, et combien de fois.
        seconds: durée de l'apprentissage.
    """

    tokenizer: BPETokenizer | CharTokenizer
    output: str
    text_bytes: int
    skipped: Mapping[str, Any]
    seconds: float

    @property
    def vocab_size(self) -> int:
        """Ses tokens, spéciaux compris."""
        return self.tokenizer.vocab_size

    @property
    def sha256(self) -> str:
        """Son empreinte."""
        return tokenizer_sha256(self.tokenizer.to_dict())

    @property
    def _facts(self) -> list[tuple[str, str]]:
        skipped = sum(entry["count"] for entry in self.skipped.values())
        facts = [
            ("genre", self.tokenizer.name),
            ("tokens", thousands(self.vocab_size)),
            ("texte lu", french_size(self.text_bytes)),
        ]
        return [*facts, ("écartés", thousands(skipped))] if skipped else facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Vocabulary({self.output} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        notes = [f"Empreinte : {self.sha256}"]
        return facts_cell(f"Vocabulaire : {self.output}", self._facts, notes=notes)


@checked_options
def train_tokenizer(
    sources: str | Path | Sequence[str | Path],
    out: str | Path = "tokenizer.json",
    *,
    vocab_size: int = 4096,
    kind: Literal["bpe", "char"] = "bpe",
    pattern: Literal["gpt2", "moderne"] = "gpt2",
    special: Sequence[str] = (),
    end_of_text: bool = True,
    field: str | None = None,
    skip_bad: bool = False,
    offline: bool = False,
    sample: float | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> Vocabulary:
    """Apprend un vocabulaire sur des textes, comme `gpt-architecture tokenizer train`.

    Args:
        sources: un fichier ou un dossier de textes, un corpus connu, ou une suite d'entre eux.
        out: fichier à écrire.
        vocab_size: tokens du vocabulaire, spéciaux compris.
        kind: des morceaux de mots (`bpe`), ou un token par caractère (`char`).
        pattern: découpage en mots : celui de GPT-2, ou celui de GPT-4.
        special: tokens spéciaux en plus de la fin de texte.
        end_of_text: faux, avec `char` : le vocabulaire est exactement celui de nanoGPT.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        sample: part des textes sur laquelle apprendre, tirée par l'empreinte de chacun ; None :
            tous.
        force: remplace un fichier qui existe.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: aucune source, ou réglages qui ne vont pas ensemble.
        DataError: source absente ou sans texte.
        OutputError: fichier pris, ou disque qui refuse.
        TokenizerError: taille hors bornes, ou token spécial mal écrit.

    Examples:
        >>> from gpt_architecture import train_tokenizer
        >>> found = train_tokenizer("texte.txt", "petit.json", vocab_size=300)
        >>> found.vocab_size, found.tokenizer.decode(found.tokenizer.encode("Un soir"))
        (300, 'Un soir')
    """
    from gpt_architecture.reports.console import ProgressBar

    given = listed(sources)
    if not given:
        raise ConfigurationError(
            "aucune source", expected="un texte ou plusieurs", remedy="donnez `sources`"
        )
    if kind != "char" and not end_of_text:
        raise ConfigurationError(
            f"`end_of_text=False` avec `kind={kind}`",
            expected="`kind=char`, seul à pouvoir s'en passer",
            remedy="retirez l'un des deux",
        )
    check_outputs({"`out`": (Path(out), nothing)}, reads=given, force=force)
    start = time.perf_counter()
    with ProgressBar("Apprentissage", width=40, shown=progress) as bar:

        def advance(done: int, total: int) -> None:
            bar.start(total, done)
            bar.update(done, f"{french_size(done)} lus")

        texts = SourceTexts(
            given,
            field=field,
            skip_bad=skip_bad,
            offline=offline,
            sample=sample,
            on_progress=advance,
        )
        learned = learn(
            texts,
            kind=kind,
            vocab_size=vocab_size,
            pattern=pattern,
            special=special,
            end_of_text=end_of_text,
        )
    learned.save(Path(out))
    return Vocabulary(
        tokenizer=learned,
        output=str(out),
        text_bytes=texts.tally.text_bytes,
        skipped=texts.tally.skipped,
        seconds=time.perf_counter() - start,
    )


def learn(
    texts: Iterable[str],
    *,
    kind: Literal["bpe", "char"],
    vocab_size: int,
    pattern: Literal["gpt2", "moderne"],
    special: Sequence[str],
    end_of_text: bool,
) -> BPETokenizer | CharTokenizer:
    """Le vocabulaire de textes ; voir `train_tokenizer`."""
    if kind == "char":
        return CharTokenizer.train(texts, end_of_text=end_of_text)
    return BPETokenizer.train(texts, vocab_size, pattern=pattern, special=special)


@checked_options
def compare_tokenizers(
    text: str | Path,
    tokenizers: str | Path | Tokenizer | Sequence[str | Path | Tokenizer] = ("gpt2",),
    *,
    offline: bool = True,
) -> Table:
    """Compare des vocabulaires sur un texte, comme `gpt-architecture tokenizer compare`.

    Args:
        text: un fichier, un corpus connu, ou le texte lui-même.
        tokenizers: `gpt2`, des tokenizer.json, des modèles, ou des tokenizers déjà ouverts.
        offline: interdit tout téléchargement.

    Returns:
        Une ligne par vocabulaire : sa taille, les tokens du texte, ses tokens par mot, les octets
        que porte un token, la part du vocabulaire que le texte emploie.

    Raises:
        ConfigurationError: aucun tokenizer.
        DataError: texte sans un mot.
        TokenizerError: vocabulaire illisible, ou qui ne sait pas coder le texte.

    Examples:
        >>> from gpt_architecture import compare_tokenizers
        >>> found = compare_tokenizers("Un soir, la lampe.", ["gpt2", "modele"])
        >>> found["label"], found["tokens"][0] > 0
        (['gpt2', 'modele'], True)
    """
    is_file = exists(text) and Path(text).is_file()
    if isinstance(text, Path) or is_file or text in CORPUS_NAMES:
        documents = read_documents([str(text)], offline=offline)
        text = "\n".join(each.text for each in documents)
    rows = [
        fertility_record(measure_fertility(str(text), tokenizer, label=label))
        for label, tokenizer in named_tokenizers(tokenizers).items()
    ]
    title = f"{len(rows)} {plural(len(rows), 'vocabulaire')} sur le même texte"
    return Table({name: [row[name] for row in rows] for name in rows[0]}, title=title)


def fertility_record(measured: Fertility) -> dict[str, Any]:
    """Les mesures d'un vocabulaire, en types simples : le JSON de la commande."""
    return asdict(measured) | {name: getattr(measured, name) for name in _RATIOS}


def named_tokenizers(
    given: str | Path | Tokenizer | Sequence[str | Path | Tokenizer],
) -> dict[str, Tokenizer]:
    """Les tokenizers, sous le nom le plus court qui les distingue.

    Raises:
        ConfigurationError: aucun.
    """
    several: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
    names = {str(each) if isinstance(each, (str, Path)) else each.name: each for each in several}
    if not names:
        raise ConfigurationError(
            "aucun tokenizer", expected="gpt2 ou des fichiers", remedy="donnez-en un"
        )
    short = [Path(name).name or name for name in names]
    return {
        brief if short.count(brief) == 1 else name: find_tokenizer(each)
        for brief, (name, each) in zip(short, names.items(), strict=True)
    }
