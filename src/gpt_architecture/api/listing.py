"""Les modèles d'un dossier et du cache : ce que chacun est, d'où il vient, sans le charger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.config import check_int
from gpt_architecture.formats.listing import (
    MAX_DEPTH,
    MAX_MODELS,
    ListedModel,
    Search,
    grouped,
    with_known_bases,
)
from gpt_architecture.french import counted


@dataclass(frozen=True, kw_only=True, repr=False)
class Models:
    """Des modèles trouvés ; se parcourt, et s'affiche en tableau.

    Attributes:
        found: les modèles, dans l'ordre des dossiers puis des noms.
        is_partial: vrai si une borne a arrêté la recherche.
    """

    found: tuple[ListedModel, ...]
    is_partial: bool

    def __iter__(self) -> Iterator[ListedModel]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def __str__(self) -> str:
        from gpt_architecture.reports.listing import listing_lines

        return "\n".join(listing_lines(self.found))

    def __repr__(self) -> str:
        more = ", et peut-être d'autres" if self.is_partial else ""
        return f"Models({counted(len(self), 'modèle')}{more})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.listing import listing_table
        from gpt_architecture.reports.notebook import tables_cell

        return tables_cell([listing_table(self.found)])


@checked_options
def models(
    folders: Path | str | Sequence[Path | str] | None = None,
    *,
    cache: bool = True,
    depth: int = 4,
    limit: int = 500,
    checkpoints: bool = False,
) -> Models:
    """Dit quels modèles il y a ici, comme `gpt-architecture models`.

    Seuls les en-têtes sont lus. Un fichier abîmé a sa ligne, et `problem` dit pourquoi. Un
    entraînement n'en est qu'un : son modèle, à défaut son meilleur point de reprise ou le dernier,
    et les autres dans `checkpoints`.

    Args:
        folders: un dossier, ou plusieurs ; None : celui d'ici.
        cache: y joint les dépôts du cache de Hugging Face ; rien n'est téléchargé.
        depth: niveaux de sous-dossiers où descendre.
        limit: modèles, au plus.
        checkpoints: chaque point de reprise y est un modèle, à sa place.

    Raises:
        ConfigurationError: borne hors de ses limites.
        ModelFileError: dossier absent, ou fermé.

    Examples:
        >>> from gpt_architecture import models
        >>> [each.kind for each in models("modele", cache=False, depth=0)]
        ['model']
    """
    check_int("`depth`", depth, minimum=0, maximum=MAX_DEPTH)
    check_int("`limit`", limit, minimum=1, maximum=MAX_MODELS)
    search, found = Search(depth=depth, limit=limit), list[ListedModel]()
    asked = [Path(each) for each in listed(folders) or ["."]]
    for folder in asked:
        found += search.below(folder)
    if cache:
        from gpt_architecture.interop.hub import cached

        for name, path in cached():
            found += search.below(path, name=name)
    unique = {each.path.resolve(): each for each in reversed(found)}
    kept = [each for each in found if unique[each.path.resolve()] is each]
    known = with_known_bases(kept)
    shown = known if checkpoints else grouped(known, alone=asked)
    return Models(found=tuple(shown[:limit]), is_partial=search.is_partial or len(shown) > limit)
