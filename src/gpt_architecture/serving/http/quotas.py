"""Ce qu'une clé permet : des requêtes et des tokens par minute.

Un seau par limite : il se remplit sans cesse au rythme permis et ne garde jamais plus qu'une
minute. Qui n'a rien demandé depuis une minute peut donc tout prendre d'un coup ; au long cours,
personne ne dépasse sa limite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from gpt_architecture.serving.openai.errors import ApiError

_MINUTE = 60.0


class Bucket:
    """Une réserve qui se remplit au rythme de `per_minute`.

    Args:
        per_minute: unités par minute, et contenance.
        clock: secondes qui passent.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock, self._level, self._seen = clock, float(per_minute), clock()

    def take(self, amount: int) -> float:
        """Prend `amount` unités ; si elles n'y sont pas, ne prend rien et rend l'attente (s).

        Plus que la contenance ne se demande qu'à une réserve pleine, et y laisse une dette.
        """
        now = self._clock()
        gained = (now - self._seen) * self.per_minute / _MINUTE
        self._level, self._seen = min(self._level + gained, self.per_minute), now
        missing = min(amount, self.per_minute) - self._level
        if missing > 0:
            return missing * _MINUTE / self.per_minute
        self._level -= amount
        return 0.0

    def give(self, amount: int) -> None:
        """Rend ce qui n'a pas servi ; négatif : prend ce qui a servi en plus."""
        self._level = min(self._level + amount, self.per_minute)


class Access:
    """Une clé, et ce qui lui reste.

    Args:
        name: son nom, seul montré.
        requests_per_minute: requêtes par minute ; None : sans limite.
        tokens_per_minute: tokens par minute, de début et écrits ; None : sans limite.
    """

    def __init__(
        self,
        name: str,
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        self.name = name
        self.limits = requests_per_minute, tokens_per_minute
        self._requests, self._tokens = (
            None if limit is None else Bucket(limit) for limit in self.limits
        )

    def admit(self) -> None:
        """Compte une requête.

        Raises:
            ApiError: 429.
        """
        if self._requests is not None:
            self._check(self._requests, 1, "requests", "requêtes")

    def reserve(self, tokens: int) -> int:
        """Retient ce qu'une requête peut coûter au plus ; rend combien, à donner à `settle`.

        Raises:
            ApiError: 429.
        """
        if self._tokens is None:
            return 0
        self._check(self._tokens, tokens, "tokens", "tokens")
        return tokens

    def settle(self, reserved: int, used: int) -> None:
        """La requête est finie : ne compte que ce qu'elle a coûté."""
        if self._tokens is not None:
            self._tokens.give(reserved - used)

    def _check(self, bucket: Bucket, amount: int, kind: str, unit: str) -> None:
        seconds = math.ceil(bucket.take(amount))
        if seconds:
            raise ApiError(
                429,
                f"la clé « {self.name} » permet {bucket.per_minute} {unit} par minute ; "
                f"réessayez dans {seconds} s",
                kind=kind,
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )
