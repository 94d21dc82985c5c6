"""Quoi entraîner dans les heures qu'on a : la taille, la durée, et la perte à en attendre."""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.config import RunConfig, TrainingConfig, check_float
from gpt_architecture.errors import ConfigurationError
from gpt_architecture.french import decimal, french_duration, thousands
from gpt_architecture.storage import check_outputs, exists, sealed, sealed_text, write_atomically

if TYPE_CHECKING:
    from rich.console import Console

    from gpt_architecture.reports.terminal import TableData
    from gpt_architecture.training.experiments import Trial
    from gpt_architecture.training.planning import Choice, Decision
    from gpt_architecture.training.scaling import LossLaw

TITLE = "# gpt-architecture plan"
"""Le début de chaque fichier de réglages écrit par un plan."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """Un entraînement proposé, et les autres.

    Attributes:
        decision: le choix, les essais et la loi (voir `training.planning`).
        settings: ses réglages, que `train(**plan.settings)` prend tels quels.
        price_per_hour: prix d'une heure de la machine ; None : inconnu.
        watts: puissance qu'elle demande ; None : inconnue.
    """

    decision: Decision
    settings: dict[str, Any]
    price_per_hour: float | None = None
    watts: float | None = None

    @property
    def best(self) -> Choice:
        """L'entraînement proposé."""
        return self.decision.best

    @property
    def alternatives(self) -> tuple[Choice, ...]:
        """Les autres tailles, chacune à sa meilleure durée."""
        return self.decision.alternatives

    @property
    def loss(self) -> float:
        """La perte de validation attendue, en bits par octet."""
        return self.best.loss

    @property
    def record(self) -> dict[str, Any]:
        """Tout, en types simples : le JSON de la commande ; une perte infinie y est None."""
        found, measures = self.decision, self.decision.measures
        return {
            "hours": found.hours,
            "best": _record(found.best) | self._spent,
            "alternatives": [_record(each) for each in found.alternatives],
            "settings": self.settings,
            "law": _record(measures.law.law) | {"noise": measures.law.noise},
            "trials": [_record(each) for each in found.trials],
        }

    @property
    def _spent(self) -> dict[str, float]:
        """L'énergie (kWh) et le coût de l'entraînement, s'ils sont connus."""
        hours, found = self.best.seconds / 3600, dict[str, float]()
        if self.watts is not None:
            found["kwh"] = self.watts * hours / 1000
        if self.price_per_hour is not None:
            found["cost"] = self.price_per_hour * hours
        return found

    def to_toml(self) -> str:
        """Le fichier que `train --config` prend tel quel."""
        best = self.best
        lines = [
            f"{TITLE} : {decimal(best.loss, 3)} bits par octet attendus "
            f"({decimal(best.low, 3)} à {decimal(best.high, 3)}), en "
            f"{french_duration(best.seconds)}.",
            "[train]",
            *(f"{name} = {_toml(value)}" for name, value in self.settings.items()),
        ]
        return sealed("\n".join(lines) + "\n")

    def show(self, console: Console) -> None:
        """Écrit le choix et le tableau des autres."""
        from gpt_architecture.reports.plan import show_plan

        show_plan(console, self.decision, self._spent)

    def __str__(self) -> str:
        from rich.console import Console

        buffer = io.StringIO()
        self.show(Console(file=buffer, width=100, highlight=False, markup=False, emoji=False))
        return buffer.getvalue()

    def __repr__(self) -> str:
        best = self.best
        return (
            f"Plan({best.body}, {thousands(best.parameters)} paramètres, {best.recipe.tokenizer} ; "
            f"{decimal(best.loss, 3)} bits par octet attendus en {french_duration(best.seconds)})"
        )

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import tables_cell
        from gpt_architecture.reports.plan import choices_table, tie_said

        tables: list[TableData] = [choices_table(self.decision)]
        notes = ["Perte en bits par octet ; intervalles à 95 %.", *tie_said(self.decision)]
        return tables_cell(tables, notes=notes)


@checked_options
def plan(
    data: str | Path | Sequence[str | Path],
    hours: float,
    *,
    minutes: float | None = None,
    out: str | Path | None = None,
    trials: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: str = "auto",
    seed: int = TrainingConfig.seed,
    train_ratio: float = TrainingConfig.train_ratio,
    field: str | None = None,
    skip_bad: bool = False,
    offline: bool = False,
    price_per_hour: float | None = None,
    watts: float | None = None,
    force: bool = False,
    progress: bool | None = None,
) -> Plan:
    """Dit quoi entraîner sur ce texte, sur cette machine, dans ces heures, après de courts essais.

    Args:
        data: texte, dossier, fragments ou nom connu, comme `train`.
        hours: heures de l'entraînement à venir.
        minutes: minutes d'essais, environ ; None : un dixième des heures, de 4 à 24.
        out: fichier de réglages à écrire, que `train --config` prend tel quel ; None : aucun.
        trials: dossier où garder les essais, pour n'en refaire aucun ; None : ils sont oubliés.
        tokenizer: vocabulaire imposé ; None : choisi parmi plusieurs.
        device: périphérique.
        seed: graine des essais et de l'entraînement.
        train_ratio: part du texte gardée pour l'entraînement.
        field: champ ou colonne du texte ; None : celui dont le nom est évident.
        skip_bad: laisse de côté ce qui est illisible, abîmé ou trop gros.
        offline: interdit tout téléchargement.
        price_per_hour: prix d'une heure de la machine.
        watts: puissance qu'elle demande.
        force: remplace `out`, même s'il ne vient pas d'un plan.
        progress: vrai ou faux : ce qui se fait est dit, ou rien ; None : si quelqu'un le voit.

    Raises:
        ConfigurationError: durées qui n'ont pas de sens, ou trop courtes pour ce texte ; réglage
            d'un texte donné pour des fragments.
        DataError: texte absent, illisible ou trop court.
        OutputError: un fichier ne peut pas être écrit.

    Examples:
        >>> from gpt_architecture import plan
        >>> found = plan("la-lampe-du-passeur", hours=0.01, minutes=0.05, tokenizer="bpe-300")
        >>> found.best.low < found.loss < found.best.high
        True
        >>> found.settings["max_steps"] == found.best.steps
        True
    """
    from gpt_architecture.data.shards.layout import holds_shards
    from gpt_architecture.reports.console import ProgressBar
    from gpt_architecture.reports.plan import TrialProgress
    from gpt_architecture.training.laboratory import TextLaboratory
    from gpt_architecture.training.planner import make_plan
    from gpt_architecture.training.planning import check_budget

    sources = listed(data)
    if not sources:
        raise ConfigurationError(
            "aucun texte", expected="un texte ou plusieurs", remedy="donnez `data`"
        )
    seconds = 60 * check_budget(hours, minutes)
    for name, value in (("price_per_hour", price_per_hour), ("watts", watts)):
        if value is not None:
            check_float(f"`{name}`", value, minimum=0.0)
    if len(sources) == 1 and holds_shards(sources[0]):
        _check_shards(sources[0], field=field, skip_bad=skip_bad, train_ratio=train_ratio)
    for source in (*sources, *(() if tokenizer is None else (str(tokenizer),))):
        _check_writable(_absolute(source))
    path = None if out is None else Path(out)
    check_outputs({"`out`": (path, sealed_text(TITLE))}, reads=(sources, tokenizer), force=force)
    with ExitStack() as stack:
        if trials is None:
            trials = stack.enter_context(tempfile.TemporaryDirectory(prefix="gpt-architecture-"))
        bar = stack.enter_context(ProgressBar("Essais", shown=progress))
        told = TrialProgress(bar, seconds)
        lab = TextLaboratory(
            sources,
            trials,
            device=device,
            seed=seed,
            train_ratio=train_ratio,
            tokenizer=None if tokenizer is None else str(tokenizer),
            field=field,
            offline=offline,
            skip_bad=skip_bad,
            on_step=told.step,
        )
        decision = make_plan(
            lab,
            hours=hours,
            minutes=minutes,
            tokenizer=None if tokenizer is None else str(tokenizer),
            octets=lab.octets,
            tell=bar.say,
        )
        best = decision.best
        options = lab.bench(best.recipe.tokenizer).options(
            best.recipe, best.body, best.steps, decision.measures.text.unique
        )
    asked: dict[str, Any] = {"data": [_absolute(each) for each in sources]}
    if lab.fixed_tokenizer is not None:
        del options["tokenizer"], options["train_ratio"]  # des fragments ont les leurs
    else:
        asked |= {"field": field, "skip_bad": skip_bad}
        options["tokenizer"] = _absolute(best.recipe.tokenizer)
    found = Plan(
        decision=decision,
        settings=_told(asked | options),
        price_per_hour=price_per_hour,
        watts=watts,
    )
    if path is not None:
        text = found.to_toml()
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return found


def _check_shards(source: str, **given: Any) -> None:
    """Refuse ce qui ne vaut que pour un texte : des fragments sont déjà lus, codés et coupés."""
    usual = {"train_ratio": TrainingConfig.train_ratio}
    for name, value in given.items():
        if value and value != usual.get(name):
            raise ConfigurationError(
                f"`{name}` est donné, et {source} est un dossier de fragments",
                expected="un texte : des fragments sont déjà lus et coupés",
                remedy=f"retirez `{name}`, ou donnez-le à « gpt-architecture prepare »",
            )


def _told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Les réglages sans ceux qui ne disent rien de plus que leur défaut."""
    quiet = {"field": None, "skip_bad": False, "device": RunConfig.device}
    return {
        name: value for name, value in settings.items() if name not in quiet or value != quiet[name]
    }


def _absolute(source: str) -> str:
    return str(Path(source).resolve()) if exists(source) else source


def _check_writable(source: str) -> None:
    """Refuse un chemin que des réglages, en UTF-8, ne peuvent écrire."""
    try:
        source.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"{source!a} n'est pas en UTF-8",
            expected="un chemin qu'un fichier de réglages puisse écrire",
            remedy="renommez-le",
        ) from None


def _record(values: Choice | LossLaw | Trial) -> dict[str, Any]:
    """Ses champs ; JSON n'a ni NaN ni infini, qui deviennent None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(values).items()
    }


def _toml(value: Any) -> str:
    """Une valeur en TOML, qui écrit textes, nombres et listes comme JSON, ou presque."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
