"""GPTModel : le Transformer décodeur de GPT-2.

Formes : B lot, T tokens, D largeur, V vocabulaire.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.layers import LayerNorm, TransformerBlock

STD = 0.02
"""Écart-type des matrices et des embeddings de GPT-2."""


class CausalLM(Protocol):
    """Ce que la génération et l'évaluation demandent à un modèle.

    `GPTModel` le satisfait ; un modèle compacté ou quantifié peut le satisfaire aussi.
    """

    cfg: GPTConfig

    @property
    def device(self) -> torch.device:
        """Où il calcule : là vont les tokens, de là viennent les logits."""
        ...

    def __call__(
        self, in_idx: Tensor, cache: KVCache | None = None, *, at: Tensor | None = None
    ) -> Tensor:
        """in_idx (B, T) int64 → logits (B, T, V) ; (B, 1, V) si `at` (B,) choisit un rang."""
        ...

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """Un cache vide, sur le périphérique et dans le type du modèle."""
        ...


class GPTModel(nn.Module):
    """GPT-2 (Radford et al., 2019) : embeddings, N blocs pré-normés, norme finale, tête.

    Les noms des modules sont ceux du livre de Raschka, si bien que ses fichiers de poids se
    chargent tels quels. En mode livre, une même graine donne les mêmes poids que son code.

    Args:
        cfg: `GPTConfig`, ou dictionnaire aux mêmes clés.
    """

    def __init__(self, cfg: GPTConfig | Mapping[str, Any]) -> None:
        super().__init__()
        self.cfg = cfg = GPTConfig.coerce(cfg)
        # L'ordre de création fixe les tirages aléatoires, donc les poids d'une graine.
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.emb_dim)
        self.pos_emb = nn.Embedding(cfg.context_length, cfg.emb_dim)
        self.drop_emb = nn.Dropout(cfg.drop_rate)
        self.trf_blocks = nn.ModuleList([TransformerBlock(cfg) for _ in range(cfg.n_layers)])
        self.final_norm = LayerNorm(cfg.emb_dim, cfg.norm_eps)
        self.out_head = nn.Linear(cfg.emb_dim, cfg.outputs, bias=False)
        if cfg.tie_weights:
            self.tie_weights_()
        if cfg.tie_weights or cfg.head is not None:
            initialize_gpt2_(self, cfg.n_layers)

    def tie_weights_(self) -> None:
        """Donne à la tête le tenseur même de l'embedding des tokens."""
        self.out_head.weight = self.tok_emb.weight

    def forward(
        self, in_idx: Tensor, cache: KVCache | None = None, *, at: Tensor | None = None
    ) -> Tensor:
        """Logits du token suivant, à chaque position ou à une seule.

        Args:
            in_idx: (B, T) int64, identifiants dans [0, V[.
            cache: positions déjà vues ; `in_idx` en est la suite.
            at: (B,) int64, rang dans `in_idx` de la seule position voulue de chaque séquence :
                la tête, un tiers du calcul d'une invite, ne sert alors que pour elle.

        Returns:
            Logits (B, T, V), non normalisés ; (B, 1, V) avec `at`.

        Raises:
            ValueError: positions passées et nouvelles dépassent `context_length`.
            GenerationError: un autre thread se sert de `cache`.
        """
        if cache is None:
            return self._forward(in_idx, None, at)
        with cache.alone:
            return self._forward(in_idx, cache, at)

    def hidden_states(self, in_idx: Tensor) -> Tensor:
        """(B, T) int64 → (B, T, D) : ce que la tête lit, après la norme finale.

        Raises:
            ValueError: plus de tokens que `context_length`.
        """
        return self._hidden(in_idx, None, None)

    def _forward(self, in_idx: Tensor, cache: KVCache | None, at: Tensor | None) -> Tensor:
        logits: Tensor = self.out_head(self._hidden(in_idx, cache, at))  # (B, T, V)
        return logits

    def _hidden(self, in_idx: Tensor, cache: KVCache | None, at: Tensor | None) -> Tensor:
        past = 0 if cache is None else cache.length
        end = past + in_idx.size(1)
        if end > self.cfg.context_length:
            raise ValueError(
                f"{end} positions demandées, le modèle en accepte {self.cfg.context_length} ; "
                "gardez les derniers tokens"
            )
        if cache is None:
            positions = torch.arange(end, device=in_idx.device)
        else:
            positions = cache.positions(in_idx.size(1))  # (T,) ou (B, T)
        x = self.tok_emb(in_idx) + self.pos_emb(positions)  # (B, T, D)
        x = self.drop_emb(x)
        layers = [None] * len(self.trf_blocks) if cache is None else cache.layers
        for block, layer in zip(self.trf_blocks, layers, strict=True):
            x = block(x, layer)
        if cache is not None:
            cache.advance_(in_idx.size(1))
        if at is not None:
            x = x[torch.arange(x.size(0), device=x.device), at].unsqueeze(1)  # (B, 1, D)
        found: Tensor = self.final_norm(x)
        return found

    def new_cache(self, batch_size: int, capacity: int | None = None) -> KVCache:
        """Un cache vide, sur le périphérique et dans le type du modèle."""
        weight = self.tok_emb.weight
        return KVCache(
            self.cfg, batch_size, capacity=capacity, dtype=weight.dtype, device=weight.device
        )

    @property
    def device(self) -> torch.device:
        """Où sont les poids."""
        return self.tok_emb.weight.device

    def num_parameters(self) -> int:
        """Nombre de paramètres distincts : un tenseur partagé compte une fois."""
        return sum(parameter.numel() for parameter in self.parameters())


@torch.no_grad()
def initialize_gpt2_(model: nn.Module, n_layers: int) -> None:
    """Initialise `model` sur place, dans l'ordre de ses modules (Radford et al., 2019).

    Matrices et embeddings ~ N(0 ; 0,02), biais nuls ; les projections qui reviennent sur
    le flux résiduel (`att.out_proj` et `ff.layers.2`) ~ N(0 ; 0,02 / √(2·n_layers)), pour
    que sa variance ne croisse pas avec la profondeur.
    """
    residual_std = STD / math.sqrt(2 * n_layers)
    done = set[Tensor]()
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        if module.weight not in done:  # la tête de sortie liée n'est tirée qu'une fois
            is_residual = name.endswith(("att.out_proj", "ff.layers.2"))
            module.weight.normal_(mean=0.0, std=residual_std if is_residual else STD)
            done.add(module.weight)
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()


class WithoutDraws(TorchFunctionMode):
    """Contexte où aucun poids n'est tiré : pour ceux qui vont être remplacés.

    Sur le périphérique meta aussi, un tirage coûterait : le premier y charge, en plus de deux
    secondes, les décompositions de PyTorch et son compilateur.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Passe l'appel, sauf un tirage."""
        del types
        named = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


_DRAWS = (
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    *(Tensor.normal_, Tensor.uniform_),
)


def blank_model(cfg: GPTConfig) -> GPTModel:
    """Un modèle sans poids (périphérique meta), à remplir par `load_state_dict(assign=True)`."""
    with WithoutDraws(), torch.device("meta"):
        return GPTModel(cfg)
