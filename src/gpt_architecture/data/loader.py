"""Fenêtres glissantes sur un texte, et chargeurs de lots.

Formes : B lot, T tokens d'une fenêtre.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gpt_architecture.config import END_OF_TEXT, TrainingConfig, check_float, check_int
from gpt_architecture.data.tokenizer import Tokenizer, get_tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.french import counted


class GPTDatasetV1(Dataset[tuple[Tensor, Tensor]]):
    """Fenêtres de `max_length` tokens, une tous les `stride` tokens, avec leur cible.

    La cible d'une fenêtre est la même, décalée d'un token : pour des tokens 0 1 2 3 4,
    `max_length=2` et `stride=2` donnent (0 1 → 1 2) et (2 3 → 3 4). Les tokens sont gardés
    une fois ; les fenêtres sont des vues.

    Args:
        txt: le texte.
        tokenizer: voir `data.tokenizer.Tokenizer`.
        max_length: longueur d'une fenêtre (T).
        stride: décalage entre deux fenêtres.

    Raises:
        ConfigurationError: `max_length` ou `stride` n'est pas un entier ≥ 1.
        DataError: texte vide, ou plus court qu'une fenêtre et sa cible.
    """

    def __init__(self, txt: str, tokenizer: Tokenizer, max_length: int, stride: int) -> None:
        check_int("max_length", max_length, minimum=1)
        check_int("stride", stride, minimum=1)
        if not txt.strip():
            raise DataError("texte vide", expected="du texte", remedy="donnez un autre texte")
        ids = tokenizer.encode(txt, allowed_special={END_OF_TEXT})
        if len(ids) <= max_length:
            raise DataError(
                f"texte trop court : {counted(len(ids), 'token')}",
                expected=f"au moins {max_length + 1} (une fenêtre de {max_length} et sa cible)",
                remedy="donnez plus de texte ou réduisez `context_length`",
            )
        self.token_ids = torch.tensor(ids, dtype=torch.int64)
        self.max_length = max_length
        self.starts = range(0, len(ids) - max_length, stride)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Fenêtre et cible, chacune (T,) int64."""
        start = self.starts[index]
        end = start + self.max_length
        return self.token_ids[start:end], self.token_ids[start + 1 : end + 1]


def create_dataloader_v1(
    txt: str,
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
    num_workers: int = 0,
    tokenizer: Tokenizer | None = None,
    *,
    generator: torch.Generator | None = None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Chargeur de lots (entrée, cible), chacun (B, T) int64.

    Args:
        txt: le texte.
        batch_size: séquences par lot (B).
        max_length: longueur d'une fenêtre (T).
        stride: décalage entre deux fenêtres.
        shuffle: mélange les fenêtres à chaque passage.
        drop_last: laisse le dernier lot s'il est incomplet.
        num_workers: processus de chargement ; 0 : aucun.
        tokenizer: None : celui de GPT-2.
        generator: source du mélange ; None : le générateur global de PyTorch.

    Raises:
        ConfigurationError: argument hors bornes.
        DataError: texte trop court pour une fenêtre, ou pour un lot entier si `drop_last`.
    """
    check_int("batch_size", batch_size, minimum=1)
    check_int("num_workers", num_workers, minimum=0)
    dataset = GPTDatasetV1(txt, tokenizer or get_tokenizer("gpt2"), max_length, stride)
    if drop_last and len(dataset) < batch_size:
        raise DataError(
            f"le texte ne donne que {counted(len(dataset), 'fenêtre')} de "
            f"{counted(max_length, 'token')}",
            expected=f"au moins un lot entier de {batch_size}",
            remedy="donnez plus de texte, ou réduisez `batch_size` ou `context_length`",
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=num_workers,
        generator=generator,
    )


def split_text(text: str, train_ratio: float = TrainingConfig.train_ratio) -> tuple[str, str]:
    """Coupe le texte en deux parts contiguës et disjointes : entraînement, validation.

    Une coupe qui tomberait dans un `<|endoftext|>` recule à son début.

    Args:
        text: le texte.
        train_ratio: part de la première, en caractères, dans ]0, 1[.

    Raises:
        ConfigurationError: `train_ratio` hors bornes.
    """
    check_float("train_ratio", train_ratio, above=0.0, below=1.0)
    cut = int(train_ratio * len(text))
    marker = text.rfind(END_OF_TEXT, max(0, cut - len(END_OF_TEXT) + 1), cut + len(END_OF_TEXT) - 1)
    cut = cut if marker == -1 else marker
    return text[:cut], text[cut:]


def create_train_val_loaders(
    text: str, tokenizer: Tokenizer, *, context_length: int, training: TrainingConfig
) -> tuple[DataLoader[tuple[Tensor, Tensor]], DataLoader[tuple[Tensor, Tensor]]]:
    """Chargeurs d'entraînement (mélangé, lots entiers) et de validation (dans l'ordre, tout).

    Le mélange tire du générateur global, comme dans l'entraînement de référence du livre :
    une seule graine fixe les poids, l'ordre des données et le dropout.

    Args:
        text: le texte entier ; il est coupé selon `training.train_ratio`.
        tokenizer: voir `data.tokenizer.Tokenizer`.
        context_length: longueur d'une fenêtre (T).
        training: réglages de l'entraînement.

    Raises:
        DataError: l'une des deux parts est trop courte ; le message dit laquelle.
    """
    stride = context_length if training.stride is None else training.stride
    parts = split_text(text, training.train_ratio)
    loaders = []
    names = ("part d'entraînement", "part de validation")
    for name, part, is_training in zip(names, parts, (True, False), strict=True):
        try:
            loader = create_dataloader_v1(
                part,
                batch_size=training.batch_size,
                max_length=context_length,
                stride=stride,
                shuffle=is_training,
                drop_last=is_training,
                tokenizer=tokenizer,
            )
        except DataError as error:
            raise DataError(
                f"{name} : {error.found}", expected=error.expected, remedy=error.remedy
            ) from None
        loaders.append(loader)
    return loaders[0], loaders[1]
