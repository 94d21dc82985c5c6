"""Ce qui répond, établi d'un modèle chargé : poids, vocabulaire, logiciel, arithmétique."""

from __future__ import annotations

import logging
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.gpt import GPT
from gpt_architecture.config import VERSION
from gpt_architecture.core.model import CausalLM, GPTModel
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE

if TYPE_CHECKING:
    from gpt_architecture.serving.identity import Identity

logger = logging.getLogger(__name__)


def identity_of(gpt: GPT, runner: CausalLM) -> Identity | None:
    """Tout ce dont les réponses d'un modèle dépendent, hors des requêtes.

    Ses poids sont lus en entier : une seconde ou deux pour un GPT-2 de 124 M. Un échec est dit, et
    n'arrête pas le service.

    Args:
        gpt: le modèle, son tokenizer, ses métadonnées.
        runner: ce qui calcule.
    """
    from gpt_architecture.serving.identity import Identity, sha256_of

    try:
        return Identity(_facts(gpt, runner, sha256_of))
    except Exception as error:
        logger.warning("empreinte de ce qui répond inconnue : %s", error)
        return None


def _facts(gpt: GPT, runner: CausalLM, sha256_of: Any) -> dict[str, Any]:
    from gpt_architecture.kernels.decode.packed import PackedModel
    from gpt_architecture.training.arithmetic import arithmetic
    from gpt_architecture.training.certificate import code_sha256, tensors_sha256

    calculation = {"engine": "torch", "device": runner.device.type, "precision": "fp32"}
    scheme = None
    if isinstance(runner, PackedModel):
        weights, scheme = runner.stored_weights(), runner.scheme
        calculation |= {"engine": "packed"} if runner.compiled else {}
        calculation |= {} if scheme is None else {"precision": scheme.name}
    else:
        assert isinstance(runner, GPTModel)  # noqa: S101 — les deux seuls que ce paquet serve
        weights = runner.state_dict()
        if runner.cfg.tie_weights:
            del weights["out_head.weight"]
    if calculation["engine"] == "packed":
        names = ("numba", "llvmlite")
        calculation["kernels"] = ", ".join(f"{each} {version(each)}" for each in names)
    shape = {name: each for name, each in runner.cfg.to_dict().items() if name != "drop_rate"}
    model = {
        "config": shape,
        "scheme": None if scheme is None else asdict(scheme),
        "weights": tensors_sha256(weights),
    }
    template = gpt.metadata.get(CHAT_TEMPLATE)
    return {
        "model": {
            "sha256": sha256_of(model),
            "quant": None if scheme is None else scheme.name,
        },
        "service": {
            "window": gpt.window,
            "chat_template": sha256_of({"template": template}) if template else None,
        },
        "tokenizer": {
            "name": gpt.tokenizer.name,
            "sha256": tokenizer_sha256(gpt.tokenizer.to_dict()),
        },
        "software": {"version": VERSION, "sha256": code_sha256()},
        "arithmetic": arithmetic(calculation, runner.device),
    }
