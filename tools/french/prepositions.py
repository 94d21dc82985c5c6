"""Élisions, contractions et prépositions."""

from __future__ import annotations

from itertools import product

from conjugation import verb
from lexicon import MEN, VOWEL_F, VOWEL_M
from registry import Sentences, phenomenon


@phenomenon("elision_article", "préposition")
def article_elision() -> Sentences:
    """« Le » et « la » s'élident devant une voyelle."""
    starts = ("Elle regarde", "Il dessine", "Nous aimons", "Voici", "Je connais", "Il a vu")
    for start, noun in product(starts, VOWEL_M + VOWEL_F):
        yield f"{start} [l'|{'la' if noun.feminine else 'le'} ]{noun.one}."


@phenomenon("elision_de", "préposition")
def de_elision() -> Sentences:
    """« De » s'élide devant une voyelle."""
    starts = ("Elle manque", "Il n'a plus", "Tu as assez", "On a trop", "Nous voulons un peu")
    for start, what in product(
        starts, ("argent", "eau", "air", "huile", "ombre", "herbe", "encre", "espoir", "amour")
    ):
        yield f"{start} [d'|de ]{what}."
    for start, friend in product(("Il parle", "Elle rêve", "On parle"), ("un ami", "une amie")):
        yield f"{start} [d'|de ]{friend}."
    for start, noun in product(("Il a beaucoup", "Elle a peu", "On voit trop"), VOWEL_M):
        yield f"{start} [d'|de ]{noun.many}."


@phenomenon("elision_ne", "préposition")
def ne_elision() -> Sentences:
    """« Ne » s'élide devant une voyelle."""
    actions = ("aimer", "écouter", "entrer", "attendre", "obéir", "ouvrir", "arriver", "oser")
    for action, (who, person) in product(
        actions, (("Il", 2), ("Elle", 2), ("Nous", 3), ("Vous", 4), ("Ils", 5), ("Tu", 1))
    ):
        form = verb(action).present[person]
        for end in ("pas", "plus", "jamais"):
            yield f"{who} [n'|ne ]{form} {end}."


GOES = ("Il va", "Elle pense", "Nous arrivons", "Ils retournent", "Tu restes", "Je suis")
LEAVES = ("Il vient", "Elle parle", "Nous sortons", "Ils rêvent", "Tu reviens", "On s'éloigne")
AROUND = (
    *("marché", "village", "château", "jardin", "port", "temple", "palais", "bureau", "lac"),
    *("bal", "puits"),
)


@phenomenon("contraction_au", "préposition")
def contracted_au() -> Sentences:
    """« À le » se contracte en « au »."""
    for start, place in product(GOES, (*AROUND, "champ")):
        yield f"{start} [au|à le] {place}."
    for start, noun in product(("Elle parle", "J'écris", "Il obéit", "On répond"), MEN):
        if not noun.vowel:
            yield f"{start} [au|à le] {noun.one}."


@phenomenon("contraction_du", "préposition")
def contracted_du() -> Sentences:
    """« De le » se contracte en « du »."""
    for start, place in product(LEAVES, AROUND):
        yield f"{start} [du|de le] {place}."
    for start, noun in product(("Voici le chien", "C'est la fille", "Il se plaint"), MEN):
        if not noun.vowel:
            yield f"{start} [du|de le] {noun.one}."


COUNTRIES_F = (
    *("France", "Italie", "Espagne", "Allemagne", "Suisse", "Belgique", "Grèce", "Suède"),
    *("Chine", "Russie", "Pologne", "Autriche", "Norvège", "Turquie", "Égypte"),
)
COUNTRIES_M = (
    *("Portugal", "Japon", "Canada", "Brésil", "Mexique", "Maroc", "Danemark", "Pérou", "Chili"),
    *("Sénégal", "Liban", "Mali", "Cameroun"),
)


@phenomenon("pays", "préposition")
def countries() -> Sentences:
    """« En » devant un pays féminin, « au » devant un masculin."""
    starts = ("Elle habite", "Nous allons", "Il travaille", "Ils vivent", "Je suis né")
    for start, country in product(starts, COUNTRIES_F):
        yield f"{start} [en|au] {country}."
    for start, country in product(starts, COUNTRIES_M):
        yield f"{start} [au|en] {country}."


WITH_A = (
    *("Elle apprend", "Nous réussissons", "Tu cherches", "Il hésite", "Je tiens"),
    *("On l'aide", "Elle se prépare", "Il renonce"),
)
WITH_DE = (
    *("Il refuse", "Elle accepte", "Nous décidons", "Tu oublies", "Ils craignent"),
    *("Ils promettent", "Je finis", "On rêve", "Elle regrette", "Il mérite"),
)


@phenomenon("regime_a_de", "préposition")
def governed_preposition() -> Sentences:
    """Chaque verbe veut sa préposition devant l'infinitif."""
    actions = ("chanter", "marcher", "travailler", "danser", "lire", "parler", "courir", "dormir")
    for start, action in product(WITH_A, actions):
        yield f"{start} [à|de] {action}."
    for start, action in product(WITH_DE, actions):
        yield f"{start} [de|à] {action}."
