"""Les données d'un entraînement : du texte tokenisé en mémoire, ou des fragments sur disque."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT, TrainingConfig
from gpt_architecture.data.loader import split_text
from gpt_architecture.data.shards.layout import INDEX_NAME, holds_shards, read_index
from gpt_architecture.data.shards.reader import TokenArray, TokenSource, open_shards
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.bpe import bpe_size
from gpt_architecture.errors import ConfigurationError, DataError

_OPENING_TOKENS = 32


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Deux suites de tokens et ce qui les a produites.

    Attributes:
        name: nom court, pour les messages et les métadonnées.
        sha256: empreinte du texte ou des fragments.
        train: tokens d'entraînement.
        val: tokens de validation.
        tokenizer: celui qui les a codés.
        opening: les premiers mots, pour les exemples.
        chat_template: gabarit des conversations ; None : du texte suivi.
    """

    name: str
    sha256: str
    train: TokenSource
    val: TokenSource
    tokenizer: Tokenizer
    opening: str
    chat_template: str | None = None

    @property
    def tokenizer_sha256(self) -> str:
        """Empreinte de la description du tokenizer."""
        return _sha256(self.tokenizer.to_dict())


def load_training_data(
    sources: Sequence[str],
    tokenizer: str,
    *,
    window: int,
    training: TrainingConfig,
    vocabulary: Tokenizer | None = None,
    field: str = "text",
    offline: bool = False,
) -> TrainingData:
    """Lit les données : un dossier de fragments, ou des textes (voir `data.texts.corpus`).

    Args:
        sources: chemins ou noms de corpus ; un dossier de fragments est seul.
        tokenizer: nom ou fichier ; un dossier de fragments a le sien.
        window: longueur d'une fenêtre (T).
        training: lot et coupe du texte.
        vocabulary: un tokenizer déjà appris, à la place de celui que `tokenizer` nomme.
        field: champ du texte, en JSONL et en Parquet.
        offline: interdit tout téléchargement.

    Raises:
        DataError: données absentes, abîmées ou trop courtes ; le message dit lesquelles.
        TokenizerError: tokenizer inconnu.
    """
    if len(sources) == 1 and holds_shards(Path(sources[0])):
        data = _from_shards(Path(sources[0]), tokenizer, vocabulary)
    else:
        data = _from_text(sources, tokenizer, vocabulary, training, field=field, offline=offline)
    check_lengths(data, window, training)
    return data


def _from_shards(path: Path, tokenizer_name: str, vocabulary: Tokenizer | None) -> TrainingData:
    stored = read_index(path)["tokenizer"] if (path / INDEX_NAME).exists() else None
    tokenizer = get_tokenizer("gpt2") if stored is None else tokenizer_from_dict(stored)
    asked = vocabulary
    if asked is None and tokenizer_name != "gpt2":
        asked = get_tokenizer(tokenizer_name)
    if asked is not None and not _same(asked, tokenizer):
        raise ConfigurationError(
            f"le tokenizer {tokenizer_name if vocabulary is None else asked.name} pour {path}, "
            f"codé par {tokenizer.name}",
            expected="le tokenizer qui a codé ces fragments",
            remedy="retirez `tokenizer`, ou recodez-les avec celui du modèle de départ",
        )
    train = open_shards(path, "train", vocab_size=tokenizer.vocab_size)
    val = open_shards(path, "val", vocab_size=tokenizer.vocab_size)
    for part in (train, val):  # l'identité vient de l'index : le contenu doit être le sien
        part.verify()
    ids = train.read(0, min(_OPENING_TOKENS, train.num_tokens)).tolist()
    return TrainingData(
        name=path.resolve().name,
        sha256=_sha256([train.sha256, val.sha256]),
        train=train,
        val=val,
        tokenizer=tokenizer,
        opening=_first_words(tokenizer.decode(ids).replace(END_OF_TEXT, " ")),
    )


def _from_text(
    sources: Sequence[str],
    tokenizer_name: str,
    vocabulary: Tokenizer | None,
    training: TrainingConfig,
    *,
    field: str,
    offline: bool,
) -> TrainingData:
    corpus = load_corpus(list(sources), field=field, offline=offline)
    # Un vocabulaire de mots vient des parts déjà coupées : la coupe peut tomber dans un mot.
    # Un BPE sait tout coder : il s'apprend sans voir la validation ; des caractères, non.
    parts = split_text(corpus.text, training.train_ratio)
    tokenizer = vocabulary
    if tokenizer is None:
        if bpe_size(tokenizer_name) is not None:
            source = parts[0]
        else:
            source = corpus.text if tokenizer_name == "char" else "\n".join(parts)
        tokenizer = get_tokenizer(tokenizer_name, text=source)
    train, val = (
        TokenArray(tokenizer.encode(part, allowed_special={END_OF_TEXT})) for part in parts
    )
    return TrainingData(
        name=corpus.name,
        sha256=corpus.sha256,
        train=train,
        val=val,
        tokenizer=tokenizer,
        opening=_first_words(corpus.text),
    )


def check_lengths(data: TrainingData, window: int, training: TrainingConfig) -> None:
    """Vérifie que chaque jeu a une fenêtre, et le premier un lot entier.

    Raises:
        DataError: il n'y a pas assez de texte ; le message dit où.
    """
    named = (("part d'entraînement", data.train), ("part de validation", data.val))
    for name, source in named:
        if source.num_tokens <= window:
            raise DataError(
                f"{name} : texte trop court, {source.num_tokens} tokens",
                expected=f"au moins {window + 1} (une fenêtre de {window} et sa cible)",
                remedy="donnez plus de texte, gardez-en plus pour cette part, ou réduisez "
                "`context_length`",
            )
    stride = window if training.stride is None else training.stride
    windows = len(range(0, data.train.num_tokens - window, stride))
    sequences = training.batch_size * training.accumulate
    if windows < sequences:
        raise DataError(
            f"part d'entraînement : le texte ne donne que {windows} fenêtre(s) de {window} tokens",
            expected=f"au moins un lot entier de {sequences}",
            remedy="donnez plus de texte, ou réduisez `batch_size`, `accumulate` ou "
            "`context_length`",
        )


def _first_words(text: str) -> str:
    return " ".join(text.split(maxsplit=4)[:4])[:60]


def _same(first: Tokenizer, second: Tokenizer) -> bool:
    return _sha256(first.to_dict()) == _sha256(second.to_dict())


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
