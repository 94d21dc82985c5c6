"""`gpt-architecture infer` : écrire la suite d'un texte."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 infer.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

import json
import secrets
import time
from typing import Annotated

from cyclopts import Parameter

from gpt_architecture.scripts._cli import CommonOptions, default_prompt, find_model
from gpt_architecture.scripts._options import ModelChoice, Prompt, SamplingOptions


def infer(
    *,
    prompt: Prompt = None,
    sampling: SamplingOptions = SamplingOptions(),  # noqa: B008 — immuable
    choice: ModelChoice = ModelChoice(),  # noqa: B008
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Écrit la suite d'un texte, au fil de l'eau.

    Args:
        prompt: Début du texte ; « - » le lit sur l'entrée standard. Sans lui, celui de
            l'entraînement.
        as_json: Écrit un objet JSON au lieu du texte.
    """
    del common  # lues par le lanceur
    config = sampling.to_config(secrets.randbelow(2**31))

    from gpt_architecture.api import load

    gpt = load(find_model(choice.model), device=choice.device)
    text = default_prompt(prompt, gpt.metadata)
    start = time.perf_counter()
    pieces = []
    if not as_json:
        print(text, end="", flush=True)
    for piece in gpt.stream(text, config):
        pieces.append(piece)
        if not as_json:
            print(piece, end="", flush=True)
    seconds = time.perf_counter() - start
    if as_json:
        record = {
            "prompt": text,
            "completion": "".join(pieces),
            "strategy": config.strategy,
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
            "k": config.k,
            "p": config.p,
            "seed": config.seed,
            "seconds": seconds,
        }
        print(json.dumps(record, ensure_ascii=False))
        return
    print()
    if config.strategy != "greedy" and sampling.seed is None:
        print(f"(graine {config.seed} : --seed {config.seed} redonne ce texte)", file=sys.stderr)


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["infer", *sys.argv[1:]])
