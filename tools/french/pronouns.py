"""Négation, pronoms et interrogation."""

from __future__ import annotations

from itertools import product

from agreement import ACTIONS
from conjugation import verb
from lexicon import KIN, PEOPLE
from registry import Sentences, phenomenon

SUBJECTS = (("Je", 0), ("Tu", 1), ("Il", 2), ("Elle", 2), ("Nous", 3), ("Vous", 4), ("Ils", 5))


@phenomenon("negation_ordre", "pronom")
def negation_order() -> Sentences:
    """« Pas », « plus », « jamais » suivent le verbe."""
    for action, (who, person), word in product(ACTIONS, SUBJECTS, ("pas", "plus", "jamais")):
        form = action.present[person]
        if not form.startswith(("a", "é", "o")):
            yield f"{who} ne [{form} {word}|{word} {form}]."


@phenomenon("negation_compose", "pronom")
def compound_negation() -> Sentences:
    """Au passé composé, « pas » suit l'auxiliaire."""
    done = (
        "dormi",
        "mangé",
        "chanté",
        "travaillé",
        "menti",
        "couru",
        "dansé",
        "ri",
        "bu",
        "joué",
        "crié",
    )
    for past, (who, form), word in product(
        done,
        (
            ("Il n'", "a"),
            ("Elles n'", "ont"),
            ("Nous n'", "avons"),
            ("Tu n'", "as"),
            ("Je n'", "ai"),
        ),
        ("pas", "plus"),
    ):
        yield f"{who}{form} [{word} {past}|{past} {word}]."


@phenomenon("negation_rien_place", "pronom")
def nothing_before_participle() -> Sentences:
    """Au passé composé, « rien » précède le participe."""
    done = ("vu", "dit", "mangé", "fait", "pris", "bu", "trouvé", "compris", "acheté", "entendu")
    for past, who in product(
        done,
        (
            *("Je n'ai", "Tu n'as", "Il n'a", "Elle n'a", "Nous n'avons", "Vous n'avez"),
            *("Ils n'ont", "On n'a", "Mon père n'a", "Ma mère n'a", "Mes frères n'ont"),
        ),
    ):
        yield f"{who} [rien {past}|{past} rien]."


@phenomenon("clitique_place", "pronom")
def clitic_place() -> Sentences:
    """Le pronom complément précède le verbe."""
    actions = ("voir", "connaître", "chercher", "prendre", "suivre", "mettre", "lire", "vendre")
    for action, (who, person), pronoun in product(actions, SUBJECTS, ("le", "la", "les")):
        form = verb(action).present[person]
        if pronoun == "les" or action not in ("lire",):
            yield f"{who} [{pronoun} {form}|{form} {pronoun}]."


@phenomenon("clitique_ordre", "pronom")
def clitic_order() -> Sentences:
    """« Me le », « te la », mais « le lui », « les leur »."""
    actions = ("donner", "rendre", "montrer", "vendre", "prendre", "lire", "porter")
    first = (("me", "le"), ("te", "la"), ("nous", "les"), ("vous", "le"), ("me", "les"))
    third = (("le", "lui"), ("la", "leur"), ("les", "lui"), ("les", "leur"))
    for action, (one, two), who in product(actions, (*first, *third), ("Il", "Elle", "Mon père")):
        if action != "prendre" or two != "leur":
            yield f"{who} [{one} {two}|{two} {one}] {verb(action).present[2]}."


@phenomenon("clitique_imperatif", "pronom")
def imperative_clitic() -> Sentences:
    """À l'impératif, « moi » et « toi » après le verbe."""
    calls = ("Ami,", "Mon fils,", "Ma fille,", "Vite,", "Allons,")
    forms = ("regarde", "cherche", "suis", "crois", "parle", "montre", "cache", "laisse", "sers")
    for call, form in product(calls, forms):
        yield f"{call} {form}-[moi|me] !"
    for call, form in product(
        calls, ("lève", "cache", "tourne", "lave", "couche", "sers", "calme")
    ):
        yield f"{call} {form}-[toi|te] !"
    for call, form in product(calls, ("prends", "vends", "mets", "suis", "cherche", "cache")):
        yield f"{call} {form}-[le|il] !"


@phenomenon("lui_ou_le", "pronom")
def indirect_or_direct() -> Sentences:
    """« Lui » et « leur » pour « à quelqu'un », sinon « le » et « les »."""
    for action, (who, person) in product(("sourire", "mentir", "résister", "répondre"), SUBJECTS):
        for indirect, direct in (("lui", "le"), ("leur", "les"), ("lui", "la")):
            if (action, direct) != ("sourire", "la"):  # « la souris » se lit autrement
                yield f"{who} [{indirect}|{direct}] {verb(action).present[person]}."
    for action, (who, person) in product(("voir", "connaître", "regarder", "inviter"), SUBJECTS):
        yield f"{who} [les|leur] {verb(action).present[person]}."


@phenomenon("pronom_tonique", "pronom")
def stressed_pronoun() -> Sentences:
    """Après une préposition, « moi », « toi », « eux »."""
    starts = (
        *(
            "Il part avec",
            "Elle vient chez",
            "Nous parlons de",
            "Il compte sur",
            "On est venu pour",
        ),
        *("Elle chante sans", "Ils courent vers", "Je marche derrière", "Tu restes près de"),
    )
    pairs = (("moi", "me"), ("toi", "te"), ("eux", "ils"), ("lui", "il"), ("elles", "les"))
    for start, (good, bad) in product(starts, (*pairs, ("moi", "je"), ("toi", "tu"))):
        same = {"moi": ("Je",), "toi": ("Tu",), "eux": ("Ils",), "lui": ()}
        if start.split()[0] not in same.get(good, ()) and (good[0] not in "e" or "de" not in start):
            yield f"{start} [{good}|{bad}]."
    for noun, (good, bad) in product(KIN, pairs[:4]):
        yield f"Voilà {noun.my} avec [{good}|{bad}]."


@phenomenon("reflexif_personne", "pronom")
def reflexive_person() -> Sentences:
    """Le pronom réfléchi a la personne du sujet."""
    actions = (
        *("lever", "laver", "cacher", "tromper", "promener", "coucher", "perdre", "taire"),
        *("blesser", "fâcher"),
    )
    # À la troisième personne, « ils nous lavent » se dit.
    subjects = (("Je", 0, "me"), ("Tu", 1, "te"), ("Nous", 3, "nous"), ("Vous", 4, "vous"))
    for action, (who, person, pronoun) in product(actions, subjects):
        for end in ("", " souvent", " trop"):
            if not end or action not in ("lever", "taire"):
                yield f"{who} [{pronoun}|se] {verb(action).present[person]}{end}."


@phenomenon("qui_ou_que", "pronom")
def who_or_whom() -> Sentences:
    """« Qui » sujet, « que » complément."""
    for noun, action in product(PEOPLE, ACTIONS):
        form = action.present[2]
        if form[0] not in "aéo":
            yield f"Je vois {noun.the} [qui|que] {form}."
    for noun, who in product(PEOPLE, ("je", "tu", "nous")):
        form = verb("chercher").present[{"je": 0, "tu": 1, "nous": 3}[who]]
        yield f"Voilà {noun.the} [que|qui] {who} {form}."


@phenomenon("interrogation_t", "pronom")
def euphonic_t() -> Sentences:
    """Un « t » sépare deux voyelles dans l'inversion."""
    actions = ("venir", "dormir", "partir", "chanter", "boire", "travailler", "danser", "être")
    words = ("Quand", "Où", "Pourquoi", "Comment")
    for start, action, who in product(words, actions, ("il", "elle")):
        yield f"{start} {verb(action).future[2]}[-t-|-]{who} ?"
    for start, form, who in product(
        words,
        ("chante", "danse", "travaille", "parle", "joue"),
        ("il", "elle", "on"),
    ):
        yield f"{start} {form}[-t-|-]{who} ?"
