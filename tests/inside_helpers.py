"""L'oracle de ce qui se regarde dans un modèle : des crochets de PyTorch sur ses modules."""

from contextlib import ExitStack, contextmanager

import torch
from decoding_helpers import sharp_model

from gpt_architecture.config import LoRAConfig
from gpt_architecture.core.lora import adapter_tensors, add_lora_

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def book_model():
    """Mode livre : tête de sortie à part, sans biais sur requêtes, clés et valeurs."""
    return sharp_model()


def gpt2_model():
    """Mode GPT-2 : embedding lié à la tête de sortie, biais partout."""
    model = sharp_model(tie_weights=True, qkv_bias=True)
    with torch.no_grad():
        for parameter in {*model.parameters()}:  # tirés à 0,02 : trop plats pour y rien voir
            if parameter.dim() == 2:
                parameter.mul_(5.0)
            else:
                parameter.add_(0.1)
    return model


def adapted_model():
    """Des adaptateurs LoRA sur toutes les matrices, que l'affinage aurait déplacés."""
    model = sharp_model()
    targets = ("query", "key", "value", "output", "up", "down")
    add_lora_(model, LoRAConfig(rank=2, alpha=4.0, targets=targets), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, tensor in adapter_tensors(model).items():
        if name.endswith("lora_B"):
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


MODELS = {"livre": book_model, "gpt2": gpt2_model, "lora": adapted_model}


@contextmanager
def hooks(*handles):
    """Des crochets posés, et retirés à la sortie."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def watched(model, ids):
    """Ce que voient les crochets d'une passe avant : site → valeurs, couche par couche."""
    seen = {site: [] for site in ("residual", "heads", "attention", "neurons", "feed_forward")}
    handles = []
    size = model.trf_blocks[0].att.head_dim
    for block in model.trf_blocks:
        handles += [
            block.register_forward_pre_hook(lambda _, args: seen["residual"].append(args[0])),
            block.att.out_proj.register_forward_pre_hook(
                lambda _, args: seen["heads"].append(args[0].unflatten(-1, (-1, size)))
            ),
            block.att.register_forward_hook(lambda _, a, out: seen["attention"].append(out)),
            block.ff.layers[1].register_forward_hook(lambda _, a, out: seen["neurons"].append(out)),
            block.ff.register_forward_hook(lambda _, a, out: seen["feed_forward"].append(out)),
        ]
    handles.append(
        model.final_norm.register_forward_pre_hook(lambda _, args: seen["residual"].append(args[0]))
    )
    with hooks(*handles), torch.inference_mode():
        logits = model(torch.as_tensor(ids).reshape(-1, len(ids[0]) if _nested(ids) else len(ids)))
    return seen, logits


def _nested(ids):
    return torch.as_tensor(ids).dim() == 2


def without(model, ids, part, fill):
    """Les logits du modèle où un crochet met `fill` à la place d'une pièce.

    `fill` : site → ce que la pièce rend à toutes les positions.
    """
    block = model.trf_blocks[part.layer]

    def head(_, args):
        value = args[0].clone()
        size = block.att.head_dim
        value[..., part.head * size : (part.head + 1) * size] = fill["heads"]
        return (value,)

    def whole(site):
        return lambda _, args, out: fill[site].expand_as(out)

    handles = []
    if part.kind == "head":
        handles.append(block.att.out_proj.register_forward_pre_hook(head))
    if part.kind in ("attention", "block"):
        handles.append(block.att.register_forward_hook(whole("attention")))
    if part.kind in ("feed_forward", "block"):
        handles.append(block.ff.register_forward_hook(whole("feed_forward")))
    with hooks(*handles), torch.inference_mode():
        return model(torch.as_tensor(ids).reshape(-1, torch.as_tensor(ids).size(-1)))
