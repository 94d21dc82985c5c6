"""Temps, modes et participes : infinitif, auxiliaires, accords du participe, subjonctif."""

from __future__ import annotations

from itertools import product

from conjugation import agreed, elided, verb
from lexicon import KIN, PEOPLE
from registry import Sentences, phenomenon

MOVES = ("partir", "sortir", "dormir", "mentir", "courir", "venir", "revenir", "boire", "rire")
FIRST_GROUP = (
    *("voyager", "hésiter"),
    *("chanter", "danser", "marcher", "parler", "travailler", "manger", "jouer", "pleurer"),
    *("crier", "prier", "dessiner", "nager", "chercher", "voter", "trembler"),
)

ON_THE_WAY = (
    *("marcher", "courir", "rire", "pleurer", "chanter", "danser", "travailler", "manger"),
    *("jouer", "crier", "trembler", "dessiner", "nager", "boire", "voyager", "prier"),
)


@phenomenon("infinitif_modal", "temps")
def modal_infinitive() -> Sentences:
    """Après « vouloir », « pouvoir », « devoir », l'infinitif."""
    for action, modal, (person, start) in product(
        MOVES, ("vouloir", "pouvoir", "devoir"), ((2, "Elle"), (0, "Je"), (5, "Ils"), (3, "Nous"))
    ):
        form = verb(action).present[person]
        yield f"{start} {verb(modal).present[person]} [{action}|{form}]."


@phenomenon("infinitif_preposition", "temps")
def preposition_infinitive() -> Sentences:
    """Après une préposition, l'infinitif, non le participe."""
    starts = ("Il est parti sans", "Elle est venue pour", "Je suis là pour", "Ils restent sans")
    for start, action in product(starts, FIRST_GROUP):
        yield f"{start} [{action}|{verb(action).participle}]."
    for start, action in product(("Il commence à", "Elle aime", "Je viens de"), FIRST_GROUP):
        yield f"{start} [{action}|{verb(action).participle}]."


@phenomenon("participe_avoir", "temps")
def participle_after_avoir() -> Sentences:
    """Après « avoir », le participe, non l'infinitif."""
    starts = ("Il a", "Elles ont", "Nous avons", "J'ai trop", "Tu as bien", "Vous avez assez")
    for start, action in product(starts, FIRST_GROUP):
        yield f"{start} [{verb(action).participle}|{action}]."


@phenomenon("auxiliaire_etre", "temps")
def etre_auxiliary() -> Sentences:
    """Les verbes de mouvement prennent « être »."""
    moved = ("venu", "parti", "arrivé", "revenu", "resté", "allé là-bas")
    subjects = ((2, "Hier, mon père", ""), (2, "Hier, il", ""), (5, "Hier, mes frères", "s"))
    more = ((2, "Hier, ma mère", "e"), (5, "Hier, mes sœurs", "es"), (3, "Hier, nous", "s"))
    for (person, start, mark), past in product((*subjects, *more), moved):
        first, *rest = past.split()
        pair = f"[{verb('être').present[person]}|{verb('avoir').present[person]}]"
        yield f"{start} {pair} {' '.join([first + mark, *rest])}."
    for noun, past in product(KIN, ("venu", "parti", "arrivé", "revenu", "resté", "tombé")):
        yield f"Enfin, {noun.my} [est|a] {agreed(past, feminine=noun.feminine)}."


@phenomenon("auxiliaire_avoir", "temps")
def avoir_auxiliary() -> Sentences:
    """Les autres verbes prennent « avoir »."""
    # Aucun qui ait un passif : « il est chanté » se dit.
    done = ("dormi", "marché", "parlé", "couru", "ri", "menti", "voyagé", "nagé", "tremblé", "dîné")
    subjects = (
        (2, "Hier, mon père"),
        (2, "Hier, elle"),
        (5, "Hier, mes frères"),
        (3, "Hier, nous"),
    )
    for (person, start), past in product(subjects, done):
        pair = f"[{verb('avoir').present[person]}|{verb('être').present[person]}]"
        yield f"{start} {pair} {past}."
    for noun, past in product(KIN, done):
        yield f"Enfin, {noun.my} [a|est] {past}."


@phenomenon("auxiliaire_pronominal", "temps")
def pronominal_auxiliary() -> Sentences:
    """Un verbe pronominal prend « être »."""
    done = ("levé", "lavé", "caché", "trompé", "réveillé", "couché", "assis", "enfui", "blessé")
    for noun, past in product(PEOPLE, done):
        yield f"{noun.known.capitalize()} s'[est|a] {agreed(past, feminine=noun.feminine)}."


@phenomenon("participe_etre_genre", "temps")
def participle_gender() -> Sentences:
    """Après « être », le participe s'accorde en genre."""
    done = ("parti", "venu", "arrivé", "sorti", "tombé", "revenu", "entré", "mort")
    for noun, past in product(PEOPLE, done):
        good, bad = (agreed(past, feminine=each) for each in (noun.feminine, not noun.feminine))
        yield f"{noun.known.capitalize()} est [{good}|{bad}]."


@phenomenon("participe_etre_nombre", "temps")
def participle_number() -> Sentences:
    """Après « être », le participe s'accorde en nombre."""
    done = ("parti", "venu", "arrivé", "sorti", "tombé", "revenu", "entré", "mort")
    for noun, past in product(PEOPLE, done):
        good, bad = (agreed(past, feminine=noun.feminine, plural=each) for each in (True, False))
        yield f"Les {noun.many} sont [{good}|{bad}]."


# Ce qu'on fait, et à quoi : les noms portent leur genre.
OBJECTS = {
    "écrire": ("lettre f", "lettres fs", "histoire f", "lignes fs"),
    "ouvrir": ("porte f", "boîte f", "portes fs", "fenêtres fs"),
    "offrir": ("bague f", "robe f", "fleurs fs", "oranges fs"),
    "prendre": ("ville f", "route f", "clés fs", "photos fs"),
    "peindre": ("porte f", "chaise f", "maisons fs", "tables fs"),
    "mettre": ("robe f", "ceinture f", "bottes fs", "chemises fs"),
    "construire": ("maison f", "route f", "tables fs", "fermes fs"),
    "couvrir": ("table f", "marmite f", "boîtes fs", "chaises fs"),
    "dire": ("chose f", "choses fs", "paroles fs"),
    "faire": ("erreur f", "erreurs fs", "promesse f", "promesses fs"),
}


@phenomenon("participe_cod_que", "temps")
def participle_after_que() -> Sentences:
    """Le participe s'accorde avec le complément qui le précède."""
    for action, things in OBJECTS.items():
        past = verb(action).participle
        for thing, (who, person) in product(things, (("il", "a"), ("tu", "as"), ("elles", "ont"))):
            noun, mark = thing.split()
            good = agreed(past, feminine=True, plural=mark == "fs")
            what = f"les {noun}" if mark == "fs" else elided("la", noun)
            yield f"Voici {what} {elided('que', who)} {person} [{good}|{past}]."


@phenomenon("participe_cod_apres", "temps")
def participle_before_object() -> Sentences:
    """Le participe ne s'accorde pas avec ce qui le suit."""
    for action, things in OBJECTS.items():
        past = verb(action).participle
        for thing, who in product(things, ("Il a", "Elle a", "Ils ont", "Nous avons")):
            noun, mark = thing.split()
            bad = agreed(past, feminine=True, plural=mark == "fs")
            yield f"{who} [{past}|{bad}] {'des' if mark == 'fs' else 'une'} {noun}."


@phenomenon("participe_passif", "temps")
def passive() -> Sentences:
    """Au passif, le participe s'accorde avec le sujet."""
    for action, things in OBJECTS.items():
        past = verb(action).participle
        for thing, (tense, tenses) in product(
            things, (("est", "sont"), ("a été", "ont été"), ("sera", "seront"))
        ):
            noun, mark = thing.split()
            many = mark == "fs"
            good = agreed(past, feminine=True, plural=many)
            start = f"Cette {noun}" if not many else f"Ces {noun}"
            yield f"{start} {tenses if many else tense} [{good}|{past}]."


SUBJUNCTIVES = tuple(
    verb(each)
    for each in (
        *("venir", "partir", "dormir", "sortir", "revenir", "mentir", "boire", "être", "avoir"),
        *("faire", "savoir", "aller", "dire", "prendre", "obéir", "réfléchir", "attendre"),
    )
)
_ENDS = {
    **{"être": " prudent", "avoir": " raison", "faire": " attention", "savoir": " lire"},
    **{"aller": " bien", "dire": " la vérité", "prendre": " du pain"},
}


def _mood(start: str, person: int, *, subjunctive: bool) -> Sentences:
    for action in SUBJUNCTIVES:
        forms = action.subjunctive[person], action.present[person]
        good, bad = forms if subjunctive else forms[::-1]
        if good != bad and action.infinitive[:5] not in start:
            yield f"{start} [{good}|{bad}]{_ENDS.get(action.infinitive, '')}."


@phenomenon("subjonctif_que", "temps")
def subjunctive_after_verbs() -> Sentences:
    """« Il faut que », « je veux que » veulent le subjonctif."""
    for start in ("Il faut", "Je veux", "Elle souhaite", "Nous voulons", "Il attend"):
        yield from _mood(f"{start} que tu", 1, subjunctive=True)
        yield from _mood(f"{start} qu'il", 2, subjunctive=True)


@phenomenon("indicatif_que", "temps")
def indicative_after_verbs() -> Sentences:
    """« Je sais que », « on raconte que » veulent l'indicatif."""
    for start in ("Je sais", "Je crois", "Elle voit", "Nous savons", "On raconte"):
        yield from _mood(f"{start} que tu", 1, subjunctive=False)
        yield from _mood(f"{start} qu'il", 2, subjunctive=False)


@phenomenon("si_imparfait", "temps")
def imperfect_after_if() -> Sentences:
    """Après « si », l'imparfait, non le conditionnel."""
    mains = (
        *("Je serais content", "Elle viendrait", "Nous serions heureux", "Il chanterait"),
        *("Tout irait mieux",),
    )
    actions = ("venir", "partir", "dormir", "sortir", "revenir", "boire", "attendre", "travailler")
    for main, action, (who, person) in product(
        mains, actions, (("tu", 1), ("vous", 4), ("elles", 5))
    ):
        found = verb(action)
        yield f"{main} si {who} [{found.imperfect[person]}|{found.conditional[person]}]."


@phenomenon("gerondif", "temps")
def gerund() -> Sentences:
    """Après « en », le participe présent, non l'infinitif."""
    starts = ("Elle parle en", "Il pense en", "On apprend en", "Ils arrivent en", "Je réponds en")
    for start, action in product((*starts, "Tu reviens en", "Nous l'attendons en"), ON_THE_WAY):
        yield f"{start} [{verb(action).gerund}|{action}]."
