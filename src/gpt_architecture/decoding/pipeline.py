"""L'ordre des filtres : d'une configuration à la suite des étapes qui s'appliquent aux logits.

`STAGE_ORDERS` est le seul endroit où l'ordre est écrit ; `docs/reference/decodage.md` le
commente. Une étape qui ne changerait rien n'est pas construite.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from gpt_architecture.decoding import penalties, processors
from gpt_architecture.decoding.config import GenerationConfig, OrderName
from gpt_architecture.decoding.processors import Processor
from gpt_architecture.decoding.settings import SETTINGS
from gpt_architecture.errors import ConfigurationError, TokenizerError

Encode = Callable[[str], list[int]]
"""Texte → identifiants."""

STAGE_ORDERS: Mapping[OrderName, tuple[str, ...]] = MappingProxyType(
    {
        "hf": (
            "logit_bias",
            *("repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
            *("no_repeat_ngram", "banned", "min_tokens", "contrainte"),
            *("temperature", "top_n_sigma", "top_k", "top_p", "min_p"),
            *("typical_p", "epsilon_cutoff", "eta_cutoff", "xtc"),
        ),
        "llama.cpp": (
            *("logit_bias", "banned", "no_repeat_ngram", "min_tokens", "contrainte"),
            *("repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
            *("top_n_sigma", "top_k", "typical_p", "top_p", "min_p"),
            *("epsilon_cutoff", "eta_cutoff", "xtc", "temperature"),
        ),
        "litgpt": (
            "logit_bias",
            *("repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
            *("no_repeat_ngram", "banned", "min_tokens", "contrainte"),
            *("top_n_sigma", "top_k", "temperature", "top_p", "min_p"),
            *("typical_p", "epsilon_cutoff", "eta_cutoff", "xtc"),
        ),
        "vllm": (
            *("contrainte", "banned", "no_repeat_ngram", "min_tokens", "logit_bias"),
            *("repetition_penalty", "frequency_penalty", "presence_penalty", "dry"),
            *("temperature", "min_p", "top_n_sigma", "typical_p"),
            *("epsilon_cutoff", "eta_cutoff", "top_k", "top_p", "xtc"),
        ),
    }
)
"""Nom de chaque étape, dans l'ordre où chaque projet les applique."""

_FILTERS: Mapping[str, tuple[Callable[[float], Processor], float | None]] = MappingProxyType(
    {
        "temperature": (processors.temperature, 1),
        "top_p": (processors.top_p, 1),
        "min_p": (processors.min_p, 0),
        "typical_p": (processors.typical_p, 1),
        "epsilon_cutoff": (processors.epsilon_cutoff, 0),
        "eta_cutoff": (processors.eta_cutoff, 0),
        "top_n_sigma": (processors.top_n_sigma, None),
    }
)
"""Les filtres d'un seul réglage : ce qui les construit, et la valeur sans effet."""

_PROMPT_COUNTS: frozenset[OrderName] = frozenset({"llama.cpp"})
"""Ordres où l'invite compte dans les pénalités de présence et de fréquence."""


@dataclass(frozen=True)
class Stage:
    """Une étape.

    Attributes:
        name: son nom, celui qu'affiche la trace.
        process: ce qu'elle fait des logits.
    """

    name: str
    process: Processor


def build_pipeline(
    config: GenerationConfig,
    *,
    prompt_length: int,
    eos_ids: Collection[int],
    encode: Encode,
    generator: torch.Generator,
    vocab_size: int,
    allowed: Callable[[], Tensor] | None = None,
) -> tuple[Stage, ...]:
    """Les étapes que demande `config`, dans l'ordre `config.order`.

    `greedy`, `beam` et une température nulle ne gardent que ce qui peut changer le plus
    probable : pénalités et interdictions. `mirostat` y ajoute la température ; son propre
    filtre est dans `strategies.Mirostat`.

    Args:
        config: comment générer.
        prompt_length: colonnes que l'invite occupe dans les tokens donnés aux étapes.
        eos_ids: identifiants qui finissent la séquence, pour `min_tokens`.
        encode: code les textes interdits et les séparateurs de DRY.
        generator: source des tirages de XTC.
        vocab_size: nombre de logits (V).
        allowed: masque (V,) des tokens qu'une contrainte permet maintenant ; None : tous.

    Raises:
        ConfigurationError: texte que le tokenizer ne peut pas coder, identifiant hors du
            vocabulaire.
    """
    found = dict(_bans(config, prompt_length, eos_ids, encode, vocab_size))
    found |= _penalties(config, prompt_length, encode, vocab_size)
    if allowed is not None:
        found["contrainte"] = processors.allowed_tokens(allowed)
    if config.is_sampling:
        found |= _filters(config, generator, vocab_size)
        found |= _registered(config)
    return tuple(Stage(name, found[name]) for name in _order(config.order) if name in found)


def _order(name: OrderName) -> Iterator[str]:
    """Les étapes d'un ordre ; un filtre enregistré suit celle qu'il nomme."""
    for stage in STAGE_ORDERS[name]:
        yield stage
        yield from (each.name for each in SETTINGS.samplers.values() if each.after == stage)


def _registered(config: GenerationConfig) -> Iterator[tuple[str, Processor]]:
    for name, value in config.samplers.items():
        sampler = SETTINGS.samplers[name]
        if sampler.after not in STAGE_ORDERS[config.order]:
            raise ConfigurationError(
                f"le filtre {name} suit l'étape {sampler.after}",
                expected=f"l'une de {', '.join(STAGE_ORDERS[config.order])}",
                remedy="corrigez `after`",
            )
        if value != sampler.default:
            yield name, sampler.build(value)


def _bans(
    config: GenerationConfig,
    prompt_length: int,
    eos_ids: Collection[int],
    encode: Encode,
    vocab_size: int,
) -> Iterator[tuple[str, Processor]]:
    ends = [token for token in eos_ids if token < vocab_size]
    if config.min_tokens and ends:
        build = processors.min_tokens
        yield "min_tokens", build(config.min_tokens, prompt_length=prompt_length, eos_ids=ends)
    if config.no_repeat_ngram:
        yield "no_repeat_ngram", processors.no_repeat_ngram(config.no_repeat_ngram)
    if config.banned:
        sequences = [codes for text in config.banned for codes in _spellings(text, encode)]
        for codes in sequences:
            _check_vocabulary("banned", codes, vocab_size)
        yield "banned", processors.banned(sequences)


def _penalties(
    config: GenerationConfig, prompt_length: int, encode: Encode, vocab_size: int
) -> Iterator[tuple[str, Processor]]:
    window = config.penalty_window
    skipped = 0 if config.order in _PROMPT_COUNTS else prompt_length
    if config.logit_bias:
        _check_vocabulary("logit_bias", config.logit_bias, vocab_size)
        yield "logit_bias", penalties.logit_bias(config.logit_bias)
    if (penalty := config.repetition_penalty) != 1:
        yield "repetition_penalty", penalties.repetition_penalty(penalty, window=window)
    if penalty := config.frequency_penalty:
        build = penalties.frequency_penalty
        yield "frequency_penalty", build(penalty, prompt_length=skipped, window=window)
    if penalty := config.presence_penalty:
        build = penalties.presence_penalty
        yield "presence_penalty", build(penalty, prompt_length=skipped, window=window)
    if config.dry_multiplier:
        dry = penalties.dry(
            config.dry_multiplier,
            base=config.dry_base,
            allowed_length=config.dry_allowed_length,
            breakers=_breakers(config.dry_breakers, encode),
            window=config.dry_range,
        )
        yield "dry", dry


def _filters(
    config: GenerationConfig, generator: torch.Generator, vocab_size: int
) -> Iterator[tuple[str, Processor]]:
    for name, (build, inert) in _FILTERS.items():
        if (value := getattr(config, name)) not in (None, inert):
            yield name, build(value)
    if config.top_k is not None and config.top_k < vocab_size:
        yield "top_k", processors.top_k(config.top_k)
    if config.xtc_probability:
        yield "xtc", processors.xtc(config.xtc_probability, config.xtc_threshold, generator)


def _spellings(text: str, encode: Encode) -> list[tuple[int, ...]]:
    """Les suites de tokens qui écrivent `text`, en tête de texte et après une espace."""
    variants = [text] if text[0].isspace() else [text, f" {text}"]
    spellings = {tuple(encode(variant)) for variant in variants} - {()}
    if not spellings:
        raise ConfigurationError(
            f"le texte interdit {text!r} n'a aucun token",
            expected="un texte que le tokenizer sait coder",
            remedy="corrigez banned",
        )
    return sorted(spellings)


def _breakers(texts: Collection[str], encode: Encode) -> list[tuple[int, ...]]:
    """Les séparateurs de DRY ; un texte sans tokens ne se produit pas, et ne sépare donc rien."""
    found = set[tuple[int, ...]]()
    for text in texts:
        with suppress(TokenizerError):
            found.add(tuple(encode(text)))
    return sorted(found - {()})


def _check_vocabulary(name: str, tokens: Collection[int], vocab_size: int) -> None:
    outside = [token for token in tokens if token >= vocab_size]
    if outside:
        raise ConfigurationError(
            f"{name} nomme le token {outside[0]}",
            expected=f"un identifiant < {vocab_size}",
            remedy=f"corrigez {name}",
        )
