"""Les adaptateurs d'un modèle servi : leurs noms, leurs bornes, ceux qu'on ajoute et qu'on retire.

Un adaptateur retiré n'est plus proposé ; une réponse en cours le garde jusqu'à sa fin. Un chemin
que donne une requête n'est cherché que dans un dossier choisi au lancement.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

from gpt_architecture.config import check_int
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.french import counted

_NAME = re.compile(r"[A-Za-z0-9][\w.:-]{0,63}", re.ASCII)
_SPARE_BYTES = 1 << 20  # en-têtes et réglages d'un fichier

ReadAdapter = Callable[[Path], tuple[Adapter, Mapping[str, Any]]]
"""D'un fichier ou d'un dossier, l'adaptateur du modèle servi et ses métadonnées."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedAdapter:
    """Un adaptateur qu'un client peut demander.

    Attributes:
        name: son nom, comme celui d'un modèle.
        adapter: ce qui calcule.
        metadata: ce que son fichier dit de lui, gabarit de conversation compris.
        created: date de mise en service, en secondes depuis 1970.
    """

    name: str
    adapter: Adapter
    metadata: Mapping[str, Any]
    created: int = field(default_factory=lambda: int(time.time()))


class AdapterShelf:
    """Les adaptateurs d'un modèle, ajoutés et retirés de n'importe quel thread.

    Args:
        read: lit un adaptateur.
        rank_bytes: octets que prend, par rang, un adaptateur de toutes les matrices du modèle.
        taken: noms qui ne sont plus libres.
        folder: seul dossier où chercher ce que demande une requête ; None : elle n'en ajoute pas.
        most: adaptateurs en mémoire, au plus, retirés mais encore employés compris.
        most_rank: rang de chacun, au plus.

    Raises:
        ConfigurationError: réglage hors bornes, ou `folder` n'est pas un dossier.
    """

    def __init__(
        self,
        read: ReadAdapter,
        *,
        rank_bytes: int,
        taken: tuple[str, ...] = (),
        folder: Path | str | None = None,
        most: int = 16,
        most_rank: int = 64,
    ) -> None:
        check_int("`max_adapters`", most, minimum=1, maximum=1024)
        check_int("`max_adapter_rank`", most_rank, minimum=1, maximum=4096)
        self.folder = None if folder is None else Path(folder).resolve()
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigurationError(
                f"{folder} n'est pas un dossier",
                expected="le dossier où une requête peut prendre un adaptateur",
                remedy="créez-le, ou corrigez `adapters_dir`",
            )
        self._read, self._taken, self._most, self._most_rank = read, taken, most, most_rank
        self._most_bytes = 3 * rank_bytes * most_rank + _SPARE_BYTES  # PEFT réunit Q, K et V
        self._served: Mapping[str, ServedAdapter] = {}  # remplacé d'un coup : qui lit n'attend pas
        self._alive = WeakSet[Adapter]()
        self._changing = threading.Lock()

    @property
    def served(self) -> Mapping[str, ServedAdapter]:
        """Ceux que les clients peuvent demander, par nom."""
        return self._served

    def add(self, name: str, path: Path | str) -> ServedAdapter:
        """Ajoute un adaptateur, dont le chemin est sûr.

        Raises:
            ConfigurationError: nom impossible ou pris, trop d'adaptateurs, ou rang trop grand.
            ModelFileError: ce n'en est pas un, ou pas un de ce modèle.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"« {name[:100]} » ne peut pas nommer un adaptateur",
                expected="au plus 64 lettres sans accent, chiffres, points, tirets ou deux-points",
                remedy="donnez-lui un autre nom",
            )
        with self._changing:
            self._check_room(name)
            adapter, metadata = self._read(Path(path))
            if adapter.rank > self._most_rank:
                raise ConfigurationError(
                    f"l'adaptateur « {name} » est de rang {adapter.rank}",
                    expected=f"un rang de {self._most_rank} au plus",
                    remedy="augmentez `max_adapter_rank`, ou fondez-le dans son modèle",
                )
            found = ServedAdapter(name=name, adapter=adapter, metadata=metadata)
            self._alive.add(adapter)
            self._served = {**self._served, name: found}
        return found

    def load(self, name: str, path: str) -> ServedAdapter:
        """Ajoute l'adaptateur que demande une requête ; rien n'est lu hors du dossier permis.

        Args:
            name: son nom.
            path: où il est, depuis ce dossier.

        Raises:
            ConfigurationError: voir `add` ; ou le chemin est ailleurs, absent, ou trop gros.
            ModelFileError: voir `add` ; l'erreur ne nomme que ce que la requête a nommé.
        """
        target = self._inside(path)
        files = [target] if target.is_file() else target.glob("*.safetensors")
        size = sum(each.stat().st_size for each in files if each.is_file())
        if size > self._most_bytes:
            raise ConfigurationError(
                f"« {path[:200]} » compte {size} octets",
                expected=f"{self._most_bytes} au plus, ce que prend un rang de {self._most_rank}",
                remedy="donnez un adaptateur de moindre rang",
            )
        try:
            return self.add(name, target)
        except (ConfigurationError, ModelFileError) as error:
            parts = (error.found, error.expected, error.remedy)
            found, expected, remedy = (each.replace(str(target), path) for each in parts)
            raise type(error)(found, expected=expected, remedy=remedy) from None

    def remove(self, name: str) -> ServedAdapter | None:
        """Ne le propose plus ; rend ce qu'il était, None s'il n'y est pas."""
        with self._changing:
            found = self._served.get(name)
            self._served = {known: each for known, each in self._served.items() if known != name}
        return found

    def _check_room(self, name: str) -> None:
        if name in self._served or name in self._taken:
            raise ConfigurationError(
                f"« {name} » est déjà servi",
                expected="un nom libre",
                remedy="donnez-lui un autre nom, ou retirez d'abord l'adaptateur qui l'a",
            )
        alive = len(self._alive)
        if alive >= self._most:
            retired = alive - len(self._served)
            told = f", dont {retired} que des réponses finissent d'employer" if retired else ""
            raise ConfigurationError(
                f"{counted(alive, 'adaptateur')} en mémoire{told}",
                expected=f"{self._most} au plus",
                remedy="retirez-en un, ou augmentez `max_adapters`",
            )

    def _inside(self, path: str) -> Path:
        """Le fichier ou le dossier que désigne un chemin reçu."""
        folder = self.folder
        if folder is None:
            raise ConfigurationError(
                "ce service n'a pas de dossier d'adaptateurs",
                expected="un dossier choisi au lancement",
                remedy="relancez-le avec `adapters_dir`",
            )
        try:
            target = (folder / path).resolve()
            is_known = target != folder and target.is_relative_to(folder) and target.exists()
        except (OSError, RuntimeError, ValueError):  # nom trop long, boucle de liens, octet nul
            is_known = False
        if not is_known:
            raise ConfigurationError(
                f"« {path[:200]} » n'est pas dans le dossier d'adaptateurs de ce service",
                expected="un fichier ou un dossier qui s'y trouve, nommé depuis lui",
                remedy="copiez-y l'adaptateur, ou corrigez ce chemin",
            )
        return target
