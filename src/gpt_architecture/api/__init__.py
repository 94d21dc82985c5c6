"""La face de la bibliothèque en Python : tout le produit, sans les commandes.

    from gpt_architecture import load
    gpt = load("gpt-model.pt")
    print(gpt.generate("Every effort", strategy="top_p", p=0.9, max_tokens=50, seed=1))

Chaque fonction fait ce que fait la commande de ce nom, et rend un objet : ses attributs se lisent,
`repr` le résume, un carnet l'affiche.

- `chats` : Une conversation : ce qui s'est dit, et la réponse suivante, au fil de l'eau.
- `comparisons` : Des stratégies de décodage comparées, et l'effet des réglages sur un token.
- `conversions` : Un modèle écrit dans un autre format.
- `evaluations` : Des mesures d'un modèle : ce que rend `evaluate`, et comment il se montre.
- `gpt` : Un modèle prêt à écrire, et ce qu'il montre d'un texte.
- `inspection` : Ce qu'est un modèle, sans charger ses poids.
- `loading` : Charger un modèle, d'ici ou d'ailleurs, et choisir ce qui le fait calculer.
- `measures` : Ce que vaut un modèle, mesuré.
- `merging` : Des adaptateurs fondus dans leur modèle de départ.
- `options` : Les réglages qu'un appel nomme : un nom inconnu, une valeur d'un autre genre sont
  refusés.
- `plans` : Quoi entraîner dans les heures qu'on a : la taille, la durée, et la perte à en attendre.
- `preparation` : Des textes préparés pour l'entraînement, en fragments de tokens.
- `quantization` : Un modèle écrit sur 8 ou 4 bits, et ce qu'il y perd.
- `runs` : Entraîner d'un appel, et ce qu'un entraînement laisse : un modèle, une histoire, des
  courbes.
- `service` : Un modèle servi depuis Python, dans un thread, et arrêté proprement.
- `study` : Ce qu'un modèle récite, et la page qui le montre.
- `verification` : Un entraînement vérifié : son certificat, ses fichiers, et des étapes rejouées.
- `views` : Ce qu'un modèle montre d'un texte : tokens, probabilités, attention, filtres.
- `vocabularies` : Un vocabulaire appris sur des textes, et plusieurs comparés.
- `writer` : Un modèle qui écrit : invites, textes, flux, conversations.
"""

from typing import TYPE_CHECKING

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
from gpt_architecture.lazy import on_demand

if TYPE_CHECKING:
    from gpt_architecture.api.chats import Chat, chat
    from gpt_architecture.api.comparisons import Comparison, compare, visualize
    from gpt_architecture.api.conversions import Conversion, check_conversion, convert
    from gpt_architecture.api.evaluations import Evaluation
    from gpt_architecture.api.inspection import Inspection, inspect_model
    from gpt_architecture.api.measures import evaluate
    from gpt_architecture.api.merging import Merge, merge
    from gpt_architecture.api.plans import Plan, plan
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
    from gpt_architecture.api.verification import Verification, verify
    from gpt_architecture.api.views import (
        AttentionMap,
        Completion,
        Distribution,
        Table,
        Tokenization,
        Trace,
    )
    from gpt_architecture.api.vocabularies import Vocabulary, compare_tokenizers, train_tokenizer

_NAMES = {
    "chats": "Chat chat",
    "comparisons": "Comparison compare visualize",
    "conversions": "Conversion check_conversion convert",
    "evaluations": "Evaluation",
    "inspection": "Inspection inspect_model",
    "measures": "evaluate",
    "merging": "Merge merge",
    "plans": "Plan plan",
    "preparation": "Prepared prepare",
    "quantization": "Quantization quantize quantized_output",
    "runs": "Run train",
    "service": "LOCAL_HOSTS Service check_serving serve start_engine",
    "verification": "Verification verify",
    "views": "AttentionMap Completion Distribution Table Tokenization Trace",
    "vocabularies": "Vocabulary compare_tokenizers train_tokenizer",
}
"""Ce qui n'est importé qu'à la demande : charger un modèle et écrire n'attendent pas le reste."""

__getattr__ = on_demand(__name__, _NAMES)

__all__ = [
    "COMPILE_FROM",
    "GPT",
    "LOCAL_HOSTS",
    "AttentionMap",
    "Chat",
    "Comparison",
    "Completion",
    "Conversion",
    "Distribution",
    "EngineName",
    "Evaluation",
    "Inspection",
    "Merge",
    "OpenedModel",
    "Plan",
    "Prepared",
    "Quantization",
    "Run",
    "Service",
    "Table",
    "Tokenization",
    "Trace",
    "Verification",
    "Vocabulary",
    "chat",
    "check_conversion",
    "check_serving",
    "check_source",
    "compare",
    "compare_tokenizers",
    "convert",
    "evaluate",
    "find_tokenizer",
    "inspect_model",
    "is_remote",
    "load",
    "locate",
    "merge",
    "open_model",
    "plan",
    "prepare",
    "quantize",
    "quantized_output",
    "read_any",
    "serve",
    "short_name",
    "start_engine",
    "train",
    "train_tokenizer",
    "verify",
    "visualize",
]
