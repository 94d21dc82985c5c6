"""Une étape de pipeline datatrove qui code en fragments de tokens, avec le même encodeur.

datatrove lit, filtre et répartit le travail (Slurm, Ray, une machine) ; chaque rang est une tâche
de `prepare`, et `merge` les réunit. Rien ici n'importe datatrove : pour lui, une étape est ce qui
s'appelle avec (documents, rang, nombre de rangs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from gpt_architecture.config import check_int
from gpt_architecture.data.shards.encode import Encoder, separator_of
from gpt_architecture.data.shards.job import Preparation
from gpt_architecture.data.shards.layout import tokenizer_sha256
from gpt_architecture.data.shards.parts import part_folder
from gpt_architecture.data.shards.plan import PrepareConfig, SplitPlan
from gpt_architecture.data.shards.prepare import PreparedTokens, check_vocabulary
from gpt_architecture.data.shards.tasks import merge_tasks
from gpt_architecture.data.shards.work import WorkFolder, read_present
from gpt_architecture.data.shards.writer import index_of, open_writers
from gpt_architecture.data.texts.documents import Tally
from gpt_architecture.data.texts.ingest import RecordBlock
from gpt_architecture.data.texts.shares import Share
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError


class TroveDocument(Protocol):
    """Ce qu'il faut d'un `Document` de datatrove."""

    text: str
    id: str


class TokenShardsStep:
    """La dernière étape d'un pipeline : chaque rang écrit sa part dans `DOSSIER.taches`.

    Les documents passent tels quels à l'étape suivante, s'il y en a une. Un rang interrompu
    recommence le sien ; un rang fini n'est pas refait. Ce que lit le pipeline n'est pas connu
    d'ici : `corpus` le dit, et les rangs de deux corpus ne se mêlent pas.

    Args:
        out: dossier qu'écrira `merge`, sur un disque que tous les rangs partagent.
        tokenizer: au plus 65 536 tokens, dont `<|endoftext|>`.
        corpus: nom de ce que lit le pipeline, et de sa version ; le même à tous les rangs.
        seed: graine de la répartition.
        val_fraction: part des documents gardée pour la validation.
        shard_tokens: tokens d'un fragment plein.
        skip_bad: écarte et compte un document qui ne convient pas ; le vide l'est toujours.

    Raises:
        ConfigurationError: une valeur est hors bornes.
        TokenizerError: vocabulaire trop grand, ou sans séparateur.
    """

    name = "fragments de tokens"
    type = "gpt-architecture"

    def __init__(
        self,
        out: Path | str,
        tokenizer: Tokenizer,
        *,
        corpus: str,
        seed: int = 0,
        val_fraction: float = 0.01,
        shard_tokens: int = 100_000_000,
        skip_bad: bool = False,
    ) -> None:
        check_vocabulary(tokenizer)
        if not corpus:
            raise ConfigurationError.wrong("corpus", corpus, expected="le nom d'un corpus")
        self._corpus = corpus
        self._config = PrepareConfig(
            seed=seed, val_fraction=val_fraction, shard_tokens=shard_tokens, field="text"
        )
        self._out, self._tokenizer, self._skip_bad = Path(out), tokenizer, skip_bad

    def __call__(
        self, data: Iterable[TroveDocument] | None, rank: int = 0, world_size: int = 1
    ) -> Iterator[TroveDocument]:
        """Code les documents d'un rang, et les rend.

        Args:
            data: ceux que l'étape d'avant rend.
            rank: rang de cette tâche, depuis 0.
            world_size: nombre de tâches.

        Raises:
            DataError: un document ne convient pas.
            OutputError: le rang est pris, ou le disque refuse ; ou il y a là un travail d'un autre
                corpus ou d'autres réglages, à effacer de `DOSSIER.taches` s'il ne sert plus.
        """
        check_int("world_size", world_size, minimum=1)
        share = Share(rank + 1, world_size)
        place, identity = part_folder(self._out, share), self._identity()
        identity["task"] = str(share)
        if read_present(place, identity, force=False) is not None:
            yield from data or ()
            return
        with WorkFolder(place, identity, force=False) as work:
            work.restart()
            index = yield from self._encoded(data or (), work)
            work.publish(index)

    def merge(self) -> PreparedTokens:
        """Réunit les parts de tous les rangs en un dossier de fragments.

        Raises:
            DataError: un rang manque, est en double ou vient d'ailleurs, ou une part est vide.
            OutputError: le dossier est pris, ou le disque refuse.
        """
        asked = Preparation(
            out=self._out,
            sources=(),
            skips=(),
            config=self._config,
            hygiene=None,
            tokenizer=self._tokenizer,
            identity=self._identity(),
            workers=1,
            force=False,
            skip_bad=self._skip_bad,
            reporter=None,
        )
        step = merge_tasks(asked)
        return PreparedTokens.of_step(asked.out, asked.fraction, step)

    def _identity(self) -> dict[str, Any]:
        digest = tokenizer_sha256(self._tokenizer.to_dict())
        settings = {**asdict(self._config), "corpus": self._corpus}
        return {**settings, "tokenizer_sha256": digest, "sources": []}

    def _encoded(self, data: Iterable[TroveDocument], work: WorkFolder) -> Any:
        """Écrit chaque document et le rend ; pour finir, l'index."""
        config, tally = self._config, Tally()
        plan = SplitPlan(seed=config.seed, val_fraction=config.val_fraction or 0.0)
        encoder = Encoder(self._tokenizer, plan, None)
        writers = open_writers(
            work.path,
            shard_tokens=config.shard_tokens,
            eos_id=separator_of(self._tokenizer),
            state=None,
        )
        try:
            for document in data:
                text = document.text.encode("utf-8", "surrogatepass")
                encoded = encoder(RecordBlock(label=document.id, records=[(0, text)]))
                for skip in encoded.skips:
                    skip.check(skip_bad=self._skip_bad)
                for split, tokens in encoded.tokens.items():
                    writers[split].append(tokens)
                tally.add(0, encoded.text_bytes, encoded.separated, encoded.skips)
                yield document
            for writer in writers.values():
                writer.close()
        finally:
            for writer in writers.values():
                writer.abandon()
        return index_of(
            work.identity,
            self._tokenizer,
            {split: writer.shards for split, writer in writers.items()},
            text_bytes=tally.text_bytes,
            single_document=False,
            separated=tally.separated,
            skipped=tally.skipped,
        )
