"""Outils des tests à plusieurs processus : torchrun, et un petit entraînement à comparer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from cli_helpers import Outcome

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.training.step import Batch

HERE = Path(__file__).resolve().parent
SEQUENCES, WINDOW, STEPS = 8, 16, 4


def small_config(*, tied=False):
    """Une forme minuscule, dans l'un des deux modes."""
    return GPTConfig(
        vocab_size=61,
        context_length=WINDOW,
        emb_dim=24,
        n_heads=3,
        n_layers=2,
        drop_rate=0.0,
        tie_weights=tied,
        qkv_bias=tied,
    )


def small_model(*, tied=False):
    """Le même modèle dans chaque processus."""
    torch.manual_seed(0)
    return GPTModel(small_config(tied=tied))


def step_batches(step, *, rank=0, size=1, micro_batch=2):
    """Les lots d'une étape pour un rang : sa part des mêmes huit séquences."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, 61, (SEQUENCES, WINDOW + 1), generator=generator)
    ids = torch.arange(SEQUENCES) + step * SEQUENCES
    share = SEQUENCES // size
    own = range(rank * share, (rank + 1) * share, micro_batch)
    return [
        Batch(
            inputs=tokens[start : start + micro_batch, :-1],
            targets=tokens[start : start + micro_batch, 1:],
            sequence_ids=ids[start : start + micro_batch],
            is_last=start == own[-1],
        )
        for start in own
    ]


def torchrun_command(*arguments, processes=2, options=()):
    """La ligne qui lance `arguments` dans plusieurs processus de cette machine."""
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), *options),
        *(str(argument) for argument in arguments),
    ]


def run_in_session(command, *, timeout, env=None, cwd=None):
    """Lance une commande dans sa session ; hors délai, la session entière est terminée.

    Le lanceur donne aux rangs une session chacun : lui seul les connaît. Son SIGTERM les arrête.
    """
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        cwd=cwd,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        raise AssertionError(f"toujours là après {timeout} s :\n{out}\n{err}") from None
    return Outcome(process.returncode, out, err)
