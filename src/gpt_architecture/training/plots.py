"""Courbes de pertes, en PDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt_architecture.errors import MissingDependencyError
from gpt_architecture.storage import write_atomically


def plot_losses(
    epochs_seen: Sequence[float],
    tokens_seen: Sequence[int],
    train_losses: Sequence[float],
    val_losses: Sequence[float],
    path: Path | str = "loss-plot.pdf",
) -> Path:
    """Trace les deux pertes contre les époques, et les tokens lus sur un second axe.

    Args:
        epochs_seen: abscisses, une par évaluation.
        tokens_seen: tokens lus à chaque évaluation.
        train_losses: pertes d'entraînement (nats par token).
        val_losses: pertes de validation.
        path: fichier à écrire ; son extension fixe le format.

    Returns:
        Le chemin écrit.

    Raises:
        MissingDependencyError: matplotlib n'est pas installé.
        OutputError: le fichier ne peut pas être écrit.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, MaxNLocator
    except ImportError:
        raise MissingDependencyError("matplotlib", purpose="tracer les courbes") from None

    path = Path(path)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs_seen, train_losses, color="#1f5fa8", label="entraînement")
    axes.plot(epochs_seen, val_losses, color="#c2571a", linestyle="--", label="validation")
    axes.set_title("Perte au cours de l'entraînement")
    axes.set_xlabel("Époques")
    axes.set_ylabel("Perte (nats par token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _position: f"{value:g}".replace(".", ","))
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    if len(tokens_seen) > 1:
        tokens_axis = axes.twiny()
        tokens_axis.plot(tokens_seen, train_losses, alpha=0)  # invisible : aligne les deux axes
        tokens_axis.set_xlabel("Tokens lus")
        tokens_axis.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _position: f"{value:,.0f}".replace(",", "\u202f"))
        )
    form = path.suffix[1:]
    signature = {"Creator": "gpt-architecture"} if form == "pdf" else None
    write_atomically(
        path, lambda temporary: figure.savefig(temporary, format=form, metadata=signature)
    )
    return path
