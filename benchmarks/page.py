"""Le modèle en une page : mêmes tokens que l'int8 du projet, taille, chargement, débit.

Trois questions, dans Chromium sans fenêtre, d'une page ouverte depuis son fichier. Les
identifiants : sur 200 invites d'un texte, les tokens gloutons de la page sont-ils ceux du modèle
quantifié du projet ? Le débit : tokens par seconde, en WebAssembly et en JavaScript seul. La
taille : celle du préréglage `petit`, et de GPT-2 (124 M, poids au hasard), qui se charge et répond.

    python benchmarks/page.py [--model FICHIER --data TEXTE] [--quick] [--json FICHIER]

Sans --model, un `petit` est entraîné quelques étapes sur le texte.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _machine import announce
from _measure import Row, french, lone_row, write_rows

from gpt_architecture import convert, train
from gpt_architecture.config import PRESETS
from gpt_architecture.core.grouped_codes import SchemeName
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.formats.model_file import ModelFile, read_model, save_model
from gpt_architecture.kernels.decode.packed import PackedModel, pack

PROMPTS, COUNT = 200, 32
PLAIN = "delete globalThis.WebAssembly"


def prompts(text: str, tokenizer: Tokenizer, count: int, room: int) -> list[list[int]]:
    """Des morceaux du texte, de 5 à 200 caractères, à intervalles égaux."""
    found = []
    for rank in range(count):
        start = text.find(" ", rank * (len(text) - 300) // count) + 1
        found.append(tokenizer.encode(text[start : start + 5 + rank * 37 % 196])[:room])
    return found


def greedy(model: PackedModel, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """Les tokens gloutons du projet, et l'écart des deux premiers logits à chacun."""
    cache, out, gaps, fresh = model.new_cache(1), list[int](), list[float](), ids
    for _ in range(count):
        logits = model(torch.tensor([fresh]), cache)[0, -1]
        best = logits.topk(2)
        out.append(int(logits.argmax()))
        gaps.append(float(best.values[0] - best.values[1]))
        fresh = out[-1:]
    return out, gaps


@contextmanager
def opened(path: Path, *, plain: bool = False) -> Iterator[tuple[Any, float]]:
    """La page ouverte, et la durée de son chargement."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=args)
        page = browser.new_page()
        page.set_default_timeout(600_000)
        if plain:
            page.add_init_script(PLAIN)
        start = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("#facts div")
        yield page, time.perf_counter() - start
        browser.close()


def same_ids(content: ModelFile, text: str, folder: Path, scheme: SchemeName, count: int) -> Row:
    """Les tokens de la page, contre ceux du projet."""
    path = folder / f"{scheme}.html"
    convert_content(content, path, scheme)
    tokenizer, model = tokenizer_from_dict(content.tokenizer), pack(content.build(), scheme)
    room = min(content.metadata.get("window", 1024), content.config.context_length) - COUNT
    given = prompts(text, tokenizer, count, room)
    same = 0
    with opened(path) as (page, _):
        for ids in given:
            found = page.evaluate("([ids, count]) => gpt.greedy(ids, count)", [ids, COUNT])
            wanted, gaps = greedy(model, ids, COUNT)
            same += found == wanted
            agreed = next((i for i in range(COUNT) if found[i] != wanted[i]), COUNT)
            if agreed < COUNT:
                print(f"  diffère au token {agreed + 1}, où les deux premiers logits sont à "
                      f"{gaps[agreed]:.1e}")  # fmt: skip
    print(f"{scheme} : {same} suites de {COUNT} tokens identiques sur {len(given)}")
    return lone_row(f"suites gloutonnes identiques, {scheme}", "page", [same / count], "part")


def convert_content(content: ModelFile, path: Path, scheme: SchemeName, **options: Any) -> int:
    """Écrit la page d'un modèle ; rend ses octets."""
    source = path.with_suffix(".pt")
    known = {"tokenizer": content.tokenizer, "metadata": content.metadata}
    save_model(source, content.build(), content.config, **known)
    return convert(
        source, path, to="page", quant=scheme, force=True, progress=False, **options
    ).bytes


def speed(path: Path, ids: list[int], count: int, turns: int, *, plain: bool) -> list[float]:
    """Tokens par seconde, invite comprise, à chaque passage."""
    rates = []
    with opened(path, plain=plain) as (page, seconds):
        print(f"  chargée en {french(seconds)} s ; SIMD : {page.evaluate('gpt.simd')}")
        for _ in range(turns):
            took = page.evaluate(
                "async ([ids, count]) => { const start = performance.now();"
                " await gpt.greedy(ids, count); return performance.now() - start; }",
                [ids, count],
            )
            rates.append(1000 * count / took)
    return rates


def measure(path: Path, name: str, ids: list[int], count: int, turns: int) -> list[Row]:
    """Le débit d'une page, par les deux moteurs."""
    rows = []
    for engine, plain in (("WebAssembly", False), ("JavaScript", True)):
        rates = speed(path, ids, count, turns, plain=plain)
        print(f"{name}, {engine} : {french(statistics.median(rates), 1)} tok/s")
        rows.append(lone_row(f"débit, {name}", engine, rates, "tok/s"))
    return rows


def main() -> None:
    """Mesure, imprime, écrit le JSON demandé."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="modèle entraîné ; sans lui, un petit l'est")
    parser.add_argument("--data", default="la-lampe-du-passeur", help="texte des invites")
    parser.add_argument("--quick", action="store_true", help="moins d'une minute")
    parser.add_argument("--json", type=Path, help="fichier où écrire les lignes")
    options = parser.parse_args()
    announce()
    rows, turns = list[Row](), 2 if options.quick else 5
    text = load_corpus([options.data]).text
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        if options.model is None:
            run = train(options.data, preset="petit", output_dir=folder / "petit", progress=False,
                        max_steps=20 if options.quick else 200)  # fmt: skip
            options.model = run.path / "gpt-model.pt"
        content = read_model(options.model)
        schemes: tuple[SchemeName, ...] = ("int8", "int4")
        for scheme in schemes:
            count = 20 if options.quick else PROMPTS
            rows.append(same_ids(content, text, folder, scheme, count))
            for text_only in (False, True):
                size = convert_content(content, folder / "p.html", scheme, text_only=text_only)
                what = f"{scheme}{', text_only' if text_only else ''}"
                print(f"{content.config.num_parameters()} paramètres, {what} : {size} octets")
                rows.append(lone_row(f"taille, {what}", "page", [size], "octets", lower=True))
        ids = tokenizer_from_dict(content.tokenizer).encode(text[:40])
        rows += measure(folder / "int8.html", "modèle donné", ids, 64, turns)
        if not options.quick:
            rows += large(folder, turns)
    write_rows(options.json, rows)


def large(folder: Path, turns: int) -> list[Row]:
    """GPT-2, 124 M, aux poids au hasard."""
    torch.manual_seed(0)
    config = PRESETS["gpt2-small"]
    state = GPTModel(config).state_dict()
    content = ModelFile(config=config, state_dict=state, tokenizer={"name": "gpt2"})
    rows = list[Row]()
    for scheme in ("int8", "int4"):
        path = folder / f"124m-{scheme}.html"
        start = time.perf_counter()
        size = convert_content(content, path, scheme)
        print(f"GPT-2 124 M {scheme} : {size} octets, écrite en "
              f"{french(time.perf_counter() - start, 1)} s")  # fmt: skip
        rows.append(lone_row(f"taille, 124 M {scheme}", "page", [size], "octets", lower=True))
        rows += measure(path, f"124 M {scheme}", [15496, 11, 314, 716], 16, min(turns, 3))
    return rows


if __name__ == "__main__":
    main()
