"""Des mesures d'un modèle : ce que rend `evaluate`, et comment il se montre."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.classification import LabelMeasures
from gpt_architecture.evaluation.cloze import ClozeResult
from gpt_architecture.evaluation.memorisation import MemorisationReport
from gpt_architecture.evaluation.minimal_pairs import PairsResult
from gpt_architecture.evaluation.perplexity import TextMeasures
from gpt_architecture.evaluation.preferences import PreferenceResult
from gpt_architecture.evaluation.tasks import ChoiceResult, LastWordResult
from gpt_architecture.french import decimal, percent, significant

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.evaluation.lm_eval import TaskResult
    from gpt_architecture.reports.terminal import TableData


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation:
    """Des mesures ; celle qui n'est pas demandée vaut None.

    Attributes:
        text: pertes de textes, en nats par token.
        last_word: épreuve du dernier mot.
        choices: choix multiple.
        french: paires minimales du français.
        cloze: mots à deviner, tirés d'un texte.
        preferences: paires de réponses, l'une préférée à l'autre.
        lm_eval: épreuves de lm-eval.
        memorisation: ce que le modèle récite.
        labels: textes classés ou notés, et une référence à côté.
        record: tout, en types simples : le JSON de la commande.
        tokenizer: celui du modèle.
    """

    text: TextMeasures | None = None
    last_word: LastWordResult | None = None
    choices: ChoiceResult | None = None
    french: PairsResult | None = None
    cloze: ClozeResult | None = None
    preferences: PreferenceResult | None = None
    lm_eval: tuple[TaskResult, ...] | None = None
    memorisation: MemorisationReport | None = None
    labels: LabelMeasures | None = None
    record: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer

    @property
    def loss(self) -> float:
        """La perte de tous les textes, en nats par token.

        Raises:
            ConfigurationError: aucun texte n'a été mesuré.
        """
        return self._measured.total.loss

    @property
    def perplexity(self) -> float:
        """La perplexité de tous les textes ; voir `loss`."""
        return self._measured.total.perplexity

    @property
    def bits_per_byte(self) -> float:
        """Bits pour coder un octet de ces textes ; voir `loss`."""
        return self._measured.total.bits_per_byte

    @property
    def _measured(self) -> TextMeasures:
        if self.text is None:
            raise ConfigurationError(
                "aucun texte n'a été mesuré", expected="`data`", remedy="donnez `data`"
            )
        return self.text

    def show(self, console: Console) -> None:
        """Écrit les tableaux de la commande."""
        from gpt_architecture.reports import french, measures, memorisation, preferences
        from gpt_architecture.reports.labels import show_labels

        if self.labels is not None:
            show_labels(console, self.labels)
        if self.text is not None:
            measures.show_text(console, self.text)
        if self.last_word is not None:
            measures.show_last_word(console, self.last_word)
        if self.choices is not None:
            measures.show_choices(console, self.choices)
        if self.french is not None:
            french.show_pairs(console, self.french)
        if self.cloze is not None:
            french.show_cloze(console, self.cloze)
        if self.preferences is not None:
            preferences.show_preferences(console, self.preferences)
        if self.lm_eval is not None:
            measures.show_harness(console, self.lm_eval)
        if self.memorisation is not None:
            memorisation.show_memorisation(console, self.memorisation, self.tokenizer)

    def __str__(self) -> str:
        from rich.console import Console

        buffer = io.StringIO()
        self.show(Console(file=buffer, width=100, highlight=False, markup=False, emoji=False))
        return buffer.getvalue()

    def __repr__(self) -> str:
        names = (
            *("text", "last_word", "choices", "french", "cloze", "preferences", "lm_eval"),
            "memorisation",
        )
        said = [name for name in names if getattr(self, name) is not None]
        if self.text is not None:
            loss, perplexity = decimal(self.loss, 3), significant(self.perplexity)
            said[0] = f"perte {loss} nats, perplexité {perplexity}"
        if self.labels is not None:
            said.append(self.labels.said)
        shown = {"last_word": _share(self.last_word), "choices": _share(self.choices)}
        if self.french is not None:
            shown["french"] = percent(self.french.total.accuracy)
        if self.cloze is not None:
            parts = (_share(self.cloze.last_word), _share(self.cloze.choices))
            shown["cloze"] = ", ".join(filter(None, parts))
        if self.preferences is not None:
            shown["preferences"] = percent(self.preferences.total.accuracy)
        said = [f"{name} {shown[name]}" if shown.get(name) else name for name in said]
        return f"Evaluation({', '.join(said)})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports import french, measures, memorisation, preferences
        from gpt_architecture.reports.labels import labels_notes, labels_tables
        from gpt_architecture.reports.notebook import tables_cell

        if self.labels is not None:
            return tables_cell(
                labels_tables(self.labels),
                calibration=self.labels.calibration,
                notes=labels_notes(self.labels),
            )
        tables: list[TableData] = []
        if self.text is not None:
            tables.append(measures.text_table(self.text))
        if self.last_word is not None:
            tables.append(measures.last_word_table(self.last_word))
        if self.choices is not None:
            tables.append(measures.choices_table(self.choices))
        if self.french is not None:
            tables.append(french.pairs_table(self.french))
        if self.cloze is not None:
            tables += french.cloze_tables(self.cloze)
        if self.preferences is not None:
            tables.append(preferences.preferences_table(self.preferences))
        if self.lm_eval is not None:
            tables.append(measures.harness_table(self.lm_eval))
        if self.memorisation is not None:
            tables.append(memorisation.memorisation_table(self.memorisation))
        return tables_cell(tables, notes=["Perte en nats par token ; intervalles à 95 %."])


def _share(result: LastWordResult | ChoiceResult | None) -> str:
    """L'exactitude d'une épreuve ; vide si elle n'a pas été mesurée."""
    if result is None:
        return ""
    return percent(result.accuracy if isinstance(result, LastWordResult) else result.acc_norm)
