"""Mesurer en alternance, imprimer les rapports, rendre les lignes du JSON."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gpt_architecture.kernels.runtime.workspace import huge_empty

REST = 0.1  # s : les fils d'un autre moteur tournent encore un peu à vide après leur travail
TOLERATED = 0.08  # part d'un cœur prise par d'autres, au-delà de laquelle une mesure est refaite
STREAM_ROWS, STREAM_WIDTH = 2**16, 2**12  # 1 Gio : bien plus que les caches
STREAM_READS = 20

Row = dict[str, Any]
Seconds = Mapping[str, Sequence[float]]


def french(value: float, digits: int = 2) -> str:
    """Virgule décimale."""
    return f"{value:.{digits}f}".replace(".", ",")


def alternate(
    measures: Mapping[str, Callable[[], float]], turns: int, *, retries: int
) -> dict[str, list[float]]:
    """Durées (s) de chaque candidat, `turns` passages alternés dont l'ordre tourne.

    Un premier passage, d'échauffement, n'est pas compté. Une mesure pendant laquelle d'autres
    processus ont pris plus de `TOLERATED` d'un cœur est refaite, `retries` fois au plus ; la
    moins troublée est gardée.
    """
    names = list(measures)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    troubled = 0
    for turn in range(-1, turns):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value, trouble = _quietest(measures[name], retries if turn >= 0 else 0)
            if turn >= 0:
                seconds[name].append(value)
                troubled += trouble > TOLERATED
    if troubled:
        total = turns * len(names)
        print(f"attention : {troubled} mesures sur {total} troublées par d'autres processus")
    return seconds


def _quietest(measure: Callable[[], float], retries: int) -> tuple[float, float]:
    """La mesure la moins troublée : (durée, part d'un cœur prise par d'autres)."""
    found = []
    for _ in range(retries + 1):
        time.sleep(REST)
        start, others = time.perf_counter(), _time_of_others()
        value = measure()
        trouble = (_time_of_others() - others) / (time.perf_counter() - start)
        found.append((value, trouble))
        if trouble <= TOLERATED:
            break
    return min(found, key=lambda pair: pair[1])


def _time_of_others() -> float:
    """Secondes de processeur prises, depuis le démarrage, par tout sauf nous ; 0 hors de Linux."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, steal = (
        int(field) for field in path.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    )
    busy = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy - own.user - own.system - own.children_user - own.children_system


def ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Médiane des rapports passage par passage ; > 1 : nous sommes plus rapides."""
    return statistics.median(other / mine for mine, other in zip(ours, peer, strict=True))


def speed_rows(
    question: str, seconds: Seconds, ours: str, peers: Sequence[str], tokens: int
) -> list[Row]:
    """Imprime le tableau d'un candidat et de ses pairs ; rend une ligne par pair présent.

    Args:
        question: ce qui est mesuré, début du nom de chaque ligne.
        seconds: durées alternées, par candidat.
        ours: notre candidat.
        peers: les siens ; un absent est passé, il a déjà été nommé.
        tokens: tokens produits par mesure.
    """
    own = tokens / statistics.median(seconds[ours])
    print(f"{ours:<28} {french(own, 1):>8} tok/s")
    rows = []
    for peer in peers:
        if peer not in seconds:
            continue
        speed = tokens / statistics.median(seconds[peer])
        gain = ratio(seconds[ours], seconds[peer])
        print(f"{peer:<28} {french(speed, 1):>8} tok/s   ce projet : {french(gain)} ×")
        rows.append(
            {
                "name": f"{question}, {ours} contre {peer}",
                "ours": own,
                "peer": speed,
                "ratio": gain,
                "unit": "tokens/s",
            }
        )
    return rows


def lone_row(name: str, value: float, unit: str, **extra: Any) -> Row:
    """Une ligne sans pair."""
    return {"name": name, "ours": value, "peer": None, "ratio": None, "unit": unit, **extra}


class ReadStream:
    """Lit un grand tableau avec tous les fils : la borne de tout décodage à un token.

    Un produit par un vecteur, ou une somme par ligne, en grandes pages : selon la machine, l'un lit
    deux ou trois fois plus vite que l'autre (MKL n'y emploie pas AVX-512 sur un AMD). Une lecture
    seule ne dure que quelques centièmes de seconde, et la première après une pause est cinq fois
    plus lente : la durée rendue est la médiane de plusieurs, par la plus rapide des deux.
    """

    def __init__(self) -> None:
        self._matrix = huge_empty(STREAM_ROWS, STREAM_WIDTH).fill_(1.0)
        self._vector = torch.ones(STREAM_WIDTH)
        self._out = torch.empty(STREAM_ROWS)

    def __call__(self) -> float:
        """Secondes pour lire `bytes` octets."""
        return min(self._median(self._product), self._median(self._sum))

    def _product(self) -> None:
        torch.mv(self._matrix, self._vector, out=self._out)

    def _sum(self) -> None:
        torch.sum(self._matrix, 1, out=self._out)

    def _median(self, read: Callable[[], None]) -> float:
        seconds = []
        for _ in range(STREAM_READS):
            start = time.perf_counter()
            read()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)

    @property
    def bytes(self) -> int:
        """Octets lus à chaque appel."""
        return self._matrix.nbytes
