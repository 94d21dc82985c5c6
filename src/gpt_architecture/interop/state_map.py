"""La table des noms : les poids d'ici et ceux de GPT-2 dans Transformers, dans les deux sens.

Transformers range les projections par `Conv1D`, (entrée, sortie), à l'inverse de `nn.Linear`,
et tient Q, K et V dans une seule matrice, `c_attn`. Une même table sert à lire et à écrire ; un
nom qu'elle ne connaît pas, absent ou de mauvaise forme est refusé.

Formes : V vocabulaire, T positions, D largeur, F largeur cachée.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import ModelFileError

PREFIX = "transformer."
HEAD = "lm_head.weight"
SCORE = "score.weight"
"""La tête de `GPT2ForSequenceClassification`."""
OUR_HEAD = "out_head.weight"
OUR_EMBEDDING = "tok_emb.weight"

_QKV = ("att.W_query", "att.W_key", "att.W_value")
_STORED_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_OUR_MASK = re.compile(r"trf_blocks\.\d+\.att\.mask")
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Un tenseur de Transformers et ce qu'il est ici.

    Attributes:
        theirs: son nom dans Transformers, sans le préfixe `transformer.`.
        ours: les noms d'ici ; trois pour Q, K et V, rangés bout à bout dans le leur.
        shape: sa forme dans Transformers.
        transposed: rangé (entrée, sortie) là-bas, (sortie, entrée) ici.
        absent: n'existe pas ici (mode livre, sans biais) et vaut zéro là-bas.
    """

    theirs: str
    ours: tuple[str, ...]
    shape: tuple[int, ...]
    transposed: bool = False
    absent: bool = False


def key_table(config: GPTConfig) -> Iterator[Entry]:
    """Chaque tenseur d'un modèle de cette forme, tête comprise si elle n'est pas liée."""
    v, t, d = config.vocab_size, config.context_length, config.emb_dim
    yield Entry(theirs="wte.weight", ours=(OUR_EMBEDDING,), shape=(v, d))
    yield Entry(theirs="wpe.weight", ours=("pos_emb.weight",), shape=(t, d))
    for n in range(config.n_layers):
        yield from _block(n, d, config.inner_width, with_bias=config.qkv_bias)
    yield Entry(theirs="ln_f.weight", ours=("final_norm.scale",), shape=(d,))
    yield Entry(theirs="ln_f.bias", ours=("final_norm.shift",), shape=(d,))
    if config.head is not None:
        yield Entry(theirs=SCORE, ours=(OUR_HEAD,), shape=(config.outputs, d))
    elif not config.tie_weights:
        yield Entry(theirs=HEAD, ours=(OUR_HEAD,), shape=(v, d))


def _block(n: int, d: int, f: int, *, with_bias: bool) -> Iterator[Entry]:
    """Les tenseurs du bloc `n`."""
    here, there = f"trf_blocks.{n}", f"h.{n}"
    for ours, theirs in (("norm1", "ln_1"), ("norm2", "ln_2")):
        yield Entry(theirs=f"{there}.{theirs}.weight", ours=(f"{here}.{ours}.scale",), shape=(d,))
        yield Entry(theirs=f"{there}.{theirs}.bias", ours=(f"{here}.{ours}.shift",), shape=(d,))
    projections: tuple[tuple[tuple[str, ...], str, int, int], ...] = (
        (_QKV, "attn.c_attn", d, 3 * d),
        (("att.out_proj",), "attn.c_proj", d, d),
        (("ff.layers.0",), "mlp.c_fc", d, f),
        (("ff.layers.2",), "mlp.c_proj", f, d),
    )
    for modules, theirs, d_in, d_out in projections:
        yield Entry(
            theirs=f"{there}.{theirs}.weight",
            ours=tuple(f"{here}.{module}.weight" for module in modules),
            shape=(d_in, d_out),
            transposed=True,
        )
        yield Entry(
            theirs=f"{there}.{theirs}.bias",
            ours=tuple(f"{here}.{module}.bias" for module in modules),
            shape=(d_out,),
            absent=modules == _QKV and not with_bias,
        )


def own_weights(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Les poids d'ici, en fp32, une fois leurs noms et leurs formes vérifiés.

    Une tête de sortie liée n'est pas répétée ; les masques constants des fichiers du livre sont
    ignorés.

    Raises:
        ModelFileError: un nom manque ou surprend, ou une forme n'est pas la bonne.
    """
    rest = {name: t for name, t in state.items() if not _OUR_MASK.fullmatch(name)}
    _check_depth(config, rest)
    if config.tie_weights:
        _drop_tied_head_(rest, OUR_HEAD, OUR_EMBEDDING)
    table = [entry for entry in key_table(config) if not entry.absent]
    _check_names(rest, {name for entry in table for name in entry.ours})
    checked: dict[str, Tensor] = {}
    for entry in table:
        whole = entry.shape[::-1] if entry.transposed else entry.shape
        shape = (whole[0] // len(entry.ours), *whole[1:])
        checked |= {name: _checked(rest, name, shape) for name in entry.ours}
    return checked


def to_hf(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Les poids sous les noms de Transformers, préfixe compris.

    Une tête de sortie liée n'est pas répétée ; les biais que le mode livre n'a pas valent zéro.

    Args:
        state: poids d'ici.
        config: leur forme.

    Raises:
        ModelFileError: voir `own_weights`.
    """
    own = own_weights(state, config)
    converted: dict[str, Tensor] = {}
    for entry in key_table(config):
        name = entry.theirs if entry.theirs in (HEAD, SCORE) else PREFIX + entry.theirs
        if entry.absent:
            converted[name] = torch.zeros(entry.shape)
            continue
        parts = [own[ours] for ours in entry.ours]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        converted[name] = (whole.T if entry.transposed else whole).contiguous()
    return converted


def from_hf(state: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Les poids sous les noms d'ici, en fp32.

    Les noms sont acceptés avec ou sans `transformer.` ; les masques stockés (`attn.bias`,
    `attn.masked_bias`) sont ignorés.

    Args:
        state: poids de Transformers.
        config: leur forme ; sans `qkv_bias`, les biais de Q, K et V doivent valoir zéro.

    Raises:
        ModelFileError: un nom manque ou surprend, une forme n'est pas la bonne, un tenseur
            n'est pas de nombres à virgule, ou ce que la configuration dit lié ou nul ne l'est pas.
    """
    rest: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = name.removeprefix(PREFIX)
        if _STORED_MASK.fullmatch(bare):
            continue
        if bare in rest:
            _refuse(f"le poids {bare} est donné deux fois, avec et sans {PREFIX}")
        rest[bare] = tensor
    _check_depth(config, rest)
    if config.tie_weights:
        _drop_tied_head_(rest, HEAD, "wte.weight")
    converted: dict[str, Tensor] = {}
    table = list(key_table(config))
    _check_names(rest, {entry.theirs for entry in table})
    for entry in table:
        tensor = _checked(rest, entry.theirs, entry.shape)
        if entry.absent:
            if bool(tensor.any()):
                _refuse(f"{entry.theirs} n'est pas nul alors que le modèle est dit sans biais")
            continue
        own = tensor.T if entry.transposed else tensor
        for name, part in zip(entry.ours, own.chunk(len(entry.ours)), strict=True):
            converted[name] = part.contiguous()
    if config.tie_weights:
        converted[OUR_HEAD] = converted[OUR_EMBEDDING]
    return converted


def _drop_tied_head_(state: dict[str, Tensor], head: str, embedding: str) -> None:
    """Retire une tête de sortie liée, répétition de l'embedding.

    Raises:
        ModelFileError: elle n'en est pas la répétition.
    """
    tensor, other = state.pop(head, None), state.get(embedding)
    if tensor is None or other is None or tensor is other:
        return
    if tensor.shape != other.shape or not torch.equal(tensor, other):
        _refuse(f"la tête {head} n'est pas {embedding} alors que le modèle les dit liés")


def _check_depth(config: GPTConfig, state: Collection[str]) -> None:
    """Refuse un nombre de blocs démesuré avant de dresser sa table."""
    if config.n_layers > len(state):
        _refuse(f"{config.n_layers} blocs annoncés pour {len(state)} poids")


def _check_names(found: Collection[str], expected: Collection[str]) -> None:
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected))
    faults = []
    if missing:
        faults.append(f"il manque {_several(missing)}")
    if unexpected:
        faults.append(f"il y a en trop {_several(unexpected)}")
    if faults:
        _refuse(" et ".join(faults))


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} et {more} autres" if more > 0 else shown


def _checked(state: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Le tenseur `name`, en fp32, une fois sa forme et son type vérifiés."""
    tensor = state[name]
    if tensor.shape != shape:
        _refuse(f"{name} est de forme {tuple(tensor.shape)} au lieu de {shape}")
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        _refuse(f"{name} est en {str(tensor.dtype).removeprefix('torch.')}")
    return tensor.detach().to(torch.float32)


def _refuse(found: str) -> NoReturn:
    raise ModelFileError(
        f"les poids ne sont pas ceux annoncés : {found}",
        expected="les poids de GPT-2, tous et eux seuls, aux formes de la configuration",
        remedy="reprenez le modèle d'origine, ou vérifiez sa configuration",
    )
