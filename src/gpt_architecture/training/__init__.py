"""L'entraînement : la boucle simple et lisible, ses évaluations et ses courbes."""

from gpt_architecture.training.plots import plot_losses
from gpt_architecture.training.simple import (
    evaluate_model,
    generate_and_print_sample,
    train_model_simple,
)

__all__ = ["evaluate_model", "generate_and_print_sample", "plot_losses", "train_model_simple"]
