"""Ce qu'un modèle récite, et la page qui le montre : les options de `evaluate`, leur calcul."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import say_aside
from gpt_architecture.config import TrainingConfig, check_int
from gpt_architecture.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gpt_architecture.api import GPT
    from gpt_architecture.data.shards.reader import TokenSource
    from gpt_architecture.evaluation.comparison import VariantResult
    from gpt_architecture.evaluation.memorisation import MemorisationReport

    Progress = Callable[[int, int], None]

_OPENINGS = 3  # débuts pris dans chaque texte
_OPENING_TOKENS = 12


@Parameter(name="*", group=Group("Mémorisation et page du modèle", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Ce qu'il récite, et la page qui le montre."""

    memorisation: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Données de l'entraînement (celles de train --data) : mesure ce que le modèle en récite."""

    length: int = 64
    """Tokens de chaque suite écrite pour la mémorisation et la page."""

    report: Path | None = None
    """Page HTML à écrire : pertes, mémorisation, textes, calibration, attention."""

    sentence: str | None = None
    """Phrase dont la page montre l'attention ; sans elle, un début de texte."""

    @property
    def is_asked(self) -> bool:
        """Vrai s'il faut écrire des suites."""
        return bool(self.memorisation) or self.report is not None

    def check(self) -> None:
        """Refuse, avant de lire quoi que ce soit, ce qui échouerait après.

        Raises:
            ConfigurationError: longueur hors bornes, ou phrase sans page.
        """
        check_int("--length", self.length, minimum=2, maximum=4096)
        if self.sentence is not None and self.report is None:
            raise ConfigurationError(
                "--sentence est donné sans --report",
                expected="la page où montrer l'attention de cette phrase",
                remedy="ajoutez --report page.html",
            )


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Les textes d'une étude.

    Attributes:
        training: ce que le modèle a appris ; None : inconnu.
        unseen: ce qu'il n'a pas appris ; None : inconnu.
    """

    training: TokenSource | None
    unseen: TokenSource | None


@dataclass(frozen=True, kw_only=True)
class Study:
    """Ce qui a été écrit et mesuré."""

    results: tuple[VariantResult, ...]
    memorisation: MemorisationReport | None


def study_model(
    gpt: GPT,
    model_path: Path,
    options: StudyOptions,
    *,
    held_out: Sequence[Sequence[int]],
    losses: Sequence[Mapping[str, Any]],
    field: str,
    offline: bool,
    progress: Callable[[str], Progress],
) -> MemorisationReport | None:
    """Écrit des suites, cherche ce qu'elles récitent, et fait la page si elle est demandée.

    Args:
        gpt: le modèle, chargé.
        model_path: son fichier ; le journal de l'entraînement est lu à côté.
        options: ce qui est demandé.
        held_out: tokens des documents de `--data`.
        losses: leurs pertes, telles que la commande les écrit en JSON.
        field: champ du texte, en JSONL et en Parquet.
        offline: interdit tout téléchargement.
        progress: rend, pour une étape de ce nom, ce qui en reçoit l'avancement.

    Returns:
        La mémorisation ; None si les données de l'entraînement ne sont pas données.

    Raises:
        ConfigurationError: phrase trop longue, ou demandée d'un modèle quantifié.
        OutputError: la page ne peut pas être écrite.
    """
    from gpt_architecture.evaluation.attention_maps import attention_maps
    from gpt_architecture.reports.assemble import assemble_page
    from gpt_architecture.reports.model_page import write_model_page

    sentence = None
    if options.sentence is not None:  # une phrase trop longue n'attend pas les suites
        sentence = attention_maps(gpt.model, gpt.tokenizer, options.sentence, window=gpt.window)
    texts = read_studied(gpt, options, held_out, field=field, offline=offline)
    study = run_study(gpt, options, texts, progress)
    if options.report is not None:
        page = assemble_page(
            model_path,
            gpt,
            study.results,
            memorisation=study.memorisation,
            training=texts.training,
            unseen=texts.unseen,
            losses=losses,
            sentence=sentence,
            progress=progress,
        )
        write_model_page(options.report, page, gpt.tokenizer)
        say_aside(f"Page : {options.report}")
    return study.memorisation


def read_studied(
    gpt: GPT,
    options: StudyOptions,
    held_out: Sequence[Sequence[int]],
    *,
    field: str,
    offline: bool,
) -> Texts:
    """Retrouve la part que le modèle a apprise, et celle qu'il n'a pas vue.

    Args:
        gpt: le modèle.
        options: les données de l'entraînement.
        held_out: tokens des documents de `--data`, l'inédit quand la coupe n'est pas connue.
        field: champ du texte, en JSONL et en Parquet.
        offline: interdit tout téléchargement.

    Raises:
        DataError: données absentes, abîmées ou trop courtes.
        ConfigurationError: fragments codés par un autre tokenizer.
    """
    import numpy as np

    from gpt_architecture.data.datasets import load_training_data
    from gpt_architecture.data.shards.reader import TokenArray

    joined = [token for document in held_out for token in document]
    given = TokenArray(joined) if joined else None
    if not options.memorisation:
        return Texts(training=None, unseen=given)
    ratio = recorded(gpt, "training").get("train_ratio", TrainingConfig.train_ratio)
    data = load_training_data(
        options.memorisation,
        gpt.tokenizer.name,
        window=1,
        training=TrainingConfig(train_ratio=ratio, batch_size=1),
        vocabulary=gpt.tokenizer,
        field=field,
        offline=offline,
    )
    if data.tokenizer.to_dict() != gpt.tokenizer.to_dict():
        raise ConfigurationError(
            f"{options.memorisation[0]} est codé par {data.tokenizer.name}",
            expected=f"des fragments codés par {gpt.tokenizer.name}, le tokenizer du modèle",
            remedy="donnez les données de son entraînement",
        )
    if data.sha256 == recorded(gpt, "data").get("sha256"):
        return Texts(training=data.train, unseen=data.val)
    say_aside(
        "avertissement : --memorisation n'est pas exactement le texte de l'entraînement (autre "
        "empreinte) ; tout ce texte est tenu pour appris, et l'inédit est celui de --data"
        + ("" if given else ", qui n'est pas donné")
    )
    parts = [part.read(0, part.num_tokens).numpy() for part in (data.train, data.val)]
    return Texts(training=TokenArray(np.concatenate(parts)), unseen=given)


def run_study(
    gpt: GPT, options: StudyOptions, texts: Texts, progress: Callable[[str], Progress]
) -> Study:
    """Écrit les suites, et cherche ce qu'elles récitent.

    Args:
        gpt: le modèle.
        options: longueur des suites.
        texts: voir `read_studied`.
        progress: rend, pour une étape de ce nom, ce qui en reçoit l'avancement.

    Raises:
        ConfigurationError: aucun début de texte à continuer.
    """
    from dataclasses import replace

    from gpt_architecture.evaluation.comparison import SIX_VARIANTS, write_samples
    from gpt_architecture.evaluation.memorisation import measure_memorisation, openings

    sources = [each for each in (texts.training, texts.unseen) if each is not None]
    prompts = [
        opening
        for source in sources
        for opening in openings(source, gpt.tokenizer, count=_OPENINGS, length=_OPENING_TOKENS)
    ]
    prompts = list(dict.fromkeys([*_own_prompt(gpt), *prompts]))
    if not prompts:
        raise ConfigurationError(
            "aucun début de texte à continuer",
            expected="un texte, ou un modèle qui garde le début de ses exemples",
            remedy="donnez --data ou --memorisation",
        )
    variants = [
        (label, replace(config, max_tokens=options.length)) for label, config in SIX_VARIANTS
    ]
    results = list[Any]()
    advance, size = progress("Suites"), options.length * len(prompts)
    for number, samples in enumerate(
        write_samples(gpt.generator, prompts, variants, seed=TrainingConfig.seed), start=1
    ):
        results += samples
        advance(number * size, len(variants) * size)
    memory = None
    if texts.training is not None:
        memory = measure_memorisation(
            results, texts.training, unseen=texts.unseen, on_progress=progress("Recherche")
        )
    return Study(results=tuple(results), memorisation=memory)


def recorded(gpt: GPT, name: str) -> Mapping[str, Any]:
    """Ce que le fichier du modèle dit de son entraînement ; vide pour un modèle importé."""
    found = gpt.metadata.get(name)
    return found if isinstance(found, dict) else {}


def _own_prompt(gpt: GPT) -> list[tuple[int, ...]]:
    """Le début des exemples de l'entraînement, s'il est gardé."""
    from gpt_architecture.data.tokenizers.marked_text import own_prompt

    prompt = own_prompt(gpt.metadata)
    return [] if prompt is None else [tuple(gpt.generator.encode(prompt))]
