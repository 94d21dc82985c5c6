"""Ce que lm-eval demande à un modèle : noter des suites et des textes, et écrire.

Les requêtes sont codées et notées comme le fait son modèle `hf` : les chiffres sont ceux qu'il
donne sur le même modèle exporté.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import MAX_BATCH, Generator
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.likelihood import (
    ALONE,
    MAX_ROWS,
    Crew,
    Span,
    SpanScore,
    continuation_span,
    cumulated,
    score_spans,
    shared_texts,
)
from gpt_architecture.evaluation.perplexity import document_spans

DEFAULT_NEW_TOKENS = 256
"""Tokens d'une génération dont l'épreuve ne dit pas la longueur ; celle de lm-eval."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

_SAMPLING = {"temperature": "temperature", "top_k": "k", "top_p": "p", "min_p": "min_p"}


class HarnessModel:
    """Ce que lm-eval demande à un modèle (son `LM`) : noter des suites, des textes, et écrire.

    Args:
        model: rend des logits (B, T, V).
        tokenizer: le sien.
        window: tokens qu'il lit à la fois, au plus son contexte.
        max_rows: séquences d'un lot, au plus.
        on_progress: appelé avec (nature des requêtes, faites, en tout) : des tokens notés, ou
            des textes écrits.
        crew: les processus qui se partagent les requêtes, les mêmes pour tous ; chacun rend toutes
            les réponses, celles d'un seul.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        *,
        window: int,
        max_rows: int = MAX_ROWS,
        on_progress: Callable[[str, int, int], None] | None = None,
        crew: Crew = ALONE,
    ) -> None:
        super().__init__()
        self._model = model
        self._tokenizer = tokenizer
        self._window = window
        self._max_rows = max_rows
        self._on_progress = on_progress
        self._crew = crew
        self._prefix = tokenizer.eos_id

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log p, suite gloutonne ?) de chaque (contexte, suite)."""
        spans = [
            continuation_span(self._encode, *request.args, prefix=self._prefix, window=self._window)
            for request in requests
        ]
        scores = self._score("suites", spans)
        return [(score.log_prob, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """log p de chaque texte entier, par fenêtres qui ne se recouvrent que pour la dernière."""
        owners, spans = list[int](), list[Span]()
        for owner, request in enumerate(requests):
            (text,) = request.args
            windows = document_spans(
                self._encode(text), window=self._window, stride=self._window, prefix=self._prefix
            )
            for span in windows:
                owners.append(owner)
                spans.append(span)
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, self._score("textes", spans), strict=True):
            totals[owner] += score.log_prob
        return totals

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """La suite de chaque invite, jusqu'à l'un de ses textes d'arrêt.

        Raises:
            ConfigurationError: une épreuve demande un réglage que le projet n'a pas.
        """
        batch = min(self._max_rows, MAX_BATCH)
        generator = Generator(self._model, self._tokenizer, window=self._window, max_batch=batch)
        texts = dict[int, str]()
        for turn, start in enumerate(range(0, len(requests), batch)):
            if turn % self._crew.size == 0:
                self._crew.sum(torch.zeros(1))  # à chaque tour : personne n'attend plus d'un lot
            if turn % self._crew.size != self._crew.rank:
                continue
            prompts, configs = list[list[int]](), list[GenerationConfig]()
            for number, request in enumerate(requests[start : start + batch], start=start):
                context, settings = request.args
                config = generation_config(settings, seed=number)
                prompts.append(self._prompt(context, config.max_tokens))
                configs.append(config)
            found = generator.generate(prompts, configs)
            texts |= {start + place: each.text for place, (each,) in enumerate(found)}
            if self._on_progress is not None:
                done = min(start + len(prompts), len(requests))
                self._on_progress("générations", done, len(requests))
        return shared_texts(self._crew, len(requests), texts)

    def _prompt(self, context: str, new_tokens: int) -> list[int]:
        """L'invite, dont la fin seule est gardée pour que sa suite tienne dans la fenêtre."""
        ids = self._encode(context)
        if not ids and self._prefix is not None:
            ids = [self._prefix]
        room = self._window - new_tokens
        return ids[-(room if room > 0 else max(1, self._window // 2)) :]

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, allowed_special={END_OF_TEXT})

    def _score(self, kind: str, spans: Sequence[Span]) -> list[SpanScore]:
        report = None if self._on_progress is None else partial(self._on_progress, kind)
        advance = cumulated(sum(span.scored for span in spans), report)
        return score_spans(
            self._model, spans, max_rows=self._max_rows, on_progress=advance, crew=self._crew
        )


def generation_config(settings: Mapping[str, Any], *, seed: int) -> GenerationConfig:
    """Les réglages de génération d'une épreuve lm-eval, dans les termes du projet.

    Glouton, sauf si l'épreuve demande d'échantillonner : `do_sample`, ou une température positive.

    Args:
        settings: `generation_kwargs` de l'épreuve.
        seed: graine de l'échantillonnage.

    Raises:
        ConfigurationError: réglage inconnu.
    """
    left = dict(settings)
    until = left.pop("until", None) or []
    stop = tuple(each for each in ([until] if isinstance(until, str) else until) if each)
    lengths = [left.pop(name, None) for name in _LENGTHS]
    temperature = float(left.get("temperature", 0.0))
    samples = left.pop("do_sample", None)
    samples = temperature > 0 if samples is None else bool(samples)
    chosen = {
        ours: left.pop(theirs) for theirs, ours in _SAMPLING.items() if left.get(theirs) is not None
    }
    unknown = [name for name, value in left.items() if value is not None]
    if unknown:
        raise ConfigurationError(
            f"l'épreuve demande le réglage de génération {', '.join(sorted(unknown))}",
            expected=f"until, do_sample, {_LENGTHS[0]}, {', '.join(_SAMPLING)}",
            remedy="choisissez une autre épreuve",
        )
    return GenerationConfig(
        strategy="sample" if samples else "greedy",
        max_tokens=int(next((each for each in lengths if each is not None), DEFAULT_NEW_TOKENS)),
        stop=stop,
        seed=seed,
        **(chosen if samples else {}),
    )
