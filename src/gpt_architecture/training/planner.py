"""Le déroulement d'un plan : mesurer la machine, comparer des recettes, ajuster la loi, décider."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from gpt_architecture.errors import ConfigurationError, DataError
from gpt_architecture.french import counted, decimal, french_duration, short
from gpt_architecture.training.costs import StepWork, fit_cost
from gpt_architecture.training.experiments import (
    EPOCHS,
    LADDER,
    LONGEST,
    MIN_STEPS,
    SHORTEST,
    TextSize,
    Trial,
    block_weights,
    chain_lengths,
    first_recipe,
    mature_steps,
    model_of,
    preferred,
    reread_tokens,
    trial_bodies,
    useful,
    validates,
    vocabulary_names,
)
from gpt_architecture.training.laboratory import Laboratory
from gpt_architecture.training.planning import (
    Choice,
    Decision,
    Measures,
    Pace,
    approach,
    check_budget,
    choice_of,
    decide,
    steps_within,
    supported,
)
from gpt_architecture.training.scaling import MIN_RUNS, TrialRun, fit_law
from gpt_architecture.training.trials import Body, Recipe, StepTime

_MIN_TOKENS = 2048  # tokens d'entraînement en dessous desquels rien ne s'ajuste
_RECIPES, _SIZES = 0.25, 0.25  # parts des minutes : comparer des recettes, puis des tailles
_CONFIRMED = ((0.22, "l'essai du choix"), (0.28, "celui de sa rivale"))  # puis approcher la fin
_RIVAL = 0.03  # en part de la perte : de plus loin, elle ne la remplacerait pas
_SETTINGS = "contexte, lot, taux d'apprentissage"
_FEW_VALIDATION = 2048  # tokens de validation en deçà desquels une perte ne vaut que pour eux
_COMPARED = 9  # essais de recettes : vocabulaires, contextes, lots, taux
_CHAINS = 4  # trois tailles, et celle du milieu sur une part du texte
_LONGER = 0.01  # un entraînement bien plus long préfère un taux plus petit
_HORIZON = 0.32  # et il décroît comme cette puissance de la durée (Bjorck et al., 2024)
_CHAIN_STEPS = 1.2  # étapes d'une chaîne, en part de sa plus longue durée
_SUSTAINED, _LONGEST_PROBE = 0.06, 30.0  # part des minutes, et secondes, d'étapes du choix
_SLOWER = 1.1  # en part de l'étape attendue
_BUILD_SECONDS = 0.3
_SMALL_BATCH = 4
_LEAST = 2.0  # secondes d'un essai de recette, au moins
_PROBED = (0, 1, 3, 5)  # tailles dont l'étape est mesurée
_LATE = 1.2  # part des minutes au-delà de laquelle les essais facultatifs sont laissés
_ENOUGH_STEPS = 2000  # étapes que feraient les heures, au moins, ou le lot est réduit
_YOUNG = 0.03  # bruit, en part de la perte, d'une loi que les premières étapes complètent
_STARTUP = 2.0  # secondes pour lancer Python et écrire le modèle

Tell = Callable[[str], None]


def make_plan(
    lab: Laboratory,
    *,
    hours: float,
    minutes: float | None = None,
    tokenizer: str | None = None,
    octets: int = 0,
    tell: Tell = lambda _: None,
) -> Decision:
    """Fait les essais, ajuste la loi, et choisit.

    Args:
        lab: ce qui mesure.
        hours: heures de l'entraînement à venir.
        minutes: minutes d'essais ; None : un dixième des heures, entre les bornes de `MINUTES`.
        tokenizer: vocabulaire imposé ; None : choisi.
        octets: octets d'entraînement, d'où viennent les vocabulaires à comparer.
        tell: reçoit ce qui se fait, une phrase à la fois.

    Raises:
        ConfigurationError: durées qui n'ont pas de sens, ou trop courtes pour ce texte.
        DataError: texte trop court.
    """
    minutes = check_budget(hours, minutes)
    fixed = lab.fixed_tokenizer or tokenizer
    names = (fixed,) if fixed is not None else vocabulary_names(octets)
    return _Planning(lab, hours=hours, minutes=minutes, tell=tell).run(names)


class _Planning:
    """Un plan en cours : ses essais s'ajoutent à mesure."""

    def __init__(self, lab: Laboratory, *, hours: float, minutes: float, tell: Tell) -> None:
        self._lab, self._tell = lab, tell
        self._hours, self._seconds = hours, 60 * minutes
        self._trials = list[Trial]()
        self._left = list[str]()
        self._rated = 0  # étapes où les taux ont été comparés ; 0 : ils ne l'ont pas été

    def run(self, names: Sequence[str]) -> Decision:
        text = self._lab.text(names[len(names) // 2])
        _check_text(text)
        recipe = first_recipe(names[len(names) // 2], text, epochs=0.0)
        self._announce(names, text)
        self._memory = self._lab.memory(recipe.tokenizer)
        pace = self._measure_pace(recipe, text)
        recipe = self._first_recipe(recipe, pace, text)
        recipe = self._compare(names, recipe, pace)
        text = self._lab.text(recipe.tokenizer)
        self._try_sizes(recipe, pace, text)
        measures = self._confirmed(self._conclude(recipe, pace, text))
        choices = decide(measures, self._hours)
        if not choices:
            raise ConfigurationError(
                f"`hours` vaut {short(self._hours)}",
                expected=f"de quoi faire {MIN_STEPS} étapes du plus petit modèle, une fois le "
                "texte lu",
                remedy="donnez plus d'heures",
            )
        if self._left:
            self._tell(f"Laissé de côté, faute de minutes : {' ; '.join(self._left)}.")
        return self._slowed(self._calibrated(choices, measures))

    def _announce(self, names: Sequence[str], text: TextSize) -> None:
        count = len(names) if len(names) > 1 else 0
        compared = f"vocabulaire, {_SETTINGS}" if count else _SETTINGS
        self._tell(
            f"Essais prévus, en {french_duration(self._seconds)} environ : la durée d'une étape "
            f"de {len(_PROBED) + 2} formes ; {count + _COMPARED - 3} recettes ({compared}) ; trois "
            "tailles de modèle, à plusieurs durées chacune ; celle que la loi préfère et sa "
            "rivale, plus longtemps."
        )
        if not count:
            self._tell(
                f"Vocabulaire imposé : {names[0]}, {counted(text.vocab_size, 'token')} ; à des "
                "fragments, c'est `prepare` qui le donne."
            )
        if text.validation < _FEW_VALIDATION:
            self._tell(
                f"La validation n'a que {counted(text.validation, 'token')} : la perte annoncée "
                "ne vaut que pour eux. Une plus grande part à la validation la rendrait plus sûre."
            )

    def _measure_pace(self, recipe: Recipe, text: TextSize) -> Pace:
        """La durée d'une étape, de plusieurs tailles, contextes et lots."""
        shapes = [(recipe, LADDER[index]) for index in _PROBED]
        wide = replace(recipe, window=2 * recipe.window, batch_size=max(1, recipe.batch_size // 2))
        small = replace(recipe, batch_size=max(1, recipe.batch_size // 4))
        shapes.append((small, LADDER[_PROBED[1]]))
        if 4 * wide.step_tokens < text.unique and validates(wide.window, text):
            shapes.append((wide, LADDER[_PROBED[2]]))
        measured, evaluated, samples = [], [], []
        for each, body in shapes:
            found = self._lab.time(each, body)
            config = model_of(body, each, text.vocab_size)
            work = StepWork.of(config, window=each.window, sequences=each.batch_size)
            measured.append((work, found.step))
            evaluated.append(found.evaluation * each.step_tokens / found.step)
            samples.append(found.sample / body.n_layers)
        cost = fit_cost(measured)
        self._tell(
            f"Machine : une étape de {counted(len(measured), 'forme')}, retrouvées à "
            f"{decimal(100 * cost.error, 0)} % près."
        )
        return Pace(
            cost=cost, evaluated=statistics.median(evaluated), sample=statistics.median(samples)
        )

    def _first_recipe(self, recipe: Recipe, pace: Pace, text: TextSize) -> Recipe:
        """Du dropout, si une taille moyenne relirait bien des fois ; un lot qui laisse des pas."""
        while True:
            time = pace.of(LADDER[_PROBED[2]], recipe, text.vocab_size)
            steps = steps_within(time, recipe, 3600 * self._hours, text.unique)
            if steps >= _ENOUGH_STEPS or recipe.batch_size <= _SMALL_BATCH:
                break
            recipe = replace(recipe, batch_size=recipe.batch_size // 2)
        epochs = steps * recipe.step_tokens / text.unique
        dropout = first_recipe(recipe.tokenizer, text, epochs=epochs).drop_rate
        return replace(recipe, drop_rate=dropout)

    def _compare(self, names: Sequence[str], recipe: Recipe, pace: Pace) -> Recipe:
        """La meilleure recette, un réglage après l'autre, à durée égale."""
        seconds = _RECIPES * self._seconds / _COMPARED
        recipes = [replace(recipe, tokenizer=name) for name in reversed(names)]
        recipe = self._best("Vocabulaire", recipes, seconds, pace, lambda r: r.tokenizer)
        if seconds < _LEAST or self._is_late(_RECIPES):
            self._left.append("contextes, lots et taux, qui sont ceux d'usage")
            return recipe
        text = self._lab.text(recipe.tokenizer)
        unique, window, batch = text.unique, recipe.window, recipe.batch_size
        recipes = [
            replace(recipe, window=window * up // down, batch_size=max(1, batch * down // up))
            for up, down in ((2, 1), (1, 1), (1, 2))
        ]
        recipes = [
            each
            for each in recipes
            if (64 * each.window < unique and validates(each.window, text)) or each == recipe
        ]
        recipe = self._best("Contexte", recipes, seconds, pace, lambda r: f"{r.window} tokens")
        sizes = (2 * recipe.batch_size, recipe.batch_size, recipe.batch_size // 2)
        recipes = [replace(recipe, batch_size=each) for each in sizes if each > 0]
        recipes = [each for each in recipes if 8 * each.step_tokens < unique or each == recipe]
        recipe = self._best("Lot", recipes, seconds, pace, lambda r: str(r.batch_size))
        recipes = [replace(recipe, lr_scale=each) for each in (0.5, 1.0, 2.0)]
        recipe = self._best(
            "Taux d'apprentissage",
            recipes,
            seconds,
            pace,
            lambda r: f"× {short(r.lr_scale)}",
            close=_LONGER,
        )
        self._rated = max(each.steps for each in self._trials if each.recipe == recipe)
        return recipe

    def _best(
        self,
        title: str,
        recipes: Sequence[Recipe],
        seconds: float,
        pace: Pace,
        named: Callable[[Recipe], str],
        *,
        close: float = 0.004,
    ) -> Recipe:
        """La première recette de la liste dont la perte est, à `close` près, la plus basse."""
        if len(recipes) == 1:
            return recipes[0]
        tried = dict[Recipe, float]()
        for recipe in recipes:
            text = self._lab.text(recipe.tokenizer)
            body = self._probe(recipes[0], seconds, pace)
            time = pace.of(body, recipe, text.vocab_size)
            steps = max(MIN_STEPS, _chain_steps(time, seconds))
            lengths = chain_lengths(steps)[-2:]  # un petit texte s'apprend avant la fin
            tried[recipe] = min(self._try(recipe, body, lengths, text.unique))
        best = preferred(tried.items(), close)
        said = ", ".join(f"{named(each)} {decimal(loss, 3)}" for each, loss in tried.items())
        self._tell(f"{title} (bits par octet, à durée égale) : {said} → {named(best)}.")
        return best

    def _is_late(self, share: float) -> bool:
        """Vrai si cette part des minutes est bien dépassée."""
        return self._lab.spent > _LATE * share * self._seconds

    def _probe(self, recipe: Recipe, seconds: float, pace: Pace) -> Body:
        """La taille qui compare les recettes : la plus grande qui fasse assez d'étapes."""
        vocab_size = self._lab.text(recipe.tokenizer).vocab_size
        fits = [
            body
            for body in LADDER
            if pace.of(body, recipe, vocab_size).step * 3 * MIN_STEPS < seconds
        ]
        return fits[-1] if fits else LADDER[0]

    def _try_sizes(self, recipe: Recipe, pace: Pace, text: TextSize) -> None:
        """Les chaînes dont la loi s'ajuste : trois tailles, le texte entier puis une part relue."""
        seconds = _SIZES * self._seconds / _CHAINS
        times = [pace.of(body, recipe, text.vocab_size) for body in LADDER]
        affordable = [_chain_steps(time, seconds) for time in times]
        reread = int(EPOCHS * text.unique / recipe.step_tokens)  # au-delà, l'essai se gâte
        affordable = [min(each, max(4 * MIN_STEPS, reread)) for each in affordable]
        bodies = trial_bodies(affordable)
        parts = list[tuple[Body, int, float]]()  # étapes d'essai, et époques de l'entraînement
        mature = mature_steps(recipe, text.unique)
        for body in bodies:
            steps = max(2 * MIN_STEPS, affordable[LADDER.index(body)])
            if mature / 2 <= steps < mature:  # un peu plus de minutes, pour qu'il compte
                steps = mature
            most = steps_within(times[LADDER.index(body)], recipe, 3600 * self._hours, text.unique)
            steps = min(steps, max(2 * MIN_STEPS, most))
            parts.append((body, steps, most * recipe.step_tokens / text.unique))
        small, middle, large = parts
        chains = [(*small[:2], text.unique), (*middle[:2], text.unique)]
        # La part relue d'abord : sans elle, la loi croirait que relire ne coûte rien. Relue autant
        # que le ferait la plus grande des trois, dont le choix est plus proche.
        part = reread_tokens(middle[1] * recipe.step_tokens, large[2], text.unique, recipe)
        if part is not None:
            chains.append((*middle[:2], part))
        for body, steps, unique in chains:
            self._chain(recipe, body, steps, unique)
        enough = sum(each.recipe == recipe for each in self._trials) >= MIN_RUNS
        late = self._is_late(1 - sum(share for share, _ in _CONFIRMED))
        if enough and late and not self._knows(recipe, *large[:2]):
            self._left.append("la plus grande taille")
        else:
            self._chain(recipe, *large[:2], text.unique)

    def _lengths(self, recipe: Recipe, steps: int) -> tuple[int, ...]:
        whole = self._lab.text(recipe.tokenizer).unique
        least = max(MIN_STEPS, min(mature_steps(recipe, whole), steps // 2))  # deux, s'il se peut
        return chain_lengths(steps, least)

    def _knows(self, recipe: Recipe, body: Body, steps: int) -> bool:
        """Vrai si un plan d'avant a gardé cette série du texte entier : elle ne coûte rien."""
        whole = self._lab.text(recipe.tokenizer).unique
        return self._lab.knows(recipe, body, self._lengths(recipe, steps), whole)

    def _chain(self, recipe: Recipe, body: Body, steps: int, unique: int) -> None:
        losses = self._try(recipe, body, self._lengths(recipe, steps), unique)
        said = ", ".join(decimal(each, 3) for each in losses)
        epochs = steps * recipe.step_tokens / unique
        self._tell(
            f"Taille {body}, jusqu'à {counted(steps, 'étape')} ({short(epochs)} "
            f"{'époques' if epochs >= 2 else 'époque'}) : {said}."
        )

    def _try(self, recipe: Recipe, body: Body, lengths: Sequence[int], unique: int) -> list[float]:
        losses = self._lab.losses(recipe, body, lengths, unique)
        self._trials += [
            Trial(recipe=recipe, body=body, steps=steps, unique=unique, loss=loss)
            for steps, loss in losses.items()
        ]
        return list(losses.values())

    def _conclude(self, recipe: Recipe, pace: Pace, text: TextSize) -> Measures:
        trials = [each for each in self._trials if each.recipe == recipe]
        mature = mature_steps(recipe, text.unique)
        kept = useful(trials, least=MIN_RUNS, mature=mature)
        runs = [
            TrialRun(
                parameters=model_of(each.body, recipe, text.vocab_size).num_parameters(),
                tokens=each.steps * recipe.step_tokens,
                unique=each.unique,
                loss=each.loss,
            )
            for each in kept
        ]
        law = fit_law(runs)
        if sum(each.steps >= mature for each in kept) < MIN_RUNS:
            law = replace(law, noise=math.hypot(law.noise, _YOUNG))
        self._tell(
            f"Loi de perte : {counted(len(runs), 'essai')}, à {decimal(100 * law.noise, 1)} % près."
        )
        return Measures(
            recipe=recipe,
            text=text,
            pace=pace,
            law=law,
            largest=max(block_weights(each.body) for each in kept),
            memory=self._memory,
            startup=self._lab.startup(recipe.tokenizer) + _STARTUP,
            nats=self._lab.nats(recipe),
        )

    def _confirmed(self, measures: Measures) -> Measures:
        """La loi, approchée du choix par une série plus longue, puis de sa rivale par une autre.

        D'une même durée, deux tailles diffèrent peu, et leurs courbes se croisent : la loi des
        premières étapes ne suffit pas à les départager.
        """
        seen = set[Body]()
        for share, name in _CONFIRMED:
            choices = decide(measures, self._hours)
            worst = choices[0].loss * (1 + _RIVAL) if choices else 0.0
            rivals = [each for each in choices if each.body not in seen and each.loss <= worst]
            if seen:  # d'abord celle dont aucun essai n'a rien dit
                rivals.sort(key=lambda each: approach(each, measures.law) > 0)
            tries = [(each.body, self._affordable(each, share, measures)) for each in rivals]
            first = next(((body, steps) for body, steps in tries if steps), None)
            late = bool(seen) and self._is_late(1.0)
            if first is None or (late and not self._knows(measures.recipe, *first)):
                if tries:
                    self._left.append(name)
                break
            seen.add(first[0])
            self._chain(measures.recipe, *first, measures.text.unique)
            measures = self._conclude(measures.recipe, measures.pace, measures.text)
        return measures

    def _affordable(self, choice: Choice, share: float, measures: Measures) -> int:
        """Étapes d'un essai de ce choix dans cette part des minutes ; 0 : trop peu pour la loi."""
        recipe, text = measures.recipe, measures.text
        time = measures.pace.of(choice.body, recipe, text.vocab_size)
        left = max(0.1 * self._seconds, self._seconds - self._lab.spent)
        steps = min(choice.steps, _chain_steps(time, min(share * self._seconds, left)))
        return steps if steps >= min(choice.steps, mature_steps(recipe, text.unique)) else 0

    def _calibrated(self, choices: Sequence[Choice], measures: Measures) -> Decision:
        """Le meilleur choix, sa durée fixée par des étapes de sa propre forme, longtemps menées.

        S'il est bien plus lent que la loi de coût ne le dit, le suivant est mesuré à son tour ;
        tous les autres le seraient sans doute autant que le moins lent des deux.
        """
        first, *others = supported(choices, measures.law)
        timed = [self._timed(first, measures)]
        if others and timed[0][1] > _SLOWER:
            timed.append(self._timed(others[0], measures))
        pace = measures.pace.scaled(min(slower for _, slower in timed))
        measures = replace(measures, pace=pace)
        left = [choice for choice, _ in timed]
        bodies = {each.body for each in left}
        left += [each for each in decide(measures, self._hours) if each.body not in bodies]
        best, *others = supported(left, measures.law)
        while not best.measured:
            left[left.index(best)], _ = self._timed(best, measures)
            best, *others = supported(left, measures.law)
        return Decision(
            best=best,
            alternatives=tuple(others),
            trials=tuple(self._trials),
            measures=measures,
            hours=self._hours,
        )

    def _slowed(self, decision: Decision) -> Decision:
        """Le choix à un taux plus petit, s'il dure plus que les essais qui ont comparé les taux."""
        best = decision.best
        if not 0 < self._rated < best.steps:
            return decision
        scale = best.recipe.lr_scale * (self._rated / best.steps) ** _HORIZON
        recipe = replace(best.recipe, lr_scale=float(f"{scale:.2g}"))
        self._tell(
            f"Taux d'apprentissage : × {short(best.recipe.lr_scale)} à "
            f"{counted(self._rated, 'étape')} → × {short(recipe.lr_scale)} à "
            f"{counted(best.steps, 'étape')}."
        )
        return replace(decision, best=replace(best, recipe=recipe))

    def _timed(self, choice: Choice, measures: Measures) -> tuple[Choice, float]:
        """Ce choix, à la vraie durée de ses étapes ; et ce qu'elle est, en part de l'attendue."""
        sustained = min(_SUSTAINED * self._seconds, _LONGEST_PROBE)
        time = self._lab.time(measures.recipe, choice.body, sustained=sustained)
        left = 3600 * self._hours - measures.startup
        most = steps_within(time, measures.recipe, left, measures.text.unique)
        guessed = measures.pace.of(choice.body, measures.recipe, measures.text.vocab_size)
        before = steps_within(guessed, measures.recipe, left, measures.text.unique)
        share = choice.steps / max(1, before)  # moins que tout, si trop relire nuit
        steps = most if share > 0.999 else min(most, choice.steps)
        found = choice_of(measures, choice.body, max(MIN_STEPS, steps), time)
        return replace(found, measured=True), time.step / guessed.step


def _chain_steps(time: StepTime, seconds: float) -> int:
    """Étapes de la plus longue durée d'une chaîne qui tient dans ce temps."""
    left = seconds - LONGEST * (time.evaluation / 2 + _BUILD_SECONDS)  # la validation seule
    return int(left / (_CHAIN_STEPS * time.step))


def _check_text(text: TextSize) -> None:
    if text.unique < _MIN_TOKENS:
        raise DataError(
            f"part d'entraînement : texte trop court, {counted(text.unique, 'token')}",
            expected=f"au moins {_MIN_TOKENS} pour que des essais en apprennent quelque chose",
            remedy="donnez plus de texte, ou entraînez avec le préréglage eclair",
        )
    if text.validation <= 2 * SHORTEST:
        raise DataError(
            f"part de validation : texte trop court, {counted(text.validation, 'token')}",
            expected=f"plus de {2 * SHORTEST}, deux contextes des plus courts",
            remedy="donnez plus de texte, ou une plus grande part à la validation",
        )
