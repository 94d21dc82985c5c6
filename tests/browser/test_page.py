"""Un modèle dans une page, ouverte depuis son fichier : tout s'y calcule, rien n'est demandé."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from browser_helpers import CONTROLS, DOUBLES, FINISHED, OVERFLOW, PATIENCE, UNNAMED, page_of
from interop_helpers import GPT2, content

from gpt_architecture.data.tokenizer import tokenizer_from_dict
from gpt_architecture.data.tokenizers.simple import CharTokenizer
from gpt_architecture.kernels.decode.packed import pack
from gpt_architecture.reports.portable.page import VIEWS, export_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright n'est pas installé")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium n'est pas installé")

expect = playwright.expect
PLAIN = "delete globalThis.WebAssembly"
PROMPT = "Le passeur leva"


@pytest.fixture(scope="module")
def model():
    return content(replace(GPT2, context_length=64))


@pytest.fixture(scope="module")
def file(tmp_path_factory, model):
    """La page du modèle."""
    path = tmp_path_factory.mktemp("page") / "lampe <b>&.html"
    export_page(model, path)
    return path


@pytest.fixture
def open_page(browser, file):
    """Ouvre une page ; à la fin, seul son fichier a été demandé et rien n'est une erreur."""
    asked, wrong, pages = [], [], []

    def start(view="", *, path=file, width=1100, scheme="light", script=None, loads=True):
        page = page_of(browser, wrong, width=width, scheme=scheme)
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        if script is not None:
            page.add_init_script(script)
        page.goto(path.as_uri() + view)
        if loads:
            page.wait_for_selector("#facts div")
        return page

    yield start
    for page in pages:
        page.context.close()
    assert wrong == []
    assert asked
    assert {each.split("#")[0].rpartition(".")[2] for each in asked} == {"html"}
    assert all(each.startswith("file://") for each in asked)


def write(page):
    """Écrit une suite."""
    page.get_by_label("Invite").locator("visible=true").fill(PROMPT)
    page.get_by_label("Tokens", exact=True).fill("12")
    page.get_by_label("Graine").fill("4")
    page.get_by_role("button", name="Écrire").click()
    expect(page.locator("#write-status")).to_have_text(FINISHED, timeout=PATIENCE)


def test_greedy_ids_with_and_without_webassembly(open_page, model):
    """Les identifiants du modèle quantifié du projet, par les deux moteurs."""
    packed, tokenizer = pack(model.build(), "int8"), tokenizer_from_dict(model.tokenizer)
    ids = tokenizer.encode(PROMPT)
    cache, wanted, fresh = packed.new_cache(1), [], ids
    for _ in range(16):
        logits = packed(torch.tensor([fresh]), cache)[0, -1, : tokenizer.vocab_size]
        fresh = [int(logits.argmax())]
        wanted += fresh
    for script, simd in ((None, True), (PLAIN, False)):
        page = open_page(script=script)
        assert page.evaluate("gpt.simd") is simd
        assert page.evaluate("(text) => gpt.encode(text)", PROMPT) == ids
        assert page.evaluate("(ids) => gpt.greedy(ids, 16)", ids) == wanted
        assert page.evaluate("(ids) => gpt.decode(ids)", wanted) == tokenizer.decode(wanted)


def test_it_writes_and_branches(open_page):
    """Écrire, repartir d'un autre candidat ; la même graine rend le même texte."""
    page = open_page()
    write(page)
    tokens = page.locator("#tokens .tok")
    expect(tokens).to_have_count(12)
    before = tokens.all_text_contents()
    write(page)
    assert tokens.all_text_contents() == before
    tokens.nth(3).click()
    candidates = page.locator("#candidates button")
    assert candidates.count() >= 10
    candidates.filter(has_not_text="▸").nth(1).click()
    expect(page.locator("#write-status")).to_have_text(FINISHED, timeout=PATIENCE)
    assert tokens.all_text_contents()[:3] == before[:3]
    page.get_by_label("Température").locator("visible=true").fill("0")
    write(page)
    greedy = tokens.all_text_contents()
    ids = page.evaluate("(text) => gpt.encode(text)", PROMPT)
    chosen = page.evaluate("(ids) => gpt.greedy(ids, 12)", ids)
    assert "".join(greedy).replace("·", "") == page.evaluate("(ids) => gpt.decode(ids)", chosen)


def test_the_distribution_and_the_attention(open_page):
    page = open_page("#distribution")
    page.wait_for_selector("#bars li")
    page.get_by_label("Top-p").locator("visible=true").fill("0.5")
    expect(page.locator("#funnel li", has_text="Top-p")).to_contain_text("retire")
    page.get_by_role("link", name="Attention").click()
    page.get_by_role("button", name="Couche 2, tête 3").click()
    expect(page.locator("#head-title")).to_have_text("Couche 2, tête 3")
    page.locator("#sentence .tok").first.click()
    expect(page.locator("#looks")).to_contain_text("100 %")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_fits_a_phone_and_names_its_controls(open_page, view, scheme):
    """À 390 px : rien ne déborde ; tout contrôle a un nom, tout identifiant est unique."""
    page = open_page(f"#{view}", width=390, scheme=scheme)
    expect(page.locator(f"#view-{view}")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate(UNNAMED, CONTROLS) == []
    assert page.evaluate(DOUBLES) == []
    expect(page.locator("h1:visible")).to_have_count(1)
    expect(page.locator("#views [aria-current=page]")).to_have_count(1)


def test_the_keyboard_is_enough(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Aller au contenu")
    write(page)
    page.locator("#tokens .tok[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#candidates h3")).to_contain_text("Token 2")


def test_a_closed_vocabulary_says_what_it_lacks(open_page, tmp_path):
    """Un caractère inconnu, une invite vide : une phrase, et la page sert encore."""
    letters = CharTokenizer.from_text("abcdé ")
    export_page(
        replace(content(GPT2), tokenizer=letters.to_dict()), tmp_path / "c.html", text_only=True
    )
    page = open_page(path=tmp_path / "c.html")
    expect(page.locator("nav")).to_have_count(0)
    for text, words in (("abz", "U+007A"), ("", "Écrivez quelques mots")):
        page.get_by_label("Invite").fill(text)
        page.get_by_role("button", name="Écrire").click()
        expect(page.locator("#write-status")).to_contain_text(words)
    page.get_by_label("Invite").fill("abé")
    page.get_by_role("button", name="Écrire").click()
    expect(page.locator("#write-status")).to_have_text(FINISHED, timeout=PATIENCE)


@pytest.mark.parametrize("fault", ["cut", "swapped"])
def test_a_damaged_page_says_so(open_page, file, tmp_path, fault):
    """Un envoi coupé, un octet changé : la page le dit au lieu d'écrire n'importe quoi."""
    html = file.read_text(encoding="utf-8")
    (start,) = (found.end() for found in re.finditer('class="weights">', html))
    middle = start + 2000
    if fault == "cut":
        html = html[:middle] + html[html.index("</script>", middle) :]
    else:
        html = html[:middle] + ("A" if html[middle] != "A" else "B") + html[middle + 1 :]
    (tmp_path / "p.html").write_text(html, encoding="utf-8")
    page = open_page(path=tmp_path / "p.html", loads=False)
    expect(page.locator("#load-status")).to_contain_text("incomplet ou abîmé")
