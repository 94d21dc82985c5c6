"""Ce que vaut un modèle, mesuré."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.evaluations import Evaluation
from gpt_architecture.api.labels import check_settings
from gpt_architecture.api.loading import held, load, loaded, source_of
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.api.study import study_model
from gpt_architecture.api.trials import Measurer
from gpt_architecture.config import check_int
from gpt_architecture.data.texts.corpus import read_documents
from gpt_architecture.errors import ConfigurationError, reason
from gpt_architecture.evaluation.cloze import ClozeExamples, build_cloze
from gpt_architecture.evaluation.perplexity import read_token_documents
from gpt_architecture.evaluation.preferences import read_pairs as read_answer_pairs
from gpt_architecture.evaluation.task_files import read_choices, read_last_words
from gpt_architecture.formats.checkpoint import CHECKPOINTS
from gpt_architecture.formats.door import locate
from gpt_architecture.formats.journal import JOURNAL, append_record
from gpt_architecture.storage import check_outputs, page_of
from gpt_architecture.training.distributed.world import World

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run

logger = logging.getLogger(__name__)

Sources = str | Path | Sequence[str | Path]
"""Un texte, ou plusieurs : fichiers, dossiers, fragments ou corpus connus."""


@checked_options
def evaluate(
    model: GPT | Run | Path | str | None = None,
    data: Sources = (),
    *,
    lambada: Path | str | None = None,
    choices: Path | str | None = None,
    french: bool = False,
    cloze: Sources = (),
    preferences: Path | str | None = None,
    lm_eval: str | Sequence[str] = (),
    memorisation: Sources = (),
    classify: Path | str | None = None,
    label: str | None = None,
    reference: Path | str | None = None,
    length: int = 64,
    report: Path | str | None = None,
    sentence: str | None = None,
    limit: int | None = None,
    tokens: int | None = None,
    field: str | None = None,
    skip_bad: bool = False,
    offline: bool = False,
    stride: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    quant: str | None = None,
    force: bool = False,
    progress: bool | None = None,
    world: World | None = None,
) -> Evaluation:
    """Mesure un modèle, comme `gpt-architecture evaluate` ; les intervalles sont à 95 %.

    Si le modèle est dans le dossier d'un entraînement, son journal reçoit une ligne.

    Args:
        model: le modèle, son entraînement, ou un chemin ; None : gpt-model.pt, ici.
        data: textes dont mesurer la perplexité.
        lambada: exemples JSONL {"text": "…"} : deviner le dernier mot.
        choices: exemples JSONL au format de HellaSwag : choisir la bonne suite.
        french: note les paires minimales du français.
        cloze: textes, inconnus du modèle, d'où tirer des mots à deviner.
        preferences: paires de réponses : la préférée est-elle la plus probable ?
        lm_eval: épreuves de lm-eval, locales ou siennes.
        memorisation: données de l'entraînement : mesure ce que le modèle en récite.
        classify: textes étiquetés (CSV, TSV, JSONL, Parquet), pour un modèle qui classe ou note :
            rien d'autre ne se mesure alors.
        label: colonne de l'étiquette ; None : celle de l'entraînement.
        reference: textes étiquetés dont apprend la référence ; None : ceux de l'entraînement, si
            `classify` est son fichier.
        length: tokens de chaque texte généré pour la mémorisation et la page.
        report: page HTML à écrire : pertes, mémorisation, textes, calibration, attention.
        sentence: phrase dont la page montre l'attention.
        limit: documents et exemples mesurés, au plus, dans chaque fichier ; paires de chaque
            phénomène.
        tokens: tokens mesurés, au plus, dans chaque document.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        stride: tokens notés par fenêtre ; None : la moitié du contexte d'entraînement.
        batch_size: séquences lues ensemble, au plus.
        device: voir `load`.
        quant: mesure le modèle quantifié au chargement.
        force: remplace une page que cette fonction n'a pas écrite.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.
        world: les processus qui se partagent les requêtes (`distributed_world`, sous torchrun) ;
            chacun rend toutes les mesures, celles d'un seul. None : celui-ci seul.

    Raises:
        ConfigurationError: rien à mesurer, réglage hors bornes, ou une étude à plusieurs.
        DataError: texte ou exemples absents ou mal formés.
        MissingDependencyError: lm-eval est demandé et n'est pas installé.

    Examples:
        >>> from gpt_architecture import evaluate
        >>> found = evaluate("modele", "texte.txt", tokens=64)
        >>> found.text.total.tokens
        64
        >>> found.perplexity > 1
        True
    """
    from gpt_architecture.reports.console import PaceProgress, ProgressBar

    world = World() if world is None else world
    texts, recited, trials = listed(data), listed(memorisation), listed(lm_eval)
    guessed = listed(cloze)
    report = None if report is None else Path(report)
    studied = bool(recited) or report is not None
    _check(length, sentence, report, limit=limit, tokens=tokens, stride=stride)
    if studied and world.size > 1:
        raise ConfigurationError(
            f"`{'memorisation' if recited else 'report'}` avec {world.size} processus",
            expected="un seul processus pour ce qui se génère",
            remedy="demandez-le à part, sans torchrun ni `launch`",
        )
    check_int("`batch_size`", batch_size, minimum=1)
    others = bool(
        texts or lambada or choices or french or guessed or preferences or trials or studied
    )
    check_settings(classify, others=others, label=label, reference=reference)
    if not (others or classify):
        raise ConfigurationError(
            "rien à mesurer",
            expected="`data`, `lambada`, `choices`, `french`, `cloze`, `preferences`, `lm_eval`, "
            "`memorisation`, `classify` ou `report`",
            remedy="donnez au moins l'un d'eux",
        )
    gpt = held(model)
    path = locate(source_of(model)) if gpt is None else _place(gpt)
    reads = (
        *(path, texts, recited, guessed, trials),
        *(lambada, choices, preferences, classify, reference),
    )
    check_outputs({"`report`": (report, page_of("model"))}, reads=reads, force=force)
    # Un mauvais fichier n'attend pas le modèle.
    words = [] if lambada is None else read_last_words(Path(lambada), limit=limit)
    questions = [] if choices is None else read_choices(Path(choices), limit=limit)
    pairs = [] if preferences is None else read_answer_pairs(preferences, limit=limit)
    passages = None
    if guessed:
        passages = _passages(guessed, field=field, limit=limit, offline=offline, skip_bad=skip_bad)
    if gpt is None:
        engine: Any = "auto" if quant or studied else "torch"
        place = device if world.device is None else str(world.device)
        gpt = load(path, device=place, quant=quant, engine=engine)
    else:
        loaded(gpt, device=device, quant=quant)  # refuse ce qui ne vaut qu'au chargement
        quant = gpt.quant
    if classify is None:
        gpt.config.check_writes()
    start = time.perf_counter()
    reading: dict[str, Any] = {"field": field, "offline": offline, "skip_bad": skip_bad}
    documents = read_token_documents(
        texts, gpt.tokenizer, limit=limit, max_tokens=tokens, **reading
    )
    with ProgressBar("Évaluation", width=40, shown=progress if world.is_main else False) as bar:
        measure = Measurer(gpt, bar, world, batch_size=batch_size)
        found: dict[str, Any] = {
            "text": measure.texts(documents, stride),
            "last_word": measure.last_words(words),
            "choices": measure.choices(questions),
            "french": measure.french(limit) if french else None,
            "cloze": None if passages is None else measure.cloze(passages),
            "preferences": measure.preferences(pairs, preferences),
            "lm_eval": measure.harness(trials, limit=limit, offline=offline),
            "labels": None
            if classify is None
            else measure.labels(
                classify, label=label, field=field, reference=reference, limit=limit
            ),
        }
        record = _record(found)
        memory = None
        if studied:
            apart = set(map(str, texts)) - set(map(str, recited))  # l'appris n'est pas l'inédit
            memory = study_model(
                gpt,
                path,
                memorisation=recited,
                length=length,
                report=report,
                sentence=sentence,
                held_out=[document.tokens for document in documents] if apart else [],
                losses=record["text"]["documents"] if "text" in record else [],
                **reading,
                progress=lambda name: PaceProgress(bar, name),
            )
    if memory is not None:
        record["memorisation"] = memory.to_dict()
    record = {
        "model": str(path),
        "parameters": gpt.config.num_parameters(),
        "tokenizer": gpt.tokenizer.name,
        "vocab_size": gpt.tokenizer.vocab_size,
        "window": gpt.window,
        "quant": quant,
        **record,
        "seconds": time.perf_counter() - start,
    }
    if path.exists() and world.is_main:
        _note(path, gpt, record)
    return Evaluation(**found, memorisation=memory, record=record, tokenizer=gpt.tokenizer)


def _passages(
    sources: Sequence[str], *, field: str | None, limit: int | None, offline: bool, skip_bad: bool
) -> ClozeExamples:
    """Les mots à deviner de textes."""
    documents = read_documents(sources, field=field, offline=offline, skip_bad=skip_bad)
    return build_cloze((each.text for each in documents), limit=limit)


def _place(gpt: GPT) -> Path:
    """D'où vient un modèle déjà chargé ; un nom seul, s'il n'y est plus, ou vient d'ailleurs."""
    path = Path(gpt.name)
    return locate(path) if gpt.name and path.exists() else Path(gpt.name or "modèle")


def _check(length: int, sentence: str | None, report: Path | None, **positive: int | None) -> None:
    """Refuse, avant de lire quoi que ce soit, ce qui échouerait après."""
    check_int("`length`", length, minimum=2, maximum=4096)
    if sentence is not None and report is None:
        raise ConfigurationError(
            "`sentence` est donné sans `report`",
            expected="la page où montrer l'attention de cette phrase",
            remedy="ajoutez `report=page.html`",
        )
    for name, value in positive.items():
        if value is not None:
            check_int(f"`{name}`", value, minimum=1)


def _record(found: dict[str, Any]) -> dict[str, Any]:
    """Ce qui est mesuré, en types simples."""
    from gpt_architecture.reports import french, measures, preferences
    from gpt_architecture.reports.labels import labels_record

    simple: dict[str, Callable[[Any], dict[str, Any]]] = {
        "text": measures.text_record,
        "last_word": measures.last_word_record,
        "choices": measures.choices_record,
        "french": french.pairs_record,
        "cloze": french.cloze_record,
        "preferences": preferences.preferences_record,
        "lm_eval": measures.harness_record,
        "labels": labels_record,
    }
    return {name: simple[name](each) for name, each in found.items() if each is not None}


def _note(path: Path, gpt: GPT, record: dict[str, Any]) -> None:
    """Une ligne dans le journal de l'entraînement, si le modèle est dans son dossier."""
    from gpt_architecture.reports.measures import journal_record

    resolved = path.resolve()
    folder, step = resolved.parent, gpt.metadata.get("steps")
    if folder.name == CHECKPOINTS:
        folder = folder.parent
        if resolved.is_dir():  # step-000040
            step = int(resolved.name.rpartition("-")[2])
    journal = folder / JOURNAL
    if not journal.is_file():
        return
    try:
        append_record(journal, "measures", step=step or 0, **journal_record(record))
    except OSError as error:
        logger.warning("%s n'est pas écrit : %s", journal, reason(error))
