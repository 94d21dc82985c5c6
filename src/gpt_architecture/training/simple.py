"""La boucle d'entraînement simple : la plus courte qui soit juste.

Évaluer et échantillonner n'y changent jamais les poids : leurs tirages sont rendus aux
générateurs de l'entraînement.

Formes : B lot, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import nn
from torch.utils.data import DataLoader

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import (
    TextCodec,
    calc_loss_batch,
    calc_loss_loader,
    evaluation_mode,
    text_to_token_ids,
)
from gpt_architecture.decoding.simple import generate_text_simple, stream_tokens
from gpt_architecture.decoding.strategies import greedy_token
from gpt_architecture.errors import ConfigurationError, MissingDependencyError, TrainingError
from gpt_architecture.storage import write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE_TOKENS = 50
"""Longueur des exemples générés pendant l'entraînement, en tokens."""

_LABEL_GAP = 0.05  # écart de deux repères sur la courbe, en fraction de la hauteur


class PrintReporter:
    """Raconte la boucle sur la sortie standard ; s'hérite pour la dire autrement."""

    def on_start(self, total_steps: int) -> None:
        """L'entraînement commence ; il fera `total_steps` étapes. Rien à dire."""

    def on_step(self, step: int, batch_tokens: int) -> None:
        """L'étape `step` (depuis 0) est faite ; elle a lu `batch_tokens` tokens. Rien à dire."""

    def on_evaluation(self, epoch: int, step: int, train_loss: float, val_loss: float) -> None:
        """Affiche les pertes mesurées après l'étape `step` de l'époque `epoch` (depuis 1)."""
        print(format_evaluation(epoch, step, train_loss, val_loss))

    def on_sample(self, epoch: int, text: str) -> None:
        """Affiche, sur une ligne, l'exemple généré à la fin de l'époque `epoch`."""
        print(" ".join(text.split()))


def format_evaluation(epoch: int, step: int, train_loss: float, val_loss: float) -> str:
    """Une ligne : époque, étape, pertes en nats par token, à virgule décimale."""
    losses = f"perte entraînement {train_loss:.3f}, validation {val_loss:.3f}"
    return f"Époque {epoch} (étape {step:06d}) : {losses}".replace(".", ",")


def train_model_simple(
    model: nn.Module,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    num_epochs: int,
    eval_freq: int,
    eval_iter: int,
    start_context: str,
    tokenizer: TextCodec,
    *,
    reporter: PrintReporter | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[list[float], list[float], list[int]]:
    """Entraîne `model`, évalue toutes les `eval_freq` étapes, génère un exemple par époque.

    Args:
        model: (B, T) int64 → logits (B, T, V) ; déjà sur `device`.
        train_loader: lots d'entraînement (entrée, cible), chacun (B, T) int64.
        val_loader: lots de validation.
        optimizer: sur les paramètres de `model`.
        device: où calculer.
        num_epochs: passages sur `train_loader`.
        eval_freq: étapes entre deux évaluations ; la première suit l'étape 0.
        eval_iter: lots lus dans chaque jeu à chaque évaluation.
        start_context: invite des exemples générés.
        tokenizer: pour coder et décoder les exemples.
        reporter: à qui raconter ; None : affichage simple.
        should_stop: interrogé après chaque étape ; vrai : la boucle rend la main.

    Returns:
        (pertes d'entraînement, pertes de validation, tokens lus), une valeur par évaluation.

    Raises:
        TrainingError: la perte n'est plus un nombre ; les poids n'ont pas été touchés par
            cette étape.
    """
    reporter = PrintReporter() if reporter is None else reporter
    train_losses: list[float] = []
    val_losses: list[float] = []
    track_tokens_seen: list[int] = []
    tokens_seen, step = 0, -1
    optimizer.zero_grad(set_to_none=True)
    check_int("num_epochs", num_epochs, minimum=0)
    check_int("eval_freq", eval_freq, minimum=1)
    text_to_token_ids(start_context, tokenizer)  # un mot inconnu se dit avant la première étape
    reporter.on_start(num_epochs * len(train_loader))

    for epoch in range(1, num_epochs + 1):
        model.train()
        for input_batch, target_batch in train_loader:
            loss = calc_loss_batch(input_batch, target_batch, model, device)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"la perte vaut {loss.item()} à l'étape {step + 1}",
                    expected="un nombre fini",
                    remedy="réduisez le taux d'apprentissage (`lr`)",
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # rend la mémoire avant l'évaluation
            del loss
            step += 1
            tokens_seen += input_batch.numel()
            reporter.on_step(step, input_batch.numel())

            if step % eval_freq == 0:
                train_loss, val_loss = evaluate_model(
                    model, train_loader, val_loader, device, eval_iter
                )
                train_losses.append(train_loss)
                val_losses.append(val_loss)
                track_tokens_seen.append(tokens_seen)
                reporter.on_evaluation(epoch, step, train_loss, val_loss)
            if should_stop is not None and should_stop():
                return train_losses, val_losses, track_tokens_seen

        window = input_batch.size(1)  # le modèle n'a rien appris au-delà
        text = generate_sample(model, tokenizer, device, start_context, context_size=window)
        reporter.on_sample(epoch, text)

    return train_losses, val_losses, track_tokens_seen


def evaluate_model(
    model: nn.Module,
    train_loader: DataLoader[Any],
    val_loader: DataLoader[Any],
    device: torch.device | str,
    eval_iter: int | None,
) -> tuple[float, float]:
    """Pertes (entraînement, validation) en nats par token, sans dropout.

    Le modèle retrouve ensuite son mode, les générateurs leur état.

    Args:
        eval_iter: lots lus dans chaque jeu ; None : tous.
    """
    with evaluation_mode(model):
        train_loss = calc_loss_loader(train_loader, model, device, num_batches=eval_iter)
        val_loss = calc_loss_loader(val_loader, model, device, num_batches=eval_iter)
    return train_loss, val_loss


def generate_sample(
    model: nn.Module,
    tokenizer: TextCodec,
    device: torch.device | str,
    start_context: str,
    *,
    context_size: int | None = None,
) -> str:
    """Texte glouton de `SAMPLE_TOKENS` tokens à la suite de `start_context`, invite comprise.

    Args:
        model: (B, T) int64 → logits (B, T, V) ; avec cache s'il en offre un, sans sinon.
        context_size: derniers tokens relus, au plus ; None : le contexte du modèle.

    Raises:
        ConfigurationError: le modèle ne dit pas son contexte, et `context_size` manque.
    """
    ids = text_to_token_ids(start_context, tokenizer).to(device)
    if _has_cache(model):
        stream = stream_tokens(model, ids, SAMPLE_TOKENS, greedy_token, context_size=context_size)
        ids = torch.cat([ids, *(token for token, _ in stream)], dim=1)
    else:
        size = _context_length(model) if context_size is None else context_size
        ids = generate_text_simple(model, ids, SAMPLE_TOKENS, size)
    return tokenizer.decode(ids[0].tolist())


def _has_cache(model: object) -> TypeGuard[CausalLM]:
    return hasattr(model, "cfg") and hasattr(model, "new_cache")


def _context_length(model: nn.Module) -> int:
    """Positions d'un modèle quelconque : sa configuration, ou son embedding, comme au livre."""
    declared = getattr(model, "cfg", None)
    if isinstance(declared, Mapping) and isinstance(declared.get("context_length"), int):
        return int(declared["context_length"])
    weight = getattr(getattr(model, "pos_emb", None), "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise ConfigurationError(
            f"{type(model).__name__} ne dit pas combien de positions il accepte",
            expected="un modèle à l'embedding de positions pos_emb, ou context_size",
            remedy="donnez context_size",
        )
    return len(weight)


def generate_and_print_sample(
    model: nn.Module,
    tokenizer: TextCodec,
    device: torch.device | str,
    start_context: str,
    *,
    context_size: int | None = None,
) -> None:
    """Affiche, sur une ligne, un exemple de ce que le modèle écrit ; voir `generate_sample`."""
    text = generate_sample(model, tokenizer, device, start_context, context_size=context_size)
    print(" ".join(text.split()))


def loss_figure(
    epochs_seen: Sequence[float],
    tokens_seen: Sequence[int],
    train_losses: Sequence[float],
    val_losses: Sequence[float],
    *,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Les deux pertes contre les époques, et les tokens lus sur un second axe ; voir `plot_losses`.

    Raises:
        MissingDependencyError: matplotlib n'est pas installé.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ImportError:
        raise MissingDependencyError("matplotlib", purpose="tracer les courbes") from None

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs_seen, train_losses, color="#1f5fa8", label="entraînement")
    axes.plot(epochs_seen, val_losses, color="#c2571a", linestyle="--", label="validation")
    named = sorted((levels or {}).items(), key=lambda each: each[1])
    for _, level in named:
        axes.axhline(level, color="#666666", linewidth=0.9, linestyle=":")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # les repères se placent en fractions de cet intervalle-là
    place = -_LABEL_GAP
    for name, level in named:  # à droite du cadre ; deux repères proches s'écartent
        place = max((level - low) / (high - low), place + _LABEL_GAP)
        axes.annotate(name, (1.01, place), xycoords="axes fraction", fontsize=8, va="center")
    axes.set_title("Perte au cours de l'entraînement")
    axes.set_xlabel("Époques")
    axes.set_ylabel("Perte (nats par token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _position: f"{value:g}".replace(".", ","))
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="best", frameon=False)  # dit ainsi, une machine lente n'avertit pas
    if len(tokens_seen) > 1:
        tokens_axis = axes.twiny()
        tokens_axis.plot(tokens_seen, train_losses, alpha=0)  # invisible : aligne les deux axes
        tokens_axis.set_xlabel("Tokens lus")
        tokens_axis.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _position: f"{value:,.0f}".replace(",", "\u202f"))
        )
    return figure


def plot_losses(
    epochs_seen: Sequence[float],
    tokens_seen: Sequence[int],
    train_losses: Sequence[float],
    val_losses: Sequence[float],
    path: Path | str = "loss-plot.pdf",
    *,
    levels: Mapping[str, float] | None = None,
) -> Path:
    """Trace les deux pertes contre les époques, et les tokens lus sur un second axe.

    Args:
        epochs_seen: abscisses, une par évaluation.
        tokens_seen: tokens lus à chaque évaluation.
        train_losses: pertes d'entraînement (nats par token).
        val_losses: pertes de validation.
        path: fichier à écrire ; son extension fixe le format.
        levels: nom et perte de chaque repère, tracé d'un trait horizontal.

    Returns:
        Le chemin écrit.

    Raises:
        MissingDependencyError: matplotlib n'est pas installé.
        ConfigurationError: l'extension n'est pas celle d'une figure.
        OutputError: le fichier ne peut pas être écrit.
    """
    series = (epochs_seen, tokens_seen, train_losses, val_losses)
    return write_figure(path, loss_figure(*series, levels=levels))
