"""Des textes classés ou notés par un modèle, et ce que valent ses réponses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt_architecture.config import HeadConfig
from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.labelled import LABELS
from gpt_architecture.data.labelling import encode_examples, padding_of
from gpt_architecture.data.splits import split_examples
from gpt_architecture.data.texts.labelled import Example, Examples, check_labels, read_examples
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.classification import ClassResult, LabelMeasures, ValueResult
from gpt_architecture.evaluation.judgement import (
    Judgement,
    head_of,
    head_outputs,
    probabilities_of,
    values_of,
)
from gpt_architecture.evaluation.word_weights import learn_classes, learn_values

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Judgements:
    """Ce qu'un modèle dit de plusieurs textes : une suite de `Judgement`.

    Attributes:
        rows: un par texte, dans l'ordre donné.

    Examples:
        >>> from gpt_architecture import train
        >>> run = train(classify="messages-fr", label="urgence", regress=True, tokenizer="char",
        ...             context_length=16, emb_dim=16, n_heads=2, n_layers=1, max_steps=2,
        ...             output_dir="urgence")
        >>> found = run.model.classify(["La bouilloire sent le brûlé !"])
        >>> found.labels, len(found.values)
        ([None], 1)
    """

    rows: tuple[Judgement, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Judgement:
        return self.rows[place]

    def __iter__(self) -> Iterator[Judgement]:
        return iter(self.rows)

    @property
    def labels(self) -> list[str | None]:
        """La classe de chaque texte ; None si le modèle rend une valeur."""
        return [each.label for each in self.rows]

    @property
    def values(self) -> list[float | None]:
        """La valeur de chaque texte ; None si le modèle rend une classe."""
        return [each.value for each in self.rows]

    def __repr__(self) -> str:
        from gpt_architecture.reports.labels import judged

        return f"Judgements({', '.join(judged(each) for each in self.rows)})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.labels import judgements_table
        from gpt_architecture.reports.notebook import tables_cell

        return tables_cell([judgements_table(self.rows)])


def check_settings(classify: object, *, others: bool, **only: object) -> None:
    """Refuse `classify` avec une mesure d'un modèle qui écrit, et ce qui ne va pas sans lui.

    Raises:
        ConfigurationError: ils sont nommés.
    """
    if classify is not None and others:
        raise ConfigurationError(
            "`classify` avec une autre mesure",
            expected="un modèle qui classe n'écrit pas : rien d'autre ne s'en mesure",
            remedy="demandez l'autre à part",
        )
    for name, given in only.items():
        if given is not None and classify is None:
            raise ConfigurationError(
                f"`{name}` sans `classify`",
                expected="les deux ensemble",
                remedy="ajoutez `classify=FICHIER.csv`",
            )


def measure_labels(
    path: Path | str,
    *,
    model: CausalLM,
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    window: int,
    label: str | None = None,
    field: str | None = None,
    reference: Path | str | None = None,
    limit: int | None = None,
    max_rows: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> LabelMeasures:
    """Mesure un modèle sur des exemples étiquetés, et à côté une référence : des mots pesés.

    Du fichier même de l'entraînement, seuls les exemples de validation sont mesurés, et la
    référence apprend des autres ; d'un autre fichier, elle apprend de `reference`.

    Args:
        path: les exemples à mesurer.
        model: il a une tête de classe ou de valeur.
        tokenizer: le sien.
        metadata: les siennes.
        window: tokens lus de chaque texte, au plus.
        label: colonne de l'étiquette ; None : celle de l'entraînement.
        field: colonne du texte ; None : celle de l'entraînement.
        reference: les exemples dont la référence apprend ; None : ceux du même fichier.
        limit: exemples mesurés, au plus.
        max_rows: textes lus ensemble, au plus.
        on_progress: appelé avec (textes lus, textes en tout).

    Raises:
        ConfigurationError: le modèle n'a pas de telle tête.
        DataError: fichier, rangée ou étiquette qui ne convient pas.
    """
    head, known = head_of(model), _trained_on(metadata)
    label, field = label or known.get("label"), field or known.get("text")

    def read(source: Path | str) -> Examples:
        found = read_examples(source, label=label, text=field, regress=head.is_regression)
        check_labels(found, head, source)
        return found

    examples = read(path)
    learned, measured = _parts(examples, known, head)
    if measured is None:
        logger.warning("%s : le modèle a appris ces exemples ; il les connaît", path)
        measured = learned
    held_out = examples.sha256 == known.get("sha256") and learned is not measured
    if reference is not None:
        learned, _ = _parts(read(reference), known, head)
    elif not held_out:
        learned = []
    chosen = list(measured[:limit])
    rows = encode_examples(chosen, tokenizer, window, origin=path)
    outputs = head_outputs(
        model, rows, padding=padding_of(tokenizer), max_rows=max_rows, on_progress=on_progress
    )
    balance = known.get("balance") is True
    return LabelMeasures(
        name=examples.name,
        result=_result(chosen, head, outputs),
        reference=_reference(learned, chosen, head, balance=balance),
        learned=len(learned),
        held_out=held_out,
        truncated=sum(len(row) == window for row in rows),
    )


def _trained_on(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ce que le modèle dit de ses exemples ; vide s'il n'en dit rien."""
    found = metadata.get(LABELS)
    return found if isinstance(found, Mapping) else {}


def _parts(
    examples: Examples, known: Mapping[str, Any], head: HeadConfig
) -> tuple[Sequence[Example], Sequence[Example] | None]:
    """Les exemples que le modèle a appris, et ceux qu'il n'a pas vus.

    D'un autre fichier que le sien, tous sont à apprendre comme à mesurer. Les seconds manquent, si
    le modèle a tout appris, ou si le partage s'est fait sur une autre colonne.
    """
    if examples.sha256 != known.get("sha256"):
        return examples.rows, examples.rows
    split = known.get("split")
    if not isinstance(split, Mapping) or examples.label_field != known.get("label"):
        return examples.rows, None
    ratio, seed = split.get("ratio"), split.get("seed")
    if not isinstance(ratio, float) or not 0 < ratio < 1 or type(seed) is not int or seed < 0:
        return examples.rows, None
    groups = None if head.is_regression else [each.label for each in examples.rows]
    return split_examples(examples.rows, ratio, seed, groups=groups)


def _result(chosen: Sequence[Example], head: HeadConfig, outputs: Any) -> ClassResult | ValueResult:
    if head.is_regression:
        return ValueResult(truth=_values(chosen), found=values_of(outputs, head))
    return ClassResult(
        labels=head.labels, truth=_ranks(chosen, head), probabilities=probabilities_of(outputs)
    )


def _reference(
    learned: Sequence[Example], chosen: Sequence[Example], head: HeadConfig, *, balance: bool
) -> ClassResult | ValueResult | None:
    """La référence, apprise des uns et mesurée sur les autres ; None : rien à apprendre."""
    if not learned:
        return None
    texts, asked = ([each.text for each in part] for part in (learned, chosen))
    if head.is_regression:
        words = learn_values(texts, _values(learned).tolist())
        return ValueResult(truth=_values(chosen), found=words.values(asked))
    ranks = _ranks(learned, head).tolist()
    words = learn_classes(texts, ranks, classes=len(head.labels), balance=balance)
    return ClassResult(
        labels=head.labels, truth=_ranks(chosen, head), probabilities=words.probabilities(asked)
    )


def _values(examples: Sequence[Example]) -> Any:
    return np.array([float(each.label) for each in examples], dtype=np.float64)


def _ranks(examples: Sequence[Example], head: HeadConfig) -> Any:
    ranks = {label: rank for rank, label in enumerate(head.labels)}
    return np.array([ranks[str(each.label)] for each in examples], dtype=np.int64)
