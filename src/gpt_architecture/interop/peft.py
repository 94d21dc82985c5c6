"""Lit et écrit des adaptateurs de PEFT, pour Transformers et ceux qui servent ses modèles.

Le GPT-2 de Transformers tient Q, K et V dans une seule matrice, `c_attn`. À l'écriture, leurs
adaptateurs y deviennent un seul, exactement, les A empilées et les B en blocs diagonaux : son rang
est la somme des leurs, sa force croît d'autant, et le facteur alpha / r ne change pas. À la
lecture, celui de `c_attn` en devient trois de même A, chacun avec son tiers des lignes de B, sans
les composantes dont la colonne de B y est nulle : ce qui est écrit ici se relit tel quel.

Formes : D largeur, r rang, k projections adaptées parmi Q, K et V.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor

from gpt_architecture.config import LoRAConfig, LoRATarget
from gpt_architecture.core.lora import PATHS
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError, ModelFileError, shown
from gpt_architecture.formats.adapter_file import AdapterFile
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel, Use
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.own_formats import merged_in_base
from gpt_architecture.formats.tensor_files import SafetensorsFile, bare_name, save_safetensors
from gpt_architecture.interop.vocabulary import read_chat_templates, read_folder_json
from gpt_architecture.storage import write_directory

PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_BLOCK = re.compile(r"trf_blocks\.(\d{1,6})\.")
_FUSED: tuple[LoRATarget, ...] = ("query", "key", "value")
_C_ATTN = "attn.c_attn"
_MODULES: dict[LoRATarget, str] = {
    "output": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_TARGETS: dict[str, tuple[LoRATarget, ...]] = {
    _C_ATTN: _FUSED,
    **{module: (target,) for target, module in _MODULES.items()},
}
_MATRIX = re.compile(
    r"(?:base_model\.model\.)?(?:transformer\.)?(h\.(\d{1,6})\."
    r"(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj))\.lora_([AB])(?:\.default)?\.weight"
)
_PLAIN = re.compile(r"\^?[\w.]{1,200}\$?")
_OTHERWISE = (
    *("use_dora", "modules_to_save", "lora_bias", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config"),
    *("kasa_config", "monteclora_config"),
)
"""Clés d'`adapter_config.json` qui, données, demandent un autre calcul que celui de LoRA."""
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Valeurs d'`init_lora_weights` qui laissent le modèle de départ tel quel."""
_MOST = 1e9  # d'un rang ou d'une force ; NaN n'est pas dessous
_BASE = "base_sha256"
"""Clé de l'empreinte du modèle de départ, parmi les métadonnées de nos poids."""


def export_peft(adapter: AdapterFile, dest: Path | str, *, force: bool = False) -> None:
    """Écrit le dossier qu'ouvre `PeftModel.from_pretrained(modèle, dest)`, ou rien.

    Args:
        adapter: les adaptateurs ; leur modèle de départ s'exporte à part, pour Transformers.
        dest: dossier à créer.
        force: remplace un dossier exporté auparavant.

    Raises:
        ModelFileError: une matrice manque, surprend, ou n'est pas de la bonne forme.
        OutputError: destination prise, ou écriture refusée ; rien n'est laissé.
    """
    tensors = peft_tensors(adapter.lora, adapter.tensors)
    text = json.dumps(peft_config(adapter.lora), indent=2)

    def fill(folder: Path) -> None:
        (folder / PEFT_CONFIG).write_text(text + "\n", encoding="utf-8")
        known = {} if adapter.base_sha256 is None else {_BASE: adapter.base_sha256}
        save_safetensors(folder / PEFT_WEIGHTS, tensors, {"format": "pt", **known})

    write_directory(Path(dest), fill, force=force)


def peft_config(lora: LoRAConfig) -> dict[str, Any]:
    """Le contenu d'`adapter_config.json` ; le rang annoncé est le plus grand."""
    fused = [target for target in lora.targets if target in _FUSED]
    others = [_MODULES[target] for target in lora.targets if target in _MODULES]
    times = max(1, len(fused))
    differ = others if times > 1 else []
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": times * lora.rank,
        "lora_alpha": times * lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [_C_ATTN] * bool(fused) + others,
        "rank_pattern": dict.fromkeys(differ, lora.rank),
        "alpha_pattern": dict.fromkeys(differ, lora.alpha),
        "fan_in_fan_out": True,  # Conv1D range ses poids (entrée, sortie)
        "bias": "none",
    }


def peft_tensors(lora: LoRAConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Les matrices sous les noms de PEFT.

    Raises:
        ModelFileError: une matrice manque, surprend, ou n'est pas de la bonne forme.
    """
    left = dict(tensors)
    blocks = sorted({int(found[1]) for name in left if (found := _BLOCK.match(name))})
    converted: dict[str, Tensor] = {}

    def take(block: int, target: LoRATarget) -> tuple[Tensor, Tensor]:
        stem = f"trf_blocks.{block}.{PATHS[target]}"
        a, b = (left.pop(f"{stem}.lora_{letter}", torch.empty(0)) for letter in "AB")
        if a.ndim != 2 or b.ndim != 2 or not len(a) == b.size(1) == lora.rank:
            raise _unfit(stem)
        return a, b

    def put(block: int, module: str, a: Tensor, b: Tensor) -> None:
        stem = f"base_model.model.transformer.h.{block}.{module}"
        for letter, tensor in (("A", a), ("B", b)):
            converted[f"{stem}.lora_{letter}.weight"] = tensor.to(torch.float32).contiguous()

    for block in blocks:
        pairs = {t: take(block, t) for t in lora.targets}
        fused = [target for target in _FUSED if target in pairs]
        if fused:
            width = len(pairs[fused[0]][1])  # D
            if any(len(pairs[t][1]) != width or pairs[t][0].size(1) != width for t in fused):
                raise _unfit(f"trf_blocks.{block}.att")
            whole = torch.zeros(3 * width, len(fused) * lora.rank)  # (3·D, k·r)
            for column, target in enumerate(fused):
                row = _FUSED.index(target)
                b = pairs[target][1]
                whole[row * width : (row + 1) * width, column * lora.rank :][:, : lora.rank] = b
            put(block, _C_ATTN, torch.cat([pairs[target][0] for target in fused]), whole)
        for target, module in _MODULES.items():
            if target in pairs:
                put(block, module, *pairs[target])
    if left or not converted:
        raise _unfit(min(left, default="rien"))
    return converted


def _unfit(name: str) -> ModelFileError:
    return ModelFileError(
        f"ces adaptateurs ne s'écrivent pas pour PEFT ({name[:80]})",
        expected="les matrices A et B de chaque couche visée, au rang annoncé",
        remedy="reprenez le fichier d'origine",
    )


class PEFTFormat(ModelFormat):
    """Un dossier de PEFT, ou son `adapter_model.safetensors`."""

    kind, name = "peft", "adaptateurs LoRA de PEFT"
    use = Use.IMPORT  # fondus dans leur modèle de départ

    def recognises(self, model: OpenedModel) -> bool:
        """Un dossier qui a un `adapter_config.json`, ou les poids à côté de lui."""
        named = model.is_directory or model.path.name == PEFT_WEIGHTS
        return named and (_folder(model) / PEFT_CONFIG).is_file()

    def holds_adapters(self, model: OpenedModel) -> bool:
        """Toujours."""
        return True

    def facts(self, model: OpenedModel) -> Facts:
        """Ce que disent `adapter_config.json` et l'en-tête des poids."""
        folder = _folder(model)
        document, file = _config(folder), SafetensorsFile(folder / PEFT_WEIGHTS)
        modules = sorted(
            {found[3] for i in file.infos if (found := _MATRIX.fullmatch(bare_name(i.name)))}
        )
        said = {"base": _base(document), _BASE: file.metadata.get(_BASE)}
        numbers = {"rank": document.get("r"), "alpha": document.get("lora_alpha")}
        return Facts(
            tensors=file.infos,
            tokenizer=lambda: {"problem": "c'est celui du modèle de départ"},
            provenance={name: value for name, value in (said | numbers).items() if value}
            | {"targets": ", ".join(modules)},
        )

    def read_adapters(self, model: OpenedModel) -> AdapterFile:
        """Voir `read_peft`."""
        return read_peft(_folder(model))

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Le modèle de départ, où ils sont fondus."""
        return merged_in_base(_folder(model), self.read_adapters(model))


def read_peft(folder: Path | str) -> AdapterFile:
    """Les adaptateurs d'un dossier de PEFT, dont le calcul s'exprime ici.

    Leurs rangs et leurs forces peuvent différer d'une matrice à l'autre : les petits rangs sont
    complétés de zéros, et B prend le rapport des facteurs. Le gabarit de conversation du dossier
    les suit.

    Raises:
        ModelFileError: un autre genre d'adaptateurs, une variante de LoRA au calcul différent, une
            matrice qui manque, surprend, ou n'est pas de la bonne forme.
    """
    folder = Path(folder)
    document = _config(folder)
    file = SafetensorsFile(folder / PEFT_WEIGHTS)
    matrices: dict[tuple[str, str], Tensor] = {}
    for name, tensor in file.tensors().items():
        found = _MATRIX.fullmatch(name)
        key = (found[1], found[4]) if found else None
        if key is None or key in matrices or tensor.ndim != 2 or not tensor.is_floating_point():
            _refuse(folder, f"tient {name[:120]}", "les matrices A et B des projections d'un GPT-2")
        matrices[key] = tensor.to(torch.float32)
    pairs = list[_Pair]()
    for module in dict.fromkeys(module for module, _ in matrices):
        a, b = matrices.get((module, "A")), matrices.get((module, "B"))
        if a is None or b is None:
            _refuse(folder, f"n'a pas les deux matrices de {module}", "A et B de chaque projection")
        pairs += _pairs(folder, document, module, a, b)
    if not pairs:
        _refuse(folder, "n'a aucune matrice", "les matrices A et B des projections d'un GPT-2")
    return _uniform(folder, pairs, document, file.metadata.get(_BASE))


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """L'adaptateur d'une matrice d'ici : A (r, D), B (E, r), alpha et facteur."""

    block: int
    target: LoRATarget
    a: Tensor
    b: Tensor
    alpha: float
    scale: float

    @cached_property
    def used(self) -> Tensor:
        """Les composantes dont la colonne de B n'est pas nulle : (r,) bool."""
        return self.b.any(dim=0)


def _pairs(
    folder: Path, document: Mapping[str, Any], module: str, a: Tensor, b: Tensor
) -> list[_Pair]:
    """L'adaptateur d'un de leurs modules, sur les matrices d'ici."""
    targets = _TARGETS[module.split(".", 2)[2]]
    rank = _for_module(folder, document, module, "rank_pattern", "r")
    alpha = _for_module(folder, document, module, "alpha_pattern", "lora_alpha")
    if not len(a) == b.size(1) == rank or len(b) % len(targets):
        shapes = f"{tuple(a.shape)} et {tuple(b.shape)}"
        _refuse(folder, f"a pour {module} des matrices {shapes}", f"un rang de {shown(rank)}")
    scale = alpha / (math.sqrt(rank) if document.get("use_rslora") else rank)
    block = int(module.split(".")[1])
    return [
        _Pair(block=block, target=target, a=a, b=part, alpha=alpha, scale=scale)
        for target, part in zip(targets, b.chunk(len(targets)), strict=True)
    ]


def _uniform(
    folder: Path, pairs: list[_Pair], document: Mapping[str, Any], base_sha256: str | None
) -> AdapterFile:
    """Les mêmes adaptateurs, tous d'un rang et d'un facteur."""
    ranks = dict.fromkeys(get_args(LoRATarget), 0)
    for pair in pairs:
        ranks[pair.target] = max(ranks[pair.target], int(pair.used.sum()))
    targets = tuple(target for target, rank in ranks.items() if rank)
    targets = targets or tuple(t for t in ranks if any(pair.target == t for pair in pairs))
    rank = max(1, *ranks.values())
    first = max(pairs, key=lambda pair: pair.scale)
    plain = first.scale * len(first.a) == first.alpha  # sans rslora : aucun arrondi
    alpha = first.alpha * rank / len(first.a) if plain else first.scale * rank
    dropout = document.get("lora_dropout", 0.0)
    try:
        lora = LoRAConfig(rank=rank, alpha=alpha, targets=targets, dropout=dropout)
    except ConfigurationError as error:
        _refuse(folder, f": {error.found}", error.expected)
    tensors: dict[str, Tensor] = {}
    for pair in pairs:
        if pair.target not in targets:
            continue
        a, b = pair.a[pair.used], pair.b[:, pair.used]
        b = b if pair.scale == first.scale else b * (pair.scale / first.scale)
        missing = rank - len(a)
        stem = f"trf_blocks.{pair.block}.{PATHS[pair.target]}"
        tensors[f"{stem}.lora_A"] = torch.cat([a, a.new_zeros(missing, a.size(1))])
        tensors[f"{stem}.lora_B"] = torch.cat([b, b.new_zeros(len(b), missing)], dim=1)
    return AdapterFile(
        lora=lora,
        base_sha256=base_sha256,
        tensors=tensors,
        metadata=read_chat_templates(folder),
        base_path=_base(document),
        sparse=True,  # `layers_to_transform` n'adapte que des blocs choisis
    )


def _for_module(
    folder: Path, document: Mapping[str, Any], module: str, pattern: str, default: str
) -> Any:
    """Le rang ou la force d'un module : celui de son motif, sinon celui de tous."""
    patterns = document.get(pattern) or {}
    if not isinstance(patterns, Mapping) or not all(_PLAIN.fullmatch(each) for each in patterns):
        _refuse(folder, f"a {pattern} = {shown(patterns)}", "des noms de modules, sans motif")
    full = f"transformer.{module}"
    named = (
        value
        for name, value in patterns.items()
        if f".{full}".endswith("." + name.strip("^$"))
        and (name[0] != "^" or name.strip("^$") == full)
    )
    value: Any = next(named, document.get(default))
    if type(value) not in (int, float) or not 0 < value < _MOST:
        _refuse(folder, f"a {default} = {shown(value)} pour {module}", "un nombre positif")
    return value


def _config(folder: Path) -> dict[str, Any]:
    """L'`adapter_config.json` d'un dossier, si son calcul s'exprime ici."""
    document = read_folder_json(folder / PEFT_CONFIG)
    if document.get("peft_type") != "LORA":
        _refuse(folder, f"a peft_type = {shown(document.get('peft_type'))}", "LORA")
    for key in _OTHERWISE:
        if document.get(key):
            _refuse(folder, f"a {key} = {shown(document[key])}", "des adaptateurs LoRA simples")
    if document.get("bias") not in (None, "none"):
        _refuse(folder, f"a bias = {shown(document['bias'])}", "none")
    start = document.get("init_lora_weights", True)
    if not any(start is each or (type(start) is str and start == each) for each in _STARTS):
        _refuse(
            folder, f"a init_lora_weights = {shown(start)}", "un modèle de départ laissé tel quel"
        )
    if not (folder / PEFT_WEIGHTS).is_file():
        _refuse(folder, f"n'a pas de {PEFT_WEIGHTS}", "des poids en safetensors")
    return document


def _base(document: Mapping[str, Any]) -> str | None:
    name = document.get("base_model_name_or_path")
    return name if isinstance(name, str) and name else None


def _folder(model: OpenedModel) -> Path:
    return model.path if model.is_directory else model.path.parent


def _refuse(folder: Path, found: str, expected: str) -> NoReturn:
    raise ModelFileError(
        f"{folder} {found}",
        expected=expected,
        remedy="fondez ces adaptateurs dans leur modèle avec PEFT (merge_and_unload), et donnez le "
        "dossier qu'il enregistre",
    )
