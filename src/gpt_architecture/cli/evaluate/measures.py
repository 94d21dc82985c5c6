"""Les mesures de `evaluate` : leurs options, ce qui est lu, calculé, montré pendant le calcul."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.options import QuantName
from gpt_architecture.french import french_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gpt_architecture.api import GPT
    from gpt_architecture.cli.command import ProgressBar
    from gpt_architecture.core.model import CausalLM
    from gpt_architecture.evaluation.perplexity import TokenDocument
    from gpt_architecture.evaluation.tasks import LastWord, MultipleChoice

_LINE_EVERY_S = 5.0


@Parameter(name="*", group=Group("Mesures", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Que mesurer."""

    data: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Textes dont mesurer la perplexité : fichiers, dossiers, fragments ou corpus connus."""

    lambada: Path | None = None
    """Exemples JSONL {"text": "…"} : deviner le dernier mot."""

    choices: Path | None = None
    """Exemples JSONL au format de HellaSwag : choisir la bonne suite."""

    lm_eval: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Épreuves de lm-eval : dernier_mot_fr, prose_fr, serie_fr, suite_fr (locales), ou une des
    siennes."""

    limit: int | None = None
    """Documents et exemples mesurés, au plus, dans chaque fichier."""

    tokens: int | None = None
    """Tokens mesurés, au plus, dans chaque document."""

    field: str = "text"
    """Champ du texte des documents JSONL et Parquet."""

    offline: bool = False
    """Interdit tout téléchargement."""


@Parameter(name="*", group=Group("Calcul", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Comment mesurer."""

    stride: int | None = None
    """Tokens notés par fenêtre ; sans lui, la moitié du contexte appris."""

    batch_size: int = 64
    """Séquences lues ensemble, au plus ; la mémoire en décide aussi."""

    device: str = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Mesure le modèle quantifié au chargement (CPU)."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Les exemples des épreuves, lus avant le modèle."""

    last_words: list[LastWord]
    choices: list[MultipleChoice]

    @classmethod
    def read(cls, options: EvaluateOptions) -> Examples:
        """Ceux que les options demandent."""
        from gpt_architecture.evaluation.tasks import read_choices, read_last_words

        lambada, choices, limit = options.lambada, options.choices, options.limit
        return cls(
            last_words=[] if lambada is None else read_last_words(lambada, limit=limit),
            choices=[] if choices is None else read_choices(choices, limit=limit),
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Une mesure faite : ce qui s'écrit en JSON, et ce qui s'affiche."""

    record: dict[str, Any]
    show: Callable[[Any], None]


def read_measured(gpt: GPT, options: EvaluateOptions) -> list[TokenDocument]:
    """Les documents de --data, codés par le tokenizer du modèle."""
    from gpt_architecture.evaluation.perplexity import read_token_documents

    return read_token_documents(
        options.data,
        gpt.tokenizer,
        field=options.field,
        limit=options.limit,
        max_tokens=options.tokens,
        offline=options.offline,
    )


def measure(
    gpt: GPT,
    documents: Sequence[TokenDocument],
    examples: Examples,
    options: EvaluateOptions,
    compute: MeasureOptions,
    bar: ProgressBar,
) -> dict[str, Measured]:
    """Textes et épreuves, dans l'ordre où ils s'affichent."""
    from functools import partial

    from gpt_architecture.evaluation.perplexity import measure_documents
    from gpt_architecture.evaluation.tasks import measure_choices, measure_last_words
    from gpt_architecture.reports import measures as report

    model = gpt.runner if compute.quant and gpt.runner is not None else gpt.model
    shared = {"window": gpt.window, "max_rows": compute.batch_size}
    results: dict[str, Measured] = {}
    if documents:
        measures = measure_documents(
            model,
            documents,
            stride=compute.stride,
            prefix=gpt.tokenizer.eos_id,
            on_progress=MeasureProgress(bar, "Textes"),
            **shared,
        )
        results["text"] = Measured(
            record=report.text_record(measures), show=partial(report.show_text, measures=measures)
        )
    if examples.last_words:
        found = measure_last_words(
            model,
            gpt.tokenizer,
            examples.last_words,
            on_progress=MeasureProgress(bar, "Dernier mot"),
            **shared,
        )
        results["last_word"] = Measured(
            record=report.last_word_record(found), show=partial(report.show_last_word, result=found)
        )
    if examples.choices:
        chosen = measure_choices(
            model,
            gpt.tokenizer,
            examples.choices,
            on_progress=MeasureProgress(bar, "Choix multiple"),
            **shared,
        )
        results["choices"] = Measured(
            record=report.choices_record(chosen), show=partial(report.show_choices, result=chosen)
        )
    if options.lm_eval:
        results["lm_eval"] = _harness(gpt, model, options, bar, **shared)
    return results


def _harness(
    gpt: GPT,
    model: CausalLM,
    options: EvaluateOptions,
    bar: ProgressBar,
    *,
    window: int,
    max_rows: int,
) -> Measured:
    """Les épreuves de lm-eval ; chaque nature de requêtes a son avancement."""
    from functools import partial

    from gpt_architecture.evaluation.lm_eval import UNITS, run_tasks
    from gpt_architecture.reports import measures as report

    started: dict[str, MeasureProgress] = {}

    def advance(kind: str, done: int, total: int) -> None:
        if kind not in started:
            started[kind] = MeasureProgress(bar, f"lm-eval, {kind}", UNITS.get(kind, "tokens"))
        started[kind](done, total)

    passed = run_tasks(
        options.lm_eval,
        model,
        gpt.tokenizer,
        window=window,
        limit=options.limit,
        offline=options.offline,
        max_rows=max_rows,
        on_progress=advance,
    )
    return Measured(
        record=report.harness_record(passed), show=partial(report.show_harness, results=passed)
    )


class MeasureProgress:
    """Avancement d'une mesure : la barre au terminal, une ligne de temps en temps ailleurs."""

    def __init__(self, bar: ProgressBar, name: str, unit: str = "tokens") -> None:
        self._bar, self._name, self._unit = bar, name, unit
        self._start = self._last_line = time.perf_counter()
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        """Avance jusqu'à `done` unités sur `total`."""
        if not self._started:
            self._bar.start(total, 0)
            self._started = True
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        left = french_duration(elapsed / done * (total - done))
        pace = f"{self._name}, {done / elapsed:.0f} {self._unit}/s, reste {left}"
        self._bar.update(done, pace)
        if not self._bar.is_live and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            self._bar.say(f"Évaluation {100 * done / total:.0f} % | {pace}")
