"""`gpt-architecture prepare` : de textes à des fragments de tokens."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 prepare.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import signal
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions, say
from gpt_architecture.cli.sources import index_line
from gpt_architecture.config import check_float, check_int
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import (
    counted,
    decimal,
    french_duration,
    french_number,
    french_size,
    plural,
    short,
)
from gpt_architecture.reports.console import say_aside
from gpt_architecture.storage import check_not_read

if TYPE_CHECKING:
    from gpt_architecture.data.hygiene.config import HygieneConfig
    from gpt_architecture.data.shards.prepare import PreparedTokens

_Step = Literal[
    "nfc",
    "controls",
    "personal",
    "languages",
    "quality",
    "exact",
    "near",
    "lines",
    "paragraphs",
    "validation",
]
_WAITING = {
    "read": "Textes lus et nettoyés, empreintes écrites. Quand chaque tâche en est là, --merge "
    "décide de ce qui se répète ; relancez-la ensuite.",
    "decided": "Décisions prises sur l'ensemble ; relancez chaque tâche, puis --merge.",
}
_FAR = 2  # une validation tant de fois plus grosse, ou plus petite, que demandé est dite


@Parameter(name="*", group=Group("Préparation", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Où écrire, et comment couper."""

    out: Annotated[Path | None, Parameter(metavar="DOSSIER")] = None
    """Dossier à écrire."""

    field: str | None = None
    """Champ ou colonne du texte ; sans lui, celui dont le nom est évident (text, contenu…)."""

    skip_bad: bool = False
    """Écarte et compte ce qui est illisible, abîmé ou trop gros ; sans elle, le premier défaut
    arrête tout."""

    offline: bool = False
    """Interdit tout téléchargement."""

    tokenizer: str = "gpt2"
    """Tokenizer : gpt2, ou un tokenizer.json, par exemple de « tokenizer train »."""

    val_fraction: float | None = None
    """Part des documents gardée pour la validation ; sans elle, 0.01, ou 0.1 pour moins de 1 Mio de
    texte."""

    shard_tokens: int = 100_000_000
    """Nombre de tokens par fragment."""

    workers: int | None = None
    """Nombre de processus ; sans lui, un par cœur. Le résultat n'en dépend pas."""

    seed: int = 0
    """Graine de la répartition des documents."""

    max_line_bytes: int = 32 << 20
    """Longueur, en octets, au-delà de laquelle une ligne ou une valeur est un défaut."""

    report: Path | None = None
    """Page HTML à écrire : ce qui est entré, ce qui est sorti, des exemples de chaque retrait."""

    index: bool = False
    """Construit aussi, dans ce dossier, l'index qui dira d'où vient un passage : trois octets par
    token."""

    index_memory: int = 512
    """Mémoire, en Mio, que cette construction peut prendre ; davantage rend l'index plus rapide."""

    dry_run: bool = False
    """Fait tout dans un dossier provisoire, effacé ensuite : il n'en reste que le bilan."""

    task: Annotated[str | None, Parameter(metavar="i/N")] = None
    """Ne fait que la tâche i sur N, sur l'une de plusieurs machines ; auto ou auto/N : d'après le
    tableau Slurm ou le Job Kubernetes qui la lance."""

    merge: bool = False
    """Réunit les tâches, mêmes sources et mêmes réglages ; ou dit ce qu'il leur reste à faire."""

    corpus: bool = False
    """Énumère les corpus connus par leur nom, et s'arrête là."""

    force: bool = False
    """Remplace un dossier préparé avec d'autres réglages, ou recommence."""


@Parameter(name="*", group=Group("Hygiène", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class HygieneOptions:
    """Ce qui est retiré des textes ; chaque étape se règle ou s'éteint."""

    hygiene: str | None = None
    """Préréglage : fr ou en (textes suivis dans cette langue), neutre (sans choisir de langue),
    doublons (les répétitions seules), aucune."""

    nfc: bool = False
    """Met les textes sous la forme normale NFC d'Unicode."""

    controls: bool = False
    """Retire les caractères de contrôle et de largeur nulle."""

    personal_data: Literal["mask", "drop", "keep"] | None = None
    """E-mails, téléphones, IBAN, NIR : masqués, document écarté, ou laissés."""

    languages: Annotated[list[str] | None, Parameter(consume_multiple=1)] = None
    """Langues gardées, en codes de deux lettres : fr en."""

    quality: bool = False
    """Écarte ce qui n'est pas un texte suivi : trop court, symboles, listes, répétitions."""

    min_words: int | None = None
    """Mots d'un document, au moins ; allume la qualité."""

    exact_duplicates: bool = False
    """Écarte un document déjà vu."""

    near_duplicates: float | None = None
    """Similarité, de 0 à 1, à partir de laquelle un document est un quasi-doublon ; 0 : aucun."""

    repeated_lines: int | None = None
    """Retire une ligne qui se répète dans tant de documents ; 0 : aucune."""

    repeated_paragraphs: int | None = None
    """Retire un paragraphe d'au moins tant de caractères déjà vu ailleurs ; 0 : aucun."""

    validation_overlap: bool = False
    """Retire de l'entraînement les paragraphes qui recouvrent la validation."""

    decontaminate: Annotated[list[str] | None, Parameter(consume_multiple=1)] = None
    """Textes d'évaluation dont aucun paragraphe gardé ne partage treize mots de suite."""

    without: Annotated[list[_Step] | None, Parameter(consume_multiple=1)] = None
    """Étapes du préréglage à éteindre : nfc controls personal languages quality exact near lines
    paragraphs validation."""

    def _check(self) -> None:
        """Refuse une valeur sous le nom de son option, non de l'étape qu'elle règle."""
        if self.near_duplicates is not None:
            check_float("`near_duplicates`", self.near_duplicates, minimum=0.0, maximum=1.0)
        for name in ("min_words", "repeated_lines", "repeated_paragraphs"):
            if (value := getattr(self, name)) is not None:
                check_int(f"`{name}`", value, minimum=0)

    def config(self) -> HygieneConfig | None:
        """Les étapes demandées ; None : aucune option d'hygiène."""
        from gpt_architecture.data.hygiene.config import HygieneConfig, QualityRules

        self._check()
        off = HygieneConfig()
        changes: dict[str, Any] = {step: getattr(off, step) for step in self.without or ()}
        asked = {
            "nfc": self.nfc or None,
            "controls": self.controls or None,
            "personal": self.personal_data,
            "languages": None if self.languages is None else tuple(self.languages),
            "exact": self.exact_duplicates or None,
            "near": self.near_duplicates,
            "lines": self.repeated_lines,
            "paragraphs": self.repeated_paragraphs,
            "validation": self.validation_overlap or None,
            "evaluation": None if self.decontaminate is None else tuple(self.decontaminate),
            "quality": QualityRules() if self.quality else None,
        }
        if self.min_words is not None:
            asked["quality"] = QualityRules(min_words=self.min_words)
        changes |= {key: value for key, value in asked.items() if value is not None}
        if self.hygiene is None and not changes:
            return None
        return HygieneConfig.preset(self.hygiene or "aucune", **changes)


def prepare(
    *sources: Annotated[
        str,
        Parameter(name="SOURCE", help="Fichiers et dossiers, ou noms de corpus, dans l'ordre."),
    ],
    options: PrepareOptions = PrepareOptions(),
    cleaning: HygieneOptions = HygieneOptions(),
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> int:
    """Prépare des textes pour l'entraînement : fragments de tokens, entraînement et validation.

    Chaque source est un fichier, un dossier, une archive, un corpus connu (the-verdict,
    la-lampe-du-passeur) ou un jeu de Hugging Face (hf:AUTEUR/NOM). Se lisent : texte, JSON,
    JSONL, CSV, Parquet, Arrow, HTML, EPUB, DOCX, ODT et PDF, compressés ou non. Une préparation
    interrompue reprend quand on relance la même commande. --hygiene fr en retire d'abord ce qui
    ne s'apprend pas ; --report montre ce qui l'a été, et --dry-run le fait sans rien garder.
    Sur plusieurs machines, --task i/N fait une part du travail et --merge réunit les parts, à
    l'octet près comme une seule.
    """
    if options.corpus:
        _list_corpora()
        return 0
    if not sources or (options.out is None and not options.dry_run):
        raise ConfigurationError(
            "aucune source" if not sources else "--out n'est pas donné",
            expected="gpt-architecture prepare SOURCE… --out DOSSIER",
            remedy="complétez la commande",
        )
    if options.out is not None:
        check_not_read(options.out, (sources, options.tokenizer, common), "--out")
    from gpt_architecture.api import prepare as prepared

    settings = {name: value for name, value in vars(options).items() if name != "corpus"}
    start = time.perf_counter()
    again = "rien n'est gardé" if options.dry_run else "relancez la même commande pour reprendre"
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        result = prepared(sources, **settings, hygiene=cleaning.config(), progress=True)
    except KeyboardInterrupt:
        say_aside(f"Interrompu ; {again}.")
        return 130
    except SystemExit:
        say_aside(f"Arrêté ; {again}.")
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
    if result.outcome in _WAITING:
        say(_WAITING[result.outcome])
        return 0
    _report(result, time.perf_counter() - start)
    if options.index and result.outcome not in _WAITING:
        say(index_line(result.folder))
    if options.report is not None:
        say(f"Bilan écrit  {options.report}")
    return 0


def _list_corpora() -> None:
    from gpt_architecture.data.texts.corpus import SHORT_STORY
    from gpt_architecture.data.texts.installed import PACKAGES
    from gpt_architecture.data.texts.recipes import NOVELS, RECIPES, VERDICT

    rows = [(SHORT_STORY, "embarqué, MIT — une nouvelle écrite pour ce projet")]
    novels = [each for name, each in RECIPES.items() if name != VERDICT]
    size = french_size(sum(each.size for each in novels))
    rows.append((NOVELS, f"{len(novels)} romans, {size}, domaine public — tous ceux qui suivent"))
    for name, recipe in RECIPES.items():
        rows.append((name, f"{french_size(recipe.size)}, {recipe.licence} — {recipe.about}"))
    for each in PACKAGES:
        there = "installé" if each.files() else f"sudo apt install {each.name}"
        rows.append((each.name, f"{there}, {each.licence} — {each.about}"))
    width = max(len(name) for name, _ in rows)
    for name, said in rows:
        print(f"{name:<{width}}  {said}")


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # ce qui se dit l'est hors du signal


def _report(result: PreparedTokens, seconds: float) -> None:
    """Dit ce qui a été préparé, et ce qui ne l'a pas été."""
    documents, tokens = sum(result.documents.values()), sum(result.tokens.values())
    if result.outcome == "present":
        say(f"{result.folder} est déjà préparé, avec ces mêmes réglages ; rien à faire.")
    elif result.outcome == "task":
        say("Tâche finie. Quand toutes le sont, --merge les réunit.")
    elif result.outcome == "dry":
        say(f"Essai en {french_duration(seconds)} ; rien n'est gardé.")
    else:
        say(f"Préparé en {french_duration(seconds)} : {result.folder}")
    written = french_number(result.separated)
    separated = f", dont {written} après un <|endoftext|> écrit" if result.separated else ""
    say(f"Documents    {french_number(documents)}{separated}")
    say(
        f"Tokens       {french_number(tokens)} : "
        f"{french_number(result.tokens['train'])} d'entraînement, "
        f"{french_number(result.tokens['val'])} de validation"
    )
    ratio = decimal(result.bytes_per_token)
    say(f"Texte        {french_size(result.text_bytes)}, {ratio} octets par token")
    wanted = 100 * result.val_fraction
    if result.single_document:
        say("Un seul document : sa fin, et non des documents, fait la validation.")
    elif result.outcome == "task":
        pass  # la part d'une tâche ne dit rien de celle de l'ensemble
    elif tokens and not 1 / _FAR <= (share := 100 * result.tokens["val"] / tokens) / wanted <= _FAR:
        say(
            f"Validation   {short(share)} % des tokens pour "
            f"{short(wanted)} % {plural(int(wanted), 'demandé')} : "
            "documents trop peu nombreux, ou trop inégaux, pour mieux répartir ; --val-fraction ou "
            "--seed la changent"
        )
    if result.hygiene is not None:
        _report_hygiene(result.hygiene)
    for reason, entry in sorted(result.skipped.items()):
        examples = entry["examples"]
        more = " ; …" if entry["count"] > len(examples) else ""
        count = french_number(entry["count"])
        say(f"Écarté       {reason} : {count} — {' ; '.join(examples)}{more}")


def _report_hygiene(found: dict[str, Any]) -> None:
    read, kept = found["read"], found["kept"]
    say(
        f"Hygiène      {counted(kept['documents'], 'document')} "
        f"{plural(kept['documents'], 'gardé')} sur "
        f"{french_number(read['documents'])}, {french_size(kept['bytes'])} sur "
        f"{french_size(read['bytes'])}"
    )
    for reason, effect in sorted(found["effects"].items(), key=lambda each: -each[1]["characters"]):
        size = effect["characters"]
        removed = (
            f", {counted(size, 'caractère')}" if size and effect["unit"] != "caractère" else ""
        )
        done = "Masqué" if reason.endswith(" masqué") else "Retiré"
        name = reason.removesuffix(" masqué")
        say(f"{done}       {name} : {counted(effect['count'], effect['unit'])}{removed}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["prepare", *sys.argv[1:]])
