"""Ce qu'est un modèle, sans charger ses poids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpt_architecture.api.options import checked_options
from gpt_architecture.formats import inspection as formats_inspection


class Inspection(formats_inspection.Inspection):
    """Ce qu'on sait d'un modèle sans avoir lu ses poids ; voir `formats.inspection.Inspection`."""

    def __repr__(self) -> str:
        from gpt_architecture.reports.inspection import inspection_facts

        facts = " ; ".join(f"{name} : {value}" for name, value in inspection_facts(self)[:3])
        return f"Inspection({self.path}, {self.name} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.inspection import file_lines, inspection_facts
        from gpt_architecture.reports.notebook import facts_cell

        facts = inspection_facts(self)
        if self.intact:
            facts.append(("Intégrité", "rien n'a changé"))
        return facts_cell(f"{self.path} : {self.name}", facts, notes=file_lines(self))


@checked_options
def inspect_model(
    path: Path | str,
    *,
    hashes: bool = True,
    check: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Examine un modèle, d'ici ou d'ailleurs, comme `gpt-architecture inspect`.

    Args:
        path: fichier ou dossier.
        hashes: calcule l'empreinte de chaque fichier.
        check: relit les sommes de contrôle que le modèle porte.
        on_progress: reçoit les octets lus et leur total, pendant le calcul des empreintes.

    Raises:
        ModelFileError: absent, inconnu, abîmé au point de ne pas dire ce qu'il est, ou, avec
            `check`, changé depuis son écriture.

    Examples:
        >>> from gpt_architecture import inspect_model
        >>> found = inspect_model("modele/gpt-model.pt", check=True)
        >>> found.kind, found.config.n_layers, found.intact
        ('model', 1, True)
    """
    found = formats_inspection.inspect_model(
        path, hashes=hashes, check=check, on_progress=on_progress
    )
    return Inspection(**vars(found))
