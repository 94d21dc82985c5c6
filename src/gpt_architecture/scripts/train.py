"""`gpt-architecture train` : d'un texte à un modèle entraîné."""

from __future__ import annotations

import sys
from contextlib import nullcontext

if __package__ in (None, ""):  # lancé par son chemin : python3 train.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from typing import Annotated

from cyclopts import Parameter

from gpt_architecture.cli.command import CommonOptions, command_line
from gpt_architecture.cli.launch import (
    ScaleOptions,
    StopRequest,
    graceful_stop,
    launch_processes,
    launched_by_torchrun,
)
from gpt_architecture.cli.train.options import (
    CheckpointOptions,
    ComputeOptions,
    FinetuningOptions,
    LabelOptions,
    LearningOptions,
    ObjectiveOptions,
    OptimizerOptions,
    RunOptions,
    ScheduleOptions,
    ShapeOptions,
    TrainingDefaults,
)
from gpt_architecture.config import (
    CheckpointConfig,
    ComputeConfig,
    LabelConfig,
    OptimizerConfig,
    ScheduleConfig,
    ShapeConfig,
    TrainingRequest,
)


def train(
    *,
    run: RunOptions = RunOptions(),  # noqa: B008 — immuable, comme les suivants
    shape: ShapeOptions = ShapeConfig(),  # noqa: B008
    finetuning: FinetuningOptions = FinetuningOptions(),  # noqa: B008
    objective: ObjectiveOptions = ObjectiveOptions(),  # noqa: B008
    labels: LabelOptions = LabelConfig(),  # noqa: B008
    learning: LearningOptions = LearningOptions(),  # noqa: B008
    optimizer: OptimizerOptions = OptimizerConfig(),  # noqa: B008
    schedule: ScheduleOptions = ScheduleConfig(),  # noqa: B008
    saving: CheckpointOptions = CheckpointConfig(),  # noqa: B008
    compute: ComputeOptions = ComputeConfig(),  # noqa: B008
    scale: ScaleOptions = ScaleOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
    defaults: Annotated[TrainingDefaults | None, Parameter(parse=False)] = None,
) -> int:
    """Entraîne un modèle sur un texte et écrit gpt-model.pt et loss-plot.pdf.

    Les valeurs par défaut refont l'entraînement de référence : GPT-124M sur The Verdict. Avec
    --from, affine un modèle qui existe ; avec --lora-rank, écrit adapter.safetensors ; avec
    --distill, apprend aussi d'un autre modèle ; avec --classify, apprend à classer des textes.
    """
    del common  # lues par le lanceur
    shape.to_config()  # refuse les formes impossibles avant tout travail
    if scale.launch is not None and not launched_by_torchrun():
        return launch_processes(
            command_line()[1:], processes=scale.launch, max_restarts=scale.max_restarts
        )
    # Avant PyTorch : la préparation aussi s'interrompt sans perte. Une estimation, elle, n'a rien
    # à enregistrer : un signal l'interrompt aussitôt.
    with nullcontext(StopRequest()) if run.estimate else graceful_stop() as stop:
        from gpt_architecture.cli.train.run import run_training

        request = TrainingRequest(
            run=run,
            shape=shape,
            finetuning=finetuning,
            objective=objective,
            labels=labels,
            training=learning.to_config(),
            optimizer=optimizer,
            schedule=schedule,
            checkpoints=saving,
            compute=compute,
        )
        origins = None if defaults is None else defaults.origins
        return run_training(request, run, scale, origins=origins, stop=stop)


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["train", *sys.argv[1:]])
