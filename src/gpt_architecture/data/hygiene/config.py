"""Les réglages de l'hygiène : ce que chaque étape retire d'un corpus, et à partir de quel seuil."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gpt_architecture.config.checks import check_bool, check_float, check_int
from gpt_architecture.errors import ConfigurationError, nearest
from gpt_architecture.french import either

PERSONAL_MODES = ("mask", "drop", "keep")
FUNCTION_WORDS: dict[str, str] = {
    "fr": "est sont était une du dans qui sur avec pas nous vous cette ces ont être leur aux elle "
    "elles mais où même fait il ils je et les des au ce son sa ses par pour plus que ne se",
    "en": "the and of to is are was were that this with for have has had not but from they his her "
    "which you your it its be been would there what their will",
}
"""Mots-outils par langue, sans lesquels un texte suivi ne s'écrit pas."""


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """Les bornes d'un texte suivi : familles Gopher (arXiv:2112.11446) et C4 (arXiv:1910.10683).

    Réglées pour le français : le tiret d'un dialogue n'est pas une puce, un guillemet fermant finit
    une ligne. Une part est un nombre de 0 à 1.

    Attributes:
        min_words: mots, au moins.
        min_word_length: longueur moyenne d'un mot, au moins ; « l' » et « d' » en sont.
        max_word_length: longueur moyenne d'un mot, au plus.
        symbols: « # », « {», « } » et points de suspension par mot, au plus.
        letters: part des mots qui ont une lettre, au moins.
        function_words: mots-outils différents, au moins, si la langue en a dans `FUNCTION_WORDS`.
        bullets: part des lignes qui commencent par une puce, au plus.
        ellipses: part des lignes qui finissent par des points de suspension, au plus.
        punctuated: part des lignes qui finissent par une ponctuation, au moins.
        repeated_lines: part des lignes déjà vues dans le document, au plus.
        top_bigram: part des mots que couvre la paire de mots la plus fréquente, au plus.
        top_trigram: la même chose pour trois mots.
        top_fourgram: la même chose pour quatre mots.
        repeated_fivegrams: part des suites de cinq mots déjà vues dans le document, au plus.
        repeated_tengrams: la même chose pour dix mots.

    Raises:
        ConfigurationError: une valeur est du mauvais type ou hors bornes.
    """

    min_words: int = 50
    min_word_length: float = 2.5
    max_word_length: float = 10.0
    symbols: float = 0.1
    letters: float = 0.8
    function_words: int = 2
    bullets: float = 0.9
    ellipses: float = 0.3
    punctuated: float = 0.12
    repeated_lines: float = 0.3
    top_bigram: float = 0.2
    top_trigram: float = 0.18
    top_fourgram: float = 0.16
    repeated_fivegrams: float = 0.15
    repeated_tengrams: float = 0.1

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("min_words", "function_words"):
                check_int(each.name, value, minimum=0)
            else:
                check_float(each.name, value, minimum=0.0)


@dataclass(frozen=True, kw_only=True)
class HygieneConfig:
    """Les étapes de l'hygiène, chacune facultative.

    Attributes:
        nfc: met les textes sous la forme normale NFC d'Unicode.
        controls: retire les caractères de contrôle et de largeur nulle.
        personal: `mask` masque e-mails, téléphones, IBAN et NIR ; `drop` écarte le document qui en
            a ; `keep` laisse tout.
        languages: langues gardées, en codes ISO 639-1 ; vide : toutes.
        quality: les bornes d'un texte suivi ; None : aucune.
        exact: écarte un document déjà vu.
        near: écarte un document dont la similarité de Jaccard (suites de cinq mots) avec un autre
            qui est gardé atteint ce seuil ; 0 : aucun.
        lines: retire une ligne qui se répète dans tant de documents ; 0 : aucune.
        min_line: une ligne plus courte, en caractères, n'est jamais retirée.
        paragraphs: retire d'un document un paragraphe d'au moins tant de caractères qu'un document
            précédent a déjà ; 0 : aucun.
        validation: retire d'un document d'entraînement les paragraphes qui partagent `ngram` mots
            de suite avec un document de validation ; d'une suite à cheval sur deux, celui qui en a
            la moitié.
        evaluation: textes (fichiers, dossiers) dont aucun paragraphe gardé ne partage `ngram` mots
            de suite.
        ngram: mots de suite qui font un recouvrement.

    Raises:
        ConfigurationError: une valeur est du mauvais type ou hors bornes.
    """

    nfc: bool = False
    controls: bool = False
    personal: str = "keep"
    languages: tuple[str, ...] = ()
    quality: QualityRules | None = None
    exact: bool = False
    near: float = 0.0
    lines: int = 0
    min_line: int = 20
    paragraphs: int = 0
    validation: bool = False
    evaluation: tuple[str, ...] = field(default=())
    ngram: int = 13

    def __post_init__(self) -> None:
        for name in ("nfc", "controls", "exact", "validation"):
            check_bool(name, getattr(self, name))
        if self.personal not in PERSONAL_MODES:
            raise ConfigurationError.wrong(
                "`personal`", self.personal, expected=either(PERSONAL_MODES)
            )
        for language in self.languages:
            if not (isinstance(language, str) and len(language) == 2 and language.islower()):
                raise ConfigurationError.wrong(
                    "`languages`", language, expected="des codes de deux lettres : fr, en…"
                )
        check_float("near", self.near, minimum=0.0, maximum=1.0)
        check_int("lines", self.lines, minimum=0)
        if self.lines == 1:
            raise ConfigurationError.wrong("`lines`", 1, expected="0, ou au moins 2 documents")
        check_int("min_line", self.min_line, minimum=1)
        check_int("paragraphs", self.paragraphs, minimum=0)
        check_int("ngram", self.ngram, minimum=3, maximum=64)

    @property
    def does_something(self) -> bool:
        """Faux si aucune étape n'est allumée."""
        return self != replace(HygieneConfig(), ngram=self.ngram, min_line=self.min_line)

    @property
    def compares(self) -> bool:
        """Vrai si une étape compare les documents entre eux : elle doit les avoir tous vus."""
        return bool(self.exact or self.near or self.lines or self.paragraphs or self.validation)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> HygieneConfig:
        """Un préréglage de `PRESETS`, où `changes` change des étapes.

        Raises:
            ConfigurationError: préréglage ou étape inconnus.
        """
        if name not in PRESETS:
            raise ConfigurationError.wrong(
                "`hygiene`",
                name,
                expected=either(PRESETS),
                remedy=nearest(name, PRESETS),
            )
        known = {each.name for each in fields(cls)}
        for change in changes:
            if change not in known:
                raise ConfigurationError(
                    f"étape d'hygiène inconnue : {change}",
                    expected=", ".join(sorted(known)),
                    remedy=nearest(change, known) or "corrigez ce nom",
                )
        return cls(**{**PRESETS[name], **changes})


_ALL: dict[str, Any] = {
    "nfc": True,
    "controls": True,
    "personal": "mask",
    "quality": QualityRules(),
    "exact": True,
    "near": 0.8,
    "lines": 10,
    "paragraphs": 100,
    "validation": True,
}
PRESETS: dict[str, Mapping[str, Any]] = {
    "aucune": {},
    "doublons": {"exact": True, "near": 0.8, "validation": True},
    "neutre": _ALL,
    "fr": {**_ALL, "languages": ("fr",)},
    "en": {**_ALL, "languages": ("en",)},
}
"""Nom → étapes allumées : rien, les répétitions seules, tout sans choisir de langue, ou une."""
