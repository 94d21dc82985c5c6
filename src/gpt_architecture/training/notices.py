"""Les phrases de la boucle d'entraînement : étape sautée, abandon, mémoire insuffisante."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpt_architecture.errors import TrainingError
from gpt_architecture.training.callbacks import StepRecord
from gpt_architecture.training.state import TrainingState

_NAMED = 3


def skip_notice(record: StepRecord, held_back: Sequence[str], parameters: int) -> str:
    """Ce qu'une étape non finie a laissé tel quel : tous les poids, ou quelques paramètres.

    Args:
        record: l'étape.
        held_back: paramètres laissés tels quels par un moteur qui met à jour chacun à mesure.
        parameters: nombre de paramètres du modèle.
    """
    step = f"Étape {record.step:06d}"
    if 0 < len(held_back) < parameters:
        more = ", …" if len(held_back) > _NAMED else ""
        return (
            f"{step} incomplète : le gradient de {len(held_back)} paramètre(s) sur {parameters} "
            f"n'est pas fini ; ils restent tels quels ({', '.join(held_back[:_NAMED])}{more})."
        )
    if held_back:
        culprit = "la perte ou le gradient"
    else:
        culprit = "le gradient" if math.isfinite(record.loss) else "la perte"
    return f"{step} sautée : {culprit} n'est pas un nombre fini."


def too_many_bad_steps(state: TrainingState, step: int) -> TrainingError:
    """L'abandon après trop d'étapes non finies de suite, la dernière étant `step`."""
    return TrainingError(
        f"la perte ou le gradient n'est pas fini depuis {state.bad_in_a_row} étapes "
        f"(jusqu'à l'étape {step})",
        expected="des nombres finis",
        remedy="réduisez le taux d'apprentissage (`lr`) ou le gradient (`clip`), puis "
        "reprenez au dernier point de reprise s'il y en a un",
    )


def out_of_memory() -> TrainingError:
    """Une étape qui ne tient pas en mémoire, et les réglages qui y peuvent quelque chose."""
    return TrainingError(
        "mémoire insuffisante pour une étape",
        expected="de quoi tenir les poids, leurs moments et les activations d'un lot",
        remedy="réduisez `batch_size` (`accumulate` garde le lot effectif), `context_length` ou "
        "la taille du modèle, ou ajoutez `checkpoint_activations` ou `memory=lean`",
    )
