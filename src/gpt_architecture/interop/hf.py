"""Lire un GPT-2 de Transformers : un dossier, ses poids, sa configuration, son vocabulaire.

Sont acceptés safetensors et `pytorch_model.bin` (poids seuls, aucun pickle exécuté), en un ou
plusieurs fichiers. Une autre architecture, ou un GPT-2 dont le calcul n'est pas exprimable ici, est
refusé d'après `config.json`, avant d'ouvrir les poids ; le champ en cause est nommé.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from gpt_architecture.config import Activation, GPTConfig, HeadConfig
from gpt_architecture.config.labels import MAX_LABELS
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import (
    ConfigurationError,
    ModelFileError,
    shown,
)
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel, Use
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.tensor_files import (
    SafetensorsFile,
    TensorInfo,
    is_intact,
    named_tensors,
    read_torch,
    tensor_infos,
)
from gpt_architecture.interop.state_map import from_hf
from gpt_architecture.interop.vocabulary import (
    OTHER_TEMPLATES,
    check_given,
    folder_tokenizer,
    read_chat_templates,
    read_folder_json,
)

logger = logging.getLogger(__name__)

CONFIG = "config.json"
CLASSIFIER = "GPT2ForSequenceClassification"
"""L'architecture de Transformers qui classe ou note un texte, sur son dernier token."""
PROVENANCE = "gpt_architecture.json"
"""Ce que `config.json` ne sait pas dire : le mode livre, le contexte d'entraînement,
l'entraînement."""
PROVENANCE_FORMAT = "gpt-architecture/provenance"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Fichiers de poids, du préféré au moins bon ; le même nom suivi de `.index.json` les répartit."""

_MAX_SHARDS = 1000
_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
}
"""Plusieurs de leurs noms désignent une même fonction."""

_EXPECTED: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("activation_function", "gelu_new", tuple(_ACTIVATIONS)),
    ("scale_attn_weights", True, (True, False)),
    ("scale_attn_by_inverse_layer_idx", False, (False, True)),
    ("reorder_and_upcast_attn", False, (False, True)),  # ne change que les arrondis, hors de fp32
    ("add_cross_attention", False, (False,)),
    ("quantization_config", None, (None,)),
)
"""Clé, valeur quand elle manque, valeurs dont le calcul s'exprime ici."""

_SIZES = {
    "vocab_size": "vocab_size",
    "context_length": "n_positions",
    "emb_dim": "n_embd",
    "n_heads": "n_head",
    "n_layers": "n_layer",
}


class TransformersFormat(ModelFormat):
    """Un dossier de Transformers."""

    kind, name = "hf", "dossier de Transformers (GPT-2)"
    use = Use.IMPORT

    def recognises(self, model: OpenedModel) -> bool:
        """Un dossier qui a un `config.json`."""
        return model.is_directory and _has_config(model.path)

    def facts(self, model: OpenedModel) -> Facts:
        """Ce que disent `config.json`, notre provenance et l'en-tête des poids."""
        return _folder_facts(model.path)

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Voir `read_hf`."""
        return read_hf(model.path, tokenizer=tokenizer)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Tous les fichiers de poids sont relus."""
        return _are_intact(model.path)


class SafetensorsFormat(ModelFormat):
    """Un fichier safetensors d'ailleurs : à côté de son `config.json`, il vaut le dossier."""

    kind, name = "safetensors", "fichier safetensors"

    def recognises(self, model: OpenedModel) -> bool:
        """Il s'ouvre comme tel."""
        return model.safetensors is not None

    def facts(self, model: OpenedModel) -> Facts:
        """Ce que dit le dossier, à défaut l'en-tête."""
        file, folder = model.safetensors, model.path.parent
        if file is None or _has_config(folder):
            return _folder_facts(folder)
        return Facts(tensors=file.infos, provenance=file.metadata)

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Voir `read_hf`."""
        if _has_config(model.path.parent):
            return read_hf(model.path.parent, tokenizer=tokenizer)
        return super().read(model, tokenizer=tokenizer, n_heads=n_heads)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """De même."""
        folder = model.path.parent
        return _are_intact(folder) if _has_config(folder) else super().is_intact(model)


def _has_config(folder: Path) -> bool:
    return (folder / CONFIG).exists()


def read_hf(folder: Path | str, *, tokenizer: Tokenizer | None = None) -> ModelFile:
    """Le modèle d'un dossier de Transformers.

    Args:
        folder: dossier qui tient `config.json` et les poids.
        tokenizer: celui à employer ; None : celui du dossier.

    Raises:
        ModelFileError: autre architecture, fichier absent ou abîmé, poids imprévus.
        TokenizerError: vocabulaire absent ou d'un genre inconnu.
    """
    folder = Path(folder)
    document, provenance, config = _described(folder)
    weights = from_hf(_weights(folder), config)
    _fold_attention_scale_(weights, config, document)
    size = config.vocab_size
    chosen = check_given(tokenizer, size, folder) if tokenizer else folder_tokenizer(folder, size)
    metadata = provenance.get("metadata") or {"origin": "transformers"}
    # les fichiers disent les gabarits, comme à Transformers : la provenance peut être plus vieille
    metadata = {k: v for k, v in metadata.items() if k not in (CHAT_TEMPLATE, OTHER_TEMPLATES)}
    metadata |= read_chat_templates(folder)
    return ModelFile(
        config=config, state_dict=weights, tokenizer=chosen.to_dict(), metadata=metadata
    )


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, Any], GPTConfig]:
    """Le `config.json` d'un dossier, notre provenance, et la forme qu'ils disent."""
    document, provenance = read_folder_json(folder / CONFIG), read_provenance(folder)
    with_bias = provenance.get("qkv_bias", True)
    return document, provenance, config_from_hf(document, folder / CONFIG, qkv_bias=with_bias)


def config_from_hf(
    document: Mapping[str, Any], path: Path | str, *, qkv_bias: bool = True
) -> GPTConfig:
    """La forme qu'annonce un `config.json`, si son calcul s'exprime ici.

    Raises:
        ModelFileError: autre architecture, variante de GPT-2 au calcul différent, forme absurde.
    """
    if document.get("model_type") != "gpt2":
        _refuse(path, f"annonce l'architecture {shown(document.get('model_type'))}", "gpt2")
    for key, default, accepted in _EXPECTED:
        value = document.get(key, default)
        if not any(value is each or (value == each and type(value) is str) for each in accepted):
            choices = " ou ".join(json.dumps(each) for each in accepted)
            _refuse(
                path,
                f"a {key} = {shown(value)}",
                choices,
                remedy=f"donnez un GPT-2 dont {key} soit l'une de ces valeurs",
            )
    missing = [key for key in _SIZES.values() if key not in document]
    if missing:
        _refuse(path, f"n'a pas de clé {', '.join(missing)}", "les tailles d'un GPT-2")
    drop = [document.get(key, 0.1) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")]
    if any(rate != drop[0] for rate in drop):
        logger.warning("%s : trois taux de dropout différents, le plus grand sert partout", path)
    named = document.get("architectures")
    judges = isinstance(named, list) and CLASSIFIER in named
    try:
        return GPTConfig(
            **{ours: document[theirs] for ours, theirs in _SIZES.items()},
            drop_rate=max(drop),
            qkv_bias=qkv_bias,
            head=_head(document, path) if judges else None,
            tie_weights=False if judges else document.get("tie_word_embeddings", True),
            inner_dim=document.get("n_inner"),
            activation=_ACTIVATIONS[document.get("activation_function", "gelu_new")],
            norm_eps=document.get("layer_norm_epsilon", 1e-5),
        )
    except (ConfigurationError, TypeError) as error:
        found = getattr(error, "found", "un taux de dropout mal formé")
        _refuse(path, f": {found}", "les tailles d'un GPT-2")


def _head(document: Mapping[str, Any], path: Path | str) -> HeadConfig:
    """La tête d'un `GPT2ForSequenceClassification` : ses classes dans l'ordre, ou une valeur."""
    kind, names = document.get("problem_type"), document.get("id2label")
    if kind not in (None, "single_label_classification", "regression"):
        _refuse(
            path,
            f"a problem_type = {shown(kind)}",
            "une classe par texte (single_label_classification), ou une valeur (regression)",
            remedy="donnez un modèle de l'un de ces deux genres",
        )
    count = len(names) if isinstance(names, Mapping) else document.get("num_labels", 2)
    if type(count) is not int or not 0 < count <= MAX_LABELS:
        _refuse(path, f"annonce {shown(count)} classes", f"de 2 à {MAX_LABELS} classes")
    if count == 1:
        return HeadConfig()
    if kind == "regression":
        _refuse(path, f"rend {count} valeurs par texte", "une seule")
    known = {f"{rank}": f"LABEL_{rank}" for rank in range(count)}
    if isinstance(names, Mapping):
        known = {str(rank): str(name) for rank, name in names.items()}
    missing = [rank for rank in range(count) if str(rank) not in known]
    if missing:
        _refuse(path, f"ne nomme pas la classe {missing[0]}", "id2label, de 0 à la dernière")
    return HeadConfig(labels=tuple(known[str(rank)] for rank in range(count)))


def read_provenance(folder: Path | str) -> dict[str, Any]:
    """Ce que nous avons écrit à côté d'un dossier exporté ; vide pour celui d'un autre.

    Raises:
        ModelFileError: le fichier est là, mais n'est pas celui qu'on écrit.
    """
    path = Path(folder) / PROVENANCE
    if not path.exists():
        return {}
    content = read_folder_json(path)
    if (
        content.get("format") != PROVENANCE_FORMAT
        or not isinstance(content.get("qkv_bias"), bool)
        or not isinstance(content.get("metadata"), dict)
    ):
        _refuse(path, "n'est pas une provenance lisible", f"le format {PROVENANCE_FORMAT}")
    return content


def weight_files(folder: Path | str) -> list[Path]:
    """Les fichiers de poids d'un dossier.

    Raises:
        ModelFileError: il n'y en a pas, ou l'index en nomme un qui manque ou sort du dossier.
    """
    folder = Path(folder)
    for name in WEIGHTS:
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            return _shards(index, Path(name).suffix)
    raise ModelFileError(
        f"{folder} n'a pas de poids",
        expected=" ou ".join(WEIGHTS) + ", en un ou plusieurs fichiers",
        remedy="recopiez le dossier entier",
    )


def _shards(index: Path, suffix: str) -> list[Path]:
    weight_map = read_folder_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _refuse(index, "n'a pas de weight_map", "un index de poids")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(suffix) or len(names) > _MAX_SHARDS:
            _refuse(index, f"nomme le fichier {name[:80]!r}", f"un fichier {suffix} du dossier")
        if not (index.parent / name).exists():
            _refuse(index, f"nomme {name[:80]!r}, qui manque", "tous les fichiers de poids")
    return [index.parent / name for name in names]


def _weights(folder: Path) -> dict[str, Tensor]:
    """Tous les poids d'un dossier ; un nom répété dans deux fichiers est refusé."""
    weights: dict[str, Tensor] = {}
    for path in weight_files(folder):
        is_safe = path.suffix == ".safetensors"
        part = SafetensorsFile(path).tensors() if is_safe else named_tensors(path, read_torch(path))
        twice = sorted(set(part) & set(weights))
        if twice:
            _refuse(path, f"répète le poids {twice[0][:80]}", "chaque poids une seule fois")
        weights |= part
    return weights


def _folder_facts(folder: Path) -> Facts:
    _, provenance, config = _described(folder)
    tensors: list[TensorInfo] = []
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            tensors += SafetensorsFile(file).infos
        else:
            tensors += tensor_infos(named_tensors(file, read_torch(file)))
    return Facts(
        config=config,
        tensors=tuple(tensors),
        tokenizer=lambda: folder_tokenizer(folder, config.vocab_size),
        provenance=provenance.get("metadata", {}),
    )


def _are_intact(folder: Path) -> bool | None:
    found = [is_intact(file) for file in weight_files(folder)]  # tous sont relus
    return all(found) or None


def _fold_attention_scale_(
    weights: dict[str, Tensor], config: GPTConfig, document: Mapping[str, Any]
) -> None:
    """Met dans les requêtes l'échelle d'attention d'un modèle qui n'a pas celle de GPT-2.

    Les produits q·k sont divisés ici par √K partout ; ailleurs peut-être par 1, ou encore par le
    rang du bloc. Multiplier la projection des requêtes revient au même.
    """
    by_size = document.get("scale_attn_weights", True)
    by_layer = document.get("scale_attn_by_inverse_layer_idx", False)
    for layer in range(config.n_layers):
        factor = (1.0 if by_size else math.sqrt(config.head_dim)) / (layer + 1 if by_layer else 1)
        for part in ("weight", "bias"):
            name = f"trf_blocks.{layer}.att.W_query.{part}"
            if factor != 1.0 and name in weights:
                weights[name] = weights[name] * factor


def _refuse(
    path: Path | str,
    found: str,
    expected: str,
    *,
    remedy: str = "donnez un modèle d'architecture GPT-2, tel que Transformers l'enregistre",
) -> NoReturn:
    raise ModelFileError(f"{path} {found}", expected=expected, remedy=remedy)
