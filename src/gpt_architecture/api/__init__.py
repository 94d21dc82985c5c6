"""La face de la bibliothèque en Python : tout le produit, sans les commandes.

    from gpt_architecture import load
    gpt = load("gpt-model.pt")
    print(gpt.generate("Every effort", strategy="top_p", p=0.9, max_tokens=50, seed=1))

Chaque fonction fait ce que fait la commande de ce nom, et rend un objet : ses attributs se lisent,
`repr` le résume, un carnet l'affiche.

- `chats` : Une conversation : ce qui s'est dit, et la réponse suivante, au fil de l'eau.
- `comparisons` : Des stratégies de décodage comparées, et l'effet des réglages sur un token.
- `conversions` : Un modèle écrit dans un autre format.
- `dossiers` : Le dossier de confidentialité d'un modèle : ce qu'il retient, d'où il vient, ce qu'il
  a coûté.
- `engines` : Le moteur d'un modèle, et ce que le service en dit : ses empreintes, ses adaptateurs.
- `evaluations` : Des mesures d'un modèle : ce que rend `evaluate`, et comment il se montre.
- `forgetting` : Un texte oublié par un modèle, exactement : ce que cela coûte, et ce qui en reste.
- `gpt` : Un modèle prêt à écrire, et ce qu'il montre d'un texte.
- `identity` : Ce qui répond, établi d'un modèle chargé : poids, vocabulaire, logiciel,
  arithmétique.
- `inspection` : Ce qu'est un modèle, sans charger ses poids.
- `insights` : Ce qui se voit dans un modèle : lentille, ablation, têtes, neurones, embeddings.
- `labels` : Des textes classés ou notés par un modèle, et ce que valent ses réponses.
- `learning` : Ce qu'un entraînement a appris, et quand : la même invite à chacun de ses points de
  reprise.
- `listing` : Les modèles d'un dossier et du cache : ce que chacun est, d'où il vient, sans le
  charger.
- `loading` : Charger un modèle, d'ici ou d'ailleurs, et choisir ce qui le fait calculer.
- `measures` : Ce que vaut un modèle, mesuré.
- `merging` : Des adaptateurs fondus dans leur modèle de départ, un affinage ou plusieurs.
- `options` : Les réglages qu'un appel nomme : un nom inconnu, une valeur d'un autre genre sont
  refusés.
- `plans` : Quoi entraîner dans les heures qu'on a : la taille, la durée, et la perte à en attendre.
- `preparation` : Des textes préparés pour l'entraînement, en fragments de tokens.
- `privacy` : Ce qu'un dossier de confidentialité mesure d'un modèle, et ce qu'il relit de ses
  données.
- `quantization` : Un modèle écrit sur 8 ou 4 bits, et ce qu'il y perd.
- `receipts` : Une réponse du service refaite de son reçu, et ce qui diffère si ce n'est pas la
  même.
- `runs` : Entraîner d'un appel, et ce qu'un entraînement laisse : un modèle, une histoire, des
  courbes.
- `service` : Un modèle servi depuis Python, dans un thread, et arrêté proprement.
- `sources` : D'où viennent les mots d'un texte : un index des données d'entraînement, et ce qu'on y
  trouve.
- `sharing` : Un modèle déposé dans un lieu d'échange, et repris : un dossier partagé, ou le Hub.
- `study` : Ce qu'un modèle récite, et la page qui le montre.
- `trials` : Les mesures d'un modèle, une à une : textes et épreuves, l'avancement sur une barre.
- `understanding` : Comprendre un modèle : ce que croit chaque couche, ce que fait chaque tête,
  chaque neurone.
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
    from gpt_architecture.api.dossiers import Dossier, dossier
    from gpt_architecture.api.engines import other_models, start_engine
    from gpt_architecture.api.evaluations import Evaluation
    from gpt_architecture.api.forgetting import Forgetting, forget
    from gpt_architecture.api.insights import (
        Ablation,
        EmbeddingMap,
        Heads,
        Lens,
        Neighbours,
        Neuron,
    )
    from gpt_architecture.api.inspection import Inspection, inspect_model
    from gpt_architecture.api.labels import Judgements
    from gpt_architecture.api.learning import LearningStory, follow_learning
    from gpt_architecture.api.listing import Models, models
    from gpt_architecture.api.measures import evaluate
    from gpt_architecture.api.merging import Merge, merge
    from gpt_architecture.api.plans import Plan, plan
    from gpt_architecture.api.preparation import Prepared, prepare
    from gpt_architecture.api.quantization import Quantization, quantize, quantized_output
    from gpt_architecture.api.receipts import Replay, replay
    from gpt_architecture.api.runs import Run, train
    from gpt_architecture.api.service import LOCAL_HOSTS, Service, check_serving, serve
    from gpt_architecture.api.sharing import Shared, pull, push
    from gpt_architecture.api.sources import (
        SourceIndex,
        Sources,
        find_in_sources,
        index_sources,
        open_index,
        provenance,
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
    "dossiers": "Dossier dossier",
    "engines": "other_models start_engine",
    "evaluations": "Evaluation",
    "forgetting": "Forgetting forget",
    "inspection": "Inspection inspect_model",
    "insights": "Ablation EmbeddingMap Heads Lens Neighbours Neuron",
    "labels": "Judgements",
    "learning": "LearningStory follow_learning",
    "listing": "Models models",
    "measures": "evaluate",
    "merging": "Merge merge",
    "plans": "Plan plan",
    "preparation": "Prepared prepare",
    "quantization": "Quantization quantize quantized_output",
    "receipts": "Replay replay",
    "runs": "Run train",
    "service": "LOCAL_HOSTS Service check_serving serve",
    "sources": "SourceIndex Sources find_in_sources index_sources open_index provenance",
    "sharing": "Shared pull push",
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
    "Ablation",
    "AttentionMap",
    "Chat",
    "Comparison",
    "Completion",
    "Conversion",
    "Distribution",
    "Dossier",
    "EmbeddingMap",
    "EngineName",
    "Evaluation",
    "Forgetting",
    "Heads",
    "Inspection",
    "Judgements",
    "LearningStory",
    "Lens",
    "Merge",
    "Models",
    "Neighbours",
    "Neuron",
    "OpenedModel",
    "Plan",
    "Prepared",
    "Quantization",
    "Replay",
    "Run",
    "Service",
    "Shared",
    "SourceIndex",
    "Sources",
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
    "dossier",
    "evaluate",
    "find_in_sources",
    "find_tokenizer",
    "follow_learning",
    "forget",
    "index_sources",
    "inspect_model",
    "is_remote",
    "load",
    "locate",
    "merge",
    "models",
    "open_index",
    "open_model",
    "other_models",
    "plan",
    "prepare",
    "provenance",
    "pull",
    "push",
    "quantize",
    "quantized_output",
    "read_any",
    "replay",
    "serve",
    "short_name",
    "start_engine",
    "train",
    "train_tokenizer",
    "verify",
    "visualize",
]
