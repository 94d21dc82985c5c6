"""Proposer plusieurs tokens d'avance, et les vérifier d'une seule lecture du modèle.

Avec quelques activations, un passage dure à peu près ce que dure la lecture des poids : en vérifier
plusieurs coûte à peine plus qu'en lire une. Le modèle propose donc, par une copie plus légère de
ses poids ; la suite choisit ensuite token après token, comme sans cela, et s'arrête à la première
proposition qu'elle n'a pas choisie. Ses logits étant les mêmes au bit près quel que soit ce qui est
lu ensemble, son texte l'est aussi, tirages compris.

Combien proposer dépend de ce qui a été gardé jusque-là : d'une suite tirée à haute température,
rien ne se devine, et proposer ne ferait que la ralentir.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt_architecture.serving.engine.jobs import Job

ROWS = 8
"""Activations au plus d'un pas qui propose, toutes suites réunies."""
MOST = 5
"""Propositions d'une suite seule, au plus."""

_DRAFT_COST, _ROW_COST = 0.4, 0.05
"""Durée d'une proposition, et d'une activation de plus à vérifier, en passages d'une activation."""
_KEPT, _TRIED = 4.5, 5.0  # ce qu'on suppose gardé d'une suite dont on ne sait rien
_MEMORY = 0.9  # poids de ce qui a été vu jusqu'au pas d'avant
_REST = 16  # pas sans rien proposer avant d'essayer encore

Draft = tuple[int, ...]

Propose = Callable[[Sequence[Job], int], list[list[int]]]
"""Demandes, nombre → ce que le modèle propose à la suite de chacune."""


class _Record:
    """Ce que valent les propositions faites à une suite."""

    def __init__(self) -> None:
        self._kept, self._tried, self._rested = _KEPT, _TRIED, 0

    def count(self, most: int) -> int:
        """Combien en faire, `most` au plus ; 0 : aucune cette fois."""
        share = self._kept / self._tried
        best = max(range(most + 1), key=lambda count: expected_speed(share, count))
        if best or not most:
            return best
        self._rested += 1
        return int(self._rested % _REST == 0)

    def learn(self, proposed: int, kept: int) -> None:
        """En note le sort ; ce qui suit la première refusée n'a pas été jugé."""
        self._kept = _MEMORY * self._kept + kept
        self._tried = _MEMORY * self._tried + min(kept + 1, proposed)


class Drafts:
    """Propose aux demandes qui écrivent, quand la charge le permet.

    Args:
        propose: fait proposer le modèle.
        most: propositions d'une suite par pas, au plus ; 0 : aucune.
    """

    def __init__(self, propose: Propose, most: int) -> None:
        self._propose, self._most = propose, most
        self._records = dict[int, _Record]()  # par numéro de demande

    def of(self, jobs: Sequence[Job]) -> list[Draft]:
        """Les propositions faites à chaque demande, qui toutes écrivent ; parfois aucune."""
        places = [_left(job) for job in jobs]
        # Toutes en reçoivent autant : la plus proche de sa fin borne les autres.
        room = min(ROWS // len(jobs) - 1, self._most, *(left for left in places if left))
        counts = [
            self._count(job, room) if left else 0 for job, left in zip(jobs, places, strict=True)
        ]
        chosen = [job for job, count in zip(jobs, counts, strict=True) if count]
        if not chosen:
            return [()] * len(jobs)
        found = iter(self._propose(chosen, max(counts)))
        return [tuple(next(found)[:count]) if count else () for count in counts]

    def learn(self, job: Job, proposed: int, kept: int) -> None:
        """Note combien des propositions faites à une demande ont été gardées."""
        self._records[job.id].learn(proposed, kept)

    def forget(self, job: Job) -> None:
        """La demande est finie."""
        self._records.pop(job.id, None)

    def _count(self, job: Job, room: int) -> int:
        return self._records.setdefault(job.id, _Record()).count(max(room, 0))


def _left(job: Job) -> int:
    """Tokens qu'une demande peut encore écrire après le prochain."""
    sequence = job.sequence
    return 0 if sequence is None else sequence.config.max_tokens - len(sequence.tokens) - 1


def expected_speed(share: float, count: int) -> float:
    """Tokens attendus par unité de temps, si `share` des propositions jugées sont gardées."""
    tokens = sum(share**i for i in range(count + 1))
    return tokens / (1 + count * (_DRAFT_COST + _ROW_COST))
