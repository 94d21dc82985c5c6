"""D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il le faut.

Le travail se fait dans `DIR.incomplete`, renommé en `DIR` quand tout y est. `etat.json` dit,
à chaque point sûr, jusqu'où les sources ont été lues et ce qui est écrit : une relance efface
ce qui a été ajouté depuis et continue. Le résultat ne dépend ni du nombre de processus, ni des
interruptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast

from gpt_architecture.config import check_int
from gpt_architecture.data.hygiene.config import HygieneConfig
from gpt_architecture.data.hygiene.run import clean_corpus, identity_of
from gpt_architecture.data.shards.encode import separator_of
from gpt_architecture.data.shards.job import Preparation, PrepareReporter
from gpt_architecture.data.shards.layout import MAX_VOCABULARY, TOKEN_DTYPE, tokenizer_sha256
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.reader import TokenSource
from gpt_architecture.data.shards.tasks import Step, merge_tasks, run_task
from gpt_architecture.data.shards.work import WORK_NAME, WorkFolder, read_present
from gpt_architecture.data.shards.workers import usable_cores
from gpt_architecture.data.shards.writer import index_of, open_writers
from gpt_architecture.data.texts.corpus import find_texts
from gpt_architecture.data.texts.documents import SPLITS, Split
from gpt_architecture.data.texts.ingest import Source
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError, OutputError, TokenizerError, reason

_COPIED_TOKENS = 1 << 22
_SMALL_CORPUS_BYTES = 8 << 20  # en dessous, lancer des processus coûte plus que coder

Outcome = Literal["new", "resumed", "present", "dry", "task", "read", "decided"]


@dataclass(frozen=True, kw_only=True)
class PreparedTokens:
    """Ce que contient un dossier préparé.

    Attributes:
        folder: le dossier.
        tokens: tokens de chaque part, séparateurs compris.
        documents: documents commencés dans chaque part.
        text_bytes: octets UTF-8 du texte codé.
        val_fraction: part de validation demandée, ou choisie d'après la taille.
        separated: documents qui suivent un `<|endoftext|>` écrit dans les textes.
        skipped: raison → {"count", "examples"}.
        single_document: un seul document, coupé par position.
        outcome: `new`, `resumed` (une préparation interrompue a été finie), `present`, `dry` (rien
            n'a été gardé), `task` (une tâche est finie), `read` (elle attend les décisions
            d'ensemble) ou `decided` (elles sont prises) ; des deux derniers, rien n'est compté.
        hygiene: ce que l'hygiène a lu, gardé et retiré ; None : aucune.
    """

    folder: Path
    tokens: dict[Split, int]
    documents: dict[Split, int]
    text_bytes: int
    val_fraction: float
    separated: int
    skipped: dict[str, dict[str, Any]]
    single_document: bool
    outcome: Outcome
    hygiene: dict[str, Any] | None = None

    @property
    def bytes_per_token(self) -> float:
        """Octets de texte par token de texte, séparateurs exclus ; 0 sans token."""
        count = sum(self.tokens.values()) - sum(self.documents.values())
        return self.text_bytes / count if count else 0.0

    @classmethod
    def of_step(cls, folder: Path | str, val_fraction: float, step: Step) -> PreparedTokens:
        """Depuis ce qu'une tâche ou une réunion a fait, même si rien n'est encore codé."""
        outcome = cast(Outcome, step.outcome)
        if step.index is not None:
            return cls.from_index(folder, step.index, outcome)
        none: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        return cls(
            folder=Path(folder),
            tokens=none,
            documents=none,
            text_bytes=0,
            val_fraction=val_fraction,
            separated=0,
            skipped={},
            single_document=False,
            outcome=outcome,
        )

    @classmethod
    def from_index(
        cls, folder: Path | str, index: dict[str, Any], outcome: Outcome
    ) -> PreparedTokens:
        """Depuis l'index du dossier."""
        return cls(
            folder=Path(folder),
            tokens={split: index["splits"][split]["tokens"] for split in SPLITS},
            documents={split: index["splits"][split]["documents"] for split in SPLITS},
            text_bytes=index["text_bytes"],
            val_fraction=index["settings"]["val_fraction"],
            separated=index.get("separated", 0),
            skipped=index["skipped"],
            single_document=index["single_document"],
            outcome=outcome,
            hygiene=index.get("hygiene"),
        )


def prepare_tokens(
    sources: Sequence[str | Path],
    out: Path | str,
    *,
    tokenizer: Tokenizer,
    config: PrepareConfig = PrepareConfig(),  # noqa: B008
    hygiene: HygieneConfig | None = None,
    workers: int | None = None,
    force: bool = False,
    skip_bad: bool = False,
    offline: bool = True,
    task: Share | None = None,
    merge: bool = False,
    reporter: PrepareReporter | None = None,
) -> PreparedTokens:
    """Prépare des textes en fragments de tokens.

    Chaque document est précédé de `<|endoftext|>`, comme dans llm.c ; écrit dans un texte,
    celui-ci sépare deux documents. La part d'un document dépend de son texte et de la graine
    seuls ; aucune des deux parts n'est vide.

    Args:
        sources: fichiers et dossiers, ou noms de corpus (voir `data.texts.corpus.find_texts`).
        out: dossier à écrire, absent ou vide.
        tokenizer: au plus 65 536 tokens, dont `<|endoftext|>`.
        config: voir `PrepareConfig`.
        hygiene: ce qui est retiré des textes avant de les coder ; None : rien.
        workers: processus ; None : un par cœur, un seul pour un petit corpus.
        force: remplace un dossier préparé autrement, ou recommence une préparation interrompue
            avec d'autres réglages.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros ; sinon, le premier
            défaut arrête la préparation, qu'une relance reprend. Le vide est toujours écarté.
        offline: interdit tout téléchargement.
        task: ne fait que cette tâche ; None : tout. Voir `shards.tasks`.
        merge: réunit les tâches.
        reporter: reçoit l'avancement.

    Raises:
        ConfigurationError: `task` et `merge` ensemble.
        DataError: sources absentes, vides, ou changées en cours de route ; un défaut ; ou une tâche
            à réunir qui manque, est en double ou vient d'ailleurs.
        OutputError: dossier occupé, d'autres réglages, ou disque plein.
        TokenizerError: vocabulaire trop grand, sans séparateur, ou mot inconnu.
        MissingDependencyError: une étape d'hygiène demande une bibliothèque absente.
    """
    out = Path(out)
    if task is not None and merge:
        raise ConfigurationError.together("`task`", "`merge`")
    if hygiene is not None and not hygiene.does_something:
        hygiene = None
    if workers is not None:
        check_int("workers", workers, minimum=1, maximum=1024)
    check_vocabulary(tokenizer)
    found, skips = find_texts(sources, offline=offline)
    for skip in skips:
        skip.check(skip_bad=skip_bad)
    identity = {
        **asdict(config),
        "val_fraction": config.fraction(found),
        "tokenizer_sha256": tokenizer_sha256(tokenizer.to_dict()),
        "sources": [
            {"path": str(s.path), "bytes": s.size, "modified_ns": s.modified_ns} for s in found
        ],
    }
    if hygiene is not None:
        identity["hygiene"] = identity_of(hygiene)
    asked = Preparation(
        out=out,
        sources=found,
        skips=skips,
        config=config,
        hygiene=hygiene,
        tokenizer=tokenizer,
        identity=identity,
        workers=workers or _auto_workers(found),
        force=force,
        skip_bad=skip_bad,
        reporter=reporter,
    )
    try:
        if task is not None:
            step = run_task(asked, task)
        else:
            step = merge_tasks(asked) if merge else _prepare(asked)
    except OSError as error:
        raise OutputError(
            f"préparation de {out} arrêtée : {reason(error)}",
            expected="un dossier accessible en écriture et assez de place",
            remedy="libérez de la place puis relancez la même commande, elle reprend",
        ) from error
    return PreparedTokens.of_step(out, asked.fraction, step)


def write_tokens(
    folder: Path | str,
    train: TokenSource,
    val: TokenSource | None,
    tokenizer: Tokenizer,
    *,
    name: str,
    documents: Sequence[str] = (),
    shard_tokens: int = PrepareConfig.shard_tokens,
    force: bool = False,
) -> None:
    """Écrit un dossier de fragments de deux parts déjà codées, s'il n'est pas déjà celui-là.

    Args:
        folder: dossier à écrire, absent ou vide.
        train: tokens d'entraînement.
        val: tokens de validation ; None : aucun.
        tokenizer: celui qui les a codés.
        name: d'où ils viennent.
        documents: le nom de chaque document de `train`, séparateur après séparateur ; vide : ils
            ne sont pas connus, et `name` est celui de tous.
        shard_tokens: tokens d'un fragment plein.
        force: remplace un dossier d'autres tokens.

    Raises:
        OutputError: dossier occupé, ou disque plein.
        TokenizerError: vocabulaire trop grand, ou sans séparateur.
    """
    folder = Path(folder)
    check_vocabulary(tokenizer)
    parts: dict[Split, TokenSource] = {"train": train}
    if val is not None:
        parts["val"] = val
    hashes = {split: part.sha256 for split, part in parts.items()}
    identity = {
        "val_fraction": 0.0
        if val is None
        else val.num_tokens / (train.num_tokens + val.num_tokens),
        "shard_tokens": shard_tokens,
        "tokenizer_sha256": tokenizer_sha256(tokenizer.to_dict()),
        "sources": [{"path": name, "sha256": hashes}],
    }
    if read_present(folder, identity, force=force) is not None:
        return
    eos_id = separator_of(tokenizer)
    try:
        with WorkFolder(folder, identity, force=True) as work:
            work.restart()
            writers = open_writers(work.path, shard_tokens=shard_tokens, eos_id=eos_id, state=None)
            try:
                for split, part in parts.items():
                    for start in range(0, part.num_tokens, _COPIED_TOKENS):
                        count = min(_COPIED_TOKENS, part.num_tokens - start)
                        writers[split].append(part.read(start, count).numpy().astype(TOKEN_DTYPE))
                    writers[split].close()
            finally:
                for writer in writers.values():
                    writer.abandon()
            opens = int(train.read(0, 1).item() == eos_id)
            total = writers["train"].num_documents + 1 - opens
            origins = [[each, len(list(run))] for each, run in groupby(documents[:total])]
            work.publish(
                index_of(
                    identity,
                    tokenizer,
                    {split: writer.shards for split, writer in writers.items()},
                    text_bytes=0,
                    single_document=False,
                    separated=0,
                    skipped={},
                    origins=origins or [[name, total]],
                )
            )
    except OSError as error:
        raise OutputError.refused(folder, error) from error


def check_vocabulary(tokenizer: Tokenizer) -> None:
    """Vérifie, avant de rien lire, qu'un tokenizer peut écrire des fragments.

    Raises:
        TokenizerError: vocabulaire trop grand, ou sans séparateur.
    """
    if tokenizer.vocab_size > MAX_VOCABULARY:
        raise TokenizerError(
            f"le tokenizer {tokenizer.name} a {tokenizer.vocab_size} tokens",
            expected=f"au plus {MAX_VOCABULARY}, que des entiers de 16 bits peuvent numéroter",
            remedy="prenez gpt2 ou un vocabulaire plus petit",
        )
    separator_of(tokenizer)


def _prepare(asked: Preparation) -> Step:
    """Fait tout, sur cette machine."""
    present = read_present(asked.out, asked.identity, force=asked.force)
    if present is not None:
        return Step("present", present)
    with WorkFolder(asked.out, asked.identity, force=asked.force) as work:
        if (index := work.finished_index()) is None:
            index = asked.encode(work) if asked.hygiene is None else _clean(asked, work)
        work.publish(index)
        return Step("resumed" if work.resumed else "new", index)


def _clean(asked: Preparation, work: WorkFolder) -> dict[str, Any]:
    """Nettoie les sources, code ce qui en reste, et rend l'index."""
    assert asked.hygiene is not None  # noqa: S101 — vérifié par _prepare
    if work.state is None:
        work.save_state({})  # une interruption ne fera pas effacer ce que l'hygiène a déjà fait
    asked.started(2 * sum(source.size for source in asked.sources))
    clean = clean_corpus(
        asked.sources,
        work.path.resolve() / WORK_NAME,  # l'état du codage nomme ses fichiers
        asked.hygiene,
        asked.reading,
        workers=asked.workers,
        on_progress=lambda done, _total: asked.advanced(done),
    )
    return asked.encode_clean(work, clean)


def _auto_workers(sources: Sequence[Source]) -> int:
    if sum(source.size for source in sources) < _SMALL_CORPUS_BYTES:
        return 1
    return usable_cores()
