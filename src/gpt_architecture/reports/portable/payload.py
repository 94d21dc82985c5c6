"""Ce que la page porte : la forme du modèle, son vocabulaire, ses poids entiers.

Les octets : la longueur de l'en-tête (uint32), l'en-tête en JSON, complété par des espaces, puis
les tenseurs, chacun à un multiple de ALIGNMENT. Les codes et les échelles sont ceux d'un modèle
quantifié par ce projet (`core.grouped_codes`), les vecteurs en fp32 ; des positions, seules celles
qui ont appris.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gpt_architecture.core.grouped_codes import (
    GroupedCodes,
    Scheme,
    bits_of,
    is_matrix,
    quantize,
)
from gpt_architecture.data.tokenizer import Tokenizer, tokenizer_from_dict, tokenizer_json
from gpt_architecture.data.tokenizers.json_file import BPELists
from gpt_architecture.errors import ModelFileError
from gpt_architecture.formats.model_file import ModelFile, check_vocabulary
from gpt_architecture.french import french_number, french_size, thousands

ALIGNMENT = 16
MAX_BYTES = 256 << 20
"""Octets de poids d'une page, au plus : un navigateur en tient deux copies pendant la lecture."""

MAX_TOKENS = 1 << 17
"""Tokens d'un vocabulaire, au plus : la page trie les logits et leurs rangs dans un fp64."""


class Payload:
    """Les octets d'un modèle dans une page.

    Args:
        content: le modèle.
        scheme: comment ses matrices sont quantifiées.

    Attributes:
        size: octets en tout.

    Raises:
        ModelFileError: trop gros pour une page, poids infinis, ou tokenizer qui ne va pas.
        TokenizerError: tokenizer inconnu.
    """

    def __init__(self, content: ModelFile, scheme: Scheme) -> None:
        check_vocabulary(content.config, content.tokenizer)
        tokenizer = tokenizer_from_dict(content.tokenizer)
        _check_size(content, scheme, tokenizer)
        config, learned = content.config, content.metadata.get("window")
        limit = config.context_length
        window = min(learned, limit) if isinstance(learned, int) and learned > 0 else limit
        self._end, self._parts = 0, list[tuple[int, Tensor]]()
        matrices, vectors = list[dict[str, Any]](), list[dict[str, Any]]()
        for name, tensor in content.build().state_dict().items():
            module = name.removesuffix(".weight")
            if not is_matrix(name):
                kept = tensor[:window] if name == "pos_emb.weight" else tensor
                place = {"name": name, "at": self._add(kept.float()), "count": kept.numel()}
                vectors.append(place)
            elif not (config.tie_weights and module == "out_head"):
                codes = quantize(tensor, scheme, bits=bits_of(module, scheme))
                matrices.append({"name": module, **self._add_matrix(codes)})
        header = {
            "facts": [
                ("Paramètres", thousands(config.num_parameters())),
                ("Poids", scheme.name),
                ("Contexte", f"{thousands(window)} tokens"),
                ("Vocabulaire", thousands(tokenizer.vocab_size)),
            ],
            "model": {
                "config": {**config.to_dict(), **_variants(content)},
                "window": window,
                "size": scheme.group_size,
                "matrices": matrices,
                "vectors": vectors,
            },
            "tokenizer": tokenizer_for_page(tokenizer),
        }
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-(4 + len(text)) % ALIGNMENT)
        self._header = len(text).to_bytes(4, "little") + text
        self.size = len(self._header) + self._end

    def chunks(self) -> Iterator[bytes]:
        """Les octets, dans l'ordre."""
        yield self._header
        end = 0
        for at, tensor in self._parts:
            data: bytes = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            yield bytes(at - end)
            yield data
            end = at + len(data)
        yield bytes(self._end - end)

    def _add(self, tensor: Tensor) -> int:
        """Place un tenseur ; rend où."""
        at = self._end
        self._parts.append((at, tensor.detach()))
        self._end = -(-(at + tensor.nbytes) // ALIGNMENT) * ALIGNMENT
        return at

    def _add_matrix(self, codes: GroupedCodes) -> dict[str, int]:
        return {
            "bits": codes.bits,
            "rows": len(codes.codes),
            "padded": codes.padded,
            "codes_at": self._add(codes.codes),
            "scales_at": self._add(codes.scales),
        }


def tokenizer_for_page(tokenizer: Tokenizer) -> dict[str, Any]:
    """Un vocabulaire, tel que `tokenizer.js` le lit."""
    known = {"kind": tokenizer.name, "end": tokenizer.eos_id}
    if tokenizer.name not in ("gpt2", "bpe"):
        return {**known, "vocab": tokenizer.to_dict()["vocab"]}
    lists = BPELists.of_document(tokenizer_json(tokenizer))
    ids = {token: index for index, token in enumerate(lists.vocab)}
    return {
        **known,
        "kind": "bpe",
        "vocab": lists.vocab,
        "pattern": lists.pattern,
        "special": list(lists.special.values()),
        "merges": [ids[half] for merge in lists.merges for half in merge.split(" ", 1)],
    }


def _variants(content: ModelFile) -> dict[str, Any]:
    """Ce qu'un GPT-2 ordinaire n'écrit pas, et que la page lit toujours."""
    config = content.config
    return {
        "inner_dim": config.inner_width,
        "activation": config.activation,
        "norm_eps": config.norm_eps,
    }


def _check_size(content: ModelFile, scheme: Scheme, tokenizer: Tokenizer) -> None:
    count = content.config.num_parameters()
    size = count * scheme.bits // 8
    if size > MAX_BYTES:
        raise ModelFileError(
            f"un modèle de {french_number(count)} paramètres, soit {french_size(size)} en "
            f"{scheme.name}",
            expected=f"{french_size(MAX_BYTES)} de poids au plus : un navigateur les tient deux "
            "fois en mémoire",
            remedy="prenez `quant=int4`" if scheme.name == "int8" else "exportez-le en gguf",
        )
    if tokenizer.vocab_size > MAX_TOKENS:
        raise ModelFileError(
            f"un vocabulaire de {french_number(tokenizer.vocab_size)} tokens",
            expected=f"{french_number(MAX_TOKENS)} au plus",
            remedy="exportez-le en onnx, ou entraînez avec un vocabulaire plus petit",
        )
