"""Les données d'un entraînement : du texte en mémoire, ou des fragments sur disque."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.config import END_OF_TEXT, TRAINING_PRESETS, TrainingConfig
from gpt_architecture.data.canaries import CanarySet
from gpt_architecture.data.labelled import LabelledData
from gpt_architecture.data.loader import split_text
from gpt_architecture.data.removal import Removal
from gpt_architecture.data.shards.layout import (
    INDEX_NAME,
    holds_shards,
    read_index,
    tokenizer_sha256,
)
from gpt_architecture.data.shards.reader import TokenArray, TokenShards, TokenSource, open_shards
from gpt_architecture.data.texts.corpus import Corpus, load_corpus
from gpt_architecture.data.tokenizer import (
    Tokenizer,
    get_tokenizer,
    learns_from_text,
    tokenizer_from_dict,
)
from gpt_architecture.data.tokenizers.bpe import bpe_size
from gpt_architecture.errors import (
    ConfigurationError,
    DataError,
)
from gpt_architecture.french import counted

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
        removal: ce qui en est retiré (voir `data.masking`) ; None : rien.
        canaries: les canaris plantés dans l'entraînement ; None : aucun.
        labelled: les exemples étiquetés, dont la classe ou la valeur s'apprend ; None : du texte.
        split: comment la validation en est prise (voir `data.splits`) ; None : leur fin, un fichier
            à elle, ou le tirage des exemples étiquetés, que `sha256` compte.
    """

    name: str
    sha256: str
    train: TokenSource
    val: TokenSource
    tokenizer: Tokenizer
    opening: str
    chat_template: str | None = None
    removal: Removal | None = None
    canaries: CanarySet | None = None
    labelled: LabelledData | None = None
    split: str | None = None

    @property
    def tokenizer_sha256(self) -> str:
        """Empreinte de la description du tokenizer."""
        return tokenizer_sha256(self.tokenizer.to_dict())


def load_training_data(
    sources: Sequence[str],
    tokenizer: str,
    *,
    window: int,
    training: TrainingConfig,
    vocabulary: Tokenizer | None = None,
    field: str | None = None,
    offline: bool = False,
    skip_bad: bool = False,
) -> TrainingData:
    """Lit les données : un dossier de fragments, ou des textes (voir `data.texts.corpus`).

    Args:
        sources: chemins ou noms de corpus ; un dossier de fragments est seul.
        tokenizer: nom ou fichier ; un dossier de fragments a le sien.
        window: longueur d'une fenêtre (T).
        training: lot et coupe du texte.
        vocabulary: un tokenizer déjà appris, à la place de celui que `tokenizer` nomme.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        offline: interdit tout téléchargement.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.

    Raises:
        DataError: données absentes, abîmées ou trop courtes ; le message dit lesquelles.
        TokenizerError: tokenizer inconnu.
    """
    if len(sources) == 1 and holds_shards(Path(sources[0])):
        data = data_of_shards(sources[0], tokenizer, vocabulary)
    else:
        corpus = load_corpus(list(sources), field=field, offline=offline, skip_bad=skip_bad)
        data = data_of_corpus(corpus, tokenizer, vocabulary, training)
    check_windows(data, window)
    check_batch(data, window, training)
    return data


def data_of_shards(
    path: Path | str, tokenizer_name: str, vocabulary: Tokenizer | None
) -> TrainingData:
    """Un dossier de fragments, quelle que soit sa longueur ; voir `load_training_data`."""
    path = Path(path)
    tokenizer = stored_tokenizer(path)
    asked = vocabulary
    is_learned = asked is None and learns_from_text(tokenizer_name)
    if asked is None and not is_learned and tokenizer_name != "gpt2":
        asked = get_tokenizer(tokenizer_name)
    if is_learned or (asked is not None and asked.to_dict() != tokenizer.to_dict()):
        name = tokenizer_name if vocabulary is None else vocabulary.name
        raise ConfigurationError(
            f"le tokenizer {name} pour {path}, codé par {tokenizer.name}",
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
        sha256=hashlib.sha256(json.dumps([train.sha256, val.sha256]).encode()).hexdigest(),
        train=train,
        val=val,
        tokenizer=tokenizer,
        opening=first_words(tokenizer.decode(ids).replace(END_OF_TEXT, " ")),
    )


def preset_settings(name: str, data: Any) -> Mapping[str, Any]:
    """Les réglages d'un préréglage ; des fragments ont leur tokenizer, qui l'emporte sur le sien.

    Args:
        name: un de `TRAINING_PRESETS`.
        data: les données demandées, une ou plusieurs ; None : celles du préréglage.
    """
    settings = TRAINING_PRESETS[name]
    given = [data] if isinstance(data, (str, Path)) else list(data or ())
    if len(given) == 1 and isinstance(given[0], (str, Path)) and holds_shards(Path(given[0])):
        return {key: value for key, value in settings.items() if key != "tokenizer"}
    return settings


def stored_tokenizer(path: Path | str) -> Tokenizer:
    """Le tokenizer qui a codé un dossier de fragments ; sans index, celui de GPT-2.

    Raises:
        DataError: index illisible.
    """
    stored = read_index(Path(path))["tokenizer"] if (Path(path) / INDEX_NAME).exists() else None
    return get_tokenizer("gpt2") if stored is None else tokenizer_from_dict(stored)


def data_of_corpus(
    corpus: Corpus, tokenizer_name: str, vocabulary: Tokenizer | None, training: TrainingConfig
) -> TrainingData:
    """Un texte déjà lu, quelle que soit sa longueur ; voir `load_training_data`."""
    parts = split_text(corpus.text, training.train_ratio)
    tokenizer = vocabulary
    if tokenizer is None:
        tokenizer = learned_tokenizer(tokenizer_name, [corpus.text], training.train_ratio)
    train, val = (
        TokenArray(tokenizer.encode(part, allowed_special={END_OF_TEXT})) for part in parts
    )
    return TrainingData(
        name=corpus.name,
        sha256=corpus.sha256,
        train=train,
        val=val,
        tokenizer=tokenizer,
        opening=first_words(corpus.text),
    )


def learned_tokenizer(name: str, texts: Sequence[str], train_ratio: float) -> Tokenizer:
    """Le tokenizer de ce nom, appris sur ces textes si son vocabulaire en vient.

    Args:
        name: nom ou fichier.
        texts: les textes ; chacun sera coupé selon `train_ratio`.
        train_ratio: part d'entraînement de chacun.

    Raises:
        TokenizerError: nom inconnu.
    """
    # Un vocabulaire de mots vient des parts déjà coupées : la coupe peut tomber dans un mot.
    # Un BPE sait tout coder : il s'apprend sans voir la validation ; des caractères, non.
    parts = [split_text(text, train_ratio) for text in texts]
    if bpe_size(name) is not None:
        return get_tokenizer(name, text=END_OF_TEXT.join(train for train, _ in parts))
    if name == "char":
        return get_tokenizer(name, text="".join(texts))
    return get_tokenizer(name, text="\n".join(part for pair in parts for part in pair))


def check_windows(data: TrainingData, window: int) -> None:
    """Vérifie que chaque jeu a une fenêtre.

    Raises:
        DataError: il n'y a pas assez de texte ; le message dit où.
    """
    named = (("part d'entraînement", data.train), ("part de validation", data.val))
    for name, source in named:
        if source.num_tokens <= window:
            raise DataError(
                f"{name} : texte trop court, {counted(source.num_tokens, 'token')}",
                expected=f"au moins {window + 1} (une fenêtre de {window} et sa cible)",
                remedy="relancez « prepare » avec plus de texte, ou un autre `val_fraction`, "
                "ou réduisez `context_length`"
                if isinstance(source, TokenShards)
                else "donnez plus de texte, gardez-en plus pour cette part, ou réduisez "
                "`context_length`",
            )


def check_batch(data: TrainingData, window: int, training: TrainingConfig) -> None:
    """Vérifie que l'entraînement a un lot entier.

    Raises:
        DataError: il n'y a pas assez de texte.
    """
    stride = window if training.stride is None else training.stride
    windows = len(range(0, data.train.num_tokens - window, stride))
    sequences = training.batch_size * training.accumulate
    if windows < sequences:
        raise DataError(
            f"part d'entraînement : le texte ne donne que {counted(windows, 'fenêtre')} de "
            f"{counted(window, 'token')}",
            expected=f"au moins un lot entier de {sequences}",
            remedy="donnez plus de texte, ou réduisez `batch_size`, `accumulate` ou "
            "`context_length`",
        )


def first_words(text: str) -> str:
    """Les premiers mots d'un texte, pour les exemples."""
    return " ".join(text.split(maxsplit=4)[:4])[:60]
