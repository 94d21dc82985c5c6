"""Plusieurs processus sur un même entraînement : le groupe de `torch.distributed`.

Les processus sont lancés par torchrun, qui leur dit qui ils sont par l'environnement. Aucun
n'attend sans borne : chaque échange a un délai, et un chien de garde veille entre deux échanges.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.core.machine import resolve_device
from gpt_architecture.errors import ConfigurationError, TrainingError
from gpt_architecture.french import counted
from gpt_architecture.training.distributed.world import World

_PATIENCE = 1.5  # un rang bloqué s'arrête après ceux qui l'attendent, jamais avant
_SIGNS = ("gloo", "nccl", "connection", "timed out", "broken pipe", "socket")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """La place d'un processus, telle que torchrun la donne.

    Attributes:
        rank: rang parmi tous les processus.
        size: nombre de processus.
        local_rank: rang parmi ceux du même hôte.
        local_size: nombre de processus de cet hôte.

    Raises:
        ConfigurationError: une valeur est hors bornes.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def __post_init__(self) -> None:
        check_int("WORLD_SIZE", self.size, minimum=1)
        check_int("RANK", self.rank, minimum=0, maximum=self.size - 1)
        check_int("LOCAL_WORLD_SIZE", self.local_size, minimum=1, maximum=self.size)
        check_int("LOCAL_RANK", self.local_rank, minimum=0, maximum=self.local_size - 1)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Place:
        """Lit les variables de torchrun.

        Raises:
            ConfigurationError: une variable manque ou n'est pas un entier.
        """
        values = os.environ if environment is None else environment
        size = _number(values, "WORLD_SIZE")
        return cls(
            rank=_number(values, "RANK"),
            size=size,
            local_rank=_number(values, "LOCAL_RANK"),
            local_size=_number(values, "LOCAL_WORLD_SIZE", size),
        )


class DistributedWorld(World):
    """Les processus d'un groupe ; chaque opération collective fait battre le chien de garde."""

    device: torch.device

    def __init__(
        self, place: Place, device: torch.device, timeout: timedelta, watchdog: Watchdog
    ) -> None:
        self.place = place
        self.rank = place.rank
        self.size = place.size
        self.is_main = place.rank == 0
        self.device = device
        self.timeout = timeout
        self._watchdog = watchdog

    def beat(self) -> None:
        """Dit au chien de garde que ce processus avance."""
        self._watchdog.beat()

    def sum(self, value: Tensor) -> Tensor:
        """Voir `World.sum`."""
        self.beat()
        total = value.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(value.device)

    def mean(self, value: Tensor) -> Tensor:
        """Voir `World.mean`."""
        return self.sum(value) / self.size

    def any(self, flag: bool) -> bool:
        """Voir `World.any`."""
        self.beat()
        found = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return bool(found.item())

    def broadcast(self, value: Tensor, source: int = 0) -> Tensor:
        """Le tenseur du rang `source`, rendu à tous ; forme et type sont ceux de `value`."""
        self.beat()
        sent = value.detach().to(self.device, copy=True).contiguous()
        dist.broadcast(sent, src=source)
        return sent.to(value.device)

    def whole(self, value: Tensor) -> Tensor:
        """Voir `World.whole`."""
        return value.full_tensor() if isinstance(value, DTensor) else value

    def barrier(self) -> None:
        """Attend tous les rangs."""
        self.any(False)  # dist.barrier n'a pas de délai propre sur tous les moteurs


@contextmanager
def distributed_world(timeout_s: float, *, device: str = "auto") -> Iterator[DistributedWorld]:
    """Rejoint le groupe que torchrun décrit, et le quitte en ordre.

    Args:
        timeout_s: secondes laissées à chaque échange, et au rendez-vous ; plus que la plus longue
            étape ou évaluation.
        device: `auto`, `cpu` ou `cuda` ; sur CUDA, chaque rang prend la carte de son numéro local.

    Raises:
        ConfigurationError: hors de torchrun, ou moins de cartes que de rangs.
        TrainingError: un autre processus a disparu ou n'a pas répondu à temps.
    """
    check_float("timeout_s", timeout_s, above=0.0)
    place = Place.from_environment()
    chosen = _device_of(place, device)
    timeout = timedelta(seconds=timeout_s)
    name = f"le processus {place.rank} (sur {place.size})"
    with Watchdog(timeout_s * _PATIENCE, name=name) as watchdog:
        try:
            dist.init_process_group(
                # gloo reste présent à côté de nccl : les points de reprise échangent sur CPU.
                "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
                timeout=timeout,
                device_id=chosen if chosen.type == "cuda" else None,
            )
            world = DistributedWorld(place, chosen, timeout, watchdog)
            yield world
            # Sans ce rendez-vous, gloo coupe des échanges que d'autres n'ont pas finis.
            world.barrier()
        except RuntimeError as error:
            if not is_lost_peer(error):
                raise
            logger.debug("échange interrompu", exc_info=error)
            raise TrainingError(
                f"un autre processus a disparu ou n'a pas répondu en {_seconds(timeout_s)} s",
                expected=f"{place.size} processus qui avancent ensemble",
                remedy="voyez ce qu'a dit le premier arrêté, puis reprenez l'entraînement",
            ) from error
        finally:
            if dist.is_initialized():  # sans quoi les threads de gloo feraient avorter la sortie
                dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Vrai si l'erreur dit un échange rompu ou hors délai, et non un calcul faux."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return type(error) is RuntimeError and any(sign in text for sign in _SIGNS)


def _number(values: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = values.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ConfigurationError.wrong(
            f"la variable {name}",
            text,
            expected="l'environnement que torchrun donne à chaque processus",
            remedy="lancez par torchrun, ou par « gpt-architecture train --launch N »",
        ) from None


def _device_of(place: Place, name: str) -> torch.device:
    device = resolve_device(name)
    if device.type == "mps":
        device = torch.device("cpu")  # aucun moteur d'échange ne parle à mps
    if device.type != "cuda":
        return device
    if place.local_rank >= torch.cuda.device_count():
        raise ConfigurationError(
            f"{place.local_size} processus pour {counted(torch.cuda.device_count(), 'carte')} CUDA",
            expected="une carte par processus",
            remedy="réduisez le nombre de processus ou choisissez `device=cpu`",
        )
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _seconds(value: float) -> str:
    return f"{value:g}".replace(".", ",")


class Watchdog:
    """Termine le processus si `beat` n'est pas appelé pendant `timeout_s`.

    Une opération collective qui attend a déjà son propre délai ; un processus bloqué ailleurs
    (un disque réseau muet, un interblocage) n'en a pas, et personne sur un autre hôte ne peut
    le terminer. Le thread de garde écrit une ligne et la pile de chaque thread, puis sort.

    Args:
        timeout_s: secondes permises entre deux battements.
        name: le processus, tel qu'il se présente (« le processus 1 sur 2 »).
        on_expiry: ce qui termine le processus ; par défaut, une sortie immédiate en échec.

    Raises:
        ConfigurationError: `timeout_s` n'est pas un nombre strictement positif.
    """

    def __init__(
        self, timeout_s: float, *, name: str, on_expiry: Callable[[str], None] | None = None
    ) -> None:
        check_float("timeout_s", timeout_s, above=0.0)
        self._timeout_s = timeout_s
        self._name = name
        self._on_expiry = _leave if on_expiry is None else on_expiry
        self._deadline = time.monotonic() + timeout_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="chien de garde", daemon=True)

    def beat(self) -> None:
        """Le travail avance : le délai repart."""
        self._deadline = time.monotonic() + self._timeout_s

    def __enter__(self) -> Watchdog:
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            if self._stopped.wait(left):
                return
        seconds = _seconds(self._timeout_s)
        self._on_expiry(f"erreur : {self._name} n'avance plus depuis {seconds} s ; il s'arrête.\n")


def _leave(message: str) -> None:
    # Ni logging ni print : le thread bloqué tient peut-être leur verrou.
    os.write(2, message.encode())
    faulthandler.dump_traceback(sys.__stderr__ or 2)
    os._exit(1)
