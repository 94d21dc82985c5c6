"""`gpt-architecture plan` : quoi entraîner, dans les heures qu'on a."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 plan.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import shlex
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, say
from gpt_architecture.cli.options import ResultOptions
from gpt_architecture.config import TrainingConfig
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import short
from gpt_architecture.reports.console import output_console, say_aside
from gpt_architecture.storage import check_outputs, json_of, sealed_text


@Parameter(name="*", group=Group("Plan", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Combien de temps, et où l'écrire."""

    hours: float | None = None
    """Nombre d'heures de l'entraînement à venir, lecture du texte comprise."""

    heures: Annotated[float | None, Parameter(show=False)] = None
    """Le même, en français."""

    minutes: float | None = None
    """Nombre de minutes d'essais, environ ; sans elle, un dixième des heures, de 4 à 24."""

    out: Annotated[Path, Parameter(metavar="FICHIER")] = Path("plan.toml")
    """Fichier de réglages à écrire, que « train --config » prend tel quel."""

    trials: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Dossier où garder les essais : interrompu, un plan reprend là où il en était ; sans elle,
    celui du fichier de réglages, suivi de -essais."""

    price_per_hour: float | None = None
    """Prix d'une heure de la machine, pour annoncer le coût."""

    watts: float | None = None
    """Puissance que demande la machine, en watts, pour annoncer l'énergie."""


@Parameter(name="*", group=Group("Texte et calcul", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Ce qui est lu, et où calculer."""

    tokenizer: str | None = None
    """Tokenizer imposé : gpt2, char, bpe-N ou un tokenizer.json ; sans lui, choisi parmi
    plusieurs."""

    train_ratio: float = TrainingConfig.train_ratio
    """Part du texte gardée pour l'entraînement."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Laisse de côté, en le disant, ce qui est illisible, abîmé ou trop gros."""

    offline: bool = False
    """Interdit tout téléchargement."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    seed: int = TrainingConfig.seed
    """Graine des essais et de l'entraînement."""


def plan(
    *sources: Annotated[
        str,
        Parameter(name="SOURCE", help="Textes, comme pour train : fichiers, dossiers, noms."),
    ],
    options: PlanOptions = PlanOptions(),
    text: TextOptions = TextOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Dit quoi entraîner sur un texte, ici, dans les heures données, et l'écrit en réglages.

    De courts essais sur ce texte et cette machine comparent vocabulaires, contextes, lots et taux,
    puis fixent une loi de perte : elle donne la meilleure taille, sa durée, et la perte à attendre.
    """
    if options.hours is not None and options.heures is not None:
        raise ConfigurationError(
            f"`hours` est donné deux fois, {short(options.hours)} et {short(options.heures)}",
            expected="une seule durée",
            remedy="retirez `hours` ou `heures`",
        )
    hours = options.heures if options.hours is None else options.hours
    if hours is None:
        raise ConfigurationError(
            "`hours` n'est pas donné",
            expected="les heures de l'entraînement à venir",
            remedy="ajoutez `hours=4`",
        )
    from gpt_architecture import api
    from gpt_architecture.api.plans import TITLE

    check_outputs(
        {
            "`out`": (options.out, sealed_text(TITLE)),
            "--json-file": (output.json_file, json_of("plan")),
        },
        reads=(sources, text, common),
        force=output.force,
    )
    folder = options.trials or options.out.with_name(f"{options.out.stem}-essais")
    try:
        found = api.plan(
            list(sources),
            hours,
            minutes=options.minutes,
            out=options.out,
            trials=folder,
            price_per_hour=options.price_per_hour,
            watts=options.watts,
            **vars(text),
            force=output.force,
            progress=True,
        )
    except KeyboardInterrupt:
        say_aside(f"Essais gardés dans {folder} : la même commande les reprend.")
        raise
    if not output.emit([found.record], "plan", indent=1):
        found.show(output_console())
        command = shlex.join(["gpt-architecture", "train", "--config", str(options.out)])
        say(f"\nÉcrit : {options.out}. Ensuite : {command}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["plan", *sys.argv[1:]])
