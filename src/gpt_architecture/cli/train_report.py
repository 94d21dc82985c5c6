"""Ce que `train` dit de lui-même : ce qui va être entraîné, ce que cela demande, où reprendre."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from gpt_architecture.cli.command import say
from gpt_architecture.french import french_duration, french_number, french_size

if TYPE_CHECKING:
    from gpt_architecture.cli.products import Product
    from gpt_architecture.data.datasets import TrainingData
    from gpt_architecture.training.checkpoint import Checkpoint, CheckpointStore
    from gpt_architecture.training.estimate import Estimate
    from gpt_architecture.training.session import Settings
    from gpt_architecture.training.state import TrainingState


def announce(settings: Settings, data: TrainingData) -> None:
    """Dit ce qui va être entraîné, et sur quoi."""
    training, window = settings.training, settings.window
    sampler = settings.sampler(data.train.num_tokens)
    unit, size = ("tokens", 1) if data.chat_template is None else ("conversations", window + 1)
    say(
        f"Texte        {data.name} ({data.tokenizer.name}) : "
        f"{french_number(data.train.num_tokens // size)} {unit} d'entraînement, "
        f"{french_number(data.val.num_tokens // size)} de validation"
    )
    say(
        f"Modèle       {french_number(settings.model.num_parameters())} paramètres, "
        f"contexte appris {window} sur {french_number(settings.model.context_length)} positions"
    )
    if settings.start is not None:
        say(f"Départ       {settings.start.name}{_adapters(settings)}")
    batches = f"lots de {training.batch_size} × {window} tokens"
    if training.accumulate > 1:
        batches += (
            f", {training.accumulate} par étape : "
            f"{french_number(settings.sequences * window)} tokens effectifs"
        )
    say(
        f"Entraînement {training.epochs} époque(s) de {sampler.steps_per_epoch} étape(s), "
        f"{french_number(settings.total_steps(sampler))} en tout, {batches}"
    )


def _adapters(settings: Settings) -> str:
    """Les adaptateurs qui apprennent, s'il y en a."""
    if settings.lora is None:
        return ""
    from gpt_architecture.core.lora import adapter_parameters

    lora = settings.lora
    return (
        f", adaptateurs de rang {lora.rank} sur {', '.join(lora.targets)} : "
        f"{french_number(adapter_parameters(settings.model, lora))} paramètres apprennent"
    )


def announce_resume(checkpoint: Checkpoint, settings: Settings, data: TrainingData) -> None:
    """Dit d'où l'on repart, et si le programme du taux s'étend sur un autre nombre d'étapes."""
    say(f"Reprise à l'étape {checkpoint.step}.")
    before = checkpoint.state.get("total_steps")
    total = settings.total_steps(settings.sampler(data.train.num_tokens))
    if before != total and settings.schedule.schedule != "constant":
        say(
            f"Le programme du taux ({settings.schedule.schedule}) s'étend désormais sur {total} "
            f"étapes, et non {before} : le taux fait un saut."
        )


def report_estimate(
    found: Estimate,
    *,
    product: Product,
    kept: int,
    price_per_hour: float | None,
) -> None:
    """Dit durée, débit, mémoire, disque et coût.

    Args:
        found: ce qui a été mesuré.
        product: ce qui sera écrit.
        kept: points de reprise gardés.
        price_per_hour: prix d'une heure ; None : le coût n'est pas dit.
    """
    say(
        f"Durée    {french_duration(found.seconds)} : {french_number(found.steps)} étape(s) de "
        f"{_seconds(found.step_seconds)}, {found.evaluations} évaluation(s) de "
        f"{_seconds(found.evaluation_seconds)}, {found.samples} exemple(s) de "
        f"{_seconds(found.sample_seconds)}"
    )
    say(f"Débit    {found.tokens_per_second:.0f} tokens/s")
    peak = french_size(found.peak_bytes) if found.peak_bytes else "que ce système ne dit pas"
    say(f"Mémoire  {peak} au plus haut")
    say(
        f"Disque   {french_size(product.nbytes + (kept + 1) * product.checkpoint_bytes)} au plus : "
        f"{product.title.lower()} {french_size(product.nbytes)}, {kept} point(s) de reprise de "
        f"{french_size(product.checkpoint_bytes)} et celui qui s'écrit"
    )
    if price_per_hour is not None:
        cost = found.seconds / 3600 * price_per_hour
        say(f"Coût     {cost:.2f}, à {price_per_hour:g} l'heure".replace(".", ","))


def report_product(state: TrainingState, product: Product, path: Path) -> None:
    """Dit que c'est fini, et où est ce qui a été produit."""
    say(f"\nTerminé en {french_duration(state.seconds)}.")
    if state.skipped:
        say(f"Étapes sautées ou incomplètes, faute d'un gradient fini : {state.skipped}")
    say(f"{product.title} : {path} ({french_size(path.stat().st_size)})")


def report_best(state: TrainingState, store: CheckpointStore) -> None:
    """Dit où sont les poids de la meilleure validation, s'ils ont été gardés."""
    path = store.root / f"step-{state.best_step + 1:06d}"
    if state.best_loss is not None and path.is_dir():
        loss = f"{state.best_loss:.3f}".replace(".", ",")
        say(f"Meilleure validation ({loss}) : {path}")


def report_interruption(state: TrainingState, store: CheckpointStore, output_dir: Path) -> None:
    """Dit où est le point de reprise, et la commande qui reprend."""
    path = store.root / f"step-{state.step:06d}"
    say(f"\nInterrompu à l'étape {state.step} ; rien n'est perdu : {path}")
    command = ["gpt-architecture", "train", "--resume", str(output_dir)]
    say(f"Pour reprendre : {shlex.join(command)}")


def _seconds(value: float) -> str:
    return f"{value:.2f} s".replace(".", ",")
