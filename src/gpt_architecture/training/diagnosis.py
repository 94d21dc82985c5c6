"""Le dossier d'un entraînement : ce que le docteur en lit, et ce qu'il en dit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from gpt_architecture.core.layers import FeedForward
from gpt_architecture.core.model import GPTModel
from gpt_architecture.core.utils import evaluation_mode
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.formats.journal import read_records
from gpt_architecture.storage import open_regular
from gpt_architecture.training.checkpoint import TrainingState
from gpt_architecture.training.session import Settings
from gpt_architecture.training.survey import Survey

_EXAMINED_WINDOWS = 16
_EXAMINED_TOKENS = 128  # par fenêtre : tous les logits d'un long contexte pèseraient trop
_DEAD_BELOW = -3.5  # GELU et sa dérivée y sont nulles à un millième près


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Une faute : son nom, ce qui la montre, ce qui la corrige."""

    code: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found} ; {self.remedy}."

    def to_dict(self) -> dict[str, str]:
        """La faute, en types simples."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Un taux d'apprentissage.

    Attributes:
        name: le réglage qui le fixe.
        value: sa valeur.
        usual: le plus haut qui soit usuel.
    """

    name: str
    value: float
    usual: float

    @property
    def advised(self) -> str:
        """Un réglage plus sûr."""
        return f"`{self.name}={self.usual / 2:.1g}`"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Ce que les règles lisent d'un entraînement.

    Attributes:
        settings: ses réglages.
        survey: ce que disent ses données.
        train_tokens: tokens d'entraînement.
        total_steps: étapes de l'entraînement entier.
        losses: perte de chaque lot, NaN comprises ; vide avant la première étape.
        state: où il en est.
        dead: part des unités des perceptrons qui ne s'activent jamais ; None : non examinée.
    """

    settings: Settings
    survey: Survey
    train_tokens: int
    total_steps: int
    losses: Sequence[float] = ()
    state: TrainingState | None = None
    dead: float | None = None

    @cached_property
    def smooth(self) -> list[float]:
        """La perte des lots, médiane d'un vingtième des étapes ; sans celles non finies."""
        finite = [each for each in self.losses if math.isfinite(each)]
        width = max(3, len(finite) // 20)
        starts = range(0, max(1, len(finite) - width + 1), max(1, width // 3))
        return [statistics.median(finite[start : start + width]) for start in starts if finite]

    @cached_property
    def usual_lr(self) -> float:
        """L'ordre de grandeur du taux qu'AdamW supporte à cette largeur."""
        return 2e-3 * math.sqrt(128 / self.settings.model.emb_dim)

    @property
    def rates(self) -> list[Rate]:
        """Les taux d'apprentissage, le plus excessif d'abord ; Muon a le sien."""
        found = [Rate(name="lr", value=self.settings.training.lr, usual=self.usual_lr)]
        optimizer = self.settings.optimizer
        if optimizer.optimizer == "muon":
            found.append(Rate(name="muon_lr", value=optimizer.muon_lr, usual=0.04))
        return sorted(found, key=lambda each: each.value / each.usual, reverse=True)

    @property
    def lr(self) -> float:
        """Le taux le plus excessif, en part du plus usuel."""
        return self.rates[0].value / self.rates[0].usual

    @property
    def learns_all(self) -> bool:
        """Vrai si tous les poids apprennent depuis le hasard, et d'un texte."""
        return self.settings.start is None and self.settings.model.head is None

    @property
    def is_stuck(self) -> bool:
        """Vrai si la perte des lots finit près de l'unigramme, ou au-dessus."""
        baselines = self.survey.baselines
        if baselines is None or not self.smooth:
            return False
        gained = baselines.unigram - self.smooth[-1]
        return gained < 0.25 * (baselines.unigram - baselines.bigram)

    @cached_property
    def final(self) -> float:
        """La dernière perte d'entraînement mesurée, sans dropout ; infinie à défaut."""
        losses = [] if self.state is None else self.state.train_losses
        return losses[-1] if losses else math.inf


def step_losses(journal: Path | str) -> list[float]:
    """La perte de chaque lot, relue du journal ; vide s'il ne peut pas l'être."""
    try:
        with open_regular(journal) as lines:
            records = (each for each in read_records(lines) if each["kind"] == "step")
            # d'une distillation, celle du texte : l'autre part ne se compare pas aux repères
            return [
                float(each.get("cross_entropy", each.get("loss", math.nan))) for each in records
            ]
    except (OSError, ValueError, TypeError):
        return []


@torch.no_grad()
def dead_units(model: GPTModel, source: TokenSource, window: int) -> float:
    """La part des unités des perceptrons qu'aucun token de quelques fenêtres n'active."""
    highest = dict[nn.Module, Tensor]()

    def keep(module: nn.Module, _inputs: object, output: Tensor) -> None:
        found = output.flatten(0, -2).amax(dim=0)  # (F,)
        highest[module] = torch.maximum(found, highest.get(module, found))

    blocks = [each for each in model.modules() if isinstance(each, FeedForward)]
    hooks = [each.layers[0].register_forward_hook(keep) for each in blocks]
    device = next(model.parameters()).device
    window = min(window, _EXAMINED_TOKENS)
    last = source.num_tokens - window
    starts = range(0, last + 1, max(window, last // _EXAMINED_WINDOWS))
    try:
        with evaluation_mode(model):
            for start in list(starts)[:_EXAMINED_WINDOWS]:
                model(source.read(start, window)[None].to(device))
    finally:
        for hook in hooks:
            hook.remove()
    units = torch.cat(list(highest.values()))
    return float((units < _DEAD_BELOW).float().mean())
