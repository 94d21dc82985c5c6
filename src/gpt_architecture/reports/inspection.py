"""Ce qu'est un modèle qu'on n'a pas chargé : ses faits, un par ligne, et ses tenseurs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt_architecture.french import counted, decimal, french_number, french_size

if TYPE_CHECKING:
    from gpt_architecture.config import GPTConfig
    from gpt_architecture.formats.inspection import Inspection
    from gpt_architecture.formats.tensor_files import TensorInfo

_BLOCK = re.compile(r"^(.*?\b(?:h|blk|trf_blocks))\.(\d+)\.(.*)$")
_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SHOWN = 240


def inspection_facts(found: Inspection, *, complete: bool = False) -> list[tuple[str, str]]:
    """Ce qu'est un modèle, d'où il vient : (nom, valeur).

    Args:
        found: ce qui en est connu.
        complete: tout ce que l'entraînement a noté, et non l'essentiel.
    """
    facts = []
    if found.parameters:
        facts.append(("Paramètres", french_number(found.parameters)))
    if found.config is not None:
        facts.append(("Forme", _shape(found.config)))
    facts.append(("Tokenizer", _tokenizer(found.tokenizer)))
    facts += _provenance(found.provenance, complete=complete)
    if found.tensors:
        dtypes = sorted({info.dtype for info in found.tensors})
        facts.append(("Tenseurs", f"{french_number(len(found.tensors))}, en {', '.join(dtypes)}"))
    return facts


def tensor_lines(tensors: Sequence[TensorInfo], *, complete: bool) -> list[str]:
    """Une ligne par tenseur ; ou une pour le même tenseur de tous les blocs."""
    groups: dict[tuple[str, tuple[int, ...], str], int] = {}
    for info in tensors:
        block = None if complete else _BLOCK.match(info.name)
        name = info.name if block is None else f"{block[1]}.N.{block[3]}"
        key = (name, info.shape, info.dtype)
        groups[key] = groups.get(key, 0) + 1
    return [
        f"{cleaned(name)} ({', '.join(map(str, shape))}) {dtype}"
        + (f" × {count}" if count > 1 else "")
        for (name, shape, dtype), count in groups.items()
    ]


def file_lines(found: Inspection) -> list[str]:
    """Les fichiers lus : nom, taille, et empreinte si elle a été calculée."""
    return [
        f"{info.name} : {french_size(info.size)}"
        + ("" if info.sha256 is None else f", sha256 {info.sha256}")
        for info in found.files
    ]


def _shape(config: GPTConfig) -> str:
    return (
        f"{counted(config.n_layers, 'bloc')}, {counted(config.n_heads, 'tête')}, "
        f"largeur {french_number(config.emb_dim)}, "
        f"vocabulaire {french_number(config.vocab_size)}, "
        f"{counted(config.context_length, 'position')}, "
        f"tête de sortie {'liée' if config.tie_weights else 'indépendante'}, "
        f"{'avec' if config.qkv_bias else 'sans'} biais q, k, v"
        + "".join(f", {name} = {value}" for name, value in config.variants().items())
        + ("" if config.head is None else f", rend {cleaned(config.head.said)}")
    )


def _tokenizer(tokenizer: Mapping[str, Any]) -> str:
    if "problem" in tokenizer:
        return f"inconnu ({cleaned(tokenizer['problem'])})"
    size = counted(tokenizer["vocab_size"], "token")
    return f"{cleaned(tokenizer['name'])}, {size}, sha256 {tokenizer['sha256']}"


def _provenance(provenance: Mapping[str, Any], *, complete: bool) -> list[tuple[str, str]]:
    """L'essentiel tient en quelques clés connues."""
    if complete:
        return [(cleaned(key), cleaned(value)) for key, value in provenance.items()]
    from gpt_architecture.formats.card import measured_at_the_end

    which = "Perte finale" if measured_at_the_end(provenance) else "Dernière perte mesurée"
    known = {
        "origin": "Origine",
        "source": "Source",
        "license": "Licence",
        "steps": "Étapes",
        "window": "Contexte d'entraînement",
        "tokens_seen": "Tokens vus",
        "train_losses": f"{which}, entraînement",
        "val_losses": f"{which}, validation",
        "versions": "Versions",
        "base": "Modèle de départ",
        "base_sha256": "Empreinte du modèle de départ",
        "rank": "Rang",
        "alpha": "Force",
        "targets": "Matrices adaptées",
        "opset": "Opset",
        "inputs": "Entrées",
        "outputs": "Sorties",
        "general.name": "Nom",
        "general.license": "Licence",
    }
    facts, data = [], provenance.get("data")
    if isinstance(data, Mapping):
        said = f"{cleaned(data.get('name'))}, sha256 {cleaned(data.get('sha256'))}"
        facts.append(("Données", said))
    training = provenance.get("training")
    if isinstance(training, Mapping) and training.get("document_mask") is True:
        facts.append(("Documents", "chacun seul dans sa fenêtre (document_mask)"))
    for key, label in known.items():
        value = provenance.get(key)
        if isinstance(value, (list, tuple)):
            value = value[-1] if value else None
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        if type(value) is int:
            value = french_number(value)
        if value not in (None, ""):
            facts.append((label, cleaned(value)))
    return facts + _judgement(provenance)


def _judgement(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Les repères de la perte, et les fautes que l'entraînement a montrées."""
    from gpt_architecture.training.baselines import Baselines

    facts = []
    baselines = Baselines.from_dict(provenance.get("baselines"))
    if baselines is not None:
        levels = (f"{name} {decimal(level)}" for name, level in baselines.levels.items())
        facts.append(("Repères de validation", ", ".join(levels)))
    found = provenance.get("diagnosis")
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping):
            facts.append(("Diagnostic", cleaned(each.get("found"))))
    return facts


def cleaned(value: object) -> str:
    """Un texte venu d'un fichier : borné, sur une ligne, sans commande de terminal."""
    text = f"{value:.4g}".replace(".", ",") if isinstance(value, float) else str(value)
    text = _LINE.sub(" ", text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
