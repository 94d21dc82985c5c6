"""Les poids d'OpenAI dans un modèle, par les fonctions du livre de Raschka (chapitre 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ModelFileError


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
    blocks = params["blocks"]
    if len(blocks) != len(gpt.trf_blocks) or not gpt.cfg.qkv_bias:
        raise ModelFileError(
            f"{len(blocks)} blocs de GPT-2 pour un modèle de {len(gpt.trf_blocks)} blocs, "
            f"qkv_bias={gpt.cfg.qkv_bias}",
            expected="autant de blocs, et qkv_bias=True",
            remedy="construisez le modèle avec la configuration de ce GPT-2",
        )
    _set(gpt.pos_emb, weight=params["wpe"])
    _set(gpt.tok_emb, weight=params["wte"])
    trunk: Any = gpt.trf_blocks
    for block, given in zip(trunk, blocks, strict=True):
        attention, perceptron = given["attn"], given["mlp"]
        thirds = [
            torch.as_tensor(attention["c_attn"][name]).chunk(3, dim=-1) for name in ("w", "b")
        ]
        projections = (block.att.W_query, block.att.W_key, block.att.W_value)
        for linear, weight, bias in zip(projections, *thirds, strict=True):
            _set(linear, weight=weight.T, bias=bias)
        for linear, source in (
            (block.att.out_proj, attention["c_proj"]),
            (block.ff.layers[0], perceptron["c_fc"]),
            (block.ff.layers[2], perceptron["c_proj"]),
        ):
            _set(linear, weight=torch.as_tensor(source["w"]).T, bias=source["b"])
        for norm, source in ((block.norm1, given["ln_1"]), (block.norm2, given["ln_2"])):
            _set(norm, scale=source["g"], shift=source["b"])
    _set(gpt.final_norm, scale=params["g"], shift=params["b"])
    _set(gpt.out_head, weight=params["wte"])
    if gpt.cfg.tie_weights:
        gpt.tie_weights_()


def _set(module: nn.Module, **values: Any) -> None:
    for name, value in values.items():
        setattr(module, name, assign(getattr(module, name), value))
