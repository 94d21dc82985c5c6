"""Le certificat d'un entraînement : ce qu'il a lu, calculé et obtenu, en empreintes chaînées.

Les maillons, dans l'ordre : `start` (réglages, données, tokenizer, arithmétique, poids de départ),
`steps` (les lots lus et les pertes de quelques étapes), `weights` (les poids et les moments, à
chaque point de reprise), `resume` (d'où l'on repart, et ce qui a changé), `removal` (de même, quand
des tokens sont retirés), `end` (les poids finis).
Ce qu'un texte contient n'y est pas : des empreintes seulement.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gpt_architecture.config import VERSION
from gpt_architecture.data.sampler import document_starts, make_batch
from gpt_architecture.errors import CertificateError, OutputError
from gpt_architecture.formats.story import read_story
from gpt_architecture.storage.chain import CERTIFICATE, Chain, Signer, canonical, read_chain
from gpt_architecture.training.arithmetic import arithmetic
from gpt_architecture.training.callbacks import Callback, StepRecord
from gpt_architecture.training.checkpoint import Checkpoint, TrainingState, capture
from gpt_architecture.training.step import TokenBatches

if TYPE_CHECKING:
    from gpt_architecture.training.preparation import TrainingRun
    from gpt_architecture.training.trainer import Trainer

_DAMAGED = "certificat-abime.json"
_SPANS = 1000  # maillons d'étapes, au plus, d'un entraînement d'une traite
_MANY = 10_000  # au-delà, un point de reprise trop proche n'a plus le sien
_PLACES = (
    *("data", "source", "chat", "chat_template", "from", "tokenizer", "forget"),
    *("preferences", "distill", "classify", "val"),
)
_UNSAID = ("prompt", "sign_key")
_REMOVAL = "removal"

logger = logging.getLogger(__name__)


@cache
def code_sha256() -> str:
    """Empreinte des sources du paquet : noms et contenus des fichiers Python, triés."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Empreinte de tenseurs : noms, types, formes et octets ; leur ordre n'y change rien.

    Chacun a d'abord la sienne : deux threads les prennent.
    """
    names = sorted(tensors)
    with ThreadPoolExecutor(max_workers=2) as pool:
        each = list(pool.map(lambda name: _tensor_sha256(tensors[name]), names))
    text = "".join(f"{name} {found}\n" for name, found in zip(names, each, strict=True))
    return hashlib.sha256(text.encode()).hexdigest()


def _tensor_sha256(tensor: Tensor) -> str:
    held = tensor.detach().to("cpu").contiguous()
    digest = hashlib.sha256(f"{held.dtype} {tuple(held.shape)}\n".encode())
    digest.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_digests(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str | None]:
    """Les empreintes de ce qu'un point de reprise porte (voir `checkpoint.capture`).

    Des poids répartis entre plusieurs processus n'en ont pas : aucun ne les a en entier.

    Returns:
        `weights` : ceux qui apprennent ; `moments` : l'état de l'optimiseur, None s'il est vide.
    """
    weights = learned_of(groups)
    if any(hasattr(tensor, "full_tensor") for tensor in weights.values()):
        return {"weights": None, "moments": None}
    moments = groups.get("optimizer")
    return {
        "weights": tensors_sha256(weights),
        "moments": tensors_sha256(moments) if moments else None,
    }


def learned_of(groups: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Les poids qui apprennent, parmi ce qu'un point de reprise porte."""
    return next((groups[name] for name in sorted(groups) if name in ("adapter", "model")), {})


def learned_sha256(model: nn.Module) -> str:
    """Empreinte des poids qui apprennent."""
    return tensors_sha256(learned_weights(model))


def learned_weights(model: nn.Module) -> dict[str, Tensor]:
    """Les poids qui apprennent, par leur nom."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


class Span:
    """Des étapes de suite, et leurs empreintes à mesure ; l'entraînement et son rejeu s'en servent.

    Args:
        first: la première, depuis 0.
    """

    def __init__(self, first: int) -> None:
        self.first = self.next = first
        self._batches, self._losses = hashlib.sha256(), hashlib.sha256()
        self._total = 0.0

    def read(self, batches: TokenBatches, step: int) -> None:
        """Ajoute les tokens que l'étape lit, tous processus compris : numéros, entrées, cibles."""
        starts, ids = batches.sampler.batch(step)
        inputs, targets = make_batch(batches.source, starts, batches.sampler.window)
        bounds = document_starts(batches.source, starts, inputs, batches.separator)
        for part in (torch.from_numpy(ids), inputs, targets, bounds):
            if part is not None:
                self._batches.update(f"{tuple(part.shape)}\n".encode())
                self._batches.update(part.contiguous().numpy().astype("<i8", copy=False).data)

    def note(self, record: StepRecord) -> None:
        """Ajoute ce que l'étape a mesuré : perte, norme du gradient, étape sautée ou non."""
        norm = math.nan if record.grad_norm is None else record.grad_norm
        values = (math.nan if math.isnan(each) else each for each in (record.loss, norm))
        self._losses.update(struct.pack("<qdd?", record.step, *values, record.skipped))
        self._total += record.loss
        self.next = record.step + 1

    @property
    def batches(self) -> str:
        """Empreinte des lots lus."""
        return self._batches.hexdigest()

    @property
    def losses(self) -> str:
        """Empreinte de ce qui a été mesuré."""
        return self._losses.hexdigest()

    @property
    def loss(self) -> float | None:
        """Perte moyenne (nats par token) ; None : elle n'est pas finie."""
        mean = self._total / max(1, self.next - self.first)
        return mean if math.isfinite(mean) else None


class CertificateWriter(Callback):
    """Écrit le certificat d'un entraînement, et le continue à la reprise.

    Il est écrit à la fin, et juste avant chaque point de reprise : un arrêt entre les deux le
    laisse en avance, ce que la reprise défait. Un disque qui refuse est dit, et n'arrête pas
    l'entraînement.

    Args:
        run: l'entraînement.

    Raises:
        ConfigurationError: la clé ne convient pas.
        MissingDependencyError: une clé est donnée, et cryptography n'est pas installé.
    """

    def __init__(self, run: TrainingRun) -> None:
        key = run.request.run.sign_key
        self._signer = None if key is None else Signer(key)
        self._path = run.output_dir / CERTIFICATE
        self._run = run
        self._chain = Chain()
        self._trainer: Trainer | None = None
        self._span = Span(0)
        self._every = 1

    def watch(self, trainer: Trainer) -> None:
        """L'entraînement dont il atteste, construit et pas encore parti."""
        self._trainer = trainer

    def on_start(self, state: TrainingState, total_steps: int) -> None:
        """Commence la chaîne, ou la reprend ; les maillons d'étapes se partagent le trajet."""
        self._every = max(1, -(-total_steps // _SPANS))
        self._span = Span(state.step)
        found = {**self._facts(), **self._digests(), "step": state.step, "total": total_steps}
        facts = json.loads(canonical(found))  # comme la relecture les rendra
        previous = self._run.origins.chain
        if previous is None and state.step:
            previous = self._previous(state.step)
        if previous is None:
            self._chain = Chain()
            if facts[_REMOVAL] is None:
                del facts[_REMOVAL]
            self._chain.add("start", **facts)
        else:
            self._chain = previous
            known = read_story(previous).facts_at(state.step)
            changed = {name: value for name, value in facts.items() if known.get(name) != value}
            kept = {name: facts[name] for name in ("step", "weights", "moments")}
            self._chain.add(_REMOVAL if changed.get(_REMOVAL) else "resume", **{**changed, **kept})

    def on_step(self, record: StepRecord) -> None:
        """Ajoute l'étape à son maillon."""
        if self._trainer is None:
            return
        self._span.read(self._trainer.batches, record.step)
        self._span.note(record)
        if self._span.next - self._span.first >= self._every:
            self._close_span()

    def before_save(self, step: int) -> None:
        """Les poids du point de reprise à venir, puis le certificat."""
        self._close_span()
        if len(self._chain.links) <= _MANY or step % (10 * self._every) == 0:
            self._chain.add("weights", step=step, **self._digests())
        self._write()

    def on_end(self, state: TrainingState) -> None:
        """Ferme le dernier maillon d'étapes, et rend l'entraînement."""
        self._close_span()
        self._trainer = None

    def conclude(self, model: nn.Module, state: TrainingState) -> None:
        """Les poids finis, une fois le modèle écrit."""
        self._chain.add("end", step=state.step, weights=learned_sha256(model))
        self._write()

    def _close_span(self) -> None:
        span = self._span
        if span.next > span.first:
            self._chain.add(
                "steps",
                first=span.first,
                last=span.next - 1,
                batches=span.batches,
                losses=span.losses,
                loss=span.loss,
            )
            self._span = Span(span.next)

    def _digests(self) -> dict[str, str | None]:
        trainer = self._trainer
        if trainer is None:
            return {"weights": None, "moments": None}
        return state_digests(capture(trainer.model, trainer.optimizer))

    def _facts(self) -> dict[str, Any]:
        run, trainer = self._run, self._trainer
        calculation = {} if trainer is None else trainer.config.extra["calculation"]
        found = arithmetic(calculation, run.settings.device, processes=run.world.size)
        return {
            "arithmetic": found,
            "code": {"sha256": code_sha256(), "version": VERSION},
            "identity": run.settings.identity(run.data),
            "options": public_options(run.settings.options),
            _REMOVAL: None if run.data.removal is None else run.data.removal.to_dict(),
        }

    def _previous(self, step: int) -> Chain | None:
        """La chaîne à continuer ; sinon elle est gardée à part, et une autre commence."""
        if not self._path.exists():
            logger.warning("%s manque : ce qui précède n'est pas certifié", self._path)
            return None
        try:
            found = read_chain(self._path)
            story = read_story(found)
            faults = [each for each in story.differences if each.cause != "inachevé"]
            if not faults and story.first <= step <= story.last:
                return found
            why = f"il va des étapes {story.first} à {story.last}, et l'on repart de {step}"
            why = faults[0].message if faults else why
        except CertificateError as error:
            why = error.found
        self._set_aside(why)
        return None

    def _set_aside(self, why: str) -> None:
        """Garde à part un certificat qui ne peut être continué, sans en écraser un autre."""
        names = chain([_DAMAGED], (_DAMAGED.replace(".", f"-{n}.") for n in count(2)))
        aside = next(p for p in map(self._path.with_name, names) if not os.path.lexists(p))
        try:
            self._path.replace(aside)
        except OSError as error:
            raise OutputError.refused(aside, error) from error
        logger.warning("certificat abîmé, gardé dans %s : %s ; un autre commence", aside, why)

    def _write(self) -> None:
        try:
            self._chain.save(self._path, self._signer)
        except OutputError as error:
            logger.warning("certificat non écrit : %s", error)


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Les réglages d'un entraînement, sans les chemins de la machine ni l'invite."""
    return {
        name: None if name in _PLACES and _has_path(value) else value
        for name, value in options.items()
        if name not in _UNSAID
    }


def _has_path(value: Any) -> bool:
    """Vrai si une valeur nomme un endroit de cette machine, et non un corpus connu."""
    if isinstance(value, (list, tuple)):
        return any(map(_has_path, value))
    is_path = isinstance(value, str) and ("/" in value or "\\" in value)
    return is_path and not value.startswith(("hub:", "hf:"))


def checkpoint_digests(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Les empreintes d'un point de reprise lu."""
    names = [name for name in checkpoint.names if name != "rng"]
    return state_digests({name: checkpoint.tensors(name) for name in names})
