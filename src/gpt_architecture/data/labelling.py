"""Les données d'un entraînement à classer ou à noter : lues, partagées, codées."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from gpt_architecture.config import HeadConfig, LabelConfig, TrainingConfig
from gpt_architecture.data.datasets import TrainingData, check_batch, check_windows, first_words
from gpt_architecture.data.labelled import LabelledData, LabelledTexts, targets_of
from gpt_architecture.data.splits import mixed, split_examples, tell_repeats
from gpt_architecture.data.texts.labelled import (
    Example,
    Examples,
    check_labels,
    ordered_labels,
    read_examples,
)
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer
from gpt_architecture.data.tokenizers.bpe import bpe_size
from gpt_architecture.data.tokenizers.marked_text import encode_text
from gpt_architecture.errors import DataError, located
from gpt_architecture.french import counted

logger = logging.getLogger(__name__)


def load_labelled_data(
    labels: LabelConfig,
    tokenizer: str,
    *,
    window: int,
    training: TrainingConfig,
    field: str | None = None,
    vocabulary: Tokenizer | None = None,
) -> TrainingData:
    """Lit des textes étiquetés, et les partage en entraînement et validation.

    Un texte qui dépasse la fenêtre en garde le début, et c'est dit ; un texte de la validation qui
    est aussi dans l'entraînement, de même.

    Args:
        labels: le fichier, et ce qu'il étiquette.
        tokenizer: nom ou fichier, quand `vocabulary` n'est pas donné.
        window: longueur des entrées (T).
        training: lot, graine et part d'entraînement ; son `stride` est celui des rangées.
        field: colonne du texte ; None : celle dont le nom est évident.
        vocabulary: le tokenizer du modèle de départ.

    Raises:
        DataError: fichier ou rangée qui ne convient pas ; elle est désignée.
        TokenizerError: tokenizer inconnu.
    """
    assert labels.classify is not None  # noqa: S101 — l'appelant l'a lu
    path, regress = labels.classify, labels.regress
    found = read_examples(path, label=labels.label, text=field, regress=regress)
    classes = () if regress else ordered_labels(found, path)
    if labels.val is None:
        train, val = _split(found, path, training, stratify=not regress)
    else:
        other = read_examples(
            labels.val, label=found.label_field, text=found.text_field, regress=regress
        )
        train, val = list(found.rows), mixed(other.rows, training.seed)
        check_labels(other, HeadConfig(labels=classes), labels.val)
    texts = ([each.text for each in part] for part in (train, val))
    tell_repeats(*texts, unit="texte", origin=labels.val or path)
    head = _value_head(train, path) if regress else HeadConfig(labels=classes)
    if vocabulary is None:  # comme d'un texte : un BPE s'apprend sans voir la validation
        seen = train if bpe_size(tokenizer) is not None else [*train, *val]
        vocabulary = get_tokenizer(tokenizer, text="\n".join(each.text for each in seen))
    sources = [
        LabelledTexts(
            encode_examples(part, vocabulary, window, origin=origin),
            targets_of(part, head),
            window,
            padding_of(vocabulary),
        )
        for part, origin in ((train, path), (val, labels.val or path))
    ]
    described = [found.sha256, found.text_field, found.label_field, head.to_dict()]
    identity = [described, [each.sha256 for each in sources], labels.balance]
    data = TrainingData(
        name=path.stem,
        sha256=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        train=sources[0],
        val=sources[1],
        tokenizer=vocabulary,
        opening=first_words(val[0].text),
        labelled=LabelledData(
            head=head,
            train=train,
            val=val,
            label_field=found.label_field,
            text_field=found.text_field,
            file_sha256=found.sha256,
            split=labels.val is None,
            balance=labels.balance,
        ),
    )
    check_windows(data, window)
    check_batch(data, window, training)
    return data


def encode_examples(
    examples: Sequence[Example], tokenizer: Tokenizer, window: int, *, origin: Path | str
) -> list[list[int]]:
    """Les tokens de chaque texte, au plus `window` ; ceux qui sont coupés sont comptés, et dits.

    Raises:
        DataError: un texte n'a aucun token, ou le vocabulaire ne sait pas le coder ; sa rangée est
            dite.
    """
    rows, cut = list[list[int]](), list[int]()
    for each in examples:
        with located(f"{origin}, rangée {each.place}", DataError):
            ids = encode_text(each.text, tokenizer)
        if not ids:
            raise DataError(
                f"{origin}, rangée {each.place} : ce texte n'a aucun token",
                expected="au moins un mot que le tokenizer connaisse",
                remedy="ôtez cette rangée, ou changez `tokenizer`",
            )
        if len(ids) > window:
            cut.append(each.place)
        rows.append(ids[:window])
    if cut:
        logger.warning(
            "%s de plus de %d tokens, dont seul le début est lu (%s, le premier à la rangée %d)",
            *(counted(len(cut), "texte"), window, origin, cut[0]),
        )
    return rows


def padding_of(tokenizer: Tokenizer) -> int:
    """Le remplissage des rangées : la fin de texte, sinon l'identifiant 0."""
    return 0 if tokenizer.eos_id is None else tokenizer.eos_id


def _split(
    found: Examples, path: Path, training: TrainingConfig, *, stratify: bool
) -> tuple[list[Example], list[Example]]:
    groups = [each.label for each in found.rows] if stratify else None
    train, val = split_examples(found.rows, training.train_ratio, training.seed, groups=groups)
    if not val:
        raise DataError(
            f"{path} n'a qu'un exemple par classe" if stratify else f"{path} n'a qu'un exemple",
            expected="de quoi apprendre et de quoi valider",
            remedy="ajoutez des exemples, ou donnez ceux de la validation (`val`)",
        )
    return train, val


def _value_head(train: Sequence[Example], path: Path) -> HeadConfig:
    """La tête d'une valeur : elle apprend des nombres réduits, de moyenne 0 et d'écart type 1."""
    values = [float(each.label) for each in train]
    scale = statistics.pstdev(values)
    if not scale or not math.isfinite(scale):
        raise DataError(
            f"{path} : toutes les valeurs à apprendre sont {values[0]:g}",
            expected="des valeurs qui diffèrent",
            remedy="choisissez une autre colonne (`label`)",
        )
    return HeadConfig(center=statistics.fmean(values), scale=scale)
