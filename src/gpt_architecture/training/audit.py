"""Vérifier un certificat : sa chaîne, ses fichiers, ses lots, puis des étapes rejouées.

Trois choses se vérifient en entier, sans calcul long : la chaîne elle-même (`story`), les poids du
modèle et des points de reprise gardés, et les lots de chaque étape, relus des données. Le reste se
rejoue (`replay`) : d'un point de reprise gardé, ou du début, jusqu'au suivant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from gpt_architecture.data.masking import first_reading
from gpt_architecture.data.places import Target, find_places
from gpt_architecture.data.removal import subtracted
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict
from gpt_architecture.errors import (
    ConfigurationError,
    GPTArchitectureError,
    MissingDependencyError,
)
from gpt_architecture.formats.adapter_file import read_adapter
from gpt_architecture.formats.checkpoint import read_checkpoint, write_checkpoint
from gpt_architecture.formats.door import read_any
from gpt_architecture.formats.story import Cause, Difference, read_story
from gpt_architecture.french import counted, decimal
from gpt_architecture.storage.chain import Chain, canonical, is_signed
from gpt_architecture.training.arithmetic import (
    Tolerance,
    arithmetic,
    arithmetic_changes,
    deterministic_algorithms,
    same_threads,
    tolerance,
)
from gpt_architecture.training.certificate import learned_of, learned_weights, tensors_sha256
from gpt_architecture.training.checkpoint import CHECKPOINTS, Checkpoint, CheckpointStore, capture
from gpt_architecture.training.evidence import (
    TEXTS,
    check_given,
    origins_of,
    removal_in,
    request_at,
)
from gpt_architecture.training.inputs import Origins, whole_data
from gpt_architecture.training.preparation import TrainingRun, prepare
from gpt_architecture.training.replay import (
    Interval,
    Outcome,
    draw,
    explained,
    first_other_batch,
    kept_checkpoints,
    replay,
    setting_differences,
)
from gpt_architecture.training.session import batches_of, build_trainer
from gpt_architecture.training.trainer import Trainer


class Audit:
    """Une vérification en cours : ce qui diffère et ce qu'il faut savoir, à mesure."""

    def __init__(self, chain: Chain, folder: Path | str) -> None:
        self.chain, self.story = chain, read_story(chain)
        self.store = CheckpointStore(Path(folder) / CHECKPOINTS)
        self.differences: list[Difference] = list(self.story.differences)
        self.notes: list[str] = []
        self.kept: dict[int, Checkpoint] = {}
        self.tokenizer: Tokenizer | None = None
        self.outcomes: list[tuple[Interval, Outcome]] = []
        self.runs: dict[str, TrainingRun] = {}
        self.given: dict[str, Any] = {}
        self.finished: Mapping[str, Tensor] | None = None

    def refuse(self, cause: Cause, message: str, step: int | None = None) -> None:
        """Note une différence."""
        self.differences.append(Difference(cause=cause, step=step, message=message))

    def check_signature(self, key: str | None) -> None:
        """La clé donnée a signé le dernier maillon ; sans elle, une signature n'est que dite."""
        signature = self.chain.signature
        if key is None:
            if signature is not None:
                who = f"{signature['public_key'][:16]}…"
                self.notes.append(f"Signé par la clé {who}, qui n'est pas vérifiée.")
            return
        if signature is None:
            self.refuse("signature", "le certificat n'est pas signé")
        elif signature["public_key"] != key:
            self.refuse("signature", "il est signé par une autre clé")
        elif not is_signed(signature, self.chain.head):
            self.refuse("signature", "la signature n'est pas celle de ce certificat")
        else:
            self.notes.append("Signature vérifiée.")

    def check_product(self, product: Path | str | None) -> None:
        """Les poids du modèle sont ceux que le certificat finit par dire."""
        story = self.story
        if product is None:
            self.notes.append("Aucun modèle dans ce dossier : ses poids ne sont pas comparés.")
            if [each.cause for each in self.differences] == ["inachevé"]:
                self.notes.append(f"{self.differences.pop().message.capitalize()}.")
            return
        if not story.links:
            return
        end, facts = story.links[-1], story.facts_at(story.last)
        if (facts.get("identity") or {}).get("lora"):
            adapter = read_adapter(product)
            weights, metadata = adapter.tensors, adapter.metadata
        else:
            content = read_any(product)
            weights, metadata = learned_weights(content.build()), content.metadata
            self.tokenizer = tokenizer_from_dict(content.tokenizer)
        identity = {name: metadata.get(name) for name in facts.get("identity", {})}
        if canonical(identity) != canonical(facts.get("identity", {})):
            self.refuse("modèle", f"{product} vient d'un autre entraînement que ce certificat")
        elif end["kind"] == "end" and end.get("weights") == tensors_sha256(weights):
            self.finished = weights
        elif end["kind"] == "end":
            message = f"les poids de {product} ne sont pas ceux que le certificat finit par dire"
            self.refuse("modèle", message, story.last)

    def check_checkpoints(self) -> None:
        """Les points de reprise gardés sont ceux que le certificat connaît."""
        self.kept, differences = kept_checkpoints(self.store, self.story)
        self.differences += differences
        if self.tokenizer is None and self.kept:
            self.tokenizer = tokenizer_from_dict(self.kept[max(self.kept)].state["tokenizer"])

    def replay(
        self,
        given: Mapping[str, Any],
        share: float,
        seed: int,
        on_progress: Callable[[int, int], None],
        target: Target | None = None,
    ) -> None:
        """Relit les données, puis rejoue les intervalles choisis au hasard.

        Args:
            given: d'où lire les données.
            share: part des étapes à rejouer.
            seed: graine de ce choix.
            on_progress: reçoit les étapes rejouées et leur nombre.
            target: ce qui doit être retiré ; None : rien n'en est exigé.

        Raises:
            DataError: les données ne se trouvent pas, ou n'ont pas ce qui doit être retiré.
        """
        story = self.story
        self.find_sources(given, otherwise=", ou `chain_only` pour ne rien rejouer")
        if not self._read_again():
            return
        if target is not None:
            self._check_target(target)
        anchors = [*self.kept, *([0] if story.first == 0 else [])]
        if not anchors:
            self.notes.append("Aucun point de reprise n'est gardé : rien ne peut être rejoué.")
            return
        chosen = draw(story, anchors, share, seed)
        total, done = sum(each.stop - each.first for each in chosen), 0
        for interval in chosen:
            outcome = self._replayed(interval, _shifted(on_progress, done, total))
            done += outcome.steps
            self.outcomes.append((interval, outcome))
            if interval.cut is not None:
                self.notes.append(interval.cut)
            if outcome.difference is not None:
                self.differences.append(outcome.difference)
                return
        exact = all(outcome.exact for _, outcome in self.outcomes)
        compared = set[int]().union(*(outcome.compared for _, outcome in self.outcomes))
        if not exact and self.finished is not None and story.last not in compared:
            self.notes.append("Les poids du modèle fini n'ont été comparés à aucun rejeu.")

    def find_sources(
        self, given: Mapping[str, Any], *, own: bool = False, otherwise: str = ""
    ) -> None:
        """Retient d'où lire les données (voir `evidence.origins_of`).

        Raises:
            ConfigurationError: elles ne sont nommées nulle part.
            DataError: ce qui est donné n'est pas là.
            ModelFileError: de même, du modèle de départ.
        """
        self.given = origins_of(given, self.latest, own=own)
        if not any(self.given.get(name) for name in TEXTS):
            raise ConfigurationError(
                "les données de l'entraînement ne sont pas nommées",
                expected="celles que « train » a lues",
                remedy=f"ajoutez `data`{otherwise}",
            )
        check_given(given)

    @property
    def latest(self) -> Checkpoint | None:
        """Le dernier point de reprise gardé que le certificat connaît."""
        return self.kept[max(self.kept)] if self.kept else None

    def _read_again(self) -> bool:
        """Relit les données, et compare réglages et lots ; vrai si tout est comme alors."""
        try:
            for at, facts in self.story.facts.items():
                run = self._prepared(at)
                found = setting_differences(facts, run.settings.identity(run.data))
                self.differences += [each for each in found if each not in self.differences]
            self._check_length()
            if any(each.cause == "réglages" for each in self.differences):
                return False  # le nombre d'étapes à relire ne se croit pas
            self._check_removal()
            batches = {name: batches_of(run.settings, run.data) for name, run in self.runs.items()}
            other = first_other_batch(self.story, lambda step: batches[self._key(step)])
            self.differences += [] if other is None else [other]
        except MissingDependencyError:
            raise
        except ConfigurationError as error:
            self.refuse("réglages", f"ceux du certificat ne conviennent pas ({error.found})")
        except GPTArchitectureError as error:
            self.refuse("données", f"elles ne se relisent pas comme alors ({error.found})")
        return not self.differences

    def _check_length(self) -> None:
        """Le certificat n'a pas plus d'étapes que ces réglages et ces données n'en font."""
        made = max(
            run.settings.total_steps(run.settings.sampler(run.data.train))
            for run in self.runs.values()
        )
        if self.story.last > made:
            message = f"{self.story.last} étapes certifiées, ces réglages en font {made}"
            self.refuse("réglages", message, made)

    def _check_removal(self) -> None:
        """Aucune étape qui vaut encore n'a lu ce qui est finalement dit retiré."""
        story = self.story
        final = removal_in(story.facts_at(story.last))
        for first, stop in pairwise([*sorted(story.facts), story.last]):
            masked, run = removal_in(story.facts_at(first)), self._run_at(first)
            left = subtracted(() if final is None else final.train, masked.train if masked else ())
            step = first_reading(run.settings.sampler(run.data.train), left, first, stop)
            if step is not None:
                message = f"l'étape {step} a lu de ce que le certificat dit retiré"
                self.refuse("retrait", message, step)
                return

    def _check_target(self, target: Target) -> None:
        """Tout ce qui est désigné est dans le retrait en vigueur."""
        request = request_at(self.story.facts_at(self.story.last), self.given)
        origins = Origins(learned=self.tokenizer).of_request(request)
        whole = whole_data(request, request.learning, origins)
        ratio = request.learning.train_ratio
        train, val = find_places(target, whole, request.run, train_ratio=ratio)
        removal = self.story.removal
        kept = [subtracted(train, () if removal is None else removal.train)]
        kept.append(subtracted(val, () if removal is None else removal.val))
        counts = [sum(stop - start for start, stop in spans) for spans in kept]
        if any(counts):
            left = f"{counted(counts[0], 'token')} de l'entraînement, {counts[1]} de la validation"
            self.refuse("retrait", f"ce qui est désigné n'est pas retiré en entier ({left})")
        else:
            self.notes.append("Tout ce qui est désigné est dans ce retrait.")

    def _key(self, step: int) -> str:
        facts = self.story.facts_at(step)
        return canonical({"options": facts["options"], "removal": facts.get("removal")})

    def _changes_at(self, step: int) -> bool:
        """Vrai si la reprise de cette étape change ce qui est calculé, ou comment."""
        before, after = self.story.facts_at(step - 1), self.story.facts_at(step)
        decisive = ("options", "arithmetic", "removal")
        return any(before.get(name) != after.get(name) for name in decisive)

    def _prepared(self, step: int) -> TrainingRun:
        key = self._key(step)
        if key not in self.runs:
            facts = self.story.facts_at(step)
            origins = Origins(learned=self.tokenizer, removal=removal_in(facts))
            self.runs[key] = prepare(request_at(facts, self.given), origins)
        return self.runs[key]

    def _run_at(self, step: int) -> TrainingRun:
        """L'entraînement tel qu'il était demandé à cette étape, sur les données d'ici."""
        return self.runs[self._key(step)]

    def _replayed(self, interval: Interval, on_step: Callable[[int], None]) -> Outcome:
        """Rejoue un intervalle, d'une reprise aux réglages changés à l'autre."""
        starts = [at for at in self.story.facts if interval.first < at < interval.stop]
        starts = [at for at in starts if self._changes_at(at)]
        bounds = [interval.first, *starts, interval.stop]
        whole, checkpoint = Outcome(), self.kept.get(interval.first)
        with ExitStack() as stack:
            for first, stop in pairwise(bounds):
                facts = self.story.facts_at(first)
                stack.enter_context(same_threads(facts["arithmetic"]["threads"]))
                trainer = self._trainer(first, checkpoint, stack)
                tolerance = self._tolerance(facts, trainer, first)
                done = whole.steps
                found = replay(
                    self.story,
                    Interval(first=first, stop=stop),
                    trainer,
                    tolerance=tolerance,
                    reason=self._reason,
                    weights_at=self._weights_at,
                    on_step=_shifted(lambda count, _: on_step(count), done, 0),
                )
                whole.steps += found.steps
                whole.exact &= found.exact
                whole.gap = max(whole.gap, found.gap)
                whole.weights_gap = max(whole.weights_gap, found.weights_gap)
                whole.compared |= found.compared
                whole.difference = found.difference
                if found.difference is not None:
                    break
                if stop < interval.stop:
                    checkpoint = _handed_over(trainer, stack)
        return whole

    def _trainer(self, step: int, checkpoint: Checkpoint | None, stack: ExitStack) -> Trainer:
        run = self._run_at(step)
        if run.settings.compute.deterministic:
            stack.enter_context(deterministic_algorithms())
        return build_trainer(run.settings, run.data, checkpoint=checkpoint, other_engine=True)

    def _weights_at(self, step: int) -> Mapping[str, Tensor] | None:
        """Les poids gardés après ces étapes : ceux d'un point de reprise, ou du modèle fini."""
        if step in self.kept:
            kept = self.kept[step]
            names = [name for name in kept.names if name not in ("rng", "optimizer")]
            return learned_of({name: kept.tensors(name) for name in names})
        return self.finished if step == self.story.last else None

    def _tolerance(self, facts: Mapping[str, Any], trainer: Trainer, step: int) -> Tolerance | None:
        """L'écart admis ici ; None : l'arithmétique est la même, les bits doivent l'être."""
        now = arithmetic(trainer.config.extra["calculation"], self._run_at(step).settings.device)
        changes = arithmetic_changes(facts["arithmetic"], now)
        if not changes:
            return None
        found = tolerance(facts["arithmetic"], now)
        note = (
            f"Autre arithmétique qu'à l'entraînement ({', '.join(changes)}) : les pertes sont "
            f"comparées à {decimal(100 * found.losses, 2)} % près, et les poids rejoués, à "
            f"{decimal(100 * found.weights, 0)} % près en norme, à ceux des points de reprise "
            "gardés et du modèle fini ; les moments ne le sont pas, et une retouche plus petite ne "
            "se verrait pas."
        )
        if note not in self.notes:
            self.notes.append(note)
        return found

    def _reason(self, step: int, cause: Cause) -> Difference:
        return explained(self.story.facts_at(step), step, cause)


def _shifted(report: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    """Ce qui reçoit un nombre d'étapes, et dit celles d'avant comprises."""
    return lambda count: report(before + count, total)


def _handed_over(trainer: Trainer, stack: ExitStack) -> Checkpoint:
    """L'état d'un entraînement, comme un point de reprise le rendrait à d'autres réglages."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "point"
    record = {**trainer.config.extra, "trainer": trainer.state.to_dict()}
    write_checkpoint(folder, trainer.state.step, capture(trainer.model, trainer.optimizer), record)
    return read_checkpoint(folder)
