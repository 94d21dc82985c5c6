"""`gpt-architecture evaluate` : ce que vaut un modèle, mesuré."""

from __future__ import annotations

import sys

if __package__ in (None, ""):  # lancé par son chemin : python3 evaluate.py
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, command_line
from gpt_architecture.cli.launch import joined_world, launch_processes, launched_by_torchrun
from gpt_architecture.cli.options import ModelSource, QuantName, ResultOptions, model_path
from gpt_architecture.cli.sources import IndexOptions, is_bare, run_index
from gpt_architecture.config import check_float, check_int
from gpt_architecture.reports.console import output_console
from gpt_architecture.storage import check_outputs, json_of, page_of


@Parameter(name="*", group=Group("Mesures", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Que mesurer."""

    data: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="SOURCE…")] = ()
    """Textes dont mesurer la perplexité : fichiers, dossiers, fragments ou corpus connus."""

    lambada: Path | None = None
    """Exemples JSONL {"text": "…"} : deviner le dernier mot."""

    choices: Path | None = None
    """Exemples JSONL au format de HellaSwag : choisir la bonne
    fin."""

    french: Annotated[bool, Parameter(name=("--french", "--francais"))] = False
    """Note 6 000 paires de phrases françaises, l'une juste, l'autre fautive : 60 phénomènes."""

    cloze: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="SOURCE…")] = ()
    """Textes que le modèle n'a pas appris, d'où tirer des mots à deviner : le dernier d'un
    passage, celui qui manque à une phrase."""

    preferences: Annotated[Path | None, Parameter(metavar="PAIRES")] = None
    """Paires de réponses à une même question, comme celles de train : la préférée est-elle la plus
    probable ?"""

    lm_eval: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="ÉPREUVE…")] = ()
    """Épreuves de lm-eval : une des siennes, ou une des nôtres, qui se passent de réseau
    (dernier_mot_fr, paires_fr, prose_fr, serie_fr, suite_fr)."""

    classify: Annotated[Path | None, Parameter(metavar="FICHIER")] = None
    """Textes étiquetés (CSV, TSV, JSONL ou Parquet), pour un modèle qui classe ou note : il est
    mesuré, une référence à côté."""

    label: str | None = None
    """Colonne de l'étiquette ; sans elle, celle de l'entraînement."""

    reference: Annotated[Path | None, Parameter(metavar="FICHIER")] = None
    """Textes étiquetés dont apprend la référence (des mots pesés, puis une régression) ; sans eux,
    ceux de l'entraînement, si c'est son fichier qui est mesuré."""

    limit: int | None = None
    """Nombre maximal de documents ou d'exemples mesurés dans chaque fichier, et de paires de
    chaque phénomène."""

    tokens: int | None = None
    """Nombre maximal de tokens mesurés dans chaque document."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Laisse de côté, en le disant, ce qui est illisible, abîmé ou trop gros."""

    offline: bool = False
    """Interdit tout téléchargement."""


@Parameter(name="*", group=Group("Calcul", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Comment mesurer."""

    stride: int | None = None
    """Nombre de tokens notés par fenêtre ; sans lui, la moitié du contexte d'entraînement."""

    batch_size: int = 64
    """Nombre maximal de séquences lues ensemble ; la mémoire en décide aussi."""

    device: Annotated[str, Parameter(metavar="NOM")] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Mesure le modèle quantifié au chargement (CPU)."""

    launch: int | None = None
    """Nombre de processus à lancer sur cette machine, qui se partagent les requêtes ; torchrun
    fait de même sur plusieurs. Les chiffres sont ceux d'un seul."""

    dist_timeout: float = 600.0
    """Nombre de secondes sans nouvelles d'un processus avant que tous s'arrêtent."""

    def __post_init__(self) -> None:
        if self.launch is not None:
            check_int("launch", self.launch, minimum=1, maximum=4096)
        check_float("dist_timeout", self.dist_timeout, above=0.0)


@Parameter(name="*", group=Group("Mémorisation et page du modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Ce que le modèle récite, et la page qui le montre."""

    memorisation: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="SOURCE…")] = ()
    """Données de l'entraînement (celles données à « train ») : mesure ce que le modèle en
    récite."""

    length: int = 64
    """Nombre de tokens de chaque texte généré pour la mémorisation et pour la page."""

    report: Path | None = None
    """Page HTML à écrire : pertes, mémorisation, textes, calibration, attention."""

    sentence: str | None = None
    """Phrase dont la page montre l'attention ; sans elle, les premiers mots d'un texte."""


def evaluate(
    model: ModelSource = None,
    *,
    options: EvaluateOptions = EvaluateOptions(),
    study: StudyOptions = StudyOptions(),
    compute: MeasureOptions = MeasureOptions(),
    provenance: IndexOptions = IndexOptions(),  # noqa: B008
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Mesure un modèle : perplexité et bits par octet, épreuves, mémorisation ; en fait une page.

    Avec --index, construit l'index des données de l'entraînement, où --find cherche un texte.
    Les intervalles sont à 95 %. Si le modèle est dans le dossier d'un entraînement, son journal
    reçoit une ligne.
    """
    reading = {"field": options.field, "offline": options.offline, "skip_bad": options.skip_bad}
    others = not (is_bare(options, field=None, offline=False, skip_bad=False) and is_bare(study))
    provenance.check(others)
    if provenance.index is not None:
        check_outputs(
            {"--json-file": (output.json_file, json_of("evaluate"))},
            reads=(model, provenance, common),
            force=output.force,
        )
        return run_index(provenance, model, reading, output)
    source = model_path(model)
    check_outputs(
        {
            "--json-file": (output.json_file, json_of("evaluate")),
            "--report": (study.report, page_of("model")),
        },
        reads=(source, options, study, common),
        force=output.force,
    )
    if compute.launch is not None and not launched_by_torchrun():
        return launch_processes(
            command_line()[1:], processes=compute.launch, module="gpt_architecture.scripts.evaluate"
        )
    from gpt_architecture import api

    settings = vars(compute).copy()
    del settings["launch"]
    with joined_world(settings.pop("dist_timeout"), compute.device) as world:
        found = api.evaluate(
            source,
            **vars(options),
            **vars(study),
            **settings,
            force=output.force,
            progress=True,
            world=world,
        )
        if world.is_main and not output.emit([found.record], "evaluate", indent=1):
            found.show(output_console())
    return 0


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["evaluate", *sys.argv[1:]])
