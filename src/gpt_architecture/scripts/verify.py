"""`gpt-architecture verify` : un entraînement a-t-il eu lieu comme son certificat le dit ?"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 verify.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, find_model
from gpt_architecture.cli.options import ModelSource, ResultOptions, TrainedSources
from gpt_architecture.reports.console import ProgressBar
from gpt_architecture.storage import check_outputs, json_of


@Parameter(name="*", group=Group("Vérification", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Ce qui est vérifié, et jusqu'où."""

    part: Annotated[str, Parameter(metavar="PART")] = "5%"
    """Part des étapes à rejouer : des intervalles choisis au hasard entre les points de reprise
    gardés, dont le dernier peut n'être rejoué qu'en partie."""

    everything: Annotated[bool, Parameter(name="--all")] = False
    """Rejoue toutes les étapes."""

    seed: int | None = None
    """Graine de ce choix, pour le refaire ; sans elle, une est prise au hasard, et dite."""

    chain_only: bool = False
    """Ne rejoue rien : vérifie la chaîne, la signature et les poids."""

    document: Annotated[tuple[str, ...], Parameter(metavar="NOM")] = ()
    """Document qui doit être retiré, nommé comme pour forget ; un par option."""

    text: Annotated[tuple[Path, ...], Parameter(metavar="FICHIER")] = ()
    """Fichier dont le texte doit être retiré, partout où il est recopié tel quel ; un par
    option."""

    certificate: Path | None = None
    """Le certificat ; sans lui, certificat.json à côté du modèle."""

    public_key: Path | None = None
    """Clé publique Ed25519 (PEM) qui doit avoir signé le certificat."""


def verify(
    model: ModelSource = None,
    *,
    sources: TrainedSources = TrainedSources(),  # noqa: B008
    options: VerifyOptions = VerifyOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Vérifie le certificat d'un entraînement : chaîne, données, étapes rejouées.

    Code 0 : conforme ; 1 : non, et la première différence est dite.
    """
    source = find_model(model)
    check_outputs(
        {"--json-file": (output.json_file, json_of("verify"))},
        reads=(source, sources, options, common),
        force=output.force,
    )
    from gpt_architecture import api

    with ProgressBar("Rejeu") as bar:
        found = api.verify(
            source,
            sources.data or None,
            part=1.0 if options.everything else options.part,
            seed=options.seed,
            chain_only=options.chain_only,
            document=options.document,
            text=options.text,
            certificate=options.certificate,
            public_key=options.public_key,
            on_progress=lambda done, total: bar.start(total, done),
            **sources.others,
        )
    if not output.emit([found.record], "verify"):
        for line in found.lines:
            print(line)
    return 0 if found.conforming else 1


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["verify", *sys.argv[1:]])
