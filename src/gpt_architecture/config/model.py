"""La forme du modèle ; deux modes exacts coexistent (voir `GPTConfig`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

from gpt_architecture.config.checks import check_bool, check_choice, check_float, check_int
from gpt_architecture.config.labels import HeadConfig
from gpt_architecture.errors import ConfigurationError

END_OF_TEXT = "<|endoftext|>"
"""Token spécial de GPT-2 : fin d'un document."""


Activation = Literal["gelu_tanh", "gelu", "relu"]
"""Activation du perceptron : GELU approchée de GPT-2, GELU exacte, ou max(0, x)."""

MAX_SIZES = {
    "vocab_size": 1 << 24,
    "context_length": 1 << 24,
    "emb_dim": 1 << 17,
    "n_heads": 1 << 17,
    "n_layers": 1 << 14,
    "inner_dim": 1 << 20,
}
"""Tailles au plus, des dizaines de fois celles des plus grands modèles : leurs produits tiennent
sur 63 bits, et une faute de frappe n'est pas un modèle."""

StrategyName = Literal["greedy", "temperature", "top_k", "top_p", "sample", "mirostat", "beam"]
"""Nom d'une stratégie de décodage."""

# Réglages par défaut du décodage, pour la bibliothèque comme pour les commandes.
MAX_TOKENS, TEMPERATURE, TOP_K, TOP_P = 50, 1.0, 50, 0.9


class GPTConfigDict(TypedDict):
    """Les clés du document d'origine, telles qu'un dictionnaire Python les porte."""

    vocab_size: int
    context_length: int
    emb_dim: int
    n_heads: int
    n_layers: int
    drop_rate: float
    qkv_bias: bool


GPT_CONFIG_124M: GPTConfigDict = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": False,
}
"""Dictionnaire du document d'origine : GPT-2 « small », en mode livre."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Forme d'un modèle GPT-2, immuable et validée.

    Deux modes, tous deux exacts :

    * **mode livre** (valeurs par défaut) : tête de sortie indépendante, initialisation
      par défaut de PyTorch, 163 009 536 paramètres pour la taille « small » ;
    * **mode GPT-2** (`tie_weights=True, qkv_bias=True`) : tête de sortie liée à l'embedding,
      initialisation N(0 ; 0,02), 124 439 808 paramètres.

    Attributes:
        vocab_size: nombre de tokens du vocabulaire (V).
        context_length: nombre maximal de positions (T max.).
        emb_dim: largeur du modèle (D), multiple de `n_heads`.
        n_heads: nombre de têtes d'attention (H).
        n_layers: nombre de blocs Transformer.
        drop_rate: probabilité de dropout, dans [0, 1[.
        qkv_bias: biais sur les projections requête, clé et valeur.
        tie_weights: tête de sortie et embedding partagent le même tenseur ; choisit aussi
            l'initialisation de GPT-2, faute de quoi les logits initiaux explosent.
        inner_dim: largeur cachée du perceptron ; None : quatre fois `emb_dim`, comme GPT-2.
        activation: celle du perceptron.
        norm_eps: ce que les normes ajoutent à la variance.
        head: ce que le modèle rend d'un texte à la place du token suivant ; None : il écrit.

    Les trois qui précèdent `head` ne s'écartent de GPT-2 que pour les modèles venus d'ailleurs.

    Raises:
        ConfigurationError: une valeur est du mauvais type ou hors bornes.
    """

    vocab_size: int = GPT_CONFIG_124M["vocab_size"]
    context_length: int = GPT_CONFIG_124M["context_length"]
    emb_dim: int = GPT_CONFIG_124M["emb_dim"]
    n_heads: int = GPT_CONFIG_124M["n_heads"]
    n_layers: int = GPT_CONFIG_124M["n_layers"]
    drop_rate: float = GPT_CONFIG_124M["drop_rate"]
    qkv_bias: bool = GPT_CONFIG_124M["qkv_bias"]
    tie_weights: bool = False
    inner_dim: int | None = None
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-5
    head: HeadConfig | None = None

    def __post_init__(self) -> None:
        for name, maximum in MAX_SIZES.items():
            if name != "inner_dim" or self.inner_dim is not None:
                check_int(name, getattr(self, name), minimum=1, maximum=maximum)
        check_choice("activation", self.activation, get_args(Activation))
        check_float("norm_eps", self.norm_eps, above=0.0, below=1.0)
        if self.inner_dim == 4 * self.emb_dim:  # une même forme n'a qu'une écriture
            object.__setattr__(self, "inner_dim", None)
        for name in ("qkv_bias", "tie_weights"):
            check_bool(name, getattr(self, name))
        check_float("drop_rate", self.drop_rate, minimum=0.0, below=1.0)
        object.__setattr__(self, "head", HeadConfig.coerce(self.head))
        if self.head is not None and self.tie_weights:
            raise ConfigurationError.together(
                "head", "tie_weights", expected="une tête à elle, que l'embedding n'a pas"
            )
        if self.emb_dim % self.n_heads:
            raise ConfigurationError(
                f"emb_dim vaut {self.emb_dim} et n_heads {self.n_heads}",
                expected="emb_dim multiple de n_heads",
                remedy="changez l'un des deux",
            )

    @property
    def head_dim(self) -> int:
        """Taille d'une tête (K) : `emb_dim / n_heads`."""
        return self.emb_dim // self.n_heads

    @property
    def inner_width(self) -> int:
        """Largeur cachée du perceptron (F)."""
        return 4 * self.emb_dim if self.inner_dim is None else self.inner_dim

    @property
    def outputs(self) -> int:
        """Sorties de la tête : le vocabulaire (V), ou celles de `head`."""
        return self.vocab_size if self.head is None else self.head.outputs

    def check_writes(self) -> None:
        """Refuse un modèle dont la tête rend autre chose que des tokens.

        Raises:
            ConfigurationError: il classe ou note des textes.
        """
        if self.head is not None:
            does = "note" if self.head.is_regression else "classe"
            raise ConfigurationError(
                f"ce modèle {does} des textes, il n'en écrit pas",
                expected="un modèle qui prédit le token suivant",
                remedy="donnez-lui des textes à juger (« gpt-architecture infer », "
                "`GPT.classify`, POST /v1/classify), ou prenez un autre modèle",
            )

    def with_head(self, head: HeadConfig | None) -> GPTConfig:
        """La même forme, qui rend ce que dit `head` ; None : elle-même."""
        return self if head is None else replace(self, head=head, tie_weights=False)

    def variants(self) -> dict[str, Any]:
        """Ce qui s'écarte de GPT-2 : largeur cachée, activation, eps ; vide pour GPT-2."""
        return {name: value for name in _VARIANTS if (value := getattr(self, name)) != _GPT2[name]}

    def num_parameters(self) -> int:
        """Nombre de paramètres distincts, par le calcul et sans construire le modèle."""
        d, f = self.emb_dim, self.inner_width
        attention = 4 * d * d + d + (3 * d if self.qkv_bias else 0)
        feed_forward = 2 * d * f + f + d
        norms = 2 * 2 * d
        body = self.n_layers * (attention + feed_forward + norms) + 2 * d
        embeddings = (self.vocab_size + self.context_length) * d
        head = 0 if self.tie_weights else self.outputs * d
        return embeddings + body + head

    def to_dict(self) -> dict[str, Any]:
        """Les clés et leurs valeurs, dans l'ordre ; des variantes, celles qui s'écartent de GPT-2.

        GPT-2 s'écrit ainsi comme avant qu'il y eût des variantes : mêmes fichiers, mêmes
        empreintes, et les versions précédentes les lisent.
        """
        kept = self.variants()
        values = {k: v for k, v in asdict(self).items() if k not in _VARIANTS or k in kept}
        del values["head"]
        return values if self.head is None else {**values, "head": self.head.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """Construit une configuration ; une clé inconnue est une erreur.

        Les clés absentes prennent la valeur de `GPT_CONFIG_124M`.

        Raises:
            ConfigurationError: clé inconnue ou valeur invalide.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key)[:80] for key in values if key not in known)[:_SHOWN]
        if unknown:
            raise ConfigurationError(
                f"clé de configuration inconnue : {', '.join(unknown)}",
                expected=", ".join(known),
                remedy="corrigez ou retirez cette clé",
            )
        return cls(**values)

    @classmethod
    def coerce(cls, cfg: GPTConfig | Mapping[str, Any]) -> GPTConfig:
        """Accepte une `GPTConfig` ou un dictionnaire aux clés du document d'origine."""
        return cfg if isinstance(cfg, cls) else cls.from_dict(cfg)  # type: ignore[arg-type]


_SHOWN = 5
_VARIANTS = ("inner_dim", "activation", "norm_eps")
_GPT2 = {field.name: field.default for field in fields(GPTConfig)}

PRESETS: dict[str, GPTConfig] = {
    "gpt2-small": GPTConfig(qkv_bias=True, tie_weights=True),
    "gpt2-medium": GPTConfig(
        emb_dim=1024, n_heads=16, n_layers=24, qkv_bias=True, tie_weights=True
    ),
    "gpt2-large": GPTConfig(emb_dim=1280, n_heads=20, n_layers=36, qkv_bias=True, tie_weights=True),
    "gpt2-xl": GPTConfig(emb_dim=1600, n_heads=25, n_layers=48, qkv_bias=True, tie_weights=True),
}
"""Les quatre tailles publiées de GPT-2 (Radford et al., 2019), en mode GPT-2."""
