"""La fiche d'un modèle exporté (`README.md`), en français puis en anglais."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gpt_architecture.formats.model_file import ModelFile
from gpt_architecture.french import thousands

_LINE = re.compile(r"[\x00-\x1f\x7f]+")


def model_card(content: ModelFile, *, name: str) -> str:
    """La fiche, avec l'en-tête que le Hub lit.

    Ce que les métadonnées ne disent pas est dit inconnu, jamais supposé.

    Args:
        content: le modèle.
        name: son titre.
    """
    config, metadata = content.config, content.metadata
    license_id = str(metadata.get("license", "unknown"))
    losses = {key: _last(metadata.get(key)) for key in ("train_losses", "val_losses")}
    final = measured_at_the_end(metadata)
    label_fr = "Perte finale" if final else "Dernière perte mesurée"
    label_en = "Final loss" if final else "Last measured loss"
    window = metadata.get("window")
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"license: {_yaml(license_id)}",
        "tags:",
        "- gpt2",
        "- gpt-architecture",
        "---",
        "",
        f"# {_line(name)}",
        "",
    ]
    shape_fr = (
        f"{thousands(config.num_parameters(), ' ')} paramètres, {config.n_layers} blocs, "
        f"{config.n_heads} têtes, largeur {config.emb_dim}, vocabulaire de {config.vocab_size} "
        f"tokens, {config.context_length} positions"
    )
    shape_en = (
        f"{thousands(config.num_parameters(), ',')} parameters, {config.n_layers} layers, "
        f"{config.n_heads} heads, width {config.emb_dim}, vocabulary of {config.vocab_size} "
        f"tokens, {config.context_length} positions"
    )
    french = [
        "## Fiche",
        "",
        "GPT-2 entraîné ou converti avec gpt-architecture.",
        "",
        f"- **Forme** : {shape_fr}.",
        f"- **Tête** : {'liée à' if config.tie_weights else 'indépendante de'} l'embedding.",
        f"- **Fenêtre apprise** : {_known(window, 'inconnue')} tokens ; au-delà, les positions "
        "n'ont rien appris.",
        f"- **Données** : {_data(metadata, 'inconnues')}.",
        f"- **Tokens vus** : {_count(metadata.get('tokens_seen'), ' ', 'inconnu')}.",
        f"- **{label_fr}** : entraînement {_decimal(losses['train_losses'], ',', 'inconnue')}, "
        f"validation {_decimal(losses['val_losses'], ',', 'inconnue')}.",
        f"- **Licence** : {_license(license_id, 'non précisée')}.",
        "- **Limites** : un modèle de cette taille invente, répète et peut réciter son texte "
        "d'entraînement ; ne l'employez pas pour établir un fait.",
        "",
    ]
    english = [
        "## Model card",
        "",
        "A GPT-2 trained or converted with gpt-architecture.",
        "",
        f"- **Shape**: {shape_en}.",
        f"- **Head**: {'tied to' if config.tie_weights else 'independent of'} the embedding.",
        f"- **Learned window**: {_known(window, 'unknown')} tokens; positions beyond it "
        "learned nothing.",
        f"- **Data**: {_data(metadata, 'unknown')}.",
        f"- **Tokens seen**: {_count(metadata.get('tokens_seen'), ',', 'unknown')}.",
        f"- **{label_en}**: training {_decimal(losses['train_losses'], '.', 'unknown')}, "
        f"validation {_decimal(losses['val_losses'], '.', 'unknown')}.",
        f"- **License**: {_license(license_id, 'not stated')}.",
        "- **Limits**: a model this small makes things up, repeats itself and may recite its "
        "training text; do not use it to establish a fact.",
        "",
    ]
    usage = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'model = AutoModelForCausalLM.from_pretrained(".")',
        "```",
        "",
    ]
    return "\n".join([*head, *french, *english, *usage])


def measured_at_the_end(metadata: Mapping[str, Any]) -> bool:
    """Vrai si la dernière évaluation a suivi la dernière étape : les poids sont ceux mesurés."""
    steps, evaluated = metadata.get("steps"), metadata.get("eval_steps")
    return type(steps) is int and isinstance(evaluated, Sequence) and steps - 1 in evaluated[-1:]


def _data(metadata: Mapping[str, Any], unknown: str) -> str:
    """Nom et empreinte des données, telles que l'entraînement les a notées."""
    data = metadata.get("data")
    if not isinstance(data, Mapping):
        return unknown
    facts = [f"{_line(key)} {_line(data[key])}" for key in ("name", "sha256") if key in data]
    return ", ".join(facts) or unknown


def _last(values: object) -> float | None:
    if isinstance(values, Sequence) and values and isinstance(values[-1], (int, float)):
        return float(values[-1]) if math.isfinite(values[-1]) else None
    return None


def _decimal(value: float | None, mark: str, unknown: str) -> str:
    return unknown if value is None else f"{value:.3f}".replace(".", mark)


def _count(value: object, mark: str, unknown: str) -> str:
    last = value[-1] if isinstance(value, Sequence) and value else value
    return thousands(last, mark) if type(last) is int else unknown


def _known(value: object, unknown: str) -> str:
    return str(value) if type(value) is int else unknown


def _license(license_id: str, unknown: str) -> str:
    return unknown if license_id == "unknown" else _line(license_id)


def _line(value: object) -> str:
    """Un texte venu d'ailleurs, sur une ligne et borné."""
    return _LINE.sub(" ", str(value))[:200]


def _yaml(value: str) -> str:
    """Un identifiant, entre guillemets dès qu'il n'est pas fait de lettres ordinaires."""
    return value if re.fullmatch(r"[A-Za-z0-9.\-]{1,64}", value) else "unknown"
