"""Toutes les images de la documentation, refaites par une commande.

    make images                                  redessine tout ce qui se dessine
    make images ARGS="package-map throughput"    seulement celles-là
    make images ARGS=--train                     entraîne d'abord, une minute, le modèle montré
    make images ARGS=studio                      les captures du studio, par Chromium
    make images ARGS="studio --copying DOSSIER"  et celle d'un modèle dont une tête recopie

Les dessins ne dépendent que du code et de `docs/figures/donnees` : ils se refont à l'octet près, et
`tests/docs/test_pictures.py` les compare. Les captures du studio disent de quoi elles sont faites.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import captures
import diagrams
import journeys
import pairs_curve
import recording
import speeds

FIGURES = recording.ROOT / "docs" / "figures"
DATA = FIGURES / "donnees"

DRAWN: dict[str, Callable[[], str]] = {
    "terminal-trace": captures.terminal_trace,
    "terminal-demo": captures.terminal_demo,
    "loss-curve": captures.loss_curve,
    "temperature": captures.temperature,
    "block": diagrams.block,
    "package-map": diagrams.package_map,
    "request-life": journeys.request,
    "training-step": journeys.training_step,
    "throughput": lambda: speeds.throughput(speeds.read_rows(DATA / "debit.json")),
    "size-throughput": lambda: speeds.size_throughput(speeds.read_rows(DATA / "taille.json")),
    "context-cost": lambda: speeds.context_cost(speeds.read_rows(DATA / "contexte.json")),
    "french-pairs": lambda: pairs_curve.french_pairs(speeds.read_rows(DATA / "francais.json")),
}
"""Nom de l'image → ce qui la dessine."""

STUDIO = "studio"


def path_of(name: str) -> Path:
    """Le fichier d'un dessin."""
    return FIGURES / f"{name}.svg"


def main() -> None:
    """Refait les images demandées, et dit lesquelles ont changé."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help=f"{', '.join(DRAWN)} ou {STUDIO} ; sans nom : tout"
    )
    parser.add_argument("--train", action="store_true", help="entraîne d'abord le modèle")
    parser.add_argument("--copying", type=Path, help="entraînement dont une tête recopie")
    options = parser.parse_args()
    unknown = sorted({*options.names} - {*DRAWN, STUDIO})
    if unknown:
        sys.exit(
            f"erreur : image inconnue : {', '.join(unknown)} (attendu : {', '.join(DRAWN)} "
            f"ou {STUDIO}) ; corrigez ce nom."
        )
    if options.train or not recording.is_current():
        recording.record()
    for name in options.names or DRAWN:
        if name != STUDIO:
            _write(path_of(name), DRAWN[name]())
    if not options.names or STUDIO in options.names:
        import studio

        studio.capture(FIGURES, options.copying)


def _write(path: Path, content: str) -> None:
    same = path.is_file() and path.read_text(encoding="utf-8") == content
    path.write_text(content, encoding="utf-8")
    print(f"{path.name} : {'inchangée' if same else 'refaite'}")


if __name__ == "__main__":
    main()
