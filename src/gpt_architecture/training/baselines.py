"""Les repères d'une perte : ce que des n-grammes atteignent sur le même texte de validation.

« Ma perte est-elle normale ? » Elle l'est si elle passe, l'une après l'autre, sous celles de qui ne
sait rien, de qui connaît les fréquences, de qui ne voit qu'un token, puis quelques-uns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpt_architecture.formats.journal import finite_number
from gpt_architecture.french import decimal
from gpt_architecture.training.callbacks import Callback, EvaluationRecord, OngoingTraining
from gpt_architecture.training.ngrams import Bools, Ints, KneserNey

ORDER = 4
"""Ordre du plus long n-gramme."""


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Pertes de repère sur le texte de validation mesuré, en nats par token.

    Attributes:
        uniform: celle de qui ne sait rien : ln V.
        unigram: celle de qui connaît les fréquences.
        bigram: celle de qui ne voit que le token précédent.
        ngram: celle d'un n-gramme de Kneser–Ney interpolé.
        order: son ordre.
        counted: tokens d'entraînement comptés.
        total: tokens d'entraînement en tout.
    """

    uniform: float
    unigram: float
    bigram: float
    ngram: float
    order: int
    counted: int
    total: int

    @property
    def levels(self) -> dict[str, float]:
        """Le nom et la perte de chaque repère."""
        return {
            "uniforme": self.uniform,
            "unigramme": self.unigram,
            "bigramme": self.bigram,
            f"{self.order}-gramme": self.ngram,
        }

    def passed(
        self, steps: Sequence[int], losses: Sequence[float]
    ) -> tuple[str, float, int] | None:
        """Le plus bas repère sous lequel la validation finit, sa perte, et depuis quelle étape.

        Args:
            steps: étape de chaque évaluation.
            losses: perte de validation de chacune.

        Returns:
            None : elle finit au-dessus de tous, ou n'a pas été mesurée.
        """
        under = [(loss, name) for name, loss in self.levels.items() if losses and losses[-1] < loss]
        if not under:
            return None
        level, name = min(under)
        above = [index for index, loss in enumerate(losses) if not loss < level]
        return name, level, steps[above[-1] + 1 if above else 0]

    def to_dict(self) -> dict[str, Any]:
        """Les repères, en types simples."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object) -> Baselines | None:
        """Relit `to_dict` ; None si ce n'en est pas un."""
        names = cls.__dataclass_fields__
        if not isinstance(values, Mapping):
            return None
        read = {name: finite_number(values.get(name)) for name in names}
        known = {name: value for name, value in read.items() if value is not None}
        if len(known) < len(names):
            return None
        whole = {name: int(known[name]) for name in ("order", "counted", "total")}
        return cls(**{**known, **whole})  # type: ignore[arg-type]


@dataclass(frozen=True)
class BaselineNotice(Callback):
    """Dit, à mesure, sous quel repère la validation vient de passer."""

    baselines: Baselines

    def on_evaluation(self, record: EvaluationRecord, trainer: OngoingTraining) -> None:
        """Compare la validation, et la plus basse d'avant, aux repères."""
        lowest = min(trainer.state.val_losses[:-1], default=math.inf)
        levels = self.baselines.levels.items()
        passed = [(loss, name) for name, loss in levels if record.val_loss < loss <= lowest]
        if passed and record.val_loss < self.baselines.unigram:
            loss, name = min(passed)
            trainer.announce(f"La validation passe sous le repère {name} ({decimal(loss)}).")


def measure_baselines(
    counted: Sequence[tuple[Ints, Bools]], rows: Ints, judged: Bools, *, vocab_size: int, total: int
) -> Baselines:
    """Compte l'entraînement, et mesure ce que ses n-grammes prédisent de la validation.

    Args:
        counted: morceaux du texte d'entraînement, et leurs tokens qui s'apprennent, (N,).
        rows: fenêtres de validation et leur cible, (B, T + 1).
        judged: cibles mesurées, (B, T).
        vocab_size: tokens du vocabulaire.
        total: tokens d'entraînement en tout.
    """
    segments, learned = zip(*counted, strict=True)
    model = KneserNey(segments, vocab_size, order=ORDER, learned=learned)
    unigram, bigram, ngram = (
        float(model.losses(rows, order=order)[judged].mean()) for order in (1, 2, ORDER)
    )
    return Baselines(
        uniform=math.log(vocab_size),
        unigram=unigram,
        bigram=bigram,
        ngram=ngram,
        order=ORDER,
        counted=sum(int(each.sum()) for each in learned),
        total=total,
    )
