"""Comment générer : une configuration immuable, validée, que tout le décodage partage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, get_args

from gpt_architecture.config import (
    MAX_TOKENS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    StrategyName,
    check_float,
    check_int,
)
from gpt_architecture.decoding.settings import SETTINGS, RequestField, setting, unknown_setting
from gpt_architecture.errors import ConfigurationError

STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)

OrderName = Literal["hf", "llama.cpp", "litgpt", "vllm"]
"""Ordre des filtres : celui de Transformers, de llama.cpp, de LitGPT ou de vLLM."""

ORDERS: tuple[OrderName, ...] = get_args(OrderName)

MAX_NEW_TOKENS = 1_000_000
MAX_SEQUENCES = 128
MAX_ALTERNATIVES = 100
MAX_DRAFT = 32

_UNIT: dict[str, Any] = {"minimum": 0, "maximum": 1}
_OWN_FORM = RequestField(own_form=True)
_SIGNED = RequestField(minimum=-2, maximum=2)
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_DRY = ("dry_multiplier",)


def _no_mapping() -> Mapping[Any, Any]:
    return MappingProxyType({})


_choice = partial(setting, group="Décodage")
_penalty = partial(setting, group="Filtres")
_filter = partial(setting, group="Filtres", is_filter=True)
_shape = partial(setting, group="Arrêt, forme et vitesse")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Comment générer ; immuable et validée. Les formules sont dans `decoding.processors`.

    Chaque réglage est déclaré ici, et nulle part ailleurs : type, défaut, aide, bornes, et le champ
    d'une requête qui le porte (voir `decoding.settings.Setting`).

    Raises:
        ConfigurationError: valeur inconnue, hors bornes, ou réglages qui s'excluent.
    """

    strategy: StrategyName = _choice(  # noqa: RUF009
        "greedy",
        "Stratégie de décodage ; sans elle, greedy, ou sample si une température ou un filtre "
        "est donné.",
        implied=True,
    )
    max_tokens: int = _choice(
        MAX_TOKENS,
        "Nombre maximal de tokens à produire.",
        minimum=1,
        maximum=MAX_NEW_TOKENS,
        request=_OWN_FORM,
    )
    temperature: float = _choice(
        TEMPERATURE,
        "Température : 0 donne le choix glouton ; sous 1, la distribution se resserre, au-delà "
        "elle s'aplatit (1 si elle n'est pas donnée).",
        implied=True,
        minimum=0,
        request=_OWN_FORM,
    )
    k: int | None = _choice(
        None,
        "Nombre de tokens que garde le filtre top-k (50 avec la stratégie top_k).",
        options=("k", "top-k"),
        minimum=1,
        is_filter=True,
        request=RequestField(name="top_k", own_form=True),
    )
    p: float | None = _choice(
        None,
        "Masse de probabilité que garde le filtre top-p, entre 0 et 1 (0.9 avec la stratégie "
        "top_p).",
        options=("p", "top-p"),
        **_UNIT,
        is_filter=True,
        request=RequestField(name="top_p", own_form=True),
    )
    seed: int | None = _choice(
        None,
        "Graine de l'échantillonnage ; sans elle, chaque appel donne un texte nouveau.",
        minimum=0,
        maximum=2**63 - 1,
        request=_OWN_FORM,
    )
    n: int = _choice(
        1,
        "Nombre de textes générés pour une même invite.",
        minimum=1,
        maximum=MAX_SEQUENCES,
        request=_OWN_FORM,
    )
    min_p: float | None = _filter(
        None,
        "Retire les tokens dont la probabilité est inférieure à cette part de la plus grande.",
        **_UNIT,
        request=RequestField(),
    )
    typical_p: float | None = _filter(
        None,
        "Échantillonnage typique : masse de probabilité gardée, parmi les tokens dont la surprise "
        "est la plus proche de l'entropie.",
        **_UNIT,
    )
    epsilon_cutoff: float | None = _filter(
        None, "Retire les tokens dont la probabilité est inférieure à ce seuil.", **_UNIT
    )
    eta_cutoff: float | None = _filter(
        None,
        "Comme `epsilon_cutoff`, mais le seuil baisse quand l'entropie est grande.",
        **_UNIT,
    )
    top_n_sigma: float | None = _filter(
        None, "Retire les logits qui sont à plus de tant d'écarts-types du plus grand.", above=0
    )
    xtc_probability: float = _filter(
        0.0, "XTC : probabilité, à chaque token, d'exclure les plus attendus sauf un.", **_UNIT
    )
    xtc_threshold: float = _penalty(
        0.1,
        "XTC : probabilité à partir de laquelle un token compte parmi les plus attendus.",
        **_UNIT,
        refines=("xtc_probability",),
    )
    dry_multiplier: float = _penalty(
        0.0, "DRY : force de la pénalité des répétitions ; 0 la désactive.", minimum=0
    )
    dry_base: float = _penalty(
        1.75,
        "DRY : facteur dont la pénalité croît à chaque token répété de plus.",
        minimum=1,
        maximum=10,
        refines=_DRY,
    )
    dry_allowed_length: int = _penalty(
        2,
        "DRY : longueur de répétition, en tokens, qui reste sans pénalité.",
        minimum=1,
        refines=_DRY,
    )
    dry_range: int | None = _penalty(
        None,
        "DRY : nombre de derniers tokens où chercher des répétitions ; sans elle, tous.",
        minimum=1,
        refines=_DRY,
    )
    dry_breakers: tuple[str, ...] = setting(
        ("\n", ":", '"', "*"), "DRY : textes qu'une répétition ne franchit pas.", refines=_DRY
    )
    mirostat_tau: float = _penalty(
        5.0, "Mirostat : surprise visée pour chaque token, en bits.", above=0, strategy="mirostat"
    )
    mirostat_eta: float = _penalty(
        0.1,
        "Mirostat : vitesse à laquelle la surprise permise est corrigée.",
        above=0,
        maximum=1,
        strategy="mirostat",
    )
    repetition_penalty: float = _penalty(
        1.0,
        "Divise les logits des tokens déjà vus, invite comprise ; 1 ne change rien.",
        above=0,
        request=RequestField(maximum=10),
    )
    presence_penalty: float = _penalty(
        0.0,
        "Nombre retranché, une seule fois, au logit de chaque token déjà produit.",
        request=_SIGNED,
    )
    frequency_penalty: float = _penalty(
        0.0,
        "Nombre retranché au logit d'un token pour chaque fois qu'il a été produit.",
        request=_SIGNED,
    )
    penalty_window: int | None = _penalty(
        None,
        "Nombre de derniers tokens que regardent ces trois pénalités ; sans elle, tous.",
        minimum=1,
        refines=_PENALTIES,
    )
    no_repeat_ngram: int = _penalty(
        0,
        "Longueur des séquences de tokens qui ne doivent jamais se répéter ; 0 : aucune.",
        minimum=0,
    )
    logit_bias: Mapping[int, float] = _penalty(
        _no_mapping,
        "Nombre à ajouter au logit d'un token : IDENTIFIANT=NOMBRE ; répétable.",
        request=_OWN_FORM,
    )
    banned: tuple[str, ...] = _penalty(
        (), "Texte qui ne doit jamais être produit ; répétable.", options=("banned", "interdit")
    )
    order: OrderName = _penalty(  # noqa: RUF009
        "hf",
        "Ordre des filtres : celui de Transformers (hf) ou d'un autre logiciel.",
        options=("order", "ordre"),
    )
    samplers: Mapping[str, float] = setting(
        _no_mapping, "Réglages des filtres enregistrés (`register_sampler`), par nom."
    )
    stop: tuple[str, ...] = _shape(
        (), "Texte qui arrête la génération ; répétable.", request=_OWN_FORM
    )
    stop_ids: tuple[int, ...] = _shape(
        (),
        "Identifiant de token qui arrête la génération ; répétable.",
        request=RequestField(name="stop_token_ids", own_form=True),
    )
    ignore_eos: bool = _shape(
        False,
        "Continue après une fin de texte, qui n'arrête plus la génération.",
        request=RequestField(),
    )
    min_tokens: int = _shape(
        0,
        "Nombre de tokens avant lequel la fin de texte est interdite.",
        minimum=0,
        request=RequestField(),
    )
    regex: str | None = _shape(
        None, "Expression régulière que tout le texte généré doit vérifier.", request=_OWN_FORM
    )
    choices: tuple[str, ...] = _shape(
        (),
        "Un des textes que le modèle a le droit d'écrire ; répétable.",
        options=("choices", "choix"),
        request=_OWN_FORM,
    )
    json_schema: str | None = _shape(
        None,
        "Schéma JSON que le texte généré doit vérifier : le schéma lui-même, ou @FICHIER.",
        request=_OWN_FORM,
    )
    beams: int = _shape(
        4,
        "Nombre d'hypothèses que suit la stratégie beam.",
        minimum=1,
        maximum=MAX_SEQUENCES,
        strategy="beam",
    )
    length_penalty: float = _shape(
        1.0,
        "Stratégie beam : exposant de la longueur ; plus il est grand, plus les textes sont longs.",
        minimum=-10,
        maximum=10,
        strategy="beam",
    )
    early_stopping: bool = _shape(
        False, "Stratégie beam : s'arrête dès qu'assez d'hypothèses sont finies.", strategy="beam"
    )
    lookup: int = _shape(
        0,
        "Décodage spéculatif : nombre de tokens proposés en relisant le texte, plus rapide quand "
        "il se répète ; 0 : aucun.",
        minimum=0,
        maximum=MAX_DRAFT,
        request=RequestField(),
    )
    lookup_ngram: int = _shape(
        3,
        "Longueur, en tokens, de la séquence que cette relecture recherche.",
        minimum=1,
        refines=("lookup",),
        request=RequestField(maximum=MAX_DRAFT),
    )
    logprobs: int | None = _shape(
        None,
        "Donne les log-probabilités, en nats, du token choisi et de tant d'autres candidats (avec "
        "`json`).",
        minimum=0,
        maximum=MAX_ALTERNATIVES,
        request=_OWN_FORM,
    )

    def __post_init__(self) -> None:
        for each in SETTINGS.own:
            given = each.given(getattr(self, each.name))
            object.__setattr__(self, each.name, given)  # gelée : c'est ici qu'elle se fait
            if each.name != "min_tokens":  # borné des deux côtés, une fois max_tokens vérifié
                each.check(getattr(self, each.name))
        check_int("min_tokens", self.min_tokens, minimum=0, maximum=self.max_tokens)
        self._check_mappings()
        self._check_together()
        SETTINGS.check_effects(self.strategy, self._given())

    @property
    def is_sampling(self) -> bool:
        """Vrai si les tokens sont échantillonnés."""
        return self.strategy not in ("greedy", "beam") and self.temperature > 0

    @property
    def ignored(self) -> tuple[str, ...]:
        """Ce qui est demandé en vain à température nulle : filtres, et stratégie qui en est un.

        Les clients d'OpenAI envoient souvent les deux : ce n'est pas refusé, mais se dit.
        """
        if self.temperature > 0 or self.strategy in ("greedy", "beam"):
            return ()
        filters = {name for name, each in SETTINGS.declared.items() if each.setting.is_filter}
        own = (f"strategy={self.strategy}",) * (self.strategy not in ("temperature", "sample"))
        useless = (
            name
            for name in self._given()
            if name in filters
            or SETTINGS.declared[name].setting.strategy == "mirostat"
            or filters.intersection(SETTINGS.declared[name].setting.refines)
        )
        return (*own, *useless)

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
        """Vrai si le texte généré doit suivre une expression, une liste ou un schéma."""
        return bool(self.constraints)

    @property
    def constraints(self) -> tuple[str, ...]:
        """Les réglages qui contraignent le texte généré : un au plus, passé les vérifications."""
        names = ("regex", "choices", "json_schema")
        return tuple(name for name in names if getattr(self, name) not in (None, ()))

    def to_dict(self) -> dict[str, Any]:
        """Les réglages qui diffèrent du défaut, en types simples."""
        return {name: _plain(value) for name, value in self._given().items()}

    def _given(self) -> dict[str, Any]:
        """Les réglages qui diffèrent du défaut, filtres enregistrés compris."""
        values = {each.name: getattr(self, each.name) for each in SETTINGS.own} | {**self.samplers}
        return {
            name: values[name]
            for name, each in SETTINGS.declared.items()
            if name in values and values[name] != each.default
        }

    def _check_mappings(self) -> None:
        for token, bias in self.logit_bias.items():
            check_int("logit_bias", token, minimum=0)
            check_float(f"logit_bias[{token}]", bias)
        for name, value in self.samplers.items():
            if name not in SETTINGS.samplers:
                raise unknown_setting(name)
            SETTINGS.samplers[name].declaration.check(value)

    def _check_together(self) -> None:
        if len(self.constraints) > 1:
            raise ConfigurationError.together(*self.constraints[:2])
        if self.strategy == "beam" and self.n > self.beams:
            raise ConfigurationError(
                f"n vaut {self.n} et beams {self.beams}",
                expected="n ≤ beams",
                remedy="augmentez beams ou réduisez n",
            ).naming("n", "beams")
        unfit = {"beam": ("lookup", "logprobs", *self.constraints), "mirostat": ("lookup",)}
        for name in unfit.get(self.strategy, ()):
            if getattr(self, name):
                raise ConfigurationError.together(f"strategy={self.strategy}", name)


SETTINGS.declare(GenerationConfig)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
