"""Ce que coûte le certificat d'un entraînement, et ce que `verify` voit.

Trois questions. Le certificat : quelle part du temps d'une étape prennent ses empreintes, et celle
d'un point de reprise ? Les falsifications : combien, plantées au hasard dans un entraînement
entièrement rejoué, sont vues ; et combien d'entraînements sains sont dits conformes ? Les
arithmétiques : de combien s'écartent les pertes de deux d'entre elles, sur le même entraînement ?

    python benchmarks/verify.py [--quick] [--only QUESTION] [--json FICHIER]
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from _measure import Row, ask_all, french

from gpt_architecture import train, verify
from gpt_architecture.config import TrainingRequest
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.formats.journal import JOURNAL, read_records
from gpt_architecture.training.certificate import Span, state_digests
from gpt_architecture.training.checkpoint import capture
from gpt_architecture.training.preparation import prepare
from gpt_architecture.training.session import build_trainer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SMALL: dict[str, Any] = {
    "tokenizer": "char",
    "context_length": 16,
    "positions": 16,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "batch_size": 2,
    "accumulate": 2,
    "clip": 1.0,
    "eval_freq": 5,
    "eval_iter": 1,
    "precision": "fp32",
    "device": "cpu",
    "progress": False,
    "save_every": 2,
    "keep": 99,
    "max_steps": 10,
    "epochs": 9,
}
MEDIUM: dict[str, Any] = {
    "tokenizer": "bpe-1024",
    "context_length": 128,
    "positions": 128,
    "emb_dim": 128,
    "n_heads": 4,
    "n_layers": 3,
    "batch_size": 8,
    "eval_freq": 10**6,
    "eval_iter": 1,
    "epochs": 99,
    "device": "cpu",
    "progress": False,
}
VARIANTS: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "fp32, étape fusionnée": ({"engine": "fused", "precision": "fp32"}, {}),
    "fp32, un thread": ({"engine": "fused", "precision": "fp32"}, {"OMP_NUM_THREADS": "1"}),
    "fp32, autograd": ({"engine": "autograd", "precision": "fp32"}, {}),
    "fp32, AVX2": (
        {"engine": "autograd", "precision": "fp32"},
        {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
    "bf16": ({"engine": "fused", "precision": "bf16"}, {}),
}


def cost(quick: bool) -> list[Row]:
    """La part des empreintes dans une étape, et d'un point de reprise dans un quart d'heure."""
    large: dict[str, Any] = {"emb_dim": 768, "n_heads": 12, "n_layers": 12, "tokenizer": "gpt2"}
    large |= {"context_length": 256, "positions": 1024, "batch_size": 2}
    count, rows = (3 if quick else 12), list[Row]()
    for name, changes in {"3 blocs de 128": {}, "GPT-2, 162 M": large}.items():
        settings: dict[str, Any] = {**MEDIUM, **changes, "data": "la-lampe-du-passeur"}
        del settings["progress"]
        run = prepare(TrainingRequest.of(settings))
        trainer = build_trainer(run.settings, run.data)
        trainer.advance()  # compile, alloue
        records = [trainer.advance() for _ in range(count)]
        step_seconds = statistics.median(each.seconds for each in records)
        start, times = time.perf_counter(), 50
        for step in range(times):
            span = Span(step)
            span.read(trainer.batches, step)
            span.note(records[0])
        digest_seconds = (time.perf_counter() - start) / times
        start = time.perf_counter()
        state_digests(capture(trainer.model, trainer.optimizer))
        state_seconds = time.perf_counter() - start
        share, saved = digest_seconds / step_seconds, state_seconds / 900
        print(
            f"{name} : étape {french(1000 * step_seconds, 1)} ms, empreintes "
            f"{french(1000 * digest_seconds, 3)} ms ({french(100 * share, 3)} %) ; poids et "
            f"moments {french(state_seconds, 3)} s ({french(100 * saved, 3)} % d'un quart "
            f"d'heure, {french(state_seconds / step_seconds)} étape)"
        )
        rows.append({"name": f"certificat, {name}", "ours": share, "unit": "part d'une étape"})
        rows.append({"name": f"poids, {name}", "ours": saved, "unit": "part d'un quart d'heure"})
    return rows


def forgeries(quick: bool) -> list[Row]:
    """Des falsifications au hasard, chacune sur une copie, et des entraînements sains."""
    helpers = import_module("certificate_helpers")
    forged, text_name, copy_run = helpers.FORGERIES, helpers.TEXT, helpers.copy_run

    draws = random.Random(0)  # noqa: S311 — un essai qui se refait
    count = 20 if quick else 300
    text = load_corpus(["la-lampe-du-passeur"]).text[:4000]
    seen, missed, sound = 0, list[str](), 0
    with tempfile.TemporaryDirectory() as base:
        runs = []
        for number, engine in enumerate(("autograd", "auto")):
            for seed in (1, 2):
                folder = Path(base) / f"run-{number}-{seed}"
                folder.mkdir()
                (folder / text_name).write_text(text, encoding="utf-8")
                train(
                    folder / text_name,
                    **{**SMALL, "engine": engine, "seed": seed},
                    output_dir=folder,
                )
                sound += verify(folder, folder / text_name, part=1).exact
                runs.append(folder)
        for number in range(count):
            forge, place = forged[number] if number < len(forged) else draws.choice(forged)
            pair = draws.choice((0, 2))
            folder = copy_run(runs[pair], Path(base) / f"copie-{number}")
            forge(folder, runs[pair + 1], place)
            if verify(folder, folder / text_name, part=1).conforming:
                missed.append(f"{forge.__name__}-{place}")
            else:
                seen += 1
    print(f"entraînements sains : {sound} conformes au bit près sur {len(runs)}")
    print(f"falsifications : {seen} vues sur {count}{' ; manquées : ' if missed else ''}", *missed)
    return [
        {"name": "falsifications vues", "ours": seen / count, "unit": "part"},
        {"name": "sains, au bit près", "ours": sound / len(runs), "unit": "part"},
    ]


def arithmetics(quick: bool) -> list[Row]:
    """L'écart relatif des pertes de deux arithmétiques, étape par étape, sur un même trajet."""
    steps, losses = (20 if quick else 200), dict[str, list[float]]()
    for name, (settings, environment) in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            asked = {**MEDIUM, "drop_rate": 0.1, "max_steps": steps, "output_dir": folder}
            call = "import gpt_architecture as g; g.train('la-lampe-du-passeur', "
            call += f"**{ {**asked, **settings}!r})"
            done = subprocess.run(
                [sys.executable, "-c", call],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"{name} : absent ici ({done.stderr.strip().splitlines()[-1]})")
                continue
            lines = (Path(folder) / JOURNAL).read_bytes().splitlines()
            losses[name] = [
                float(each["loss"]) for each in read_records(lines) if each["kind"] == "step"
            ]
    first, rows = next(iter(losses)), list[Row]()
    for name, values in losses.items():
        gaps = [abs(a - b) / abs(b) for a, b in zip(values, losses[first], strict=True)]
        print(
            f"{name} contre {first} : écart relatif médian {sorted(gaps)[len(gaps) // 2]:.1e}, "
            f"au plus {max(gaps):.1e} ({steps} étapes)"
        )
        rows.append({"name": name, "ours": max(gaps), "unit": "écart relatif au plus"})
    return rows


QUESTIONS = {"coût": cost, "falsifications": forgeries, "arithmétiques": arithmetics}


def main() -> None:
    """Mesure, imprime, écrit le JSON demandé."""
    ask_all(__doc__, QUESTIONS)


if __name__ == "__main__":
    main()
