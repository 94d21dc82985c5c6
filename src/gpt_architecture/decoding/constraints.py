"""Contraintes : ne laisser écrire que ce qu'une expression, une liste ou un schéma permet.

À chaque pas, la bibliothèque llguidance dit quels tokens prolongent le texte sans l'écarter de
la contrainte ; les autres sont interdits. La fin de texte n'est permise que là où le texte peut
s'arrêter : une suite finie par `stop` vérifie donc toujours la contrainte. Une suite que
`max_tokens` coupe (`length`) n'en est que le début.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import Constraint, eos_ids
from gpt_architecture.errors import ConfigurationError, GenerationError, MissingDependencyError

logger = logging.getLogger(__name__)

_LIMITS = {
    "initial_lexer_fuel": 1_000_000,  # au plus 20 ms d'analyse d'expression
    "step_lexer_fuel": 200_000,  # au plus 15 ms par token
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # un à deux kilo-octets chacun
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}
"""Bornes de llguidance : une contrainte démesurée est refusée, elle ne fige rien."""

_JSON_STYLE = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": False,  # un petit modèle écrirait des blancs sans fin
    "coerce_one_of": False,
    "lenient": False,  # un mot-clé que llguidance ignore est une erreur
}
_HEADER = '%llguidance {"no_forcing": true}\n'
"""Tous les tokens permis le sont : la loi est celle du modèle, restreinte aux textes permis."""

_NOTHING = "aucun texte ne la vérifie"
_DETAIL = re.compile(r"error: |\(in regex\): |compile JSON schema: ")
_CONTEXT = re.compile(r"\n\s*\d+ \| |<")
_LONGEST_REASON = 300


def build_constraint(
    config: GenerationConfig,
    tokenizer: Tokenizer,
    *,
    vocab_size: int,
    device: torch.device | str = "cpu",
) -> Constraint | None:
    """La contrainte que demande une configuration ; None si elle n'en demande pas.

    L'expression régulière suit la syntaxe du paquet `regex` de Rust, sans regards ni références
    arrière, et vaut pour la suite entière, comme `re.fullmatch`. Le JSON est écrit sans blancs,
    les propriétés dans l'ordre du schéma.

    Args:
        config: `regex`, `choices` ou `json_schema`.
        tokenizer: par octets (gpt2, bpe-N).
        vocab_size: logits du modèle (V).
        device: où sont les logits.

    Raises:
        ConfigurationError: contrainte mal écrite, impossible à satisfaire, démesurée, ou donnée
            avec `stop` ; tokenizer qui découpe en mots.
        MissingDependencyError: le paquet llguidance manque.
    """
    if not config.is_constrained:
        return None
    if config.stop:
        raise ConfigurationError(
            "une contrainte et stop sont donnés ensemble",
            expected="l'un ou l'autre : la contrainte dit déjà où finir",
            remedy="retirez stop",
        )
    library = _library()
    name, grammar = _grammar(config, library)
    vocabulary = _vocabulary(tokenizer)
    limits = library.LLParserLimits(**_LIMITS)
    matcher = library.LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
    _check_grammar(matcher, name)
    return GrammarConstraint(
        matcher,
        name=name,
        eos_id=tokenizer.eos_id,
        end_ids=eos_ids(config, tokenizer),
        vocab_size=vocab_size,
        device=device,
    )


class GrammarConstraint:
    """Suit une grammaire de llguidance, token par token.

    Args:
        matcher: le `LLMatcher`, au début de la grammaire.
        name: réglage qui l'a demandée, pour les messages.
        eos_id: fin de texte du tokenizer.
        end_ids: identifiants qui arrêtent la suite.
        vocab_size: logits du modèle (V).
        device: où sont les logits.
    """

    def __init__(
        self,
        matcher: Any,
        *,
        name: str,
        eos_id: int | None,
        end_ids: Collection[int],
        vocab_size: int,
        device: torch.device | str,
    ) -> None:
        self._matcher, self._name = matcher, name
        self._ends = frozenset(end_ids)
        # Ce qui arrête la suite n'est pas du texte : permis là seulement où elle peut finir.
        self._gated = sorted(self._ends | ({eos_id} if eos_id is not None else set()))
        self._vocab_size, self._device = vocab_size, device

    def allowed(self) -> Tensor:
        """(V,) booléen : les tokens permis maintenant.

        Raises:
            GenerationError: plus rien ne peut prolonger le texte, ou la contrainte est devenue
                trop complexe.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        known = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(bool)
        mask = np.zeros(self._vocab_size, dtype=bool)
        mask[: len(known)] = known
        can_end = self._matcher.is_accepting()
        for token in self._gated:
            if token < self._vocab_size:
                mask[token] = can_end and token in self._ends
        if self._matcher.is_error() or not mask.any():
            raise self._failure(_reason(self._matcher) or _NOTHING)
        return torch.from_numpy(mask).to(self._device)

    def advance(self, token: int) -> None:
        """Prend note du token choisi.

        Raises:
            GenerationError: la contrainte ne le permettait pas.
        """
        if token not in self._ends and not self._matcher.consume_token(token):
            raise self._failure(_reason(self._matcher))

    @property
    def is_complete(self) -> bool:
        """Vrai si le texte vérifie la contrainte et que rien ne peut le prolonger."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def _failure(self, reason: str) -> GenerationError:
        return GenerationError(
            f"la contrainte {self._name} ne peut plus être tenue : {reason}",
            expected="un token permis à chaque pas",
            remedy="simplifiez-la, ou retirez les interdictions qui la contredisent",
        )


def _grammar(config: GenerationConfig, library: Any) -> tuple[str, str]:
    """Nom du réglage, et sa grammaire pour llguidance."""
    if config.json_schema is not None:
        return "json_schema", f"{_HEADER}start: %json {_schema(config.json_schema)}"
    name, regex = "regex", config.regex
    if regex is None:
        name, regex = "choices", "|".join(re.escape(choice) for choice in config.choices)
    if (len(regex) - len(regex.rstrip("\\"))) % 2:  # llguidance l'oublierait en silence
        raise _refusal(name, "une barre oblique inverse finale n'échappe rien")
    return name, f"{_HEADER}start: /{library.regex_to_lark(regex)}/"


def _schema(text: str) -> str:
    """Le schéma, avec une écriture du JSON sans blancs."""
    try:
        schema = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _refusal("json_schema", f"ce n'est pas du JSON ({error})") from None
    if not isinstance(schema, dict):
        raise _refusal("json_schema", "ce n'est pas un objet JSON")
    return json.dumps({**schema, "x-guidance": _JSON_STYLE})


def _check_grammar(matcher: Any, name: str) -> None:
    """Refuse une grammaire invalide, et celle dont aucun texte n'est possible.

    Raises:
        ConfigurationError: voir ci-dessus.
    """
    for warning in matcher.get_grammar_warnings():
        logger.warning("%s : %s", name, " ".join(warning.split()))
    reason = _reason(matcher)
    if not reason:
        possible = any(matcher.compute_bitmask())
        reason = _reason(matcher) or ("" if possible else _NOTHING)
    if reason:
        raise _refusal(name, reason)


def _refusal(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"la contrainte {name} est refusée : {reason}",
        expected="une contrainte bien écrite, qu'un texte peut vérifier",
        remedy=f"corrigez {name}",
    )


def _reason(matcher: Any) -> str:
    """L'erreur de la bibliothèque en une ligne ; vide s'il n'y en a pas."""
    error = _DETAIL.split(_CONTEXT.split(matcher.get_error(), maxsplit=1)[0])[-1]
    if error.startswith("NoExtension"):
        return _NOTHING
    return " ".join(error.split())[:_LONGEST_REASON]


def _vocabulary(tokenizer: Tokenizer) -> Any:
    """Les tokens d'un tokenizer, rangés pour llguidance.

    Raises:
        ConfigurationError: ce ne sont pas des suites d'octets.
    """
    if not isinstance(tokenizer, ByteTokenizer):
        raise ConfigurationError(
            f"le tokenizer {tokenizer.name} découpe en mots",
            expected="pour une contrainte, un tokenizer par octets : gpt2 ou bpe-N",
            remedy="retirez la contrainte ou prenez un modèle entraîné avec l'un d'eux",
        )
    return _token_tree(cast(Any, tokenizer))


@lru_cache(maxsize=2)  # une demi-seconde pour les tokens de GPT-2
def _token_tree(tokenizer: ByteTokenizer) -> Any:
    library = _library()
    return library.LLTokenizer(library.TokenizerWrapper(_Vocabulary(tokenizer)))


class _Vocabulary:
    """Ce que llguidance demande à un tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._encode = tokenizer.encode
        self.tokens = tokenizer.token_bytes()
        self.eos_token_id = tokenizer.eos_id
        self.special_token_ids = [] if tokenizer.eos_id is None else [tokenizer.eos_id]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.decode() if isinstance(text, bytes) else text)


def _library() -> Any:
    try:
        import llguidance  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError(
            "llguidance", purpose="contraindre la suite (regex, choices, json_schema)"
        ) from None
    return llguidance
