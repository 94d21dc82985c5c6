"""Les références, faites du code : chaque bloc est un passage de Markdown.

Une page de docs/ met `<!-- généré : NOM -->` où elle veut `BLOCKS[NOM]()` ; le site le remplace à
sa construction (`hooks.py`), rien n'est donc recopié ni périmé.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from command_line import commands
from markdown_text import table
from python_objects import fields, module_summary, objects

from gpt_architecture import errors
from gpt_architecture.config import GPT_CONFIG_124M, PRESETS, TRAINING_PRESETS
from gpt_architecture.data.shards import layout
from gpt_architecture.decoding import config as _declares  # noqa: F401 — remplit le registre
from gpt_architecture.decoding.settings import SETTINGS
from gpt_architecture.french import french_number

_CONFIGURATIONS = ("config.model", "config.training", "config.objectives", "config.run")
_FORMATS = (
    ("gpt-model.pt", "modèle", "formats.model_file"),
    ("step-000040/", "point de reprise", "formats.checkpoint"),
    ("*.safetensors", "modèle quantifié", "formats.quantized_file"),
    ("adapter.safetensors", "adaptateurs LoRA", "formats.adapter_file"),
)


def configuration() -> str:
    """Les dataclasses de configuration et leurs champs."""
    return "\n\n".join(
        f"## `{each.name}`\n\n{each.summary}\n\n"
        + table(("champ", "type", "défaut", "rôle"), fields(each))
        for module in _CONFIGURATIONS
        for each in objects(module)
        if each.is_dataclass
    )


def presets() -> str:
    """Les préréglages d'entraînement, et les formes de modèle connues."""
    rows = [
        (f"`{name}`", ", ".join(f"`{key}` = {_shown(value)}" for key, value in each.items()) or "—")
        for name, each in TRAINING_PRESETS.items()
    ]
    shapes = [
        (
            f"`{name}`",
            str(each.n_layers),
            str(each.n_heads),
            str(each.emb_dim),
            french_number(each.num_parameters()),
        )
        for name, each in PRESETS.items()
    ]
    book = ", ".join(f"`{key}` = {_shown(value)}" for key, value in GPT_CONFIG_124M.items())
    return (
        table(("préréglage de `train`", "ce qu'il fixe"), rows)
        + "\n\n"
        + table(("forme", "blocs", "têtes", "largeur", "paramètres"), shapes)
        + f"\n\n`GPT_CONFIG_124M`, le dictionnaire du document d'origine : {book}."
    )


def decoding() -> str:
    """Tous les réglages du décodage, tels qu'ils sont déclarés."""
    rows = []
    for name, each in SETTINGS.declared.items():
        setting = each.setting
        field = setting.request and (setting.request.name or name)
        rows.append(
            (
                f"`{name}`",
                _shown(each.default),
                " et ".join(_bounds(setting)) or "—",
                setting.strategy or ("au hasard" if setting.is_filter else "toutes"),
                f"`{field}`" if field else "—",
                setting.help,
            )
        )
    return table(("réglage", "défaut", "bornes", "stratégies", "champ HTTP", "rôle"), rows)


def http() -> str:
    """Chaque route du service, ses champs et ses réponses, d'après son document OpenAPI."""
    from gpt_architecture.serving.openai.reference import fields_of

    document = _openapi()
    parts = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            found = [
                (f"`{name}`", kind, bounds or "—")
                for name, kind, bounds in fields_of(body.get("schema", {}), document)
            ]
            answers = [
                (f"`{status}`", answer["description"])
                for status, answer in route["responses"].items()
            ]
            parts += [f"### `{method.upper()} {path}`", route.get("summary", "") + "."]
            parts += [table(("champ", "type", "bornes"), found)] if found else []
            parts += [table(("code", "réponse"), answers)]
    return "\n\n".join(parts)


def formats() -> str:
    """Nos fichiers et leur version, lus dans le code."""
    rows = []
    for file, kind, module in _FORMATS:
        source = import_module(f"gpt_architecture.{module}")
        rows.append((f"`{file}`", kind, f"`{source.FORMAT}`", str(source.VERSION), f"`{module}`"))
    rows += [
        (
            "`*.bin`",
            "fragment de tokens",
            f"nombre magique {layout.MAGIC}",
            str(layout.VERSION),
            "`data.shards.layout`",
        ),
        (
            "`index.json`",
            "index d'une préparation",
            f"`{layout.INDEX_FORMAT}`",
            str(layout.INDEX_VERSION),
            "`data.shards.layout`",
        ),
    ]
    return table(("fichier", "contenu", "format", "version", "module"), rows)


def refusals() -> str:
    """Les erreurs du projet, leur code de sortie et ce qu'elles disent."""
    rows = [
        (
            f"`{each.__name__}`",
            ", ".join(f"`{base.__name__}`" for base in each.__bases__),
            str(each.exit_code),
            (each.__doc__ or "").strip().splitlines()[0],
        )
        for each in _subclasses(errors.GPTArchitectureError)
    ]
    return table(("erreur", "dérive de", "code de sortie", "quand"), rows)


_FIRST = ("load", "GPT", "train")
"""Les noms dont la page parle d'abord ; les autres modules suivent, par ordre alphabétique."""


def python() -> str:
    """Les noms publics de `gpt_architecture` : les fonctions du produit, puis chaque module."""
    import gpt_architecture

    homes = dict[str, list[str]]()
    for name in gpt_architecture.__all__:
        value = getattr(gpt_architecture, name)
        home = getattr(value, "__module__", None) or "gpt_architecture.config.model"
        homes.setdefault(home.removeprefix("gpt_architecture."), []).append(name)
    order = sorted(homes, key=lambda home: (min(map(_rank, homes[home])), home))
    functions = [
        (f"[`{each.name}`](#{each.name})", each.summary)
        for home in order
        if home.startswith("api.")
        for each in objects(home)
        if each.name in homes[home] and each.name.islower()
    ]
    parts = [table(("fonction", "ce qu'elle fait"), functions)]
    for home in order:
        parts += [f"## `gpt_architecture.{home}`", module_summary(home)]
        parts += [each.page for each in objects(home) if each.name in homes[home]]
    return "\n\n".join(parts)


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _subclasses(kind: type[errors.GPTArchitectureError]) -> Iterator[type[Any]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from _subclasses(each)


def _bounds(setting: Any) -> list[str]:
    signs = (("≥", setting.minimum), (">", setting.above), ("≤", setting.maximum))
    return [f"{sign} {_bound(bound)}" for sign, bound in signs if bound is not None]


def _bound(value: float) -> str:
    if value == 2**63 - 1:
        return "2⁶³ − 1"
    return french_number(int(value)) if value == int(value) else f"{value:g}".replace(".", ",")


def _shown(value: object) -> str:
    if value is None or (isinstance(value, Sequence | dict) and not value):
        return "—"
    if isinstance(value, Iterable) and not isinstance(value, str | dict):
        return " ".join(map(_shown, value))
    if isinstance(value, bool):
        return "oui" if value else "non"
    return f"`{value}`"


@cache
def _openapi() -> dict[str, Any]:
    """Le document OpenAPI d'un service, celui d'un modèle minuscule qui ne démarre pas."""
    from gpt_architecture.config import GPTConfig
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.data.tokenizer import get_tokenizer
    from gpt_architecture.serving.app import create_app
    from gpt_architecture.serving.context import ServingContext
    from gpt_architecture.serving.engine.engine import Engine

    tokenizer = get_tokenizer("gpt2")
    model = GPTModel(GPTConfig(context_length=8, emb_dim=8, n_heads=2, n_layers=1)).eval()
    context = ServingContext(
        engine=Engine(model, tokenizer),
        model=model,
        tokenizer=tokenizer,
        name="gpt-model",
        metadata={},
        window=8,
    )
    return create_app(context).openapi()


BLOCKS: dict[str, Callable[[], str]] = {
    "commandes": commands,
    "configuration": configuration,
    "decodage": decoding,
    "erreurs": refusals,
    "formats": formats,
    "http": http,
    "prereglages": presets,
    "python": python,
}
"""Nom d'un bloc → ce qui l'écrit."""
