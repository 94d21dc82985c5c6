"""Ce qu'un entraînement a appris, et quand : la même invite à chacun de ses points de reprise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_architecture.api.options import checked_options
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.inside import learning
from gpt_architecture.french import decimal, percent, plural, thousands

if TYPE_CHECKING:
    from gpt_architecture.reports.terminal import TableData


@dataclass(frozen=True, kw_only=True, repr=False)
class LearningStory(learning.Learning):
    """La même invite au fil d'un entraînement ; voir `evaluation.inside.learning.Learning`."""

    @property
    def table(self) -> TableData:
        """Un point de reprise par ligne."""
        from gpt_architecture.reports.terminal import visible_token

        rows = [
            (
                thousands(each.step),
                *("—" if x is None else decimal(x) for x in (each.train_loss, each.val_loss)),
                percent(each.probability),
                thousands(each.rank),
                " ".join(each.text.split()),
            )
            for each in self.moments
        ]
        headings = (
            "Étapes",
            "Perte",
            "Validation",
            f"« {visible_token(self.follow)} »",
            "Rang",
            "Ce qu'il écrit",
        )
        return (
            f"Après « {' '.join(self.prompt.split())} », au fil de l'entraînement",
            headings,
            rows,
        )

    @property
    def probabilities(self) -> list[float]:
        """La probabilité du texte suivi, point de reprise après point de reprise."""
        return [each.probability for each in self.moments]

    def __repr__(self) -> str:
        first, last = self.moments[0], self.moments[-1]
        count = len(self.moments)
        return (
            f"LearningStory({count} {plural(count, 'point')} de reprise, étapes {first.step} à "
            f"{last.step} ; {self.follow!r} de {percent(first.probability)} à "
            f"{percent(last.probability)})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import tables_cell

        notes = [f"{self.skipped} autres points de reprise ne sont pas montrés."]
        return tables_cell([self.table], notes=notes if self.skipped else [])


@checked_options
def follow_learning(
    run: object,
    prompt: str,
    *,
    follow: str | None = None,
    max_tokens: int = 24,
    most: int = 12,
    on_progress: Callable[[int, int], None] | None = None,
) -> LearningStory:
    """La même invite à chaque point de reprise d'un entraînement : ce qu'il a appris, et quand.

    Args:
        run: l'entraînement (`Run`), ou son dossier. Pour en garder plusieurs points :
            `train(…, save_every=20, keep=50)`.
        prompt: l'invite.
        follow: texte dont suivre la probabilité, juste après l'invite ; None : le token le plus
            probable à la fin. Il est codé seul : avec un BPE, l'espace d'avant en fait partie.
        max_tokens: tokens écrits à chaque moment, au plus probable.
        most: points de reprise lus, au plus, à pas réguliers.
        on_progress: appelé avec (points lus, points à lire).

    Raises:
        ConfigurationError: aucun point de reprise, réglage hors bornes, texte vide ou trop long.
        CheckpointError: un point de reprise est abîmé.

    Examples:
        >>> from gpt_architecture import follow_learning, train
        >>> run = train("la-lampe-du-passeur", tokenizer="char", context_length=16, emb_dim=16,
        ...             n_heads=2, n_layers=1, max_steps=4, save_every=2, keep=5,
        ...             output_dir="essai")
        >>> found = follow_learning(run, "Un soir", follow=" ", max_tokens=3)
        >>> [moment.step for moment in found.moments], found.follow
        ([2, 4], ' ')
    """
    folder = getattr(run, "output_dir", run)
    if not isinstance(folder, (str, Path)):
        raise ConfigurationError.wrong("`run`", run, expected="un entraînement, ou son dossier")
    found = learning.follow_learning(
        folder,
        prompt,
        follow=follow,
        max_tokens=max_tokens,
        most=most,
        on_progress=on_progress,
    )
    return LearningStory(**vars(found))
