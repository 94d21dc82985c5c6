"""Oublier exactement : qui a lu ce qui est retiré, d'où repartir, à quel coût ; et repartir.

Un entraînement est une fonction de ses données : celui dont des tokens sont masqués (voir
`data.masking`) ne diffère de l'original qu'à partir de la première étape qui les lit. L'oubli
repart donc du dernier point de reprise gardé d'avant elle, et refait tout ce qui suit : ses poids
sont, au bit près, ceux d'un entraînement masqué dès le début.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpt_architecture.config import FREE_SETTINGS
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.masking import neutral_of, reading_steps, without
from gpt_architecture.data.places import Target, find_places
from gpt_architecture.data.removal import (
    REMOVAL_NAME,
    Removal,
    Span,
    span_array,
    subtracted,
)
from gpt_architecture.data.sampler import PairedSource
from gpt_architecture.data.shards.reader import TokenShards
from gpt_architecture.errors import CertificateError, CheckpointError, ConfigurationError, DataError
from gpt_architecture.formats.journal import JOURNAL, finite_number, read_records
from gpt_architecture.storage import open_regular
from gpt_architecture.storage.chain import CERTIFICATE, read_chain
from gpt_architecture.training.arithmetic import arithmetic, arithmetic_changes, same_threads
from gpt_architecture.training.audit import Audit
from gpt_architecture.training.checkpoint import Checkpoint
from gpt_architecture.training.evidence import removal_in, request_at
from gpt_architecture.training.inputs import Origins, whole_data
from gpt_architecture.training.preparation import TrainingRun, estimate, prepare
from gpt_architecture.training.replay import setting_differences
from gpt_architecture.training.session import Settings, measured_sets

WORK = "oubli.incomplete"
"""Le dossier, dans celui du modèle, où un oubli se prépare."""

ASIDE = "avant-oubli"
"""Le dossier où l'ancien est gardé, si c'est demandé ; un autre oubli garde le sien à côté."""

_CALCULATION = {"engine", "precision"}
_LENGTH = {"epochs", "max_steps"}
_PATIENCE = {"eval_freq", "eval_iter", "patience"}


@dataclass(frozen=True, kw_only=True)
class ForgetPlan:
    """Un oubli prêt à partir ; rien n'est encore écrit.

    Attributes:
        folder: le dossier de l'entraînement.
        product: le fichier de son modèle.
        audit: son certificat, vérifié sans rejeu.
        run: l'entraînement, masqué, qui écrira dans `WORK`.
        whole: ses données, rien n'en étant retiré.
        removal: tout ce qui est retiré, les oublis d'avant compris.
        train: ce que cet oubli-ci retire de la suite d'entraînement.
        val: de même, de la validation.
        seen: étapes qui l'ont lu.
        first: la première d'entre elles ; None : rien n'est à refaire.
        restart: étapes faites au point d'où l'on repart.
        total: étapes de l'entraînement.
        checkpoint: ce point ; None : le début.
        reworded: vrai si les premiers mots, que le modèle garde pour ses exemples, changent.
        measured_val: vrai si les mesures de l'entraînement lisaient de ce qui est retiré.
        seconds: durée de ce qui est à refaire, d'après le journal ou quelques étapes mesurées.
        measured: vrai si le journal l'a dite.
        notes: ce qu'il faut savoir de l'exactitude ; vide : l'égalité est au bit près.
    """

    folder: Path
    product: Path
    audit: Audit
    run: TrainingRun
    whole: TrainingData
    removal: Removal
    train: tuple[Span, ...]
    val: tuple[Span, ...]
    seen: int
    first: int | None
    restart: int
    total: int
    checkpoint: Checkpoint | None
    reworded: bool
    measured_val: bool
    seconds: float
    measured: bool
    notes: tuple[str, ...]

    @property
    def redone(self) -> int:
        """Étapes à refaire."""
        return 0 if self.first is None else self.total - self.restart

    @property
    def tokens(self) -> int:
        """Tokens que cet oubli retire de l'entraînement."""
        return sum(stop - start for start, stop in self.train)

    @property
    def val_tokens(self) -> int:
        """Tokens qu'il retire de la validation."""
        return sum(stop - start for start, stop in self.val)

    @property
    def threads(self) -> int:
        """Threads de l'entraînement, dont dépendent les arrondis."""
        facts = self.audit.story.facts_at(self.audit.story.last)
        return int(facts["arithmetic"]["threads"])


def plan_forgetting(
    folder: Path | str,
    product: Path | str,
    target: Target,
    given: Mapping[str, Any],
    *,
    sign_key: Path | str | None = None,
    timed: bool = True,
) -> ForgetPlan:
    """Cherche ce qui est à oublier, qui l'a lu, et ce qu'il faudra refaire ; n'écrit rien.

    Args:
        folder: dossier de l'entraînement, avec son certificat.
        product: son modèle, ou ses adaptateurs.
        target: ce qui est à oublier.
        given: d'où lire les données (voir `evidence.origins_of`).
        sign_key: clé qui signera la suite du certificat.
        timed: mesure quelques étapes si le journal ne dit pas leur durée.

    Raises:
        CertificateError: certificat absent, abîmé, inachevé, ou d'un autre modèle.
        DataError: ce ne sont pas les données de l'entraînement, ou rien n'y est à oublier.
        CheckpointError: rien d'où repartir.
    """
    folder, product = Path(folder), Path(product)
    audit = _audited(folder, product)
    audit.find_sources(given, own=True)
    story = audit.story
    facts = story.facts_at(story.last)
    before, request = removal_in(facts), request_at(facts, audit.given)
    origins = Origins(learned=audit.tokenizer)
    whole = whole_data(request, request.learning, origins.of_request(request))
    if whole.labelled is not None or isinstance(whole.train, PairedSource):
        learned = "des exemples étiquetés" if whole.labelled is not None else "des préférences"
        raise ConfigurationError(
            f"ce modèle a appris {learned} : il n'oublie pas ainsi",
            expected="un modèle appris d'un texte, d'un mélange ou de conversations",
            remedy="ôtez du fichier ce qui est à oublier, et entraînez de nouveau",
        )
    ratio = request.learning.train_ratio
    train, val = find_places(target, whole, request.run, train_ratio=ratio)
    removal = Removal(
        data=whole.sha256,
        tokenizer=whole.tokenizer_sha256,
        neutral=neutral_of(whole.tokenizer),
        train=train,
        val=val,
    ).union(before)
    prompt = None if audit.latest is None else audit.latest.state["options"].get("prompt")
    asked = replace(
        request.run,
        output_dir=folder / WORK,
        forget=folder.resolve() / REMOVAL_NAME,
        sign_key=None if sign_key is None else Path(sign_key),
        prompt=prompt,
        override=True,
    )
    run = prepare(replace(request, run=asked), origins, data=without(whole, removal))
    told = run.settings.identity(replace(run.data, removal=before))
    for difference in setting_differences(facts, told):
        raise DataError(
            f"ce n'est pas l'entraînement certifié : {difference.message}",
            expected="les données et les réglages que le certificat dit",
            remedy="rendez-les, ou donnez-les par `data`",
        )
    measured_sets(run.settings, run.data)  # il reste de quoi mesurer
    fresh = subtracted(train, () if before is None else before.train)
    fresh_val = subtracted(val, () if before is None else before.val)
    sampler = run.settings.sampler(run.data.train)
    total = run.settings.total_steps(sampler)
    seen = reading_steps(sampler, fresh, min(story.last, total))
    known = whole if before is None else without(whole, before)
    measured_val = _is_measured(known, fresh_val, run.settings)
    first = int(seen.argmax()) if seen.any() else None
    if measured_val and run.settings.training.patience is not None:
        first = 0  # l'arrêt anticipé a pu dépendre de chaque mesure
    restart, checkpoint = story.last, None
    if first is not None:
        restart, checkpoint = _restart(audit, first)
        _check_same_settings(audit, restart)
        if checkpoint is not None and measured_val:
            checkpoint = replace(checkpoint, state=without_best(checkpoint.state))
    notes = _notes(audit, restart, run.settings)
    seconds = _journal_seconds(folder, checkpoint, story.last)
    measured = seconds is not None and not notes
    if first is None:
        seconds = 0.0
    elif not measured and timed:
        origins.checkpoint = checkpoint
        with same_threads(int(facts["arithmetic"]["threads"])):
            seconds = estimate(run).seconds
    return ForgetPlan(
        folder=folder,
        product=product,
        audit=audit,
        run=run,
        whole=whole,
        removal=removal,
        train=fresh,
        val=fresh_val,
        seen=int(seen.sum()),
        first=first,
        restart=restart,
        total=total,
        checkpoint=checkpoint,
        reworded=known.opening != run.data.opening,
        measured_val=measured_val,
        seconds=seconds or 0.0,
        measured=measured,
        notes=notes,
    )


def _audited(folder: Path, product: Path) -> Audit:
    """Le certificat d'un dossier, s'il est sain, fini, et celui de ce modèle."""
    path = folder / CERTIFICATE
    if not path.exists():
        raise CertificateError(
            f"certificat introuvable : {path}",
            expected="celui que « gpt-architecture train » écrit à côté du modèle",
            remedy="rendez-le au dossier, ou entraînez de nouveau en retirant le texte des données",
        )
    audit = Audit(read_chain(path), folder)
    if not audit.differences:
        audit.check_product(product)
        audit.check_checkpoints()
    for each in audit.differences:
        if each.cause != "point de reprise":  # un point abîmé ne sert pas, c'est tout
            raise CertificateError(
                f"{path} ne convient pas : {each.message}",
                expected="le certificat, intact et fini, de ce modèle",
                remedy="finissez l'entraînement (`resume`), ou rendez le certificat d'origine",
            )
    return audit


def _restart(audit: Audit, first: int) -> tuple[int, Checkpoint | None]:
    """Le dernier point gardé qui n'a rien lu de ce qui est retiré, sinon le début.

    Raises:
        CheckpointError: ni l'un ni l'autre.
    """
    kept = [step for step in audit.kept if step <= first]
    if kept:
        return max(kept), audit.kept[max(kept)]
    if audit.story.first > 0:
        raise CheckpointError(
            f"aucun point de reprise d'avant l'étape {first}, et le certificat ne commence qu'à "
            f"l'étape {audit.story.first}",
            expected="un point d'avant la première lecture, ou le début",
            remedy="entraînez de nouveau en retirant le texte des données",
        )
    return 0, None


def _check_same_settings(audit: Audit, restart: int) -> None:
    """Refuse un entraînement dont les réglages ont changé en chemin, là où il est à refaire.

    Raises:
        ConfigurationError: le refaire d'une traite donnerait d'autres poids.
    """
    story = audit.story
    last = story.facts_at(story.last)["options"]
    free = {*FREE_SETTINGS, *_CALCULATION}
    if last.get("schedule") != "constant":
        free -= _LENGTH
    if last.get("patience") is not None:
        free -= _PATIENCE
    starts = [restart, *(at for at in sorted(story.facts) if at > restart)]
    for before, after in pairwise(starts):
        one, two = (story.facts_at(at)["options"] for at in (before, after))
        changed = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
        if changed - free:
            raise ConfigurationError(
                f"les réglages ont changé à l'étape {after} ({', '.join(sorted(changed - free))})",
                expected="un entraînement mené aux mêmes réglages",
                remedy="entraînez de nouveau, en retirant le texte des données",
            )


def _is_measured(data: TrainingData, val: Sequence[Span], settings: Settings) -> bool:
    """Vrai si les mesures de l'entraînement lisaient ce qui est retiré de la validation."""
    if not val:
        return False
    _, (_, starts) = measured_sets(settings, data)
    spans = span_array(val)
    reach = starts[:, None] + settings.window  # (N, 1)
    return bool(((spans[:, 0] <= reach) & (spans[:, 1] > starts[:, None])).any())


def without_best(state: Mapping[str, Any]) -> dict[str, Any]:
    """L'état d'un point, sans la meilleure mesure d'avant : elle lisait ce qui est retiré."""
    return {**state, "trainer": {**state["trainer"], "best_loss": None, "best_step": -1}}


def _notes(audit: Audit, restart: int, settings: Settings) -> tuple[str, ...]:
    """Pourquoi l'égalité ne serait pas au bit près."""
    facts, notes = audit.story.facts_at(restart), list[str]()
    known = {name: facts["arithmetic"].get(name) for name in ("engine", "device", "precision")}
    threads = {"threads": facts["arithmetic"].get("threads")}  # reprises à l'identique
    now = {**arithmetic(known, settings.device), **threads}
    changes = arithmetic_changes(facts["arithmetic"], now)
    if changes:
        notes.append(
            f"Autre arithmétique qu'à l'entraînement ({', '.join(changes)}) : l'oubli est exact, "
            "mais l'égalité au bit près est celle d'un entraînement masqué qui aurait changé de "
            "machine à cet endroit."
        )
    return tuple(notes)


def _journal_seconds(folder: Path, checkpoint: Checkpoint | None, last: int) -> float | None:
    """La durée de ce qui suivait ce point, d'après le journal ; None : il ne la dit pas."""
    try:
        with open_regular(folder / JOURNAL) as lines:
            ends = [
                each.get("seconds")
                for each in read_records(lines)
                if each["kind"] == "end" and each.get("step") == last
            ]
    except OSError:
        return None
    end = finite_number(ends[-1]) if ends else None
    start = 0.0 if checkpoint is None else checkpoint.state["trainer"].get("seconds")
    done = finite_number(start)
    return None if end is None or done is None or end <= done else end - done


def remaining(plan: ForgetPlan) -> list[str]:
    """Où le texte oublié peut se trouver encore, une phrase par endroit."""
    data, found = plan.whole, [f"les données elles-mêmes ({plan.whole.name})"]
    parts = getattr(data.train, "parts", (data.train,))
    if any(isinstance(each, TokenShards) for each in parts):
        found.append("les fragments de tokens, leur index et les préparations qui en dépendent")
    facts = plan.audit.story.facts_at(plan.audit.story.last)
    if data.tokenizer.name != "gpt2" and plan.run.settings.start is None:
        found.append(
            f"le vocabulaire ({data.tokenizer.name}), s'il a été appris sur ce texte : des mots "
            "rares peuvent y être des tokens"
        )
    if facts["identity"].get("start"):
        found.append("le modèle de départ, s'il a lu ce texte")
    if facts["identity"].get("objective", {}).get("teacher"):
        found.append("le professeur, s'il a lu ce texte")
    if plan.run.request.run.prompt is not None:
        found.append("l'invite d'exemple donnée à l'entraînement, si elle en cite")
    kept = sorted(each.name for each in plan.folder.glob(f"{ASIDE}*") if each.is_dir())
    if kept:
        found.append(f"l'ancien modèle, gardé ({', '.join(kept)})")
    if (plan.folder / "tensorboard").is_dir():
        found.append("les mesures de TensorBoard d'avant, prises sur lui (tensorboard)")
    found.append("les copies, exports, quantifications et sauvegardes faits de l'ancien modèle")
    found.append(
        "les empreintes des lots défaits, dans le certificat : qui a tout le reste du texte peut y "
        "vérifier une supposition"
    )
    return found
