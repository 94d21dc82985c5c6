"""Ce qu'une requête peut demander, et combien de temps on l'attend.

Chaque borne est vérifiée avant que rien ne soit alloué.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType

from gpt_architecture.config import check_float, check_int
from gpt_architecture.serving.api_errors import ApiError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bornes du service.

    Attributes:
        body_bytes: octets d'un corps.
        header_bytes: octets des en-têtes.
        json_depth: objets et listes imbriqués.
        prompts: invites par requête.
        sequences: textes par requête (invites × n).
        max_tokens: tokens d'un texte.
        logprobs: autres tokens rendus à chaque place.
        stops: textes d'arrêt.
        provenance_tokens: tokens d'un texte dont chercher les sources.
        embedding_texts: textes d'une requête dont donner les vecteurs.
        embedding_tokens: leurs tokens, réunis.
        requests: requêtes traitées en même temps, en attente comprises.
        header_seconds: temps laissé au client pour envoyer ses en-têtes.
        body_seconds: temps qui lui est laissé pour envoyer le corps.
        request_seconds: temps laissé au moteur.
        send_seconds: temps laissé au client pour lire ce qui lui est envoyé.

    Raises:
        ConfigurationError: une borne est nulle ou négative.
    """

    body_bytes: int = 2 << 20
    header_bytes: int = 32 << 10
    json_depth: int = 32
    prompts: int = 64
    sequences: int = 64
    max_tokens: int = 4_096
    logprobs: int = 20
    stops: int = 16
    provenance_tokens: int = 1_024
    embedding_texts: int = 2_048
    embedding_tokens: int = 65_536
    requests: int = 512
    header_seconds: float = 15.0
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    send_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_seconds"):
                check_float(name, value, above=0.0)
            else:
                check_int(name, value, minimum=1)

    def check_sequences(self, prompts: int, n: int) -> None:
        """Vérifie le nombre d'invites et de textes.

        Raises:
            ApiError: 400.
        """
        if prompts > self.prompts:
            raise ApiError.invalid(
                f"la requête porte {prompts} invites : ce service n'en accepte que {self.prompts}",
                param="prompt",
            )
        if prompts * n > self.sequences:
            raise ApiError.invalid(
                f"la requête demande {prompts * n} textes (invites × n) : "
                f"ce service en accepte au plus {self.sequences}",
                param="n",
            )


def check_maximum(name: str, value: int, maximum: int) -> None:
    """Refuse une valeur trop grande.

    Raises:
        ApiError: 400, qui nomme le champ et sa borne.
    """
    if value > maximum:
        raise ApiError.invalid(
            f"{name} vaut {value} : ce service accepte au plus {maximum}", param=name
        )


class Patience:
    """Borne chaque attente d'une tâche : `with patience:`, puis `close` après la dernière.

    Comme `asyncio.timeout`, qui crée et retire un minuteur à chaque attente : une réponse en flux
    attend deux fois par token. Ici un seul sert à toutes ; sonné trop tôt, il repart.

    Args:
        seconds: durée d'une attente, au plus.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._loop = seconds, asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None  # celle qui attend
        self._end, self._cancels, self._is_over = 0.0, 0, False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._cancels = 0 if self._task is None else self._task.cancelling()
        self._end = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._end, self._ring)

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._is_over or task is None:
            return
        self._is_over = False
        if task.uncancel() <= self._cancels and kind is asyncio.CancelledError:
            raise TimeoutError from None

    def close(self) -> None:
        """Plus aucune attente ne suivra."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        if self._task is None:
            return  # personne n'attend : la prochaine attente l'armera
        if self._loop.time() < self._end:
            self._timer = self._loop.call_at(self._end, self._ring)
        else:
            self._is_over = True
            self._task.cancel()
