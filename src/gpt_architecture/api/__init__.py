"""La face de la bibliothèque en Python : tout le produit, sans les commandes.

    from gpt_architecture import load
    gpt = load("gpt-model.pt")
    print(gpt.generate("Every effort", strategy="top_p", p=0.9, max_tokens=50, seed=1))

Chaque fonction fait ce que fait la commande de ce nom, et rend un objet : ses attributs se lisent,
`repr` le résume, un carnet l'affiche.

- `comparisons` : Des stratégies de décodage comparées, et l'effet des réglages sur un token.
- `conversions` : Un modèle écrit dans un autre format.
- `gpt` : Un modèle prêt à écrire, et ce qu'il montre d'un texte.
- `loading` : Charger un modèle, d'ici ou d'ailleurs, et choisir ce qui le fait calculer.
- `measures` : Ce que vaut un modèle, mesuré.
- `options` : Les réglages qu'un appel nomme : un nom inconnu est refusé, le plus proche proposé.
- `preparation` : Des textes préparés pour l'entraînement, en fragments de tokens.
- `quantization` : Un modèle écrit sur 8 ou 4 bits, et ce qu'il y perd.
- `runs` : Entraîner d'un appel, et ce qu'un entraînement laisse : un modèle, une histoire, des
  courbes.
- `service` : Un modèle servi depuis Python, dans un fil, et arrêté proprement.
- `study` : Ce qu'un modèle récite, et la page qui le montre.
- `views` : Ce qu'un modèle montre d'un texte : tokens, probabilités, attention, filtres.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.loading import COMPILE_FROM, EngineName, find_tokenizer, load
from gpt_architecture.formats.door import (
    OpenedModel,
    check_source,
    is_remote,
    locate,
    open_model,
    read_any,
    short_name,
)
from gpt_architecture.formats.inspection import inspect_model

if TYPE_CHECKING:
    from gpt_architecture.api.comparisons import Comparison, compare, visualize
    from gpt_architecture.api.conversions import Conversion, check_conversion, convert
    from gpt_architecture.api.measures import Evaluation, evaluate
    from gpt_architecture.api.preparation import Prepared, prepare
    from gpt_architecture.api.quantization import Quantization, quantize, quantized_output
    from gpt_architecture.api.runs import Run, train
    from gpt_architecture.api.service import (
        LOCAL_HOSTS,
        Service,
        check_serving,
        serve,
        start_engine,
    )
    from gpt_architecture.api.views import (
        AttentionMap,
        Completion,
        Distribution,
        Table,
        Tokenization,
        Trace,
    )

_NAMES = {
    "comparisons": "Comparison compare visualize",
    "conversions": "Conversion check_conversion convert",
    "measures": "Evaluation evaluate",
    "preparation": "Prepared prepare",
    "quantization": "Quantization quantize quantized_output",
    "runs": "Run train",
    "service": "LOCAL_HOSTS Service check_serving serve start_engine",
    "views": "AttentionMap Completion Distribution Table Tokenization Trace",
}
"""Ce qui n'est importé qu'à la demande : charger un modèle et écrire n'attendent pas le reste."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "COMPILE_FROM",
    "GPT",
    "LOCAL_HOSTS",
    "AttentionMap",
    "Comparison",
    "Completion",
    "Conversion",
    "Distribution",
    "EngineName",
    "Evaluation",
    "OpenedModel",
    "Prepared",
    "Quantization",
    "Run",
    "Service",
    "Table",
    "Tokenization",
    "Trace",
    "check_conversion",
    "check_serving",
    "check_source",
    "compare",
    "convert",
    "evaluate",
    "find_tokenizer",
    "inspect_model",
    "is_remote",
    "load",
    "locate",
    "open_model",
    "prepare",
    "quantize",
    "quantized_output",
    "read_any",
    "serve",
    "short_name",
    "start_engine",
    "train",
    "visualize",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
