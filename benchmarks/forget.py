"""L'oubli exact : est-il celui qu'il dit, dure-t-il ce qu'il annonce, que reste-t-il ?

Quatre questions. L'égalité : des oublis tirés au hasard donnent-ils, au bit près, les poids d'un
entraînement masqué dès le début ? La durée : de combien l'annonce, tirée du journal,
s'écarte-t-elle de la vraie ? La mémoire : que récite le modèle du texte oublié, et d'un témoin,
avant et après ? Les étapes : que coûte leur calcul sur un long corpus, contre une lecture de toutes
les séquences ?

    python benchmarks/forget.py [--quick] [--only QUESTION] [--json FICHIER]
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import Row, ask_all, french

from gpt_architecture import forget, train
from gpt_architecture.data.masking import reading_steps
from gpt_architecture.data.removal import REMOVAL_NAME
from gpt_architecture.data.sampler import WindowSampler
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.formats.model_file import MODEL_NAME, read_model
from gpt_architecture.training.certificate import learned_sha256

SMALL: dict[str, Any] = {
    "tokenizer": "char",
    "context_length": 16,
    "positions": 16,
    "emb_dim": 16,
    "n_heads": 2,
    "n_layers": 1,
    "batch_size": 2,
    "eval_freq": 5,
    "eval_iter": 1,
    "train_ratio": 0.85,
    "engine": "autograd",
    "precision": "fp32",
    "device": "cpu",
    "progress": False,
}
MEDIUM: dict[str, Any] = {
    "tokenizer": "bpe-1024",
    "context_length": 128,
    "positions": 128,
    "emb_dim": 128,
    "n_heads": 4,
    "n_layers": 3,
    "batch_size": 8,
    "drop_rate": 0.0,
    "eval_freq": 50,
    "eval_iter": 2,
    "train_ratio": 0.9,
    "device": "cpu",
    "progress": False,
}


def write_texts(folder: Path, count: int, size: int) -> Path:
    """Des documents différents, d'une même nouvelle."""
    text = load_corpus(["la-lampe-du-passeur"]).text
    place = folder / "textes"
    place.mkdir()
    for index in range(count):
        part = text[index * size : (index + 1) * size]
        (place / f"{index:02d}.txt").write_text(part, encoding="utf-8")
    return place


def weights(folder: Path) -> str:
    """L'empreinte des poids d'un modèle."""
    return learned_sha256(read_model(folder / MODEL_NAME).build())


def equality(quick: bool) -> list[Row]:
    """Des réglages et des documents au hasard : l'oubli contre l'entraînement masqué."""
    draws = random.Random(0)  # noqa: S311 — un essai qui se refait
    count, same = (4 if quick else 40), 0
    for number in range(count):
        with tempfile.TemporaryDirectory() as base:
            texts = write_texts(Path(base), 5, 400)
            settings = {
                **SMALL,
                "drop_rate": draws.choice((0.0, 0.1)),
                "accumulate": draws.choice((1, 2, 3)),
                "clip": draws.choice((None, 0.1)),
                "stride": draws.choice((None, 8, 40)),
                "epochs": draws.choice((1, 3, 9)),
                "max_steps": draws.choice((10, 20)),
                "save_every": draws.choice((2, 3, 5)),
                "document_mask": draws.choice((False, True)),
                "optimizer": draws.choice(("adamw", "muon")),
                "tokenizer": draws.choice(("char", "bpe-280", "simple-v2")),
                "seed": number,
            }
            ways: tuple[dict[str, Any], ...] = ({"keep": 99}, {"keep_spread": 3}, {})
            kept = draws.choice(ways)
            names = draws.sample([f"{index:02d}.txt" for index in range(4)], draws.choice((1, 2)))
            train(str(texts), **settings, **kept, output_dir=Path(base) / "m")
            forget(Path(base) / "m", document=names, progress=False)
            removal = Path(base) / "m" / REMOVAL_NAME
            if removal.exists():
                oracle = Path(base) / "o"
                train(str(texts), **settings, output_dir=oracle, forget=removal)
                same += weights(oracle) == weights(Path(base) / "m")
            else:  # aucune étape ne l'avait lu
                same += 1
    print(f"oublis aux mêmes bits que l'entraînement masqué : {same} sur {count}")
    return [{"name": "oublis aux mêmes bits", "ours": same / count, "unit": "part"}]


def duration(quick: bool) -> list[Row]:
    """La durée annoncée d'après le journal, contre celle de l'oubli, données comprises."""
    steps, ratios = (150 if quick else 600), list[float]()
    for number in range(2 if quick else 6):
        with tempfile.TemporaryDirectory() as base:
            texts = write_texts(Path(base), 8, 1800)
            settings = {**MEDIUM, "max_steps": steps, "epochs": 99, "seed": number}
            train(str(texts), **settings, save_every=steps // 10, output_dir=Path(base) / "m")
            announced, begun = list[float](), list[float]()

            def note(plan: Any, announced: list[float] = announced, begun: Any = begun) -> None:
                announced.append(plan.seconds)
                begun.append(time.perf_counter())

            forget(Path(base) / "m", document=f"{number:02d}.txt", progress=False, on_plan=note)
            real = time.perf_counter() - begun[0]
            ratios.append(real / announced[0])
            print(f"annoncé {french(announced[0], 1)} s, fait en {french(real, 1)} s")
    gap = statistics.median(abs(each - 1) for each in ratios)
    print(f"écart médian {french(100 * gap, 1)} % ; rapports {[round(r, 3) for r in ratios]}")
    return [{"name": "durée annoncée", "ours": gap, "unit": "écart relatif médian"}]


def memory(quick: bool) -> list[Row]:
    """Un modèle qui apprend par cœur : ce qu'il récite d'un document, et d'un témoin.

    Une fenêtre commence à chaque token : à fenêtres fixes, il ne réciterait qu'aux positions lues.
    """
    steps, rows = (400 if quick else 1600), list[Row]()
    with tempfile.TemporaryDirectory() as base:
        texts = write_texts(Path(base), 8, 1800)
        settings = {**MEDIUM, "lr": 2e-3, "max_steps": steps, "epochs": 999, "stride": 1}
        train(str(texts), **settings, output_dir=Path(base) / "m")
        found = forget(Path(base) / "m", document="02.txt", progress=False)
        for name, (before, after) in {"oublié": found.recalled, "témoin": found.witness}.items():
            if before is None or after is None:
                raise RuntimeError(name)
            shown = " ".join(f"{french(100 * each, 1)} %" for each in (before, after))
            print(f"part récitée, {name} : avant, après : {shown}")
            rows += [
                {"name": f"récité avant, {name}", "ours": before, "unit": "part"},
                {"name": f"récité après, {name}", "ours": after, "unit": "part"},
            ]
    return rows


def steps(quick: bool) -> list[Row]:
    """Le calcul des étapes qui lisent mille passages d'un long corpus, dix époques."""
    tokens = 10_000_000 if quick else 1_000_000_000
    sampler = WindowSampler(tokens, 1024, batch_size=64, seed=1)
    draws = np.random.default_rng(0)
    firsts = np.sort(draws.choice(tokens // 2000, 1000, replace=False)) * 2000
    spans = [(int(each), int(each) + 500) for each in firsts]
    total = sampler.steps_in(10)
    start = time.perf_counter()
    seen = reading_steps(sampler, spans, total)
    ours = time.perf_counter() - start
    start, read = time.perf_counter(), 0
    while time.perf_counter() - start < (1 if quick else 5):
        sampler.batch(read % total)
        read += 1
    brute = (time.perf_counter() - start) / read * total
    print(
        f"{int(seen.sum())} étapes sur {total} en {french(ours, 3)} s ; une à une, "
        f"{french(brute, 1)} s"
    )
    return [
        {
            "name": "étapes qui ont lu",
            "ours": ours,
            "peer": brute,
            "ratio": brute / ours,
            "unit": "s",
        }
    ]


QUESTIONS = {"égalité": equality, "durée": duration, "mémoire": memory, "étapes": steps}


def main() -> None:
    """Mesure, imprime, écrit le JSON demandé."""
    ask_all(__doc__, QUESTIONS, quick="une minute ou deux")


if __name__ == "__main__":
    main()
