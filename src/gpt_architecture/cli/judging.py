"""Des textes qu'un modèle classe ou note, montrés au terminal ou à un programme."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt_architecture.cli.options import ResultOptions
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import counted, percent

if TYPE_CHECKING:
    from gpt_architecture.api import GPT

_SHOWN = 4  # autres classes d'un texte, au plus


def nothing_to_judge() -> ConfigurationError:
    """L'erreur d'un modèle qui classe, et qui ne reçoit aucun texte."""
    return ConfigurationError(
        "aucun texte à juger",
        expected="un texte (--prompt), ou un fichier qui en a un par ligne (--prompts)",
        remedy="ajoutez --prompt",
    )


def show_judgements(gpt: GPT, texts: Sequence[str], results: ResultOptions) -> None:
    """Juge des textes : une ligne chacun, ou du JSON.

    Args:
        gpt: le modèle, qui a une tête de classe ou de valeur.
        texts: les textes ; aucun : ce qui est demandé est d'écrire, et il n'écrit pas.
        results: où vont les réponses.

    Raises:
        ConfigurationError: il devrait écrire.
    """
    from gpt_architecture.reports.labels import judged

    if not texts:
        gpt.config.check_writes()
    found = gpt.classify(texts)
    records = [{"text": each.text, **each.to_dict()} for each in found]
    if results.emit(records, "infer"):
        return
    for each in found:
        rest = sorted(each.probabilities.items(), key=lambda pair: -pair[1])[1 : _SHOWN + 1]
        said = [judged(each), ", ".join(f"{name} {percent(share)}" for name, share in rest)]
        line = " ; ".join(filter(None, said))
        print(line if len(found) == 1 else f"{line}  {' '.join(each.text.split())[:60]}")
    if cut := sum(each.truncated for each in found):
        said_cut = f"{counted(cut, 'texte')} : seul le début est lu, {counted(gpt.window, 'token')}"
        print(f"({said_cut})", file=sys.stderr)
