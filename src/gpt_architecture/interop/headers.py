"""Ce qu'un fichier GGUF ou ONNX dit de lui-même, sans que ses poids ne servent.

Leurs bibliothèques les lisent, dans des bornes : un en-tête hostile peut annoncer des milliards
d'éléments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt_architecture.config import GPTConfig
from gpt_architecture.errors import MissingDependencyError, ModelFileError
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel
from gpt_architecture.formats.tensor_files import TensorInfo
from gpt_architecture.storage import open_regular, read_at_most

MAX_ONNX = 1 << 31
"""Octets d'un fichier ONNX, au plus : Protobuf s'arrête là, et les poids y sont lus."""

_ONNX_FIELDS = b"\x12\x1a\x22\x28\x32\x3a\x42\x72"
_MAX_READS = 2_000_000  # valeurs d'un en-tête GGUF : huit fois celles du vocabulaire de GPT-2
_PLAIN = (str, int, float, bool)
_SIZES = {
    "context_length": "gpt2.context_length",
    "emb_dim": "gpt2.embedding_length",
    "n_heads": "gpt2.attention.head_count",
    "n_layers": "gpt2.block_count",
    "inner_dim": "gpt2.feed_forward_length",
}
_EPSILON = "gpt2.attention.layer_norm_epsilon"


class GGUFFormat(ModelFormat):
    """Un fichier de llama.cpp."""

    kind, name = "gguf", "fichier GGUF (llama.cpp)"

    def recognises(self, model: OpenedModel) -> bool:
        """Ses premiers octets le nomment."""
        return model.head.startswith(b"GGUF")

    def facts(self, model: OpenedModel) -> Facts:
        """L'en-tête, s'il est dans des bornes."""
        return _gguf_facts(model.path)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Il n'a pas de sommes de contrôle."""
        return None


class ONNXFormat(ModelFormat):
    """Un fichier ONNX."""

    kind, name = "onnx", "fichier ONNX"

    def recognises(self, model: OpenedModel) -> bool:
        """Protobuf : la version de l'IR vient d'abord, puis un autre champ de ModelProto."""
        head = model.head
        return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in _ONNX_FIELDS

    def facts(self, model: OpenedModel) -> Facts:
        """Les entrées, les sorties, l'opset et les poids."""
        return _onnx_facts(model.path)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Il n'a pas de sommes de contrôle."""
        return None


def _gguf_facts(path: Path) -> Facts:
    """L'en-tête d'un fichier de llama.cpp.

    Raises:
        ModelFileError: fichier abîmé ou démesuré.
        MissingDependencyError: le paquet gguf manque.
    """
    try:
        import gguf  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("gguf", purpose="lire un fichier de llama.cpp") from None

    class Reader(gguf.GGUFReader):
        """Celui de gguf, dont le nombre de lectures est borné."""

        reads = 0

        def _get(self, *arguments: Any, **named: Any) -> Any:
            self.reads += 1
            if self.reads > _MAX_READS:
                raise ValueError("trop de valeurs")
            return super()._get(*arguments, **named)

    with open_regular(path), _refusals(path, "un fichier GGUF complet"):
        reader = Reader(path)
        values = {name: field.contents() for name, field in reader.fields.items()}
        tensors = tuple(
            TensorInfo(
                name=str(each.name),
                shape=tuple(int(size) for size in reversed(each.shape)),
                dtype=each.tensor_type.name,
            )
            for each in reader.tensors
        )
        tokens = values.get("tokenizer.ggml.tokens")
        return Facts(
            config=_gguf_config(values, tensors),
            tensors=tensors,
            tokenizer=lambda: _gguf_tokenizer(values, tokens),
            provenance={
                key: value
                for key, value in values.items()
                if type(value) in _PLAIN and not key.startswith(("GGUF.", "tokenizer."))
            },
        )


def _gguf_config(values: Mapping[str, Any], tensors: tuple[TensorInfo, ...]) -> GPTConfig | None:
    if values.get("general.architecture") != "gpt2":
        return None
    try:
        return GPTConfig(
            **{ours: values[theirs] for ours, theirs in _SIZES.items()},
            norm_eps=float(f"{values[_EPSILON]:.6g}"),  # écrit en fp32
            vocab_size=len(values["tokenizer.ggml.tokens"]),
            qkv_bias=True,
            tie_weights=all(each.name != "output.weight" for each in tensors),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _gguf_tokenizer(values: Mapping[str, Any], tokens: Any) -> dict[str, Any]:
    if not isinstance(tokens, list):
        return {"problem": "le fichier n'en dit rien"}
    names = [values.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
    return {
        "name": "/".join(str(name)[:40] for name in names if name),
        "vocab_size": len(tokens),
        "sha256": hashlib.sha256("\n".join(map(str, tokens)).encode()).hexdigest(),
    }


def _onnx_facts(path: Path) -> Facts:
    """Les entrées, les sorties, l'opset et les poids d'un fichier ONNX.

    Raises:
        ModelFileError: fichier abîmé ou démesuré.
        MissingDependencyError: le paquet onnx manque.
    """
    try:
        import onnx  # noqa: PLC0415 — facultatif
    except ImportError:
        raise MissingDependencyError("onnx", purpose="lire un fichier ONNX") from None
    with open_regular(path) as file, _refusals(path, "un fichier ONNX complet"):
        data = read_at_most(file, MAX_ONNX)
        if len(data) > MAX_ONNX:
            raise ValueError(f"plus de {MAX_ONNX >> 30} Gio")
        model = onnx.load_model_from_string(data)
        graph, kinds = model.graph, onnx.TensorProto.DataType
        told = {each.key: each.value for each in model.metadata_props}
        known = told.pop("tokenizer", "")
        weights = {each.name for each in graph.initializer}
        return Facts(
            tensors=tuple(
                TensorInfo(name=each.name, shape=tuple(each.dims), dtype=kinds.Name(each.data_type))
                for each in graph.initializer
                if each.dims and each.data_type != kinds.INT64  # le reste sert au calcul
            ),
            tokenizer=lambda: {
                "problem": f"son nom seul est écrit : {known}" if known else "il n'en dit rien"
            },
            provenance={
                "producer": model.producer_name,
                "opset": ", ".join(
                    f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import
                ),
                "inputs": _signature(kinds, [e for e in graph.input if e.name not in weights]),
                "outputs": _signature(kinds, graph.output),
                **told,
            },
        )


def _signature(kinds: Any, values: Any) -> str:
    """« input_ids (batch, time) INT64, … »."""
    described = []
    for each in values:
        tensor = each.type.tensor_type
        sizes = [d.dim_param or str(d.dim_value) for d in tensor.shape.dim]
        described.append(f"{each.name} ({', '.join(sizes)}) {kinds.Name(tensor.elem_type)}")
    return ", ".join(described)


@contextmanager
def _refusals(path: Path, expected: str) -> Iterator[None]:
    """Un fichier abîmé fait lever n'importe quoi à son lecteur : une phrase le dit."""
    try:
        yield
    except (ModelFileError, MissingDependencyError):
        raise
    except Exception as error:
        why = error if isinstance(error, OSError) else "en-tête abîmé ou démesuré"
        raise ModelFileError.unreadable(path, why, expected=expected) from error
