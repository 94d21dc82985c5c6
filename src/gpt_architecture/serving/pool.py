"""Les autres modèles d'un service : chargés à la première demande, dans une mémoire bornée.

Quand la place manque, celui dont l'emploi est le plus ancien est rendu, s'il ne répond à personne.
Un modèle qui ne se charge pas est dit à qui le demande, et laisse les autres servir ; il n'est relu
que si son fichier a changé, ou au bout d'un moment.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Literal

from gpt_architecture.errors import (
    ConfigurationError,
    GPTArchitectureError,
    ModelFileError,
    reason,
)
from gpt_architecture.french import french_size
from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.context import ServingContext
from gpt_architecture.serving.http.access import current

logger = logging.getLogger(__name__)

Load = Callable[[str], ServingContext]
"""Charge le modèle de ce nom et démarre son moteur."""

RETRY_S = 60.0
"""Secondes au bout desquelles un modèle qui ne s'est pas chargé est relu, même inchangé : la cause
peut être ailleurs, comme la mémoire."""


@dataclass(frozen=True, kw_only=True)
class Lodger:
    """Ce qu'on sait d'un modèle avant de le charger.

    Attributes:
        size: octets qu'il prendra.
        window: positions de son contexte.
    """

    size: int
    window: int


ModelState = Literal["loaded", "idle", "failed"]
"""Chargé ; à charger à la prochaine demande ; sa dernière lecture a échoué."""


class ModelPool:
    """Les modèles qu'un service charge et rend, un à la fois.

    Args:
        names: leurs noms.
        measure: dit ce qu'on sait de l'un d'eux sans le charger.
        load: le charge.
        mark: ce à quoi se voit qu'un modèle a changé, comme la taille et la date de son fichier.
            Tous trois sont appelés hors de la boucle HTTP.
        resident: octets que prend le modèle toujours chargé.
        limit: octets au plus, lui compris ; None : pas de borne.

    Attributes:
        lodgers: ce qu'on sait de chacun ; rien encore de celui qui est illisible.
        on_unload: reçoit le nom de celui qui est rendu.

    Raises:
        ConfigurationError: l'un d'eux ne tiendrait jamais à côté du modèle toujours chargé.
    """

    def __init__(
        self,
        names: Iterable[str],
        measure: Callable[[str], Lodger],
        load: Load,
        *,
        mark: Callable[[str], object] = lambda _name: None,
        resident: int = 0,
        limit: int | None = None,
    ) -> None:
        self.on_unload: Callable[[str], None] = lambda _name: None
        self.lodgers = dict[str, Lodger | None]()
        self._measure, self._load, self._mark = measure, load, mark
        self._resident, self._limit = resident, limit
        self._loaded = dict[str, ServingContext]()
        self._failed = dict[str, tuple[object, float]]()  # marque d'alors, et quand
        self._leases, self._used, self._clock = Counter[str](), Counter[str](), count(1)
        self._turn = asyncio.Lock()
        for name in names:
            self.lodgers[name], found = None, mark(name)
            try:
                self.lodgers[name] = self._fitting(name)
            except ModelFileError as error:
                self._fail(name, found, error)

    @property
    def states(self) -> dict[str, ModelState]:
        """Où en est chacun, par nom."""
        return {
            name: "loaded" if name in self._loaded else self._waiting(name) for name in self.lodgers
        }

    @property
    def loaded(self) -> Mapping[str, ServingContext]:
        """Ceux qui le sont."""
        return self._loaded

    async def open(self, name: str) -> ServingContext:
        """Celui de ce nom, chargé s'il le faut, et gardé jusqu'à la fin de la requête en cours.

        Raises:
            KeyError: il n'y est pas.
            ApiError: 503, il ne se charge pas, ou les autres répondent et prennent toute la place.
        """
        if name not in self.lodgers:
            raise KeyError(name)
        while not self._answers(name):
            await self._check_failure(name)  # sans attendre qu'un autre soit chargé
            async with self._turn:
                if self._answers(name):
                    continue
                if name in self._loaded:  # son moteur est mort : il se recharge
                    await self._unload(name)
                await self._enter(name)
        self._leases[name] += 1
        self._used[name] = next(self._clock)
        current().at_end.append(partial(self._release, name))
        return self._loaded[name]

    def close(self) -> None:
        """Arrête tous leurs moteurs."""
        while self._loaded:
            self._loaded.popitem()[1].engine.stop()

    def _waiting(self, name: str) -> ModelState:
        return "failed" if name in self._failed else "idle"

    def _answers(self, name: str) -> bool:
        found = self._loaded.get(name)
        return found is not None and found.engine.state != "dead"

    def _release(self, name: str) -> None:
        self._leases[name] -= 1

    def _fitting(self, name: str) -> Lodger:
        """Ce qu'on sait d'un modèle, s'il peut tenir dans la borne."""
        found = self._measure(name)
        if self._limit is not None and self._resident + found.size > self._limit:
            raise ConfigurationError(
                f"« {name} » prend {french_size(found.size)}, et le modèle toujours chargé "
                f"{french_size(self._resident)}",
                expected=f"{french_size(self._limit)} au plus ensemble",
                remedy="augmentez `max_memory`, réduisez `slots`, ou quantifiez-le",
            )
        return found

    async def _enter(self, name: str) -> None:
        """Charge un modèle, la place faite.

        Raises:
            ApiError: 503.
        """
        mark = await self._check_failure(name)
        try:
            known = self.lodgers[name]
            if known is None or name in self._failed:  # réparé, il n'a plus forcément sa taille
                known = await asyncio.to_thread(self._fitting, name)
                self.lodgers[name] = known
            await self._make_room(name, known.size)
            self._loaded[name] = await asyncio.to_thread(self._load, name)
        except ApiError:
            raise
        except Exception as error:
            self._fail(name, mark, error)
            raise _not_loaded(name) from None
        self._failed.pop(name, None)
        logger.info("Modèle « %s » chargé.", name)

    async def _check_failure(self, name: str) -> object:
        """La marque d'un modèle, si le relire peut servir.

        Raises:
            ApiError: 503, il vient d'échouer, et n'a pas changé.
        """
        mark, failed = await asyncio.to_thread(self._mark, name), self._failed.get(name)
        if failed is not None and failed[0] == mark and time.monotonic() < failed[1] + RETRY_S:
            raise _not_loaded(name)
        return mark

    def _fail(self, name: str, mark: object, error: Exception) -> None:
        self._failed[name] = mark, time.monotonic()
        told = error if isinstance(error, GPTArchitectureError) else reason(error)
        logger.error("le modèle « %s » ne se charge pas : %s", name, told)

    async def _make_room(self, name: str, size: int) -> None:
        while self._limit is not None:
            lodgers = (self.lodgers[each] for each in self._loaded)
            taken = self._resident + sum(each.size for each in lodgers if each is not None)
            if taken + size <= self._limit:
                return
            idle = [each for each in self._loaded if not self._leases[each]]
            if not idle:
                raise ApiError.unavailable(
                    f"« {name} » ne peut pas être chargé maintenant : les modèles qui répondent "
                    "prennent toute la mémoire permise",
                    code="models_busy",
                )
            await self._unload(min(idle, key=self._used.__getitem__))

    async def _unload(self, name: str) -> None:
        self.on_unload(name)
        engine = self._loaded.pop(name).engine
        await asyncio.to_thread(engine.stop)
        del engine
        gc.collect()
        logger.info("Modèle « %s » rendu.", name)


def _not_loaded(name: str) -> ApiError:
    return ApiError.unavailable(
        f"le modèle « {name} » ne se charge pas ; le journal du service dit pourquoi",
        code="model_not_loaded",
    )
