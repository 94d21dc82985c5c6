"""Un texte oublié par un modèle, exactement : ce que cela coûte, et ce qui en reste."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt_architecture.api.loading import load
from gpt_architecture.api.options import checked_options, listed
from gpt_architecture.api.runs import bar_reporter, interruptible
from gpt_architecture.api.verification import located
from gpt_architecture.errors import (
    ConfigurationError,
    GPTArchitectureError,
    ModelFileError,
    on_one_line,
)
from gpt_architecture.french import counted, french_duration, percent

if TYPE_CHECKING:
    from gpt_architecture.api.gpt import GPT
    from gpt_architecture.api.runs import Run
    from gpt_architecture.core.model import CausalLM
    from gpt_architecture.training.forgetting import ForgetPlan

logger = logging.getLogger(__name__)

Pair = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True, repr=False)
class Forgetting:
    """Un oubli : ce qu'il demande ; une fois fait, ce qu'il a changé.

    Attributes:
        path: le modèle.
        tokens: tokens retirés de l'entraînement par cet oubli.
        val_tokens: de même, de la validation.
        seen: étapes qui les ont lus.
        first: la première, depuis 0 ; None : rien n'est à refaire.
        restart: étapes faites au point d'où l'on repart.
        redone: étapes à refaire.
        seconds: durée annoncée.
        done: vrai si l'oubli est fait ; faux : estimé, ou interrompu.
        removal: empreinte de tout ce qui est retiré, celle du certificat.
        recalled: part du texte retiré que le modèle récite, avant et après ; None : pas mesurée.
        witness: de même, d'un texte témoin aussi long, qui reste.
        remaining: où le texte peut se trouver encore.
        notes: ce qu'il faut savoir de l'exactitude ; vide : elle est au bit près.
    """

    path: Path
    tokens: int
    val_tokens: int
    seen: int
    first: int | None
    restart: int
    redone: int
    seconds: float
    done: bool
    removal: str
    recalled: Pair = (None, None)
    witness: Pair = (None, None)
    remaining: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def record(self) -> dict[str, Any]:
        """Le JSON de la commande."""
        return {
            "model": str(self.path),
            "tokens": self.tokens,
            "val_tokens": self.val_tokens,
            "seen": self.seen,
            "first": self.first,
            "restart": self.restart,
            "redone": self.redone,
            "seconds": self.seconds,
            "done": self.done,
            "removal": self.removal,
            "recalled": list(self.recalled),
            "witness": list(self.witness),
            "remaining": list(self.remaining),
            "notes": list(self.notes),
        }

    @property
    def cost(self) -> list[str]:
        """Ce qui est retiré, qui l'a lu, et ce qui est à refaire."""
        found = [
            f"À oublier : {counted(self.tokens, 'token')} de l'entraînement, {self.val_tokens} de "
            "la validation."
        ]
        if not self.tokens and not self.val_tokens:
            return ["Ce texte est déjà retiré : rien n'est à refaire."]
        if self.first is None:
            found.append(
                "Aucune étape ne l'a lu, et rien n'en a dépendu : aucun poids ne change. Le "
                "certificat note le retrait, que toute reprise applique."
            )
        else:
            where = "du début" if not self.restart else f"de l'étape {self.restart}"
            found.append(
                f"Lu par {counted(self.seen, 'étape')}, d'abord la {self.first} : l'entraînement "
                f"repart {where}, {counted(self.redone, 'étape')}, environ "
                f"{french_duration(self.seconds)}."
            )
        if self.val_tokens:
            found.append("La validation en contenait : elle est mesurée sans lui désormais.")
        return found

    @property
    def lines(self) -> list[str]:
        """Le coût, puis, une fois l'oubli fait, ce qui a changé et ce qui reste."""
        found = [*self.cost, *self.notes]
        if self.done:
            found.append(f"Oublié : {self.path} (retrait {self.removal[:16]}…).")
            if self.recalled[0] is not None or self.recalled[1] is not None:
                found.append(
                    f"Part récitée du texte oublié : {_change(self.recalled)} ; d'un témoin qui "
                    f"reste : {_change(self.witness)}."
                )
            found.append(f"Peuvent le contenir encore : {' ; '.join(self.remaining)}.")
        return [on_one_line(each) for each in found]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return f"Forgetting({self.lines[0]} {self.path})"

    def _repr_html_(self) -> str:
        from gpt_architecture.reports.notebook import facts_cell

        facts = [
            ("tokens retirés", str(self.tokens)),
            ("étapes qui les ont lus", str(self.seen)),
            ("étapes refaites" if self.done else "étapes à refaire", str(self.redone)),
            ("fait", "oui" if self.done else "non"),
        ]
        return facts_cell(f"Oubli : {self.path}", facts, notes=self.lines)


def _change(pair: Pair) -> str:
    before, after = ("non mesurée" if each is None else percent(each) for each in pair)
    return f"{before} avant, {after} après"


@checked_options
def forget(
    model: GPT | Run | Path | str | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    document: str | Sequence[str] = (),
    text: str | Path | Sequence[str | Path] = (),
    lines: str | tuple[int, int] | None = None,
    estimate: bool = False,
    keep_old: bool = False,
    sign_key: Path | str | None = None,
    progress: bool | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_plan: Callable[[Forgetting], object] | None = None,
    **sources: Any,
) -> Forgetting:
    """Fait oublier un texte à un modèle, comme `gpt-architecture forget`.

    Les poids sont ensuite, au bit près, ceux d'un entraînement où ce texte était masqué d'emblée,
    par `train(forget="retrait.json")`. Interrompu, le même appel reprend.

    Args:
        model: le modèle, son dossier, ou l'entraînement qui l'a fait.
        data: les textes de l'entraînement ; None : ceux que ses points de reprise nomment.
        document: noms de documents ; numéros de conversations.
        text: fichiers dont le texte est oublié partout où il est recopié.
        lines: lignes d'un fichier, « 12-40 » ; de celui que `document` nomme, s'il y en a d'autres.
        estimate: dit ce qui serait refait, sans rien écrire.
        keep_old: garde l'ancien modèle et ses points de reprise, dans `avant-oubli`, ou
            `avant-oubli-2`… s'il y est déjà.
        sign_key: clé Ed25519 qui signe la suite du certificat.
        progress: montre une barre ; None : au terminal seulement.
        should_stop: vrai arrête, en gardant de quoi reprendre.
        on_plan: reçoit ce qui va être fait, avant de commencer.
        sources: les autres origines de l'entraînement (voir `verify`).

    Raises:
        CertificateError: certificat absent, abîmé, inachevé, ou d'un autre modèle.
        DataError: le texte n'y est pas, ou les données ne sont pas celles de l'entraînement.
        ConfigurationError: rien n'est nommé, ou l'entraînement ne se refait pas d'une traite.

    Examples:
        >>> from gpt_architecture import forget
        >>> found = forget("modele", lines="1-60", estimate=True)
        >>> found.done, found.redone
        (False, 4)
    """
    from gpt_architecture.data.places import Target
    from gpt_architecture.training.forget_work import carry_out, is_ready, publish, take_note
    from gpt_architecture.training.forgetting import plan_forgetting, remaining

    target = Target(
        documents=tuple(listed(document)),
        texts=tuple(listed(text)),
        lines=lines_of(lines) if isinstance(lines, str) else lines,
    )
    folder, product = located(model)
    if product is None:
        raise ModelFileError.missing(
            folder, expected="un modèle entraîné ici", remedy="corrigez `model`"
        )
    if is_ready(folder) and not estimate:
        publish(folder)
        logger.warning("l'oubli interrompu dans %s vient d'être mis en place", folder)
    names = {"sources": "source", "start": "from"}
    origins = {names.get(name, name): getattr(v, "path", v) for name, v in sources.items()}
    plan = plan_forgetting(folder, product, target, {"data": data, **origins}, sign_key=sign_key)
    facts: dict[str, Any] = {
        "path": product,
        "tokens": plan.tokens,
        "val_tokens": plan.val_tokens,
        "seen": plan.seen,
        "first": plan.first,
        "restart": plan.restart,
        "redone": plan.redone,
        "seconds": plan.seconds,
        "removal": plan.removal.sha256,
        "notes": plan.notes,
    }
    announced = Forgetting(**facts, done=False)
    if on_plan is not None:
        on_plan(announced)
    if estimate or not (plan.tokens or plan.val_tokens):
        return announced
    if plan.first is None:
        take_note(plan, keep_old=keep_old)
        return Forgetting(**facts, done=True, remaining=remaining(plan))
    before = _recalled(plan, _loaded(plan))
    with interruptible(should_stop) as stops:
        outcome = carry_out(plan, bar_reporter(progress), keep_old=keep_old, should_stop=stops)
    if outcome.model is None:
        return announced
    after = _recalled(plan, outcome.model)
    return Forgetting(
        **facts,
        done=True,
        recalled=(before[0], after[0]),
        witness=(before[1], after[1]),
        remaining=remaining(plan),
    )


def lines_of(text: str) -> tuple[int, int]:
    """Les lignes que dit « 12-40 », ou « 12 ».

    Raises:
        ConfigurationError: ce n'en sont pas.
    """
    first, dash, last = text.partition("-")
    if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
        raise ConfigurationError.wrong("`lines`", text, expected="des lignes a-b, comme 12-40")
    return int(first), int(last if dash else first)


def _loaded(plan: ForgetPlan) -> CausalLM | None:
    """L'ancien modèle, s'il se charge encore."""
    try:
        return load(plan.product, engine="torch").model
    except GPTArchitectureError as error:
        logger.warning("part récitée avant l'oubli non mesurée : %s", error.found)
        return None


def _recalled(plan: ForgetPlan, model: CausalLM | None) -> Pair:
    """La part récitée de ce qui est oublié, et d'un témoin qui reste."""
    from gpt_architecture.data.removal import subtracted
    from gpt_architecture.data.texts.conversations import ConversationTokens
    from gpt_architecture.evaluation.recall import recalled, witness_spans

    if model is None:
        return None, None
    window, source = plan.run.settings.window, plan.whole.train
    stride = 1
    if isinstance(source, ConversationTokens):  # ailleurs, du remplissage
        every = [(start, stop) for _, start, stop in source.places]
        kept = [each for each in every if subtracted([each], plan.removal.train) == (each,)]
    else:
        stride = plan.run.settings.stride
        kept = witness_spans(plan.train, plan.removal.train, source.num_tokens, window, stride)
    one, two = (
        recalled(model, source, spans, window=window, stride=stride) for spans in (plan.train, kept)
    )
    return one, two
