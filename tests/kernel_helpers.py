"""Outils des tests de noyaux : un petit modèle, ses oracles, des lots."""

import copy
from types import SimpleNamespace

import torch
from torch import nn

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.grouped_codes import rounded
from gpt_architecture.core.model import GPTModel
from gpt_architecture.kernels.train.fused_step import FusedStep
from gpt_architecture.kernels.train.keyed_dropout import use_keyed_dropout_

BASE = {
    "vocab_size": 307,
    "context_length": 40,
    "emb_dim": 48,
    "n_heads": 3,
    "n_layers": 3,
    "drop_rate": 0.2,
}


def oracle_of(packed):
    """Le GPTModel d'un modèle compacté, dont les produits reçoivent les activations arrondies."""
    model = packed.dequantize()
    if packed.scheme is not None:
        size = packed.scheme.group_size

        def round_inputs(_module, inputs):
            (x,) = inputs
            return rounded(x.flatten(0, -2), size).view(x.shape)

        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_pre_hook(round_inputs)
    return model


def pair(seed=7, **changes):
    """Le pas fusionné, et le même modèle pour autograd, muni des mêmes clés."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(**{**BASE, **changes})).train()
    oracle = copy.deepcopy(model)
    if oracle.cfg.tie_weights:
        oracle.tie_weights_()
    return FusedStep(model, seed=seed), oracle, use_keyed_dropout_(oracle, seed)


def random_batch(step, batch=3, length=37):
    ids = torch.randint(step.model.cfg.vocab_size, (batch, length + 1))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.randint(10**6, (batch,))


def as_batch(inputs, targets, sequence_ids, document_starts=None):
    return SimpleNamespace(
        inputs=inputs,
        targets=targets,
        sequence_ids=sequence_ids,
        document_starts=document_starts,
    )
