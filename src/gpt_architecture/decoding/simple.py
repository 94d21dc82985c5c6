"""Boucles de génération lisibles : l'oracle, sans cache, et le flux le plus simple, avec cache.

Les fonctions `generate_text_*` recalculent tout le contexte à chaque token : c'est lent et
évident. `generate_text_speculative` montre de même comment vérifier des propositions.
`stream_tokens` garde clés et valeurs, comme `decoding.generator.Generator` ; les tests
exigent les mêmes tokens.

Formes : B lot, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gpt_architecture.config import TEMPERATURE, TOP_K, TOP_P, check_int
from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.decoding.strategies import NextToken, greedy_token, sampled_token, top_p
from gpt_architecture.decoding.strategies import top_k as keep_top_k
from gpt_architecture.errors import ConfigurationError


def generate_text_simple(
    model: Callable[[Tensor], Tensor],
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    *,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
) -> Tensor:
    """Décodage glouton : à chaque pas, le token le plus probable.

    Args:
        model: (B, T) → logits (B, T, V) ; un module est mis en évaluation le temps de l'appel.
        idx: (B, T) int64, T ≥ 1 ; les invites.
        max_new_tokens: tokens à produire, au plus.
        context_size: seuls les derniers `context_size` tokens sont relus.
        generator: sans effet ici ; présent pour que les quatre stratégies s'appellent de même.
        eos_id: une ligne qui le produit est finie et n'est plus remplie que de lui ; la
            génération s'arrête quand toutes le sont.

    Returns:
        (B, T + n) int64, n ≤ `max_new_tokens` : l'invite, puis le texte généré.

    Raises:
        ConfigurationError: `max_new_tokens` < 0, `context_size` < 1 ou invite vide.
        GenerationError: logits NaN ou infinis.
    """
    del generator
    return _generate(model, idx, max_new_tokens, context_size, greedy_token, eos_id)


def generate_text_temperature(
    model: Callable[[Tensor], Tensor],
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    temperature: float = TEMPERATURE,
    *,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
) -> Tensor:
    """Échantillonne dans la distribution à température donnée ; voir `generate_text_simple`.

    Args:
        temperature: ≥ 0 ; 0 est glouton.
        generator: source du hasard ; None : le générateur global de PyTorch.
    """
    choose = sampled_token(temperature, None, generator)
    return _generate(model, idx, max_new_tokens, context_size, choose, eos_id)


def generate_text_top_k(
    model: Callable[[Tensor], Tensor],
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    k: int = TOP_K,
    temperature: float = TEMPERATURE,
    *,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
) -> Tensor:
    """Échantillonne parmi les k tokens les plus probables ; voir `generate_text_temperature`.

    Args:
        k: nombre de tokens gardés, ≥ 1.
    """
    choose = sampled_token(temperature, lambda logits: keep_top_k(logits, k), generator)
    return _generate(model, idx, max_new_tokens, context_size, choose, eos_id)


def generate_text_top_p(
    model: Callable[[Tensor], Tensor],
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    p: float = TOP_P,
    temperature: float = TEMPERATURE,
    *,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
) -> Tensor:
    """Échantillonne dans le noyau de masse p ; voir `generate_text_temperature`.

    Args:
        p: masse de probabilité gardée, dans [0, 1].
    """
    choose = sampled_token(temperature, lambda logits: top_p(logits, p), generator)
    return _generate(model, idx, max_new_tokens, context_size, choose, eos_id)


def generate_text_speculative(
    model: Callable[[Tensor], Tensor],
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    propose: Callable[[list[int], int], list[int]],
    choose: NextToken = greedy_token,
    *,
    count: int = 4,
    eos_id: int | None = None,
) -> Tensor:
    """Décodage spéculatif, en clair : proposer, vérifier d'un passage, accepter.

    Le texte est celui de la boucle ordinaire : à chaque rang, `choose` prend le token qu'il aurait
    pris, et tout ce qui suit la première proposition qu'il n'a pas choisie est oublié. Un passage
    rend donc de 1 à `count` + 1 tokens (voir `decoding.speculative`, avec cache).

    Args:
        model, max_new_tokens, context_size, eos_id: voir `generate_text_simple`.
        idx: (1, T) int64, T ≥ 1.
        propose: (tokens, n) → n tokens au plus pour les continuer, n'importe lesquels.
        choose: logits (1, V) → token (1, 1).
        count: propositions par passage.

    Returns:
        (1, T + n) int64.

    Raises:
        ConfigurationError, GenerationError: voir `generate_text_simple`.
    """
    _check_arguments(idx, max_new_tokens, context_size)
    tokens = idx[0].tolist()
    end = len(tokens) + max_new_tokens
    with torch.no_grad(), evaluation_mode(model), blaming_weights(model):
        while len(tokens) < end and (len(tokens) == idx.size(1) or tokens[-1] != eos_id):
            # Une fenêtre qui glisse déplacerait les positions : au-delà, plus rien n'est proposé.
            room = min(count, end - len(tokens) - 1, context_size - len(tokens))
            draft = propose(tokens, room) if room > 0 else []
            logits = model(torch.tensor([[*tokens, *draft][-context_size:]], device=idx.device))
            for place in range(len(draft) + 1):
                row = logits[:, logits.size(1) - 1 - len(draft) + place]  # (1, V)
                tokens.append(int(choose(row)))
                is_kept = place < len(draft) and tokens[-1] == draft[place]
                if not is_kept or tokens[-1] == eos_id:
                    break
    return torch.tensor([tokens], device=idx.device)


def generate(
    model: CausalLM,
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    eos_id: int | None = None,
) -> Tensor:
    """Celle du chapitre 5 du livre de Raschka : température et top-k à la fois.

    Le hasard vient du générateur global de PyTorch. La fin de texte arrête la génération et
    n'est pas rendue ; d'un lot, elle l'est dans les lignes finies avant les autres.

    Args:
        temperature: 0 est glouton.
        top_k: nombre de tokens gardés ; None : tous.

    Returns, Raises:
        voir `generate_text_simple`.
    """
    keep = None if top_k is None else (lambda logits: keep_top_k(logits, top_k))
    choose = sampled_token(temperature, keep, None)
    found = _generate(model, idx, max_new_tokens, context_size, choose, eos_id)
    if eos_id is None or found.size(1) == idx.size(1):
        return found
    return found[:, :-1] if bool((found[:, -1] == eos_id).all()) else found


def stream_tokens(
    model: CausalLM,
    idx: Tensor,
    max_new_tokens: int,
    choose: NextToken,
    *,
    context_size: int | None = None,
    eos_id: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Génère un token à la fois, avec cache.

    Quand le contexte est plein, les positions apprises de GPT-2
    interdisent de faire glisser le cache : la fenêtre avance d'un token et tout est relu,
    exactement comme le fait l'oracle.

    Args:
        model: rend des logits (B, T, V).
        idx: (B, T) int64, T ≥ 1.
        max_new_tokens: tokens à produire, au plus.
        choose: logits (B, V) → tokens (B, 1).
        context_size: seuls les derniers `context_size` tokens sont relus ; None : tout le
            contexte du modèle.
        eos_id: voir `generate_text_simple`.

    Yields:
        (tokens (B, 1) int64, logits (B, V)) : le choix et les logits d'où il vient.

    Raises:
        ConfigurationError, GenerationError: voir `generate_text_simple`.
    """
    limit = model.cfg.context_length
    context_size = limit if context_size is None else min(context_size, limit)
    _check_arguments(idx, max_new_tokens, context_size)
    idx = idx[:, -context_size:]
    capacity = min(context_size, idx.size(1) + max_new_tokens)
    cache = model.new_cache(idx.size(0), capacity)
    finished = torch.zeros(idx.size(0), 1, dtype=torch.bool, device=idx.device)
    fresh = idx
    for _ in range(max_new_tokens):
        if cache.length + fresh.size(1) > context_size:
            cache.reset()
            fresh = idx = idx[:, -context_size:]
        with torch.inference_mode(), evaluation_mode(model), blaming_weights(model):
            logits = model(fresh, cache)[:, -1, :]  # (B, V)
            fresh = choose(logits)
        fresh, finished = _freeze_finished(fresh, finished, eos_id)
        idx = torch.cat((idx, fresh), dim=1)
        yield fresh, logits
        if bool(finished.all()):
            return


def _generate(
    model: Callable[[Tensor], Tensor],
    idx: Tensor,
    max_new_tokens: int,
    context_size: int,
    choose: NextToken,
    eos_id: int | None,
) -> Tensor:
    """La boucle de l'oracle : relire le contexte, choisir, ajouter."""
    _check_arguments(idx, max_new_tokens, context_size)
    finished = torch.zeros(idx.size(0), 1, dtype=torch.bool, device=idx.device)
    with torch.no_grad(), evaluation_mode(model), blaming_weights(model):
        for _ in range(max_new_tokens):
            logits = model(idx[:, -context_size:])[:, -1, :]  # (B, V)
            token, finished = _freeze_finished(choose(logits), finished, eos_id)
            idx = torch.cat((idx, token), dim=1)  # (B, T + 1)
            if bool(finished.all()):
                break
    return idx


def _freeze_finished(token: Tensor, finished: Tensor, eos_id: int | None) -> tuple[Tensor, Tensor]:
    """Remplace par EOS le token (B, 1) des lignes déjà finies, et met `finished` (B, 1) à jour."""
    if eos_id is None:
        return token, finished
    token = token.masked_fill(finished, eos_id)
    return token, finished | (token == eos_id)


def _check_arguments(idx: Tensor, max_new_tokens: int, context_size: int) -> None:
    check_int("max_new_tokens", max_new_tokens, minimum=0)
    check_int("context_size", context_size, minimum=1)
    if idx.size(1) == 0:
        raise ConfigurationError(
            "invite vide", expected="au moins un token", remedy="donnez une invite"
        )
