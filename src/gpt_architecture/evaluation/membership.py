"""L'inférence d'appartenance : peut-on dire, du modèle seul, si un extrait a servi à l'entraîner ?

Trois attaques notent chaque extrait : la perte (Yeom et al., 2018) ; Min-K %, la moyenne des tokens
les moins probables (Shi et al., 2024) ; et, avec des modèles de référence entraînés sur des moitiés
tirées du même texte, un rapport de vraisemblance (LiRA : Carlini et al., 2022). L'aire sous la
courbe (AUC) vaut 0,5 au hasard.

Un texte inédit qui n'a pas le même style ou le même sujet se reconnaît sans aucun modèle : une
attaque aveugle le mesure (Das et al., 2024), et des contrôles qui comparent des extraits du même
côté doivent donner 0,5.

Formes : M membres, N autres, E extraits, S modèles de référence, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.errors import NonFiniteError
from gpt_architecture.evaluation.likelihood import (
    MAX_LOGITS,
    MAX_ROWS,
    Interval,
    wilson_interval,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
AttackName = Literal["perte", "min-k", "référence", "aveugle"]

EXTRACTS = 500
"""Extraits de chaque côté, au plus."""

MIN_SHARE = 0.2
"""Part des tokens, les moins probables, que Min-K % moyenne."""

FALSE_POSITIVES = 0.01
"""Part d'extraits inédits pris pour des membres, où la part de membres reconnus est mesurée."""

_WANTED, _SHORTEST = 100, 16  # extraits inédits souhaités, et leur plus petite longueur
_Z = 1.959963984540054  # 97,5 % de la loi normale


@dataclass(frozen=True, kw_only=True)
class Area:
    """Une aire sous la courbe ROC.

    Attributes:
        value: probabilité qu'un membre soit mieux noté qu'un autre extrait.
        interval: son intervalle à 95 % (DeLong et al., 1988).
    """

    value: float
    interval: Interval

    @property
    def holds_chance(self) -> bool:
        """Vrai si 0,5 est dans l'intervalle."""
        return self.interval[0] <= 0.5 <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Ce que vaut une attaque.

    Attributes:
        name: son nom.
        area: membres contre extraits inédits.
        reached: part des membres reconnus quand 1 % des autres le sont à tort ; aucun, s'il y en
            a moins de cent.
        reached_interval: son intervalle à 95 %.
        controls: membres entre eux, extraits inédits entre eux : 0,5 est attendu.
    """

    name: AttackName
    area: Area
    reached: float
    reached_interval: Interval
    controls: tuple[Area, Area]

    @property
    def good(self) -> bool:
        """Vrai si les deux contrôles ont 0,5 dans leur intervalle."""
        return all(each.holds_chance for each in self.controls)

    def to_dict(self) -> dict[str, Any]:
        """En types simples."""
        return {
            "attack": self.name,
            "auc": self.area.value,
            "auc_interval": self.area.interval,
            "tpr_at_1_percent": self.reached,
            "tpr_interval": self.reached_interval,
            "controls": [[each.value, *each.interval] for each in self.controls],
            "controls_good": self.good,
        }


@dataclass(frozen=True, kw_only=True)
class MembershipReport:
    """Ce que les attaques donnent.

    Attributes:
        attacks: une par attaque ; l'aveugle, sans modèle, est la dernière.
        members: extraits du texte d'entraînement.
        others: extraits inédits.
        length: leur longueur, en tokens.
        shadow: modèles de référence.
    """

    attacks: tuple[Attack, ...]
    members: int
    others: int
    length: int
    shadow: int

    @property
    def shifted(self) -> bool:
        """Vrai si les deux textes se distinguent sans le modèle : les autres attaques en profitent.

        Les modèles de référence, qui ont lu les deux, s'en affranchissent.
        """
        return not self.attacks[-1].area.holds_chance

    @property
    def best(self) -> Attack:
        """L'attaque la plus forte, l'aveugle à part."""
        return max(self.attacks[:-1], key=lambda each: each.area.value)

    def to_dict(self) -> dict[str, Any]:
        """En types simples."""
        return {
            "members": self.members,
            "others": self.others,
            "length": self.length,
            "others_accused": math.floor(FALSE_POSITIVES * self.others),
            "shadow": self.shadow,
            "shifted": self.shifted,
            "attacks": [each.to_dict() for each in self.attacks],
        }


def extract_length(unseen: TokenSource, window: int) -> int:
    """Longueur des extraits : la fenêtre, ou moins pour que le texte inédit en ait une centaine."""
    return min(window, max(_SHORTEST, unseen.num_tokens // _WANTED))


def token_log_probs(
    model: CausalLM,
    extracts: Sequence[Sequence[int]],
    *,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int], None] | None = None,
) -> Floats:
    """log p de chaque token d'extraits d'égale longueur, le premier excepté : (E, T − 1).

    Args:
        model: rend des logits (B, T, V).
        extracts: identifiants (E, T).
        max_rows: séquences d'un lot, au plus.
        on_progress: appelé avec le nombre d'extraits de chaque lot.

    Raises:
        NonFiniteError: logits NaN ou infinis.
    """
    ids = torch.tensor(extracts, dtype=torch.int64)
    rows = max(1, min(max_rows, MAX_LOGITS // (ids.size(1) * model.cfg.vocab_size)))
    found = list[Floats]()
    with torch.inference_mode(), evaluation_mode(model), blaming_weights(model):
        for start in range(0, len(ids), rows):
            batch = ids[start : start + rows]
            logits = model(batch[:, :-1].to(model.device)).float()  # (B, T − 1, V)
            wanted = batch[:, 1:, None].to(model.device)
            chosen = logits.gather(-1, wanted).squeeze(-1) - logits.logsumexp(dim=-1)
            if not bool(chosen.isfinite().all()):
                raise NonFiniteError("le modèle donne à un token une log-probabilité non finie")
            found.append(chosen.double().cpu().numpy())
            if on_progress is not None:
                on_progress(len(batch))
    return np.concatenate(found)


def loss_scores(log_probs: Floats) -> Floats:
    """L'attaque par la perte : la log-probabilité moyenne de chaque extrait (E,)."""
    mean: Floats = log_probs.mean(axis=1)
    return mean


def min_k_scores(log_probs: Floats, share: float = MIN_SHARE) -> Floats:
    """Min-K % : la moyenne des `share` tokens les moins probables de chaque extrait (E,)."""
    count = max(1, math.floor(share * log_probs.shape[1]))
    mean: Floats = np.sort(log_probs, axis=1)[:, :count].mean(axis=1)
    return mean


def reference_scores(target: Floats, references: Floats, inside: Bools) -> Floats:
    """Le rapport de vraisemblance de chaque extrait (E,), sous deux lois normales.

    Une loi a pour moyenne la note de l'extrait dans les modèles de référence qui l'ont lu, l'autre
    dans ceux qui ne l'ont pas lu. De même variance, elles donnent (à cette variance près, qui ne
    change pas l'ordre des extraits) (a − b)·(x − (a + b) / 2) : deux modèles suffisent, là où
    LiRA estime aussi les variances.

    Args:
        target: notes du modèle attaqué (E,).
        references: celles des modèles de référence (S, E).
        inside: vrai si ce modèle a lu cet extrait (S, E) ; chaque extrait l'est par l'un, pas par
            un autre.
    """
    with_it = (references * inside).sum(axis=0) / inside.sum(axis=0)
    without = (references * ~inside).sum(axis=0) / (~inside).sum(axis=0)
    scores: Floats = (with_it - without) * (target - (with_it + without) / 2)
    return scores


def blind_scores(
    members: Sequence[Sequence[int]], others: Sequence[Sequence[int]]
) -> tuple[Floats, Floats]:
    """Une attaque sans modèle : ce que les fréquences de tokens disent du côté d'un extrait.

    Un Bayes naïf apprend d'un extrait sur deux, et juge les autres. Une validation croisée les
    jugerait tous, mais ses notes dépendraient les unes des autres, et l'intervalle serait faux.

    Returns:
        Les notes des membres jugés, puis celles des autres.
    """
    size = 1 + max(max(each) for each in (*members, *others))
    logs = []
    for own in (members, others):
        counts = np.bincount(
            np.concatenate([np.asarray(each) for each in own[::2]]), minlength=size
        )
        logs.append(np.log((counts + 1) / (counts.sum() + size)))
    gain = logs[0] - logs[1]
    judged_members, judged_others = (
        np.array([gain[np.asarray(each)].mean() for each in own[1::2]]) for own in (members, others)
    )
    return judged_members, judged_others


def area(members: Floats, others: Floats) -> Area:
    """L'aire sous la courbe, et son intervalle par la méthode de DeLong et al. (1988).

    Args:
        members: notes des membres (M,), au moins deux.
        others: notes des autres (N,), au moins deux.
    """
    above, below = np.sort(members), np.sort(others)
    beaten = (  # part des autres que chaque membre bat, une demie à égalité
        np.searchsorted(below, members, "left") + np.searchsorted(below, members, "right")
    ) / (2 * len(others))
    lost = (  # part des membres qui battent chaque autre
        2 * len(members)
        - np.searchsorted(above, others, "left")
        - np.searchsorted(above, others, "right")
    ) / (2 * len(members))
    value = float(beaten.mean())
    spread = beaten.var(ddof=1) / len(members) + lost.var(ddof=1) / len(others)
    margin = _Z * math.sqrt(float(spread))
    return Area(value=value, interval=(max(0.0, value - margin), min(1.0, value + margin)))


def judged(name: AttackName, members: Floats, others: Floats) -> Attack:
    """Une attaque, de ses notes : son aire, ce qu'elle reconnaît à 1 % d'erreur, ses contrôles.

    Les contrôles opposent deux moitiés du même côté, tirées au hasard, toujours les mêmes : prises
    un extrait sur deux, elles suivraient la place des extraits dans les fenêtres d'entraînement.
    """
    allowed = math.floor(FALSE_POSITIVES * len(others))
    bar = np.sort(others)[::-1][allowed]
    found = int((members > bar).sum())
    return Attack(
        name=name,
        area=area(members, others),
        reached=found / len(members),
        reached_interval=wilson_interval(found, len(members)),
        controls=(_halved(members), _halved(others)),
    )


def _halved(scores: Floats) -> Area:
    """L'aire d'une moitié des notes, tirée au hasard, contre l'autre."""
    mixed = np.random.default_rng(0).permutation(scores)
    return area(mixed[::2], mixed[1::2])


def measure_membership(
    scores: Mapping[AttackName, Floats],
    members: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
    *,
    shadow: int = 0,
) -> MembershipReport:
    """Juge des attaques, et l'attaque aveugle.

    Args:
        scores: notes de chacune (M + N,), membres d'abord.
        members: extraits du texte d'entraînement, au moins quatre.
        others: extraits inédits, au moins quatre.
        shadow: modèles de référence employés.
    """
    count = len(members)
    attacks = [judged(name, each[:count], each[count:]) for name, each in scores.items()]
    attacks.append(judged("aveugle", *blind_scores(members, others)))
    return MembershipReport(
        attacks=tuple(attacks),
        members=count,
        others=len(others),
        length=len(members[0]),
        shadow=shadow,
    )
