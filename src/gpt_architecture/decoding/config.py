"""Comment générer : une configuration immuable, validée, que tout le décodage partage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, get_args

from gpt_architecture.config import (
    MAX_TOKENS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    StrategyName,
    check_choice,
    check_float,
    check_int,
)
from gpt_architecture.errors import ConfigurationError

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

OrderName = Literal["hf", "llama.cpp", "litgpt", "vllm"]
"""Ordre des filtres : celui de Transformers, de llama.cpp, de LitGPT ou de vLLM."""

ORDERS: tuple[OrderName, ...] = get_args(OrderName)

MAX_NEW_TOKENS = 1_000_000
MAX_SEQUENCES = 128
MAX_ALTERNATIVES = 100
MAX_STRINGS = 64
MAX_STRING_LENGTH = 2_000
MAX_CONSTRAINT_LENGTH = 200_000
MAX_DRAFT = 32

ALIASES = {"top_k": "k", "top_p": "p"}
"""Noms que d'autres bibliothèques donnent à des réglages d'ici."""

FILTERS = (
    *("k", "p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma"),
    "xtc_probability",
)
"""Réglages sans objet pour une stratégie qui ne tire pas, et pour `mirostat`, qui a le sien."""

_NEEDS = {
    "xtc_threshold": ("xtc_probability",),
    **dict.fromkeys(
        ("dry_base", "dry_allowed_length", "dry_range", "dry_breakers"), ("dry_multiplier",)
    ),
    "penalty_window": ("repetition_penalty", "presence_penalty", "frequency_penalty"),
    "lookup_ngram": ("lookup",),
}
"""Réglages qui en précisent un autre : sans lui, ils n'auraient aucun effet."""

_OF_STRATEGY: dict[str, StrategyName] = {
    **dict.fromkeys(("mirostat_tau", "mirostat_eta"), "mirostat"),
    **dict.fromkeys(("beams", "length_penalty", "early_stopping"), "beam"),
}
"""Réglages d'une seule stratégie."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Comment générer ; immuable et validée. Les formules sont dans `decoding.processors`.

    Attributes:
        strategy: `greedy` prend le plus probable ; `temperature`, `top_k`, `top_p` et `sample`
            tirent au sort, avec les filtres donnés ; `mirostat` tient la surprise constante ;
            `beam` cherche la suite la plus probable.
        max_tokens: nombre de tokens à produire, au plus.
        min_tokens: nombre de tokens avant lequel la fin de texte est interdite.
        temperature: 0 revient à `greedy` ; sans effet sur `greedy` et `beam`.
        k: tokens gardés par top-k ; None : 50 pour la stratégie `top_k`, aucun filtre ailleurs.
        p: masse gardée par top-p ; None : 0,9 pour la stratégie `top_p`, aucun filtre ailleurs.
        seed: graine du tirage ; None : imprévisible.
        min_p: part de la plus grande probabilité en deçà de laquelle un token est retiré.
        typical_p: masse gardée par l'échantillonnage typique.
        epsilon_cutoff: probabilité minimale d'un token.
        eta_cutoff: la même, adaptée à l'entropie.
        top_n_sigma: écarts-types sous le plus grand logit au-delà desquels un token est retiré.
        xtc_probability: probabilité d'exclure les tokens les plus attendus.
        xtc_threshold: probabilité au-delà de laquelle XTC tient un token pour attendu.
        dry_multiplier: pénalité DRY des répétitions de suites ; 0 : aucune.
        dry_base: croissance de cette pénalité avec la longueur répétée.
        dry_allowed_length: longueur répétée sans pénalité.
        dry_range: derniers tokens que DRY regarde ; None : tous.
        dry_breakers: textes qu'une répétition ne franchit pas.
        mirostat_tau: surprise visée par `mirostat`, en bits.
        mirostat_eta: vitesse d'ajustement de `mirostat`.
        repetition_penalty: diviseur des logits des tokens déjà vus ; 1 : aucun.
        presence_penalty: retranché une fois aux tokens déjà produits.
        frequency_penalty: retranché autant de fois qu'un token a été produit.
        penalty_window: derniers tokens que ces trois pénalités regardent ; None : tous.
        no_repeat_ngram: longueur des suites qui ne reviennent jamais ; 0 : aucune.
        logit_bias: identifiant → nombre ajouté à son logit.
        banned: textes jamais produits.
        stop: textes qui arrêtent la génération ; ils ne sont pas rendus.
        stop_ids: identifiants qui l'arrêtent, en plus de la fin de texte.
        ignore_eos: la fin de texte n'arrête rien.
        n: suites par début de texte ; les n meilleures avec `beam`.
        beams: hypothèses suivies par `beam`.
        length_penalty: exposant de la longueur dans la note d'une hypothèse finie.
        early_stopping: s'arrête dès que `beams` hypothèses sont finies.
        logprobs: probabilités (log) à rendre : celle du token choisi, et de tant d'autres ;
            None : aucune.
        order: ordre des filtres.
        lookup: tokens proposés d'avance en relisant le texte ; 0 : aucun.
        lookup_ngram: longueur de la suite cherchée dans le texte pour proposer.
        regex: expression régulière que la suite doit vérifier.
        choices: suites permises.
        json_schema: schéma JSON que la suite doit vérifier.

    Raises:
        ConfigurationError: valeur inconnue, hors bornes, ou réglages qui s'excluent.
    """

    strategy: StrategyName = "greedy"
    max_tokens: int = MAX_TOKENS
    min_tokens: int = 0
    temperature: float = TEMPERATURE
    k: int | None = None
    p: float | None = None
    seed: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_range: int | None = None
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_window: int | None = None
    no_repeat_ngram: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    banned: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool = False
    logprobs: int | None = None
    order: OrderName = "hf"
    lookup: int = 0
    lookup_ngram: int = 3
    regex: str | None = None
    choices: tuple[str, ...] = ()
    json_schema: str | None = None

    def __post_init__(self) -> None:
        check_choice("strategy", self.strategy, STRATEGIES)
        check_choice("order", self.order, ORDERS)
        self._check_numbers()
        self._check_texts()
        self._check_together()
        self._check_effects()

    @property
    def is_sampling(self) -> bool:
        """Vrai si un token est tiré au sort."""
        return self.strategy not in ("greedy", "beam") and self.temperature > 0

    @property
    def top_k(self) -> int | None:
        """Tokens gardés par top-k ; None : pas de filtre."""
        return TOP_K if self.k is None and self.strategy == "top_k" else self.k

    @property
    def top_p(self) -> float | None:
        """Masse gardée par top-p ; None : pas de filtre."""
        return TOP_P if self.p is None and self.strategy == "top_p" else self.p

    @property
    def is_constrained(self) -> bool:
        """Vrai si la suite doit suivre une expression, une liste ou un schéma."""
        return self.regex is not None or bool(self.choices) or self.json_schema is not None

    def to_dict(self) -> dict[str, Any]:
        """Les réglages qui diffèrent du défaut, en types simples."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        base = GenerationConfig()
        return {
            name: _plain(value) for name, value in found.items() if value != getattr(base, name)
        }

    def _check_numbers(self) -> None:
        check_int("max_tokens", self.max_tokens, minimum=1, maximum=MAX_NEW_TOKENS)
        check_int("min_tokens", self.min_tokens, minimum=0, maximum=self.max_tokens)
        check_float("temperature", self.temperature, minimum=0.0)
        counts = {"k": 1, "dry_range": 1, "penalty_window": 1}
        for name, minimum in counts.items():
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=minimum)
        if self.seed is not None:
            check_int("seed", self.seed, minimum=0, maximum=2**63 - 1)
        for name in ("p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"):
            if getattr(self, name) is not None:
                check_float(name, getattr(self, name), minimum=0.0, maximum=1.0)
        if self.top_n_sigma is not None:
            check_float("top_n_sigma", self.top_n_sigma, above=0.0)
        check_float("xtc_probability", self.xtc_probability, minimum=0.0, maximum=1.0)
        check_float("xtc_threshold", self.xtc_threshold, minimum=0.0, maximum=1.0)
        check_float("dry_multiplier", self.dry_multiplier, minimum=0.0)
        check_float("dry_base", self.dry_base, minimum=1.0, maximum=10.0)
        check_int("dry_allowed_length", self.dry_allowed_length, minimum=1)
        check_float("mirostat_tau", self.mirostat_tau, above=0.0)
        check_float("mirostat_eta", self.mirostat_eta, above=0.0, maximum=1.0)
        check_float("repetition_penalty", self.repetition_penalty, above=0.0)
        check_float("presence_penalty", self.presence_penalty)
        check_float("frequency_penalty", self.frequency_penalty)
        check_int("no_repeat_ngram", self.no_repeat_ngram, minimum=0)
        check_int("n", self.n, minimum=1, maximum=MAX_SEQUENCES)
        check_int("beams", self.beams, minimum=1, maximum=MAX_SEQUENCES)
        check_float("length_penalty", self.length_penalty, minimum=-10.0, maximum=10.0)
        if self.logprobs is not None:
            check_int("logprobs", self.logprobs, minimum=0, maximum=MAX_ALTERNATIVES)
        check_int("lookup", self.lookup, minimum=0, maximum=MAX_DRAFT)
        check_int("lookup_ngram", self.lookup_ngram, minimum=1)

    def _check_texts(self) -> None:
        for name in ("dry_breakers", "banned", "stop", "choices"):
            _check_strings(name, getattr(self, name))
        for name in ("regex", "json_schema"):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, str) and 0 < len(value) <= MAX_CONSTRAINT_LENGTH
            ):
                raise ConfigurationError(
                    f"{name} est vide, trop long ou n'est pas un texte",
                    expected=f"un texte de 1 à {MAX_CONSTRAINT_LENGTH} caractères",
                    remedy=f"corrigez {name}",
                )
        for token in self.stop_ids:
            check_int("stop_ids", token, minimum=0)
        for token, bias in self.logit_bias.items():
            check_int("logit_bias", token, minimum=0)
            check_float(f"logit_bias[{token}]", bias)

    def _is_set(self, name: str) -> bool:
        """Vrai si un réglage diffère de son défaut."""
        return bool(getattr(self, name) != getattr(type(self), name))

    def _check_effects(self) -> None:
        """Refuse un réglage que rien n'appliquerait, plutôt que de l'ignorer."""
        draws = self.strategy not in ("greedy", "beam")
        useless = () if draws and self.strategy != "mirostat" else FILTERS
        if not draws and self.temperature > 0:  # 0 dit la même chose que greedy
            useless = (*useless, "temperature")
        for name in useless:
            if self._is_set(name):
                raise ConfigurationError(
                    f"{name} est donné avec la stratégie {self.strategy}, qui n'en fait rien",
                    expected="une stratégie qui filtre avant de tirer",
                    remedy=f"choisissez la stratégie sample, ou retirez {name}",
                )
        for name, wanted in _OF_STRATEGY.items():
            if self.strategy != wanted and self._is_set(name):
                raise ConfigurationError(
                    f"{name} est donné avec la stratégie {self.strategy}, qui n'en fait rien",
                    expected=f"la stratégie {wanted}",
                    remedy=f"choisissez-la, ou retirez {name}",
                )
        for name, needed in _NEEDS.items():
            if self._is_set(name) and not any(map(self._is_set, needed)):
                raise ConfigurationError(
                    f"{name} est donné sans {' ni '.join(needed)}, et n'aurait aucun effet",
                    expected=f"{' ou '.join(needed)}",
                    remedy=f"ajoutez-le, ou retirez {name}",
                )

    def _check_together(self) -> None:
        given = [
            name
            for name in ("regex", "choices", "json_schema")
            if getattr(self, name) not in (None, ())
        ]
        if len(given) > 1:
            _refuse_pair(*given[:2])
        if self.strategy == "beam":
            if self.n > self.beams:
                raise ConfigurationError(
                    f"n vaut {self.n} et beams {self.beams}",
                    expected="n ≤ beams",
                    remedy="augmentez beams ou réduisez n",
                )
            for name in ("lookup", "logprobs"):
                if getattr(self, name):
                    _refuse_pair("strategy=beam", name)
            if given:
                _refuse_pair("strategy=beam", given[0])
        if self.strategy == "mirostat" and self.lookup:
            _refuse_pair("strategy=mirostat", "lookup")


def implied_strategy(settings: Mapping[str, Any]) -> StrategyName:
    """La stratégie que demandent des réglages qui n'en nomment pas : tirer, si l'un le suppose."""
    asked = settings.get("temperature") is not None or any(
        settings.get(name) not in (None, getattr(GenerationConfig, name)) for name in FILTERS
    )
    return "sample" if asked else "greedy"


def config_of(settings: Mapping[str, Any]) -> GenerationConfig:
    """La configuration que décrivent des réglages nommés, `top_k` et `top_p` compris.

    Sans `strategy`, un filtre ou une température suffit à demander un tirage.

    Raises:
        ConfigurationError: réglage inconnu, donné deux fois ou hors bornes.
    """
    values: dict[str, Any] = {}
    for given, value in settings.items():
        name = ALIASES.get(given, given)
        if name not in GenerationConfig.__dataclass_fields__:
            raise unknown_setting(given)
        if name in values:
            _refuse_pair(*(each for each in settings if ALIASES.get(each, each) == name))
        values[name] = value
    values.setdefault("strategy", implied_strategy(values))
    return GenerationConfig(**values)


def unknown_setting(name: str) -> ConfigurationError:
    """Le refus d'un réglage inconnu, avec le nom le plus proche."""
    known = [*GenerationConfig.__dataclass_fields__, *ALIASES]
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return ConfigurationError(
        f"réglage inconnu : {name}",
        expected="les réglages de GenerationConfig",
        remedy=f"essayez {close[0]}" if close else "corrigez son nom",
    )


def _refuse_pair(first: str, second: str) -> None:
    raise ConfigurationError(
        f"{first} et {second} sont donnés ensemble",
        expected="l'un ou l'autre",
        remedy=f"retirez {second}",
    )


def _check_strings(name: str, values: object) -> None:
    """Un tuple borné de textes non vides et bornés."""
    fine = (
        isinstance(values, tuple)
        and len(values) <= MAX_STRINGS
        and all(isinstance(v, str) and 0 < len(v) <= MAX_STRING_LENGTH for v in values)
    )
    if not fine:
        raise ConfigurationError(
            f"{name} vaut {str(values)[:80]!r}",
            expected=f"au plus {MAX_STRINGS} textes de 1 à {MAX_STRING_LENGTH} caractères",
            remedy=f"corrigez {name}",
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
