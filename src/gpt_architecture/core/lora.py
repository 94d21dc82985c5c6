"""Les adaptateurs de rang faible (LoRA, Hu et al., 2021), posés de l'extérieur sur un GPTModel.

Chaque matrice visée W est gelée et reçoit un chemin parallèle, y = W·x + (alpha / r) · B·A·x. B
part de zéro : le modèle de départ est d'abord exactement lui-même. Fondre les adaptateurs ajoute
(alpha / r) · B·A à W, et rend un GPTModel ordinaire.

Formes : D entrée, E sortie d'une matrice, r rang.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt_architecture.config import GPTConfig, LoRAConfig, LoRATarget
from gpt_architecture.core.adapters import Adapter
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ModelFileError

PATHS: dict[LoRATarget, str] = {
    "query": "att.W_query",
    "key": "att.W_key",
    "value": "att.W_value",
    "output": "att.out_proj",
    "up": "ff.layers.0",
    "down": "ff.layers.2",
}
"""Le module que vise chaque nom, dans un bloc."""

HEAD = "out_head.weight"
"""Les poids de la tête ; celle d'une classe ou d'une valeur s'apprend avec les adaptateurs."""


class LoRALinear(nn.Module):
    """Une couche linéaire gelée et son adaptateur.

    Args:
        base: la couche ; ses paramètres sont gelés.
        config: rang, force et dropout.
        generator: d'où A est tirée ; B est nulle.
    """

    def __init__(self, base: nn.Linear, config: LoRAConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = config.scale
        self.dropout = nn.Dropout(config.dropout)
        drawn = torch.empty(config.rank, base.in_features)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        like = base.weight
        self.lora_A = nn.Parameter(drawn.to(like.device, like.dtype))  # (r, D)
        self.lora_B = nn.Parameter(like.new_zeros(base.out_features, config.rank))  # (E, r)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, E)."""
        low = F.linear(self.dropout(x), self.lora_A)  # (…, r)
        out: Tensor = self.base(x) + F.linear(low, self.lora_B) * self.scale
        return out

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """La couche linéaire seule, l'adaptateur fondu dans un poids neuf."""
        base = self.base
        weight = base.weight + self.scale * (self.lora_B @ self.lora_A)  # (E, D)
        base.weight = nn.Parameter(weight)
        return base.requires_grad_(True)


def add_lora_(model: GPTModel, config: LoRAConfig, *, seed: int) -> None:
    """Gèle `model` et pose un adaptateur sur chaque matrice visée ; ses sorties ne changent pas.

    Args:
        model: modifié sur place ; ses couches visées deviennent des `LoRALinear`.
        config: rang, force, matrices visées.
        seed: graine des matrices A.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    if model.cfg.head is not None:  # neuve : elle a tout à apprendre
        model.out_head.requires_grad_(True)
    for block in model.trf_blocks:
        for target in config.targets:
            path = PATHS[target]
            base = block.get_submodule(path)
            assert isinstance(base, nn.Linear)  # noqa: S101 — la structure de GPTModel
            block.set_submodule(path, LoRALinear(base, config, generator))


def merge_lora_(model: GPTModel) -> None:
    """Fond, sur place, chaque adaptateur dans sa matrice : `model` redevient ordinaire."""
    for path, layer in list(_layers(model)):
        model.set_submodule(path, layer.merged())
    model.requires_grad_(True)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Les matrices A et B, par nom, sans copie ; avec elles, une tête de classe ou de valeur."""
    found = {
        f"{path}.{name}": tensor.detach()
        for path, layer in _layers(model)
        for name, tensor in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B))
    }
    if isinstance(model, GPTModel) and model.cfg.head is not None:
        found[HEAD] = model.out_head.weight.detach()
    return found


def adapter_shapes(cfg: GPTConfig, config: LoRAConfig) -> dict[str, tuple[int, int]]:
    """(D, E) de chaque matrice visée d'un modèle, par nom de module."""
    d, f = cfg.emb_dim, cfg.inner_width
    shapes: dict[LoRATarget, tuple[int, int]] = {"up": (d, f), "down": (f, d)}
    return {
        f"trf_blocks.{block}.{PATHS[target]}": shapes.get(target, (d, d))
        for block in range(cfg.n_layers)
        for target in config.targets
    }


def adapter_parameters(cfg: GPTConfig, config: LoRAConfig) -> int:
    """Nombre de paramètres qui apprennent, par le calcul : r·(D + E) par matrice, et la tête."""
    head = 0 if cfg.head is None else cfg.head.outputs * cfg.emb_dim
    return head + config.rank * sum(map(sum, adapter_shapes(cfg, config).values()))


def runtime_adapter(
    cfg: GPTConfig,
    config: LoRAConfig,
    tensors: Mapping[str, Tensor],
    *,
    sparse: bool = False,
    device: torch.device | str = "cpu",
) -> Adapter:
    """L'adaptateur que sert un modèle de forme `cfg`, sans qu'il y soit fondu (voir `adapters`).

    Args:
        config: ses réglages.
        tensors: les matrices de `adapter_tensors`.
        sparse: vrai si une matrice absente vaut zéro.
        device: où est le modèle.

    Raises:
        ModelFileError: les noms ou les formes ne sont pas ceux du modèle, ou une valeur est infinie
            ou NaN.
    """
    shapes, rank = adapter_shapes(cfg, config), config.rank
    wanted = {
        f"{path}.lora_{letter}": shape
        for path, (d, e) in shapes.items()
        for letter, shape in (("A", (rank, d)), ("B", (e, rank)))
    }
    odd = {n for n, t in tensors.items() if wanted.get(n) != tuple(t.shape)}
    missing = wanted.keys() - tensors.keys()
    odd |= {n for n in missing if not sparse or f"{n[:-1]}{'AB'[n[-1] == 'A']}" in tensors}
    if odd:
        raise _unfit(sorted(odd))
    layers, digest = dict[str, tuple[Tensor, Tensor]](), hashlib.sha256()
    for path in (each for each in shapes if f"{each}.lora_A" in tensors):
        a, b = (tensors[f"{path}.lora_{each}"].detach().float() for each in "AB")
        pair = a.contiguous().clone(), (b.t() * config.scale).contiguous()  # (r, D), (r, E)
        for tensor in pair:
            if not tensor.isfinite().all():
                raise ModelFileError(
                    f"les adaptateurs de {path} ont des valeurs infinies ou NaN",
                    expected="des nombres",
                    remedy="reprenez le fichier d'origine, ou un point de reprise plus ancien",
                )
            digest.update(f"{path}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().view(-1).view(torch.uint8).numpy().data)
        layers[path] = pair[0].to(device), pair[1].to(device)
    return Adapter(layers=layers, sha256=digest.hexdigest())


@torch.no_grad()
def load_adapter_(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Donne à `model`, déjà muni d'adaptateurs, les matrices de `adapter_tensors`.

    Raises:
        ModelFileError: les noms ou les formes ne sont pas ceux du modèle.
    """
    own = adapter_tensors(model)
    if own.keys() != tensors.keys() or any(own[n].shape != t.shape for n, t in tensors.items()):
        odd = sorted(own.keys() ^ tensors.keys()) or sorted(
            name for name, tensor in tensors.items() if own[name].shape != tensor.shape
        )
        raise _unfit(odd)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def _unfit(odd: Sequence[str]) -> ModelFileError:
    return ModelFileError(
        f"les adaptateurs ne vont pas à ce modèle ({odd[0]}, {len(odd)} en tout)",
        expected="les matrices A et B de chaque couche visée, au rang annoncé",
        remedy="reprenez le fichier d'origine",
    )


def _layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield path, module
