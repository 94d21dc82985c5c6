"""Le petit lexique des paires : noms et adjectifs courants, avec leur genre et leur nombre.

Écrit pour ce projet ; `check.py` le confronte à Lexique 3, mot par mot.
"""

from __future__ import annotations

from dataclasses import dataclass

_CLOSE = frozenset(
    (
        *("père", "frère", "oncle", "ami", "voisin", "cousin"),
        *("mère", "sœur", "tante", "amie", "voisine", "cousine"),
    )
)
"""Ceux dont on dit « mon », « ma » sans en dire plus."""


@dataclass(frozen=True)
class Noun:
    """Un nom commun.

    Attributes:
        one: son singulier.
        many: son pluriel.
        feminine: son genre.
    """

    one: str
    many: str
    feminine: bool

    @property
    def the(self) -> str:
        """« le père », « la mère », « l'ami »."""
        if self.vowel:
            return f"l'{self.one}"
        return f"{'la' if self.feminine else 'le'} {self.one}"

    @property
    def a(self) -> str:
        """« un père », « une mère »."""
        return f"{'une' if self.feminine else 'un'} {self.one}"

    @property
    def of(self) -> str:
        """« du père », « de la mère », « de l'ami »."""
        return f"du {self.one}" if self.the.startswith("le ") else f"de {self.the}"

    @property
    def to(self) -> str:
        """« au père », « à la mère », « à l'ami »."""
        return f"au {self.one}" if self.the.startswith("le ") else f"à {self.the}"

    @property
    def his(self) -> str:
        """« son père », « sa mère », « son amie »."""
        return f"{'sa' if self.feminine and not self.vowel else 'son'} {self.one}"

    @property
    def my(self) -> str:
        """« mon père », « ma mère », « mon amie »."""
        return f"m{self.his[1:]}"

    @property
    def known(self) -> str:
        """« mon père » pour un proche, « le roi » sinon."""
        return self.my if self.one in _CLOSE else self.the

    @property
    def of_known(self) -> str:
        """« de mon père », « du roi », « de la reine »."""
        return f"de {self.my}" if self.one in _CLOSE else self.of

    @property
    def vowel(self) -> bool:
        """Vrai s'il commence par une voyelle ou un h muet."""
        return self.one[0] in "aeiouéèêâîôh"


@dataclass(frozen=True)
class Adjective:
    """Un adjectif, à ses quatre formes."""

    m: str
    f: str
    ms: str
    fs: str

    def form(self, *, feminine: bool, plural: bool = False) -> str:
        """La forme accordée."""
        if plural:
            return self.fs if feminine else self.ms
        return self.f if feminine else self.m


def _nouns(words: str, *, feminine: bool) -> tuple[Noun, ...]:
    """Des noms ; « cheval:chevaux » quand le pluriel ne prend pas seulement un « s »."""
    found = []
    for word in words.split():
        one, _, many = word.partition(":")
        found.append(Noun(one, many or (one if one[-1] in "sxz" else f"{one}s"), feminine))
    return tuple(found)


def _adjectives(words: str) -> tuple[Adjective, ...]:
    """Des adjectifs : « masculin/féminin », ou « masculin/féminin/masculin pluriel »."""
    found = []
    for word in words.split():
        m, f, *plural = word.split("/")
        ms = plural[0] if plural else (m if m[-1] in "sx" else f"{m}s")
        found.append(Adjective(m, f, ms, f"{f}s"))
    return tuple(found)


MEN = _nouns(
    "père frère oncle roi ami voisin garçon soldat berger pêcheur médecin marchand homme "
    "prince cousin boulanger",
    feminine=False,
)
WOMEN = _nouns(
    "mère sœur tante reine amie voisine fille servante bergère femme marchande princesse "
    "cousine boulangère",
    feminine=True,
)
PEOPLE = MEN + WOMEN
KIN = tuple(each for each in PEOPLE if each.one in _CLOSE)

THINGS_M = _nouns(
    "couteau:couteaux manteau:manteaux chapeau:chapeaux panier bâton tapis banc sac collier "
    "gâteau:gâteaux seau:seaux verre miroir coffre pinceau:pinceaux ruban",
    feminine=False,
)
THINGS_F = _nouns(
    "table chaise lampe lettre robe chemise clé corde coupe bague cloche couverture "
    "ceinture bouteille cruche boîte",
    feminine=True,
)
THINGS = THINGS_M + THINGS_F
CARRIED = tuple(
    each
    for each in THINGS
    if each.one not in ("table", "chaise", "banc", "tapis", "coffre", "cloche")
)

PLACES_M = _nouns("jardin village champ marché port château:châteaux temple palais", feminine=False)
PLACES_F = _nouns("maison ville montagne forêt rivière vallée place rue ferme", feminine=True)

VOWEL_M = _nouns(
    "homme ami enfant hôtel habit oiseau:oiseaux appartement arbre animal:animaux escalier "
    "immeuble outil objet album instrument écran atelier ouvrier avion anneau:anneaux "
    "ordinateur arc âne étang",
    feminine=False,
)
VOWEL_F = _nouns(
    "école église armée histoire image eau:eaux épée étoile herbe île ombre horloge orange "
    "auberge usine arme échelle assiette aiguille armoire",
    feminine=True,
)

# Adjectifs d'une personne, après « être ».
STATES = _adjectives(
    "heureux/heureuse malheureux/malheureuse fatigué/fatiguée content/contente inquiet/inquiète "
    "absent/absente présent/présente prudent/prudente patient/patiente bavard/bavarde "
    "jaloux/jalouse courageux/courageuse étonné/étonnée blessé/blessée muet/muette "
    "discret/discrète gentil/gentille méchant/méchante surpris/surprise distrait/distraite"
)
# Adjectifs d'une chose, après le nom.
COLOURS = _adjectives("blanc/blanche noir/noire vert/verte gris/grise bleu/bleue violet/violette")
TRAITS = COLOURS + _adjectives(
    "rond/ronde épais/épaisse léger/légère lourd/lourde neuf/neuve usé/usée brillant/brillante "
    "ouvert/ouverte cassé/cassée"
)
# Adjectifs qui précèdent le nom.
BEFORE = _adjectives(
    "petit/petite grand/grande gros/grosse beau/belle/beaux nouveau/nouvelle/nouveaux "
    "vieux/vieille/vieux long/longue"
)
