"""`gpt-architecture replay` : une réponse du service, refaite de son reçu."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 replay.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, find_model
from gpt_architecture.cli.options import COMPUTING, NamedModel, ResultOptions
from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.reports.console import say_aside
from gpt_architecture.storage import check_outputs, json_of


@Parameter(name="*", group=Group("Rejeu", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Ce qui est vérifié, et où."""

    public_key: Path | None = None
    """Clé publique Ed25519 (PEM) qui doit avoir signé le reçu."""

    adapter: Annotated[Path | None, Parameter(metavar="CHEMIN")] = None
    """Adaptateur du modèle avec lequel il a répondu, si le reçu en dit un."""

    device: Annotated[str, Parameter(metavar="NOM", group=COMPUTING)] = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""


def replay(
    receipt: Annotated[Path, Parameter(metavar="REÇU")],
    /,
    *,
    model: NamedModel = None,
    options: ReplayOptions = ReplayOptions(),
    output: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Refait une réponse du service de son reçu, ou dit ce qui diffère.

    Le texte va sur la sortie standard, le verdict sur l'autre. Code 0 : identique ; 1 : différent ;
    2 : le reçu, le modèle ou la clé ne se lisent pas.
    """
    try:
        source = find_model(model)
        check_outputs(
            {"--json-file": (output.json_file, json_of("replay"))},
            reads=(receipt, source, options, common),
            force=output.force,
        )
        from gpt_architecture import api

        found = api.replay(
            receipt,
            source,
            device=options.device,
            public_key=options.public_key,
            adapter=options.adapter,
        )
    except GPTArchitectureError as error:
        error.exit_code = 2  # 1 dit que la réponse diffère
        raise
    if not output.emit([found.record], "replay"):
        if found.texts:
            print("\n\n---\n\n".join(found.texts))
        for line in found.lines:
            say_aside(line)
    return 0 if found.same else 1


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["replay", *sys.argv[1:]])
