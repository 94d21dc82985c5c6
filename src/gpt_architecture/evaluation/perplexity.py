"""Perte, perplexité et bits par octet d'un modèle sur des textes, par fenêtres glissantes.

Chaque token est prédit une seule fois. Une fenêtre finit `stride` tokens après la précédente et
ne note que ceux-là : les autres, déjà notés, lui servent de contexte. Formes : T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gpt_architecture.config import check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.shards.layout import holds_shards
from gpt_architecture.data.shards.reader import open_shards
from gpt_architecture.data.texts import corpus
from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.errors import DataError
from gpt_architecture.evaluation.likelihood import (
    ALONE,
    MAX_ROWS,
    Crew,
    Interval,
    Span,
    bootstrap_interval,
    cumulated,
    perplexity_of,
    score_spans,
)

MIN_DOCUMENTS = 20
"""Documents à partir desquels l'intervalle du total les rééchantillonne, et non les fenêtres."""

_SPANS_AT_ONCE = 8 * MAX_ROWS
_READ_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TokenDocument:
    """Un document à mesurer.

    Attributes:
        name: son nom, pour les tableaux.
        tokens: ses identifiants.
        num_bytes: octets (UTF-8) du texte qu'ils codent.
        first_bytes: octets de son premier token, qui n'est pas prédit faute de token de début de
            texte.
    """

    name: str
    tokens: Sequence[int]
    num_bytes: int
    first_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TextLoss:
    """La perte d'un texte.

    Attributes:
        name: document, ou ensemble de documents.
        tokens: tokens prédits.
        num_bytes: octets qu'ils codent.
        loss: −log p moyen, en nats par token.
        interval: intervalle de confiance à 95 % de `loss` ; None : une seule fenêtre.
    """

    name: str
    tokens: int
    num_bytes: int
    loss: float
    interval: Interval | None

    @property
    def perplexity(self) -> float:
        """exp(perte) ; infinie au-delà de ce qu'un flottant contient."""
        return perplexity_of(self.loss)

    @property
    def perplexity_interval(self) -> Interval | None:
        """L'intervalle de la perplexité."""
        return self._mapped(perplexity_of)

    @property
    def bits_per_byte(self) -> float:
        """Bits pour coder un octet de texte : comparable d'un vocabulaire à l'autre."""
        return self.loss * self._bits_factor

    @property
    def bits_per_byte_interval(self) -> Interval | None:
        """L'intervalle des bits par octet."""
        return self._mapped(lambda loss: loss * self._bits_factor)

    @property
    def _bits_factor(self) -> float:
        return self.tokens / (math.log(2) * self.num_bytes) if self.num_bytes else math.nan

    def _mapped(self, transform: Callable[[float], float]) -> Interval | None:
        return self.interval and (transform(self.interval[0]), transform(self.interval[1]))


@dataclass(frozen=True, kw_only=True)
class TextMeasures:
    """Les pertes de plusieurs documents.

    Attributes:
        window: tokens lus par fenêtre, au plus.
        stride: tokens notés par fenêtre, après la première.
        total: tous les documents ensemble, chaque token pesant autant.
        documents: chacun d'eux.
        skipped: documents sans aucun token à prédire.
    """

    window: int
    stride: int
    total: TextLoss
    documents: tuple[TextLoss, ...]
    skipped: int = 0


def window_ends(count: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """(Premier token noté, fin exclue) de chaque fenêtre d'une suite de `count` prédictions.

    La première en note `window` ; les suivantes `stride`, la dernière ce qui reste.
    """
    done = 0
    while done < count:
        end = min(done + (stride if done else window), count)
        yield done, end
        done = end


def document_spans(
    tokens: Sequence[int], *, window: int, stride: int, prefix: int | None
) -> Iterator[Span]:
    """Les fenêtres d'un document ; toutes celles d'un long document ont la même longueur.

    Args:
        tokens: identifiants du document.
        window: tokens que le modèle lit à la fois.
        stride: tokens notés par fenêtre.
        prefix: token mis devant le premier, qui est alors prédit lui aussi ; None : le premier
            token est donné.
    """
    sequence = tokens if prefix is None else [prefix, *tokens]
    for start, end in window_ends(len(sequence) - 1, window, stride):
        yield Span(tokens=sequence[max(0, end - window) : end + 1], scored=end - start)


def measure_documents(
    model: CausalLM,
    documents: Sequence[TokenDocument],
    *,
    window: int,
    stride: int | None = None,
    prefix: int | None = None,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
    crew: Crew = ALONE,
) -> TextMeasures:
    """Mesure chaque document, puis tous ensemble.

    Args:
        documents: au moins un token à prédire en tout.
        window: tokens que le modèle lit à la fois, au plus son contexte.
        stride: tokens notés par fenêtre ; None : la moitié de `window`. Plus il est petit, plus
            chaque token a de contexte, et plus il y a de fenêtres.
        prefix: voir `document_spans`.
        max_rows: fenêtres d'un lot, au plus.
        on_progress: appelé avec (tokens notés, tokens à noter).
        crew: voir `score_spans`.

    Raises:
        ConfigurationError: `window` ou `stride` hors bornes.
        DataError: rien à prédire.
    """
    check_int("window", window, minimum=1, maximum=model.cfg.context_length)
    stride = max(1, window // 2) if stride is None else stride
    check_int("stride", stride, minimum=1, maximum=window)
    given = prefix is None  # le premier token de chaque document
    kept = [each for each in documents if len(each.tokens) > given]
    if not kept:
        raise DataError(
            "aucun token à prédire dans ces textes",
            expected="au moins deux tokens" if given else "au moins un token",
            remedy="donnez un texte plus long",
        )
    advance = cumulated(sum(len(each.tokens) - given for each in kept), on_progress)
    windows: list[list[tuple[float, int]]] = [[] for _ in kept]  # (−log p, tokens) par document
    spans = (
        (index, span)
        for index, each in enumerate(kept)
        for span in document_spans(each.tokens, window=window, stride=stride, prefix=prefix)
    )
    while chunk := list(islice(spans, _SPANS_AT_ONCE)):
        chosen = [span for _, span in chunk]
        scores = score_spans(model, chosen, max_rows=max_rows, on_progress=advance, crew=crew)
        for (index, span), score in zip(chunk, scores, strict=True):
            windows[index].append((-score.log_prob, span.scored))
    losses = tuple(
        _loss(each.name, found, each.num_bytes - given * each.first_bytes, found)
        for each, found in zip(kept, windows, strict=True)
    )
    everything = [pair for found in windows for pair in found]
    per_document = [(each.loss * each.tokens, each.tokens) for each in losses]
    return TextMeasures(
        window=window,
        stride=stride,
        total=_loss(
            "total",
            everything,
            sum(each.num_bytes for each in losses),
            per_document if len(losses) >= MIN_DOCUMENTS else everything,
        ),
        documents=losses,
        skipped=len(documents) - len(kept),
    )


def _loss(
    name: str,
    pairs: Sequence[tuple[float, int]],
    num_bytes: int,
    units: Sequence[tuple[float, int]],
) -> TextLoss:
    """La perte de paires (−log p, tokens) ; l'intervalle vient des `units`."""
    tokens = sum(count for _, count in pairs)
    return TextLoss(
        name=name,
        tokens=tokens,
        num_bytes=num_bytes,
        loss=math.fsum(nll for nll, _ in pairs) / tokens,
        interval=bootstrap_interval([nll for nll, _ in units], [count for _, count in units]),
    )


def read_token_documents(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    *,
    field: str | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
    offline: bool = False,
    skip_bad: bool = False,
) -> list[TokenDocument]:
    """Lit et code tous les documents.

    Args:
        sources: fichiers, dossiers, dossiers de fragments (leur part de validation), ou noms de
            corpus ; voir `data.texts.corpus`.
        tokenizer: celui du modèle.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        limit: documents gardés, les premiers ; None : tous.
        max_tokens: tokens gardés de chacun, les premiers ; None : tous.
        offline: interdit de télécharger un corpus connu par son nom.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.

    Raises:
        DataError: source absente, illisible ou vide, ligne qui ne convient pas (elle est nommée),
            ou fragments d'un autre tokenizer.
    """
    count_bytes = _byte_counter(tokenizer)
    reading: dict[str, Any] = {"field": field, "offline": offline, "skip_bad": skip_bad}
    coded = (each for source in sources for each in _coded(source, tokenizer, reading))
    documents = list[TokenDocument]()
    for name, ids, text in islice(coded, limit):
        kept = ids[:max_tokens]
        documents.append(
            TokenDocument(
                name=name,
                tokens=kept,
                num_bytes=count_bytes(kept)
                if text is None or len(kept) < len(ids)
                else len(text.encode("utf-8")),
                first_bytes=count_bytes(kept[:1]),
            )
        )
    return documents


def _coded(
    source: str, tokenizer: Tokenizer, reading: Mapping[str, Any]
) -> Iterator[tuple[str, list[int], str | None]]:
    """(Nom, identifiants, texte si on l'a) de chaque document d'une source."""
    path = Path(source)
    if holds_shards(path):
        for number, ids in enumerate(_held_out(path, tokenizer), start=1):
            yield f"{path.name}#{number}", ids, None
    else:
        for each in corpus.read_documents([source], **reading):
            yield each.name, tokenizer.encode(each.text), each.text


def _held_out(path: Path, tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Les documents de la part de validation de fragments, séparés par la fin de texte."""
    shards = open_shards(path, "val", vocab_size=tokenizer.vocab_size)
    if shards.tokenizer is not None and shards.tokenizer != tokenizer.to_dict():
        raise DataError(
            f"{path} est codé avec un autre tokenizer ({shards.tokenizer.get('name')!r})",
            expected=f"celui du modèle ({tokenizer.name!r})",
            remedy="préparez ces textes avec le tokenizer du modèle, ou donnez-les eux-mêmes",
        )
    pending = list[int]()
    for start in range(0, shards.num_tokens, _READ_TOKENS):
        length = min(_READ_TOKENS, shards.num_tokens - start)
        for token in shards.read(start, length).tolist():
            if token != tokenizer.eos_id:
                pending.append(token)
            elif pending:
                yield pending
                pending = []
    if pending:
        yield pending


def _byte_counter(tokenizer: Tokenizer) -> Callable[[Sequence[int]], int]:
    """Ce qui dit combien d'octets codent des tokens."""
    if not isinstance(tokenizer, ByteTokenizer):
        return lambda ids: len(tokenizer.decode(ids).encode("utf-8"))
    lengths = [len(each) for each in tokenizer.token_bytes()]
    return lambda ids: sum(lengths[token] for token in ids)
