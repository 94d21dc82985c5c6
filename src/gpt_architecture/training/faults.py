"""Le docteur : les fautes courantes d'un entraînement, nommées d'après ce qu'on en observe.

Une règle par faute ; elle ne parle que si l'effet se voit, et si un réglage ou une donnée
l'explique. Celles des données parlent avant la première étape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gpt_architecture.errors import DataError
from gpt_architecture.french import counted, decimal, french_number, percent, short
from gpt_architecture.training.diagnosis import Case, Finding
from gpt_architecture.training.survey import Survey

Rule = Callable[[Case], Finding | None]


def diagnose(case: Case) -> list[Finding]:
    """Les fautes que l'entraînement montre ; aucune : rien d'anormal n'a été vu."""
    rules = DATA_RULES if case.state is None else (*DATA_RULES, *COURSE_RULES)
    return [found for rule in rules if (found := rule(case)) is not None]


def check_targets(survey: Survey) -> None:
    """Refuse des données dont aucune cible ne s'apprend.

    Raises:
        DataError: toutes les cibles sont masquées.
    """
    if survey.learned == 0:
        raise DataError(
            "aucune cible ne s'apprend : toutes sont masquées",
            expected="des réponses, ou du texte suivi",
            remedy="vérifiez les étiquettes et le gabarit",
        )


# --- Les données -----------------------------------------------------------------------------


def _masked(case: Case) -> Finding | None:
    if case.survey.learned >= 0.02:
        return None
    return Finding(
        code="cibles-masquees",
        found=f"{percent(1 - case.survey.learned)} des cibles sont masquées : presque rien ne "
        "s'apprend",
        remedy="vérifiez les étiquettes, le gabarit et le contexte",
    )


def _shifted(case: Case) -> Finding | None:
    shift = case.survey.shift
    if shift == 1 or case.survey.learned == 0:
        return None
    if shift is None:
        seen = "les cibles ne sont pas les tokens qui suivent les entrées"
    elif shift == 0:
        seen = "les cibles sont les entrées elles-mêmes, non décalées"
    else:
        side = "en retard" if shift < 0 else "en avance"
        seen = f"les cibles sont {side} de {counted(abs(shift), 'token')} sur les entrées"
    return Finding(
        code="cibles-decalees",
        found=seen,
        remedy="décalez-les d'un token : la cible de chaque position est le token suivant",
    )


def _seen_validation(case: Case) -> Finding | None:
    overlap = case.survey.overlap
    if overlap is None or overlap < 0.1:
        return None
    return Finding(
        code="validation-vue",
        found=f"{percent(overlap, 0)} des passages de la validation sont aussi dans "
        "l'entraînement : sa perte ne mesure plus que la mémoire",
        remedy="retirez les doublons, ou validez sur un autre texte",
    )


_OWN_VOCABULARY = (
    "apprenez un vocabulaire sur ce texte (`tokenizer=bpe-4096` ; pour des fragments, "
    "« tokenizer train », puis « prepare » avec ce `tokenizer`)"
)


def _wrong_tokenizer(case: Case) -> Finding | None:
    survey = case.survey
    if survey.unknown > 0.02:
        return Finding(
            code="tokenizer",
            found=f"{percent(survey.unknown)} des tokens sont inconnus du vocabulaire",
            remedy=_OWN_VOCABULARY,
        )
    if survey.extra_tokens is None or survey.extra_tokens < 1.18:
        return None
    return Finding(
        code="tokenizer",
        found=f"le tokenizer n'est pas fait pour ce texte : {decimal(survey.bytes_per_token, 1)} "
        f"octets par token, et {percent(survey.extra_tokens - 1, 0)} de tokens de plus qu'un "
        "petit BPE appris sur lui",
        remedy=_OWN_VOCABULARY,
    )


def _garbled(case: Case) -> Finding | None:
    if case.survey.garbled < 0.005:
        return None
    return Finding(
        code="texte-mal-decode",
        found=f"{percent(case.survey.garbled)} des mots sont mal décodés (« Ã© » pour « é »)",
        remedy="reprenez le texte d'origine et convertissez-le en UTF-8 depuis son vrai codage",
    )


def _unordered(case: Case) -> Finding | None:
    found = case.survey.baselines
    if found is None or found.counted < 10_000 or case.survey.order >= 0.03:
        return None
    return Finding(
        code="texte-sans-suite",
        found="l'ordre des tokens ne dit rien : le bigramme ne prédit pas mieux que l'unigramme",
        remedy="vérifiez que le texte n'a été ni mélangé, ni chiffré, ni compressé",
    )


def _other_validation(case: Case) -> Finding | None:
    survey = case.survey
    if survey.drift >= 1.0:
        seen = f"l'unigramme y perd {decimal(survey.drift)} nats de plus"
    elif survey.transfer < 0.3 and survey.order >= 0.1:
        seen = "ce que le token précédent apprend de l'un ne sert pas à l'autre"
    else:
        return None
    return Finding(
        code="validation-d-ailleurs",
        found=f"la validation ne ressemble pas à l'entraînement : {seen}",
        remedy="mélangez les documents avant de couper, ou validez sur le même genre de texte",
    )


def _skipped_text(case: Case) -> Finding | None:
    settings = case.settings
    skipped = settings.stride - settings.window
    if skipped <= 1 or settings.objective.preferences is not None:  # un exemple par rangée
        return None
    return Finding(
        code="texte-saute",
        found=f"`stride` dépasse le contexte : {percent(skipped / settings.stride, 0)} du texte "
        "n'est jamais lu",
        remedy=f"ramenez `stride` à {settings.window} au plus",
    )


def _long_warmup(case: Case) -> Finding | None:
    total, warmup = case.total_steps, case.settings.schedule.warmup_steps
    if warmup < max(2, total / 2):
        return None
    return Finding(
        code="echauffement-trop-long",
        found=f"le taux monte pendant {counted(warmup, 'étape')} sur {french_number(total)}",
        remedy="réduisez `warmup_steps` à un vingtième des étapes environ",
    )


# --- Le cours de l'entraînement --------------------------------------------------------------


def _high_lr(case: Case) -> Finding | None:
    smooth, state = case.smooth, case.state
    baselines = case.survey.baselines
    if len(smooth) < 4 or state is None:
        return None
    lowest, climb = smooth[0], 0.0
    for value in smooth:
        lowest = min(lowest, value)
        climb = max(climb, value - lowest)
    if state.skipped > 0:
        seen = f"{counted(state.skipped, 'étape')} sans gradient fini"
    elif climb > 0.05 * smooth[0] and smooth[-1] > lowest + 0.5 * climb:
        seen = f"la perte des lots remonte de {decimal(climb)} nats et ne redescend pas"
    elif case.is_stuck and case.lr > 4:
        seen = (
            f"la perte des lots finit à {decimal(smooth[-1])}, quand l'unigramme seul perd "
            f"{decimal(baselines.unigram if baselines else math.inf)}"
        )
    else:
        return None
    if case.lr < 1.5:
        return None
    rate = case.rates[0]
    return Finding(
        code="taux-trop-haut",
        found=f"taux d'apprentissage trop haut (`{rate.name}={rate.value:g}`) : {seen}",
        remedy=f"essayez {rate.advised}, avec `warmup_steps` et `clip=1`",
    )


def _no_warmup(case: Case) -> Finding | None:
    losses = [each for each in case.losses if math.isfinite(each)]
    if len(losses) < 10 or case.settings.schedule.warmup_steps > 0 or not case.learns_all:
        return None
    early = losses[1 : max(10, len(losses) // 10)]
    peak = max(early)
    if peak < losses[0] + max(0.5, 0.05 * losses[0]):
        return None
    return Finding(
        code="sans-echauffement",
        found=f"la perte bondit de {decimal(losses[0])} à {decimal(peak)} dans les premières "
        f"étapes (étape {early.index(peak) + 1}), et le taux n'a pas de montée",
        remedy="ajoutez `warmup_steps`, un vingtième des étapes environ",
    )


def _low_lr(case: Case) -> Finding | None:
    smooth, baselines = case.smooth, case.survey.baselines
    if len(smooth) < 4 or case.lr > 0.03 or baselines is None or not case.learns_all:
        return None
    if case.final < baselines.bigram:
        return None
    named = ", ".join(f"`{each.name}={each.value:g}`" for each in case.rates)
    return Finding(
        code="taux-trop-bas",
        found=f"taux d'apprentissage trop bas ({named}) : la perte est encore "
        f" à {decimal(case.final)}, au-dessus du bigramme ({decimal(baselines.bigram)})",
        remedy=f"essayez {' et '.join(each.advised for each in case.rates)}",
    )


def _overfitted(case: Case) -> Finding | None:
    state = case.state
    if state is None or state.best_loss is None or len(state.val_losses) < 4:
        return None
    best = state.eval_steps.index(state.best_step)
    gap = state.val_losses[-1] - state.best_loss
    falls = state.train_losses[-1] < state.train_losses[best]
    if gap < max(0.1, 0.02 * state.best_loss) or not falls:
        return None
    size = case.settings.model.num_parameters()
    rise = (
        f"la validation remonte de {decimal(gap)} nats depuis l'étape "
        f"{french_number(state.best_step)} quand l'entraînement descend"
    )
    if size < 5 * case.train_tokens:
        return Finding(
            code="trop-d-epoques",
            found=f"trop d'époques : {rise}",
            remedy="arrêtez-vous là (`patience=5`, `save_best`), ou ajoutez du dropout",
        )
    return Finding(
        code="texte-trop-petit",
        found=f"texte trop petit pour le modèle : {french_number(size)} paramètres pour "
        f"{french_number(case.train_tokens)} tokens, et {rise}",
        remedy="donnez plus de texte, ou réduisez `emb_dim` et `n_layers`",
    )


def _dead(case: Case) -> Finding | None:
    if case.dead is None or case.dead < 0.05:
        return None
    return Finding(
        code="unites-mortes",
        found=f"{percent(case.dead, 0)} des unités des perceptrons ne s'activent jamais",
        remedy="repartez d'une autre initialisation, avec un `lr` plus bas et `warmup_steps`",
    )


def _strong_dropout(case: Case) -> Finding | None:
    rate, smooth = case.settings.model.drop_rate, case.smooth
    if rate < 0.35 or not smooth:
        return None
    cost = smooth[-1] - case.final
    if cost >= 0.15:
        seen = f"il coûte {decimal(cost)} nats à chaque lot"
    elif case.is_stuck and rate >= 0.5:
        seen = f"la perte reste à {decimal(case.final)}, près de celle de l'unigramme"
    else:
        return None
    return Finding(
        code="dropout-trop-fort",
        found=f"dropout de {short(rate)} : {seen}",
        remedy="ramenez `drop_rate` à 0,1, ou à 0 si le texte n'est lu qu'une fois",
    )


def _strong_decay(case: Case) -> Finding | None:
    training, baselines = case.settings.training, case.survey.baselines
    pull = training.lr * training.weight_decay * len(case.losses)
    if training.weight_decay < 0.8 or pull < 0.5 or baselines is None:
        return None
    if case.final < baselines.ngram:
        return None
    return Finding(
        code="decroissance-trop-forte",
        found=f"`weight_decay` vaut {short(training.weight_decay)} : les poids sont ramenés vers "
        f"zéro, et la perte reste à {decimal(case.final)}",
        remedy="essayez `weight_decay=0.1`",
    )


DATA_RULES: Sequence[Rule] = (
    _masked,
    _shifted,
    _seen_validation,
    _wrong_tokenizer,
    _garbled,
    _unordered,
    _other_validation,
    _skipped_text,
    _long_warmup,
)
"""Ce que les données et les réglages disent avant la première étape."""

COURSE_RULES: Sequence[Rule] = (
    _high_lr,
    _no_warmup,
    _low_lr,
    _overfitted,
    _dead,
    _strong_dropout,
    _strong_decay,
)
"""Ce que les courbes et les poids disent ensuite."""
