"""Options que plusieurs commandes partagent."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import command_line, find_model, say_aside
from gpt_architecture.config import MAX_TOKENS, TEMPERATURE, StrategyName, check_int
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.storage import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt_architecture.decoding.config import GenerationConfig

Prompt = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
"""Début de texte ; il peut commencer par un tiret, et « - » seul lit l'entrée standard."""

Text = Annotated[str, Parameter(allow_leading_hyphen=True)]

ModelSource = Annotated[
    Path | None,
    Parameter(
        name="--model",
        group=Group("Modèle", sort_key=0),
        help="Modèle : fichier, adaptateurs, point de reprise, dossier d'entraînement ou de "
        "Transformers, hub:DÉPÔT ; sans lui, gpt-model.pt ici ou dans un dossier parent.",
    ),
]
"""Le modèle, donné par sa place ou par son nom ; `formats.source.locate` le trouve."""


def model_path(model: Path | None) -> Path:
    """Ce qu'une commande lira du modèle demandé ; un nom du Hub n'est pas encore téléchargé."""
    from gpt_architecture.formats.source import locate
    from gpt_architecture.interop.hub import hub_name

    source = find_model(model)
    return source if hub_name(str(source)) is not None else locate(source)


NamedModel = Annotated[
    Path | None,
    Parameter(
        name="--model",
        group=Group("Modèle", sort_key=0),
        help="Le modèle, au lieu du premier argument.",
    ),
]
"""Là où d'autres arguments suivent le modèle ; voir `model_and_rest`."""


def model_and_rest(
    model: Path | None, first: str | None, second: Path | None, *, usage: str
) -> tuple[str, Path]:
    """Le modèle et ce qui le suit, que le modèle soit le premier argument ou --model.

    Args:
        model: la valeur de --model.
        first: premier argument.
        second: deuxième argument.
        usage: la commande attendue, pour le message.

    Raises:
        ConfigurationError: il en manque un, ou le modèle est donné deux fois.
    """
    named = any(each.partition("=")[0] == "--model" for each in command_line())
    if model is not None and second is None and first is not None:
        return str(model), Path(first)
    if first is not None and second is not None and not named:  # l'environnement cède
        return first, second
    problem = "il manque un argument"
    if second is not None:
        problem = f"le modèle est donné deux fois, {model} et {first}"
    raise ConfigurationError(problem, expected=usage, remedy="corrigez la commande")


QuantName = Literal["int8", "int4"]
"""Quantification des poids au chargement."""


@Parameter(name="*", group=Group("Calcul", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Où faire calculer le modèle."""

    device: str = "auto"
    """Périphérique : auto, cpu, cuda, cuda:N ou mps."""

    quant: QuantName | None = None
    """Quantifie les poids au chargement (CPU) : moins de mémoire lue, plus de tokens/s."""

    drafts: int = 5
    """Tokens que le modèle propose d'avance, puis vérifie, à une suite seule (poids fp32, CPU) ;
    0 : aucun. Le texte reste le même."""

    def __post_init__(self) -> None:
        check_int("drafts", self.drafts, minimum=0, maximum=5)

    @property
    def asked(self) -> dict[str, object]:
        """Ce qui demande le modèle lui-même : option → sa valeur ; None : elle n'est pas donnée."""
        drafts = None if self.drafts == ModelChoice.drafts else self.drafts
        return {"--quant": self.quant, "--drafts": drafts}


@Parameter(name="*", group=Group("Décodage", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Comment choisir chaque token."""

    strategy: StrategyName | None = None
    """Stratégie de décodage ; sans elle, greedy, ou sample si un filtre est donné."""

    max_tokens: int = MAX_TOKENS
    """Nombre de tokens à produire, au plus."""

    temperature: float | None = None
    """Température : 0 est glouton, moins de 1 resserre, plus de 1 disperse (sans elle, 1)."""

    k: Annotated[int | None, Parameter(name=("--k", "--top-k"))] = None
    """Nombre de tokens gardés par top-k (50 avec la stratégie top_k)."""

    p: Annotated[float | None, Parameter(name=("--p", "--top-p"))] = None
    """Masse de probabilité gardée par top-p, entre 0 et 1 (0,9 avec la stratégie top_p)."""

    seed: int | None = None
    """Graine du tirage ; sans elle, un texte nouveau à chaque fois."""

    n: int = 1
    """Nombre de suites pour un même début."""


@Parameter(name="*", group=Group("Filtres", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Ce qui écarte ou pénalise des tokens (docs/decodage.md en donne les formules)."""

    min_p: float | None = None
    """Retire les tokens sous cette part de la plus grande probabilité."""

    typical_p: float | None = None
    """Échantillonnage typique : masse gardée."""

    epsilon_cutoff: float | None = None
    """Retire les tokens de probabilité moindre."""

    eta_cutoff: float | None = None
    """De même, en tenant compte de l'entropie."""

    top_n_sigma: float | None = None
    """Retire les logits à plus de tant d'écarts-types du plus grand."""

    xtc_probability: float = 0.0
    """XTC : probabilité d'exclure les tokens les plus attendus."""

    xtc_threshold: float = 0.1
    """XTC : probabilité au-delà de laquelle un token est attendu."""

    dry_multiplier: float = 0.0
    """DRY : force de la pénalité des suites répétées."""

    dry_base: float = 1.75
    """DRY : croissance de la pénalité."""

    dry_allowed_length: int = 2
    """DRY : longueur répétée sans pénalité."""

    dry_range: int | None = None
    """DRY : derniers tokens regardés ; sans elle, tous."""

    mirostat_tau: float = 5.0
    """Mirostat : surprise visée, en bits."""

    mirostat_eta: float = 0.1
    """Mirostat : vitesse d'ajustement."""

    repetition_penalty: float = 1.0
    """Divise les logits des tokens déjà vus."""

    presence_penalty: float = 0.0
    """Retranché une fois aux tokens déjà produits."""

    frequency_penalty: float = 0.0
    """Retranché à chaque occurrence d'un token produit."""

    penalty_window: int | None = None
    """Derniers tokens que regardent ces pénalités ; sans elle, tous."""

    no_repeat_ngram: int = 0
    """Longueur des suites de tokens qui ne reviennent jamais."""

    logit_bias: tuple[str, ...] = ()
    """Ajoute à un logit : IDENTIFIANT=NOMBRE ; répétable."""

    banned: Annotated[tuple[Text, ...], Parameter(name=("--banned", "--interdit"))] = ()
    """Texte jamais produit ; répétable."""

    order: Annotated[
        Literal["hf", "llama.cpp", "litgpt", "vllm"], Parameter(name=("--ordre", "--order"))
    ] = "hf"
    """Ordre des filtres, celui d'un autre logiciel au besoin."""


@Parameter(name="*", group=Group("Arrêt, forme et vitesse", sort_key=4))
@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """Quand s'arrêter, sous quelle forme, par quel chemin."""

    stop: tuple[Text, ...] = ()
    """Texte qui arrête la génération ; répétable."""

    stop_ids: tuple[int, ...] = ()
    """Identifiant qui l'arrête ; répétable."""

    ignore_eos: bool = False
    """La fin de texte n'arrête rien."""

    min_tokens: int = 0
    """Tokens avant lesquels la fin de texte est interdite."""

    regex: Text | None = None
    """Expression régulière que la suite doit vérifier."""

    choices: Annotated[tuple[Text, ...], Parameter(name=("--choix", "--choices"))] = ()
    """Suite permise ; répétable."""

    json_schema: Text | None = None
    """Schéma JSON que la suite doit vérifier : un texte, ou @FICHIER."""

    beams: int = 4
    """Hypothèses suivies par la stratégie beam."""

    length_penalty: float = 1.0
    """beam : exposant de la longueur ; plus grand, des suites plus longues."""

    early_stopping: bool = False
    """beam : s'arrête dès qu'assez d'hypothèses sont finies."""

    lookup: int = 0
    """Tokens proposés d'avance en relisant le texte : plus rapide quand il se répète."""

    lookup_ngram: int = 3
    """Longueur de la suite cherchée pour proposer."""

    logprobs: int | None = None
    """Rend les log-probabilités : celle du token choisi et de tant d'autres (avec --json)."""


def generation_config(
    sampling: SamplingOptions,
    filters: FilterOptions,
    shape: ShapeOptions,
    fallback_seed: int,
) -> GenerationConfig:
    """La configuration validée ; `fallback_seed` sert si aucune graine n'est donnée.

    Raises:
        ConfigurationError: une option est hors bornes ou mal écrite.
        DataError: le schéma nommé ne peut pas être lu.
    """
    from gpt_architecture.decoding.config import GenerationConfig, implied_strategy

    values: dict[str, Any] = {
        each.name: getattr(group, each.name)
        for group in (sampling, filters, shape)
        for each in fields(group)
    }
    if sampling.strategy is None:
        values["strategy"] = implied_strategy(values)
    if sampling.temperature is None:
        values["temperature"] = TEMPERATURE
    if sampling.seed is None:
        values["seed"] = fallback_seed
    values["logit_bias"] = dict(map(_bias, filters.logit_bias))
    values["json_schema"] = _schema(shape.json_schema)
    return GenerationConfig(**values)


def warn_cut(config: GenerationConfig, ends: Sequence[str | None]) -> None:
    """Dit, sur stderr, si des suites contraintes ont été coupées par max_tokens.

    Args:
        config: comment elles ont été écrites.
        ends: pourquoi chacune s'arrête.
    """
    if not config.is_constrained:
        return
    from gpt_architecture.decoding.constraints import cut_warning

    found = [warning for end in ends if (warning := cut_warning(config, end))]
    if found:
        several = f" ({len(found)} suites sur {len(ends)})" if len(ends) > 1 else ""
        say_aside(f"avertissement : {found[0]}{several}")


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise ConfigurationError(
            f"logit_bias vaut {text!r}",
            expected="IDENTIFIANT=NOMBRE, par exemple 262=-5",
            remedy="corrigez --logit-bias",
        ) from None


def _schema(text: str | None) -> str | None:
    if text is None or not text.startswith("@"):
        return text
    return read_text(
        text[1:], expected="un schéma JSON", remedy="corrigez --json-schema", limit=1 << 20
    )
