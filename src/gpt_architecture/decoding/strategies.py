"""Des logits au token : les stratégies, fonctions pures et par lots, le tri et le tirage.

Les deux filtres rendent les logits, −∞ là où le token est retiré ; il reste toujours au moins un
token. Mirostat v2 (Basu et al., 2021) est la seule stratégie qui ait un état.

Formes : (…, V) ou (B, V), B lot, V vocabulaire, n premiers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.errors import NonFiniteError

HEAD = 512
"""Tokens que top-p trie d'abord, avant d'en venir à tout le vocabulaire."""

_FEW = 8  # un tirage ne regarde que ce qui reste s'il en reste moins d'un token sur tant

NextToken = Callable[[Tensor], Tensor]
"""Choix du token suivant : logits (B, V) → identifiants (B, 1) int64."""


def greedy(logits: Tensor) -> Tensor:
    """Token le plus probable : (…, V) → (…, 1) int64. À égalité, le plus petit identifiant."""
    if _is_plain(logits):
        # NumPy cherche par vecteurs : neuf fois plus vite que PyTorch, par ligne de vocabulaire.
        return torch.from_numpy(logits.detach().numpy().argmax(axis=-1, keepdims=True))
    return logits.argmax(dim=-1, keepdim=True)


def best(logits: Tensor) -> int:
    """Le token le plus probable de logits (V,), vérifiés de la même lecture.

    Raises:
        NonFiniteError: les logits ne sont pas des nombres.
    """
    row = logits.detach().numpy() if _is_plain(logits) else logits
    token = int(row.argmax())
    if not math.isfinite(row[token]):  # un NaN est le plus grand, pour PyTorch comme pour NumPy
        raise _not_numbers()
    return token


def softmax_avec_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Distribution softmax(logits / temperature) : (…, V) → (…, V), de somme 1.

    Une température de 0 n'est pas une division : toute la masse va au token le plus
    probable. Sous 1 la distribution se resserre, au-dessus elle s'aplatit.

    Raises:
        ConfigurationError: température négative ou non finie.
    """
    check_float("temperature", temperature, minimum=0.0)
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, greedy(logits), 1.0)
    return torch.softmax(divide_by_temperature(logits, temperature), dim=-1)


def divide_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """(logits − maximum) / temperature, pour une température > 0 : (…, V) → (…, V).

    Ôter le maximum d'abord ne change pas le softmax et garde finis les logits du plus
    probable, même à une température trop petite ou trop grande pour leur type.
    """
    limits = torch.finfo(logits.dtype)
    temperature = min(max(temperature, limits.tiny), limits.max)
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """Garde exactement les k plus grands logits (Fan et al., 2018).

    k est ramené à la taille du vocabulaire. À égalité sur la k-ième place, les plus petits
    identifiants sont gardés.

    Raises:
        ConfigurationError: k n'est pas un entier ≥ 1.
    """
    check_int("k", k, minimum=1)
    if k >= logits.size(-1):
        return logits
    threshold = logits.topk(k, dim=-1).values[..., -1:]
    return _keep_largest(logits, threshold, torch.full_like(threshold, k, dtype=torch.int64))


def top_p(logits: Tensor, p: float) -> Tensor:
    """Garde le plus petit ensemble de tokens dont la probabilité atteint p (Holtzman et al., 2020).

    Le token qui franchit p est gardé, si bien que p = 0 garde le plus probable seul ; p = 1
    garde tout. À probabilité égale, les plus petits identifiants passent d'abord.

    Raises:
        ConfigurationError: p hors de [0, 1].
    """
    check_float("p", p, minimum=0.0, maximum=1.0)
    if p == 1:
        return logits
    precise = _precise(logits)
    maximum = logits.amax(dim=-1, keepdim=True).to(precise)
    total = _mass(logits, maximum)
    ordered = largest(logits, min(HEAD, logits.size(-1)))
    count = _nucleus_size(ordered, maximum, total, p)
    if bool((count == ordered.size(-1)).any()):  # le noyau dépasse peut-être la tête
        ordered = descending(logits)
        count = _nucleus_size(ordered, maximum, total, p)
    return _keep_largest(logits, ordered.gather(-1, count - 1), count)


def greedy_token(logits: Tensor) -> Tensor:
    """Le plus probable : (B, V) → (B, 1).

    Raises:
        NonFiniteError: les logits ne sont pas des nombres.
    """
    check_logits(logits)
    return greedy(logits)


def sampled_token(
    temperature: float,
    keep: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> NextToken:
    """Échantillonne : température, puis filtre `keep`, puis choix au hasard avec `generator`.

    Le filtre voit les logits divisés par la température, comme dans Transformers : top-p
    retient donc la masse p de la distribution qu'on échantillonne. Une température de 0 est un
    choix glouton, sans échantillonnage.
    """
    check_float("temperature", temperature, minimum=0.0)

    def choose(logits: Tensor) -> Tensor:
        check_logits(logits)
        if temperature == 0:
            return greedy(logits)
        scaled = divide_by_temperature(logits, temperature)
        if keep is not None:
            scaled = keep(scaled)
        return draw(scaled, generator)

    return choose


def draw(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Un token au sort dans softmax(logits) : (B, V) → (B, 1).

    Un nombre uniforme par ligne, placé dans les probabilités cumulées : `torch.multinomial` en
    tire un par token du vocabulaire, dix fois plus lent. Un token retiré n'est jamais choisi ; s'il
    en reste peu d'une ligne seule, le calcul ne voit plus qu'eux.
    """
    if len(logits) == 1 and logits.device.type == "cpu":
        row = _array(logits)[0]
        kept = row != -np.inf
        if 0 < _FEW * np.count_nonzero(kept) < len(row):
            left = torch.from_numpy(np.flatnonzero(kept))
            return left[draw(torch.from_numpy(row)[left].unsqueeze(0), generator)]
    precise = _precise(logits)
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1, dtype=precise)  # (B, V)
    total = cumulative[:, -1:]
    place = torch.rand(total.shape, dtype=precise, device=logits.device, generator=generator)
    place = torch.minimum(place * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, place, right=True)


def check_logits(logits: Tensor) -> None:
    """Refuse des logits (…, V) dont le plus grand n'est pas un nombre fini.

    Raises:
        NonFiniteError: le modèle a produit autre chose que des nombres.
    """
    if _is_plain(logits):
        # NumPy compare par vecteurs : dix fois plus vite que PyTorch, par ligne de vocabulaire.
        peaks = logits.detach().numpy().max(axis=-1)
        finite = math.isfinite(peaks) if peaks.ndim == 0 else bool(np.isfinite(peaks).all())
    else:
        finite = bool(torch.isfinite(logits.amax(dim=-1)).all())
    if not finite:  # un NaN se propage au maximum
        raise _not_numbers()


class Mirostat:
    """Un échantillonnage qui tient la surprise moyenne près d'une cible, avec son état.

    La surprise d'un token est −log₂ de sa probabilité, en bits. À chaque pas, les tokens de
    surprise > μ sont retirés, un token est échantillonné parmi le reste, et μ se corrige de l'écart
    entre la surprise observée et la cible τ. Comme dans llama.cpp, la surprise observée est celle
    du token dans la distribution où on l'a échantillonné, donc après le retrait.

    Args:
        tau: surprise visée, en bits, > 0.
        eta: vitesse de correction, > 0.
        generator: source du hasard ; None : le générateur global de PyTorch.

    Attributes:
        mu: surprise maximale admise au prochain pas, en bits ; d'abord 2τ.

    Raises:
        ConfigurationError: valeur hors bornes.
    """

    def __init__(self, tau: float, eta: float, generator: torch.Generator | None = None) -> None:
        check_float("mirostat_tau", tau, above=0.0)
        check_float("mirostat_eta", eta, above=0.0)
        self.mu = 2 * tau
        self._tau, self._eta, self._generator = tau, eta, generator

    def truncate(self, logits: Tensor) -> Tensor:
        """Retire les tokens de surprise > μ, sauf le plus probable : (V,) → (V,). L'état reste."""
        removed = _surprise(logits) > self.mu
        removed[logits.argmax()] = False
        return logits.masked_fill(removed, -torch.inf)

    def choose(self, logits: Tensor) -> int:
        """Retire, échantillonne un token, corrige μ ; logits (V,)."""
        kept = self.truncate(logits)
        token = int(draw(kept.unsqueeze(0), self._generator))
        self.mu -= self._eta * (float(_surprise(kept)[token]) - self._tau)
        return token


# --- Trier un vocabulaire : sur CPU par NumPy, dont le tri vectoriel est dix fois celui de PyTorch.
# Un tri de 50 257 logits par PyTorch coûte autant que le calcul d'un token. Les valeurs sont les
# mêmes, sur tout périphérique ; NumPy ignore les demi-précisions, qui deviennent float32. Comparer,
# compter, mettre à −∞ et sommer y vont aussi de deux à quatre fois plus vite.


def descending(values: Tensor) -> Tensor:
    """Les valeurs, de la plus grande à la plus petite : (…, V) → (…, V)."""
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(_array(values), axis=-1)).flip(-1)


def largest(values: Tensor, count: int) -> Tensor:
    """Les n plus grandes valeurs, décroissantes : (…, V) → (…, n), 1 ≤ n ≤ V."""
    if values.device.type != "cpu":
        return values.topk(count, dim=-1).values
    first = values.size(-1) - count
    return descending(torch.from_numpy(np.partition(_array(values), first, axis=-1)[..., first:]))


def ascending(values: Tensor) -> tuple[Tensor, Tensor]:
    """Les valeurs croissantes et leurs places, ex æquo dans l'ordre des places.

    Args:
        values: (…, V) float32, ≥ 0.

    Returns:
        (…, V) float32 et (…, V) int64.
    """
    if values.device.type != "cpu":
        return values.sort(dim=-1, stable=True)
    # Les bits d'un float32 ≥ 0 s'ordonnent comme lui : valeur et place tiennent dans un entier.
    places = torch.arange(values.size(-1))
    keys = (values.view(torch.int32).to(torch.int64) << 32) | places
    ordered = torch.from_numpy(np.sort(_array(keys), axis=-1))
    return (ordered >> 32).to(torch.int32).view(torch.float32), ordered & 0xFFFFFFFF


def _nucleus_size(ordered: Tensor, maximum: Tensor, total: Tensor, p: float) -> Tensor:
    """Taille du noyau de masse p, (…, 1), d'après des logits décroissants (…, n)."""
    probabilities = (ordered.to(maximum.dtype) - maximum).exp() / total
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    return (mass_before < p).sum(dim=-1, keepdim=True).clamp(min=1)


def _keep_largest(logits: Tensor, threshold: Tensor, count: Tensor) -> Tensor:
    """Garde les `count` (…, 1) plus grands logits, dont le dernier vaut `threshold` (…, 1).

    À égalité sur la dernière place, les plus petits identifiants sont gardés.
    """
    kept = _reaching(logits, threshold)
    if bool(torch.count_nonzero(kept) > count.sum()):  # aucune ligne n'en garde moins
        above = logits > threshold
        tied = logits == threshold
        seats_left = count - above.sum(dim=-1, keepdim=True)
        kept = above | (tied & (tied.cumsum(dim=-1) <= seats_left))
    return _only(logits, kept)


def _mass(logits: Tensor, maximum: Tensor) -> Tensor:
    """Σ exp(logits − maximum), dans le type du maximum : (…, V), (…, 1) → (…, 1)."""
    if logits.device.type != "cpu":
        return (logits.to(maximum.dtype) - maximum).exp().sum(dim=-1, keepdim=True)
    with np.errstate(invalid="ignore"):  # +∞ − +∞ : un NaN, comme sur un GPU, sans avertissement
        gaps = np.subtract(_array(logits), _array(maximum), dtype=np.float64)
    return torch.from_numpy(np.exp(gaps, out=gaps).sum(axis=-1, keepdims=True))


def _reaching(logits: Tensor, threshold: Tensor) -> Tensor:
    """Vrai là où un logit (…, V) atteint le seuil (…, 1)."""
    if logits.device.type != "cpu":
        return logits >= threshold
    return torch.from_numpy(_array(logits) >= _array(threshold))


def _only(logits: Tensor, kept: Tensor) -> Tensor:
    """Les logits gardés, −∞ ailleurs."""
    if logits.device.type != "cpu":
        return logits.masked_fill(~kept, -torch.inf)
    places = torch.from_numpy(np.flatnonzero(kept.numpy()))
    left = torch.full_like(logits, -torch.inf, memory_format=torch.contiguous_format)
    left.view(-1)[places] = logits.reshape(-1)[places]
    return left


def _precise(logits: Tensor) -> torch.dtype:
    """Le type des sommes sur un vocabulaire : float64, sauf sur mps, qui s'arrête à float32."""
    return torch.float32 if logits.device.type == "mps" else torch.float64


def _is_plain(logits: Tensor) -> bool:
    """Vrai si NumPy peut lire ces logits tels quels."""
    return logits.device.type == "cpu" and logits.dtype is torch.float32


def _not_numbers() -> NonFiniteError:
    return NonFiniteError("le modèle a produit des logits NaN ou infinis")


def _surprise(logits: Tensor) -> Tensor:
    """Surprise de chaque token, en bits : (V,) → (V,) float32."""
    return torch.log_softmax(logits.float(), dim=-1) / -math.log(2)


def _array(values: Tensor) -> np.ndarray:
    small = values.dtype in (torch.float16, torch.bfloat16)
    array: np.ndarray = (values.float() if small else values).detach().numpy()
    return array
