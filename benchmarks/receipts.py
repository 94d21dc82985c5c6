"""Les reçus d'un service : combien se rejouent octet pour octet, et ce qu'ils coûtent.

Deux questions. Le rejeu : des reçus pris sous charge (fp32 avec propositions, int8, int4 ; flux ou
non, n, contraintes, arrêts, probabilités, cache de préfixes, clients qui s'en vont, redémarrages à
d'autres réglages), combien sont refaits à l'identique par un moteur d'un texte à la fois, et
attestent des octets que le client a lus ? Le coût : que dure l'empreinte de GPT-124M, et
que prend un reçu à une réponse ?

    python benchmarks/receipts.py [--quick] [--count N] [--only QUESTION] [--json FICHIER]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from _machine import announce
from _measure import Row, french, write_rows

from gpt_architecture import GPT, GPTConfig, GPTModel, get_tokenizer, serve
from gpt_architecture.api.identity import identity_of
from gpt_architecture.api.loading import runner_of
from gpt_architecture.api.receipts import replayed, replaying
from gpt_architecture.serving.openai.receipts import Receipt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

RESTARTS: tuple[dict[str, Any], ...] = (
    {},
    {"slots": 3, "drafts": 2},
    {"slots": 16},
    {"slots": 1, "drafts": 0},
)
"""Réglages d'un service et des suivants : aucun ne doit changer un octet."""


def replays(options: argparse.Namespace) -> list[Row]:
    """Des reçus pris sous charge, puis rejoués un à un."""
    helpers = import_module("receipt_helpers")
    rows, everything, total = list[Row](), Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.build(Path(folder))
        for kind in helpers.KINDS:
            gpt, pairs, left = helpers.loaded(path, kind), list[Any](), 0
            want = -(-options.count // len(helpers.KINDS))
            start = time.perf_counter()
            for number, settings in enumerate(RESTARTS):
                share = want * (number + 1) // len(RESTARTS) - want * number // len(RESTARTS)
                with serve(gpt, api_keys=[helpers.KEY], max_waiting=256, **settings) as service:
                    seed = f"{options.seed}-{kind}-{number}"
                    taken = helpers.take(service.url, share, seed=seed, clients=24)
                pairs += taken.pairs
                left += taken.cancelled
            served = time.perf_counter() - start
            start, equal = time.perf_counter(), 0
            with replaying(gpt) as context:
                for body, texts, receipt in pairs:
                    found = replayed(context, Receipt.of(receipt))
                    if (
                        found.same
                        and list(found.texts) == texts
                        and helpers.attests(texts, receipt)
                    ):
                        equal += 1
                    else:
                        print(f"différent : {body}\n  {found.lines}")
                    everything.update(_kinds(body))
            texts_count = sum(len(texts) for _, texts, _ in pairs)
            print(
                f"{kind} : {equal} reçus rejoués à l'identique sur {len(pairs)} "
                f"({texts_count} textes, {left} clients partis au milieu ; servis en "
                f"{french(served, 0)} s, rejoués en {french(time.perf_counter() - start, 0)} s)"
            )
            total += equal
            rows.append({"name": f"reçus {kind}", "ours": equal / len(pairs), "unit": "part"})
    print("dont : " + ", ".join(f"{name} {count}" for name, count in sorted(everything.items())))
    print(f"en tout : {total} rejoués à l'identique")
    return [*rows, {"name": "reçus rejoués", "ours": total, "unit": "reçus"}]


def _kinds(body: dict[str, Any]) -> list[str]:
    """Ce qu'une requête a de particulier."""
    constraints = ("regex", "choices", "json_schema", "response_format", "structured_outputs")
    told = {
        "flux": body.get("stream"),
        "n > 1": body.get("n", 1) > 1,
        "conversations": "messages" in body,
        "plusieurs invites": isinstance(body.get("prompt"), list),
        "contraintes": any(name in body for name in constraints),
        "arrêts": "stop" in body or "stop_token_ids" in body,
        "probabilités": body.get("logprobs") not in (None, False),
        "pénalités": any(name.endswith("penalty") for name in body),
        "graine tirée": "seed" not in body,
        "propositions lues": "lookup" in body,
        "glouton": body.get("temperature") == 0,
    }
    return [name for name, found in told.items() if found]


def cost(options: argparse.Namespace) -> list[Row]:
    """L'empreinte de GPT-124M, et le temps qu'un reçu prend à une réponse."""
    torch.manual_seed(0)
    tokenizer = get_tokenizer("gpt2")
    model = GPTModel(GPTConfig()).eval()
    cpu, rows = torch.device("cpu"), list[Row]()
    for quant in (None, "int8", "int4"):
        runner = runner_of(model, cpu, quant, "auto") or model
        gpt = GPT(model=model, tokenizer=tokenizer, device=cpu, metadata={}, runner=runner)
        found = [_seconds(lambda g=gpt, r=runner: identity_of(g, r)) for _ in range(5)]
        name = f"empreinte, GPT-124M en mode livre, {quant or 'fp32'}"
        print(
            f"{name} : {french(statistics.median(found), 3)} s (la première {french(found[0])} s)"
        )
        rows.append({"name": name, "ours": statistics.median(found), "unit": "s"})
    helpers = import_module("receipt_helpers")
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.build(Path(folder))
        with serve(helpers.loaded(path, "fp32"), api_keys=[helpers.KEY]) as service:
            body = {"prompt": "Le passeur", "max_tokens": 1, "seed": 1}
            times = {True: list[float](), False: list[float]()}
            for turn in range(50 if options.quick else 500):
                for wanted in (True, False) if turn % 2 else (False, True):
                    asked = {**body, "receipt": wanted}
                    times[wanted].append(_seconds(lambda b=asked: _post(service.url, b)))
    medians = {wanted: statistics.median(each) * 1000 for wanted, each in times.items()}
    extra = medians[True] - medians[False]
    print(f"un reçu : {french(extra, 2)} ms de plus sur {french(medians[False], 2)} ms")
    return [*rows, {"name": "un reçu", "ours": extra, "unit": "ms"}]


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _post(url: str, body: dict[str, Any]) -> None:
    key = import_module("receipt_helpers").KEY
    headers = {"Authorization": f"Bearer {key}"}
    answer = import_module("http_helpers").post(url, "/v1/completions", body, headers=headers)
    assert answer.status_code == 200


QUESTIONS = {"rejeu": replays, "coût": cost}


def main() -> None:
    """Mesure, imprime, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--count", type=int, help="reçus à prendre (3 000 ; 90 avec --quick)")
    parser.add_argument("--seed", type=int, default=0, help="graine des requêtes")
    parser.add_argument("--only", choices=list(QUESTIONS), help="une seule question")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    options = parser.parse_args()
    options.count = options.count or (90 if options.quick else 3000)
    announce()
    rows = list[Row]()
    for name, ask in QUESTIONS.items():
        if options.only in (None, name):
            print(f"\n{name}")
            rows += ask(options)
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
