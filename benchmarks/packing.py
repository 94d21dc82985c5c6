"""Ce que gagnent des conversations réunies par rangée, et ce que coûte de séparer des documents.

Question : combien de tokens utiles (appris) par étape et par seconde, quand chaque conversation
courte a sa rangée, ou quand plusieurs la partagent ? Et combien coûte, sur un texte suivi, une
attention qui reste dans chaque document, avec l'étape fusionnée et avec autograd ?

Les conversations ont des longueurs tirées d'une loi log-normale (médiane 60 tokens, 40 % appris).

    python benchmarks/packing.py [--quick] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _machine import announce
from _measure import Row, alternate, compare, french, write_rows

from gpt_architecture.config import ComputeConfig, GPTConfig, OptimizerConfig, TrainingConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.packing import PackedConversations
from gpt_architecture.data.sampler import WindowSampler, learned_tokens
from gpt_architecture.data.texts.conversations import ConversationTokens, EncodedConversation
from gpt_architecture.training.backends import Backend, build_backend
from gpt_architecture.training.step import Batch, TokenBatches

VOCABULARY, WINDOW, ROWS, END = 4096, 256, 8, 0


def conversations(count: int) -> list[EncodedConversation]:
    """Des conversations courtes, toujours les mêmes."""
    draws = np.random.default_rng(0)
    lengths = np.clip(np.exp(draws.normal(np.log(60), 0.6, count)), 8, WINDOW + 1).astype(int)
    return [
        EncodedConversation(
            ids=draws.integers(1, VOCABULARY, length).tolist(),
            learned=[place >= 0.6 * length for place in range(length)],
        )
        for length in lengths
    ]


def built(compute: ComputeConfig) -> Backend:
    """Un modèle de 6 blocs de 384, et son moteur."""
    torch.manual_seed(123)
    cfg = GPTConfig(
        vocab_size=VOCABULARY,
        context_length=WINDOW,
        emb_dim=384,
        n_heads=6,
        n_layers=6,
        drop_rate=0.0,
        qkv_bias=True,
        tie_weights=True,
    )
    compute = replace(compute, precision="fp32")
    return build_backend(GPTModel(cfg).train(), compute, OptimizerConfig(), TrainingConfig())


def steps_of(backend: Backend, batches: Sequence[Batch]) -> Callable[[], float]:
    """De quoi mesurer la durée moyenne d'une étape."""

    def measure() -> float:
        start = time.perf_counter()
        for batch in batches:
            backend.engine.forward_backward(batch, scale=1.0)
            backend.optimizer.step()
            backend.optimizer.zero_grad(set_to_none=True)
        return (time.perf_counter() - start) / len(batches)

    return measure


def packing(*, turns: int, steps: int) -> list[Row]:
    """Une rangée par conversation, ou plusieurs conversations par rangée."""
    talks = conversations(4000)
    candidates: dict[str, tuple[ConversationTokens, int | None]] = {
        "plusieurs par rangée": (PackedConversations(talks, WINDOW, END), END),
        "une par rangée": (ConversationTokens(talks, WINDOW, END), None),
    }
    measures = dict[str, Callable[[], float]]()
    learned = dict[str, float]()
    for name, (source, separator) in candidates.items():
        sampler = WindowSampler(
            source.num_tokens, WINDOW, stride=WINDOW + 1, batch_size=ROWS, seed=1
        )
        every = sampler.steps_per_epoch
        learned[name] = sum(
            learned_tokens(source, sampler.batch(step)[0], WINDOW) for step in range(every)
        ) / (every * ROWS * WINDOW)
        print(f"{name} : {every} étapes, {french(100 * learned[name], 1)} % des tokens appris")
        batches = TokenBatches(source, sampler, micro_batch=ROWS, separator=separator)
        measures[name] = steps_of(built(ComputeConfig()), [batches(i)[0] for i in range(steps)])
    seconds = alternate(measures, turns, retries=3)
    useful = {
        name: [learned[name] * ROWS * WINDOW / value for value in values]
        for name, values in seconds.items()
    }
    ours, *others = candidates
    return compare("Tokens appris par seconde", useful, "tokens/s", ours, others)


def masking(*, turns: int, steps: int) -> list[Row]:
    """Le même texte, documents séparés ou non, par les deux moteurs."""
    rows = list[Row]()
    for name, compute in (
        ("fusionnée", ComputeConfig()),
        ("autograd", ComputeConfig(engine="autograd")),
    ):
        measures = dict[str, Callable[[], float]]()
        for title, length in (("documents séparés", 64), ("fenêtre entière", WINDOW)):
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(VOCABULARY, (ROWS, WINDOW + 1), generator=generator)
            places = torch.arange(WINDOW).expand(ROWS, WINDOW)
            batch = Batch(
                inputs=ids[:, :-1].contiguous(),
                targets=ids[:, 1:].contiguous(),
                sequence_ids=torch.arange(ROWS),
                document_starts=None if length == WINDOW else places - places % length,
            )
            measures[title] = steps_of(built(compute), [batch] * steps)
        seconds = alternate(measures, turns, retries=3)
        speeds = {
            title: [ROWS * WINDOW / value for value in values] for title, values in seconds.items()
        }
        ours, *others = measures
        rows += compare(f"Étape {name}", speeds, "tokens/s", ours, others)
    return rows


def main() -> None:
    """Mesure, imprime les tableaux, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="deux passages, deux étapes")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    arguments = parser.parse_args()
    announce()
    size = {"turns": 2, "steps": 2} if arguments.quick else {"turns": 7, "steps": 6}
    write_rows(arguments.json, [*packing(**size), *masking(**size)])


if __name__ == "__main__":
    main()
