"""Ce qui retire des tokens : filtres (d'après les logits du pas seul) et interdictions.

Un processeur va de (tokens déjà là, logits) aux logits ; il est pur et se construit par une
fonction, qui refuse un réglage hors bornes (`ConfigurationError`). Un token retiré vaut −∞. Un
filtre ne vide jamais une ligne ; une interdiction (texte, demande ou contrainte) n'est jamais levée
en silence : si elle ne laissait aucun token, c'est une `GenerationError`. Ce qui déplace des logits
est dans `penalties`, l'ordre dans `pipeline`.

Formes : B lot, T tokens, V vocabulaire, L longueur d'une séquence.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.decoding import strategies
from gpt_architecture.errors import ConfigurationError, GenerationError

Processor = Callable[[Tensor, Tensor], Tensor]
"""(tokens (B, T) int64, logits (B, V)) → logits (B, V).

Les tokens sont l'invite et le texte généré, complétés à gauche par −1 quand les lignes
diffèrent ; un processeur ignore ces −1.
"""


def temperature(value: float) -> Processor:
    """Divise les logits par `value` ; 0 ne garde que le plus probable.

    Le maximum de chaque ligne en est d'abord ôté, ce qui laisse la distribution inchangée.
    """
    check_float("temperature", value, minimum=0.0)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        if value > 0:
            return strategies.divide_by_temperature(logits, value)
        best = strategies.greedy(logits)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best))

    return process


def top_k(k: int) -> Processor:
    """Garde les k tokens les plus probables (Fan et al., 2018) ; voir `strategies.top_k`."""
    check_int("k", k, minimum=1)
    return lambda token_ids, logits: strategies.top_k(logits, k)


def top_p(p: float) -> Processor:
    """Garde le noyau de masse p (Holtzman et al., 2020) ; voir `strategies.top_p`."""
    check_float("p", p, minimum=0.0, maximum=1.0)
    return lambda token_ids, logits: strategies.top_p(logits, p)


def min_p(ratio: float) -> Processor:
    """Garde les tokens d'au moins `ratio` fois la probabilité du premier (Nguyen et al., 2024)."""
    check_float("min_p", ratio, minimum=0.0, maximum=1.0)
    margin = _log(ratio)  # p < ratio·max ⇔ logit < logit maximal + ln(ratio) : sans softmax

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        scores = logits.float()
        return logits.masked_fill(scores < scores.amax(dim=-1, keepdim=True) + margin, -torch.inf)

    return process


def typical_p(mass: float) -> Processor:
    """Garde les tokens de surprise la plus proche de l'entropie (Meister et al., 2022).

    Les tokens sont pris par écart |−ln p − H| croissant jusqu'à atteindre `mass` ; ceux d'écart
    égal au dernier le sont aussi. Le plus probable peut donc être retiré.
    """
    check_float("typical_p", mass, above=0.0, maximum=1.0)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        if mass == 1:
            return logits
        log_probabilities = torch.log_softmax(logits.float(), dim=-1)
        deviation = (log_probabilities + _entropy(log_probabilities)).abs()  # |−ln p − H|
        ordered, order = strategies.ascending(deviation)
        reached = log_probabilities.exp().gather(-1, order).cumsum(dim=-1)
        last = (reached < mass).sum(dim=-1, keepdim=True).clamp(max=logits.size(-1) - 1)
        return logits.masked_fill(deviation > ordered.gather(-1, last), -torch.inf)

    return process


def epsilon_cutoff(epsilon: float) -> Processor:
    """Retire les tokens de probabilité < `epsilon`, sauf le premier (Hewitt et al., 2022)."""
    check_float("epsilon_cutoff", epsilon, minimum=0.0, below=1.0)
    floor = _log(epsilon)
    return lambda token_ids, logits: _remove(
        logits, torch.log_softmax(logits.float(), dim=-1) < floor
    )


def eta_cutoff(epsilon: float) -> Processor:
    """Retire les tokens de probabilité < min(ε, √ε·e^−H), sauf le premier (Hewitt et al., 2022).

    Là où l'entropie H est grande, le seuil baisse.
    """
    check_float("eta_cutoff", epsilon, minimum=0.0, below=1.0)
    floor = _log(epsilon)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        log_probabilities = torch.log_softmax(logits.float(), dim=-1)
        eta = (floor / 2 - _entropy(log_probabilities)).clamp(max=floor)  # ln η, (B, 1)
        return _remove(logits, log_probabilities < eta)

    return process


def top_n_sigma(n: float) -> Processor:
    """Garde les logits à moins de n écarts-types du maximum (Tang et al., 2024).

    L'écart-type est celui des logits encore présents. Il suit l'échelle des logits : la
    température ne change rien à ce qui est gardé.
    """
    check_float("top_n_sigma", n, above=0.0)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        scores = logits.float()
        below = scores - scores.amax(dim=-1, keepdim=True)  # ≤ 0
        present = below + 0 * below  # NaN là où le logit vaut −∞ : les moyennes l'ignorent
        gaps = present - present.nanmean(dim=-1, keepdim=True)
        sigma = gaps.square().nanmean(dim=-1, keepdim=True).sqrt()
        return logits.masked_fill(below < -n * sigma, -torch.inf)

    return process


def xtc(probability: float, threshold: float, generator: torch.Generator) -> Processor:
    """Écarte parfois les premiers choix : « exclude top choices » (p-e-w, 2024).

    Avec la probabilité `probability`, tirée pour chaque ligne et à chaque pas, tous les tokens
    de probabilité ≥ `threshold` sont retirés sauf le moins probable d'entre eux (à égalité, le
    plus grand identifiant). Rien ne change s'il n'y en a qu'un. Comme dans llama.cpp, la fin de
    texte n'est pas protégée.

    Args:
        probability: dans [0, 1].
        threshold: dans [0, 1] ; au-delà de 0,5 le filtre est sans effet.
        generator: source des tirages, un nombre par ligne, que le filtre agisse ou non.
    """
    check_float("xtc_probability", probability, minimum=0.0, maximum=1.0)
    check_float("xtc_threshold", threshold, minimum=0.0, maximum=1.0)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        draw = torch.rand(logits.size(0), 1, generator=generator, device=generator.device)
        active = (draw < probability).to(logits.device)  # (B, 1)
        if not bool(active.any()):
            return logits
        probabilities = torch.softmax(logits.float(), dim=-1)
        top = (probabilities >= threshold) & (logits > -torch.inf)
        least = probabilities.masked_fill(~top, torch.inf).amin(dim=-1, keepdim=True)
        tied = top & (probabilities == least)
        identifiers = torch.arange(logits.size(-1), device=logits.device)
        survivor = identifiers == (tied * (identifiers + 1)).amax(dim=-1, keepdim=True) - 1
        return logits.masked_fill(active & top & ~survivor, -torch.inf)

    return process


def min_tokens(count: int, *, prompt_length: int, eos_ids: Collection[int]) -> Processor:
    """Interdit la fin de texte tant que la séquence compte moins de `count` tokens.

    Args:
        count: ≥ 0.
        prompt_length: colonnes que l'invite occupe.
        eos_ids: identifiants de fin.
    """
    check_int("min_tokens", count, minimum=0)
    check_int("prompt_length", prompt_length, minimum=0)
    check_sequences("eos_ids", [[token] for token in eos_ids])
    ends = torch.tensor(sorted(eos_ids), dtype=torch.int64)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        if token_ids.size(1) - prompt_length >= count:
            return logits
        return _checked(logits.index_fill(1, ends.to(logits.device), -torch.inf), "min_tokens")

    return process


def no_repeat_ngram(size: int) -> Processor:
    """Interdit de produire deux fois la même séquence de `size` tokens, invite comprise."""
    check_int("no_repeat_ngram", size, minimum=1)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        if token_ids.size(1) < size:
            return logits
        windows = token_ids.unfold(1, size, 1)  # (B, T − L + 1, L)
        prefix = token_ids[:, token_ids.size(1) + 1 - size :]  # (B, L − 1)
        begun = (windows[..., :-1] == prefix.unsqueeze(1)).all(dim=-1)
        begun &= (windows >= 0).all(dim=-1)
        # Une colonne de plus recueille les séquences qui ne sont pas commencées.
        columns = windows[..., -1].masked_fill(~begun, logits.size(-1))
        padded = torch.nn.functional.pad(logits, (0, 1)).scatter(1, columns, -torch.inf)
        return _checked(padded[:, :-1], "no_repeat_ngram")

    return process


def banned(sequences: Collection[Sequence[int]]) -> Processor:
    """Interdit des suites de tokens : le dernier, là où le texte finit par les autres.

    Une séquence d'un token est interdite partout.
    """
    check_sequences("banned", sequences)
    by_length: dict[int, list[Sequence[int]]] = defaultdict(list)
    for sequence in sequences:
        by_length[len(sequence)].append(sequence)
    groups = [torch.tensor(group, dtype=torch.int64) for group in by_length.values()]  # (N, L)

    def process(token_ids: Tensor, logits: Tensor) -> Tensor:
        left = logits.clone()
        for group in groups:
            prefixes = group[:, :-1].to(token_ids.device)
            length = prefixes.size(1)
            if length > token_ids.size(1):
                continue
            ending = token_ids[:, None, token_ids.size(1) - length :]  # (B, 1, L − 1)
            row, which = (ending == prefixes).all(dim=-1).nonzero(as_tuple=True)
            left[row, group[:, -1].to(row.device)[which]] = -torch.inf
        return _checked(left, "banned")

    return process


def allowed_tokens(allowed: Callable[[], Tensor]) -> Processor:
    """Ne laisse que les tokens qu'une contrainte permet.

    Args:
        allowed: masque (V,) ou (B, V) booléen, vrai où le token est permis maintenant.
    """
    return lambda token_ids, logits: _checked(
        logits.masked_fill(~allowed(), -torch.inf), "la contrainte"
    )


def check_sequences(name: str, sequences: Collection[Sequence[int]]) -> None:
    """Vérifie des suites d'identifiants, dont aucune n'est vide."""
    for sequence in sequences:
        if not sequence:
            raise ConfigurationError(
                f"{name} contient une suite vide",
                expected="au moins un token par séquence",
                remedy=f"corrigez {name}",
            )
        for token in sequence:
            check_int(name, token, minimum=0)


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf


def _entropy(log_probabilities: Tensor) -> Tensor:
    """Entropie en nats : (B, V) → (B, 1) ; un token retiré n'y compte pas."""
    return -(log_probabilities * log_probabilities.exp()).nansum(dim=-1, keepdim=True)


def _remove(logits: Tensor, removed: Tensor) -> Tensor:
    """Retire `removed` (B, V), en gardant toujours les logits maximaux."""
    best = logits == logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill(removed & ~best, -torch.inf)


def _checked(logits: Tensor, cause: str) -> Tensor:
    if bool((logits.amax(dim=-1) == -torch.inf).any()):
        raise GenerationError(
            f"{cause} ne laisse aucun token possible",
            expected="au moins un token permis à chaque pas",
            remedy="assouplissez les interdictions",
        )
    return logits
