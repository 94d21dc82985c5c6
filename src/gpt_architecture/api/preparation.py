"""Des textes préparés pour l'entraînement, en fragments de tokens."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gpt_architecture.api.loading import find_tokenizer
from gpt_architecture.api.options import checked_with, listed
from gpt_architecture.config import check_int
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.provenance.build import MIN_MEMORY
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import PreparedTokens, prepare_tokens
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import decimal, thousands
from gpt_architecture.storage import check_not_read, check_outputs, page_of


class Prepared(PreparedTokens):
    """Un dossier de fragments de tokens ; voir `data.shards.prepare.PreparedTokens`."""

    @property
    def _facts(self) -> list[tuple[str, str]]:
        skipped = sum(entry["count"] for entry in self.skipped.values())
        facts = [
            ("documents", thousands(sum(self.documents.values()))),
            ("tokens d'entraînement", thousands(self.tokens["train"])),
            ("tokens de validation", thousands(self.tokens["val"])),
            ("octets par token", decimal(self.bytes_per_token)),
        ]
        if self.hygiene is not None:
            read, kept = (self.hygiene[each]["documents"] for each in ("read", "kept"))
            facts.append(("retirés par l'hygiène", thousands(read - kept)))
        return [*facts, ("écartés", thousands(skipped))] if skipped else facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Prepared({self.folder} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(f"Fragments de tokens : {self.folder}", self._facts)


_STEPS = {
    "personal_data": "personal",
    "exact_duplicates": "exact",
    "near_duplicates": "near",
    "repeated_lines": "lines",
    "repeated_paragraphs": "paragraphs",
    "validation_overlap": "validation",
    "decontaminate": "evaluation",
}
"""Option d'hygiène de la commande → étape de `HygieneConfig`, quand les noms diffèrent."""


def _as_step(name: str, settings: Mapping[str, Any]) -> str | None:
    """Ce qu'il faut écrire pour une option d'hygiène de la commande ; None : ce n'en est pas une.

    Args:
        name: l'option, un soulignement à la place de chaque tiret.
        settings: les réglages donnés, dont le préréglage d'hygiène, que le remède garde.
    """
    step, value = _STEPS.get(name, name), settings[name]
    if name == "without":
        off = HygieneConfig()
        written = ", ".join(f"{each}={getattr(off, each, None)!r}" for each in listed(value))
        return _written(settings, written)
    if step in ("languages", "evaluation"):
        value = tuple(listed(value))
    if name == "min_words":
        written = f"quality=QualityRules(min_words={value!r})"
    elif step == "quality":
        written = "quality=QualityRules()"
    elif step in {each.name for each in fields(HygieneConfig)}:
        written = f"{step}={value!r}"
    else:
        return None
    return _written(settings, written)


def _written(settings: Mapping[str, Any], steps: str) -> str:
    """Le remède, qui garde le préréglage demandé."""
    asked = settings.get("hygiene")
    preset = asked if isinstance(asked, str) else "aucune"
    return (
        f'donnez hygiene=HygieneConfig.preset("{preset}", {steps}), de {HygieneConfig.__module__}'
    )


@checked_with(_as_step)
def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    field: str | None = None,
    tokenizer: str | Path | Tokenizer = "gpt2",
    val_fraction: float | None = None,
    shard_tokens: int = 100_000_000,
    workers: int | None = None,
    seed: int = 0,
    max_line_bytes: int = 32 << 20,
    skip_bad: bool = False,
    offline: bool = False,
    hygiene: str | HygieneConfig | None = None,
    report: str | Path | None = None,
    index: bool = False,
    index_memory: int = 512,
    dry_run: bool = False,
    task: str | None = None,
    merge: bool = False,
    force: bool = False,
    progress: bool | None = None,
) -> Prepared:
    """Prépare des textes en fragments de tokens, comme `gpt-architecture prepare`.

    Interrompue, une préparation reprend quand on la redemande.

    Args:
        sources: un fichier, un dossier, un corpus connu, ou une suite d'entre eux ; voir
            « Préparer ses données » pour les formats.
        out: dossier à écrire ; None avec `dry_run`.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        tokenizer: `gpt2`, le fichier d'un tokenizer, un modèle, ou un tokenizer déjà ouvert.
        val_fraction: part des documents gardée pour la validation ; None : selon la taille.
        shard_tokens: tokens par fragment.
        workers: processus ; None : un par cœur. Le résultat n'en dépend pas.
        seed: graine de la répartition des documents.
        max_line_bytes: une ligne ou une valeur plus longue, en octets, est un défaut.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        hygiene: ce qui est retiré des textes avant de les coder : un préréglage (`fr`, `en`,
            `neutre`, `doublons`), ou ses étapes, voir `HygieneConfig.preset` ; None : rien.
        report: page HTML à écrire : ce qui est entré, sorti, et des exemples de chaque retrait.
        index: construit aussi l'index qui dira d'où vient un passage (voir `index_sources`).
        index_memory: mémoire, en Mio, que cette construction peut prendre.
        dry_run: fait tout dans un dossier provisoire, qui est effacé : il n'en reste que le bilan.
        task: ne fait que cette tâche, « 3/7 » ou, d'après Slurm ou Kubernetes, « auto » ou
            « auto/7 » ; les mêmes réglages pour toutes.
        merge: réunit les tâches ; le résultat est, à l'octet près, celui d'une seule machine.
        force: remplace un dossier préparé avec d'autres réglages, ou recommence.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: aucune source, ou réglage hors bornes.
        DataError: source absente ou sans texte.
        MissingDependencyError: une étape d'hygiène demande une bibliothèque absente.
        OutputError: dossier pris, ou disque qui refuse.
        TokenizerError: tokenizer inconnu, ou sans fin de texte.

    Examples:
        >>> from gpt_architecture import prepare
        >>> found = prepare("texte.txt", "fragments", val_fraction=0.2)
        >>> found.outcome, found.tokens["train"] > found.tokens["val"] > 0
        ('new', True)
        >>> for task in ("1/2", "2/2"):
        ...     done = prepare("texte.txt", "partage", val_fraction=0.2, task=task)
        >>> done.outcome, prepare("texte.txt", "partage", val_fraction=0.2, merge=True).outcome
        ('task', 'new')
    """
    from gpt_architecture.reports.console import PrepareProgress, ProgressBar
    from gpt_architecture.reports.hygiene import write_hygiene_page

    given = listed(sources)
    if not given:
        raise ConfigurationError(
            "aucune source", expected="un texte ou plusieurs", remedy="donnez `sources`"
        )
    if out is None and not dry_run:
        raise ConfigurationError(
            "`out` n'est pas donné", expected="un dossier à écrire", remedy="donnez `out`"
        )
    share = None if task is None else Share.parse(task)
    _check_shared(task, merge=merge, dry_run=dry_run, report=report, index=index)
    check_int("`index_memory`", index_memory, minimum=MIN_MEMORY >> 20, maximum=1 << 20)
    steps = HygieneConfig.preset(hygiene) if isinstance(hygiene, str) else hygiene
    page = None if report is None else Path(report)
    reads = (given, tokenizer, () if steps is None else steps.evaluation)
    check_outputs({"`report`": (page, page_of("hygiene"))}, reads=reads, force=force)
    config = PrepareConfig(
        field=field,
        val_fraction=val_fraction,
        shard_tokens=shard_tokens,
        seed=seed,
        max_record_bytes=max_line_bytes,
    )
    with ExitStack() as stack:
        if dry_run:
            near = Path.cwd() if out is None else Path(out).resolve().parent
            place = near if near.is_dir() else None
            made = tempfile.TemporaryDirectory(prefix=".gpt-architecture-", dir=place)
            folder = Path(stack.enter_context(made)) / "essai"
        else:
            folder = Path(str(out))
            check_not_read(folder, reads, "`out`")
        with ProgressBar("Préparation", width=40, shown=progress) as bar:
            found = prepare_tokens(
                given,
                folder,
                tokenizer=find_tokenizer(tokenizer),
                config=config,
                hygiene=steps,
                workers=workers,
                force=force,
                skip_bad=skip_bad,
                offline=offline,
                task=share,
                merge=merge,
                reporter=PrepareProgress(bar),
            )
        if page is not None and found.outcome != "decided":
            write_hygiene_page(page, found)
        if index and found.outcome in ("new", "resumed", "present"):
            from gpt_architecture.api.sources import index_sources

            index_sources(folder, memory=index_memory << 20, force=force, progress=progress)
        if dry_run:
            found = replace(found, folder=folder if out is None else Path(out), outcome="dry")
    return Prepared(**vars(found))


def _check_shared(
    task: str | None, *, merge: bool, dry_run: bool, report: str | Path | None, index: bool
) -> None:
    """Refuse ce qu'une tâche, ou la réunion de plusieurs, ne peut pas faire."""
    if task is not None and merge:
        raise ConfigurationError.together("`task`", "`merge`")
    if dry_run and (merge or task is not None):
        raise ConfigurationError.together("`merge`" if merge else "`task`", "`dry_run`")
    if index and (dry_run or task is not None):
        raise ConfigurationError.together(
            "`dry_run`" if dry_run else "`task`",
            "`index`",
            remedy="demandez l'index de ce qui est gardé"
            if dry_run
            else "demandez l'index à la réunion, par `merge`",
        )
    if task is not None and report is not None:
        raise ConfigurationError.together(
            "`task`", "`report`", remedy="demandez le bilan à la réunion, par `merge`"
        )
