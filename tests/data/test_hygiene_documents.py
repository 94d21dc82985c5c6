"""Un document seul : caractères, données personnelles, qualité, langue ; le reste ne bouge pas."""

import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_architecture.data.hygiene import characters
from gpt_architecture.data.hygiene import clean as cleaning
from gpt_architecture.data.hygiene.batch import Batch
from gpt_architecture.data.hygiene.characters import MAX_MARKS, clean_characters, is_mark
from gpt_architecture.data.hygiene.clean import sections
from gpt_architecture.data.hygiene.config import PRESETS, HygieneConfig, QualityRules
from gpt_architecture.data.hygiene.language import UNKNOWN, languages_of
from gpt_architecture.data.hygiene.personal import is_iban, is_nir, mask_personal
from gpt_architecture.data.hygiene.quality import FunctionWords, check_quality, features_of
from gpt_architecture.errors import ConfigurationError

PROSE = (
    "Le passeur leva la lampe, et l'eau du fleuve prit la couleur du miel. Il attendait depuis "
    "des heures que quelqu'un l'appelle de l'autre rive, mais personne ne venait plus ce soir-là.\n"
    "— Vous dormez ? demanda une voix.\n"
    "— Jamais quand le brouillard monte, répondit-il sans se retourner. Montez donc, puisque vous "
    "êtes venue, et gardez votre manteau : la traversée est longue et le vent y est mauvais.\n"
)


def cleaned(text, **steps):
    return clean_characters(text, **{"nfc": True, "controls": True, **steps})


@given(st.text())
def test_the_normal_form_is_that_of_unicode(text):
    """Sans contrôles à retirer, c'est NFC ; deux fois ne change plus rien."""
    found = cleaned(text, controls=False).text
    assert found == unicodedata.normalize("NFC", text)
    twice = cleaned(cleaned(text).text)
    assert (twice.text, twice.controls, twice.invisible) == (cleaned(text).text, 0, 0)


def test_characters_are_counted_and_shown():
    """Ce qui change est compté, et le premier mot recomposé montré par ses points de code."""
    found = cleaned("e\u0301te\u0301 \u00adco\u200bupé\x00\x07\x0cpage\u2028suite\ttab")
    assert found.text == "été coupé\npage\nsuite\ttab"
    assert (found.controls, found.invisible, found.recomposed) == (4, 2, 2)
    assert found.example == "e⟨U+0301⟩te⟨U+0301⟩ → ⟨U+00E9⟩t⟨U+00E9⟩"
    assert cleaned("e\u0301", nfc=False).text == "e\u0301"
    assert cleaned("a\x07", controls=False).text == "a\x07"


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73\u0f71"])
def test_piled_accents_cost_no_square(marks):
    """Des milliers d'accents sur une lettre : bornés, comptés, en temps linéaire."""
    start = time.process_time()
    found = cleaned("a" + marks * 50_000 + "b")
    assert time.process_time() - start < 2
    assert found.marks == 100_000 - MAX_MARKS
    assert found.text == unicodedata.normalize("NFC", "a" + marks * (MAX_MARKS // 2) + "b")
    few = "a" + "\u0316\u0301" * (MAX_MARKS // 2)
    assert cleaned(few).text == unicodedata.normalize("NFC", few)
    assert cleaned(few).marks == 0


def test_no_mark_is_beyond_the_search():
    """La recherche des accents empilés trouve toutes les marques : aucune n'est hors de ses bornes.

    Celle qui décide d'y regarder de plus près les trouve toutes aussi.
    """
    for code in range(sys.maxunicode + 1):
        mark = is_mark(chr(code))
        assert mark == bool(characters._piled().fullmatch(chr(code) * (MAX_MARKS + 1)))
        assert not mark or characters._perhaps_marks().search(chr(code))


@pytest.mark.parametrize("kept", ["« L’été »", "می‌خواهم", "👩‍🚀", "ligne\n\tdeux", PROSE])
def test_ordinary_texts_do_not_change(kept):
    """Ponctuation française, persan, émojis composés, tabulations : rien ne bouge."""
    assert cleaned(kept).text is kept


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Écrivez à Jean.Dupont+lettre@courrier.exemple.fr.", "Écrivez à [e-mail]."),
        ("(a@b.fr)", "([e-mail])"),
        ("Écrivez à éloïse.b@exémple.fr.", "Écrivez à [e-mail]."),
        ("au 06 12 34 56 78, ou 0612345678", "au [téléphone], ou [téléphone]"),
        ("+33 (0)6.12.34.56.78 ; 0033612345678", "[téléphone] ; [téléphone]"),
        ("+44 20 7946 0958", "[téléphone]"),
        ("FR14 2004 1010 0505 0001 3M02 606 et la suite", "[IBAN] et la suite"),
        ("IBAN:FR1420041010050500013M02606", "IBAN:[IBAN]"),
        ("DE89 3704 0044 0532 0130 00.", "[IBAN]."),
        ("n° 2 69 05 49 588 157 80", "n° [NIR]"),
        ("1 84 12 2A 126 003 72", "[NIR]"),
    ],
)
def test_personal_data_is_masked(text, masked):
    """Chaque genre, dans les écritures courantes ; le texte autour reste."""
    assert mask_personal(text).text == masked


@pytest.mark.parametrize(
    "text",
    [
        "FR14 2004 1010 0505 0001 3M02 607",  # clés fausses
        "2 69 05 49 588 157 81",
        "un prix de 1 234 567,89 euros en 2024",
        "ISBN 978-2-07-036002-4",
        "3,14159265358979323846",
        "le 03/12/2024 à 10:30, page 12",
        "version 0.1.2.3.4.5.6.7.8",
        "@passeur et x@y",
        "jean@exemple",
        "1 85 05 78 006 084 ٣٦",  # des chiffres, mais pas ceux d'un NIR
        "FR14 ٢٠٠٤ 1010 0505 0001 3M02 606",
        "06 ١٢ 34 56 78",
    ],
)
def test_what_only_looks_personal_stays(text):
    """Une clé fausse, un prix, une date, un ISBN : rien n'est masqué."""
    assert mask_personal(text).text == text


def test_keys_by_hand():
    """Les clés, contre un calcul écrit autrement : reste 1 ; complément à 97."""
    assert is_iban("GB82WEST12345698765432")
    assert not is_iban("GB82WEST12345698765433")
    for number in (2690549588157, 1850578006084):
        key = 97 - number % 97
        assert is_nir(f"{number}{key:02d}")
        assert not is_nir(f"{number}{key % 97 + 1:02d}")
    assert is_nir(f"184122A126003{97 - 1841219126003 % 97:02d}")
    assert is_nir(f"184122B126003{97 - 1841218126003 % 97:02d}")


def test_hostile_texts_take_no_time():
    """De longues suites qui ressemblent de loin à une donnée : temps linéaire."""
    for text in ("a" * 300_000 + "@", "0 " * 150_000, "FR12" * 60_000, "+1" * 100_000 + "@"):
        mask_personal(text)


def verdict(text, **rules):
    batch = Batch([text])
    found = features_of(batch, FunctionWords.of(batch))
    rejected = check_quality(found, QualityRules(**rules))[0]
    return None if rejected is None else rejected.reason.removeprefix("qualité : ")


LINES = "".join(f"- objet {a}{b} de cette liste.\n" for a in "abcdef" for b in "nrstv")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (PROSE, None),
        ("Un mot.", "trop court"),
        ("a b c d e f g h i j " * 9, "longueur des mots"),
        ("constitutionnellement " * 60, "longueur des mots"),
        ("passeur fleuve lampe " * 20, "sans mots-outils"),
        (f"{PROSE} Lorem ipsum dolor.", "faux texte"),
        (PROSE + "# { } … " * 12, "symboles"),
        (PROSE.replace("— ", "- ").replace("\n", "\n- ") + LINES, "puces"),
        (PROSE.replace(".\n", "…\n").replace("?", "…").replace("voix.", "voix…"), "points de"),
        (PROSE + "Retour au menu.\n" * 9, "lignes répétées"),
        (PROSE + "Il dit oui. " * 40, "deux mots"),
        (PROSE + PROSE.replace("\n", " "), "suites de cinq mots"),
        (PROSE.replace(".", "").replace("\n", " suite\n").replace(" ", "\n"), "lignes sans"),
        (PROSE + " ".join(map(str, range(1000, 1060))) + ".", "mots sans lettre"),
    ],
)
def test_each_quality_rule(text, rule):
    """Un dialogue passe ; chaque règle a un texte qui l'enfreint, elle et non une autre."""
    found = verdict(text)
    assert found is None if rule is None else found.startswith(rule), found


@pytest.mark.parametrize(
    ("text", "rules", "said"),
    [
        ("Un mot.", {}, "2 ; attendu : au moins 50"),
        ("a b c d e f g h i j " * 9, {}, "1 ; attendu : de 2,5 à 10"),
        (f"{PROSE} Lorem ipsum dolor.", {}, "1 ; attendu : aucun"),
        (PROSE + "Retour au menu.\n" * 9, {}, "0,667 ; attendu : au plus 0,3"),
        (
            PROSE + "Retour au menu.\n" * 9,
            {"repeated_lines": 0.6666},
            "0,666667 ; attendu : au plus",
        ),
    ],
)
def test_what_breaks_a_rule_is_said_with_its_bound(text, rules, said):
    """La valeur et la borne, qui ne s'écrivent jamais pareil."""
    batch = Batch([text])
    found = features_of(batch, FunctionWords.of(batch))
    (rejected,) = check_quality(found, QualityRules(**rules))
    assert rejected.detail.startswith(said)


def test_quality_thresholds_are_settings():
    """Chaque seuil se règle ; une borne nulle n'écarte plus."""
    assert verdict("Un mot est là.", min_words=3, function_words=1) is None
    assert verdict(PROSE, min_words=500) == "trop court"
    assert verdict(PROSE, punctuated=1.0, bullets=0.0) is None
    with pytest.raises(ConfigurationError, match="min_words"):
        QualityRules(min_words=-1)
    with pytest.raises(ConfigurationError, match="symbols"):
        QualityRules(symbols=-0.1)


SENTENCES = {
    "fr": PROSE,
    "en": "The ferryman raised the lamp, and the water of the river was the colour of honey. He "
    "had been waiting for hours for someone to call him from the other side of that river.",
    "es": "El barquero levantó la lámpara y el agua del río tomó el color de la miel mientras "
    "todos esperaban en la otra orilla.",
    "it": "Il traghettatore alzò la lampada e l'acqua del fiume prese il colore del miele, ma "
    "nessuno chiamava più dall'altra riva quella sera.",
    "de": "Der Fährmann hob die Lampe, und das Wasser des Flusses nahm die Farbe von Honig an, "
    "während am anderen Ufer niemand mehr wartete.",
    UNKNOWN: "12 + 34 = 46",
}


def test_languages():
    """Assez de mots-outils ou non, la langue est la bonne ; sans lettres, elle est inconnue."""
    pytest.importorskip("py3langid", reason="demande py3langid")
    batch = Batch(list(SENTENCES.values()))
    found = languages_of(list(SENTENCES.values()), batch, FunctionWords.of(batch))
    assert found == list(SENTENCES)


def test_function_words_agree_with_the_library(monkeypatch):
    """Là où les mots-outils décident seuls, py3langid dit de même."""
    pytest.importorskip("py3langid", reason="demande py3langid")
    from gpt_architecture.data.hygiene import language

    texts = [SENTENCES["fr"], SENTENCES["en"] * 2]
    batch = Batch(texts)
    words = FunctionWords.of(batch)
    assert (language._certain(words.shares, batch.word_counts) >= 0).all()
    assert languages_of(texts, batch, words) == [language._identifier()(text) for text in texts]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_giant_document_is_cut_at_paragraphs(monkeypatch, size):
    """Rien n'est perdu ; les coupes tombent entre paragraphes, lignes, mots, dans cet ordre."""
    monkeypatch.setattr(cleaning, "MAX_DOCUMENT", 50)
    text = (
        "un deux\ntrois\n\nquatre cinq six\nsept huit neuf dix\n\nonze\n" + "mot " * 40 + "x" * 120
    )
    chunks = [text[n : n + size] for n in range(0, len(text), size)]
    found = list(sections(chunks))
    assert "".join(found) == text
    assert found[0] == "un deux\ntrois\n\n"
    assert max(map(len, found)) <= 50
    assert list(sections([text])) == found
    assert list(sections([" \n"])) == []


@pytest.mark.parametrize(
    "options",
    [
        {"personal": "masquer"},
        {"near": 1.5},
        {"lines": 1},
        {"languages": ("français",)},
        {"ngram": 2},
        {"paragraphs": -1},
        {"exact": "oui"},
    ],
)
def test_bad_settings(options):
    """Chaque réglage est borné et nommé."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        HygieneConfig(**options)


def test_presets():
    """Un mot allume des défauts ; chaque étape se règle ; un nom inconnu est refusé."""
    assert not HygieneConfig.preset("aucune").does_something
    assert all(HygieneConfig.preset(name).does_something for name in PRESETS if name != "aucune")
    assert HygieneConfig.preset("fr", near=0.0).near == 0.0
    assert HygieneConfig.preset("fr").languages == ("fr",)
    with pytest.raises(ConfigurationError, match="essayez `neutre`"):
        HygieneConfig.preset("neutr")
    with pytest.raises(ConfigurationError, match="essayez `near`"):
        HygieneConfig.preset("fr", nears=1)
