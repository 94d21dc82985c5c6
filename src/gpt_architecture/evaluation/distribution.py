"""L'effet de la température, de top-k et de top-p sur une distribution réelle.

Formes : T tokens, V vocabulaire.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.decoding.strategies import softmax_avec_temperature, top_k, top_p
from gpt_architecture.errors import ConfigurationError, MissingDependencyError
from gpt_architecture.french import plural, short
from gpt_architecture.storage import write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Une distribution transformée.

    Attributes:
        label: réglage appliqué (« T = 0,5 »).
        probabilities: probabilités (n,) des n tokens suivis, dans leur ordre.
        entropy: entropie de toute la distribution, en bits.
        kept: nombre de tokens de probabilité non nulle.
    """

    label: str
    probabilities: tuple[float, ...]
    entropy: float
    kept: int


@dataclass(frozen=True, kw_only=True)
class DistributionStudy:
    """Les mêmes tokens suivis d'un réglage à l'autre.

    Attributes:
        tokens: identifiants suivis, les plus probables d'abord.
        temperatures: un effet par température.
        filters: la distribution brute, puis top-k, puis top-p.
    """

    tokens: tuple[int, ...]
    temperatures: tuple[Effect, ...]
    filters: tuple[Effect, ...]


def next_token_logits(model: CausalLM, prompt: Tensor) -> Tensor:
    """Logits (V,) du token qui suit `prompt` (1, T), sans dropout."""
    with torch.inference_mode(), evaluation_mode(model):
        return model(prompt[:, -model.cfg.context_length :])[0, -1]


def study_distribution(
    logits: Tensor, temperatures: Sequence[float], *, k: int, p: float, n_tokens: int = 10
) -> DistributionStudy:
    """Applique chaque réglage aux logits (V,) et suit les `n_tokens` tokens les plus probables.

    Raises:
        ConfigurationError: température, k, p ou `n_tokens` hors bornes.
    """
    check_int("n_tokens", n_tokens, minimum=1)
    if not temperatures:
        raise ConfigurationError(
            "aucune température",
            expected="au moins une",
            remedy="donnez par exemple `temperatures=0.5 1 2`",
        )
    logits = logits.cpu()
    tracked = torch.softmax(logits, dim=-1).topk(min(n_tokens, logits.size(-1))).indices

    def effect(label: str, probabilities: Tensor) -> Effect:
        return Effect(
            label=label,
            probabilities=tuple(probabilities[tracked].tolist()),
            entropy=torch.special.entr(probabilities).sum().item() / math.log(2),
            kept=int((probabilities > 0).sum()),
        )

    return DistributionStudy(
        tokens=tuple(tracked.tolist()),
        temperatures=tuple(
            effect(f"T = {short(t)}", softmax_avec_temperature(logits, t)) for t in temperatures
        ),
        filters=(
            effect("brute", torch.softmax(logits, dim=-1)),
            effect(f"top-k, k = {k}", torch.softmax(top_k(logits, k), dim=-1)),
            effect(f"top-p, p = {short(p)}", torch.softmax(top_p(logits, p), dim=-1)),
        ),
    )


def distribution_figure(
    study: DistributionStudy, token_labels: Sequence[str], title: str
) -> Figure:
    """Deux diagrammes en barres : les températures, puis les filtres ; voir `plot_distribution`.

    Raises:
        MissingDependencyError: matplotlib n'est pas installé.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise MissingDependencyError("matplotlib", purpose="tracer la distribution") from None

    figure = Figure(figsize=(8.3, 8.3), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = (
        (
            "Effet de la température",
            study.temperatures,
            ("#1b3a63", "#3f7cc0", "#e39a3b", "#b5432a"),
        ),
        ("Effet des filtres (température 1)", study.filters, ("#8a8f98", "#2f8f6b", "#7a4fa3")),
    )
    for index, (name, effects, colors) in enumerate(panels, start=1):
        axes = figure.add_subplot(2, 1, index)
        width = 0.8 / len(effects)
        for place, effect in enumerate(effects):
            offset = (place - (len(effects) - 1) / 2) * width
            axes.bar(
                [x + offset for x in range(len(study.tokens))],
                effect.probabilities,
                width,
                color=colors[place % len(colors)],
                label=f"{effect.label} — {effect.kept} {plural(effect.kept, 'token')}, "
                f"entropie {short(effect.entropy)} bits",
            )
        axes.set_title(name)
        axes.set_ylabel("Probabilité")
        axes.set_xticks(range(len(study.tokens)), token_labels, rotation=30, ha="right")
        for tick in axes.get_xticklabels():
            tick.set_parse_math(False)  # un token « $ » n'est pas une formule
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: short(value)))
        axes.grid(axis="y", alpha=0.25)
        axes.legend(loc="best", frameon=False, fontsize="small")
    return figure


def plot_distribution(
    study: DistributionStudy, token_labels: Sequence[str], title: str, path: Path | str
) -> Path:
    """Écrit deux diagrammes en barres : les températures, puis les filtres.

    Args:
        study: voir `study_distribution`.
        token_labels: texte affiché pour chacun des tokens suivis.
        title: titre de la page.
        path: fichier à écrire ; son extension fixe le format.

    Raises:
        MissingDependencyError: matplotlib n'est pas installé.
        ConfigurationError: l'extension n'est pas celle d'une figure.
        OutputError: le fichier ne peut pas être écrit.
    """
    figure = distribution_figure(study, token_labels, title)
    with warnings.catch_warnings():  # un signe absent de la police devient un carré, sans bruit
        warnings.filterwarnings("ignore", message="Glyph")
        return write_figure(path, figure)
