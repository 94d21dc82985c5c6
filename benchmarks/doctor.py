"""Le docteur : les fautes qu'il nomme, et les entraînements sains où il se tait.

Questions : de fautes plantées, une par entraînement, combien sont nommées ? Sur des entraînements
sains, combien d'alarmes ?

    python benchmarks/doctor.py [--data DOSSIER] [--only NOM …] [--quick] [--json FICHIER]

Les modèles ont une centaine de milliers de paramètres ; les textes sont des tranches de la Bible
Segond et de Shakespeare (`--data`), et la nouvelle embarquée. Une faute est nommée si le docteur
dit l'un des noms attendus, ou si l'entraînement est refusé pour cette raison.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _machine import announce
from _measure import write_rows

from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.sampler import IGNORED
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.texts.corpus import load_corpus
from gpt_architecture.data.tokenizers.bpe import BPETokenizer
from gpt_architecture.errors import DataError, TrainingError
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.preparation import TrainingRun, prepare, request_of
from gpt_architecture.training.run import train_model

BASE: dict[str, Any] = {
    "tokenizer": "bpe-1024",
    "context_length": 32,
    "positions": 32,
    "emb_dim": 32,
    "n_heads": 2,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": True,
    "tie_weights": True,
    "batch_size": 8,
    "epochs": 50,
    "max_steps": 100,
    "lr": 4e-3,
    "beta2": 0.95,
    "clip": 1.0,
    "schedule": "cosine",
    "warmup_steps": 10,
    "final_lr": 0.1,
    "eval_freq": 20,
    "eval_iter": 4,
    "engine": "autograd",
    "device": "cpu",
}
BOOK: dict[str, Any] = {
    "qkv_bias": False,
    "tie_weights": False,
    "beta2": 0.999,
    "clip": None,
    "warmup_steps": 0,
}
BOOK |= {"schedule": "constant"}
Change = Callable[[TrainingData], TrainingData]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Un entraînement : ses réglages, ce qui est abîmé dans ses données, ce qui doit être dit.

    Attributes:
        name: son nom.
        expected: noms dont un suffit ; vide : il est sain.
        settings: réglages qui diffèrent de `BASE`.
        change: abîme les données déjà lues.
    """

    name: str
    expected: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    change: Change = lambda data: data


class Relabelled:
    """Une suite de tokens dont les cibles ne sont plus celles qui suivent."""

    def __init__(
        self, source: TokenSource, target: Callable[[torch.Tensor, int], torch.Tensor]
    ) -> None:
        self._source, self._target = source, target
        self.num_tokens, self.sha256 = source.num_tokens, source.sha256
        self.read = source.read

    def read_targets(self, start: int, length: int) -> torch.Tensor:
        """Les cibles abîmées."""
        return self._target(self._source.read(start, length), start)

    def count_learned(self, starts: Any, window: int) -> int:
        """Celles qui s'apprennent."""
        rows = [self.read_targets(int(start) + 1, window) for start in starts]
        return int((torch.stack(rows) != IGNORED).sum())


def shifted(by: int) -> Change:
    """Des cibles décalées de `by` tokens de trop (négatif : pas assez)."""

    def change(data: TrainingData) -> TrainingData:
        def targets(source: TokenSource) -> Relabelled:
            def target(tokens: torch.Tensor, start: int) -> torch.Tensor:
                first = min(max(start + by, 0), source.num_tokens - len(tokens))
                return source.read(first, len(tokens))

            return Relabelled(source, target)

        return replace(data, train=targets(data.train), val=targets(data.val))

    return change


def masked(keep: int | None) -> Change:
    """Une cible sur `keep` s'apprend ; None : aucune."""

    def change(data: TrainingData) -> TrainingData:
        def target(tokens: torch.Tensor, start: int) -> torch.Tensor:
            places = torch.arange(start, start + len(tokens))
            kept = (
                torch.zeros_like(places, dtype=torch.bool) if keep is None else places % keep == 0
            )
            return torch.where(kept, tokens, IGNORED)

        return replace(data, train=Relabelled(data.train, target), val=Relabelled(data.val, target))

    return change


class Texts:
    """Les textes des essais, écrits une fois."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._folder = folder
        self.french = (source / "segond-1910.fr.txt").read_text(encoding="utf-8")
        self.english = (source / "shakespeare.en.txt").read_text(encoding="utf-8")
        self.story = load_corpus(["la-lampe-du-passeur"]).text
        self.fr = self.write("fr", self.french[:150_000])
        self.en = self.write("en", self.english[:150_000])
        self.fr_bpe = self.vocabulary("petit-fr", self.french, 1024)
        self.en_bpe = self.vocabulary("petit-en", self.english, 1024)

    def write(self, name: str, text: str) -> str:
        """Écrit un texte ; rend son chemin."""
        path = self._folder / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def vocabulary(self, name: str, text: str, size: int = 4096) -> str:
        """Écrit un vocabulaire appris sur `text`."""
        path = self._folder / f"{name}.json"
        BPETokenizer.from_text(text[:150_000], size).save(path)
        return str(path)


def broken_start(folder: Path, texts: Texts, share: float) -> Path:
    """Un modèle dont une part des unités a un biais qui les éteint."""
    path = folder / f"mort-{share}.pt"
    run = prepare(request_of({**BASE, "data": texts.fr, "output_dir": folder / "x"}, Origins()))
    model = GPTModel(run.settings.model)
    with torch.no_grad():
        for name, bias in model.named_parameters():
            if name.endswith("ff.layers.0.bias"):
                bias[: int(share * len(bias))] = -20.0
    tokenizer = run.data.tokenizer.to_dict()
    save_model(path, model, run.settings.model, tokenizer=tokenizer, metadata={"window": 32})
    read_model(path)
    return path


def planted(texts: Texts, folder: Path) -> list[Trial]:
    """Les fautes, une par entraînement."""
    fr, half = {"data": texts.fr, "tokenizer": texts.fr_bpe}, len(texts.french[:150_000]) // 2
    brief = {**fr, "max_steps": 20, "warmup_steps": 2}
    body, held = texts.french[:135_000], texts.french[135_000:150_000]
    shuffle = random.Random(0).shuffle  # noqa: S311 — rien de secret
    paragraphs = texts.french[:150_000].split("\n") * 2
    letters = list(texts.french[:150_000])
    shuffle(paragraphs)
    shuffle(letters)
    garbled = texts.french[:150_000].encode().decode("cp1252", "replace")
    no_care = {"schedule": "constant", "warmup_steps": 0, "clip": None}
    bare = {"schedule": "cosine", "warmup_steps": 0, "clip": None}
    high, start = ("taux-trop-haut",), ("sans-echauffement",)
    small = ("texte-trop-petit",)
    memory = {"emb_dim": 96, "max_steps": 200, "eval_freq": 15}
    french_bpe = texts.vocabulary("fr", texts.french)
    english_bpe = texts.vocabulary("en", texts.english)
    return [
        Trial(name="taux 0,05", expected=high, settings={**fr, "lr": 0.05, "clip": None}),
        Trial(name="taux 0,3", expected=high, settings={**fr, **no_care, "lr": 0.3}),
        Trial(name="taux 3", expected=high, settings={**fr, **no_care, "lr": 3.0}),
        Trial(name="Muon 2", expected=high, settings={**fr, "optimizer": "muon", "muon_lr": 2.0}),
        Trial(name="taux 0,1, livre", expected=high, settings={**fr, **BOOK, "lr": 0.1}),
        Trial(name="sans montée", expected=start, settings={**fr, **bare, "lr": 0.3}),
        Trial(
            name="sans montée, 6 blocs",
            expected=start,
            settings={**fr, **bare, "lr": 0.2, "n_layers": 6, "max_steps": 60},
        ),
        Trial(
            name="sans montée, livre", expected=start, settings={**fr, **BOOK, **bare, "lr": 0.3}
        ),
        Trial(
            name="texte doublé",
            expected=("validation-vue",),
            settings={**brief, "data": texts.write("double", texts.french[:half] * 2)},
        ),
        Trial(
            name="validation à demi vue",
            expected=("validation-vue",),
            settings={
                **brief,
                "data": texts.write("demi", body + held[:8_000] + body[:8_000]),
            },
        ),
        Trial(
            name="paragraphes en double",
            expected=("validation-vue",),
            settings={**brief, "data": texts.write("copies", "\n".join(paragraphs))},
        ),
        Trial(
            name="GPT-2 sur le français",
            expected=("tokenizer",),
            settings={**brief, "tokenizer": "gpt2"},
        ),
        Trial(
            name="BPE anglais",
            expected=("tokenizer",),
            settings={**brief, "tokenizer": english_bpe},
        ),
        Trial(
            name="BPE français",
            expected=("tokenizer",),
            settings={**brief, "data": texts.en, "tokenizer": french_bpe},
        ),
        Trial(
            name="nouvelle, grand modèle",
            expected=small,
            settings={"data": "la-lampe-du-passeur", **memory},
        ),
        Trial(
            name="dix pages, grand modèle",
            expected=small,
            settings={"data": texts.write("dix", texts.french[:12_000]), **memory},
        ),
        Trial(
            name="scène, grand modèle",
            expected=small,
            settings={"data": texts.write("scene", texts.english[:12_000]), **memory},
        ),
        Trial(
            name="cibles = entrées",
            expected=("cibles-decalees",),
            settings=brief,
            change=shifted(-1),
        ),
        Trial(name="cibles à +2", expected=("cibles-decalees",), settings=brief, change=shifted(1)),
        Trial(
            name="cibles à −1", expected=("cibles-decalees",), settings=brief, change=shifted(-2)
        ),
        Trial(
            name="cibles masquées",
            expected=("cibles-masquees",),
            settings=brief,
            change=masked(None),
        ),
        Trial(
            name="cibles presque toutes masquées",
            expected=("cibles-masquees",),
            settings=brief,
            change=masked(60),
        ),
        Trial(
            name="unités mortes",
            expected=("unites-mortes",),
            settings={**fr, "start": broken_start(folder, texts, 1.0), "max_steps": 40},
        ),
        Trial(
            name="un quart d'unités mortes",
            expected=("unites-mortes",),
            settings={**fr, "start": broken_start(folder, texts, 0.25), "max_steps": 40},
        ),
        Trial(name="taux 10⁻⁶", expected=("taux-trop-bas",), settings={**fr, "lr": 1e-6}),
        Trial(name="taux 3·10⁻⁵", expected=("taux-trop-bas",), settings={**fr, "lr": 3e-5}),
        Trial(
            name="montée sans fin",
            expected=("echauffement-trop-long",),
            settings={**fr, "warmup_steps": 1000},
        ),
        Trial(
            name="décroissance 20",
            expected=("decroissance-trop-forte",),
            settings={**fr, "weight_decay": 20.0, "lr": 4e-3},
        ),
        Trial(
            name="dropout 0,8", expected=("dropout-trop-fort",), settings={**fr, "drop_rate": 0.8}
        ),
        Trial(
            name="fenêtres espacées", expected=("texte-saute",), settings={**brief, "stride": 320}
        ),
        Trial(
            name="lettres mélangées",
            expected=("texte-sans-suite",),
            settings={**brief, "data": texts.write("melange", "".join(letters))},
        ),
        Trial(
            name="texte mal décodé",
            expected=("texte-mal-decode",),
            settings={**brief, "data": texts.write("garbled", garbled)},
        ),
        Trial(
            name="validation en français",
            expected=("validation-d-ailleurs",),
            settings={
                **brief,
                "tokenizer": texts.en_bpe,
                "data": texts.write("mixte", texts.english[:135_000] + body[:15_000]),
            },
        ),
        Trial(
            name="trop d'époques",
            expected=("trop-d-epoques", "texte-trop-petit"),
            settings={
                "data": texts.write("court", texts.french[:40_000]),
                **{"emb_dim": 64, "n_layers": 1, "max_steps": 600, "lr": 1e-2, "eval_freq": 40},
            },
        ),
    ]


def healthy(texts: Texts, folder: Path) -> list[Trial]:
    """Des entraînements sans faute, de toutes sortes."""
    fr = {"data": texts.fr, "tokenizer": texts.fr_bpe}
    en = {"data": texts.en, "tokenizer": texts.en_bpe}
    other = {"data": texts.write("suite", texts.french[500_000:650_000])}
    chat = folder / "dialogues.jsonl"
    lines = [line for line in texts.french[:150_000].split("\n") if 40 < len(line) < 120][:600]
    chat.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": asked},
                        {"role": "assistant", "content": answered},
                    ]
                },
                ensure_ascii=False,
            )
            + "\n"
            for asked, answered in zip(lines[::2], lines[1::2], strict=False)
        ),
        encoding="utf-8",
    )
    settings: dict[str, dict[str, Any]] = {
        **{f"Segond, graine {seed}": {**fr, "seed": seed} for seed in (1, 2, 3)},
        "Segond, plus loin": other,
        "Shakespeare": en,
        "Shakespeare, GPT-2": {**en, "tokenizer": "gpt2", "max_steps": 30},
        "Shakespeare, caractères": {**en, "tokenizer": "char"},
        "Segond, caractères": {**fr, "tokenizer": "char", "lr": 6e-3},
        "Segond, mots": {**fr, "tokenizer": "simple-v2", "max_steps": 30},
        "Segond, 512 tokens": {**fr, "tokenizer": "bpe-512"},
        "Segond, 4096 tokens": {**fr, "tokenizer": "bpe-4096"},
        "Muon": {**fr, "optimizer": "muon"},
        "wsd": {**fr, "schedule": "wsd"},
        "taux constant": {**en, "schedule": "constant", "lr": 1e-3},
        "dropout 0,1": {**fr, "drop_rate": 0.1},
        "livre": {**fr, **BOOK, "lr": 4e-4},
        "livre, plus vite": {**en, **BOOK, "lr": 1e-3},
        "4 blocs": {**fr, "n_layers": 4, "max_steps": 80},
        "largeur 96": {**en, "emb_dim": 96, "max_steps": 80, "lr": 2e-3},
        "contexte 64": {**fr, "context_length": 64, "positions": 64, "batch_size": 4},
        "longues étapes": {**fr, "batch_size": 32, "max_steps": 40},
        "nouvelle, deux époques": {
            "data": "la-lampe-du-passeur",
            **{"tokenizer": "bpe-512", "emb_dim": 32, "n_layers": 1, "epochs": 4},
        },
        "conversations": {
            "chat": chat,
            "tokenizer": "bpe-1024",
            "context_length": 96,
            "positions": 96,
        },
        "long entraînement": {**fr, "max_steps": 300, "eval_freq": 30},
    }
    return [Trial(name=name, settings=each) for name, each in settings.items()]


def prepared(trial: Trial, folder: Path) -> TrainingRun:
    """L'entraînement prêt à partir, ses données abîmées s'il le faut."""
    settings = {**BASE, **trial.settings, "output_dir": folder / "sortie", "force": True}
    if "start" in trial.settings:  # la forme et le vocabulaire sont les siens
        for name in ("tokenizer", "emb_dim", "n_heads", "n_layers", "positions"):
            settings.pop(name)
        for name in ("qkv_bias", "tie_weights"):
            settings.pop(name)
    run = prepare(request_of(settings, Origins()))
    return replace(run, data=trial.change(run.data))


def named(trial: Trial, folder: Path) -> list[str]:
    """Ce que le docteur dit d'un entraînement mené à son terme."""
    try:
        outcome = train_model(prepared(trial, folder))
    except DataError as error:
        return ["cibles-masquees"] if "masquées" in error.found else [f"refus : {error.found}"]
    except TrainingError as error:
        return ["taux-trop-haut"] if "`lr`" in error.remedy else [f"refus : {error.found}"]
    return [each.code for each in outcome.findings]


def main() -> None:
    """Mène les essais, et imprime ce qui est dit de chacun."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", default=[], help="débuts de noms")
    parser.add_argument("--quick", action="store_true", help="un essai sur quatre")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    announce()
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        texts = Texts(arguments.data, folder)
        groups: dict[str, Sequence[Trial]] = {
            "fautes plantées": planted(texts, folder),
            "entraînements sains": healthy(texts, folder),
        }
        for title, trials in groups.items():
            kept = trials[:: 4 if arguments.quick else 1]
            if arguments.only:
                kept = [each for each in trials if each.name.startswith(tuple(arguments.only))]
            right = 0
            print(f"\n{title}")
            for trial in kept:
                start = time.perf_counter()
                found = named(trial, folder)
                is_right = bool(set(found) & set(trial.expected)) if trial.expected else not found
                right += is_right
                seconds = time.perf_counter() - start
                mark = "oui" if is_right else "NON"
                print(f"  {mark}  {trial.name:32} {', '.join(found) or '—':50} {seconds:.1f} s")
            print(f"  {right} sur {len(kept)}")
            if kept:
                rows.append(
                    {"name": title, "ours": right, "peer": len(kept), "ratio": right / len(kept)}
                )
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
