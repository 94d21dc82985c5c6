"""Le groupe nominal : déterminants, adjectifs, attributs et pluriels."""

from __future__ import annotations

from itertools import product

from lexicon import (
    BEFORE,
    CARRIED,
    COLOURS,
    KIN,
    PEOPLE,
    PLACES_F,
    PLACES_M,
    STATES,
    THINGS,
    TRAITS,
    VOWEL_F,
    VOWEL_M,
    Noun,
)
from registry import Sentences, phenomenon

FINDS = (
    *("Elle cherche", "Il a perdu", "Nous avons vendu", "Tu as trouvé", "Ils regardent"),
    *("Elle a posé", "Il apporte", "Vous avez oublié", "Elles ont pris", "Je rapporte"),
)
SEES = ("Elle visite", "Nous aimons", "Il traverse", "Ils ont quitté", "Je connais")


def wrong(noun: Noun, masculine: str, feminine: str) -> str:
    """« [la|le] » : la forme du genre du nom, puis l'autre."""
    return f"[{feminine}|{masculine}]" if noun.feminine else f"[{masculine}|{feminine}]"


@phenomenon("article_genre", "nom")
def article_gender() -> Sentences:
    """L'article défini s'accorde en genre avec le nom."""
    for start, noun in product(FINDS, THINGS):
        yield f"{start} {wrong(noun, 'le', 'la')} {noun.one}."
    for start, noun in product(SEES, PLACES_M + PLACES_F):
        yield f"{start} {wrong(noun, 'le', 'la')} {noun.one}."


@phenomenon("possessif_genre", "nom")
def possessive_gender() -> Sentences:
    """Le possessif s'accorde en genre avec ce qui est possédé."""
    mine = (("Il a oublié", "s"), ("Elle range", "s"), ("J'ai perdu", "m"), ("Je cherche", "m"))
    for (start, owner), noun in product((*mine, ("Tu as pris", "t"), ("Tu portes", "t")), CARRIED):
        if start != "Tu portes" or noun.one in ("manteau", "chapeau", "robe", "chemise", "bague"):
            yield f"{start} {wrong(noun, f'{owner}on', f'{owner}a')} {noun.one}."


@phenomenon("cet_devant_voyelle", "nom")
def vowel_demonstrative() -> Sentences:
    """« Ce » devient « cet » devant une voyelle."""
    for start, noun in product(("Je connais", "Elle regarde", "Nous aimons", "Il a vu"), VOWEL_M):
        yield f"{start} [cet|ce] {noun.one}."
    for start, noun in product(("Elle parle de", "Il rêve de", "Que faire de"), VOWEL_M):
        yield f"{start} [cet|ce] {noun.one}{' ?' if start[0] == 'Q' else '.'}"


@phenomenon("possessif_devant_voyelle", "nom")
def vowel_possessive() -> Sentences:
    """« Ma », « ta », « sa » changent devant une voyelle."""
    starts = (
        *(("C'est", "m"), ("Voici", "m"), ("Il aime", "s"), ("Elle montre", "s")),
        *(("Tu gardes", "t"), ("Où est", "t"), ("Ils ont vu", "t")),
    )
    owned = [each for each in VOWEL_F if each.one not in ("eau", "herbe", "orange")]
    for (start, owner), noun in product(starts, owned):
        yield f"{start} [{owner}on|{owner}a] {noun.one}{' ?' if start[0] == 'O' else '.'}"


@phenomenon("nom_pluriel", "nom")
def plural_noun() -> Sentences:
    """Un nom s'accorde en nombre avec son déterminant pluriel."""
    starts = ("Elle a perdu ses", "Il range les", "Voici deux", "Nous vendons nos", "Prends ces")
    for start, noun in product(starts, THINGS):
        if noun.one != noun.many:
            yield f"{start} [{noun.many}|{noun.one}]."


@phenomenon("epithete_genre", "nom")
def following_adjective() -> Sentences:
    """L'adjectif qui suit le nom s'accorde en genre."""
    for noun, adjective in product(THINGS, COLOURS):
        good, bad = (adjective.form(feminine=each) for each in (noun.feminine, not noun.feminine))
        for start in ("Il a", "Elle achète", "Voilà"):
            yield f"{start} {noun.a} [{good}|{bad}]."


@phenomenon("epithete_nombre", "nom")
def following_plural() -> Sentences:
    """L'adjectif qui suit le nom s'accorde en nombre."""
    for noun, adjective in product(THINGS, TRAITS):
        good, bad = (adjective.form(feminine=noun.feminine, plural=each) for each in (True, False))
        if good != bad:
            for start in ("Il a des", "Elle achète deux", "On voit des"):
                yield f"{start} {noun.many} [{good}|{bad}]."


@phenomenon("antepose_genre", "nom")
def preceding_adjective() -> Sentences:
    """L'adjectif qui précède le nom s'accorde en genre."""
    places = product(("Elle habite", "Ils ont vu", "Nous cherchons"), PLACES_M[:3] + PLACES_F)
    things = product(("Il a acheté", "Elle porte", "C'est"), THINGS)
    for (start, noun), adjective in product((*places, *things), BEFORE):
        if adjective.m == "long" and noun.one not in ("rue", "corde", "manteau", "robe", "bâton"):
            continue
        if adjective.m == "gros" and noun in PLACES_F:
            continue
        article = "une" if noun.feminine else "un"
        if start in ("Elle habite", "Elle porte") and noun.one not in (
            *("maison", "ville", "ferme", "village", "château"),
            *("robe", "chemise", "manteau", "chapeau", "collier", "sac", "bague", "lampe", "corde"),
        ):
            continue
        good, bad = (adjective.form(feminine=each) for each in (noun.feminine, not noun.feminine))
        yield f"{start} {article} [{good}|{bad}] {noun.one}."


@phenomenon("bel_nouvel_vieil", "nom")
def vowel_adjective() -> Sentences:
    """« Beau », « nouveau », « vieux » changent devant une voyelle."""
    pairs = (("bel", "beau"), ("nouvel", "nouveau"), ("vieil", "vieux"))
    for start, noun, (good, bad) in product(
        ("C'est un", "Il a vu un", "Voici un", "Elle dessine un"), VOWEL_M, pairs
    ):
        if noun.one != "enfant" or good == "bel":
            yield f"{start} [{good}|{bad}] {noun.one}."


@phenomenon("attribut_genre", "nom")
def predicate_gender() -> Sentences:
    """L'attribut s'accorde en genre avec le sujet."""
    for noun, adjective in product(PEOPLE, STATES):
        good, bad = (adjective.form(feminine=each) for each in (noun.feminine, not noun.feminine))
        yield f"{noun.known.capitalize()} est [{good}|{bad}]."


@phenomenon("attribut_nombre", "nom")
def predicate_number() -> Sentences:
    """L'attribut s'accorde en nombre avec le sujet."""
    for noun, adjective in product(PEOPLE, STATES):
        good, bad = (adjective.form(feminine=noun.feminine, plural=each) for each in (True, False))
        if good != bad:
            yield f"Les {noun.many} sont [{good}|{bad}]."


@phenomenon("attribut_distance", "nom")
def predicate_distance() -> Sentences:
    """L'attribut s'accorde avec le sujet, non avec le nom voisin."""
    for noun, other, adjective in product(KIN, PEOPLE, STATES):
        if noun.feminine != other.feminine and noun.one[:4] != other.one[:4]:
            good, bad = (adjective.form(feminine=each) for each in (noun.feminine, other.feminine))
            yield f"{noun.the.capitalize()} {other.of_known} est [{good}|{bad}]."


@phenomenon("attribut_coordonne", "nom")
def predicate_coordination() -> Sentences:
    """Deux sujets, l'un masculin : l'attribut est masculin pluriel."""
    for man, woman, adjective in product(KIN, KIN, STATES):
        good, bad = (adjective.form(feminine=each, plural=True) for each in (False, True))
        if woman.feminine and not man.feminine and man.one[:4] != woman.one[:4]:
            yield f"{man.my.capitalize()} et {woman.my} sont [{good}|{bad}]."


@phenomenon("pluriel_en_aux", "nom")
def irregular_plural() -> Sentences:
    """Le pluriel en « -aux », et en « -x » de quelques noms."""
    groups = (
        ("cheval animal", ("Il nourrit les", "Elle aime les", "On soigne deux", "Voici nos")),
        ("journal", ("Il lit les", "Elle vend des", "On jette les", "Voici nos")),
        ("hôpital canal tribunal", ("On ferme les", "Il a vu deux", "Voilà des", "On bâtit des")),
        ("général amiral", ("Le roi reçoit ses", "On écoute les", "Il obéit aux", "Voici deux")),
        ("signal", ("Elle attend des", "Il envoie deux", "On voit les", "Voilà trois")),
        ("cristal métal", ("Il étudie les", "Elle vend des", "On chauffe deux", "Voilà des")),
        ("bocal", ("Elle remplit les", "Il casse deux", "On lave les", "Voilà trois")),
    )
    for words, starts in groups:
        for word, start in product(words.split(), starts):
            yield f"{start} [{word[:-1]}ux|{word}s]."
    for word, start in product(
        ["bijou", "caillou", "chou", "genou", "hibou", "joujou"],
        ("Il dessine des", "Elle a deux", "Voici des"),
    ):
        yield f"{start} [{word}x|{word}s]."
    for word, start in product(
        [
            "bateau",
            "chapeau",
            "couteau",
            "gâteau",
            "manteau",
            "oiseau",
            "seau",
            "tableau",
            "château",
        ],
        ("Il voit des", "Elle dessine deux", "Voici trois", "On admire les"),
    ):
        yield f"{start} [{word}x|{word}s]."
    for word, start in product(("cheveu", "feu", "jeu", "neveu"), ("Il parle des", "Voilà des")):
        yield f"{start} [{word}x|{word}s]."
