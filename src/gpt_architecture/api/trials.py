"""Les mesures d'un modèle, une à une : textes et épreuves, l'avancement sur une barre."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.labels import measure_labels
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.texts.preferences import PreferencePair
from gpt_architecture.evaluation.cloze import ClozeExamples, ClozeResult
from gpt_architecture.evaluation.minimal_pairs import PairsResult, measure_pairs, read_pairs
from gpt_architecture.evaluation.perplexity import TextMeasures, TokenDocument, measure_documents
from gpt_architecture.evaluation.preferences import PreferenceResult, measure_preferences
from gpt_architecture.evaluation.tasks import (
    ChoiceResult,
    LastWord,
    LastWordResult,
    MultipleChoice,
    measure_choices,
    measure_last_words,
)
from gpt_architecture.training.distributed.world import World

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.evaluation.classification import LabelMeasures
    from gpt_architecture.evaluation.lm_eval import TaskResult
    from gpt_architecture.reports.console import ProgressBar


class Measurer:
    """Mesure textes et épreuves, l'avancement sur une barre ; None : rien à mesurer.

    Args:
        gpt: le modèle.
        bar: où se dit l'avancement.
        world: les processus qui se partagent les requêtes.
        batch_size: séquences lues ensemble, au plus.
    """

    def __init__(self, gpt: GPT, bar: ProgressBar, world: World, *, batch_size: int) -> None:
        self._gpt, self._bar, self._world, self._batch_size = gpt, bar, world, batch_size
        self._model = gpt.measured

    def texts(self, documents: Sequence[TokenDocument], stride: int | None) -> TextMeasures | None:
        """La perplexité de textes."""
        prefix = self._gpt.tokenizer.eos_id
        run = partial(measure_documents, self._model, documents, stride=stride, prefix=prefix)
        return self._run(run, "Textes") if documents else None

    def last_words(self, words: Sequence[LastWord]) -> LastWordResult | None:
        """Le dernier mot de passages, deviné."""
        run = partial(measure_last_words, self._model, self._gpt.tokenizer, words)
        return self._run(run, "Dernier mot") if words else None

    def choices(self, questions: Sequence[MultipleChoice]) -> ChoiceResult | None:
        """La bonne suite, choisie."""
        run = partial(measure_choices, self._model, self._gpt.tokenizer, questions)
        return self._run(run, "Choix multiple") if questions else None

    def french(self, limit: int | None) -> PairsResult:
        """Les paires minimales du français, `limit` au plus par phénomène."""
        phenomena, pairs = read_pairs(limit=limit)
        run = partial(measure_pairs, self._model, self._gpt.tokenizer, phenomena, pairs)
        found: PairsResult = self._run(run, "Paires minimales")
        return found

    def cloze(self, passages: ClozeExamples) -> ClozeResult:
        """Les mots à deviner de textes donnés."""
        return ClozeResult(
            last_word=self.last_words(passages.last_words), choices=self.choices(passages.choices)
        )

    def preferences(
        self, pairs: Sequence[PreferencePair], path: Path | str | None
    ) -> PreferenceResult | None:
        """La réponse préférée de chaque paire ; sans fichier, None."""
        if path is None:
            return None
        template = self._gpt.metadata.get(CHAT_TEMPLATE)
        run = partial(
            measure_preferences, self._model, self._gpt.tokenizer, pairs, path, template=template
        )
        found: PreferenceResult = self._run(run, "Préférences")
        return found

    def labels(self, path: Path | str, **settings: Any) -> LabelMeasures:
        """La classe ou la valeur de textes étiquetés ; voir `measure_labels`."""
        from gpt_architecture.reports.console import PaceProgress

        return measure_labels(
            path,
            model=self._model,
            tokenizer=self._gpt.tokenizer,
            metadata=self._gpt.metadata,
            window=self._gpt.window,
            max_rows=self._batch_size,
            on_progress=PaceProgress(self._bar, "Classement", "textes"),
            **settings,
        )

    def harness(
        self, trials: Sequence[str], *, limit: int | None, offline: bool
    ) -> tuple[TaskResult, ...] | None:
        """Les épreuves de lm-eval."""
        if not trials:
            return None
        from gpt_architecture.evaluation.lm_eval import run_tasks

        found = run_tasks(
            trials,
            self._model,
            self._gpt.tokenizer,
            offline=offline,
            limit=limit,
            window=self._gpt.window,
            max_rows=self._batch_size,
            on_progress=_progress_by_kind(self._bar),
            crew=self._world,
        )
        return tuple(found)

    def _run(self, run: Callable[..., Any], name: str) -> Any:
        from gpt_architecture.reports.console import PaceProgress

        return run(
            window=self._gpt.window,
            max_rows=self._batch_size,
            on_progress=PaceProgress(self._bar, name),
            crew=self._world,
        )


def _progress_by_kind(bar: ProgressBar) -> Callable[[str, int, int], None]:
    """L'avancement de lm-eval : chaque nature de requêtes a le sien."""
    from gpt_architecture.evaluation.lm_eval import UNITS
    from gpt_architecture.reports.console import PaceProgress

    started: dict[str, PaceProgress] = {}

    def advance(kind: str, done: int, total: int) -> None:
        if kind not in started:
            started[kind] = PaceProgress(bar, f"lm-eval, {kind}", UNITS.get(kind, "tokens"))
        started[kind](done, total)

    return advance
