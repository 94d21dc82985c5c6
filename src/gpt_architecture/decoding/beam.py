"""Recherche en faisceau : suivre plusieurs séquences à la fois, garder les plus probables.

Mêmes règles que `generate(num_beams=…)` de Transformers. La note d'une hypothèse est la somme
de ses log-probabilités, divisée par (nombre de tokens produits, fin comprise) ** length_penalty ;
les pénalités et les interdictions s'appliquent aux log-probabilités.

Formes : R hypothèses en cours, T tokens, V vocabulaire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt_architecture.core.model import CausalLM
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.decoding.config import GenerationConfig
from gpt_architecture.decoding.driver import Driver
from gpt_architecture.decoding.pipeline import build_pipeline
from gpt_architecture.decoding.sequence import FinishReason, eos_ids
from gpt_architecture.decoding.strategies import check_logits

_CONTEXT = 5
"""Derniers tokens de l'invite relus avec le texte généré : ils donnent les espaces justes."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Une séquence trouvée par la recherche.

    Attributes:
        text: le texte généré, sans l'invite ni le texte d'arrêt.
        tokens: ses identifiants, fin de texte comprise.
        score: sa note ; plus elle est grande, meilleure est la séquence.
        finish: pourquoi elle s'arrête.
    """

    text: str
    tokens: tuple[int, ...]
    score: float
    finish: FinishReason


@dataclass(frozen=True, kw_only=True)
class _Running:
    """Une séquence en cours : ses tokens, et la somme de leurs log-probabilités."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0


def beam_search(
    model: CausalLM,
    prompt: Sequence[int],
    config: GenerationConfig,
    *,
    tokenizer: Tokenizer,
    window: int,
) -> list[Hypothesis]:
    """Les `config.n` meilleures séquences d'une invite, la meilleure d'abord.

    Un texte d'arrêt finit une hypothèse comme le ferait la fin de texte. Quand les séquences
    emplissent la fenêtre, elle avance d'un token et tout est relu.

    Args:
        model: rend des logits (B, T, V).
        prompt: identifiants de l'invite, au moins un.
        config: `beams`, `n`, `length_penalty`, `early_stopping`, les arrêts, les pénalités et
            les interdictions ; la température et les filtres de l'échantillonnage sont sans effet.
        tokenizer: celui du modèle.
        window: derniers tokens relus, au plus.

    Returns:
        `config.n` hypothèses ; moins si la contrainte n'en permet pas tant.

    Raises:
        GenerationError: logits NaN ou infinis, ou interdictions qui ne laissent aucun token.
    """
    search = _Search(model, prompt, config, tokenizer, window)
    while search.advance():
        pass
    return search.finished[: config.n]


class _Search:
    def __init__(
        self,
        model: CausalLM,
        prompt: Sequence[int],
        config: GenerationConfig,
        tokenizer: Tokenizer,
        window: int,
    ) -> None:
        self._prompt, self._config, self._tokenizer = list(prompt), config, tokenizer
        self._driver = Driver(model, window=window, capacity=len(prompt) + config.max_tokens)
        self._eos = eos_ids(config, tokenizer)
        self._stages = build_pipeline(
            config,
            prompt_length=len(prompt),
            eos_ids=self._eos,
            encode=tokenizer.encode,
            generator=torch.Generator(),  # aucun filtre du faisceau ne tire au sort
            vocab_size=model.cfg.vocab_size,
        )
        self._running = [_Running()]
        self.finished = list[Hypothesis]()  # au plus `beams`, la meilleure d'abord

    def advance(self) -> bool:
        """Un token de plus pour chaque séquence ; faux si la recherche est finie."""
        beams, running, parents = self._config.beams, list[_Running](), list[int]()
        for rank, (parent, candidate) in enumerate(self._candidates()):
            finish = self._finish(candidate.tokens)
            if finish is None:
                if len(running) < beams:
                    running.append(candidate)
                    parents.append(parent)
            elif rank < beams:  # les suivants ne sont là que pour prolonger
                self._keep(candidate, finish)
        self._running = running
        if not running or not self._can_improve():
            return False
        self._driver.select_(parents)
        return True

    def _candidates(self) -> list[tuple[int, _Running]]:
        """(rang du parent, séquence), les plus probables d'abord ; de quoi en prolonger `beams`."""
        rows = [[*self._prompt, *each.tokens] for each in self._running]
        logprobs = self._logprobs(rows)  # (R, V)
        so_far = torch.tensor([each.logprob for each in self._running], device=logprobs.device)
        total = (logprobs + so_far.unsqueeze(1)).flatten()  # (R · V)
        wanted = max(2, 1 + len(self._eos)) * self._config.beams
        values, places = total.topk(min(wanted, len(total)))
        found = list[tuple[int, _Running]]()
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            if value == -torch.inf:  # un token interdit, et tous les suivants
                break
            parent, token = divmod(place, logprobs.size(1))
            tokens = (*self._running[parent].tokens, token)
            found.append((parent, _Running(tokens=tokens, logprob=value)))
        return found

    def _logprobs(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilités (R, V) du prochain token de chaque séquence, filtres appliqués."""
        logits = torch.cat(self._driver.read(rows)).float()  # (R, V)
        check_logits(logits)
        if logits.size(1) > self._tokenizer.vocab_size:  # logits sans texte
            logits = logits.clone()
            logits[:, self._tokenizer.vocab_size :] = -torch.inf
        logprobs = torch.log_softmax(logits, dim=-1)
        token_ids = torch.tensor(rows, dtype=torch.int64, device=logprobs.device)
        for stage in self._stages:
            logprobs = stage.process(token_ids, logprobs)
        return logprobs

    def _finish(self, tokens: tuple[int, ...]) -> FinishReason | None:
        """Pourquoi la séquence s'arrête là, ou None."""
        if tokens[-1] in self._eos or self._stop_place(self._text(tokens)) is not None:
            return "stop"
        return "length" if len(tokens) >= self._config.max_tokens else None

    def _text(self, tokens: tuple[int, ...]) -> str:
        """Le texte d'une séquence, sans la fin de texte."""
        if tokens[-1] in self._eos:
            tokens = tokens[:-1]
        context = self._prompt[-_CONTEXT:]
        before = self._tokenizer.decode(context)
        return self._tokenizer.decode([*context, *tokens])[len(before) :]

    def _stop_place(self, text: str) -> int | None:
        """Où commence le premier texte d'arrêt, ou None."""
        places = (text.find(stop) for stop in self._config.stop)
        return min((place for place in places if place >= 0), default=None)

    def _keep(self, candidate: _Running, finish: FinishReason) -> None:
        """Range une suite finie parmi les `beams` meilleures."""
        text = self._text(candidate.tokens)
        self.finished.append(
            Hypothesis(
                text=text[: self._stop_place(text)],
                tokens=candidate.tokens,
                score=self._score(candidate),
                finish=finish,
            )
        )
        self.finished.sort(key=lambda each: each.score, reverse=True)
        del self.finished[self._config.beams :]

    def _score(self, candidate: _Running) -> float:
        divisor: float = len(candidate.tokens) ** self._config.length_penalty
        return candidate.logprob / divisor

    def _can_improve(self) -> bool:
        """Faux quand aucune séquence en cours ne peut plus entrer parmi les meilleures.

        Comme Transformers, la meilleure séquence en cours est notée à sa longueur présente : avec
        une `length_penalty` positive, c'est une estimation.
        """
        if len(self.finished) < self._config.beams:
            return True
        if self._config.early_stopping:
            return False
        return self._score(self._running[0]) > self.finished[-1].score
