"""Lire un point de reprise de nanoGPT (`ckpt.pt`) : poids et forme, rien d'exécuté."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.weights import ModelFile
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.interop.files import named_tensors
from gpt_architecture.interop.state_map import PREFIX, from_hf, key_table
from gpt_architecture.interop.vocabulary import assumed_tokenizer

logger = logging.getLogger(__name__)

COMPILED = "_orig_mod."
"""Préfixe que `torch.compile` ajoute aux noms."""

_SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "block_size",
    "emb_dim": "n_embd",
    "n_heads": "n_head",
    "n_layers": "n_layer",
}


def is_nanogpt(content: object) -> bool:
    """Vrai si le contenu d'un fichier de PyTorch est un point de reprise de nanoGPT."""
    return (
        isinstance(content, Mapping)
        and isinstance(content.get("model_args"), Mapping)
        and isinstance(content.get("model"), Mapping)
    )


def read_nanogpt(
    path: Path | str, content: Mapping[str, Any], *, tokenizer: Tokenizer | None = None
) -> ModelFile:
    """Le modèle d'un point de reprise de nanoGPT.

    nanoGPT garde les projections comme `nn.Linear` et lie toujours la tête ; avec
    `bias=False`, il n'a aucun biais, pas même dans ses normes : ils valent ici zéro.

    Args:
        path: le fichier, pour les messages.
        content: ce qu'il contient.
        tokenizer: celui à employer ; None : GPT-2, si la taille du vocabulaire est la sienne.

    Raises:
        ModelFileError: forme ou poids imprévus.
        TokenizerError: vocabulaire inconnu.
    """
    config = nanogpt_config(path, content["model_args"])
    state = {
        name.removeprefix(COMPILED).removeprefix(PREFIX): tensor
        for name, tensor in named_tensors(path, content["model"]).items()
    }
    weights = from_hf(_as_hf(state, config), config)
    chosen = tokenizer or assumed_tokenizer(config.vocab_size, path)
    logger.info("nanoGPT emploie la GELU exacte depuis 2023, GPT-2 et ce projet la forme en tanh")
    metadata: dict[str, Any] = {"origin": "nanogpt", "window": config.context_length}
    step, best = content.get("iter_num"), content.get("best_val_loss")
    if type(step) is int:
        metadata["steps"] = step
    if isinstance(best, (float, Tensor)) and (not isinstance(best, Tensor) or best.numel() == 1):
        metadata["val_losses"] = [float(best)]
    return ModelFile(
        config=config, state_dict=weights, tokenizer=chosen.to_dict(), metadata=metadata
    )


def nanogpt_config(path: Path | str, arguments: Mapping[str, Any]) -> GPTConfig:
    """La forme que disent les `model_args`.

    Raises:
        ModelFileError: il en manque, ou une valeur est absurde.
    """
    try:
        return GPTConfig(
            **{ours: arguments[theirs] for ours, theirs in _SIZES.items()},
            drop_rate=arguments.get("dropout", 0.0),
            qkv_bias=arguments.get("bias", True),
            tie_weights=True,
        )
    except (ConfigurationError, KeyError) as error:
        absent = isinstance(error, KeyError)
        found = f"il manque {error.args[0]}" if absent else getattr(error, "found", "")
        raise ModelFileError(
            f"{path} : model_args de nanoGPT, {found}",
            expected="les tailles d'un GPT-2",
            remedy="reprenez le ckpt.pt d'origine",
        ) from None


def _as_hf(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Les poids rangés comme dans Transformers ; la table vérifie ensuite noms et formes."""
    transposed = dict(state)
    if config.n_layers > len(state):  # la table refusera ; inutile de la dresser deux fois
        return transposed
    for entry in key_table(config):
        tensor = state.get(entry.theirs)
        if tensor is None:
            if not config.qkv_bias and entry.theirs.endswith(".bias"):
                transposed[entry.theirs] = torch.zeros(entry.shape)
        elif entry.transposed and tensor.ndim == 2:
            transposed[entry.theirs] = tensor.T
    return transposed
