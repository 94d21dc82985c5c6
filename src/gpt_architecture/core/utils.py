"""Petits outils autour du modèle : texte ↔ tokens, pertes, modes et générateurs.

Formes : B lot, T tokens, V vocabulaire.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.core.documents import DocumentSpans
from gpt_architecture.core.machine import Turn, after_fork
from gpt_architecture.errors import DataError, NonFiniteError


class TextCodec(Protocol):
    """Le minimum demandé à un tokenizer ; celui de tiktoken convient tel quel."""

    def encode(self, text: str, *, allowed_special: Any) -> list[int]:
        """Texte → identifiants ; les tokens spéciaux permis sont reconnus dans le texte."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Identifiants → texte."""
        ...


def gradients_of(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Chaque paramètre d'un optimiseur qui a un gradient, ce gradient et son groupe."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                yield parameter, parameter.grad, group


def text_to_token_ids(text: str, tokenizer: TextCodec) -> Tensor:
    """Code un texte en un lot d'une séquence : (1, T) int64. `<|endoftext|>` est reconnu."""
    ids = tokenizer.encode(text, allowed_special={END_OF_TEXT})
    return torch.tensor(ids, dtype=torch.int64).unsqueeze(0)  # (1, T)


def token_ids_to_text(token_ids: Tensor, tokenizer: TextCodec) -> str:
    """Décode une séquence (1, T) ou (T,) int64 en texte.

    Raises:
        ValueError: le lot contient plusieurs séquences.
    """
    if token_ids.dim() == 2 and token_ids.size(0) != 1:
        raise ValueError(f"une seule séquence attendue, {token_ids.size(0)} reçues")
    return tokenizer.decode(token_ids.reshape(-1).tolist())


def calc_loss_batch(
    input_batch: Tensor,
    target_batch: Tensor,
    model: nn.Module,
    device: torch.device | str,
    *,
    documents: DocumentSpans | None = None,
) -> Tensor:
    """Entropie croisée moyenne d'un lot, en nats par token (scalaire, avec son graphe).

    Args:
        input_batch: (B, T) int64.
        target_batch: (B, T) int64, l'entrée décalée d'un token.
        model: rend des logits (B, T, V).
        device: où calculer.
        documents: ce qui sépare les documents d'une rangée ; None : elle n'en est qu'un.
    """
    seen = () if documents is None else (documents,)
    logits = model(input_batch.to(device), *seen).flatten(0, 1)  # (B·T, V)
    return F.cross_entropy(logits, target_batch.to(device).flatten())


def calc_loss_loader(
    data_loader: DataLoader[Any],
    model: nn.Module,
    device: torch.device | str,
    num_batches: int | None = None,
) -> float:
    """Perte moyenne sur un chargeur : somme des −log p divisée par le nombre de tokens.

    Un dernier lot incomplet pèse donc selon sa taille. Ne tire rien des générateurs de
    l'entraînement et ne garde pas de graphe ; le mode (train ou eval) reste à l'appelant.

    Args:
        data_loader: lots (entrée, cible), chacun (B, T) int64.
        model: rend des logits (B, T, V).
        device: où calculer.
        num_batches: lots à lire au plus ; None : tous.

    Raises:
        DataError: aucun lot à lire.
    """
    total_nll, total_tokens = 0.0, 0
    with preserved_rng(data_loader), torch.no_grad():
        for index, (inputs, targets) in enumerate(data_loader):
            if num_batches is not None and index >= num_batches:
                break
            loss = calc_loss_batch(inputs, targets, model, device)
            total_nll += loss.item() * targets.numel()
            total_tokens += targets.numel()
    if total_tokens == 0:
        raise DataError(
            "aucun lot à évaluer",
            expected="au moins une fenêtre de texte",
            remedy="donnez plus de texte ou raccourcissez le contexte",
        )
    return total_nll / total_tokens


@contextmanager
def preserved_rng(*loaders: DataLoader[Any]) -> Iterator[None]:
    """Rend, en sortant, leur état aux générateurs globaux et à ceux des chargeurs.

    Évaluer ou échantillonner pendant l'entraînement ne change ainsi ni le dropout ni
    l'ordre des données qui suivent.
    """
    generators = [g for loader in loaders if (g := loader.generator) is not None]
    states = [generator.get_state() for generator in generators]
    # Ni l'ordre des lots ni le choix glouton ne tirent ailleurs que sur le processeur.
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


@runtime_checkable
class WithWeights(Protocol):
    """Un modèle compacté ou quantifié, qui n'est pas un `nn.Module`."""

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Ses poids, par nom."""
        ...


@contextmanager
def blaming_weights(model: object) -> Iterator[None]:
    """Un calcul qui n'est pas fini est imputé aux poids de `model` s'ils ne le sont pas.

    Raises:
        NonFiniteError: celle du bloc, dont le remède dépend des poids.
    """
    try:
        yield
    except NonFiniteError as error:
        weights: Iterator[tuple[str, Tensor]] = iter(())
        if isinstance(model, nn.Module):
            weights = model.named_parameters()
        elif isinstance(model, WithWeights):
            weights = model.named_weights()
        broken = next((name for name, one in weights if not bool(one.isfinite().all())), None)
        if broken is None:
            raise
        raise NonFiniteError(
            f"{error.found} : le poids {broken} n'est pas fini",
            remedy="réentraînez le modèle avec un taux d'apprentissage plus bas, ou reprenez un "
            "point de reprise plus ancien",
        ) from None


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Passe `model` en évaluation (pas de dropout), puis lui rend son mode.

    Un modèle qui n'est pas un `nn.Module` (poids compactés) n'a pas de mode : rien ne change.
    Si plusieurs threads évaluent le même modèle, le dernier à sortir le lui rend.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    with _MODES:
        here = _EVALUATED.setdefault(model, _Evaluated())
        user = here.enter(model)
    try:
        yield
    finally:
        with _MODES:
            del here.users[user]
            _release(model, here)


class _Evaluated:
    """Qui évalue un modèle, et ce qu'il faudra remettre en entraînement ensuite."""

    def __init__(self) -> None:
        self.users = dict[object, int]()  # un évaluateur → son thread
        self.training = set[nn.Module]()

    def enter(self, model: nn.Module) -> object:
        """Un évaluateur de plus ; chaque token passe ici, où rien n'est écrit sans besoin."""
        if training := [module for module in model.modules() if module.training]:
            self.training.update(training)
            model.eval()
        user = object()
        self.users[user] = threading.get_ident()
        return user


_MODES, _EVALUATED = Turn(), dict[nn.Module, _Evaluated]()


def _release(model: nn.Module, here: _Evaluated) -> None:
    """Rend son mode au modèle que plus personne n'évalue."""
    if not here.users:
        _EVALUATED.pop(model, None)
        for module in here.training:
            module.training = True


def _forget_other_threads() -> None:
    """Dans l'enfant d'un fork, seul le thread qui l'a demandé évalue encore."""
    for model, here in list(_EVALUATED.items()):
        here.users = {user: of for user, of in here.users.items() if of == threading.get_ident()}
        _release(model, here)


after_fork(_forget_other_threads)
