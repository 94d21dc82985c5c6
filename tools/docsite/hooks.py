"""Ce que le site ajoute aux pages de docs/ : les fichiers du dépôt, et les références du code.

- Un lien qui sort de docs/ (`../../Dockerfile`) mène, dans le site, à une copie sous `depot/`.
- `<!-- généré : NOM -->` est remplacé par ce que `reference.BLOCKS[NOM]` fait du code, et avec lui
  la citation (`> …`) qui le suit, pour qui lit le fichier hors du site : elle dit où aller.
- `Section: dossier/*`, dans la table des matières, vaut toutes les pages de ce dossier.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DEPOT = "depot"
"""Dossier du site où sont copiés les fichiers du dépôt que les pages citent."""
_LINK = re.compile(r"(\]\()([^)\s#]+)([^)]*\))")
_FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"(?<!<pre>)<code>[^<]*</code>")
_BLOCK = re.compile(r"^<!-- généré : ([\w-]+) -->$(?:\n\n?> .*$)?", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Développe les `dossier/*` de la table des matières."""
    config.nav = [_expanded(entry, Path(config.docs_dir)) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Ajoute les fichiers du dépôt que citent les pages, et ceux que citent ces derniers."""
    waiting = [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    while waiting:
        for target in _outside(waiting.pop(), Path(config.docs_dir)):
            uri = posixpath.join(DEPOT, target.relative_to(ROOT).as_posix())
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, content=target.read_bytes()))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Récrit les liens qui sortent de docs/, et met les blocs générés à leur place."""
    docs, uri = Path(config.docs_dir), page.file.src_uri
    here = ROOT / uri.removeprefix(f"{DEPOT}/") if uri.startswith(f"{DEPOT}/") else docs / uri

    def link(match: re.Match[str]) -> str:
        target = _resolved(here, match[2])
        if target is None:
            return match[0]
        inside = target.is_relative_to(docs)
        place = target.relative_to(docs if inside else ROOT).as_posix()
        found = place if inside else posixpath.join(DEPOT, place)
        return f"{match[1]}{posixpath.relpath(found, posixpath.dirname(uri))}{match[3]}"

    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    return _BLOCK.sub(lambda match: _generated(match[1], uri), "".join(parts))


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Retire l'échappement qu'une barre demande à GitHub dans le code d'un tableau."""
    return _INLINE_CODE.sub(lambda match: match[0].replace("\\|", "|"), html)


def _generated(name: str, uri: str) -> str:
    if name not in reference.BLOCKS:
        known = ", ".join(reference.BLOCKS)
        raise PluginError(f"{uri} : bloc généré inconnu, {name} (connus : {known})")
    return reference.BLOCKS[name]()


def _expanded(entry: Any, docs: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        return {title: [_expanded(each, docs) for each in value]}
    if not value.endswith("/*"):
        return entry
    pages = sorted((docs / value[:-2]).glob("*.md"), key=lambda page: (page.stem != "index", page))
    return {title: [page.relative_to(docs).as_posix() for page in pages]}


def _outside(page: Path, docs: Path) -> list[Path]:
    """Les fichiers hors de docs/ que cite une page."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found = [_resolved(page, match[2]) for match in _LINK.finditer(text)]
    return [each for each in found if each and not each.is_relative_to(docs) and each.is_file()]


def _resolved(page: Path, target: str) -> Path | None:
    """Le fichier qu'un lien désigne ; None : ce n'est pas un chemin du dépôt."""
    if ":" in target or target.startswith("/"):
        return None
    path = Path(posixpath.normpath(posixpath.join(page.parent.as_posix(), target)))
    return path if path.is_relative_to(ROOT) else None
