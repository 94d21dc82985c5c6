"""Des événements du moteur aux objets d'OpenAI, entiers ou par morceaux.

Une réponse entière est la réunion des morceaux du flux : les deux disent donc la même chose.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_architecture.decoding.sequence import FinishReason, TokenScore
from gpt_architecture.serving.context import Places, TokenNames
from gpt_architecture.serving.engine.messages import Event, Finished, Produced, PromptScored
from gpt_architecture.serving.openai.planning import Plan


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Ce qui s'ajoute à une séquence.

    Attributes:
        index: rang de la séquence.
        text: texte nouveau.
        tokens: identifiants nouveaux, si les probabilités sont demandées.
        scores: leurs probabilités ; None pour un token que rien ne précède.
        finish: pourquoi la séquence s'arrête ; None : elle continue.
        stop: le texte d'arrêt trouvé, si c'est lui.
    """

    index: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    scores: tuple[TokenScore | None, ...] = ()
    finish: FinishReason | None = None
    stop: str | None = None


@dataclass
class Answer:
    """Un texte écrit, dont on attestera (voir `receipts`).

    Attributes:
        parts: son texte, par morceaux.
        tokens: les tokens écrits ; ceux d'une invite rendue n'y sont pas.
        scores: les probabilités rendues, invite notée comprise.
        finish: pourquoi il s'arrête.
    """

    parts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    scores: list[TokenScore | None] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def text(self) -> str:
        """Le texte."""
        return "".join(self.parts)

    def record(self) -> dict[str, Any]:
        """Ce qu'un reçu en dit : tokens, taille et empreinte du texte, de ses probabilités."""
        data = self.text.encode()
        scores = [
            None if each is None else (each.token, each.logprob, each.top) for each in self.scores
        ]
        return {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "tokens": self.tokens,
            "finish_reason": self.finish,
            "logprobs": hashlib.sha256(json.dumps(scores).encode()).hexdigest() if scores else None,
        }


class Transcript:
    """Traduit les événements des séquences d'une requête, et compte leurs tokens.

    Args:
        plan: ce qui est écrit.
        echo: textes des invites, à rendre avant chaque séquence ; vide : ne pas les rendre.
        attested: garde de quoi attester de chaque texte.

    Attributes:
        answers: les textes, tels qu'ils sont rendus ; vide si rien n'en est gardé.
    """

    def __init__(self, plan: Plan, echo: Sequence[str] = (), *, attested: bool = False) -> None:
        self.plan, self._echo = plan, echo
        self.answers = [Answer() for _ in range(self.count)] if attested else []
        self._written = Counter[int]()
        self._ends, self._stops = dict[int, Finished](), dict[int, str]()

    @property
    def count(self) -> int:
        """Séquences de la réponse."""
        return len(self.plan.prompts) * self.plan.n

    def opening(self) -> list[Delta]:
        """Ce qui est connu avant tout calcul."""
        count, deltas = self.count, list[Delta]()
        if self._echo and self.plan.score_prompt is None:
            deltas = [Delta(index=index, text=self._prompt(index)) for index in range(count)]
        if not self.plan.needs_engine:
            deltas += [Delta(index=index, finish="length") for index in range(count)]
        for delta in deltas:
            self._attest(delta)
        return deltas

    def read(self, batch: Iterable[tuple[int, Event]]) -> Iterator[Delta]:
        """Les morceaux d'un paquet d'événements."""
        for delta in self._read(batch):
            self._attest(delta)
            yield delta

    def _read(self, batch: Iterable[tuple[int, Event]]) -> Iterator[Delta]:
        for index, event in batch:
            match event:
                case PromptScored(scores=scores):
                    prompt = self.plan.prompts[index // self.plan.n]
                    yield Delta(index=index, text=self._prompt(index), tokens=prompt, scores=scores)
                case Produced(piece=piece):
                    self._written[index] += piece.token is not None
                    if piece.stop is not None:
                        self._stops[index] = piece.stop
                    if self.answers and piece.token is not None:
                        self.answers[index].tokens.append(piece.token)
                    scored = piece.score is not None and piece.token is not None
                    if piece.text or scored:
                        yield Delta(
                            index=index,
                            text=piece.text,
                            tokens=(piece.token,) if scored and piece.token is not None else (),
                            scores=(piece.score,) if scored else (),
                        )
                case Finished():
                    self._ends[index] = event
                    self._written[index] = event.completion_tokens
                    finish: FinishReason = "stop" if event.reason == "stop" else "length"
                    yield Delta(index=index, finish=finish, stop=self._stops.get(index))

    def _attest(self, delta: Delta) -> None:
        """Garde ce qui est rendu, s'il faudra en attester."""
        if self.answers:
            answer = self.answers[delta.index]
            answer.parts.append(delta.text)
            answer.scores += delta.scores
            answer.finish = delta.finish or answer.finish

    def usage(self, *, running: bool = False) -> dict[str, Any]:
        """Le compte des tokens ; une invite n'est comptée qu'une fois, quel que soit `n`.

        Args:
            running: en cours de route : ce qui a été repris du cache n'est su qu'à la fin.
        """
        prompt = sum(map(len, self.plan.prompts))
        written = self._written.total()
        counts = {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
        }
        if running:
            return counts
        cached = sum(
            end.cached_tokens for index, end in self._ends.items() if index % self.plan.n == 0
        )
        return {**counts, "prompt_tokens_details": {"cached_tokens": cached}}

    def _prompt(self, index: int) -> str:
        return self._echo[index // self.plan.n] if self._echo else ""


class Shape(ABC):
    """La forme d'une route : comment s'y écrivent un morceau et une réponse."""

    def start(self, count: int) -> list[dict[str, Any]]:
        """Les morceaux qui ouvrent un flux de `count` séquences : aucun, d'ordinaire."""
        del count
        return []

    @abstractmethod
    def chunk(self, delta: Delta) -> dict[str, Any]:
        """Un morceau de flux."""

    @abstractmethod
    def closing(self, usage: dict[str, Any] | None) -> dict[str, Any] | None:
        """Le morceau qui finit un flux, avec le compte des tokens s'il est voulu ; None : aucun."""

    @abstractmethod
    def whole(self, deltas: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
        """La réponse entière."""


MakeReceipt = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Identifiant et date d'une réponse finie → son reçu."""


class _OpenAIShape(Shape):
    """Ce que les deux formes d'OpenAI ont en commun.

    Args:
        model: nom du modèle.
        names: nom des tokens.
        logprobs: rend les probabilités.
        fingerprint: nom court de ce qui répond ; None : inconnu.
        receipt: fait le reçu de la réponse, d'après son identifiant et sa date ; None : aucun.
    """

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(
        self,
        model: str,
        names: TokenNames,
        *,
        logprobs: bool,
        fingerprint: str | None = None,
        receipt: MakeReceipt | None = None,
    ) -> None:
        self._names, self._logprobs, self._receipt = names, logprobs, receipt
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def closing(self, usage: dict[str, Any] | None) -> dict[str, Any] | None:
        """Comptes et reçu, sans texte : un client d'OpenAI s'attend à `choices` vide."""
        if usage is None and self._receipt is None:
            return None
        last = {**self._head, "object": self.chunk_kind, "choices": [], "usage": usage}
        return {**last, **self._attested()}

    def _attested(self) -> dict[str, Any]:
        return {} if self._receipt is None else {"receipt": self._receipt(self._head)}

    def chunk(self, delta: Delta) -> dict[str, Any]:
        scored = [delta] if delta.tokens else []
        return self._chunk(self._choice(delta, self._piece(delta), scored))

    def whole(self, deltas: Sequence[Delta], usage: dict[str, Any]) -> dict[str, Any]:
        groups = dict[int, list[Delta]]()
        for delta in deltas:
            groups.setdefault(delta.index, []).append(delta)
        choices = [
            self._choice(group[-1], self._text("".join(delta.text for delta in group)), group)
            for _, group in sorted(groups.items())
        ]
        whole = {**self._head, "object": self.kind, "choices": choices, "usage": usage}
        return {**whole, **self._attested()}

    def _choice(
        self, last: Delta, content: dict[str, Any], scored: Sequence[Delta]
    ) -> dict[str, Any]:
        """Une séquence : son contenu, et les probabilités des morceaux qui en ont."""
        return {
            "index": last.index,
            **content,
            "logprobs": self._scores(scored) if self._logprobs and scored else None,
            "finish_reason": last.finish,
        }

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": self.chunk_kind, "choices": [choice]}

    @abstractmethod
    def _piece(self, delta: Delta) -> dict[str, Any]:
        """Le contenu d'un morceau."""

    @abstractmethod
    def _text(self, text: str) -> dict[str, Any]:
        """Celui d'une séquence entière."""

    @abstractmethod
    def _scores(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Les probabilités de leurs tokens."""

    def _top(self, score: TokenScore) -> list[tuple[int, float]]:
        return [(token, logprob) for token, logprob in score.top if token in self._names]


class CompletionShape(_OpenAIShape):
    """`/v1/completions`.

    Args:
        plan: ce qui est écrit.
        options: le reste (voir `_OpenAIShape`).
    """

    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, names: TokenNames, plan: Plan, **options: Any) -> None:
        super().__init__(model, names, **options)
        self._plan, self._places = plan, dict[int, Places]()

    def _piece(self, delta: Delta) -> dict[str, Any]:
        return self._text(delta.text)

    def _text(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def _scores(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        index = deltas[0].index
        if index not in self._places:  # une invite notée fait partie du texte
            scored = self._plan.score_prompt is not None
            prompt = () if scored else self._plan.prompts[index // self._plan.n]
            self._places[index] = self._names.places(prompt)
        places = self._places[index]
        tokens, logprobs, tops, offsets = [], [], [], []
        for delta in deltas:
            for token, score in zip(delta.tokens, delta.scores, strict=True):
                tokens.append(self._names.text(token))
                logprobs.append(None if score is None else score.logprob)
                tops.append(None if score is None else self._candidates(score))
                offsets.append(places.add(token))
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _candidates(self, score: TokenScore) -> dict[str, float]:
        """Les plus probables, et le token choisi s'il n'en est pas."""
        best = {self._names.text(token): logprob for token, logprob in self._top(score)}
        return {**best, self._names.text(score.token): score.logprob}


class ChatShape(_OpenAIShape):
    """`/v1/chat/completions`."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def start(self, count: int) -> list[dict[str, Any]]:
        """Le rôle de chaque réponse."""
        opening = {"role": "assistant", "content": ""}
        return [
            self._chunk({"index": i, "delta": opening, "logprobs": None, "finish_reason": None})
            for i in range(count)
        ]

    def _piece(self, delta: Delta) -> dict[str, Any]:
        return {"delta": {"content": delta.text} if delta.finish is None else {}}

    def _text(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text}}

    def _scores(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        content = [
            {
                **self._named(token, score.logprob),
                "top_logprobs": [self._named(*each) for each in self._top(score)],
            }
            for delta in deltas
            for token, score in zip(delta.tokens, delta.scores, strict=True)
            if score is not None
        ]
        return {"content": content}

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._names.raw(token)
        return {
            "token": self._names.text(token),
            "logprob": logprob,
            "bytes": None if raw is None else list(raw),
        }
