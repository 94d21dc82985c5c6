"""Les octets d'un flux (SSE) : des morceaux anonymes, comme OpenAI, ou des événements nommés."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from json.encoder import encode_basestring
from typing import Any, Protocol

from fastapi.sse import format_sse_event

from gpt_architecture.serving.api_errors import ApiError
from gpt_architecture.serving.openai.answers import Delta, Shape, Transcript
from gpt_architecture.serving.openai.bodies import StreamOptions

_MARK = "\0"  # un texte qu'aucun nom de modèle ne contient
_DONE = format_sse_event(data_str="[DONE]")


class EventShape(ABC):
    """La forme d'une route dont le flux nomme ses événements, par leur champ `type`."""

    @abstractmethod
    def opening(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Les événements qui ouvrent le flux ; `usage` compte l'invite."""

    @abstractmethod
    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """Ceux d'un morceau."""

    @abstractmethod
    def ending(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """Ceux qui le finissent, tous les tokens comptés."""

    @abstractmethod
    def failure(self, error: ApiError) -> list[dict[str, Any]]:
        """Ceux d'une panne, qui le finissent aussi."""

    @abstractmethod
    def whole(self, deltas: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
        """La réponse entière."""


class Stream(Protocol):
    """Ce qu'un flux écrit, dans l'ordre."""

    def opening(self) -> bytes:
        """Ce qui précède tout texte."""
        ...

    def of(self, deltas: Iterable[Delta]) -> bytes:
        """Des morceaux."""
        ...

    def ending(self) -> bytes:
        """La fin, quand tout est écrit."""
        ...

    def failure(self, error: ApiError) -> bytes:
        """La fin, après une panne."""
        ...


def stream_of(transcript: Transcript, shape: Shape | EventShape, options: StreamOptions) -> Stream:
    """Le flux d'une réponse de cette forme."""
    if isinstance(shape, EventShape):
        return EventFrames(transcript, shape)
    return Frames(transcript, shape, options)


class Frames:
    """Les octets des morceaux d'un flux.

    D'un token à l'autre, seul le texte change : ce qui l'entoure n'est écrit qu'une fois par
    séquence.

    Args:
        transcript: compte les tokens, s'il faut les dire.
        shape: forme d'un morceau.
        options: réglages du flux.
    """

    def __init__(self, transcript: Transcript, shape: Shape, options: StreamOptions) -> None:
        self._transcript, self._shape, self._options = transcript, shape, options
        self._around = dict[int, tuple[bytes, bytes]]()

    def opening(self) -> bytes:
        """Les morceaux que la forme met au début."""
        return b"".join(map(self.event, self._shape.start(self._transcript.count)))

    def of(self, deltas: Iterable[Delta]) -> bytes:
        """Les événements de ces morceaux."""
        return b"".join(map(self._one, deltas))

    def ending(self) -> bytes:
        """Le dernier morceau, s'il y en a un, et la marque de la fin."""
        usage = self._transcript.usage() if self._options.include_usage else None
        last = self._shape.closing(usage)
        return (b"" if last is None else _event(last)) + _DONE

    def failure(self, error: ApiError) -> bytes:
        """L'enveloppe de l'erreur, et la marque de la fin."""
        return _event(error.envelope()) + _DONE

    def event(self, chunk: dict[str, Any]) -> bytes:
        """Un événement, avec le compte des tokens si le client le veut."""
        if self._options.continuous_usage_stats:
            return _event({**chunk, "usage": self._transcript.usage(running=True)})
        return _event({**chunk, "usage": None} if self._options.include_usage else chunk)

    def _one(self, delta: Delta) -> bytes:
        if delta.tokens or delta.finish is not None or self._options.continuous_usage_stats:
            return self.event(self._shape.chunk(delta))
        if delta.index not in self._around:
            mark = self.event(self._shape.chunk(replace(delta, text=_MARK)))
            before, _, after = mark.partition(encode_basestring(_MARK).encode())
            self._around[delta.index] = before, after
        before, after = self._around[delta.index]
        return before + encode_basestring(delta.text).encode() + after


class EventFrames:
    """Les octets d'événements nommés.

    Args:
        transcript: compte les tokens.
        shape: fait les événements.
    """

    def __init__(self, transcript: Transcript, shape: EventShape) -> None:
        self._transcript, self._shape = transcript, shape

    def opening(self) -> bytes:
        """Voir `EventShape.opening`."""
        return _named(self._shape.opening(self._transcript.usage(running=True)))

    def of(self, deltas: Iterable[Delta]) -> bytes:
        """Les événements de ces morceaux."""
        return b"".join(_named(self._shape.events(delta)) for delta in deltas)

    def ending(self) -> bytes:
        """Voir `EventShape.ending`."""
        return _named(self._shape.ending(self._transcript.usage()))

    def failure(self, error: ApiError) -> bytes:
        """Voir `EventShape.failure`."""
        error.envelope()  # la ligne de la requête au journal en dira le motif
        return _named(self._shape.failure(error))


def _named(events: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(_event(each, name=each["type"]) for each in events)


def _event(content: dict[str, Any], *, name: str | None = None) -> bytes:
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(data_str=data, event=name)
