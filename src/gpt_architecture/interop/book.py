"""Les poids du livre de Raschka : un fichier `.pth`, et ses fonctions du chapitre 5.

*Build a Large Language Model (From Scratch)* enregistre le `state_dict` seul, ou avec
l'optimiseur sous `model_state_dict` ; ses variantes tiennent Q, K et V dans `att.qkv`. La forme du
modèle se déduit des tenseurs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError, ModelFileError
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel, Use
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.tensor_files import bare_name, named_tensors, tensor_infos
from gpt_architecture.interop.state_map import OUR_EMBEDDING, OUR_HEAD, from_hf, own_weights
from gpt_architecture.interop.vocabulary import assumed_tokenizer, check_given

HEAD_DIM = 64
"""Taille d'une tête dans les quatre GPT-2, et dans le livre : rien d'autre ne dit leur nombre."""

_BLOCK = re.compile(r"trf_blocks\.(\d{1,6})\.")
_FUSED = re.compile(r"(trf_blocks\.\d+\.att)\.qkv\.(weight|bias)")
_POSITIONS = "pos_emb.weight"


class BookFormat(ModelFormat):
    """Un fichier du livre."""

    kind, name = "book", "poids du livre de Raschka"
    use = Use.IMPORT

    def recognises(self, model: OpenedModel) -> bool:
        """Un `state_dict` qui a les noms du livre."""
        return book_state(model.torch) is not None

    def facts(self, model: OpenedModel) -> Facts:
        """Ce que disent les tenseurs ; voir si la tête est liée les compare."""
        path = model.path
        state = named_tensors(path, book_state(model.torch) or {})
        try:
            config = book_config(path, split_fused(state))
        except ModelFileError:  # nombre de têtes que rien ne dit
            config = None
        vocab_size = state[OUR_EMBEDDING].size(0)
        return Facts(
            config=config,
            tensors=tensor_infos(state),
            tokenizer=lambda: assumed_tokenizer(vocab_size, path),
            provenance={},
        )

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Voir `read_book`."""
        state = book_state(model.torch) or {}
        return read_book(model.path, state, tokenizer=tokenizer, n_heads=n_heads)


def book_state(content: object) -> Mapping[str, Any] | None:
    """Les poids d'un fichier du livre ; None si le contenu n'en est pas un."""
    if not isinstance(content, Mapping):
        return None
    inner = content.get("model_state_dict", content)
    if not isinstance(inner, Mapping):
        return None
    names = {bare_name(str(name)) for name in inner}
    return inner if {OUR_EMBEDDING, _POSITIONS} <= names else None


def read_book(
    path: Path | str,
    content: Mapping[str, Any],
    *,
    tokenizer: Tokenizer | None = None,
    n_heads: int | None = None,
) -> ModelFile:
    """Le modèle d'un fichier du livre.

    Args:
        path: le fichier, pour les messages.
        content: ses poids, tels que `book_state` les rend.
        tokenizer: celui à employer ; None : GPT-2, si la taille du vocabulaire est la sienne.
        n_heads: nombre de têtes ; None : une par `HEAD_DIM` de la largeur, comme GPT-2.

    Raises:
        ModelFileError: poids imprévus, ou nombre de têtes que rien ne dit.
        TokenizerError: vocabulaire inconnu.
    """
    state = split_fused(named_tensors(path, content))
    config = book_config(path, state, n_heads)
    weights = own_weights(state, config)
    if config.tie_weights:
        weights[OUR_HEAD] = weights[OUR_EMBEDDING]
    size = config.vocab_size
    chosen = check_given(tokenizer, size, path) if tokenizer else assumed_tokenizer(size, path)
    return ModelFile(
        config=config,
        state_dict=weights,
        tokenizer=chosen.to_dict(),
        metadata={"origin": "livre"},
    )


def split_fused(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sépare les `att.qkv` en trois et rend à la projection de sortie son nom."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        fused = _FUSED.fullmatch(name)
        if fused is None:
            split[name.replace(".att.proj.", ".att.out_proj.")] = tensor
        elif tensor.ndim and tensor.size(0) % 3 == 0:
            for part, chunk in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[f"{fused[1]}.W_{part}.{fused[2]}"] = chunk
        else:
            split[name] = tensor  # la table dira que ce nom est en trop
    return split


def book_config(
    path: Path | str, state: Mapping[str, Tensor], n_heads: int | None = None
) -> GPTConfig:
    """La forme que disent les tenseurs.

    Raises:
        ModelFileError: ils ne disent pas une forme de GPT-2.
    """
    embedding, positions = state[OUR_EMBEDDING], state[_POSITIONS]
    if embedding.ndim != 2 or positions.ndim != 2:
        raise ModelFileError(
            f"{path} : embeddings de formes {tuple(embedding.shape)} et {tuple(positions.shape)}",
            expected="deux matrices",
            remedy="reprenez le fichier d'origine",
        )
    width = embedding.size(1)
    if n_heads is None and width % HEAD_DIM:
        raise ModelFileError(
            f"{path} ne dit pas le nombre de têtes d'un modèle de largeur {width}",
            expected=f"une largeur multiple de {HEAD_DIM}, ou le nombre de têtes",
            remedy="convertissez-le en donnant `n_heads`",
        )
    wide = state.get("trf_blocks.0.ff.layers.0.weight")
    numbers = [int(found[1]) for name in state if (found := _BLOCK.match(name)) is not None]
    try:
        return GPTConfig(
            vocab_size=embedding.size(0),
            context_length=positions.size(0),
            emb_dim=width,
            n_heads=width // HEAD_DIM if n_heads is None else n_heads,
            n_layers=1 + max(numbers, default=-1),
            qkv_bias=any(name.endswith(".att.W_query.bias") for name in state),
            tie_weights=_is_tied(state),
            inner_dim=wide.size(0) if wide is not None and wide.ndim == 2 else None,
        )
    except ConfigurationError as error:
        raise ModelFileError(
            f"{path} : {error.found}",
            expected=error.expected,
            remedy="reprenez le fichier d'origine, ou corrigez `n_heads`",
        ) from None


def _is_tied(state: Mapping[str, Tensor]) -> bool:
    """Vrai si la tête manque ou répète l'embedding : les poids d'OpenAI, chargés par le livre."""
    head, embedding = state.get(OUR_HEAD), state[OUR_EMBEDDING]
    if head is None:
        return True
    if head.shape != embedding.shape:
        return False
    return head.data_ptr() == embedding.data_ptr() or torch.equal(head, embedding)


def assign(left: Tensor, right: Any) -> nn.Parameter:
    """`right` (tableau ou tenseur) en paramètre, s'il a la forme de `left` ; toujours une copie.

    Raises:
        ModelFileError: les formes diffèrent.
    """
    found = torch.as_tensor(right)
    if left.shape != found.shape:
        raise ModelFileError(
            f"un poids de forme {tuple(found.shape)}",
            expected=f"la forme {tuple(left.shape)}",
            remedy="donnez les poids d'un GPT-2 de la taille du modèle",
        )
    return nn.Parameter(found.to(left.device, left.dtype, copy=True))


def load_weights_into_gpt(gpt: GPTModel, params: Mapping[str, Any]) -> None:
    """Place dans `gpt` les poids de GPT-2, rangés comme dans les fichiers d'OpenAI.

    Args:
        gpt: modèle de la même forme, avec biais sur les requêtes, clés et valeurs.
        params: `wte`, `wpe`, `g`, `b` et `blocks` ; les matrices y sont (entrées, sorties), et
            `c_attn` y réunit Q, K et V.

    Raises:
        ModelFileError: nombre de blocs ou formes d'un autre modèle, ou modèle sans ces biais.
    """
    if not gpt.cfg.qkv_bias:
        raise ModelFileError(
            "les poids de GPT-2 pour un modèle où qkv_bias=False",
            expected="qkv_bias=True",
            remedy="construisez le modèle avec la configuration de ce GPT-2",
        )
    found = {"wte.weight": params["wte"], "wpe.weight": params["wpe"]}
    modules = [("ln_f", params)]
    for n, block in enumerate(params["blocks"]):
        modules += [(f"h.{n}.{norm}", block[norm]) for norm in ("ln_1", "ln_2")]
        for part in ("attn", "mlp"):
            modules += [(f"h.{n}.{part}.{name}", each) for name, each in block[part].items()]
    for name, each in modules:
        found |= {f"{name}.weight": each["w" if "w" in each else "g"], f"{name}.bias": each["b"]}
    tensors = {name: torch.as_tensor(value) for name, value in found.items()}
    gpt.load_state_dict(from_hf(tensors, replace(gpt.cfg, tie_weights=True)))
