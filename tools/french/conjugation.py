"""La conjugaison des verbes des paires : les réguliers par règle, les autres par leurs radicaux.

Les personnes sont numérotées de 0 (je) à 5 (ils, elles).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRONOUNS = ("je", "tu", "il", "nous", "vous", "ils")

_IMPERFECT = ("ais", "ais", "ait", "ions", "iez", "aient")
_FUTURE = ("ai", "as", "a", "ons", "ez", "ont")
_SUBJUNCTIVE = ("e", "es", "e", "ions", "iez", "ent")
_PAST = {
    "a": ("ai", "as", "a", "âmes", "âtes", "èrent"),
    "i": ("is", "is", "it", "îmes", "îtes", "irent"),
    "u": ("us", "us", "ut", "ûmes", "ûtes", "urent"),
    "in": ("ins", "ins", "int", "înmes", "întes", "inrent"),
}
_ENDINGS = {
    "er": ("e", "es", "e", "ons", "ez", "ent"),
    "ir": ("is", "is", "it", "issons", "issez", "issent"),
    "re": ("s", "s", "", "ons", "ez", "ent"),
}
# Infinitif : présent, radical du futur, radical et type du passé simple, participe passé, et
# subjonctif, quand il ne se déduit pas du présent.
IRREGULAR = {
    "avoir": ("ai as a avons avez ont", "aur", "e u", "eu", "aie aies ait ayons ayez aient"),
    "être": (
        *("suis es est sommes êtes sont", "ser", "f u", "été"),
        "sois sois soit soyons soyez soient",
    ),
    "aller": (
        *("vais vas va allons allez vont", "ir", "all a", "allé"),
        "aille ailles aille allions alliez aillent",
    ),
    "faire": (
        *("fais fais fait faisons faites font", "fer", "f i", "fait"),
        "fasse fasses fasse fassions fassiez fassent",
    ),
    "pouvoir": (
        *("peux peux peut pouvons pouvez peuvent", "pourr", "p u", "pu"),
        "puisse puisses puisse puissions puissiez puissent",
    ),
    "savoir": (
        *("sais sais sait savons savez savent", "saur", "s u", "su"),
        "sache saches sache sachions sachiez sachent",
    ),
    "vouloir": (
        *("veux veux veut voulons voulez veulent", "voudr", "voul u", "voulu"),
        "veuille veuilles veuille voulions vouliez veuillent",
    ),
    "devoir": ("dois dois doit devons devez doivent", "devr", "d u", "dû"),
    "dire": ("dis dis dit disons dites disent", "dir", "d i", "dit"),
    "lire": ("lis lis lit lisons lisez lisent", "lir", "l u", "lu"),
    "rire": ("ris ris rit rions riez rient", "rir", "r i", "ri"),
    "sourire": ("souris souris sourit sourions souriez sourient", "sourir", "sour i", "souri"),
    "écrire": ("écris écris écrit écrivons écrivez écrivent", "écrir", "écriv i", "écrit"),
    "boire": ("bois bois boit buvons buvez boivent", "boir", "b u", "bu"),
    "croire": ("crois crois croit croyons croyez croient", "croir", "cr u", "cru"),
    "voir": ("vois vois voit voyons voyez voient", "verr", "v i", "vu"),
    "recevoir": ("reçois reçois reçoit recevons recevez reçoivent", "recevr", "reç u", "reçu"),
    "prendre": ("prends prends prend prenons prenez prennent", "prendr", "pr i", "pris"),
    "apprendre": (
        *("apprends apprends apprend apprenons apprenez apprennent", "apprendr"),
        *("appr i", "appris"),
    ),
    "mettre": ("mets mets met mettons mettez mettent", "mettr", "m i", "mis"),
    "connaître": (
        *("connais connais connaît connaissons connaissez connaissent", "connaîtr"),
        *("conn u", "connu"),
    ),
    "vivre": ("vis vis vit vivons vivez vivent", "vivr", "véc u", "vécu"),
    "suivre": ("suis suis suit suivons suivez suivent", "suivr", "suiv i", "suivi"),
    "mourir": ("meurs meurs meurt mourons mourez meurent", "mourr", "mour u", "mort"),
    "courir": ("cours cours court courons courez courent", "courr", "cour u", "couru"),
    "naître": ("nais nais naît naissons naissez naissent", "naîtr", "naqu i", "né"),
    "envoyer": ("envoie envoies envoie envoyons envoyez envoient", "enverr", "envoy a", "envoyé"),
    "ouvrir": ("ouvre ouvres ouvre ouvrons ouvrez ouvrent", "ouvrir", "ouvr i", "ouvert"),
    "offrir": ("offre offres offre offrons offrez offrent", "offrir", "offr i", "offert"),
    "couvrir": (
        *("couvre couvres couvre couvrons couvrez couvrent", "couvrir", "couvr i", "couvert"),
    ),
    "venir": ("viens viens vient venons venez viennent", "viendr", "v in", "venu"),
    "revenir": (
        "reviens reviens revient revenons revenez reviennent",
        "reviendr",
        "rev in",
        "revenu",
    ),
    "tenir": ("tiens tiens tient tenons tenez tiennent", "tiendr", "t in", "tenu"),
    "dormir": ("dors dors dort dormons dormez dorment", "dormir", "dorm i", "dormi"),
    "partir": ("pars pars part partons partez partent", "partir", "part i", "parti"),
    "sortir": ("sors sors sort sortons sortez sortent", "sortir", "sort i", "sorti"),
    "mentir": ("mens mens ment mentons mentez mentent", "mentir", "ment i", "menti"),
    "servir": ("sers sers sert servons servez servent", "servir", "serv i", "servi"),
    "peindre": ("peins peins peint peignons peignez peignent", "peindr", "peign i", "peint"),
    "construire": (
        *("construis construis construit construisons construisez construisent", "construir"),
        *("construis i", "construit"),
    ),
    "lever": ("lève lèves lève levons levez lèvent", "lèver", "lev a", "levé"),
    "appeler": (
        *("appelle appelles appelle appelons appelez appellent", "appeller", "appel a", "appelé"),
    ),
    "promener": (
        *("promène promènes promène promenons promenez promènent", "promèner"),
        *("promen a", "promené"),
    ),
    "taire": ("tais tais tait taisons taisez taisent", "tair", "t u", "tu"),
}


@dataclass(frozen=True)
class Verb:
    """Un verbe conjugué.

    Attributes:
        infinitive: son infinitif.
        present, imperfect, future, conditional, past, subjunctive: six formes chacun.
        participle: participe passé, au masculin singulier.
    """

    infinitive: str
    present: tuple[str, ...]
    imperfect: tuple[str, ...]
    future: tuple[str, ...]
    conditional: tuple[str, ...]
    past: tuple[str, ...]
    subjunctive: tuple[str, ...]
    participle: str

    @property
    def gerund(self) -> str:
        """Participe présent."""
        known = {"avoir": "ayant", "être": "étant", "savoir": "sachant"}
        return known.get(self.infinitive, self.imperfect[0].removesuffix("ais") + "ant")


def verb(infinitive: str) -> Verb:
    """Conjugue un verbe."""
    if infinitive in IRREGULAR:
        present, future, past, participle, *given = IRREGULAR[infinitive]
        forms = tuple(present.split())
    else:
        stem, group = infinitive[:-2], infinitive[-2:]
        forms = _spelled(stem, _ENDINGS[group])
        future = infinitive.removesuffix("e")
        past = f"{stem} {'a' if group == 'er' else 'i'}"
        participle = stem + {"er": "é", "ir": "i", "re": "u"}[group]
        given = []
    imperfect_stem = "ét" if infinitive == "être" else forms[3].removesuffix("ons")
    imperfect = _spelled(imperfect_stem.removesuffix("e"), _IMPERFECT)
    root, kind = past.split()
    if given:
        subjunctive = tuple(given[0].split())
    else:
        subjunctive = _spelled(forms[5].removesuffix("ent"), _SUBJUNCTIVE)
        subjunctive = (*subjunctive[:3], *imperfect[3:5], subjunctive[5])
    return Verb(
        infinitive=infinitive,
        present=forms,
        imperfect=imperfect,
        future=_joined(future, _FUTURE),
        conditional=_joined(future, _IMPERFECT),
        past=_spelled(root, _PAST[kind]),
        subjunctive=subjunctive,
        participle=participle,
    )


def agreed(participle: str, *, feminine: bool = False, plural: bool = False) -> str:
    """Un participe ou un adjectif régulier, accordé."""
    word = participle.replace("û", "u") if feminine or plural else participle
    word += "e" if feminine else ""
    return word + ("s" if plural and not word.endswith(("s", "x")) else "")


def elided(word: str, following: str) -> str:
    """`je`, `le`, `la`, `de`, `que`, `ne`, `me`, `te`, `se` devant un mot, élidés s'il le faut."""
    if following[0].lower() in "aeiouyéèêâîôh":  # aucun h aspiré dans le lexique
        return f"{word[:-1]}'{following}"
    return f"{word} {following}"


def _joined(stem: str, endings: Sequence[str]) -> tuple[str, ...]:
    return tuple(stem + ending for ending in endings)


def _spelled(stem: str, endings: Sequence[str]) -> tuple[str, ...]:
    """Comme `_joined`, le « g » et le « c » gardant leur son devant « a », « o » et « â »."""
    found = []
    for ending in endings:
        soft = stem
        if ending[:1] in ("a", "o", "â") and stem.endswith("g"):
            soft = f"{stem}e"
        elif ending[:1] in ("a", "o", "â") and stem.endswith("c"):
            soft = f"{stem[:-1]}ç"
        found.append(soft + ending)
    return tuple(found)
