"""L'index des données d'entraînement : le construire, y chercher un texte, le dire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import find_model
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.storage import read_text

if TYPE_CHECKING:
    from gpt_architecture.api import GPT, Sources
    from gpt_architecture.cli.options import ResultOptions

Finder = Callable[[Sequence[int]], "Sources"]
"""D'où viennent les mots d'un texte, par ses identifiants."""

ABSENT = 3
"""Code de sortie : le texte cherché n'est pas dans les données."""


@Parameter(name="*", group=Group("Provenance", sort_key=4))
@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """L'index des données d'entraînement, et ce qu'on y cherche."""

    index: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Dossier de fragments dont construire l'index, ou finir de le faire ; sans rien d'autre à
    mesurer."""

    index_data: Annotated[tuple[str, ...], Parameter(consume_multiple=1, metavar="SOURCE…")] = ()
    """Données de l'entraînement (celles données à « train »), quand ce ne sont pas des fragments :
    le dossier de l'index est fait d'elles."""

    index_memory: int = 512
    """Mémoire, en Mio, que la construction peut prendre ; davantage rend l'index plus rapide."""

    find: Annotated[Path | None, Parameter(metavar="FICHIER")] = None
    """Texte à chercher dans les données : sortie 0 s'il y est, en entier ou en partie, 3 sinon."""

    def check(self, others: bool) -> None:
        """Refuse ce qui ne va pas ensemble.

        Args:
            others: d'autres mesures sont demandées.

        Raises:
            ConfigurationError: une option manque, ou est de trop.
        """
        if self.index is None:
            for name, given in (("--find", self.find), ("--index-data", self.index_data)):
                if given:
                    raise ConfigurationError(
                        f"{name} est donné sans --index",
                        expected="le dossier de l'index",
                        remedy="ajoutez --index DOSSIER",
                    )
        elif others:
            raise ConfigurationError(
                "--index et d'autres mesures sont donnés ensemble",
                expected="l'un ou l'autre",
                remedy="mesurez le modèle dans une autre commande",
            )


def run_index(
    asked: IndexOptions, model: Path | None, reading: dict[str, Any], output: ResultOptions
) -> int:
    """Construit l'index, y cherche le texte s'il y en a un, et dit ce qu'il en est.

    Args:
        asked: ce qui est demandé.
        model: le modèle, s'il est donné : son tokenizer doit être celui de l'index.
        reading: comment lire les données.
        output: sous quelle forme rendre le résultat.

    Returns:
        Le code de sortie.
    """
    from gpt_architecture import api

    assert asked.index is not None  # noqa: S101 — vérifié par l'appelant
    text = None if asked.find is None else read_text(asked.find)  # un mauvais fichier n'attend pas
    source = find_model(model) if asked.index_data else model
    index = api.index_sources(
        asked.index,
        asked.index_data,
        model=source,
        memory=asked.index_memory << 20,
        force=output.force,
        progress=True,
        **reading,
    )
    if model is not None:
        api.open_index(index, api.find_tokenizer(model))
    record: dict[str, Any] = {
        "index": str(index.folder),
        "tokens": index.num_tokens,
        "documents": index.num_documents,
        "bytes": index.size,
        "sha256": index.tokens.sha256,
    }
    found = None
    if text is not None:
        found = api.find_in_sources(text, index)
        record["find"] = {"file": str(asked.find), "verdict": found.verdict, **found.to_dict()}
    if not output.emit([record], "evaluate", indent=1):
        print(index_line(asked.index) if found is None else f"{found.verdict}\n{found}")
    if found is None:
        return 0
    return 0 if found.is_whole or found.is_beyond_chance or found.validation else ABSENT


def source_finder(gpt: GPT, folder: Path | None) -> Finder | None:
    """De quoi trouver d'où viennent des tokens ; None : ce n'est pas demandé.

    Raises:
        ConfigurationError: l'index est celui d'un autre tokenizer.
        DataError: il n'y a pas d'index, ou il ne convient pas.
    """
    if folder is None:
        return None
    from gpt_architecture.api import open_index, provenance

    index = open_index(folder, gpt.tokenizer)
    return lambda tokens: provenance(list(tokens), index)


def index_line(folder: Path | str) -> str:
    """Ce qu'est un index, en une ligne."""
    from gpt_architecture.api import open_index

    facts = dict(open_index(folder).facts)
    return f"Index        {folder} : {facts['tokens']} tokens, {facts['taille']}"


def is_bare(options: Any, **apart: Any) -> bool:
    """Vrai si un groupe d'options n'a que ses valeurs par défaut, hors celles de `apart`."""
    return bool(replace(options, **apart) == type(options)())
