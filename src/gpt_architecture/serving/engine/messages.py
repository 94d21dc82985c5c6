"""Ce qu'on demande au moteur, ce qu'il en dit, et comment il le remet hors de son thread.

Prévenir la boucle HTTP la réveille aussitôt : elle prend le verrou de Python, et le moteur
attendrait qu'elle ait écrit sa réponse avant de lancer le pas suivant. Les événements d'un pas sont
donc remis ensemble, par un autre thread, pendant que le suivant calcule sans ce verrou ; ce thread
attend un instant qu'il soit lancé. Quand les pas se suivent de plus près qu'un œil ne voit, ceux de
deux ou trois partent dans le même envoi : chacun prend aux calculs une part de leurs cœurs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal, Protocol

from torch import Tensor

from gpt_architecture.config import check_float, check_int
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.decoding.config import MAX_ALTERNATIVES, GenerationConfig
from gpt_architecture.decoding.sequence import Piece, TokenScore
from gpt_architecture.errors import ConfigurationError, GPTArchitectureError

FinishedReason = Literal["stop", "length", "cancelled", "timeout"]
"""`stop` et `length` comme `decoding.sequence.FinishReason` ; abandonnée ; échéance passée."""

EngineState = Literal["starting", "ready", "draining", "dead"]
"""`starting` : les demandes attendent ; `draining` : plus aucune n'est acceptée ; `dead` : fini."""


GAP = 0.016
"""Secondes au moins entre deux envois dont rien ne presse : une image d'un écran."""

_LAUNCH = 0.001  # secondes que le moteur met à lancer un pas, à peu près
_PATIENCE = 5.0  # secondes ; une remise n'attend rien, sauf son tour


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Une séquence à écrire, un texte à noter, ou les deux.

    Attributes:
        prompt: identifiants de l'invite.
        config: comment générer ; `n` vaut 1.
        seed: remplace la graine de `config`, que plusieurs demandes peuvent ainsi partager.
        client: qui demande ; les emplacements vont d'abord à qui en tient le moins.
        deadline: instant (`time.monotonic`) après lequel la demande est abandonnée.
        score_prompt: autres tokens à rendre à chaque position de l'invite ; None : invite non
            notée.
        generate: faux : noter l'invite sans rien écrire.
        copies: séquences que la même requête HTTP fait écrire : chacune lit la même contrainte.
        observe: donne aussi les logits de chaque token écrit, avant tout filtre.
        request_id: requête HTTP d'où elle vient, pour le journal.
        adapter: l'adaptateur avec lequel le modèle la lit et l'écrit, gardé jusqu'à sa fin ; None :
            le modèle seul.

    Raises:
        ConfigurationError: invite vide, plusieurs séquences, rien à faire, ou réglage que le moteur
            ne suit pas (`beam` : ses séquences avancent autrement, par `Generator`).
    """

    prompt: tuple[int, ...]
    config: GenerationConfig = field(default_factory=GenerationConfig)
    seed: int | None = None
    client: str = ""
    deadline: float | None = None
    score_prompt: int | None = None
    generate: bool = True
    copies: int = 1
    observe: bool = False
    request_id: str = ""
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ConfigurationError(
                "l'invite ne contient aucun token",
                expected="au moins un token",
                remedy="donnez une invite",
            )
        if self.score_prompt is not None:
            check_int("score_prompt", self.score_prompt, minimum=0, maximum=MAX_ALTERNATIVES)
        elif not self.generate:
            raise ConfigurationError(
                "la demande n'écrit rien et ne note rien",
                expected="generate ou score_prompt",
                remedy="demandez l'un des deux",
            )
        if self.deadline is not None:
            check_float("deadline", self.deadline)
        if self.config.n != 1:
            raise ConfigurationError.wrong(
                "n",
                self.config.n,
                expected="un texte par demande au moteur",
                remedy="soumettez autant de demandes que de textes",
            )
        if self.config.strategy == "beam":
            raise ConfigurationError(
                "strategy vaut beam",
                expected="une autre stratégie : le moteur fait avancer les textes ensemble, token "
                "par token",
                remedy="employez la commande infer pour ce réglage",
            )

    @property
    def positions(self) -> int:
        """Positions du cache qu'elle peut demander ; le dernier token écrit n'est pas relu."""
        return len(self.prompt) + (self.config.max_tokens - 1 if self.generate else 0)


@dataclass(frozen=True, kw_only=True)
class PromptScored:
    """L'invite est notée.

    Attributes:
        scores: un par token de l'invite ; None pour le premier, que rien ne précède.
    """

    scores: tuple[TokenScore | None, ...]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Ce que le modèle dit du token qui va être écrit : ses logits bruts (V), à soi."""

    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class Produced:
    """Un token de plus."""

    piece: Piece


@dataclass(frozen=True, kw_only=True)
class Finished:
    """La demande est finie ; rien ne suit.

    Attributes:
        reason: pourquoi.
        prompt_tokens: tokens de l'invite.
        completion_tokens: tokens écrits.
        cached_tokens: tokens de l'invite trouvés dans le cache, et non recalculés.
    """

    reason: FinishedReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """La demande a échoué ; rien ne suit."""

    error: Exception


Event = PromptScored | Observed | Produced | Finished | Failed
"""Ce que reçoit `on_event` : parfois un `PromptScored`, des `Produced`, puis une fin, une seule."""

OnEvent = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Une demande acceptée.

    Attributes:
        id: son numéro.
        cancel: l'abandonne, avant le prochain token ; sans effet si elle est finie.
    """

    id: int
    cancel: Callable[[], None]


class Overloaded(GPTArchitectureError):
    """Trop de demandes attendent.

    Args:
        waiting: combien.
        retry_after: secondes après lesquelles il y aura sans doute un emplacement.
    """

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(
            f"{waiting} demandes attendent déjà",
            expected="un emplacement dans la file",
            remedy=f"réessayez dans {round(retry_after)} s",
        )
        self.retry_after = retry_after


class EngineClosed(GPTArchitectureError):
    """Le moteur n'accepte plus de demandes, ou s'est arrêté avant d'avoir fini celle-ci."""

    def __init__(self, found: str) -> None:
        super().__init__(
            found,
            expected="un moteur en marche",
            remedy="adressez-vous à un autre serveur, ou réessayez quand celui-ci aura redémarré",
        )


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Où en est le moteur.

    Attributes:
        state: son état.
        running: demandes qui avancent.
        waiting: demandes qui attendent un emplacement.
        slots: demandes qui peuvent avancer ensemble.
        kv_tokens: positions du cache occupées par ces demandes.
        kv_capacity: positions du cache en tout.
        steps: pas faits depuis le démarrage.
        prompt_tokens: tokens d'invite acceptés au calcul.
        cached_tokens: ceux d'entre eux trouvés dans le cache.
        prefix_hits: demandes dont un préfixe y était.
        completion_tokens: tokens écrits.
        drafted_tokens: tokens proposés d'avance.
        accepted_tokens: ceux d'entre eux que les séquences ont choisis.
        finished: demandes finies, par raison.
        failed: demandes échouées.
        restarts: fois où un échec du modèle a vidé tous les emplacements.
    """

    state: EngineState
    running: int
    waiting: int
    slots: int
    kv_tokens: int
    kv_capacity: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    prefix_hits: int
    completion_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    finished: Mapping[FinishedReason, int]
    failed: int
    restarts: int


Delivery = Callable[[], None]
"""Remet un événement à qui l'attend ; ne lève rien."""


class Keep(Protocol):
    """Garde une remise pour le prochain envoi, qui attend un peu si rien de gardé ne presse."""

    def __call__(self, delivery: Delivery, *, urgent: bool = True) -> None:
        """Voir `Messenger.keep`."""
        ...


class Messenger:
    """Remet, dans l'ordre, ce que le moteur a gardé. Son thread naît au premier envoi."""

    def __init__(self) -> None:
        self._kept, self._urgent, self._sent = list[Delivery](), False, 0.0
        self._queue = SimpleQueue[tuple[bool, list[Delivery]] | None]()
        self._thread: threading.Thread | None = None

    def keep(self, delivery: Delivery, *, urgent: bool = True) -> None:
        """Garde une remise ; `urgent` : le prochain envoi la fait partir aussitôt."""
        self._kept.append(delivery)
        self._urgent |= urgent

    def send(self, *, urgent: bool = False) -> None:
        """Fait remettre ce qui est gardé, s'il est temps ou si c'est urgent ; n'attend pas."""
        now = time.monotonic()
        if not self._kept or not (urgent or self._urgent or now - self._sent >= GAP):
            return
        urgent, self._urgent, self._sent = urgent or self._urgent, False, now
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="messager", daemon=True)
            self._thread.start()
        self._queue.put((urgent, self._kept))
        self._kept = []

    def settle(self) -> bool:
        """Attend que tout ce qui a été envoyé soit remis ; faux si une remise n'en finit pas."""
        if self._thread is None:
            return True
        reached = threading.Event()
        self._queue.put((True, [reached.set]))
        return reached.wait(_PATIENCE)

    def close(self) -> None:
        """Remet tout, puis arrête le thread."""
        self.send(urgent=True)
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (sent := self._queue.get()) is not None:
            urgent, deliveries = sent
            if not urgent:
                time.sleep(_LAUNCH)
            for deliver in deliveries:
                deliver()
            del sent, deliveries, deliver  # une demande finie ne tient plus rien jusqu'au suivant
