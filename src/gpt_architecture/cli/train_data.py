"""Ce que `train` lit : du texte suivi, ou des conversations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpt_architecture.cli.finetune_options import FinetuneOptions
from gpt_architecture.cli.train_options import RunOptions, TrainOptions
from gpt_architecture.config import TrainingConfig
from gpt_architecture.errors import ConfigurationError

if TYPE_CHECKING:
    from gpt_architecture.data.datasets import TrainingData
    from gpt_architecture.data.tokenizer import Tokenizer


def training_of(options: TrainOptions) -> TrainingConfig:
    """Les réglages d'apprentissage ; une conversation par rangée fixe le décalage des fenêtres.

    Raises:
        ConfigurationError: --chat avec --data ou --stride.
    """
    training, finetune = options.training, options.finetune
    if finetune.chat is None:
        return training
    conflicts = {
        "--data": options.run.data != RunOptions().data,
        "--stride": training.stride is not None,
    }
    for flag, given in conflicts.items():
        if given:
            raise ConfigurationError(
                f"--chat et {flag} ensemble",
                expected="l'un ou l'autre : chaque conversation est un exemple entier",
                remedy=f"retirez {flag}",
            )
    return replace(training, stride=options.shape.context_length + 1)


def load_data(
    run: RunOptions,
    finetune: FinetuneOptions,
    training: TrainingConfig,
    window: int,
    vocabulary: Tokenizer | None,
) -> TrainingData:
    """Des conversations, ou du texte suivi.

    Args:
        run: d'où vient le texte.
        finetune: d'où viennent les conversations.
        training: voir `training_of`.
        window: longueur d'une fenêtre (T).
        vocabulary: le tokenizer du modèle de départ, ou celui qu'une reprise a appris.

    Raises:
        DataError: données absentes, abîmées ou trop courtes.
    """
    from gpt_architecture.data.chat_data import load_chat_data
    from gpt_architecture.data.datasets import load_training_data

    if finetune.chat is not None:
        return load_chat_data(
            finetune.chat,
            run.tokenizer,
            window=window,
            training=training,
            template=finetune.template(),
            vocabulary=vocabulary,
        )
    return load_training_data(
        run.data,
        run.tokenizer,
        window=window,
        training=training,
        vocabulary=vocabulary,
        field=run.text_field,
        offline=run.offline,
    )
