"""La page du dossier : elle se suffit, dit ses limites, et ne montre aucun secret."""

import json
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from decoding_helpers import ByteTokenizer
from page_helpers import HOSTILE, read_page
from rich.console import Console

from gpt_architecture.data.canaries import draw_canaries
from gpt_architecture.evaluation.canaries import Exposure, ExposureReport
from gpt_architecture.evaluation.extraction import ExtractionReport, ExtractionRow
from gpt_architecture.evaluation.membership import measure_membership
from gpt_architecture.reports.privacy import privacy_page, show_privacy, tiles, write_privacy_page
from gpt_architecture.reports.privacy_facts import (
    Energy,
    PersonalData,
    PrivacyPage,
    Removal,
    SourceText,
)
from gpt_architecture.reports.privacy_sections import sections

WEIGHTS = "ab" * 32
DRAWN = draw_canaries(ByteTokenizer(), 5, 1)
EMPTY = PrivacyPage(name="vide", facts=[], weights_sha256=WEIGHTS)


def exposures(canaries, ranks):
    return tuple(
        Exposure(canary=each, rank=rank, size=DRAWN.size)
        for each, rank in zip(canaries, ranks, strict=True)
    )


def membership(*, shadow=0, shift=0.0, unseen=40):
    rng = np.random.default_rng(0)
    members = rng.integers(0, 50, (60, 20)).tolist()
    others = (rng.integers(0, 50, (unseen, 20)) + round(50 * shift)).tolist()
    scores = {"perte": np.concatenate([rng.normal(1, 1, 60), rng.normal(0, 1, unseen)])}
    scores["min-k"] = rng.normal(size=60 + unseen)
    if shadow:
        scores["référence"] = scores["perte"] * 2
    return measure_membership(scores, members, others, shadow=shadow)


FULL = PrivacyPage(
    name=f"essai/{HOSTILE}",
    facts=[("Données", HOSTILE)],
    weights_sha256=WEIGHTS,
    canaries=ExposureReport(
        planted=exposures(DRAWN.canaries, [9000, 700, 12, 1, 1]),
        controls=exposures(DRAWN.controls, range(500, 17000, 1040)),
        size=DRAWN.size,
    ),
    planted=(20, 31),
    extraction=ExtractionReport(
        rows=(
            ExtractionRow(prefix=4, extracted=1, total=50, controls_extracted=0, controls=40),
            ExtractionRow(prefix=8, extracted=20, total=50, controls_extracted=0, controls=40),
        ),
        suffix=32,
        dropped=3,
    ),
    membership=membership(),
    sources=[
        SourceText(name="salammbo.txt", licence="domaine public", about="roman", size=2048),
        SourceText(name=HOSTILE),
    ],
    personal=[PersonalData(kind="e-mail", masked=12, left=1)],
    dropped=2,
    scanned=(900, 1000),
    removals=[Removal(step=40, tokens=1234, digest="cd" * 32)],
    energy=Energy(seconds=7200, power=65, carbon=50),
)


def words(page):
    return " ".join(unescape(read_page(page).text).replace("\u00a0", " ").split())


def test_it_says_everything_once():
    page = privacy_page(FULL)
    said = words(page)
    for sentence in (
        "2 canaris sur 5 retrouvés, parmi 17 576 secrets possibles",
        "Contrôle bon exposition moyenne des 16 témoins",
        "L'entraînement a lu 20 de leurs 31 répétitions.",
        "des membres sans accuser aucun des 40 inédits.",
        "40,0 % des extraits (27,6 % à 53,8 %) sont achevés mot pour mot, sur 32 tokens",
        "2 sources ; licence connue de 1 sur 2.",
        "12 données masquées, 1 donnée restée dans les 900 tokens relus sur 1 000.",
        "2 documents écartés.",
        "1 oubli au certificat.",
        "L'entraînement a duré 2 h 00 min. Soit, à 65,0 W déclarés, 130 Wh, et, à 50,0 g/kWh "
        "déclarés, 6,50 g de CO₂.",
        WEIGHTS,
    ):
        assert sentence in said, sentence
    for each in sections(FULL):
        assert each.shows
        assert each.hides
        assert "gpt-architecture" in each.command
        assert said.count(each.title) >= 1
    assert said.count("Ce que cela ne montre pas") == len(sections(FULL)) == 7


def test_no_secret_and_nothing_hostile_in_it():
    page = privacy_page(FULL)
    for each in (*DRAWN.canaries, *DRAWN.controls):
        assert each.text not in unescape(page)
        assert each.text not in json.dumps(FULL.record, ensure_ascii=False)
    assert "<img" not in page
    assert "\u202e" not in page


def test_a_part_without_a_measure_says_how_to_get_it():
    said = words(privacy_page(EMPTY))
    for sentence in (
        "Aucun canari n'a été planté dans cet entraînement.",
        "gpt-architecture train --canaries 16",
        "Non mesuré : les données de l'entraînement n'ont pas été lues.",
        "Le modèle ne dit pas de quels textes il vient.",
        "Aucun certificat lisible à côté du modèle",
        "Non estimés : le modèle ne dit pas combien il a duré.",
    ):
        assert sentence in said, sentence
    assert tiles(EMPTY) == []
    noted = replace(EMPTY, notes={"membership": "Non mesuré : trop court."})
    assert "Non mesuré : trop court." in words(privacy_page(noted))
    assert "Le certificat ne porte aucun oubli." in words(privacy_page(replace(EMPTY, removals=[])))


@pytest.mark.parametrize(
    ("energy", "sentence"),
    [
        (Energy(seconds=60), "Énergie et CO₂ non estimés : aucune puissance déclarée."),
        (Energy(seconds=60, power=60), "1,00 Wh ; CO₂ non estimé : aucune intensité déclarée."),
        (Energy(seconds=36_000, power=700, carbon=400), "7,00 kWh, et, à 400 g/kWh déclarés, 2,80"),
    ],
)
def test_energy_is_declared_times_measured(energy, sentence):
    assert sentence in words(privacy_page(replace(EMPTY, energy=energy)))


def test_a_shift_is_said_and_shadows_are_offered():
    shifted = replace(EMPTY, membership=membership(shift=1.0))
    said = words(privacy_page(shifted))
    assert "se distinguent sans le modèle" in said
    assert "Des modèles de référence les sépareraient" in said
    with_them = words(privacy_page(replace(EMPTY, membership=membership(shadow=4, shift=1.0))))
    assert "Modèles de référence" in with_them
    assert "les sépareraient" not in with_them


def test_one_percent_needs_a_hundred_unseen_extracts():
    """Quarante inédits n'ont pas de 1 % : l'attaque n'en accuse alors aucun."""
    for unseen, said in ((99, "sans accuser aucun des 99 inédits"), (100, "à 1 % d'erreur")):
        page = replace(FULL, membership=membership(unseen=unseen))
        text = words(privacy_page(page))
        assert f"des membres {said}." in text
        assert f"membres reconnus {said}" in text
        assert page.record["membership"]["others_accused"] == unseen // 100


def test_one_level_of_repetition_is_drawn():
    report = replace(FULL.canaries, planted=FULL.canaries.planted[:1])
    assert "0 canari sur 1 retrouvé" in words(privacy_page(replace(EMPTY, canaries=report)))


def test_the_terminal_and_the_file_say_the_same(tmp_path):
    write_privacy_page(tmp_path / "d.html", FULL)
    assert (tmp_path / "d.html").read_text(encoding="utf-8") == privacy_page(FULL)
    console = Console(width=120, record=True, markup=False, highlight=False)
    show_privacy(console, FULL)
    said = console.export_text().replace("\u00a0", " ")
    assert "2 canaris sur 5 retrouvés" in said
    assert "Contrôle bon" in said
    assert json.loads(json.dumps(FULL.record))["energy"]["kwh"] == 0.13
