"""Le studio dans un vrai navigateur : chaque vue sert, au clavier aussi, et sur un téléphone."""

import re
import shutil

import pytest
from browser_helpers import (
    CONTROLS,
    DOUBLES,
    FINISHED,
    LOOSE,
    OVERFLOW,
    PATIENCE,
    UNNAMED,
    page_of,
)
from studio_helpers import (
    PROMPT,
    sources_of,
    studio_service,
    write_checkpoints,
    write_journal,
)

from gpt_architecture.serving.http.access import KeyRing

playwright = pytest.importorskip("playwright.sync_api", reason="playwright n'est pas installé")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium n'est pas installé")

expect = playwright.expect
VIEWS = (
    *("atelier", "distribution", "comparer", "attention", "comprendre", "vocabulaire"),
    "entrainement",
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """L'adresse d'un studio qui montre tout."""
    folder = tmp_path_factory.mktemp("essai") / "essai"
    write_journal(folder)
    card = [("Données", "fables <b>gras</b>"), ("Licence", "non précisée")]
    with studio_service(run_directory=folder, card=card) as found:
        yield found


@pytest.fixture
def open_page(browser, url):
    """Ouvre une vue ; à la fin, rien n'est sorti de la machine et rien n'est une erreur."""
    asked, wrong, pages = [], [], []

    def start(view, *, width=1100, scheme="light"):
        page = page_of(browser, wrong, width=width, scheme=scheme)
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" else None,
        )
        page.goto(f"{url}/studio#{view}")
        page.wait_for_selector("#facts div")
        return page

    yield start
    for page in pages:
        page.context.close()
    assert wrong == []
    assert asked
    assert [each for each in asked if not each.startswith(url)] == []


def write(page):
    """Écrit une suite dans l'atelier."""
    page.get_by_label("Tokens", exact=True).locator("visible=true").fill("12")
    page.get_by_label("Graine").locator("visible=true").fill("4")
    page.get_by_role("button", name="Écrire").click()
    expect(page.locator("#write-status")).to_have_text(FINISHED, timeout=PATIENCE)


def test_the_card_opens_on_demand(open_page):
    """La fiche du modèle, repliée, s'ouvre sur ses faits ; un nom n'y est que du texte."""
    page = open_page("atelier", width=390)
    card = page.locator("#card")
    expect(card.locator("dl")).not_to_be_visible()
    card.locator("summary").click()
    expect(card).to_contain_text("fables <b>gras</b>")
    assert card.locator("dl div").count() == 2
    assert page.evaluate(OVERFLOW) <= 0


def test_the_workshop_writes_and_branches(open_page, tmp_path):
    """Écrire, choisir un token, continuer d'un autre candidat, revenir."""
    page = open_page("atelier")
    write(page)
    tokens = page.locator("#tokens .tok")
    expect(tokens).to_have_count(12)
    first = tokens.nth(0).get_attribute("aria-label")
    assert re.search(r", [<\d].*\s%$", first), first
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


def test_the_sources_of_chosen_words(browser, tmp_path):
    """Choisir des mots à la souris ou au clavier : leurs documents, le passage surligné."""
    with studio_service(index=sources_of(tmp_path / "sources")) as url:
        for scheme, width in (("light", 1100), ("dark", 390)):
            context = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme=scheme, locale="fr-FR"
            )
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(f"{url}/studio#atelier")
            page.wait_for_selector("#facts div")
            ask = page.locator("#sources-ask")
            expect(ask).to_be_disabled()
            write(page)
            ask.click()
            panel = page.locator("#sources")
            expect(panel).to_be_focused()
            expect(panel).to_contain_text("12 tokens de texte, cherchés")
            expect(panel.locator("article").first).to_contain_text("12 tokens de suite, 2 fois")
            expect(panel.locator("article .far").first).to_contain_text("bien au-delà du hasard")
            expect(panel.locator("blockquote mark")).to_have_count(2)
            expect(panel.locator("blockquote").first).to_contain_text("Avant <b>")
            expect(page.locator("#sources-status")).to_contain_text("le plus long : 12 tokens")
            assert page.evaluate(OVERFLOW) <= 0
            assert page.evaluate(UNNAMED, CONTROLS) == []
            page.screenshot(path=tmp_path / f"sources-{scheme}.png", full_page=True)
            page.locator("#tokens .tok").nth(2).focus()
            for _ in range(4):
                page.keyboard.press("Shift+ArrowRight")
            expect(page.locator("#tokens .picked")).to_have_count(5)
            expect(ask).to_have_text("D'où viennent ces mots (5 tokens) ?")
            ask.focus()
            page.keyboard.press("Enter")
            expect(panel).to_contain_text("5 tokens de texte, cherchés")
            first, last = (page.locator("#tokens .tok").nth(each) for each in (5, 8))
            first.hover(position={"x": 1, "y": 8})
            page.mouse.down()
            last.hover(position={"x": 4, "y": 8})
            page.mouse.up()
            expect(page.locator("#tokens .picked")).to_have_count(4)
            page.locator("#tokens .tok").nth(1).click()
            expect(ask).to_have_text("D'où vient ce texte ?")
            context.close()


def test_without_an_index_the_studio_says_how_to_make_one(open_page):
    page = open_page("atelier")
    write(page)
    page.locator("#sources-ask").click()
    expect(page.locator("#sources-status")).to_contain_text("evaluate --index DOSSIER")
    expect(page.locator("#sources")).to_be_hidden()


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


def test_the_head_that_copies_is_named_then_seen(open_page, tmp_path):
    """Le parcours d'un cours : la phrase qui nomme la tête, sa note, puis sa carte."""
    page = open_page("comprendre")
    expect(page.locator("#heads-verdict")).to_contain_text("de la couche")
    expect(page.locator("#heads-verdict")).to_contain_text("nats quand la suite se répète")
    expect(page.locator("#heads-grid button")).to_have_count(6)
    expect(page.locator("#heads-grid button[aria-pressed=true]")).to_have_count(1)
    page.get_by_label("le token d'avant").check()
    page.get_by_role("button", name="Couche 2, tête 3").locator("visible=true").click()
    one = page.locator("#heads-one")
    expect(one.locator("h3")).to_have_text("Couche 2, tête 3")
    expect(one.locator(".row")).to_have_count(4)
    page.screenshot(path=tmp_path / "tetes.png", full_page=True)
    one.get_by_role("button").click()
    expect(page.locator("#view-attention")).to_be_visible()
    expect(page.locator("#head-title")).to_have_text("Couche 2, tête 3")
    expect(page.locator("#attention-text")).to_have_value(f"{PROMPT.strip()} {PROMPT.strip()}")


def test_layers_and_ablation_answer(open_page, tmp_path):
    """La lentille, une case, puis chaque pièce retirée ; le mode change les nombres."""
    page = open_page("comprendre")
    page.get_by_role("tab", name="Couches").click()
    cells = page.locator("#lens-grid button")
    expect(cells).to_have_count(3 * len(PROMPT.strip()))
    expect(page.locator("#lens-one h3")).to_contain_text("couche 2")
    cells.first.click()
    expect(page.locator("#lens-one h3")).to_contain_text("embedding")
    expect(page.locator("#lens-one .row")).to_have_count(5)
    page.screenshot(path=tmp_path / "couches.png", full_page=True)
    page.get_by_role("tab", name="Ablation").click()
    expect(page.locator("#ablation-grid button")).to_have_count(2 * (3 + 3))
    expect(page.locator("#ablation-most li")).to_have_count(6)
    before = page.locator("#ablation-grid").inner_text()
    page.get_by_label("zéro").check()
    page.get_by_role("button", name="Retirer chaque pièce").click()
    expect(page.locator("#ablation-grid")).not_to_have_text(before)
    page.locator("#ablation-grid button").nth(5).click()
    expect(page.locator("#ablation-status")).to_contain_text("Sans le bloc 1 entier")
    page.screenshot(path=tmp_path / "ablation.png", full_page=True)


def test_neurons_and_embeddings_answer(open_page, tmp_path):
    """Un neurone choisi dans la liste ; un voisin dont on prend la place ; un texte hostile."""
    page = open_page("comprendre")
    page.get_by_role("tab", name="Neurones").click()
    expect(page.locator("#neurons-peaks li")).to_have_count(30)
    page.locator("#neurons-text").fill("a <img src=x> b " * 12)
    page.locator("#neurons-form [name=neuron]").fill("7")
    page.get_by_role("button", name="Chercher", exact=True).click()
    expect(page.locator("#neurons-title")).to_have_text("Couche 1, neurone 7")
    expect(page.locator(".examples li")).to_have_count(10)
    expect(page.locator(".examples mark")).to_have_count(10)
    assert page.locator(".examples img").count() == 0
    page.locator("#neurons-peaks button").nth(2).click()
    expect(page.locator("#neurons-title")).not_to_have_text("Couche 1, neurone 7")
    page.screenshot(path=tmp_path / "neurones.png", full_page=True)
    page.get_by_role("tab", name="Embeddings").click()
    expect(page.locator("#embeddings-list li")).to_have_count(24)
    expect(page.locator("#embeddings-map circle")).to_have_count(25)
    page.locator("#embeddings-list button").first.click()
    expect(page.locator("#embeddings-status")).to_contain_text("Voisins de")
    page.screenshot(path=tmp_path / "embeddings.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_part_fits_a_phone(open_page, scheme, tmp_path):
    """À 390 px, au clavier : les onglets aux flèches, une grille qui défile sans déborder."""
    page = open_page("comprendre", width=390, scheme=scheme)
    page.get_by_role("tab", name="Têtes").focus()
    for name, grid in (
        *(("Couches", "#lens-one"), ("Ablation", "#ablation-most")),
        *(("Neurones", "#neurons-examples"), ("Embeddings", "#embeddings-map")),
    ):
        page.keyboard.press("ArrowRight")
        expect(page.locator(":focus")).to_have_text(name)
        page.keyboard.press("Enter")
        expect(page.locator(grid)).to_be_visible()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        page.wait_for_load_state("networkidle")
        assert page.evaluate(OVERFLOW) <= 0, name
        assert page.evaluate(UNNAMED, CONTROLS) == []
        page.screenshot(path=tmp_path / f"{name}-{scheme}.png", full_page=True)
    page.get_by_role("tab", name="Têtes").click()
    cell = page.locator("#heads-grid button").first
    cell.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#heads-one h3")).to_have_text("Couche 2, tête 1")


def test_a_quantized_model_explains_nothing_and_says_so(browser):
    with studio_service(network=None) as url:
        page = browser.new_page(locale="fr-FR")
        page.goto(f"{url}/studio#comprendre")
        expect(page.locator("#understand-status")).to_contain_text("modèle quantifié")
        expect(page.locator("#parts")).to_be_hidden()
        page.close()


def test_a_text_is_cut_while_typing(open_page, tmp_path):
    """Tokens, octets, morceaux de caractère ; un texte hostile reste du texte."""
    page = open_page("vocabulaire")
    page.get_by_label("Texte", exact=True).fill("été<img src=x>")
    expect(page.locator("#pieces .tok")).to_have_count(16)
    expect(page.locator("#pieces-table")).to_contain_text("⟨octet c3⟩")
    expect(page.locator("#pieces-table caption")).to_contain_text("un morceau de caractère")
    assert page.locator("#pieces img").count() == 0
    page.screenshot(path=tmp_path / "vocabulaire.png")


def test_a_run_is_drawn(open_page, tmp_path):
    """Les courbes, les chiffres, et des exemples où le HTML reste du texte."""
    page = open_page("entrainement")
    expect(page.locator("#run-loss path")).to_have_count(3)
    expect(page.locator("#run-facts")).to_contain_text("60 sur 100")
    expect(page.locator("#run-samples")).to_contain_text("<b>rame</b>")
    expect(page.locator("#run-samples")).to_contain_text("</b>. (9 lignes vides) Rien.")
    page.screenshot(path=tmp_path / "entrainement.png")


def test_the_same_prompt_along_a_run(browser, tmp_path):
    """Les points de reprise côte à côte, leur perte, la probabilité d'un texte ; et l'absence."""
    folder = tmp_path / "essai"
    write_journal(folder)
    with studio_service(run_directory=folder) as url:
        page = browser.new_page(viewport={"width": 390, "height": 800}, locale="fr-FR")
        page.set_default_timeout(PATIENCE)
        page.goto(f"{url}/studio#entrainement")
        ask = page.get_by_role("button", name="Comparer les points de reprise")
        ask.click()
        expect(page.locator("#learning-status")).to_contain_text("qui en garde plusieurs")
        write_checkpoints(folder)
        page.locator("#learning-follow").fill("e")
        ask.click()
        expect(page.locator("#learning-cards article")).to_have_count(3)
        expect(page.locator("#learning-cards article").first).to_contain_text("Étape 2")
        expect(page.locator("#learning-chart circle")).to_have_count(3)
        expect(page.locator("#learning-title")).to_contain_text("« e »")
        assert page.evaluate(OVERFLOW) <= 0
        page.screenshot(path=tmp_path / "apprentissage.png", full_page=True)
        page.goto(f"{url}/studio#comprendre")
        page.get_by_role("tab", name="Embeddings").click()
        page.locator("#embeddings-text").fill("deux")
        page.get_by_role("button", name="Chercher ses voisins").click()
        expect(page.locator("#embeddings-status")).to_contain_text("fait 4 tokens")
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_a_phone_and_names_its_controls(open_page, view, scheme, tmp_path):
    """À 390 px : rien ne déborde ; tout contrôle a un nom, tout identifiant est unique."""
    page = open_page(view, width=390, scheme=scheme)
    page.wait_for_load_state("networkidle")
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate(UNNAMED, CONTROLS) == []
    assert page.evaluate(DOUBLES) == []
    assert page.evaluate(LOOSE) == []
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
