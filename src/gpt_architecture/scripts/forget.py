"""`gpt-architecture forget` : fait oublier un texte à un modèle, exactement."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 forget.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, find_model, say
from gpt_architecture.cli.launch import graceful_stop
from gpt_architecture.cli.options import ModelSource, ResultOptions, TrainedSources
from gpt_architecture.storage import check_outputs, json_of


@Parameter(name="*", group=Group("Oubli", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """Ce qui est à oublier, et comment."""

    document: Annotated[tuple[str, ...], Parameter(metavar="NOM")] = ()
    """Document à oublier : son nom, celui de son fichier, ou le numéro d'une conversation ; un par
    option."""

    text: Annotated[tuple[Path, ...], Parameter(metavar="FICHIER")] = ()
    """Fichier dont le texte est à oublier, partout où il est recopié tel quel ; un par option."""

    lines: Annotated[str | None, Parameter(metavar="A-B")] = None
    """Lignes à oublier, du fichier de l'entraînement ou de celui que document nomme."""

    estimate: bool = False
    """Dit ce qui serait refait, et le temps qu'il faudrait, sans rien écrire."""

    keep_old: bool = False
    """Garde l'ancien modèle et ses points de reprise, dans avant-oubli/, ou avant-oubli-2/… s'il y
    est déjà."""

    sign_key: Path | None = None
    """Clé privée Ed25519 (PEM, lue de vous seul) qui signe la suite de certificat.json."""


def forget(
    model: ModelSource = None,
    *,
    sources: TrainedSources = TrainedSources(),  # noqa: B008
    options: ForgetOptions = ForgetOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Fait oublier un texte : refait l'entraînement sans lui, depuis le dernier point d'avant.

    Les poids sont ensuite, au bit près, ceux d'un entraînement où il était masqué dès le début.
    """
    source = find_model(model)
    check_outputs(
        {"--json-file": (output.json_file, json_of("forget"))},
        reads=(source, sources, options, common),
        force=output.force,
    )
    with graceful_stop() as stop:
        from gpt_architecture import api

        def announce(plan: api.Forgetting) -> None:
            if not output.wants_json:
                for line in (*plan.cost, *plan.notes):
                    say(line)

        found = api.forget(
            source,
            sources.data or None,
            document=options.document,
            text=options.text,
            lines=options.lines,
            estimate=options.estimate,
            keep_old=options.keep_old,
            sign_key=options.sign_key,
            should_stop=stop,
            on_plan=announce,
            **sources.others,
        )
    interrupted = not (found.done or options.estimate or found.first is None)
    if not output.emit([found.record], "forget"):
        for line in found.lines[len(found.cost) + len(found.notes) :]:
            say(line)
        if interrupted:
            say("Interrompu ; rien n'est perdu, ni changé : relancez la même commande.")
    return (stop.exit_code or 1) if interrupted else 0


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["forget", *sys.argv[1:]])
