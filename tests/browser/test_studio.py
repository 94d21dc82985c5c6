"""Le studio dans un vrai navigateur : chaque vue sert, au clavier aussi, et sur un téléphone."""

import os
import re
import shutil

import pytest
from studio_helpers import PROMPT, studio_service, write_journal

from gpt_architecture.serving.http.access import KeyRing

playwright = pytest.importorskip("playwright.sync_api", reason="playwright n'est pas installé")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium n'est pas installé")

expect = playwright.expect
VIEWS = ("atelier", "distribution", "comparer", "attention", "vocabulaire", "entrainement")
PATIENCE = 30_000  # millisecondes
FINISHED = re.compile("^Fini")

CONTROLS = "input, textarea, button, [role=button], canvas[role=img]"
UNNAMED = """(controls) => [...document.querySelectorAll(controls)]
  .filter((each) => each.checkVisibility())
  .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim()))
  .map((each) => each.outerHTML)"""
DOUBLES = """() => { const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
  return ids.filter((id, place) => ids.indexOf(id) !== place); }"""
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"


@pytest.fixture(scope="module")
def browser():
    """Chromium, sans tête."""
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=options)
        yield found
        found.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """L'adresse d'un studio qui montre tout."""
    folder = tmp_path_factory.mktemp("essai") / "essai"
    write_journal(folder)
    with studio_service(run_directory=folder) as found:
        yield found


@pytest.fixture
def open_page(browser, url):
    """Ouvre une vue ; à la fin, rien n'est sorti de la machine et rien n'est une erreur."""
    asked, wrong, contexts = [], [], []

    def start(view, *, width=1100, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, locale="fr-FR"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        page.goto(f"{url}/studio#{view}")
        page.wait_for_selector("#facts div")
        return page

    yield start
    for context in contexts:
        context.close()
    assert wrong == []
    assert asked
    assert [each for each in asked if not each.startswith(url)] == []


def write(page):
    """Écrit une suite dans l'atelier."""
    page.get_by_label("Tokens", exact=True).locator("visible=true").fill("12")
    page.get_by_label("Graine").locator("visible=true").fill("4")
    page.get_by_role("button", name="Écrire").click()
    expect(page.locator("#write-status")).to_have_text(FINISHED, timeout=PATIENCE)


def test_the_workshop_writes_and_branches(open_page, tmp_path):
    """Écrire, choisir un token, continuer d'un autre candidat, revenir."""
    page = open_page("atelier")
    write(page)
    tokens = page.locator("#tokens .tok")
    expect(tokens).to_have_count(12)
    first = tokens.nth(0).get_attribute("aria-label")
    assert re.search(r", [<\d].* %$", first), first
    tokens.nth(3).click()
    candidates = page.locator("#candidates button")
    assert candidates.count() >= 10
    before = tokens.all_text_contents()
    candidates.filter(has_not_text="▸").nth(1).click()
    expect(page.locator("#write-status")).to_have_text(FINISHED, timeout=PATIENCE)
    after = tokens.all_text_contents()
    assert after[:3] == before[:3]
    expect(tokens.nth(3)).to_have_class(re.compile("chosen"))
    assert len(after) == 16
    page.get_by_role("button", name="Revenir").click()
    assert tokens.all_text_contents() == before
    page.screenshot(path=tmp_path / "atelier.png")


def test_the_sliders_reshape_the_distribution(open_page, tmp_path):
    """Un curseur bouge, la page recalcule sans rien demander au service."""
    page = open_page("distribution")
    page.wait_for_selector("#bars li")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Top-p").locator("visible=true").fill("0.5")
    expect(page.locator("#out-p")).to_have_text("0,50")
    stage = page.locator("#funnel li", has_text="Top-p")
    expect(stage).to_contain_text("retire")
    kept = int(stage.locator("strong").inner_text())
    assert 1 <= kept < 257
    expect(page.locator("#mass-text")).to_contain_text(f"Restent {kept} token")
    page.get_by_label("Température").locator("visible=true").fill("0")
    expect(page.locator("#funnel li", has_text="Température").locator("strong")).to_have_text("1")
    page.get_by_role("button", name="Tout remettre").click()
    expect(stage).to_contain_text("sans effet")
    assert asked == []
    page.locator("#bars button").first.click()
    expect(page.locator("#next-status")).to_contain_text(f"{len(PROMPT) + 1} tokens d'invite")
    page.screenshot(path=tmp_path / "distribution.png")


def test_six_variants_side_by_side(open_page, tmp_path):
    """Les six textes s'écrivent et se mesurent."""
    page = open_page("comparer")
    page.locator("#compare-form [name=max_tokens]").fill("10")
    page.get_by_role("button", name="Comparer", exact=True).click()
    expect(page.locator("#compare-status")).to_have_text(FINISHED, timeout=PATIENCE)
    cards = page.locator("#cards article")
    expect(cards).to_have_count(6)
    for card in cards.all():
        expect(card).to_contain_text("Distinct-2")
        assert card.locator(".tok").count() >= 1
    page.screenshot(path=tmp_path / "comparer.png", full_page=True)


def test_every_head_can_be_looked_at(open_page, tmp_path):
    """Choisir une tête, puis un token."""
    page = open_page("attention")
    page.get_by_role("button", name="Couche 2, tête 3").click()
    expect(page.locator("#head-title")).to_have_text("Couche 2, tête 3")
    page.locator("#sentence .tok").first.click()
    expect(page.locator("#looks li")).to_have_count(1)
    expect(page.locator("#looks")).to_contain_text("100 %")
    hidden = page.locator(".scroll:has(#head-map)").evaluate(
        "(box) => box.scrollWidth - box.clientWidth"
    )
    assert hidden <= 0
    page.screenshot(path=tmp_path / "attention.png")


def test_a_text_is_cut_while_typing(open_page, tmp_path):
    """Tokens, octets, morceaux de caractère ; un texte hostile reste du texte."""
    page = open_page("vocabulaire")
    page.get_by_label("Texte", exact=True).fill("été<img src=x>")
    expect(page.locator("#pieces .tok")).to_have_count(16)
    expect(page.locator("#pieces-table")).to_contain_text("(morceau de caractère)")
    assert page.locator("#pieces img").count() == 0
    page.screenshot(path=tmp_path / "vocabulaire.png")


def test_a_run_is_drawn(open_page, tmp_path):
    """Les courbes, les chiffres, et des exemples où le HTML reste du texte."""
    page = open_page("entrainement")
    expect(page.locator("#run-loss path")).to_have_count(3)
    expect(page.locator("#run-facts")).to_contain_text("60 sur 100")
    expect(page.locator("#run-samples")).to_contain_text("<b>rame</b>")
    page.screenshot(path=tmp_path / "entrainement.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_a_phone_and_names_its_controls(open_page, view, scheme, tmp_path):
    """À 390 px : rien ne déborde ; tout contrôle a un nom, tout identifiant est unique."""
    page = open_page(view, width=390, scheme=scheme)
    page.wait_for_load_state("networkidle")
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate(UNNAMED, CONTROLS) == []
    assert page.evaluate(DOUBLES) == []
    expect(page.locator("h1:visible")).to_have_count(1)
    expect(page.locator("#views [aria-current=page]")).to_have_count(1)
    page.screenshot(path=tmp_path / f"{view}-{scheme}.png", full_page=True)


def test_the_keyboard_is_enough(open_page):
    """Lien d'évitement, vues, tokens : tout s'atteint et s'actionne sans souris."""
    page = open_page("atelier")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Aller au contenu")
    write(page)
    page.locator("#tokens .tok[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#candidates h3")).to_contain_text("Token 3")
    page.get_by_role("link", name="Distribution").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#view-distribution")).to_be_visible()
    slider = page.locator("#s-temperature")
    slider.wait_for()
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#out-temperature")).to_have_text("1,01")


def test_a_key_opens_the_studio(browser):
    """La clé demandée, refusée, puis acceptée ; elle ne survit pas à l'onglet."""
    accepted = "clef-de-seize-caracteres"
    with studio_service(keys=KeyRing([accepted])) as url:
        context = browser.new_context(locale="fr-FR")
        page = context.new_page()
        page.goto(f"{url}/studio/")
        expect(page.locator("#notice")).to_contain_text("clé d'accès")
        for key in ("mauvaise-clef-refusee", accepted):
            page.get_by_label("Clé d'accès").fill(key)
            page.get_by_role("button", name="Entrer").click()
        page.wait_for_selector("#facts div")
        expect(page.locator("#key-form")).to_be_hidden()
        assert page.evaluate("() => localStorage.length") == 0
        context.close()
