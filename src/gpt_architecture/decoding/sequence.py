"""Une séquence en cours : ses tokens, ses filtres, son tirage, son texte, et quand elle s'arrête.

Rien ici ne connaît le modèle ni les autres séquences : un lot, un serveur ou une recherche n'ont
qu'à lui donner les logits de sa prochaine position.

Formes : T tokens, V vocabulaire.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_architecture.core.machine import one_thread
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.pipeline import build_pipeline
from gpt_architecture.decoding.strategies import Mirostat, best, check_logits, draw, greedy

FinishReason = Literal["stop", "length"]
"""`stop` : fin de texte, arrêt demandé ou contrainte satisfaite ; `length` : plus de place."""

Observer = Callable[[str, Tensor], None]
"""Reçoit le nom d'une étape et les logits (V,) qui en sortent ; la première est `modèle`."""

RAW = "modèle"
"""Nom de l'étape qui précède tout filtre."""

_REPLACEMENT = "\ufffd"  # ce que rend un décodage coupé au milieu d'un caractère


class Constraint(Protocol):
    """Ce que la séquence a le droit d'écrire (voir `decoding.constraints`)."""

    def allowed(self) -> Tensor:
        """(V,) booléen : les tokens permis maintenant, fin de texte comprise."""
        ...

    def advance(self, token: int) -> None:
        """Prend note du token choisi."""
        ...

    @property
    def is_complete(self) -> bool:
        """Vrai si plus rien ne peut suivre."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    """Probabilité (log, nats) d'un token sous la distribution brute du modèle.

    Attributes:
        token: identifiant.
        logprob: log p du token.
        top: les plus probables à cette place, (identifiant, log p), du plus au moins probable.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Ce qu'une étape a produit.

    Attributes:
        text: texte devenu certain, parfois vide.
        token: identifiant produit ; None : le dernier morceau, qui rend ce qui était retenu.
        score: sa probabilité, si elle est demandée.
        finish: pourquoi la séquence s'arrête ; None : elle continue.
        stop: le texte d'arrêt trouvé ; None : aucun.
    """

    text: str
    token: int | None = None
    score: TokenScore | None = None
    finish: FinishReason | None = None
    stop: str | None = None


class Continuation:
    """Une séquence en cours d'écriture.

    Args:
        prompt: identifiants de l'invite, au moins un.
        config: comment générer.
        tokenizer: celui du modèle.
        vocab_size: logits du modèle (V), au moins ceux du tokenizer.
        device: où sont les logits.
        seed: remplace la graine de `config`.
        constraint: ce qui a le droit d'être écrit ; None : tout.

    Attributes:
        stages: les filtres, dans l'ordre.
        finish: pourquoi elle s'arrête ; None : elle continue.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        config: GenerationConfig,
        tokenizer: Tokenizer,
        *,
        vocab_size: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.prompt, self.tokens = tuple(prompt), list[int]()
        self.constraint = constraint
        self.finish: FinishReason | None = None
        self.seed = self.seed_of(config) if seed is None else seed
        self.generator = torch.Generator(device=device)
        self.generator.manual_seed(self.seed)
        self.eos_ids = eos_ids(config, tokenizer)
        self._history = _History(prompt, len(prompt) + config.max_tokens, device)
        self.stages = build_pipeline(
            config,
            prompt_length=len(prompt),
            eos_ids=self.eos_ids,
            encode=tokenizer.encode,
            generator=self.generator,
            vocab_size=vocab_size,
            allowed=None if constraint is None else constraint.allowed,
        )
        self._unknown = vocab_size - tokenizer.vocab_size  # logits sans texte, à la fin
        self._mirostat = (
            Mirostat(config.mirostat_tau, config.mirostat_eta, self.generator)
            if config.strategy == "mirostat" and config.temperature > 0
            else None
        )
        is_greedy = self._mirostat is None and not config.is_sampling
        self._is_bare = is_greedy and not self.stages and self._unknown <= 0  # le plus probable
        self._text = TextStream(tokenizer.decode, list(prompt))
        self._stop = StopMatcher(config.stop)

    @staticmethod
    def seed_of(config: GenerationConfig) -> int:
        """La graine demandée, ou une imprévisible."""
        return secrets.randbelow(2**31) if config.seed is None else config.seed

    @property
    def ids(self) -> tuple[int, ...]:
        """Les identifiants de l'invite, puis du texte généré."""
        return (*self.prompt, *self.tokens)

    def filtered(self, logits: Tensor, observer: Observer | None = None) -> Tensor:
        """Logits (V,) du modèle → logits (V,) après tous les filtres, −∞ là où c'est interdit.

        Raises:
            GenerationError: les logits ne sont pas des nombres.
        """
        check_logits(logits)
        return self._process(logits, observer)

    def _process(self, logits: Tensor, observer: Observer | None = None) -> Tensor:
        row = logits.unsqueeze(0)  # (1, V)
        if observer is not None:
            observer(RAW, logits)
        if self._unknown > 0:
            row = row.clone()
            row[:, -self._unknown :] = -torch.inf
            if observer is not None:
                observer("vocabulaire", row[0])
        for stage in self.stages:
            row = stage.process(self._history.tokens, row)
            if observer is not None:
                observer(stage.name, row[0])
        return row[0]

    def choose(self, logits: Tensor, observer: Observer | None = None) -> int:
        """Le prochain token, d'après les logits (V,) du modèle."""
        if self._is_bare and observer is None:
            return best(logits)
        with one_thread():
            return self._choose(logits, observer)

    def _choose(self, logits: Tensor, observer: Observer | None) -> int:
        row = self.filtered(logits, observer)
        if self._mirostat is not None:
            if observer is not None:
                observer("mirostat", self._mirostat.truncate(row))
            return self._mirostat.choose(row)
        if not self.config.is_sampling:
            return int(greedy(row))
        return int(draw(row.unsqueeze(0), self.generator))

    def guesser(self) -> Callable[[Tensor], int]:
        """De quoi deviner ses prochains tokens d'après des logits (V,) approchés.

        La séquence n'en change pas. Un token échantillonné l'est avec le nombre au hasard qui
        servira : dans une loi voisine, il désigne presque toujours le même. Ce qui dépend de ce qui
        est écrit entre-temps (contrainte, mirostat, XTC) n'est pas suivi.
        """
        config = self.config
        follows = self.constraint is None and not config.xtc_probability
        if not follows or self._mirostat is not None or not config.is_sampling:
            return lambda logits: int(logits.argmax())
        generator = torch.Generator(device=self.generator.device)
        generator.set_state(self.generator.get_state())

        def guess(logits: Tensor) -> int:
            try:
                with one_thread():
                    found = draw(self._process(logits).unsqueeze(0), generator)
            except Exception:  # le filtre de cette séquence : son vrai choix le dira, à elle seule
                return int(logits.argmax())
            return min(int(found), len(logits) - 1)  # un NaN désignerait au-delà

        return guess

    def accept(self, token: int, logits: Tensor | None = None) -> Piece:
        """Ajoute un token à la suite ; rend le texte devenu certain.

        Args:
            token: identifiant choisi.
            logits: (V,) d'où il vient, pour `config.logprobs`.
        """
        score = None
        if self.config.logprobs is not None and logits is not None:
            (score,) = scores_of(logits.unsqueeze(0), [token], self.config.logprobs)
        self.tokens.append(token)
        self._history.append(token)
        if self.constraint is not None:
            self.constraint.advance(token)
        if token in self.eos_ids:
            text, self.finish = self._release(), "stop"
            stop = self._stop.matched
            return Piece(text=text, token=token, score=score, finish="stop", stop=stop)
        text = self._stop.push(self._text.push(token))
        complete = self.constraint is not None and self.constraint.is_complete
        if complete or self._stop.matched is not None:
            self.finish = "stop"
        elif len(self.tokens) >= self.config.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            text += self._release()
        stop = self._stop.matched
        return Piece(text=text, token=token, score=score, finish=self.finish, stop=stop)

    def step(self, logits: Tensor, observer: Observer | None = None) -> Piece:
        """Choisit puis ajoute le prochain token."""
        return self.accept(self.choose(logits, observer), logits)

    def _release(self) -> str:
        """Ce que le décodage et les arrêts retenaient encore."""
        return self._stop.push(self._text.finish()) + self._stop.finish()


def scores_of(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Probabilité de chaque token, et de tant d'autres, sous les logits bruts (T, V) d'avant."""
    if not tokens:
        return []
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    ids = torch.tensor(tokens, device=logits.device).unsqueeze(1)
    chosen = logprobs.gather(1, ids)[:, 0].tolist()
    best: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if top:
        values, places = logprobs.topk(min(top, logprobs.size(1)), dim=-1)
        best = [
            tuple(zip(row, found, strict=True))
            for row, found in zip(places.tolist(), values.tolist(), strict=True)
        ]
    return [
        TokenScore(token=token, logprob=logprob, top=others)
        for token, logprob, others in zip(tokens, chosen, best, strict=True)
    ]


def eos_ids(config: GenerationConfig, tokenizer: Tokenizer) -> frozenset[int]:
    """Les identifiants qui arrêtent la séquence."""
    eos = () if config.ignore_eos or tokenizer.eos_id is None else (tokenizer.eos_id,)
    return frozenset((*eos, *config.stop_ids))


class TextStream:
    """Décode au fil de l'eau : rend le texte nouveau, retient l'UTF-8 incomplet.

    Un caractère peut s'étendre sur plusieurs tokens du BPE par octets : tant que le décodage
    finit par U+FFFD, rien de ce qui manque n'est rendu. Le contexte relu reste borné, si
    bien que le coût par token est constant.

    Args:
        decode: identifiants → texte.
        prompt: identifiants déjà affichés ; ils donnent les espaces justes aux tokenizers
            qui séparent les mots au décodage.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(prompt)
        self._context = max(0, len(self._tokens) - 5)  # début du contexte relu
        self._shown = len(self._tokens)  # tokens dont le texte est déjà rendu

    def push(self, token: int) -> str:
        """Ajoute un token, rend le texte devenu certain (parfois vide)."""
        self._tokens.append(token)
        text = self._pending()
        if text.endswith(_REPLACEMENT):
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return text

    def finish(self) -> str:
        """Rend ce qui était retenu, U+FFFD compris."""
        text = self._pending()
        self._context, self._shown = self._shown, len(self._tokens)
        return text

    def _pending(self) -> str:
        before = self._decode(self._tokens[self._context : self._shown])
        everything = self._decode(self._tokens[self._context :])
        return everything[len(before) :]


class StopMatcher:
    """Cherche des textes d'arrêt dans un flux, et retient ce qui pourrait en être le début.

    Args:
        stops: textes non vides ; le premier trouvé dans le flux l'emporte, le plus long à début
            égal.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = sorted(stops, key=len, reverse=True)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Ajoute du texte ; rend ce qui est certain de ne pas appartenir à un arrêt.

        Une fois un arrêt trouvé, `matched` le dit et plus rien n'est rendu.
        """
        if self.matched is not None:
            return ""
        self._held += text
        found = [(start, stop) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if found:
            start, self.matched = min(found, key=lambda pair: pair[0])
            certain, self._held = self._held[:start], ""
            return certain
        cut = len(self._held) - self._longest_beginning()
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """Rend ce qui était retenu : plus rien ne viendra l'achever."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning(self) -> int:
        """Caractères de la fin qui pourraient commencer un arrêt."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0


class _History:
    """Invite et texte généré, dans un tampon alloué d'avance."""

    def __init__(self, prompt: Sequence[int], capacity: int, device: torch.device | str) -> None:
        self._buffer = torch.empty(1, min(capacity, len(prompt) + 256), dtype=torch.int64)
        self._buffer = self._buffer.to(device)
        self._buffer[0, : len(prompt)] = torch.tensor(list(prompt), dtype=torch.int64)
        self._length, self._cells = len(prompt), self._writable()

    @property
    def tokens(self) -> Tensor:
        """(1, T) int64."""
        return self._buffer[:, : self._length]

    def append(self, token: int) -> None:
        if self._length == self._buffer.size(1):
            self._buffer = torch.cat([self._buffer, torch.empty_like(self._buffer)], dim=1)
            self._cells = self._writable()
        self._cells[self._length] = token
        self._length += 1

    def _writable(self) -> Tensor | NDArray[np.int64]:
        """(N,) les cases du tampon ; sur processeur, NumPy y écrit dix fois plus vite."""
        row = self._buffer[0]
        return row.numpy() if row.device.type == "cpu" else row
