"""La fiche d'un modèle : ses faits, réunis une fois, dits en français et en anglais.

Tout vient de ce que le modèle et son dossier gardent : métadonnées, certificat, dossier de
confidentialité. Ce qu'ils ne disent pas est dit inconnu, jamais supposé.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_architecture.config import GPTConfig
from gpt_architecture.data.texts.licences import KnownText, known_texts
from gpt_architecture.errors import GPTArchitectureError
from gpt_architecture.formats.door import locate
from gpt_architecture.formats.journal import finite_number
from gpt_architecture.formats.story import read_story
from gpt_architecture.french import decimal, french_duration, percent, thousands
from gpt_architecture.storage import exists, read_json
from gpt_architecture.storage.chain import CERTIFICATE, read_chain

PRIVACY = "dossier.json"
"""Le dossier de confidentialité, en JSON, à côté du modèle."""

PRIVACY_FORMAT = "gpt-architecture dossier"

_MAX_JSON = 4 << 20
_LINE = re.compile(r"[\x00-\x1f\x7f]+")
_UNKNOWN = ("inconnu", "unknown")
_LICENCES = {
    "domaine public": "public domain",
    "libre, copies et dérivés sous la même licence": "free, copies and derivatives alike",
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Un fait : son nom et sa valeur, en français puis en anglais.

    Attributes:
        label: son nom.
        value: ce qu'il dit ; une phrase sans point final.
    """

    label: tuple[str, str]
    value: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Une fiche.

    Attributes:
        facts: les faits, dans l'ordre.
        license: la licence déclarée du modèle ; None : non précisée.
        languages: langues des textes, là où elles sont connues.
        datasets: jeux du Hub lus, par leur nom.
    """

    facts: tuple[Fact, ...]
    license: str | None
    languages: tuple[str, ...]
    datasets: tuple[str, ...]

    def said(self, language: int) -> list[tuple[str, str]]:
        """Les faits en une langue : 0, français ; 1, anglais."""
        return [(each.label[language], each.value[language]) for each in self.facts]


def card_of(
    config: GPTConfig,
    metadata: Mapping[str, Any],
    *,
    folder: Path | str | None = None,
    sha256: str | None = None,
) -> Card:
    """La fiche d'un modèle.

    Args:
        config: sa forme.
        metadata: ce que son entraînement ou son export a noté.
        folder: son dossier, où sont peut-être son certificat et son dossier de confidentialité ;
            None : inconnu.
        sha256: empreinte de ses poids (`weights_sha256`) ; None : pas calculée, et un dossier de
            confidentialité, qui nomme celle du modèle mesuré, n'est pas cité.
    """
    place = None if folder is None else Path(folder)
    license_id = metadata.get("license")
    stated = str(license_id) if license_id not in (None, "unknown") else None
    texts = _texts(metadata)
    known = [each for each in texts if each is not None]
    complete = len(known) == len(texts) > 0
    data = _mapping(metadata, "data").get("name")
    hub = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)", str(data))
    return Card(
        facts=(
            *_shape(config, metadata),
            *_origin(metadata, texts),
            *_training(metadata),
            *_losses(metadata),
            *_proof(place, metadata, sha256),
            Fact(
                label=("Licence", "License"),
                value=("non précisée", "not stated") if stated is None else (_line(stated),) * 2,
            ),
            Fact(
                label=("Limites", "Limits"),
                value=(
                    "un modèle de cette taille invente, répète et peut réciter son texte "
                    "d'entraînement ; ne l'employez pas pour établir un fait",
                    "a model this small makes things up, repeats itself and may recite its "
                    "training text; do not use it to establish a fact",
                ),
            ),
        ),
        license=stated,
        languages=tuple(sorted({each.language for each in known})) if complete else (),
        datasets=() if hub is None else (hub[1],),
    )


def model_folder(name: Path | str) -> Path | None:
    """Le dossier d'un modèle d'ici, d'après son nom ou son chemin ; None : il vient d'ailleurs."""
    if not exists(name):
        return None
    place = locate(name).resolve()
    return place if place.is_dir() else place.parent


def _shape(config: GPTConfig, metadata: Mapping[str, Any]) -> list[Fact]:
    shape = (config.n_layers, config.n_heads, config.emb_dim, config.vocab_size)
    parameters, tied, head = config.num_parameters(), config.tie_weights, config.head
    learned = metadata.get("window")
    window = learned if type(learned) is int else None
    past = f"{window} tokens ; au-delà, les positions n'ont rien appris"
    past_en = f"{window} tokens; positions beyond it learned nothing"
    return [
        Fact(
            label=("Forme", "Shape"),
            value=(
                f"{thousands(parameters, ' ')} paramètres, "
                + "{} blocs, {} têtes, largeur {}, vocabulaire de {} tokens".format(*shape)
                + f", {config.context_length} positions",
                f"{parameters:,} parameters, "
                + "{} layers, {} heads, width {}, vocabulary of {} tokens".format(*shape)
                + f", {config.context_length} positions",
            ),
        ),
        Fact(
            label=("Tête de sortie", "Head"),
            value=(
                f"{'liée à' if tied else 'indépendante de'} l'embedding",
                f"{'tied to' if tied else 'independent of'} the embedding",
            )
            if head is None
            else (head.said, ", ".join(head.labels) or "one value"),
        ),
        Fact(
            label=("Contexte d'entraînement", "Learned window"),
            value=_UNKNOWN if window is None else (past, past_en),
        ),
    ]


def _origin(metadata: Mapping[str, Any], texts: Sequence[KnownText | None]) -> list[Fact]:
    """Les données, et la licence de celles qu'on connaît."""
    data = _mapping(metadata, "data")
    named = ", ".join(f"{key} {_line(data[key])}" for key in ("name", "sha256") if key in data)
    if any(each is not None for each in texts):
        french, english = list[str](), list[str]()
        for each in texts:
            french.append("inconnue" if each is None else f"{each.about} ({each.licence})")
            translated = None if each is None else _LICENCES.get(each.licence, each.licence)
            english.append("unknown" if each is None else f"{each.name} ({translated})")
        licences = (" ; ".join(french), "; ".join(english))
    else:
        licences = ("inconnue", "unknown")
    canaries = _mapping(metadata, "training").get("canaries")
    found = [
        Fact(
            label=("Données", "Data"), value=(named, named) if named else ("inconnues", "unknown")
        ),
        Fact(label=("Licence des données", "Data license"), value=licences),
    ]
    if type(canaries) is int and canaries > 0:
        found.append(
            Fact(
                label=("Canaris", "Canaries"),
                value=(f"{canaries}, plantés exprès", f"{canaries}, planted on purpose"),
            )
        )
    return found


def _training(metadata: Mapping[str, Any]) -> list[Fact]:
    """Ce que l'entraînement a lu et duré."""
    training, seen = _mapping(metadata, "training"), metadata.get("tokens_seen")
    last = seen[-1] if isinstance(seen, Sequence) and seen else seen
    read = (thousands(last, " "), f"{last:,}") if type(last) is int else _UNKNOWN
    found = [Fact(label=("Tokens vus", "Tokens seen"), value=read)]
    steps, seconds = metadata.get("steps"), finite_number(metadata.get("seconds"))
    versions = _mapping(metadata, "versions")
    if type(steps) is int and seconds is not None:
        epochs, seed = training.get("epochs"), training.get("seed")
        lasted = french_duration(seconds)
        told = (
            [f"{thousands(steps, ' ')} étapes", f"{steps:,} steps"],
            [f"au plus {epochs} époques", f"at most {epochs} epochs"] if epochs else None,
            [f"graine {seed}", f"seed {seed}"] if seed is not None else None,
            [lasted, lasted],
            *([f"{_line(name)} {_line(each)}"] * 2 for name, each in versions.items()),
        )
        french, english = (
            ", ".join(each[language] for each in told if each is not None) for language in (0, 1)
        )
        found.append(Fact(label=("Entraînement", "Training"), value=(french, english)))
    return found


def _losses(metadata: Mapping[str, Any]) -> list[Fact]:
    """La perte, et ses repères."""
    train, validation = (_last(metadata.get(key)) for key in ("train_losses", "val_losses"))
    final = measured_at_the_end(metadata)
    fr, en = (
        [None if each is None else f"{each:.3f}".replace(".", mark) for each in (train, validation)]
        for mark in (",", ".")
    )
    found = [
        Fact(
            label=("Perte finale", "Final loss")
            if final
            else ("Dernière perte mesurée", "Last measured loss"),
            value=(
                f"entraînement {fr[0] or 'inconnue'}, validation {fr[1] or 'inconnue'}",
                f"training {en[0] or 'unknown'}, validation {en[1] or 'unknown'}",
            ),
        )
    ]
    names = {
        "uniform": ("hasard", "chance"),
        "unigram": ("unigramme", "unigram"),
        "bigram": ("bigramme", "bigram"),
        "ngram": ("n-gramme", "n-gram"),
    }
    levels = _mapping(metadata, "baselines")
    known = {name: each for name in names if (each := finite_number(levels.get(name))) is not None}
    if known:
        found.append(
            Fact(
                label=("Repères de validation", "Validation references"),
                value=(
                    ", ".join(f"{names[name][0]} {decimal(x)}" for name, x in known.items()),
                    ", ".join(f"{names[name][1]} {x:.2f}" for name, x in known.items()),
                ),
            )
        )
    return found


def _proof(folder: Path | None, metadata: Mapping[str, Any], sha256: str | None) -> list[Fact]:
    """L'empreinte, le certificat, la confidentialité mesurée."""
    found = []
    if sha256 is not None:
        label = ("Empreinte des poids", "Weights fingerprint")
        found.append(Fact(label=label, value=(f"sha256 {sha256}",) * 2))
    certificate = None if folder is None else _certificate(folder, metadata)
    if certificate is not None:
        found.append(Fact(label=("Certificat", "Certificate"), value=certificate))
    privacy = None if folder is None or sha256 is None else privacy_of(folder, sha256)
    found.append(
        Fact(
            label=("Confidentialité", "Privacy"),
            value=("non mesurée", "not measured") if privacy is None else _privacy(privacy),
        )
    )
    return found


def _certificate(folder: Path, metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """Ce que dit le certificat du dossier, s'il est celui de cet entraînement."""
    try:
        chain = read_chain(folder / CERTIFICATE)
    except GPTArchitectureError:
        return None
    identity = chain.links[0].get("identity")
    data = identity.get("data") if isinstance(identity, Mapping) else None
    if not isinstance(data, Mapping) or data.get("sha256") != _mapping(metadata, "data").get(
        "sha256"
    ):
        return None
    removed = len(read_story(chain).removals)
    head, signed = chain.head, chain.signature is not None
    return (
        f"{len(chain.links)} maillons, tête {head}, {'signé' if signed else 'non signé'}"
        f"{f', {removed} oublis' if removed else ''} ; « gpt-architecture verify » le contrôle",
        f"{len(chain.links)} links, head {head}, {'signed' if signed else 'not signed'}"
        f'{f", {removed} removals" if removed else ""}; check it with "gpt-architecture verify"',
    )


def privacy_of(folder: Path | str, sha256: str) -> dict[str, Any] | None:
    """Le dossier de confidentialité de ce dossier, s'il est celui de ces poids."""
    try:
        found = read_json(Path(folder) / PRIVACY, _MAX_JSON)
    except (OSError, ValueError):
        return None
    is_ours = isinstance(found, dict) and found.get("generator") == PRIVACY_FORMAT
    return found if is_ours and found.get("weights_sha256") == sha256 else None


def _privacy(found: Mapping[str, Any]) -> tuple[str, str]:
    """Le dossier, en une phrase."""
    french, english = list[str](), list[str]()
    canaries, extraction = _mapping(found, "canaries"), _mapping(found, "extraction")
    membership = _mapping(found, "membership")
    total, known = canaries.get("canaries"), canaries.get("found")
    if type(total) is int and type(known) is int:
        french.append(f"{known} canaris retrouvés sur {total}")
        english.append(f"{known} of {total} canaries found")
    rows = extraction.get("by_prefix")
    last = rows[-1] if isinstance(rows, list) and rows and isinstance(rows[-1], dict) else {}
    share, prefix = finite_number(last.get("share")), last.get("prefix")
    if share is not None:
        french.append(f"{percent(share)} d'extraits rendus après {prefix} tokens")
        english.append(f"{100 * share:.1f}% of extracts completed after {prefix} tokens")
    attacks = membership.get("attacks")
    areas = [
        value
        for each in (attacks if isinstance(attacks, list) else [])
        if isinstance(each, dict) and each.get("attack") != "aveugle"
        if (value := finite_number(each.get("auc"))) is not None
    ]
    if areas:
        french.append(f"appartenance : AUC {decimal(max(areas))} au plus")
        english.append(f"membership inference: AUC {max(areas):.2f} at most")
    return ", ".join(french) or _UNKNOWN[0], ", ".join(english) or _UNKNOWN[1]


def measured_at_the_end(metadata: Mapping[str, Any]) -> bool:
    """Vrai si la dernière évaluation a suivi la dernière étape : les poids sont ceux mesurés."""
    steps, evaluated = metadata.get("steps"), metadata.get("eval_steps")
    return type(steps) is int and isinstance(evaluated, Sequence) and steps - 1 in evaluated[-1:]


def _texts(metadata: Mapping[str, Any]) -> list[KnownText | None]:
    """Les textes que l'entraînement a lus, là où ils sont connus."""
    data = _mapping(metadata, "data")
    name, sha256 = data.get("name"), data.get("sha256")
    if not isinstance(name, str):
        return []
    planted = _mapping(metadata, "training").get("canaries")  # l'empreinte n'est plus la sienne
    return known_texts(name, sha256 if isinstance(sha256, str) and not planted else None)


def _mapping(metadata: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = metadata.get(name)
    return found if isinstance(found, Mapping) else {}


def _last(values: object) -> float | None:
    if isinstance(values, Sequence) and values and isinstance(values[-1], (int, float)):
        return float(values[-1]) if math.isfinite(values[-1]) else None
    return None


def _line(value: object) -> str:
    """Un texte venu d'ailleurs, sur une ligne et borné."""
    return _LINE.sub(" ", str(value))[:200]
