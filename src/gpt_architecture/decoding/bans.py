"""Interdictions : les tokens que le texte, la demande ou une contrainte excluent au pas suivant.

Un token interdit vaut −∞. Une interdiction n'est jamais levée en silence : si elle ne laissait
aucun token à une ligne, c'est une `GenerationError`.

Formes : B lot, T tokens, V vocabulaire, L longueur d'une séquence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.decoding.penalties import check_sequences
from gpt_architecture.decoding.processors import Processor
from gpt_architecture.errors import GenerationError


def min_tokens(count: int, *, prompt_length: int, eos_ids: Collection[int]) -> Processor:
    """Interdit la fin de texte tant que la suite compte moins de `count` tokens.

    Args:
        count: ≥ 0.
        prompt_length: colonnes que le début occupe.
        eos_ids: identifiants de fin.

    Raises:
        ConfigurationError: valeur hors bornes.
    """
    check_int("min_tokens", count, minimum=0)
    check_int("prompt_length", prompt_length, minimum=0)
    check_sequences("eos_ids", [[token] for token in eos_ids])
    ends = torch.tensor(sorted(eos_ids), dtype=torch.int64)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        if token_ids.size(1) - prompt_length >= count:
            return logits
        return _checked(logits.index_fill(1, ends.to(logits.device), -torch.inf), "min_tokens")

    return process


def no_repeat_ngram(size: int) -> Processor:
    """Interdit de produire deux fois la même suite de `size` tokens, début compris.

    Raises:
        ConfigurationError: `size` < 1.
    """
    check_int("no_repeat_ngram", size, minimum=1)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        if token_ids.size(1) < size:
            return logits
        windows = token_ids.unfold(1, size, 1)  # (B, T − L + 1, L)
        prefix = token_ids[:, token_ids.size(1) + 1 - size :]  # (B, L − 1)
        begun = (windows[..., :-1] == prefix.unsqueeze(1)).all(dim=-1)
        begun &= (windows >= 0).all(dim=-1)
        # Une colonne de plus recueille les suites qui ne sont pas commencées.
        columns = windows[..., -1].masked_fill(~begun, logits.size(-1))
        padded = torch.nn.functional.pad(logits, (0, 1)).scatter(1, columns, -torch.inf)
        return _checked(padded[:, :-1], "no_repeat_ngram")

    return process


def banned(sequences: Collection[Sequence[int]]) -> Processor:
    """Interdit des suites de tokens : le dernier, là où le texte finit par les autres.

    Une suite d'un token est interdite partout.

    Raises:
        ConfigurationError: suite vide, ou identifiant négatif.
    """
    check_sequences("banned", sequences)
    by_length: dict[int, list[Sequence[int]]] = defaultdict(list)
    for sequence in sequences:
        by_length[len(sequence)].append(sequence)
    groups = [torch.tensor(group, dtype=torch.int64) for group in by_length.values()]  # (N, L)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        left = logits.clone()
        for group in groups:
            prefixes = group[:, :-1].to(token_ids.device)
            length = prefixes.size(1)
            if length > token_ids.size(1):
                continue
            ending = token_ids[:, None, token_ids.size(1) - length :]  # (B, 1, L − 1)
            row, which = (ending == prefixes).all(dim=-1).nonzero(as_tuple=True)
            left[row, group[:, -1].to(row.device)[which]] = -torch.inf
        return _checked(left, "banned")

    return process


def allowed_tokens(allowed: Callable[[], Tensor]) -> Processor:
    """Ne laisse que les tokens qu'une contrainte permet.

    Args:
        allowed: masque (V,) ou (B, V) booléen, vrai où le token est permis maintenant.
    """

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        return _checked(logits.masked_fill(~allowed(), -torch.inf), "la contrainte")

    return process


def _checked(logits: Tensor, cause: str) -> Tensor:
    if bool((logits.amax(dim=-1) == -torch.inf).any()):
        raise GenerationError(
            f"{cause} ne laisse aucun token possible",
            expected="au moins un token permis à chaque pas",
            remedy="assouplissez les interdictions",
        )
    return logits
