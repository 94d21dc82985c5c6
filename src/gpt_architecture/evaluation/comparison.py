"""Comparaison mesurée de stratégies de décodage, sur des débuts de texte et des graines."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.generator import Generation, Generator
from gpt_architecture.decoding.sequence import FinishReason, TextStream
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.evaluation.perplexity import perplexity_of
from gpt_architecture.evaluation.quality import distinct_n, repetition, self_bleu

Variants = Sequence[tuple[str, GenerationConfig]]

SIX_VARIANTS: Variants = (
    ("Glouton", GenerationConfig(strategy="greedy")),
    ("Température 0,3", GenerationConfig(strategy="temperature", temperature=0.3)),
    ("Température 1,0", GenerationConfig(strategy="temperature", temperature=1.0)),
    ("Température 2,0", GenerationConfig(strategy="temperature", temperature=2.0)),
    ("Top-k (k = 50)", GenerationConfig(strategy="top_k", k=50)),
    ("Top-p (p = 0,9)", GenerationConfig(strategy="top_p", p=0.9)),
)
"""Les six variantes du document d'origine : étiquette et configuration."""

MAX_RESULTS = 1_000
"""Générations d'une comparaison, au plus."""


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """Une génération d'une variante, et ses mesures.

    Attributes:
        label: nom affiché de la variante.
        config: configuration de génération, graine comprise.
        prompt: le début.
        prompt_ids: ses identifiants.
        text: la suite, sans le début ni le texte d'arrêt.
        tokens: identifiants produits (N), fin de texte comprise.
        finish: pourquoi elle s'arrête.
        distinct_1: part de tokens différents, dans [0, 1].
        distinct_2: part de paires de tokens différentes.
        distinct_3: part de triplets différents.
        repetition: part de quadruplets déjà vus (seq-rep-4, Welleck et al., 2020).
        mean_log_prob: moyenne des log p (nats) sous la distribution brute du modèle.
        seconds: durée de la génération.
    """

    label: str
    config: GenerationConfig
    prompt: str
    prompt_ids: tuple[int, ...]
    text: str
    tokens: tuple[int, ...]
    finish: FinishReason
    distinct_1: float
    distinct_2: float
    distinct_3: float
    repetition: float
    mean_log_prob: float
    seconds: float

    @property
    def perplexity(self) -> float:
        """Perplexité de la suite sous la distribution brute du modèle."""
        return perplexity_of(-self.mean_log_prob)

    @property
    def tokens_per_second(self) -> float:
        """Débit, lecture du début comprise."""
        return len(self.tokens) / self.seconds if self.seconds > 0 else 0.0

    @property
    def shares(self) -> dict[str, float]:
        """Ses parts de n-grammes différents ou déjà vus, par leur nom."""
        return {
            "distinct_1": self.distinct_1,
            "distinct_2": self.distinct_2,
            "distinct_3": self.distinct_3,
            "repetition": self.repetition,
        }

    def marked_text(self, places: Collection[int], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
        """La suite en morceaux (texte, marqué), sans le texte d'arrêt.

        Args:
            places: rangs des tokens marqués.
            tokenizer: celui du modèle.
        """
        stream = TextStream(tokenizer.decode, self.prompt_ids)
        left, found = len(self.text), list[tuple[str, bool]]()
        for place, token in enumerate(self.tokens):
            last = place == len(self.tokens) - 1
            text = (stream.push(token) + (stream.finish() if last else ""))[:left]
            left -= len(text)
            if found and found[-1][1] == (place in places):
                found[-1] = (found[-1][0] + text, found[-1][1])
            else:
                found.append((text, place in places))
        return [(text, marked) for text, marked in found if text]


@dataclass(frozen=True, kw_only=True)
class VariantSummary:
    """Toutes les générations d'une variante.

    Attributes:
        label: nom affiché.
        config: configuration, celle de la première génération.
        results: les générations, débuts puis graines.
        self_bleu: ressemblance entre elles des suites d'un même début, en moyenne sur les débuts ;
            None : une seule graine.
    """

    label: str
    config: GenerationConfig
    results: tuple[VariantResult, ...]
    self_bleu: float | None

    @property
    def tokens(self) -> int:
        """Tokens produits en tout."""
        return sum(len(each.tokens) for each in self.results)

    @property
    def seconds(self) -> float:
        """Durée totale."""
        return sum(each.seconds for each in self.results)

    @property
    def tokens_per_second(self) -> float:
        """Débit d'ensemble."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def mean_log_prob(self) -> float:
        """log p moyen (nats), chaque token comptant pour un."""
        total = sum(each.mean_log_prob * len(each.tokens) for each in self.results)
        return total / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        """Perplexité de toutes les suites ensemble."""
        return perplexity_of(-self.mean_log_prob)

    def mean(self, share: str) -> float:
        """Moyenne, par génération, de la part de ce nom."""
        return sum(each.shares[share] for each in self.results) / len(self.results)


def compare_strategies(
    generator: Generator,
    prompts: Sequence[str | Sequence[int]],
    variants: Variants = SIX_VARIANTS,
    *,
    seeds: Sequence[int],
) -> Iterator[VariantResult]:
    """Génère et mesure, l'une après l'autre : chaque variante, chaque début, chaque graine.

    Args:
        generator: le modèle et son tokenizer.
        prompts: débuts, textes ou identifiants.
        variants: étiquettes et configurations, `n` valant 1.
        seeds: remplacent la graine de chaque configuration.

    Raises:
        ConfigurationError: rien à comparer, trop de générations, début vide, graine négative,
            doublon ou plusieurs suites demandées à la fois.
    """
    _check(prompts, variants, seeds)
    encoded = [(_text(prompt, generator), generator.encode(prompt)) for prompt in prompts]
    for label, variant in variants:
        for prompt, ids in encoded:
            for seed in seeds:
                yield _measure(generator, label, prompt, ids, replace(variant, seed=seed))


def write_samples(
    generator: Generator,
    prompts: Sequence[str | Sequence[int]],
    variants: Variants = SIX_VARIANTS,
    *,
    seed: int,
) -> Iterator[list[VariantResult]]:
    """Les mêmes générations que `compare_strategies`, plus vite : les débuts avancent ensemble.

    Rend celles d'une variante à la fois, dans l'ordre des débuts ; leur durée est une part égale
    de celle du lot.

    Raises:
        ConfigurationError: voir `compare_strategies`.
    """
    _check(prompts, variants, [seed])
    encoded = [generator.encode(prompt) for prompt in prompts]
    texts = [_text(prompt, generator) for prompt in prompts]
    for label, variant in variants:
        config = replace(variant, seed=seed)
        start = time.perf_counter()
        found = generator.generate(encoded, _scored(config))
        seconds = (time.perf_counter() - start) / len(encoded)
        yield [
            _result(generator, label, text, ids, config, generation, seconds)
            for text, ids, (generation,) in zip(texts, encoded, found, strict=True)
        ]


def summarize(results: Sequence[VariantResult]) -> list[VariantSummary]:
    """Réunit les générations de chaque variante, dans l'ordre de leur première venue."""
    labels = list(dict.fromkeys(result.label for result in results))
    groups = [tuple(each for each in results if each.label == label) for label in labels]
    return [
        VariantSummary(
            label=group[0].label,
            config=group[0].config,
            results=group,
            self_bleu=_self_bleu(group),
        )
        for group in groups
    ]


def by_text(results: Sequence[VariantResult]) -> list[tuple[VariantResult, tuple[int, ...]]]:
    """Les suites différentes d'un même début, chacune avec les graines qui l'ont donnée."""
    seeds = dict[tuple[int, ...], list[int]]()
    for each in results:
        seeds.setdefault(each.tokens, []).append(each.config.seed or 0)
    first = {each.tokens: each for each in reversed(results)}
    return [(first[tokens], tuple(found)) for tokens, found in seeds.items()]


def _self_bleu(results: Sequence[VariantResult]) -> float | None:
    """Entre deux débuts, une même graine donne des tirages communs : on ne les mêle pas."""
    groups = [
        [each.tokens for each in results if each.prompt_ids == ids]
        for ids in dict.fromkeys(each.prompt_ids for each in results)
    ]
    found = [value for group in groups if (value := self_bleu(group)) is not None]
    return sum(found) / len(found) if found else None


def _text(prompt: str | Sequence[int], generator: Generator) -> str:
    return prompt if isinstance(prompt, str) else generator.tokenizer.decode(prompt)


def _measure(
    generator: Generator,
    label: str,
    prompt: str,
    ids: Sequence[int],
    config: GenerationConfig,
) -> VariantResult:
    """Une génération, chronométrée seule."""
    start = time.perf_counter()
    (generation,) = generator.generate([ids], _scored(config))[0]
    seconds = time.perf_counter() - start
    return _result(generator, label, prompt, ids, config, generation, seconds)


def _scored(config: GenerationConfig) -> GenerationConfig:
    """La même, qui garde les probabilités ; le faisceau ne les rend pas."""
    return config if config.strategy == "beam" else replace(config, logprobs=0)


def _result(
    generator: Generator,
    label: str,
    prompt: str,
    ids: Sequence[int],
    config: GenerationConfig,
    generation: Generation,
    seconds: float,
) -> VariantResult:
    """Les mesures d'une génération ; les probabilités que le faisceau ne rend pas, recalculées."""
    tokens, scores = generation.tokens, generation.scores
    if config.strategy == "beam":
        scores = tuple(generator.score([*ids, *tokens])[len(ids) - 1 :])
    return VariantResult(
        label=label,
        config=config,
        prompt=prompt,
        prompt_ids=tuple(ids),
        text=generation.text,
        tokens=tokens,
        finish=generation.finish,
        distinct_1=distinct_n(tokens, 1),
        distinct_2=distinct_n(tokens, 2),
        distinct_3=distinct_n(tokens, 3),
        repetition=repetition(tokens),
        mean_log_prob=sum(each.logprob for each in scores) / max(1, len(tokens)),
        seconds=seconds,
    )


def _check(
    prompts: Sequence[str | Sequence[int]], variants: Variants, seeds: Sequence[int]
) -> None:
    counts = {"variante": len(variants), "début": len(prompts), "graine": len(seeds)}
    for name, count in counts.items():
        if count == 0:
            raise ConfigurationError(
                f"aucune {name}" if name != "début" else "aucun début",
                expected="au moins un de chaque : variante, début, graine",
                remedy="donnez ce qui manque",
            )
    total = math.prod(counts.values())
    if total > MAX_RESULTS:
        raise ConfigurationError(
            f"{total} générations demandées",
            expected=f"au plus {MAX_RESULTS} (variantes × débuts × graines)",
            remedy="retirez des variantes, des débuts ou des graines",
        )
    given: tuple[tuple[str, list[object]], ...] = (
        ("la variante", [label for label, _ in variants]),
        ("le début", list(prompts)),
        ("la graine", list(seeds)),
    )
    for name, values in given:
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigurationError(
                f"{name} {twice!r} est là deux fois",
                expected="des variantes, des débuts et des graines différents",
                remedy="retirez l'une des deux",
            )
    for label, config in variants:
        if config.n != 1:
            raise ConfigurationError(
                f"n vaut {config.n} dans la variante « {label} »",
                expected="n = 1",
                remedy="demandez plusieurs graines : `seed=1 2 3`",
            )
