"""La trace des filtres : pour chaque token produit, ce que chaque étape a gardé, retiré, pesé.

Un `Tracer` écoute une séquence (voir `decoding.sequence.Observer`) ; il n'y change rien. Les logits
d'un seul token sont tenus à la fois : la mémoire croît avec les candidats, pas avec le vocabulaire.

Formes : S étapes, V vocabulaire, N candidats.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import check_int
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.sequence import RAW, FinishReason, Piece, TextStream
from gpt_architecture.errors import ConfigurationError

MAX_CANDIDATES = 100
MAX_STEPS = 2_000
"""Tokens dont la trace est gardée ; les suivants sont comptés."""

_SURVIVORS = 5  # candidats d'après les filtres : sous contrainte, aucun des premiers n'en est


@dataclass(frozen=True, kw_only=True)
class StageSummary:
    """Ce qu'une étape laisse.

    Attributes:
        name: son nom ; la première est `modèle`, avant tout filtre.
        kept: tokens encore possibles.
        entropy: entropie de la distribution qui en sort, en bits.
        removed_mass: part de la distribution entrante que l'étape a retirée, dans [0, 1].
        changed: faux si elle rend les logits tels qu'elle les a reçus.
    """

    name: str
    kept: int
    entropy: float
    removed_mass: float
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Un token suivi d'étape en étape.

    Attributes:
        token: identifiant.
        text: son texte, seul.
        rank: son rang dans la distribution du modèle, à partir de 1.
        probabilities: sa probabilité après chaque étape (S) ; None : il est retiré.
        removed_by: étape qui l'a retiré ; None : il pouvait être choisi.
    """

    token: int
    text: str
    rank: int
    probabilities: tuple[float | None, ...]
    removed_by: str | None

    @property
    def raw(self) -> float:
        """Probabilité sous le modèle, avant tout filtre."""
        return self.probabilities[0] or 0.0

    @property
    def final(self) -> float:
        """Probabilité au moment du choix ; 0 s'il est retiré."""
        return self.probabilities[-1] or 0.0


@dataclass(frozen=True, kw_only=True)
class TraceStep:
    """Le choix d'un token.

    Attributes:
        position: rang du token dans la séquence, à partir de 1.
        token: identifiant choisi.
        written: ce qu'il ajoute au texte ; vide s'il n'achève pas un caractère.
        rank: son rang parmi les possibles, au moment du choix, à partir de 1.
        stages: le modèle, puis chaque filtre (S).
        candidates: les plus probables sous le modèle, ceux d'après les filtres et le token
            choisi, du plus au moins probable sous le modèle.
    """

    position: int
    token: int
    written: str
    rank: int
    stages: tuple[StageSummary, ...]
    candidates: tuple[Candidate, ...]

    @property
    def active(self) -> tuple[int, ...]:
        """Places des étapes qui ont changé quelque chose, celle du modèle comprise."""
        return tuple(place for place, stage in enumerate(self.stages) if stage.changed)

    @property
    def inert(self) -> tuple[str, ...]:
        """Noms des étapes qui n'ont rien changé."""
        return tuple(stage.name for stage in self.stages if not stage.changed)

    @property
    def chosen(self) -> Candidate:
        """Le candidat choisi."""
        return next(each for each in self.candidates if each.token == self.token)

    def to_dict(self) -> dict[str, Any]:
        """Types simples ; les candidats retirés ont des probabilités nulles (None)."""
        return {
            "position": self.position,
            "token": self.token,
            "text": self.chosen.text,
            "written": self.written,
            "draw": {"probability": self.chosen.final, "rank": self.rank},
            "raw": {"probability": self.chosen.raw, "rank": self.chosen.rank},
            "stages": [vars(each).copy() for each in self.stages],
            "candidates": [
                {**vars(each), "probabilities": list(each.probabilities)}
                for each in self.candidates
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Trace:
    """La trace d'une séquence.

    Attributes:
        prompt: l'invite.
        config: comment la séquence a été générée.
        steps: un élément par token, jusqu'à la limite du `Tracer`.
        omitted: tokens produits au-delà de cette limite.
        finish: pourquoi la séquence s'arrête ; None : elle n'a pas fini.
    """

    prompt: str
    config: GenerationConfig
    steps: tuple[TraceStep, ...]
    omitted: int
    finish: FinishReason | None

    @property
    def text(self) -> str:
        """Ce que les tokens tracés ont écrit, texte d'arrêt compris."""
        return "".join(step.written for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Un objet JSON : la configuration (ce qui diffère du défaut), puis chaque token."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "config": self.config.to_dict(),
            "finish": self.finish,
            "omitted": self.omitted,
            "steps": [step.to_dict() for step in self.steps],
        }


class Tracer:
    """Écoute une séquence et en garde la trace.

        tracer = Tracer(ids, config, tokenizer)
        for piece in tracer.follow(generator.stream(ids, config, observer=tracer.observe)):
            print(piece.text, end="")
        tracer.trace

    Args:
        prompt: identifiants de l'invite.
        config: celle de la séquence.
        tokenizer: celui du modèle.
        top: candidats suivis par token, les plus probables sous le modèle.
        limit: tokens tracés, au plus.

    Raises:
        ConfigurationError: nombre hors bornes, ou séquence dont les tokens ne sont pas choisis un
            par un (recherche en faisceau, propositions).
    """

    def __init__(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        tokenizer: Tokenizer,
        *,
        top: int = 10,
        limit: int = MAX_STEPS,
    ) -> None:
        check_int("top", top, minimum=1, maximum=MAX_CANDIDATES)
        check_int("limit", limit, minimum=1, maximum=MAX_STEPS)
        if config.strategy == "beam" or config.lookup:
            name = "beam" if config.strategy == "beam" else "lookup"
            raise ConfigurationError(
                f"la trace est demandée avec {name}",
                expected="des tokens choisis un par un",
                remedy=f"retirez {name} ou la trace",
            )
        self._config, self._tokenizer = config, tokenizer
        self._prompt, self._top, self._limit = list(prompt), top, limit
        self._text = TextStream(tokenizer.decode, self._prompt)
        self._observed = list[tuple[str, Tensor]]()
        self._steps = list[TraceStep]()
        self._omitted = 0
        self._finish: FinishReason | None = None

    @property
    def trace(self) -> Trace:
        """Ce qui est tracé jusqu'ici."""
        return Trace(
            prompt=self._tokenizer.decode(self._prompt),
            config=self._config,
            steps=tuple(self._steps),
            omitted=self._omitted,
            finish=self._finish,
        )

    def observe(self, name: str, logits: Tensor) -> None:
        """Reçoit les logits (V,) qui sortent d'une étape."""
        if name == RAW:
            self._observed.clear()
        self._observed.append((name, logits))

    def follow(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Rend les morceaux tels quels, après avoir tracé le token de chacun."""
        for piece in pieces:
            self.accept(piece)
            yield piece

    def accept(self, piece: Piece) -> None:
        """Prend note du token choisi parmi ce qui vient d'être observé."""
        self._finish = piece.finish or self._finish
        if piece.token is None or not self._observed:
            return
        observed, self._observed = self._observed, []
        if len(self._steps) == self._limit:
            self._omitted += 1
            return
        written = self._text.push(piece.token)
        if self._finish is not None:
            written += self._text.finish()
        self._steps.append(self._step(observed, piece.token, written))

    def _step(self, observed: Sequence[tuple[str, Tensor]], token: int, written: str) -> TraceStep:
        rows = torch.stack([row for _, row in observed]).float()  # (S, V)
        probabilities = rows.softmax(dim=-1)
        possible = rows > -torch.inf
        names = [name for name, _ in observed]
        ids = _candidates(rows, token, self._top)
        followed = probabilities[:, ids].T.tolist()  # (N, S)
        allowed = possible[:, ids].T.tolist()
        ranks = (rows[0] > rows[0, ids].unsqueeze(1)).sum(dim=1) + 1  # (N,)
        return TraceStep(
            position=len(self._steps) + 1,
            token=token,
            written=written,
            rank=int((rows[-1] > rows[-1, token]).sum()) + 1,
            stages=_summaries(names, rows, probabilities),
            candidates=tuple(
                Candidate(
                    token=each,
                    text=self._decode(each),
                    rank=rank,
                    probabilities=tuple(
                        p if fine else None for p, fine in zip(values, fines, strict=True)
                    ),
                    removed_by=next(
                        (name for name, fine in zip(names, fines, strict=True) if not fine), None
                    ),
                )
                for each, rank, values, fines in zip(
                    ids, ranks.tolist(), followed, allowed, strict=True
                )
            ),
        )

    def _decode(self, token: int) -> str:
        """Texte d'un token ; un logit du modèle peut n'en avoir aucun."""
        return self._tokenizer.decode([token]) if token < self._tokenizer.vocab_size else ""


def _candidates(rows: Tensor, token: int, top: int) -> list[int]:
    """Identifiants suivis, du plus au moins probable sous le modèle ; rows (S, V)."""
    before, after = rows[0], rows[-1]
    survivors = min(_SURVIVORS, top, int((after > -torch.inf).sum()))
    ids = {
        token,
        *before.topk(min(top, len(before))).indices.tolist(),
        *after.topk(survivors).indices.tolist(),
    }
    return sorted(ids, key=lambda each: (-float(before[each]), each))


def _summaries(
    names: Sequence[str], rows: Tensor, probabilities: Tensor
) -> tuple[StageSummary, ...]:
    """Résumé de chaque étape ; rows et probabilities (S, V)."""
    possible = rows > -torch.inf
    changed = (rows[:-1] != rows[1:]).any(dim=-1)  # (S − 1,)
    entropy = torch.special.entr(probabilities).sum(dim=-1) / math.log(2)  # (S,)
    removed = (probabilities[:-1] * ~possible[1:]).sum(dim=-1)  # (S − 1,)
    return tuple(
        StageSummary(name=name, kept=kept, entropy=bits, removed_mass=mass, changed=different)
        for name, kept, bits, mass, different in zip(
            names,
            possible.sum(dim=-1).tolist(),
            entropy.tolist(),
            [0.0, *removed.tolist()],
            [True, *changed.tolist()],
            strict=True,
        )
    )
