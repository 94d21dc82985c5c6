"""Des textes préparés pour l'entraînement, en fragments de tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpt_architecture.api.loading import find_tokenizer
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.data.shards.plan import PrepareConfig
from gpt_architecture.data.shards.prepare import PreparedTokens, prepare_tokens
from gpt_architecture.data.tokenizer import Tokenizer
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import decimal, thousands
from gpt_architecture.storage import check_not_read


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
        return [*facts, ("écartés", thousands(skipped))] if skipped else facts

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} : {value}" for name, value in self._facts)
        return f"Prepared({self.folder} ; {facts})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        return facts_cell(f"Fragments de tokens : {self.folder}", self._facts)


@checked_options
def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
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
    force: bool = False,
    progress: bool | None = None,
) -> Prepared:
    """Prépare des textes en fragments de tokens, comme `gpt-architecture prepare`.

    Interrompue, une préparation reprend quand on la redemande.

    Args:
        sources: un fichier, un dossier, un corpus connu, ou une suite d'entre eux ; voir
            « Préparer ses données » pour les formats.
        out: dossier à écrire.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        tokenizer: `gpt2`, le fichier d'un tokenizer, un modèle, ou un tokenizer déjà ouvert.
        val_fraction: part des documents gardée pour la validation ; None : selon la taille.
        shard_tokens: tokens par fragment.
        workers: processus ; None : un par cœur. Le résultat n'en dépend pas.
        seed: graine de la répartition des documents.
        max_line_bytes: une ligne ou une valeur plus longue, en octets, est écartée.
        skip_bad: écarte et compte ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        force: remplace un dossier préparé avec d'autres réglages, ou recommence.
        progress: vrai ou faux : une barre, ou rien ; None : une barre si quelqu'un la voit.

    Raises:
        ConfigurationError: aucune source, ou réglage hors bornes.
        DataError: source absente ou sans texte.
        OutputError: dossier pris, ou disque qui refuse.
        TokenizerError: tokenizer inconnu, ou sans fin de texte.

    Examples:
        >>> from gpt_architecture import prepare
        >>> found = prepare("texte.txt", "fragments", val_fraction=0.2)
        >>> found.outcome, found.tokens["train"] > found.tokens["val"] > 0
        ('new', True)
    """
    from gpt_architecture.reports.console import PrepareProgress, ProgressBar

    given, out = listed(sources), Path(out)
    if not given:
        raise ConfigurationError(
            "aucune source", expected="un texte ou plusieurs", remedy="donnez `sources`"
        )
    check_not_read(out, (given, tokenizer), "`out`")
    config = PrepareConfig(
        field=field,
        val_fraction=val_fraction,
        shard_tokens=shard_tokens,
        seed=seed,
        max_record_bytes=max_line_bytes,
    )
    with ProgressBar("Préparation", width=40, shown=progress) as bar:
        found = prepare_tokens(
            given,
            out,
            tokenizer=find_tokenizer(tokenizer),
            config=config,
            workers=workers,
            force=force,
            skip_bad=skip_bad,
            offline=offline,
            reporter=PrepareProgress(bar),
        )
    return Prepared(**vars(found))
