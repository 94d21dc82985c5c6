"""La page qui contient un modèle, et l'exécute.

Ses vues sont celles du studio (`serving/studio/web`) : même balisage, même style, mêmes scripts.
Seul change ce qui leur répond : `local.js`, et non un service.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType

from markupsafe import Markup

from gpt_architecture.config import VERSION
from gpt_architecture.core.grouped_codes import Scheme, SchemeName
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.reports import portable
from gpt_architecture.reports.pages import content_hash, render
from gpt_architecture.reports.portable.bundle import bundle
from gpt_architecture.reports.portable.payload import Payload
from gpt_architecture.serving import studio
from gpt_architecture.storage import write_atomically

VIEWS = {"atelier": "Atelier", "distribution": "Distribution", "attention": "Attention"}
"""Les vues de la page, et leur titre."""

_SHARED = ("attention", "distribution", "dom", "filters", "workshop")
_OWN = {
    "app": "app",
    "api": "local",
    "engine": "engine",
    "sources": "sources",
    "tokenizer": "tokenizer",
}
_CHUNK = 3 << 20  # octets d'un morceau de base64, multiple de trois
_WEIGHTS = "<!--poids-->"


def export_page(
    content: ModelFile,
    path: Path | str,
    *,
    quant: SchemeName = "int8",
    text_only: bool = False,
) -> None:
    """Écrit un modèle dans une page HTML qui s'ouvre sans réseau, ou rien du tout.

    La page nomme le modèle d'après le fichier ; de ses métadonnées, elle ne prend que sa fenêtre.

    Args:
        content: le modèle.
        path: le fichier.
        quant: bits de ses poids, `int8` ou `int4`.
        text_only: n'y met que ce qui écrit : ni distribution, ni attention.

    Raises:
        ModelFileError: trop gros pour une page, poids infinis, ou tokenizer qui ne va pas.
        TokenizerError: tokenizer inconnu.
        OutputError: le disque refuse l'écriture ; l'ancien fichier est intact.
    """
    path, payload = Path(path), Payload(content, Scheme(name=quant))
    head, tail = _document(path.stem, payload.size, text_only=text_only).split(_WEIGHTS)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(head)
            for chunk in base64_chunks(payload.chunks()):
                file.write(f'<script type="text/plain" class="weights">{chunk}</script>\n')
            file.write(tail)

    write_atomically(path, write)


def page_script() -> str:
    """Le script de la page : les vues du studio, et ce qui leur répond."""
    modules = {name: _web(studio, f"{name}.js").decode() for name in _SHARED}
    modules |= {name: _web(portable, f"{file}.js").decode() for name, file in _OWN.items()}
    return bundle(modules, "app")


def base64_chunks(parts: Iterable[bytes]) -> Iterator[str]:
    """Des octets, compressés par zlib, en morceaux de base64 qui se décodent l'un après l'autre."""
    press = zlib.compressobj()
    pending = bytearray()
    for part in parts:
        pending += press.compress(part)
        while len(pending) >= _CHUNK:
            yield base64.b64encode(pending[:_CHUNK]).decode()
            del pending[:_CHUNK]
    pending += press.flush()
    for start in range(0, len(pending), _CHUNK):
        yield base64.b64encode(pending[start : start + _CHUNK]).decode()


def _document(name: str, size: int, *, text_only: bool) -> str:
    """La page, poids à part : leur place y est marquée."""
    titles = {"atelier": VIEWS["atelier"]} if text_only else VIEWS
    html = _web(studio, "index.html").decode()
    views = [_section(html, view) for view in titles]
    style = _web(studio, "studio.css").decode()
    return render(
        "portable",
        script=page_script(),
        title=name,
        version=VERSION,
        size=size,
        titles=titles,
        style=Markup(style),  # noqa: S704 — les nôtres, comme les suivants
        style_hash=content_hash(style),
        views=Markup("\n".join(views)),  # noqa: S704
        products=base64.b64encode(_web(portable, "products.wasm")).decode(),
        weights=Markup(_WEIGHTS),  # noqa: S704
    )


def _section(html: str, view: str) -> str:
    """Le balisage d'une vue du studio."""
    (found,) = re.findall(rf'<section class="view" id="view-{view}".*?</section>', html, re.DOTALL)
    return str(found)


def _web(package: ModuleType, name: str) -> bytes:
    """Un fichier du dossier `web` de ce paquet."""
    return resources.files(package).joinpath("web", name).read_bytes()
