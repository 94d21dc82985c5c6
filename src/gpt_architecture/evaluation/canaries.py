"""L'exposition des canaris : ce qu'un modèle sait d'un secret qu'il n'a pu lire que là.

Tous les secrets possibles étaient aussi probables. L'exposition (Carlini et al., 2019) d'un canari
est log₂ du nombre de secrets, moins log₂ du rang du sien parmi tous, du plus probable au moins
probable sous le modèle. Le rang est exact : les 17 576 secrets sont notés. Le rang d'un secret
jamais lu est uniforme, d'où la probabilité exacte d'une fausse alarme.

Formes : B lot, T tokens, S tokens d'un secret, V vocabulaire, N secrets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpt_architecture.core.model import CausalLM
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.data.canaries import Canary, CanarySet
from gpt_architecture.errors import ConfigurationError, NonFiniteError
from gpt_architecture.evaluation.likelihood import MAX_LOGITS, MAX_ROWS, Interval

FALSE_ALARM = 1e-3
"""Probabilité visée qu'un modèle qui n'a lu aucun canari en fasse trouver un.

De N canaris, le seul premier rang en donne N sur le nombre de secrets : au-delà de dix-sept, c'est
plus ; `ExposureReport.false_alarm` est la vraie.
"""

EXPECTED = math.log2(math.e)
"""Exposition moyenne d'un secret jamais lu, en bits : celle d'un rang uniforme."""

_Z = 1.959963984540054  # 97,5 % de la loi normale


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Ce que le modèle sait d'un canari.

    Attributes:
        canary: le canari, ou un témoin.
        rank: rang de son secret, depuis 1 ; les ex æquo ont leur rang moyen.
        size: secrets possibles.
    """

    canary: Canary
    rank: float
    size: int

    @property
    def bits(self) -> float:
        """L'exposition, de 0 à log₂ du nombre de secrets."""
        return math.log2(self.size) - math.log2(self.rank)


@dataclass(frozen=True, kw_only=True)
class RepetitionRow:
    """Les canaris plantés le même nombre de fois.

    Attributes:
        repetitions: combien de fois.
        found: ceux qui sont retrouvés.
        total: tous.
        bits: leur exposition moyenne.
    """

    repetitions: int
    found: int
    total: int
    bits: float


@dataclass(frozen=True, kw_only=True)
class ExposureReport:
    """L'exposition des canaris plantés, et celle des témoins.

    Attributes:
        planted: les canaris.
        controls: les témoins, jamais plantés.
        size: secrets possibles.
    """

    planted: tuple[Exposure, ...]
    controls: tuple[Exposure, ...]
    size: int

    @property
    def threshold(self) -> int:
        """Rang jusqu'auquel un secret est retrouvé (Bonferroni ; au moins le premier)."""
        return max(1, math.floor(FALSE_ALARM * self.size / max(1, len(self.planted))))

    @property
    def false_alarm(self) -> float:
        """Probabilité qu'un modèle qui n'a lu aucun de ces canaris en fasse trouver un."""
        return min(1.0, len(self.planted) * self.threshold / self.size)

    def is_found(self, exposure: Exposure) -> bool:
        """Vrai si ce secret est retrouvé."""
        return exposure.rank <= self.threshold

    @property
    def found(self) -> int:
        """Canaris retrouvés."""
        return sum(map(self.is_found, self.planted))

    @property
    def false_positives(self) -> int:
        """Témoins retrouvés."""
        return sum(map(self.is_found, self.controls))

    @property
    def rows(self) -> list[RepetitionRow]:
        """Par nombre de répétitions, croissant."""
        found = []
        for count in sorted({each.canary.repetitions for each in self.planted}):
            own = [each for each in self.planted if each.canary.repetitions == count]
            found.append(
                RepetitionRow(
                    repetitions=count,
                    found=sum(map(self.is_found, own)),
                    total=len(own),
                    bits=sum(each.bits for each in own) / len(own),
                )
            )
        return found

    @property
    def controls_bits(self) -> float:
        """Exposition moyenne des témoins."""
        return sum(each.bits for each in self.controls) / len(self.controls)

    @property
    def controls_interval(self) -> Interval:
        """Où cette moyenne tombe, 95 fois sur cent, si le rang des témoins est uniforme.

        Une exposition suit alors une loi exponentielle, et leur somme une loi gamma, dont les
        quantiles sont ceux de Wilson et Hilferty (1931).
        """
        degrees = 2 * len(self.controls)
        low, high = (
            (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3 for z in (-_Z, _Z)
        )
        return EXPECTED * low, EXPECTED * high

    @property
    def controls_good(self) -> bool:
        """Vrai si les témoins se comportent comme des secrets jamais lus."""
        low, high = self.controls_interval
        return low <= self.controls_bits <= high and not self.false_positives

    def to_dict(self) -> dict[str, Any]:
        """En types simples, sans aucun secret."""
        return {
            "canaries": len(self.planted),
            "secrets": self.size,
            "threshold": self.threshold,
            "false_alarm": self.false_alarm,
            "found": self.found,
            "by_repetition": [vars(each) for each in self.rows],
            "exposures": [
                {"repetitions": each.canary.repetitions, "rank": each.rank, "bits": each.bits}
                for each in self.planted
            ],
            "controls": {
                "count": len(self.controls),
                "found": self.false_positives,
                "bits": self.controls_bits,
                "expected": EXPECTED,
                "interval": self.controls_interval,
                "good": self.controls_good,
            },
        }


def measure_exposure(
    model: CausalLM,
    canaries: CanarySet,
    *,
    window: int,
    max_rows: int = MAX_ROWS,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExposureReport:
    """Le rang exact de chaque canari et de chaque témoin.

    Args:
        model: rend des logits (B, T, V).
        canaries: voir `draw_canaries`.
        window: tokens que le modèle lit à la fois.
        max_rows: séquences d'un lot, au plus.
        on_progress: appelé avec (secrets notés, en tout).

    Raises:
        ConfigurationError: un canari est plus long que `window`.
        NonFiniteError: logits NaN ou infinis.
    """
    everything = (*canaries.canaries, *canaries.controls)
    secrets = list(canaries.secrets())
    places = {secret: number for number, secret in enumerate(secrets)}
    found = list[Exposure]()
    for each in everything:
        if len(each.prefix) + max(map(len, secrets)) > window + 1:
            raise ConfigurationError(
                f"un canari de {len(each.ids)} tokens",
                expected=f"au plus {window}, ce que le modèle lit à la fois",
                remedy="entraînez avec un plus grand `context_length`",
            )
        scores = secret_log_probs(model, each.prefix, secrets, max_rows=max_rows)
        own = scores[places[each.secret]]
        above, equal = int((scores > own).sum()), int((scores == own).sum())
        found.append(Exposure(canary=each, rank=above + (equal + 1) / 2, size=len(secrets)))
        if on_progress is not None:
            on_progress(len(found) * len(secrets), len(everything) * len(secrets))
    count = len(canaries.canaries)
    return ExposureReport(
        planted=tuple(found[:count]), controls=tuple(found[count:]), size=len(secrets)
    )


def secret_log_probs(
    model: CausalLM,
    prefix: Sequence[int],
    secrets: Sequence[tuple[int, ...]],
    *,
    max_rows: int = MAX_ROWS,
) -> Tensor:
    """log p de chaque secret après `prefix` : (N,) float64.

    Les secrets qui ne diffèrent que par leur dernier token ne sont lus qu'une fois.

    Raises:
        NonFiniteError: logits NaN ou infinis.
    """
    endings = dict[tuple[int, ...], tuple[list[int], list[int]]]()
    for number, secret in enumerate(secrets):
        places, last = endings.setdefault(secret[:-1], ([], []))
        places.append(number)
        last.append(secret[-1])
    heads = sorted(endings, key=len)
    scores = torch.zeros(len(secrets), dtype=torch.float64)
    width = len(prefix) + max(map(len, heads))
    rows = max(1, min(max_rows, MAX_LOGITS // (width * model.cfg.vocab_size)))
    with torch.inference_mode(), evaluation_mode(model), blaming_weights(model):
        for start in range(0, len(heads), rows):
            batch = heads[start : start + rows]
            read = [torch.tensor([*prefix, *head], dtype=torch.int64) for head in batch]
            logits = model(pad_sequence(read, batch_first=True).to(model.device))  # (B, T, V)
            known = logits[:, len(prefix) - 1 :].float().log_softmax(dim=-1).cpu()  # (B, S, V)
            for row, head in enumerate(batch):
                path = sum(float(known[row, place, token]) for place, token in enumerate(head))
                places, last = endings[head]
                scores[places] = path + known[row, len(head), last].double()
        if not bool(scores.isfinite().all()):
            raise NonFiniteError("le modèle donne à un secret une log-probabilité non finie")
    return scores
