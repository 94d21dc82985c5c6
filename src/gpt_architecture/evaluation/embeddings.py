"""Le vecteur d'un texte : ses états cachés, réunis en un point de la sphère unité.

Le produit scalaire de deux vecteurs est le cosinus de leur angle : proche de 1, les textes se
ressemblent pour le modèle. Un GPT-2 n'a pas appris à placer des textes ; la moyenne de ses états
sépare des sujets, sans valoir un modèle entraîné à cela (Muennighoff, 2022).

Formes : T tokens, D largeur, N textes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gpt_architecture.config import check_choice, check_int
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.core.utils import blaming_weights, evaluation_mode
from gpt_architecture.errors import ConfigurationError, NonFiniteError
from gpt_architecture.french import counted

Pooling = Literal["mean", "last"]
"""`mean` : la moyenne des états du texte ; `last` : celui du dernier token, qui a tout lu."""


def embed(
    model: CausalLM,
    ids: Sequence[int],
    *,
    pooling: Pooling = "mean",
    dimensions: int | None = None,
    window: int | None = None,
) -> Tensor:
    """Le vecteur (D) d'un texte, float32 de norme 1, sur le processeur.

    Il ne dépend d'aucun autre texte : chacun est lu seul. Le modèle n'est ni modifié ni
    instrumenté : d'autres threads peuvent s'en servir en même temps.

    Args:
        model: un `GPTModel` ; un modèle quantifié ou compacté ne donne pas ses états.
        ids: identifiants (T).
        pooling: comment réunir les états (T, D) en un.
        dimensions: n'en garde que les premières, puis remet la norme à 1 ; None : toutes (D).
        window: contexte d'entraînement : au-delà, les positions n'ont rien appris ; None : tout le
            contexte du modèle.

    Raises:
        ConfigurationError: autre sorte de modèle, aucun token, trop de tokens, identifiant hors du
            vocabulaire, ou trop de dimensions.
        NonFiniteError: les états ne sont pas des nombres.
    """
    if not isinstance(model, GPTModel):
        raise ConfigurationError(
            "ce modèle ne donne pas ses états cachés",
            expected="un modèle en virgule flottante, non quantifié",
            remedy="donnez le gpt-model.pt d'origine",
        )
    check_choice("`pooling`", pooling, get_args(Pooling))
    width = model.cfg.emb_dim
    if dimensions is not None:
        check_int("`dimensions`", dimensions, minimum=1, maximum=width)
    limit = model.cfg.context_length if window is None else min(window, model.cfg.context_length)
    if not 1 <= len(ids) <= limit:
        raise ConfigurationError(
            f"texte de {counted(len(ids), 'token')}",
            expected=f"de 1 à {limit} tokens",
            remedy="coupez-le, et donnez-en les morceaux" if ids else "donnez quelques mots",
        )
    size = model.cfg.vocab_size
    if min(ids) < 0 or max(ids) >= size:
        raise ConfigurationError(
            f"identifiants de {min(ids)} à {max(ids)} dans le texte",
            expected=f"des identifiants de 0 à {size - 1}",
            remedy="codez le texte avec le tokenizer du modèle",
        )
    with torch.inference_mode(), evaluation_mode(model), blaming_weights(model):
        tokens = torch.tensor([list(ids)], dtype=torch.int64, device=model.device)  # (1, T)
        states = model.hidden_states(tokens)[0].float()  # (T, D)
        found = states[-1] if pooling == "last" else states.mean(dim=0)  # (D)
        if not bool(found.isfinite().all()):
            raise NonFiniteError("les états cachés de ce texte")
        return F.normalize(found[:dimensions].cpu(), dim=0)


def embed_all(
    model: CausalLM,
    texts: Sequence[Sequence[int]],
    *,
    pooling: Pooling = "mean",
    dimensions: int | None = None,
    window: int | None = None,
) -> Tensor:
    """Les vecteurs (N, D) de plusieurs textes ; voir `embed`.

    Raises:
        ConfigurationError: aucun texte, ou voir `embed`.
    """
    if not texts:
        raise ConfigurationError(
            "aucun texte", expected="au moins un texte", remedy="donnez un texte"
        )
    return torch.stack(
        [embed(model, ids, pooling=pooling, dimensions=dimensions, window=window) for ids in texts]
    )
