"""Contraintes : ne laisser écrire que ce qu'une expression, une liste ou un schéma permet.

À chaque pas, la bibliothèque llguidance dit quels tokens prolongent le texte sans l'écarter de
la contrainte ; les autres sont interdits. La fin de texte n'est permise que là où le texte peut
s'arrêter : une suite finie par `stop` vérifie donc toujours la contrainte. Une séquence que
`max_tokens` coupe (`length`) n'en est que le début.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.data.tokenizer import ByteTokenizer, Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.grammars import (
    NOTHING,
    build_matcher,
    grammar_of,
    reason_of,
    token_tree,
    why_refused,
)
from gpt_architecture.decoding.schemas import read_schema, refusal, shortest_document
from gpt_architecture.decoding.sequence import Constraint, eos_ids
from gpt_architecture.errors import ConfigurationError, GenerationError
from gpt_architecture.french import counted

logger = logging.getLogger(__name__)

Trial = Callable[[str, str], None]
"""Essaie ailleurs une grammaire (nom du réglage, grammaire), et refuse celle qui coûte trop."""

_READING = threading.Lock()  # une à la fois : chacune peut prendre un moment cent mégaoctets

MAX_BUILD_SECONDS = 60.0
"""Secondes laissées à la lecture d'une contrainte que rien n'a essayée d'avance."""


def build_constraint(
    config: GenerationConfig,
    tokenizer: Tokenizer,
    *,
    vocab_size: int,
    device: torch.device | str = "cpu",
    trial: Trial | None = None,
) -> Constraint | None:
    """La contrainte que demande une configuration ; None si elle n'en demande pas.

    L'expression régulière suit la syntaxe du paquet `regex` de Rust, sans regards ni références
    arrière, et vaut pour la séquence entière, comme `re.fullmatch`. Le JSON est écrit sans blancs,
    les propriétés dans l'ordre du schéma, dont les objets sont fermés (`schemas.close_objects`).

    Args:
        config: `regex`, `choices` ou `json_schema`.
        tokenizer: par octets (gpt2, bpe-N).
        vocab_size: logits du modèle (V).
        device: où sont les logits.
        trial: ce qui a essayé la contrainte avant qu'elle soit lue ici, d'un trait. Sans lui,
            elle est lue dans un thread à part, que Ctrl-C ou MAX_BUILD_SECONDS abandonnent.

    Raises:
        ConfigurationError: contrainte mal écrite, impossible à satisfaire, démesurée, ou donnée
            avec `stop` ; tokenizer qui découpe en mots.
        MissingDependencyError: le paquet llguidance manque.
    """
    if not config.is_constrained:
        return None
    if config.stop:
        raise ConfigurationError.together(
            "une contrainte", "stop", expected="l'un ou l'autre : la contrainte dit déjà où finir"
        )
    name, grammar = grammar_of(config)
    vocabulary = _vocabulary(tokenizer)
    if trial is None:
        matcher = _build_aside(vocabulary, name, grammar)
    else:
        trial(name, grammar)
        with _READING:
            matcher = build_matcher(vocabulary, grammar)
    for warning in matcher.get_grammar_warnings():
        logger.warning("%s : %s", name, " ".join(warning.split()))
    if reason := why_refused(matcher):
        raise refusal(name, reason)
    return GrammarConstraint(
        matcher,
        name=name,
        eos_id=tokenizer.eos_id,
        end_ids=eos_ids(config, tokenizer),
        vocab_size=vocab_size,
        device=device,
    )


def prepare_constraints(tokenizer: Tokenizer) -> bool:
    """Range d'avance les tokens d'un tokenizer ; faux s'il ne permet aucune contrainte."""
    if not isinstance(tokenizer, ByteTokenizer) or find_spec("llguidance") is None:
        return False
    _vocabulary(tokenizer)
    return True


def budget_warning(config: GenerationConfig, tokenizer: Tokenizer) -> str | None:
    """Ce qu'il faut dire d'une contrainte que `max_tokens` ne laissera sans doute pas finir.

    Raises:
        ConfigurationError: `json_schema` n'est pas un schéma.
    """
    if not isinstance(tokenizer, ByteTokenizer):
        return None
    what, texts = "choices", list(config.choices)
    if config.json_schema is not None:
        what, texts = "json_schema", [shortest_document(read_schema(config.json_schema))]
    # Il faut au plus un token par octet : le codage n'est fait que s'il peut déborder.
    if min((len(text.encode()) for text in texts), default=0) <= config.max_tokens:
        return None
    needed = min(len(tokenizer.encode(text)) for text in texts)
    if needed <= config.max_tokens:
        return None
    return (
        f"le plus court texte que permet {what} demande environ {needed} tokens, "
        f"max_tokens en accorde {config.max_tokens}"
    )


def cut_warning(config: GenerationConfig, finish: str | None) -> str | None:
    """Ce qu'il faut dire d'une séquence contrainte que `max_tokens` a coupée ; None : rien."""
    if finish != "length" or not config.is_constrained:
        return None
    return (
        f"le texte généré s'arrête à {counted(config.max_tokens, 'token')}, avant de vérifier "
        f"{config.constraints[0]} : il n'en est que le début"
    )


class GrammarConstraint:
    """Suit une grammaire de llguidance, token par token.

    Args:
        matcher: le `LLMatcher`, au début de la grammaire.
        name: réglage qui l'a demandée, pour les messages.
        eos_id: fin de texte du tokenizer.
        end_ids: identifiants qui arrêtent la séquence.
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
        # Ce qui arrête la séquence n'est pas du texte : permis là seulement où elle peut finir.
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
            raise self._failure(reason_of(self._matcher) or NOTHING)
        return torch.from_numpy(mask).to(self._device)

    def advance(self, token: int) -> None:
        """Prend note du token choisi.

        Raises:
            GenerationError: la contrainte ne le permettait pas.
        """
        if token not in self._ends and not self._matcher.consume_token(token):
            raise self._failure(reason_of(self._matcher))

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


def _build_aside(vocabulary: Any, name: str, grammar: str) -> Any:
    """Lit une grammaire dans un thread à part : le code natif ne s'interrompt pas, l'attente si.

    Raises:
        ConfigurationError: elle n'est pas lue à temps.
    """
    matcher = Future[Any]()

    def read() -> None:
        try:
            matcher.set_result(build_matcher(vocabulary, grammar))
        except Exception as error:  # rendue à qui attend
            matcher.set_exception(error)

    threading.Thread(target=read, name="contrainte", daemon=True).start()
    try:
        return matcher.result(MAX_BUILD_SECONDS)
    except TimeoutError:
        raise refusal(name, f"la lire demande plus de {MAX_BUILD_SECONDS:g} s") from None


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
    return _token_tree(tokenizer)


@lru_cache(maxsize=2)
def _token_tree(tokenizer: ByteTokenizer) -> Any:
    return token_tree(tokenizer.token_bytes(), tokenizer.eos_id, tokenizer.encode)
