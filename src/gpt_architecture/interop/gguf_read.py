"""Relire le GPT-2 d'un fichier GGUF, d'ici ou d'ailleurs, quantifié ou non.

Le paquet gguf lit l'en-tête et rend chaque tenseur en fp32 ; il n'y a rien d'exécuté. Ce que le
fichier annonce est borné par ce qu'il contient : ses valeurs sont comptées, chaque tenseur doit y
être en entier, et tous ensemble n'en dépassent pas la taille. Un type ou un découpage que ce projet
ne sait pas rendre est refusé par son nom.

Formes : V vocabulaire, T positions, D largeur.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_json
from gpt_architecture.data.tokenizers.gpt2 import PatternName
from gpt_architecture.data.tokenizers.json_file import BPELists
from gpt_architecture.errors import ModelFileError, TokenizerError
from gpt_architecture.formats.door import Facts, ModelFormat, OpenedModel, Use
from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.formats.tensor_files import TensorInfo, refusals
from gpt_architecture.interop.gguf_layout import (
    BLOCK_NAMES,
    EPSILON,
    HEAD,
    OUTER_NAMES,
    PRE_TOKENIZERS,
    QKV,
    SIZES,
    gguf_library,
)
from gpt_architecture.interop.state_map import OUR_EMBEDDING, OUR_HEAD, own_weights
from gpt_architecture.interop.vocabulary import check_given, kept_template
from gpt_architecture.storage import open_regular

logger = logging.getLogger(__name__)

READABLE = frozenset(
    (
        *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
        *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    )
)
"""Types GGML dont les tenseurs se relisent."""

_MAX_READS = 2_000_000  # valeurs d'un en-tête : huit fois celles du vocabulaire de GPT-2
_PLAIN = (str, int, float, bool)
_PATTERNS = {theirs: ours for ours, theirs in PRE_TOKENIZERS.items()}
_NORMAL, _CONTROL, _USER, _UNUSED = 1, 3, 4, 5  # gguf.TokenType
_ROLES = {"eos_token": "eos", "bos_token": "bos", "pad_token": "padding"}
_OURS = {theirs: ours for ours, theirs in OUTER_NAMES.items()} | {HEAD: OUR_HEAD}
_OURS_IN_BLOCK = {theirs: ours for ours, theirs in BLOCK_NAMES.items()}
_REMEDY = "donnez un GPT-2 entier, tel que llama.cpp le convertit"


class GGUFFormat(ModelFormat):
    """Un fichier de llama.cpp."""

    kind, name = "gguf", "fichier GGUF (llama.cpp)"
    use = Use.IMPORT

    def recognises(self, model: OpenedModel) -> bool:
        """Ses premiers octets le nomment."""
        return model.head.startswith(b"GGUF")

    def facts(self, model: OpenedModel) -> Facts:
        """L'en-tête, s'il est dans des bornes."""
        file = _GGUFFile.open(model.path)
        return Facts(
            config=file.config,
            tensors=file.infos,
            tokenizer=lambda: _described_tokenizer(file),
            provenance={
                key: value
                for key, value in file.values.items()
                if type(value) in _PLAIN and not key.startswith(("GGUF.", "tokenizer."))
            },
        )

    def read(
        self, model: OpenedModel, *, tokenizer: Tokenizer | None, n_heads: int | None
    ) -> ModelFile:
        """Voir `read_gguf`."""
        return read_gguf(model.path, tokenizer=tokenizer)

    def is_intact(self, model: OpenedModel) -> bool | None:
        """Il n'a pas de sommes de contrôle."""
        return None


def read_gguf(path: Path | str, *, tokenizer: Tokenizer | None = None) -> ModelFile:
    """Le modèle d'un fichier GGUF, ses poids rendus en fp32.

    Args:
        path: le fichier.
        tokenizer: celui à employer ; None : celui du fichier.

    Raises:
        ModelFileError: autre architecture, fichier tronqué ou abîmé, type de tenseur inconnu,
            poids imprévus.
        TokenizerError: le fichier n'a pas de vocabulaire, ou d'un genre que ce projet ne lit pas.
        MissingDependencyError: le paquet gguf manque.
    """
    file = _GGUFFile.open(path)
    config = file.checked_config()
    weights = own_weights(file.weights(), config)
    if config.tie_weights:
        weights[OUR_HEAD] = weights[OUR_EMBEDDING]
    size = config.vocab_size
    chosen = check_given(tokenizer, size, path) if tokenizer else file.tokenizer()
    return ModelFile(
        config=config, state_dict=weights, tokenizer=chosen.to_dict(), metadata=file.metadata()
    )


@dataclass(frozen=True, kw_only=True)
class _GGUFFile:
    """Un fichier GGUF dont l'en-tête est lu et borné.

    Attributes:
        path: le fichier.
        values: ses clés et leurs valeurs.
        tensors: ceux de `gguf.GGUFReader`, projetés en mémoire.
    """

    path: Path
    values: Mapping[str, Any]
    tensors: tuple[Any, ...]

    @classmethod
    def open(cls, path: Path | str) -> _GGUFFile:
        """Lit l'en-tête.

        Raises:
            ModelFileError: il est abîmé, démesuré, ou annonce plus que le fichier ne contient.
        """
        path, gguf = Path(path), gguf_library("lire")

        class Reader(gguf.GGUFReader):  # type: ignore[misc, name-defined]
            """Celui de gguf, dont le nombre de lectures est borné, et qui n'imbrique rien."""

            reads = depth = 0

            def _get_field_parts(self, *arguments: Any, **named: Any) -> Any:
                if self.depth > 1:  # il recopierait tout à chaque étage
                    raise ValueError("une liste de listes")
                self.depth += 1
                try:
                    return super()._get_field_parts(*arguments, **named)
                finally:
                    self.depth -= 1

            def _get(self, *arguments: Any, **named: Any) -> Any:
                self.reads += 1
                if self.reads > _MAX_READS:
                    raise ValueError("trop de valeurs")
                return super()._get(*arguments, **named)

        with (
            open_regular(path),
            refusals(path, "en-tête abîmé ou démesuré", "un fichier GGUF complet"),
            np.errstate(over="raise"),  # un décalage immense, ajouté à un autre
        ):
            reader = Reader(path)
            if reader.byte_order == "S":
                raise ValueError("un autre ordre d'octets")
            announced = sum(int(each.n_bytes) for each in reader.tensors)
            if announced > path.stat().st_size:
                raise ValueError("plus de poids que d'octets")
            return cls(
                path=path,
                values={name: field.contents() for name, field in reader.fields.items()},
                tensors=tuple(reader.tensors),
            )

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """Les tenseurs, sans leurs valeurs."""
        return tuple(
            TensorInfo(
                name=str(each.name),
                shape=tuple(int(size) for size in reversed(each.shape)),
                dtype=each.tensor_type.name,
            )
            for each in self.tensors
        )

    @property
    def config(self) -> GPTConfig | None:
        """Sa forme ; None si ce n'est pas celle d'un GPT-2."""
        values = self.values
        if values.get("general.architecture") != "gpt2":
            return None
        try:
            return GPTConfig(
                **{ours: values[theirs] for ours, theirs in SIZES.items()},
                norm_eps=float(f"{values[EPSILON]:.6g}"),  # écrit en fp32
                vocab_size=len(values["tokenizer.ggml.tokens"]),
                qkv_bias=True,
                tie_weights=all(each.name != HEAD for each in self.tensors),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def checked_config(self) -> GPTConfig:
        """Sa forme, si ses poids se relisent.

        Raises:
            ModelFileError: autre architecture, tailles absentes, fichier en morceaux, ou type de
                tenseur inconnu.
        """
        architecture = self.values.get("general.architecture")
        if architecture != "gpt2":
            self._refuse(f"annonce l'architecture {str(architecture)[:80]!r}", "gpt2")
        parts = self.values.get("split.count", 0)
        if parts not in (0, 1):
            self._refuse(
                "n'est qu'un morceau d'un modèle",
                "un fichier entier",
                remedy="réunissez-les par llama-gguf-split (« merge »)",
            )
        config = self.config
        if config is None:
            keys = (*SIZES.values(), EPSILON, "tokenizer.ggml.tokens")
            missing = [key for key in keys if key not in self.values]
            found = f"n'a pas de clé {', '.join(missing)}" if missing else "a des tailles absurdes"
            self._refuse(found, "les tailles d'un GPT-2")
        for each in self.infos:
            if each.dtype not in READABLE:
                self._refuse(
                    f"a le tenseur {each.name[:80]} en {each.dtype}",
                    ", ".join(sorted(READABLE)),
                    remedy="prenez le même modèle dans l'un de ces types",
                )
        return config

    def weights(self) -> dict[str, Tensor]:
        """Ses tenseurs sous nos noms, en fp32 ; un nom inconnu est gardé tel quel."""
        with refusals(self.path, "un tenseur y est abîmé", "un fichier GGUF complet"):
            return {
                ours: tensor
                for each in self.tensors
                for ours, tensor in _as_ours(str(each.name), _dequantized(each))
            }

    def tokenizer(self) -> Tokenizer:
        """Son vocabulaire.

        Raises:
            TokenizerError: il n'en a pas, ou d'un genre que ce projet ne lit pas.
        """
        tokens, merges, kinds, model, pre = (
            self.values.get(f"tokenizer.ggml.{key}")
            for key in ("tokens", "merges", "token_type", "model", "pre")
        )
        if model != "gpt2" or not isinstance(tokens, list) or not isinstance(merges, list):
            self._refuse_vocabulary(f"a le vocabulaire {str(model)[:40]!r}", "un BPE par octets")
        if not isinstance(kinds, list) or len(kinds) != len(tokens):
            kinds = [_NORMAL] * len(tokens)
        size = len(tokens)
        while size and kinds[size - 1] == _UNUSED:  # remplissage, sans texte
            size -= 1
        tokens = tokens[:size]
        special = {
            str(token): index
            for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
            if kind in (_CONTROL, _USER)
        }
        lists = BPELists(vocab=tokens, merges=merges, pattern=self._pattern(pre), special=special)
        try:
            return tokenizer_from_json(lists.document(), roles=self._roles(tokens))
        except TokenizerError as error:  # elle parle d'un tokenizer.json, qu'il n'y a pas ici
            _, _, told = error.found.rpartition(" : ")
            self._refuse_vocabulary(f"a un vocabulaire illisible ({told})", "un BPE par octets")

    def metadata(self) -> dict[str, Any]:
        """Ce qu'on en retient, en types simples."""
        known = {
            "name": "general.name",
            "license": "general.license",
            "source": "general.source.url",
        }
        found: dict[str, Any] = {
            ours: self.values[theirs]
            for ours, theirs in known.items()
            if isinstance(self.values.get(theirs), str)
        }
        found |= {"origin": "gguf", "window": self.values[SIZES["context_length"]]}
        template = self.values.get("tokenizer.chat_template")
        return found | (kept_template(template, self.path) if isinstance(template, str) else {})

    def _pattern(self, pre: object) -> PatternName:
        if pre is None:  # avant avril 2024, llama.cpp n'écrivait pas le découpage
            logger.warning("%s ne nomme pas son découpage : celui de GPT-2 est supposé", self.path)
            return "gpt2"
        pattern = _PATTERNS.get(str(pre))
        if pattern is None:
            self._refuse_vocabulary(
                f"a le découpage {str(pre)[:40]!r}", " ou ".join(sorted(_PATTERNS))
            )
        return pattern

    def _roles(self, tokens: list[Any]) -> dict[str, str]:
        """Le nom des tokens qui ont un rôle."""
        ids = {
            role: self.values.get(f"tokenizer.ggml.{key}_token_id") for role, key in _ROLES.items()
        }
        return {
            role: str(tokens[index])
            for role, index in ids.items()
            if type(index) is int and 0 <= index < len(tokens)
        }

    def _refuse(self, found: str, expected: str, *, remedy: str = _REMEDY) -> NoReturn:
        raise ModelFileError(f"{self.path} {found}", expected=expected, remedy=remedy)

    def _refuse_vocabulary(self, found: str, expected: str) -> NoReturn:
        raise TokenizerError(
            f"{self.path} {found}",
            expected=expected,
            remedy="convertissez-le en donnant `tokenizer`",
        )


def _as_ours(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Un tenseur de GGUF sous son nom d'ici ; q, k et v, réunis là-bas, sont séparés."""
    block, rank, rest = (*name.split(".", 2), "", "")[:3]
    if block != "blk":
        yield _OURS.get(name, name), tensor
    elif rest.startswith("attn_qkv."):
        kind = rest.removeprefix("attn_qkv.")
        for module, part in zip(QKV, tensor.chunk(3), strict=False):
            yield f"trf_blocks.{rank}.{module}.{kind}", part.contiguous()
    else:
        ours = _OURS_IN_BLOCK.get(rest)
        yield f"trf_blocks.{rank}.{ours}" if ours else name, tensor


def _dequantized(tensor: Any) -> Tensor:
    """Les valeurs d'un tenseur de gguf, en fp32, à sa forme."""
    array = gguf_library("lire").quants.dequantize(tensor.data, tensor.tensor_type)
    shape = tuple(int(size) for size in reversed(tensor.shape))
    return torch.from_numpy(np.array(array, dtype=np.float32)).reshape(shape)


def _described_tokenizer(file: _GGUFFile) -> Tokenizer | dict[str, Any]:
    """Le vocabulaire ; à défaut de le lire, ce que le fichier en dit."""
    tokens = file.values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return {"problem": "le fichier n'en dit rien"}
    names = [file.values.get(f"tokenizer.ggml.{key}") for key in ("model", "pre")]
    return {
        "name": "/".join(str(name)[:40] for name in names if name),
        "vocab_size": len(tokens),
        "sha256": hashlib.sha256("\n".join(map(str, tokens)).encode()).hexdigest(),
    }
