"""Le verbe et son sujet : personne et nombre, à toute distance, et formes irrégulières."""

from __future__ import annotations

from itertools import product

from conjugation import Verb, elided, verb
from lexicon import KIN, MEN, PEOPLE, WOMEN
from registry import Sentences, phenomenon

# Ce que peut faire une personne, sans complément.
ACTIONS = tuple(
    verb(each)
    for each in (
        *("dormir", "partir", "travailler", "chanter", "attendre", "marcher", "boire", "rire"),
        *("mentir", "pleurer", "courir", "écouter", "réfléchir", "obéir", "prier", "manger"),
        *("danser", "jouer", "mourir", "revenir"),
    )
)
# Les mêmes, dont les deux formes diffèrent aussi à l'oreille, et que suit un mot court.
ADVERBS = {
    "dormir": "bien",
    "travailler": "bien",
    "chanter": "bien",
    "marcher": "vite",
    "courir": "vite",
    "manger": "bien",
    "danser": "bien",
    "écouter": "mal",
    "partir": "demain",
    "revenir": "demain",
    "attendre": "ici",
    "jouer": "ici",
}
PARENTS = ("père", "mère")
SEVERAL = tuple(each for each in KIN if each.one not in PARENTS)
"""Les parents dont on peut avoir plusieurs."""
STRANGERS = tuple(
    each for each in PEOPLE if each.one not in ("roi", "reine", "homme", "femme", "fille", *PARENTS)
)


def differing(action: Verb, tense: str, good: int, bad: int) -> str:
    """« [bonne|mauvaise] », ou rien si les deux personnes ont la même forme."""
    forms = getattr(action, tense)
    return f"[{forms[good]}|{forms[bad]}]" if forms[good] != forms[bad] else ""


@phenomenon("sujet_pluriel", "verbe")
def plural_subject() -> Sentences:
    """Le verbe s'accorde avec un sujet pluriel."""
    for noun, action in product(PEOPLE, ACTIONS):
        yield f"Les {noun.many} {differing(action, 'present', 5, 2)}."


@phenomenon("sujet_singulier", "verbe")
def singular_subject() -> Sentences:
    """Le verbe s'accorde avec un sujet singulier."""
    for noun, action in product(PEOPLE, ACTIONS):
        yield f"{noun.known.capitalize()} {differing(action, 'present', 2, 5)}."


@phenomenon("pronom_pluriel", "verbe")
def plural_pronoun() -> Sentences:
    """Le verbe s'accorde avec « nous », « vous », « ils »."""
    for action, tense in product(ACTIONS, ("present", "imperfect", "future")):
        for start, good, bad in (("Nous", 3, 4), ("Vous", 4, 3), ("Ils", 5, 3), ("Elles", 5, 2)):
            if action.infinitive in ADVERBS:
                end = ADVERBS[action.infinitive]
                if end != "demain" or tense != "imperfect":
                    yield f"{start} {differing(action, tense, good, bad)} {end}."


@phenomenon("pronom_singulier", "verbe")
def singular_pronoun() -> Sentences:
    """Le verbe s'accorde avec « je », « tu », « il »."""
    for action, tense in product(ACTIONS, ("present", "imperfect", "future")):
        for start, good, bad in (("Tu", 1, 2), ("Il", 2, 1), ("Elle", 2, 0), ("Je", 0, 2)):
            if (marked := differing(action, tense, good, bad)) and action.infinitive in ADVERBS:
                end = ADVERBS[action.infinitive]
                elided_start = start == "Je" and marked[1] in "aeé"
                if not elided_start and (end != "demain" or tense != "imperfect"):
                    yield f"{start} {marked} {end}."


@phenomenon("distance_complement", "verbe")
def complement_between() -> Sentences:
    """Le verbe s'accorde avec le nom, non avec son complément."""
    for noun, other, action in product(KIN, PEOPLE, ACTIONS):
        if noun.one[:4] != other.one[:4]:
            if noun in SEVERAL:
                yield f"Les {noun.many} {other.of_known} {differing(action, 'present', 5, 2)}."
            crowd = f"de mes {other.many}" if other in SEVERAL else f"des {other.many}"
            if other.one not in PARENTS:
                owner = f"{noun.the.capitalize()} {crowd}"
                yield f"{owner} {differing(action, 'present', 2, 5)}."


@phenomenon("distance_relative", "verbe")
def relative_between() -> Sentences:
    """Le verbe s'accorde avec le sujet, par-dessus une relative."""
    watchers = ("que le roi appelle", "que mon père connaît", "que la reine aime", "que tu vois")
    for noun, clause, action in product(STRANGERS, watchers, ACTIONS):
        yield f"Les {noun.many} {clause} {differing(action, 'present', 5, 2)}."
    crowds = ("que mes parents connaissent", "que les soldats cherchent")
    for noun, clause, action in product(STRANGERS, crowds, ACTIONS):
        yield f"{noun.the.capitalize()} {clause} {differing(action, 'present', 2, 5)}."


@phenomenon("sujet_coordonne", "verbe")
def coordinated_subject() -> Sentences:
    """Deux sujets unis par « et » veulent le pluriel."""
    for noun, other, action in product(MEN, WOMEN, ACTIONS):
        if noun.one[:4] != other.one[:4]:
            both = f"{noun.known.capitalize()} et {other.known}"
            yield f"{both} {differing(action, 'present', 5, 2)}."


@phenomenon("moi_qui", "verbe")
def person_of_the_antecedent() -> Sentences:
    """« C'est moi qui » et « c'est toi qui » donnent leur personne."""
    marked = [verb(each) for each in ("avoir", "être", "aller", "venir", "partir", "dormir")]
    marked += [verb(each) for each in ("boire", "attendre", "réfléchir", "courir", "mentir")]
    ends = {"avoir": "raison", "être": "ici", "aller": "loin", "venir": "demain"}
    for action, (start, good, bad) in product(
        marked,
        (
            *(("C'est moi qui", 0, 2), ("C'est toi qui", 1, 2), ("C'est nous qui", 3, 5)),
            *(("C'est vous qui", 4, 5), ("C'est lui qui", 2, 1)),
        ),
    ):
        for tense in ("present", "future"):
            if found := differing(action, tense, good, bad):
                end = ends.get(action.infinitive)
                yield f"{start} {found}{f' {end}' if end else ''}."


@phenomenon("sujet_inverse", "verbe")
def inverted_subject() -> Sentences:
    """Le verbe s'accorde avec un sujet qui le suit."""
    starts = (
        *("Voici la maison où", "Voilà le jardin où", "C'est la chambre où"),
        *("Je connais le lieu où", "Il cherche le champ où"),
    )
    for start, noun, action in product(
        starts, SEVERAL, ("dormir", "travailler", "vivre", "attendre")
    ):
        yield f"{start} {differing(verb(action), 'present', 5, 2)} mes {noun.many}."


@phenomenon("la_plupart", "verbe")
def most_of_them() -> Sentences:
    """« La plupart », « beaucoup », « peu » veulent le pluriel."""
    for start, noun, action in product(
        ("La plupart des", "Bien des", "Beaucoup de", "Peu de"), PEOPLE, ACTIONS
    ):
        head = start if start.endswith("des") else start.removesuffix(" de")
        what = noun.many if head == start else elided("de", noun.many)
        yield f"{head} {what} {differing(action, 'present', 5, 2)}."


@phenomenon("chacun", "verbe")
def each_of_them() -> Sentences:
    """« Chacun » et « aucun » veulent le singulier."""
    for noun, action in product(PEOPLE, ACTIONS):
        each = "Chacune" if noun.feminine else "Chacun"
        yield f"{each} des {noun.many} {differing(action, 'present', 2, 5)}."
        none, verb_forms = each.replace("Chac", "Auc"), differing(action, "present", 2, 5)
        if action.present[2][0] not in "aeéo":
            yield f"{none} des {noun.many} ne {verb_forms}."


IRREGULAR = (
    ("Vous", "faites", "faisez", "du bruit;du pain;le repas;la route"),
    ("Vous", "dites", "disez", "la vérité;son nom;bonjour;un mot"),
    ("Ils", "vont", "allent", "au marché;à la ville;chez eux;bien"),
    ("Ils", "font", "faisent", "du bruit;du pain;la paix;le repas"),
    ("Elles", "viennent", "venent", "demain;ce soir;de la ville"),
    ("Ils", "prennent", "prendent", "le train;du pain;la route"),
    ("Ils", "veulent", "voulent", "partir;du pain;la paix"),
    ("Elles", "peuvent", "pouvent", "venir;dormir;entrer"),
    ("Ils", "doivent", "devent", "partir;attendre;travailler"),
    ("Ils", "boivent", "buvent", "du vin;de l'eau;du lait"),
    ("Elles", "reçoivent", "recevent", "une lettre;des amis"),
    ("Ils", "tiennent", "tenent", "la corde;leur promesse"),
    ("Il", "viendra", "venira", "demain;ce soir;plus tard"),
    ("Elle", "verra", "voira", "la mer;son frère;la ville"),
    ("Il", "fera", "faira", "froid;beau;le repas;nuit"),
    ("Elle", "saura", "savera", "la vérité;lire;attendre"),
    ("Il", "tiendra", "tenira", "la corde;sa promesse"),
    ("Il", "voudra", "voulera", "partir;du pain;dormir"),
    ("Elle", "enverra", "envoyera", "une lettre;de l'argent"),
    ("Il", "courra", "courira", "plus vite;demain"),
    ("Nous", "irons", "allerons", "au marché;à la mer;chez toi"),
    ("Nous", "serons", "êtrons", "prêts;en retard;à la maison"),
    ("Nous", "aurons", "avoirons", "froid;du pain;le temps"),
    ("Nous", "pourrons", "pouverons", "venir;dormir;attendre"),
    ("Il a", "pris", "prendu", "le pain;la lettre;le train"),
    ("Il a", "mis", "metté", "son manteau;la table"),
    ("Elle a", "lu", "liré", "la lettre;le journal"),
    ("Il a", "bu", "boivé", "du lait;de l'eau;un verre"),
    ("Elle a", "vu", "voyé", "la mer;le roi;son frère"),
    ("Il a", "ouvert", "ouvri", "la porte;la lettre;le coffre"),
    ("Elle a", "offert", "offri", "un livre;une bague"),
    ("Il a", "écrit", "écrivé", "une lettre;son nom"),
    ("Il a", "peint", "peindu", "la porte;le mur"),
    ("Elle a", "cru", "croyé", "cette histoire;son frère"),
    ("Il a", "dû", "devu", "partir;attendre;dormir"),
    ("Elle a", "su", "savu", "la vérité;attendre"),
    ("Il a", "reçu", "recevu", "une lettre;des amis"),
    ("Ils ont", "vécu", "vivu", "ici;longtemps;à la mer"),
    ("Elle a", "couru", "couri", "très vite;longtemps"),
    ("Elle est", "née", "naîtue", "ici;hier;à la ville"),
    ("Il est", "mort", "mouru", "hier;ici;de froid"),
)


@phenomenon("conjugaison_irreguliere", "verbe")
def irregular_forms() -> Sentences:
    """Un verbe irrégulier ne se conjugue pas par analogie."""
    for start, good, bad, ends in IRREGULAR:
        for end in ends.split(";"):
            yield f"{start} [{good}|{bad}] {end}."


@phenomenon("passe_simple_nombre", "verbe")
def past_number() -> Sentences:
    """Le passé simple s'accorde en nombre."""
    for noun, action in product(PEOPLE, ACTIONS):
        yield f"Alors les {noun.many} {differing(action, 'past', 5, 2)}."
        yield f"Alors {noun.the} {differing(action, 'past', 2, 5)}."
