"""Des stratégies de décodage comparées : écrites en une ligne, essayées, mesurées.

Une variante est une étiquette et une configuration, par exemple « top_p p=0.9 temperature=0.8 » ;
chacune est essayée sur les mêmes invites et avec les mêmes graines.
"""

from __future__ import annotations

import math
import shlex
import time
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import STRATEGIES, GenerationConfig
from gpt_architecture.decoding.generator import Generator
from gpt_architecture.decoding.named_settings import make_config
from gpt_architecture.decoding.sequence import FinishReason, TextStream
from gpt_architecture.decoding.settings import ALIASES, SETTINGS
from gpt_architecture.errors import ConfigurationError, nearest
from gpt_architecture.evaluation.likelihood import perplexity_of
from gpt_architecture.evaluation.repetition import distinct_n, repetition, self_bleu

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

_MAX_LENGTH = 10_000  # caractères d'une variante
_LABEL = "nom"
_FIXED = ("strategy", "seed", "n", "logprobs")
"""Réglages que la comparaison fixe elle-même ; la stratégie est le premier mot."""


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """Une génération d'une variante, et ses mesures.

    Attributes:
        label: nom affiché de la variante.
        config: configuration de génération, graine comprise.
        prompt: l'invite.
        prompt_ids: ses identifiants.
        text: le texte généré, sans l'invite ni le texte d'arrêt.
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
        """Perplexité du texte généré sous la distribution brute du modèle."""
        return perplexity_of(-self.mean_log_prob)

    @property
    def tokens_per_second(self) -> float:
        """Débit, lecture de l'invite comprise."""
        return len(self.tokens) / self.seconds if self.seconds > 0 else 0.0

    def marked_text(self, places: Collection[int], tokenizer: Tokenizer) -> list[tuple[str, bool]]:
        """Le texte généré en morceaux (texte, marqué), sans le texte d'arrêt.

        Args:
            places: rangs des tokens marqués.
            tokenizer: celui du modèle.
        """
        stream = TextStream(tokenizer.decode, self.prompt_ids)
        pieces = [stream.push(token) for token in self.tokens]
        if pieces:
            pieces[-1] += stream.finish()
        left, found = len(self.text), list[tuple[str, bool]]()
        for marked, run in groupby(range(len(pieces)), key=lambda place: place in places):
            text = "".join(pieces[place] for place in run)[:left]
            left -= len(text)
            if text:
                found.append((text, marked))
        return found


@dataclass(frozen=True, kw_only=True)
class VariantSummary:
    """Toutes les générations d'une variante.

    Attributes:
        label: nom affiché.
        config: configuration, celle de la première génération.
        results: les générations, invites puis graines.
        self_bleu: ressemblance entre eux des textes d'une même invite, en moyenne sur les invites ;
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
        """Perplexité de tous les textes ensemble."""
        return perplexity_of(-self.mean_log_prob)

    def mean(self, share: str) -> float:
        """Moyenne, par génération, de la part de ce nom (`distinct_1`, `repetition`…)."""
        shares: list[float] = [getattr(each, share) for each in self.results]
        return sum(shares) / len(shares)


def parse_variant(line: str, defaults: Mapping[str, Any]) -> tuple[str, GenerationConfig]:
    """Étiquette et configuration d'une variante.

    Le premier mot est la stratégie, les autres des réglages de `GenerationConfig`, chacun écrit
    comme en TOML (`p=0.9`, `ignore_eos=true`, `'stop=["\\n", "Fin"]'`) ; ce qui n'en est pas est
    un texte. `nom="…"` remplace l'étiquette, qui est sinon la ligne elle-même.

    Args:
        line: la ligne ; des guillemets protègent les espaces.
        defaults: réglages qui valent quand la ligne ne les dit pas.

    Raises:
        ConfigurationError: stratégie ou réglage inconnu, valeur hors bornes.
    """
    if len(line) > _MAX_LENGTH:
        raise _bad_variant(f"variante de {len(line)} caractères", f"au plus {_MAX_LENGTH}")
    try:
        words = shlex.split(line)
    except ValueError:
        raise _bad_variant(f"guillemet ouvert dans la variante {line!r}", "une paire") from None
    if not words or words[0] not in STRATEGIES:
        found = f"{words[0]!r} n'est pas une stratégie" if words else "variante vide"
        raise _bad_variant(found, f"l'une de {', '.join(STRATEGIES)}, puis ses réglages")
    label = " ".join(line.split())
    settings: dict[str, Any] = {**defaults, "strategy": words[0]}
    for word in words[1:]:
        name, sign, text = word.partition("=")
        if not sign:
            raise _bad_variant(f"{word!r} dans la variante « {label} »", "un réglage, comme p=0.9")
        if name == _LABEL:
            label = text or label
        else:
            name = ALIASES.get(name, name)
            settings[name] = _value(name, text)
    return label, make_config(settings)


def _value(name: str, text: str) -> Any:
    """La valeur d'un réglage ; `GenerationConfig` en vérifie le type et les bornes."""
    known = [each for each in SETTINGS.declared if each not in _FIXED]
    if name not in known:
        expected, close = f"l'un de {', '.join(known)}", nearest(name, known)
        raise _bad_variant(f"réglage inconnu {name!r}", expected, close)
    try:
        value = tomllib.loads(f"valeur = {text}")["valeur"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text
    if name == "logit_bias":
        if not isinstance(value, dict) or not all(key.isdecimal() for key in value):
            raise _bad_variant(f"logit_bias vaut {text!r}", "par exemple {262 = -1.5}")
        return {int(key): bias for key, bias in value.items()}
    if isinstance(getattr(GenerationConfig, name, None), tuple):
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def _bad_variant(found: str, expected: str, remedy: str | None = None) -> ConfigurationError:
    remedy = "corrigez cette variante" if remedy is None else remedy
    return ConfigurationError(found, expected=expected, remedy=remedy)


def compare_strategies(
    generator: Generator,
    prompts: Sequence[str | Sequence[int]],
    variants: Variants = SIX_VARIANTS,
    *,
    seeds: Sequence[int],
) -> Iterator[VariantResult]:
    """Génère et mesure, l'une après l'autre : chaque variante, chaque invite, chaque graine.

    Args:
        generator: le modèle et son tokenizer.
        prompts: invites, textes ou identifiants.
        variants: étiquettes et configurations, `n` valant 1.
        seeds: remplacent la graine de chaque configuration.

    Raises:
        ConfigurationError: rien à comparer, trop de générations, invite vide, graine négative,
            doublon ou plusieurs textes demandés à la fois.
    """
    encoded = _checked(generator, prompts, variants, seeds)
    for label, variant in variants:
        for prompt in encoded:
            for seed in seeds:
                yield from _write(generator, label, [prompt], replace(variant, seed=seed))


def write_samples(
    generator: Generator,
    prompts: Sequence[str | Sequence[int]],
    variants: Variants = SIX_VARIANTS,
    *,
    seed: int,
) -> Iterator[list[VariantResult]]:
    """Les mêmes générations que `compare_strategies`, plus vite : les invites avancent ensemble.

    Rend celles d'une variante à la fois, dans l'ordre des invites ; leur durée est une part égale
    de celle du lot.

    Raises:
        ConfigurationError: voir `compare_strategies`.
    """
    encoded = _checked(generator, prompts, variants, [seed])
    for label, variant in variants:
        yield _write(generator, label, encoded, replace(variant, seed=seed))


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
    """Les textes différents d'une même invite, chacun avec les graines qui l'ont donnée."""
    seeds = dict[tuple[int, ...], list[int]]()
    for each in results:
        seeds.setdefault(each.tokens, []).append(each.config.seed or 0)
    first = {each.tokens: each for each in reversed(results)}
    return [(first[tokens], tuple(found)) for tokens, found in seeds.items()]


def _self_bleu(results: Sequence[VariantResult]) -> float | None:
    """Entre deux invites, une même graine donne des tirages communs : on ne les mêle pas."""
    groups = [
        [each.tokens for each in results if each.prompt_ids == ids]
        for ids in dict.fromkeys(each.prompt_ids for each in results)
    ]
    found = [value for group in groups if (value := self_bleu(group)) is not None]
    return sum(found) / len(found) if found else None


def _write(
    generator: Generator,
    label: str,
    prompts: Sequence[tuple[str, list[int]]],
    config: GenerationConfig,
) -> list[VariantResult]:
    """Les textes de ces invites (texte, identifiants), écrits ensemble, et leurs mesures."""
    is_beam = config.strategy == "beam"  # le faisceau ne rend pas les probabilités
    scored = config if is_beam else replace(config, logprobs=0)
    start = time.perf_counter()
    generations = generator.generate([ids for _, ids in prompts], scored)
    seconds = (time.perf_counter() - start) / len(prompts)
    results = list[VariantResult]()
    for (prompt, ids), (generation,) in zip(prompts, generations, strict=True):
        tokens, scores = generation.tokens, generation.scores
        if is_beam:
            scores = tuple(generator.score([*ids, *tokens])[len(ids) - 1 :])
        results.append(
            VariantResult(
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
        )
    return results


def _checked(
    generator: Generator,
    prompts: Sequence[str | Sequence[int]],
    variants: Variants,
    seeds: Sequence[int],
) -> list[tuple[str, list[int]]]:
    """Les invites, texte et identifiants, d'une comparaison qui se tient."""
    given: dict[str, list[Any]] = {
        "variante": [label for label, _ in variants],
        "invite": list(prompts),
        "graine": list(seeds),
    }
    for name, values in given.items():
        if not values:
            raise ConfigurationError(
                f"aucune {name}",
                expected="au moins une variante, une invite et une graine",
                remedy="donnez ce qui manque",
            )
    total = math.prod(map(len, given.values()))
    if total > MAX_RESULTS:
        raise ConfigurationError(
            f"{total} générations demandées",
            expected=f"au plus {MAX_RESULTS} (variantes × invites × graines)",
            remedy="retirez des variantes, des invites ou des graines",
        )
    for name, values in given.items():
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigurationError(
                f"deux fois la même {name} : {twice!r}",
                expected="des variantes, des invites et des graines différentes",
                remedy="retirez l'une des deux",
            )
    for label, config in variants:
        if config.n != 1:
            raise ConfigurationError(
                f"n vaut {config.n} dans la variante « {label} »",
                expected="n = 1",
                remedy="demandez plusieurs graines : `seed=1 2 3`",
            )
    decode = generator.tokenizer.decode
    return [
        (each if isinstance(each, str) else decode(each), generator.encode(each))
        for each in prompts
    ]
