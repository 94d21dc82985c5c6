"""Ce qu'un dossier de confidentialité mesure d'un modèle, et ce qu'il relit de ses données."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt_architecture.api.gpt import GPT
from gpt_architecture.api.study import learned_data
from gpt_architecture.config import END_OF_TEXT
from gpt_architecture.data.canaries import PlantedTokens, draw_canaries
from gpt_architecture.data.datasets import TrainingData
from gpt_architecture.data.hygiene.clean import MASKED, PERSONAL
from gpt_architecture.data.hygiene.personal import MASKS, mask_personal
from gpt_architecture.data.masking import MaskedTokens, original
from gpt_architecture.data.sampler import WindowSampler
from gpt_architecture.data.shards.layout import INDEX_NAME, holds_shards, read_index
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.texts.chat import CHAT_TEMPLATE
from gpt_architecture.data.texts.corpus import CORPUS_NAMES
from gpt_architecture.data.texts.licences import known_texts
from gpt_architecture.errors import CertificateError, ConfigurationError, DataError
from gpt_architecture.evaluation.canaries import ExposureReport, measure_exposure
from gpt_architecture.evaluation.extraction import Keep
from gpt_architecture.evaluation.membership import (
    EXTRACTS,
    AttackName,
    Floats,
    MembershipReport,
    extract_length,
    loss_scores,
    measure_membership,
    min_k_scores,
    reference_scores,
    token_log_probs,
)
from gpt_architecture.formats.story import read_story
from gpt_architecture.storage.chain import CERTIFICATE, read_chain
from gpt_architecture.training.checkpoint import CHECKPOINTS, CheckpointStore
from gpt_architecture.training.evidence import origins_of
from gpt_architecture.training.shadows import spread_blocks, train_shadows

if TYPE_CHECKING:
    from gpt_architecture.reports.privacy_facts import PersonalData, Removal, SourceText

logger = logging.getLogger(__name__)

Advance = Callable[[str, str], Callable[[int, int], None]]
"""D'une mesure et de son unité, ce qui en reçoit l'avancement."""

_READ_TOKENS = 1 << 16  # relus à la fois pour y chercher des données personnelles
_SCANNED_TOKENS = 1 << 23
_CANDIDATES = 16  # blocs regardés pour un de gardé, au plus
_FEWEST = 8  # extraits de chaque côté, en deçà desquels l'appartenance ne se juge pas


def default_sources(folder: Path | str | None, metadata: Mapping[str, Any]) -> list[str]:
    """Le corpus connu que nomme le dernier point de reprise, sinon le modèle ; vide : aucun.

    Comme `verify`, aucun fichier qu'un point de reprise nomme n'est ouvert sans être demandé.
    """
    if folder is not None and (points := Path(folder) / CHECKPOINTS).is_dir():
        try:
            named = origins_of({}, CheckpointStore(points).latest()).get("data")
        except ConfigurationError:
            return []
        if named:
            return [named] if isinstance(named, str) else list(named)
    data = metadata.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    return [name] if name in CORPUS_NAMES else []


def exposure(gpt: GPT, *, batch_size: int, advance: Advance) -> ExposureReport | None:
    """L'exposition des canaris de l'entraînement ; None : il n'en a pas."""
    training = gpt.metadata.get("training")
    known = training if isinstance(training, Mapping) else {}
    count, seed = known.get("canaries", 0), known.get("seed")
    if type(count) is not int or type(seed) is not int or count < 1:
        return None
    return measure_exposure(
        gpt.model,
        draw_canaries(gpt.tokenizer, count, seed),
        window=gpt.window,
        max_rows=batch_size,
        on_progress=advance("Canaris", "secrets"),
    )


def training_texts(
    gpt: GPT,
    sources: Sequence[str],
    notes: dict[str, str],
    *,
    field: str | None,
    offline: bool,
    skip_bad: bool,
) -> TrainingData | None:
    """Les données de l'entraînement ; None, et la raison dans `notes` : elles ne sont pas là.

    Raises:
        ConfigurationError, DataError: celles d'un modèle de texte suivi ne conviennent pas.
    """
    told = gpt.metadata.get("data")
    if isinstance(told, Mapping) and "mixture" in told:
        reason = "ce modèle a appris un mélange, et ces mesures lisent un seul texte suivi."
    elif not sources:
        reason = (
            "nommez les données de l'entraînement ; seul un corpus connu se lit sans être nommé."
        )
    else:
        try:
            data, is_exact = learned_data(
                gpt, sources, field=field, offline=offline, skip_bad=skip_bad
            )
        except (ConfigurationError, DataError) as error:
            if CHAT_TEMPLATE not in gpt.metadata:
                raise
            logger.warning("données non lues, %s", error)
            reason = "ce modèle a appris des conversations, et ces mesures lisent du texte suivi."
        else:
            if is_exact:
                return data
            reason = (
                "les données lues ne sont pas exactement celles de l'entraînement (autre "
                "empreinte) ; rien ne dit alors quels extraits le modèle a lus."
            )
    notes |= dict.fromkeys(("extraction", "membership", "personal"), f"Non mesuré : {reason}")
    return None


def learned_stride(gpt: GPT) -> int:
    """Tokens entre deux débuts des fenêtres d'où ce modèle a appris."""
    training = gpt.metadata.get("training")
    stride = training.get("stride") if isinstance(training, Mapping) else None
    return stride if type(stride) is int and stride > 0 else gpt.window


def kept_extracts(gpt: GPT, data: TrainingData) -> Keep:
    """Ce qui dit si un extrait compte : rien n'en est oublié, et l'entraînement l'a lu en entier.

    De la validation, il suffit que rien n'en soit oublié.
    """
    training = gpt.metadata.get("training")
    known = training if isinstance(training, Mapping) else {}
    steps, window = gpt.metadata.get("steps"), gpt.metadata.get("window")
    batch = known.get("batch_size"), known.get("accumulate", 1)
    sampler, sequences = None, 0
    if type(steps) is int and type(window) is int and all(type(each) is int for each in batch):
        sampler = WindowSampler(
            data.train.num_tokens,
            window,
            stride=known.get("stride"),
            batch_size=batch[0] * batch[1],
            seed=known.get("seed", 0),
        )
        sequences = steps * sampler.batch_size

    def keep(source: TokenSource, start: int, length: int) -> bool:
        if isinstance(source, MaskedTokens) and source.is_hidden(start, length):
            return False
        if source is not data.train or sampler is None:
            return True
        return sampler.reads(start, length, sequences)

    return keep


def read_canaries(data: TrainingData, keep: Keep) -> tuple[int, int] | None:
    """Les répétitions de canaris que l'entraînement a lues, et toutes ; None : il n'en a pas."""
    planted = original(data.train)
    if not isinstance(planted, PlantedTokens):
        return None
    places = planted.insertion_places()
    return sum(keep(data.train, start, length) for start, length in places), len(places)


def membership(
    gpt: GPT,
    data: TrainingData,
    notes: dict[str, str],
    *,
    keep: Keep,
    shadow: int,
    device: str,
    batch_size: int,
    advance: Advance,
) -> MembershipReport | None:
    """Les attaques d'appartenance ; None, et la raison dans `notes` : trop peu de texte inédit.

    Raises:
        ConfigurationError: modèles de référence demandés d'un modèle affiné ou d'un mélange.
    """
    size = extract_length(data.val, gpt.window)
    places = [spread_kept(part, size, keep) for part in (data.train, data.val)]
    members, others = (
        [part.read(place * size, size).tolist() for place in own]
        for part, own in zip((data.train, data.val), places, strict=True)
    )
    if min(len(members), len(others)) < _FEWEST:
        least = f"et il en faut au moins {_FEWEST}"
        notes["membership"] = (
            f"Non mesuré : {len(others)} extraits inédits de {size} tokens, {least} ; gardez plus "
            "de texte pour la validation."
            if len(others) < _FEWEST
            else f"Non mesuré : {len(members)} extraits de {size} tokens que l'entraînement a lus "
            f"et n'a pas oubliés, {least}."
        )
        return None
    texts = [*members, *others]
    told, done = advance("Appartenance", "extraits"), 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        told(done, len(texts))

    own = token_log_probs(gpt.model, texts, max_rows=batch_size, on_progress=count)
    scores: dict[AttackName, Floats] = {"perte": loss_scores(own), "min-k": min_k_scores(own)}
    if shadow:
        first_other = data.train.num_tokens // size
        blocks = [*places[0], *(first_other + place for place in places[1])]
        found, inside = list[Floats](), []
        for each in train_shadows(
            data,
            gpt.metadata,
            count=shadow,
            size=size,
            device=device,
            on_progress=advance("Modèles de référence", "étapes"),
        ):
            found.append(loss_scores(token_log_probs(each.model, texts, max_rows=batch_size)))
            inside.append(each.inside[blocks])
        scores["référence"] = reference_scores(scores["perte"], np.array(found), np.array(inside))
    return measure_membership(scores, members, others, shadow=shadow)


def spread_kept(source: TokenSource, size: int, keep: Keep) -> list[int]:
    """Les rangs d'au plus `EXTRACTS` blocs qui comptent, répartis dans tout le texte."""
    blocks = spread_blocks(source.num_tokens, size, _CANDIDATES * EXTRACTS)
    kept = [each for each in blocks if keep(source, each * size, size)]
    return [kept[rank] for rank in spread_blocks(len(kept), 1, EXTRACTS)]


def remaining_personal(
    data: TrainingData, told: Callable[[int, int], None]
) -> tuple[list[PersonalData], tuple[int, int]]:
    """Les données personnelles qui restent dans le texte d'entraînement, par genre.

    Returns:
        Leur compte, puis (tokens relus, tokens en tout).
    """
    from gpt_architecture.reports.privacy_facts import PersonalData

    total = data.train.num_tokens
    read = min(total, _SCANNED_TOKENS)
    counts: dict[str, int] = {}
    for start in range(0, read, _READ_TOKENS):
        ids = data.train.read(start, min(_READ_TOKENS, read - start)).tolist()
        text = data.tokenizer.decode(ids).replace(END_OF_TEXT, "\n")
        for kind, count in mask_personal(text).found.items():
            counts[kind] = counts.get(kind, 0) + count
        told(min(start + _READ_TOKENS, read), read)
    return [PersonalData(kind=kind, left=counts[kind]) for kind in sorted(counts)], (read, total)


def prepared_personal(
    folder: Path | str, left: Sequence[PersonalData]
) -> tuple[list[PersonalData], int]:
    """Ce qu'une préparation a masqué, ajouté à ce qui reste ; et les documents qu'elle a écartés.

    Raises:
        DataError: index illisible.
    """
    from gpt_architecture.reports.privacy_facts import PersonalData

    report = _index(folder).get("hygiene")
    effects = report.get("effects", {}) if isinstance(report, Mapping) else {}
    masked = {kind: _count(effects.get(f"{kind} {MASKED}")) for kind in MASKS}
    remains = {each.kind: each.left for each in left}
    kinds = sorted({kind for kind, count in masked.items() if count} | remains.keys())
    found = [
        PersonalData(kind=kind, masked=masked.get(kind, 0), left=remains.get(kind, 0))
        for kind in kinds
    ]
    return found, _count(effects.get(PERSONAL))


def _index(folder: Path | str) -> Mapping[str, Any]:
    """L'index d'un dossier préparé ; des fragments venus d'ailleurs n'en ont pas."""
    return read_index(folder) if (Path(folder) / INDEX_NAME).is_file() else {}


def _count(effect: object) -> int:
    count = effect.get("count") if isinstance(effect, Mapping) else None
    return count if type(count) is int else 0


def source_texts(sources: Sequence[str], metadata: Mapping[str, Any]) -> list[SourceText]:
    """Les textes lus : ceux de l'index d'une préparation, sinon ceux que le modèle nomme.

    Le nom d'un fichier suffit ; son chemin n'est pas dit.
    """
    from gpt_architecture.reports.privacy_facts import SourceText

    if len(sources) == 1 and holds_shards(Path(sources[0])):
        listed = _index(Path(sources[0])).get("sources")
        found = []
        for each in listed if isinstance(listed, list) else []:
            name, size = Path(str(each.get("path", "?"))).name, each.get("bytes")
            known = known_texts(Path(name).stem)[0]
            found.append(
                SourceText(
                    name=name,
                    licence=None if known is None else known.licence,
                    about="" if known is None else known.about,
                    size=size if type(size) is int else None,
                )
            )
        if found:
            return found
    data, training = metadata.get("data"), metadata.get("training")
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        return []
    planted = isinstance(training, Mapping) and training.get("canaries")
    sha256 = None if planted else data.get("sha256")
    texts = known_texts(data["name"], sha256 if isinstance(sha256, str) else None)
    names = data["name"].split("+") if len(texts) > 1 else [data["name"]]
    return [
        SourceText(name=name)
        if each is None
        else SourceText(name=name, licence=each.licence, about=each.about)
        for name, each in zip(names, texts, strict=True)
    ]


def removed_texts(folder: Path | str | None) -> list[Removal] | None:
    """Les oublis en vigueur au certificat de ce dossier ; None : il n'y en a pas qui se suive."""
    from gpt_architecture.reports.privacy_facts import Removal

    try:
        if folder is None:
            return None
        story = read_story(read_chain(Path(folder) / CERTIFICATE))
    except CertificateError:
        return None
    if not story.is_sound:
        return None
    found, before = [], 0
    for each in story.removals:
        step, told = each.get("step"), each.get("removal")
        spans = told.get("train") if isinstance(told, Mapping) else None
        total = _length(spans) if isinstance(spans, list) else None
        # Un maillon porte tout ce qui est retiré : ce qui l'était déjà n'est pas de cet oubli
        own = None if total is None else max(0, total - before)
        before = before if total is None else total
        found.append(
            Removal(
                step=step if type(step) is int else None,
                tokens=own,
                digest=str(each.get("sha256", ""))[:64],
            )
        )
    return found


def _length(spans: Sequence[object]) -> int | None:
    """Ce que des morceaux [début, fin[ comptent de tokens ; None : ils sont mal écrits."""
    total = 0
    for each in spans:
        if not (isinstance(each, list) and [type(one) for one in each] == [int, int]):
            return None
        total += max(0, each[1] - each[0])
    return total
