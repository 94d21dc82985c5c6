"""Le déroulement de `train` : préparer, estimer ou entraîner, et dire."""

from __future__ import annotations

import signal
from dataclasses import replace

import gpt_architecture.interop  # noqa: F401 — les formats d'ailleurs s'inscrivent à la porte
from gpt_architecture.cli.command import read_prompt, say
from gpt_architecture.cli.launch import ScaleOptions, StopRequest, check_alone, training_world
from gpt_architecture.cli.train.options import RunOptions
from gpt_architecture.cli.train.report import (
    TerminalReporter,
    announce,
    report_estimate,
    report_interruption,
)
from gpt_architecture.config import TrainingRequest
from gpt_architecture.training.estimate import PROBED_STEPS
from gpt_architecture.training.inputs import Origins
from gpt_architecture.training.outputs import checkpoints_kept
from gpt_architecture.training.preparation import TrainingRun, prepare
from gpt_architecture.training.run import estimate, train_model

SIGTERM_CODE = 128 + signal.SIGTERM


def run_training(
    request: TrainingRequest,
    options: RunOptions,
    scale: ScaleOptions,
    *,
    origins: Origins | None,
    stop: StopRequest,
) -> int:
    """Entraîne, du début ou d'un point de reprise ; rend le code de sortie.

    Chaque processus l'appelle : le premier seul écrit et parle.

    Args:
        request: ce qui est demandé.
        options: le même groupe, avec ce qui ne vaut que pour cet appel.
        scale: sur combien de processus.
        origins: ce qui est déjà lu.
        stop: un signal demande-t-il l'arrêt ?
    """
    if options.prompt is not None:
        run_config = replace(request.run, prompt=read_prompt(options.prompt))
        request = replace(request, run=run_config)
    with training_world(scale, options.device) as world:
        check_alone(world, {"--estimate": options.estimate})
        run = prepare(
            request,
            origins,
            world=world,
            strategy=scale.parallel,
            resumes_alone=scale.resumes_alone and not options.estimate,
        )
        if options.estimate:
            _estimate(run, options.price_per_hour)
            return 0
        outcome = train_model(run, TerminalReporter(), should_stop=stop)
        if outcome.model is not None:
            return 0
    report_interruption(outcome.state, run.store, run.output_dir)
    return stop.exit_code or SIGTERM_CODE  # le signal a pu n'atteindre qu'un autre processus


def _estimate(run: TrainingRun, price_per_hour: float | None) -> None:
    """Mesure quelques étapes et dit ce que l'entraînement demandera."""
    announce(run.settings, run.data)
    say(f"Mesure de {PROBED_STEPS} étapes, après une d'échauffement…\n")
    report_estimate(
        estimate(run),
        product=run.product,
        kept=checkpoints_kept(run.settings.checkpoints),
        price_per_hour=price_per_hour,
    )
