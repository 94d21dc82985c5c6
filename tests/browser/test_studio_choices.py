"""Le studio d'un service de plusieurs noms, ou d'un modèle qui juge, dans un vrai navigateur."""

import re
import shutil
from contextlib import contextmanager

import pytest
from browser_helpers import CONTROLS, FINISHED, LOOSE, OVERFLOW, UNNAMED, page_of
from http_helpers import serving
from studio_helpers import PROMPT, judge_model, many_names, studio_service

from gpt_architecture.serving.app import create_app

playwright = pytest.importorskip("playwright.sync_api", reason="playwright n'est pas installé")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium n'est pas installé")

expect = playwright.expect


@pytest.fixture(scope="module")
def url():
    with many_names() as (context, pool), serving(create_app(context, pool=pool)) as found:
        yield found


@pytest.fixture
def open_page(browser):
    """Ouvre une adresse ; les erreurs de script échouent."""
    wrong, pages = [], []

    def start(address, *, width=1100, scheme="light"):
        page = page_of(browser, wrong, width=width, scheme=scheme)
        pages.append(page)
        page.goto(address)
        return page

    yield start
    for page in pages:
        page.context.close()
    assert wrong == []


@contextmanager
def posted(page):
    """Les corps JSON qu'envoie la page dans ce bloc, par chemin."""
    found = []
    page.on("request", lambda each: each.method == "POST" and found.append(each))
    yield found


def test_the_keyboard_chooses_an_adapter(open_page, url):
    """Rien ne bouge avant le bouton ; l'adresse garde le nom, et l'invite suit."""
    page = open_page(f"{url}/studio#atelier")
    page.wait_for_selector("#facts div")
    select = page.get_by_label("Modèle", exact=True)
    expect(select).to_have_value("petit")
    expect(page.locator("#model optgroup")).to_have_count(2)
    page.locator("#prompt").fill("Une barque ")
    select.focus()
    page.keyboard.press("ArrowDown")
    expect(select).to_have_value("poli")
    assert "modele" not in page.url
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Ouvrir")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"\?modele=poli#atelier$"))
    expect(page.locator("#facts")).to_contain_text("Adaptateur de")
    expect(page.locator("#prompt")).to_have_value("Une barque ")
    expect(page).to_have_title(re.compile("poli"))
    for name, address in (("petit", r"studio/?#atelier$"), ("poli", r"\?modele=poli#atelier$")):
        select.select_option(name)  # elle suit encore, sans être récrite
        page.get_by_role("button", name="Ouvrir").click()
        page.wait_for_url(re.compile(address))
        page.wait_for_selector("#facts div")
        expect(page.locator("#prompt")).to_have_value("Une barque ")
    page.reload()
    expect(page.locator("#facts")).to_contain_text("Adaptateur de")
    expect(select).to_have_value("poli")
    expect(page.locator("#prompt")).to_have_value(PROMPT)


def test_everything_asked_goes_to_the_chosen_name(open_page, url):
    """Chaque vue, chaque partie : pas une demande ne part au premier modèle."""
    page = open_page(f"{url}/studio?modele=poli#atelier")
    page.wait_for_selector("#facts div")
    with posted(page) as bodies:
        page.locator("#write-form [name=max_tokens]").fill("4")
        page.get_by_role("button", name="Écrire").click()
        expect(page.locator("#write-status")).to_have_text(FINISHED)
        page.get_by_role("link", name="Distribution").click()
        expect(page.locator("#bars li")).to_have_count(25)
        page.get_by_role("link", name="Comparer").click()
        page.locator("#compare-form [name=max_tokens]").fill("3")
        page.get_by_role("button", name="Comparer", exact=True).click()
        expect(page.locator("#compare-status")).to_have_text(FINISHED)
        page.get_by_role("link", name="Attention").click()
        expect(page.locator("#looks li")).to_have_count(6)
        page.get_by_role("link", name="Comprendre").click()
        with page.expect_response(re.compile(r"/api/heads\?model=poli")):
            pass
        for name, shown in (
            *(("Couches", "#lens-one h3"), ("Ablation", "#ablation-verdict")),
            *(("Neurones", "#neurons-title"), ("Embeddings", "#embeddings-map svg")),
        ):
            page.get_by_role("tab", name=name).click()
            expect(page.locator(shown)).to_be_visible()
        page.get_by_role("link", name="Vocabulaire").click()
        expect(page.locator("#pieces .tok").first).to_be_visible()
    paths = {each.url.removeprefix(url) for each in bodies}
    parts = ("generate", "next", "attention", "lens", "ablation", "neuron", "neighbours")
    assert paths == {*(f"/studio/api/{each}" for each in parts), "/tokenize"}
    assert {each.post_data_json["model"] for each in bodies} == {"poli"}


def test_another_model_loads_then_one_that_cannot(open_page, url):
    """Chargé à la demande ; illisible ou inconnu, la page le dit et laisse choisir."""
    page = open_page(f"{url}/studio#distribution")
    page.wait_for_selector("#bars li")
    before = page.locator("#bars").inner_text()
    select, button = (
        page.get_by_label("Modèle", exact=True),
        page.get_by_role("button", name="Ouvrir"),
    )
    select.select_option("autre")
    button.click()
    page.wait_for_url(re.compile("modele=autre"))
    page.wait_for_selector("#bars li")
    assert page.locator("#bars").inner_text() != before
    select.select_option("abime")
    button.click()
    expect(page.locator("#notice")).to_contain_text("« abime » ne se charge pas")
    expect(select).to_have_value("abime")
    select.select_option("petit")
    button.click()
    page.wait_for_selector("#bars li")
    assert page.locator("#bars").inner_text() == before
    assert "modele" not in page.url
    page.goto(f"{url}/studio?modele=absent#distribution")
    expect(page.locator("#notice")).to_contain_text("n'est pas servi ici")
    expect(select).to_have_value("petit")
    page.wait_for_selector("#bars li")
    assert "modele" not in page.url


def test_one_name_leaves_nothing_to_choose(open_page):
    with studio_service() as alone:
        page = open_page(f"{alone}/studio")
        page.wait_for_selector("#facts div")
        expect(page.locator("#model-form")).to_be_hidden()
        expect(page.locator("#facts")).to_contain_text("petit")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_choice_fits_a_phone(open_page, url, scheme, tmp_path):
    page = open_page(f"{url}/studio?modele=poli#atelier", width=390, scheme=scheme)
    page.wait_for_selector("#facts div")
    page.locator("#card summary").click()
    expect(page.locator("#card-facts")).to_contain_text("ajouté à « petit »")
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate(UNNAMED, CONTROLS) == []
    assert page.evaluate(LOOSE) == []
    page.screenshot(path=tmp_path / f"choix-{scheme}.png", full_page=True)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ({"labels": ("avis", "spam", "billet")}, r"^« (avis|spam|billet) », à [\d,]+\s%\.$"),
        ({"center": 2.0, "scale": 0.5}, r"^Valeur : −?\d+,\d{3}\.$"),
    ],
    ids=["classes", "valeur"],
)
def test_a_model_that_judges_has_its_own_workshop(open_page, head, told, tmp_path):
    """L'Atelier juge un texte ; ce qui lirait des tokens écrits n'est pas proposé."""
    with studio_service(judge_model(**head)) as address:
        page = open_page(f"{address}/studio#comparer", width=390)
        page.wait_for_selector("#facts div")
        expect(page.locator("h1:visible")).to_have_text("Atelier")
        expect(page.locator("#views a:visible")).to_have_text(
            ["Atelier", "Attention", "Comprendre", "Vocabulaire", "Entraînement"]
        )
        page.get_by_label("Texte à juger").fill("Gagnez un voyage !")
        page.get_by_role("button", name="Juger").click()
        verdict = page.locator("#judge-verdict")
        expect(verdict).to_be_visible()
        assert re.search(told, " ".join(verdict.inner_text().split()))
        expect(page.locator("#judge-classes li")).to_have_count(len(head.get("labels", ())))
        page.get_by_label("Texte à juger").fill("a" * 200)
        page.get_by_role("button", name="Juger").click()
        expect(page.locator("#judge-status")).to_contain_text("seul son début a été lu")
        assert page.evaluate(OVERFLOW) <= 0
        assert page.evaluate(LOOSE) == []
        page.screenshot(path=tmp_path / "juger.png", full_page=True)
        page.get_by_role("link", name="Comprendre").click()
        expect(page.locator("#embeddings-list li")).to_have_count(24)
        expect(page.locator("#parts [role=tab]:visible")).to_have_count(1)
        expect(page.locator("#understand-status")).to_contain_text("juge des textes")
        page.get_by_role("link", name="Attention").click()
        expect(page.locator("#head-title")).to_be_visible()


def test_a_piece_of_a_character_is_a_readable_byte(open_page, url):
    """`bytes:\\xda` ne paraît nulle part : l'octet se lit, et son titre dit ce qu'il est."""
    page = open_page(f"{url}/studio#distribution")
    name = page.locator("#bars .name", has_text="⟨octet").first
    expect(name).to_have_attribute("title", re.compile("un morceau de caractère"))
    page.get_by_role("link", name="Atelier").click()
    page.get_by_role("button", name="Écrire").click()
    expect(page.locator("#write-status")).to_have_text(FINISHED)
    page.locator("#tokens .tok[title*=morceau]").first.click()
    expect(page.locator("#candidates .taken .name")).to_have_text(re.compile("^▸⟨octet .+⟩$"))
    page.get_by_role("link", name="Attention").click()
    page.locator("#attention-text").fill("été")
    page.get_by_role("button", name="Regarder").click()
    row = page.locator("#head-rows div", has_text="⟨octet c3⟩").first
    expect(row).to_have_attribute("title", re.compile("un morceau de caractère"))
    page.get_by_role("link", name="Comprendre").click()
    page.get_by_role("tab", name="Couches").click()
    expect(page.locator("#lens-grid button", has_text="⟨octet").first).to_be_visible()
    page.get_by_role("tab", name="Neurones").click()
    expect(page.locator("#neurons-title")).to_be_visible()
    page.get_by_role("tab", name="Embeddings").click()
    expect(page.locator("#embeddings-map title").first).to_be_attached()
    assert "bytes:" not in page.locator("body").inner_text()
    labels = page.evaluate(
        "() => [...document.querySelectorAll('[aria-label]')].map((each) => each.ariaLabel)"
    )
    assert [each for each in labels if "bytes:" in each] == []


def test_what_does_not_light_a_neuron_is_not_said_to(open_page, url):
    """Les passages d'activation négative sont à part, et nommés pour ce qu'ils sont."""
    page = open_page(f"{url}/studio#comprendre")
    page.get_by_role("tab", name="Neurones").click()
    page.locator("#neurons-text").fill("abcdef")
    page.get_by_role("button", name="Chercher", exact=True).click()
    expect(page.locator("#neurons-status")).to_contain_text("6 tokens lus")
    shown = {}
    for name in ("lit", "dark"):
        texts = page.locator(f"#neurons-{name} small").all_inner_texts()
        shown[name] = [
            float(each.split(", t")[0].replace(",", ".").replace("−", "-")) for each in texts
        ]
    assert len(shown["lit"]) + len(shown["dark"]) == 6
    assert all(each >= 0 for each in shown["lit"])
    assert all(each <= 0 for each in shown["dark"])
    assert shown["lit"]
    assert shown["dark"]
    expect(page.locator("#neurons-dark")).to_contain_text("négative ou nulle")
