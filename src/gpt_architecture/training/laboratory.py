"""Le laboratoire d'un plan : un texte, cette machine, et les essais déjà faits, qu'il garde."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch

from gpt_architecture.config import VERSION, TrainingConfig
from gpt_architecture.core.machine import (
    describe_device,
    peak_resident,
    resident,
    resolve_device,
)
from gpt_architecture.data.datasets import TrainingData, data_of_corpus, data_of_shards
from gpt_architecture.data.shards.layout import holds_shards
from gpt_architecture.data.texts.corpus import Corpus, load_corpus
from gpt_architecture.data.tokenizer import get_tokenizer, learns_from_text
from gpt_architecture.errors import OutputError
from gpt_architecture.formats.journal import finite_number, line_of, read_records
from gpt_architecture.storage import open_regular
from gpt_architecture.training.experiments import LADDER, MIN_STEPS, TextSize, first_recipe
from gpt_architecture.training.trials import (
    PIECE_WINDOWS,
    Bench,
    Body,
    Clock,
    Memory,
    Recipe,
    StepTime,
    bits_per_nat,
    measure_step,
    run_chain,
)

TRIALS = "essais.jsonl"
"""Les essais faits, un par ligne."""


class Laboratory(Protocol):
    """Ce qu'un plan peut mesurer."""

    @property
    def fixed_tokenizer(self) -> str | None:
        """Le vocabulaire imposé par les données ; None : au choix."""
        ...

    def text(self, tokenizer: str) -> TextSize:
        """Le texte sous ce vocabulaire."""
        ...

    def time(self, recipe: Recipe, body: Body, *, sustained: float | None = None) -> StepTime:
        """Ce que dure une étape de cette forme ; voir `trials.measure_step`."""
        ...

    def losses(
        self, recipe: Recipe, body: Body, lengths: Sequence[int], unique: int
    ) -> Mapping[int, float]:
        """La perte atteinte en chaque durée, en bits par octet."""
        ...

    def knows(self, recipe: Recipe, body: Body, lengths: Sequence[int], unique: int) -> bool:
        """Vrai si ces pertes sont déjà gardées : les demander ne coûte rien."""
        ...

    def nats(self, recipe: Recipe) -> float:
        """Nats par token que vaut un bit par octet."""
        ...

    def startup(self, tokenizer: str) -> float:
        """Secondes avant la première étape de `train`."""
        ...

    def memory(self, tokenizer: str) -> Memory:
        """La mémoire de `train`, son modèle à part ; à demander avant tout essai."""
        ...

    @property
    def spent(self) -> float:
        """Secondes qu'ont pris les mesures demandées, celles déjà gardées comprises."""
        ...


class TextLaboratory:
    """Le laboratoire d'un vrai texte, sur cette machine.

    Args:
        sources: voir `data.texts.corpus` ; ou un dossier de fragments, seul.
        folder: où les essais sont gardés ; ceux qui y sont ne sont pas refaits.
        device: périphérique, tel que `train` le nomme.
        seed: graine des poids, de l'ordre des données et du dropout.
        train_ratio: part du texte gardée pour l'entraînement.
        tokenizer: vocabulaire imposé, que des fragments doivent avoir ; None : au choix.
        field, offline, skip_bad: voir `load_training_data`.
        on_step: appelé à chaque étape d'un essai.
        clock: ce qui donne l'heure, en secondes.

    Raises:
        ConfigurationError: `tokenizer` n'est pas celui des fragments.
        DataError: texte absent ou illisible.
        OutputError: le dossier ne peut pas être écrit.
    """

    def __init__(
        self,
        sources: Sequence[str],
        folder: Path | str,
        *,
        device: str = "auto",
        seed: int = TrainingConfig.seed,
        train_ratio: float = TrainingConfig.train_ratio,
        tokenizer: str | None = None,
        field: str | None = None,
        offline: bool = False,
        skip_bad: bool = False,
        on_step: Callable[[], None] = lambda: None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._clock, start = clock, clock()
        self.spent = 0.0
        self._device, self._folder, self._on_step = device, Path(folder), on_step
        self._training = TrainingConfig(seed=seed, train_ratio=train_ratio)
        self._corpus: Corpus | None = None
        self._benches = dict[str, Bench]()
        self._shards = len(sources) == 1 and holds_shards(Path(sources[0]))
        if self._shards:
            vocabulary = None
            if tokenizer is not None and not learns_from_text(tokenizer):
                vocabulary = get_tokenizer(tokenizer)
            data = data_of_shards(sources[0], tokenizer or "gpt2", vocabulary)
            self._add(data.tokenizer.name, data)
        else:
            self._corpus = load_corpus(
                list(sources), field=field, offline=offline, skip_bad=skip_bad
            )
        self._read = clock() - start
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._journal = self._folder / TRIALS
            self._journal.touch()
            with open_regular(self._journal) as lines:
                kept = lines.read()
            if kept and not kept.endswith(b"\n"):  # un arrêt a coupé la dernière ligne
                with self._journal.open("ab") as file:
                    file.write(b"\n")
        except OSError as error:
            raise OutputError.refused(self._folder, error) from error
        self._counted = set[str]()
        self._known = {str(each.get("key")): each for each in read_records(kept.splitlines())}

    @property
    def name(self) -> str:
        """Le nom court du texte."""
        if self._corpus is not None:
            return self._corpus.name
        return next(iter(self._benches.values())).data.name

    @property
    def fixed_tokenizer(self) -> str | None:
        """Celui des fragments ; None pour un texte."""
        return next(iter(self._benches)) if self._shards else None

    @property
    def octets(self) -> int:
        """Octets d'entraînement, à peu près ; 0 : des fragments."""
        if self._corpus is None:
            return 0
        return int(self._training.train_ratio * len(self._corpus.text.encode()))

    def bench(self, tokenizer: str) -> Bench:
        """Le texte codé par ce vocabulaire, appris au besoin comme `train` le ferait."""
        if tokenizer not in self._benches and self._corpus is not None:
            before = self._clock()
            self._add(tokenizer, data_of_corpus(self._corpus, tokenizer, None, self._training))
            seconds = self._read + self._clock() - before
            self._once("startup", tokenizer, lambda: seconds)
        return self._benches[tokenizer]

    def _add(self, name: str, data: TrainingData) -> None:
        settings = {"seed": self._training.seed, "train_ratio": self._training.train_ratio}
        self._benches[name] = Bench(data=data, device=self._device, settings=settings)

    def text(self, tokenizer: str) -> TextSize:
        """Le texte sous ce vocabulaire."""
        data = self.bench(tokenizer).data
        return TextSize(
            vocab_size=data.tokenizer.vocab_size,
            unique=data.train.num_tokens,
            validation=data.val.num_tokens,
        )

    def nats(self, recipe: Recipe) -> float:
        """Nats par token que vaut un bit par octet, sur ce que cette recette évalue."""
        bench = self.bench(recipe.tokenizer)
        return 1 / bits_per_nat(
            bench.run(recipe, LADDER[0], MIN_STEPS, bench.data.train.num_tokens)
        )

    def startup(self, tokenizer: str) -> float:
        """Secondes avant la première étape de `train` : lire, apprendre le vocabulaire, examiner.

        Mesurées une fois pour toutes : un plan repris donne le même choix.
        """
        reading = self._once("startup", tokenizer, lambda: self._read)
        return reading + self._once("survey", tokenizer, lambda: self._examined(tokenizer))

    def memory(self, tokenizer: str) -> Memory:
        """La mémoire de `train`, son modèle à part ; à demander avant tout essai.

        C'est celle de ce processus : ce qu'il a fait d'autre avant y compte aussi.
        Mesurée une fois pour toutes, avec la durée de l'examen des données.
        """
        bench = self.bench(tokenizer)
        key = _key("memory", self._machine, bench.data)
        known = self._numbers(key, Memory)
        if known is None:
            seconds = self._examined(tokenizer)
            self._once("survey", tokenizer, lambda: seconds)
            peak = peak_resident()
            recipe = first_recipe(tokenizer, self.text(tokenizer), epochs=0.0)
            measure_step(bench, recipe, LADDER[0], clock=self._clock)  # charge ce qu'il y faut
            known = {"resident": resident(), "peak": peak}
            self._keep(key, "memory", known)
        return Memory(**{name: int(value) for name, value in known.items()})

    def _examined(self, tokenizer: str) -> float:
        """Secondes que prend l'examen des données : repères, recouvrement…"""
        text = self.text(tokenizer)
        recipe = first_recipe(tokenizer, text, epochs=0.0)
        run = self.bench(tokenizer).run(recipe, LADDER[0], MIN_STEPS, text.unique)
        run.dtype  # noqa: B018 — charge les noyaux, que la mémoire compte
        before = self._clock()
        run.survey  # noqa: B018 — c'est lui qui est chronométré
        return self._clock() - before

    def _once(self, kind: str, tokenizer: str, measure: Callable[[], float]) -> float:
        """Des secondes gardées, ou mesurées à présent."""
        key = _key(kind, self._machine, self.bench(tokenizer).data)
        stored = finite_number(self._known.get(key, {}).get("seconds"))
        if stored is None:
            stored = measure()
            self._keep(key, kind, {"seconds": stored})
        self._count(key)
        return stored

    def _numbers(self, key: str, kind: type[Memory | StepTime]) -> dict[str, float] | None:
        """Les champs gardés d'une mesure ; None s'il en manque."""
        stored = self._known.get(key, {})
        values = {each: finite_number(stored.get(each)) for each in kind.__dataclass_fields__}
        known = {name: value for name, value in values.items() if value is not None}
        return known if len(known) == len(values) else None

    def _count(self, key: str) -> None:
        """Ajoute une mesure à ce qui est dépensé : reprise, elle coûte ce qu'elle a coûté."""
        if key not in self._counted:
            self._counted.add(key)
            self.spent += finite_number(self._known[key].get("seconds")) or 0.0

    @cached_property
    def _machine(self) -> str:
        device = resolve_device(self._device)
        return f"{describe_device(device)}, {torch.get_num_threads()} threads, {torch.__version__}"

    def time(self, recipe: Recipe, body: Body, *, sustained: float | None = None) -> StepTime:
        """Ce que dure une étape de cette forme, mesurée une fois pour toutes."""
        bench = self.bench(recipe.tokenizer)
        key = _key("time", self._machine, bench.data, asdict(recipe), asdict(body), sustained)
        known = self._numbers(key, StepTime)
        if known is None:
            before = self._clock()
            found = measure_step(bench, recipe, body, sustained=sustained, clock=self._clock)
            self._keep(key, "time", {**asdict(found), "seconds": self._clock() - before})
            self._count(key)
            return found
        self._count(key)
        return StepTime(**known)

    def losses(
        self, recipe: Recipe, body: Body, lengths: Sequence[int], unique: int
    ) -> Mapping[int, float]:
        """La perte de chaque durée ; une chaîne est faite en entier, ou relue.

        Elle est entière quand elle atteint sa dernière durée, ou diverge (voir `run_chain`).
        """
        bench = self.bench(recipe.tokenizer)
        keys = self._trial_keys(recipe, body, lengths, unique)
        found, whole = self._kept(keys)
        if whole:
            for steps in found:
                self._count(keys[steps])
            return found
        values = {"recipe": asdict(recipe), "body": asdict(body), "unique": unique}
        with TemporaryDirectory(prefix="en-cours-", dir=self._folder) as folder:
            chain = run_chain(
                bench, recipe, body, lengths, unique=unique, folder=folder, on_step=self._on_step
            )
            mark = self._clock()
            for steps, loss in chain:
                if steps not in found:  # sinon refaite pour celles qui suivent
                    done = {"steps": steps, "loss": loss, "seconds": self._clock() - mark}
                    self._keep(keys[steps], "trial", values | done)
                    found[steps] = loss
                self._count(keys[steps])
                mark = self._clock()
        return dict(sorted(found.items()))

    def knows(self, recipe: Recipe, body: Body, lengths: Sequence[int], unique: int) -> bool:
        """Vrai si la chaîne entière est gardée."""
        return self._kept(self._trial_keys(recipe, body, lengths, unique))[1]

    def _trial_keys(
        self, recipe: Recipe, body: Body, lengths: Sequence[int], unique: int
    ) -> dict[int, str]:
        bench = self.bench(recipe.tokenizer)
        part = (unique,) if unique >= bench.data.train.num_tokens else (unique, PIECE_WINDOWS)
        return {
            steps: _key("trial", bench.data, bench.options(recipe, body, steps, unique), *part)
            for steps in lengths
        }

    def _kept(self, keys: Mapping[int, str]) -> tuple[dict[int, float], bool]:
        """Les pertes gardées de ces durées croissantes, et si rien n'y manque."""
        known = {steps: self._loss(key) for steps, key in keys.items()}
        end = next((steps for steps, loss in known.items() if loss == math.inf), max(keys))
        found = {steps: loss for steps, loss in known.items() if loss is not None and steps <= end}
        return found, len(found) == sum(steps <= end for steps in keys)

    def _loss(self, key: str) -> float | None:
        stored = self._known.get(key, {}).get("loss")
        return float("inf") if stored == "inf" else finite_number(stored)

    def _keep(self, key: str, kind: str, values: Mapping[str, Any]) -> None:
        record = {"key": key, **values}
        self._known[key] = {"kind": kind, **record}
        try:
            with self._journal.open("ab") as file:
                file.write(line_of(kind, record))
        except OSError as error:
            raise OutputError.refused(self._journal, error) from error


def _key(kind: str, *parts: Any) -> str:
    """Ce qui distingue une mesure d'une autre : les mêmes parties, la même mesure."""
    named = [
        (each.sha256, each.tokenizer_sha256) if isinstance(each, TrainingData) else each
        for each in parts
    ]
    text = json.dumps([VERSION, kind, *named], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
