"""Lire et écrire un point de reprise de nanoGPT (`ckpt.pt`) : poids et forme, rien d'exécuté.

nanoGPT (A. Karpathy, 2022) garde les projections comme `nn.Linear` et lie toujours la tête ; avec
`bias=False`, il n'a aucun biais, pas même dans ses normes : ils valent ici zéro.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizer import GPT2Tokenizer, Tokenizer, tokenizer_from_dict
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.errors import ConfigurationError, ModelFileError, TokenizerError
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel, Use
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.formats.tensor_files import named_tensors, tensor_infos
from gpt_architecture.interop.hf_export import learned_window
from gpt_architecture.interop.state_map import (
    HEAD,
    OUR_EMBEDDING,
    OUR_HEAD,
    PREFIX,
    from_hf,
    key_table,
    to_hf,
)
from gpt_architecture.interop.vocabulary import assumed_tokenizer, check_given
from gpt_architecture.storage import check_free, write_atomically

logger = logging.getLogger(__name__)

DATASET = "gpt-architecture"
"""Le nom d'un jeu de données de nanoGPT : `sample.py` cherche `data/NOM/meta.pkl`."""

_NO_LOSS = 1e9  # la valeur de départ de train.py

_SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "block_size",
    "emb_dim": "n_embd",
    "n_heads": "n_head",
    "n_layers": "n_layer",
}


class NanoGPTFormat(ModelFormat):
    """Un `ckpt.pt`."""

    kind, name = "nanogpt", "point de reprise de nanoGPT"
    use = Use.IMPORT

    def recognises(self, model: OpenedModel) -> bool:
        """Voir `is_nanogpt`."""
        return is_nanogpt(model.torch)

    def facts(self, model: OpenedModel) -> Facts:
        """La forme, les étapes, et les réglages qui s'écrivent en JSON."""
        path, found = model.path, model.torch
        config = nanogpt_config(path, found["model_args"])
        steps, settings = found.get("iter_num"), found.get("config")
        told = settings if isinstance(settings, Mapping) else {}
        plain = {str(k): v for k, v in told.items() if type(v) in (str, int, float, bool)}
        return Facts(
            config=config,
            tensors=tensor_infos(named_tensors(path, found["model"])),
            tokenizer=lambda: assumed_tokenizer(config.vocab_size, path),
            provenance={**({"steps": steps} if type(steps) is int else {}), **plain},
        )

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Voir `read_nanogpt`."""
        return read_nanogpt(model.path, model.torch, tokenizer=tokenizer)


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
        name.removeprefix(PREFIX): tensor
        for name, tensor in named_tensors(path, content["model"]).items()
    }
    weights = from_hf(_as_hf(state, config), config)
    size = config.vocab_size
    chosen = check_given(tokenizer, size, path) if tokenizer else assumed_tokenizer(size, path)
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


def export_nanogpt(content: ModelFile, dest: Path | str, *, force: bool = False) -> Path | None:
    """Écrit un `ckpt.pt` que lit le `sample.py` de nanoGPT.

    Comme en GGUF, il n'a que les positions que l'entraînement a parcourues. nanoGPT prend le
    vocabulaire de GPT-2, ou celui d'un `data/NOM/meta.pkl` : un vocabulaire de caractères est
    écrit à côté en JSON, son contenu, que son lecteur met lui-même en pickle.

    Args:
        content: le modèle, au vocabulaire de GPT-2 ou de caractères.
        dest: fichier à écrire ; son dossier est créé au besoin.
        force: remplace le fichier du vocabulaire s'il existe.

    Returns:
        Le fichier du vocabulaire de caractères ; None : c'est celui de GPT-2.

    Raises:
        ModelFileError: tête de sortie indépendante, ou forme que nanoGPT n'a pas ; tokenizer trop
            grand.
        TokenizerError: nanoGPT n'a pas de quoi coder ce vocabulaire.
        OutputError: fichier du vocabulaire déjà là, ou écriture refusée.
    """
    check_vocabulary(content.config, content.tokenizer)
    dest, tokenizer = Path(dest), tokenizer_from_dict(content.tokenizer)
    if not isinstance(tokenizer, (GPT2Tokenizer, CharTokenizer)):
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} n'a pas d'équivalent dans nanoGPT",
            expected="gpt2, ou un vocabulaire de caractères",
            remedy="exportez vers hf ou gguf",
        )
    weights, config = _tied(content), replace(content.config, tie_weights=True)
    arguments = _arguments(content, biased=config.qkv_bias or _has_bias(weights))
    written = nanogpt_config(dest, arguments)
    kept = ("context_length", "qkv_bias", "drop_rate")  # les positions apprises, des biais nuls
    wanted, found = config.to_dict(), written.to_dict()
    found["activation"] = "gelu"  # celle de nanoGPT depuis 2023 ; `to_dict` tait celle de GPT-2
    others = [f"{name} = {wanted[name]}" for name in wanted if wanted[name] != found.get(name)]
    if others := [each for each in others if not each.startswith(kept)]:
        raise ModelFileError(
            f"nanoGPT n'a pas d'équivalent de {', '.join(others)}",
            expected="un GPT-2 ordinaire",
            remedy="exportez vers hf",
        )
    payload = {
        "model": _as_nanogpt(weights, config, arguments),
        "model_args": arguments,
        "iter_num": _number(content.metadata.get("steps"), 0),
        "best_val_loss": min(_numbers(content.metadata.get("val_losses")), default=_NO_LOSS),
        "config": {"dataset": DATASET},
    }
    if isinstance(tokenizer, GPT2Tokenizer):
        write_atomically(dest, lambda path: torch.save(payload, path))
        return None
    meta = dest.with_name(f"{dest.stem}.meta.json")
    check_free(meta, force=force, directory=False)
    text = json.dumps(tokenizer.to_nanogpt(), indent=1)
    write_atomically(dest, lambda path: torch.save(payload, path))
    write_atomically(meta, lambda path: path.write_text(text, encoding="utf-8"))
    return meta


def nanogpt_config(path: Path | str, arguments: Mapping[str, Any]) -> GPTConfig:
    """La forme que disent les `model_args`.

    Raises:
        ModelFileError: il en manque, ou une valeur est absurde.
    """
    path = Path(path)
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


def _tied(content: ModelFile) -> dict[str, Tensor]:
    """Les poids, dont la tête est l'embedding.

    Raises:
        ModelFileError: elle en diffère : `load_state_dict` écraserait l'un par l'autre.
    """
    weights = dict(content.state_dict)
    head, embedding = weights.pop(OUR_HEAD, None), weights.get(OUR_EMBEDDING)
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise ModelFileError(
            "ce modèle a une tête de sortie indépendante, et nanoGPT la lie toujours à l'embedding",
            expected="un modèle dont la tête de sortie est liée (mode GPT-2)",
            remedy="exportez vers hf, ou entraînez avec la tête de sortie liée",
        )
    return weights


def _has_bias(weights: Mapping[str, Tensor]) -> bool:
    """Vrai si un biais n'est pas nul, ceux des normes compris."""
    return any(bool(t.any()) for name, t in weights.items() if name.endswith((".bias", ".shift")))


def _arguments(content: ModelFile, *, biased: bool) -> dict[str, Any]:
    """Les `model_args`."""
    sizes = {theirs: getattr(content.config, ours) for ours, theirs in _SIZES.items()}
    window = {"block_size": learned_window(content)}
    return {**sizes, **window, "bias": biased, "dropout": content.config.drop_rate}


def _as_nanogpt(
    weights: Mapping[str, Tensor], config: GPTConfig, arguments: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Les poids sous les noms de nanoGPT, embedding répété, projections comme `nn.Linear`."""
    theirs = to_hf(weights, config)
    found: dict[str, Tensor] = {}
    for entry in key_table(config):
        name = PREFIX + entry.theirs
        if arguments["bias"] or not name.endswith(".bias"):
            tensor = theirs[name]
            found[name] = (tensor.T if entry.transposed else tensor).contiguous()
    positions = f"{PREFIX}wpe.weight"
    found[positions] = found[positions][: arguments["block_size"]].clone()
    return {**found, HEAD: found[f"{PREFIX}wte.weight"]}


def _numbers(values: object) -> Iterator[float]:
    """Les nombres d'une liste ; rien si ce n'en est pas une."""
    for value in values if isinstance(values, (list, tuple)) else ():
        if isinstance(value, float):
            yield value


def _number(value: object, default: int) -> int:
    return value if type(value) is int else default
