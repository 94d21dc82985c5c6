"""Le site : bâti d'un clone, hors ligne, sans rien qui manque ni rien qui vienne d'ailleurs."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import pytest
from docs_helpers import ROOT, tool

CHROMIUM = shutil.which("chromium")
BUILD = [sys.executable, "-m", "mkdocs", "build", "--clean"]
QUIET = {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
OWN_SCHEMES = ("data:", "mailto:", "#", "blob:")
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Page(HTMLParser):
    """Ce qu'une page charge, où mènent ses liens, et ses ancres."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if LOADED.get(tag) in values and values.get("rel") != "canonical":
            self.loaded.append(values[LOADED[tag]])
        elif tag == "a" and values.get("href"):
            self.links.append(values["href"])


def build(folder, *options):
    """Bâtit le site dans `folder`."""
    return subprocess.run(
        [*BUILD, "--site-dir", str(folder / "site"), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **QUIET},
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Le site, bâti une fois."""
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    """Chaque page du site, lue."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_nothing_comes_from_elsewhere(site, pages):
    """Ni script, ni style, ni police, ni image d'un autre site."""
    for path, page in pages.items():
        foreign = [each for each in page.loaded if "://" in each or each.startswith("//")]
        assert not foreign, (path.name, foreign)
        assert "mermaid" not in page.anchors  # seul cas où le thème irait chercher un script
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), path.name


def test_every_link_leads_somewhere(site, pages):
    """Chaque lien, chaque image et chaque ancre du site bâti."""
    for path, page in pages.items():
        if path.name == "404.html":  # ses liens partent de la racine d'un serveur
            continue
        for target in [*page.links, *page.loaded]:
            if "://" in target or target.startswith(OWN_SCHEMES[:2]):
                continue
            name, _, anchor = urllib.parse.unquote(target).partition("#")
            found = (path.parent / name).resolve() if name else path
            assert found.is_file(), (path.relative_to(site), target)
            if anchor and anchor != "__skip" and found.suffix == ".html":
                assert anchor in pages[found].anchors, (path.relative_to(site), target)


def test_every_page_of_docs_is_there(site):
    """Toute page de docs/ est dans le site, et la construction refuse celle que rien n'annonce."""
    docs = ROOT / "docs"
    for page in docs.rglob("*.md"):
        assert (site / page.relative_to(docs).with_suffix(".html")).is_file(), page


def test_every_generated_block_is_filled(site, pages):
    """Aucune marque ne reste, et les références nomment tout ce qu'elles doivent."""
    from gpt_architecture import __all__ as public
    from gpt_architecture.cli.app import COMMANDS
    from gpt_architecture.decoding.settings import SETTINGS

    reference = {path.stem: html.unescape(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert not [name for name, text in reference.items() if "<!-- généré" in text]
    assert not [name for name, text in reference.items() if "par le site (<code>make" in text]
    for command in COMMANDS:
        assert f"gpt-architecture {command} " in reference["commandes"], command
    for name in public:
        assert re.search(rf"<code>(?:\w+\.)*{name}</code>", reference["python"]), name
    assert reference["python"].index('id="load"') < reference["python"].index('id="comparison"')
    for name in SETTINGS.declared:
        assert f"<code>{name}</code>" in reference["decodage"], name
    for route in ("/v1/completions", "/v1/chat/completions", "/health", "/metrics"):
        assert f" {route}</code>" in reference["http"], route


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs/reference").glob("*.md")), ids=lambda p: p.stem
)
def test_a_generated_block_says_where_to_read_it(page):
    """Lu hors du site, un bloc que le site écrit n'est pas un vide : une phrase dit où aller."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"^<!-- généré : ([\w-]+) -->$", text, re.MULTILINE):
        said = re.search(rf"^<!-- généré : {name} -->\n\n> (.+)$", text, re.MULTILINE)
        assert said, name
        assert f"site/reference/{page.stem}.html" in said[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mort](absente.md)", "absente.md"),
        ("[morte](#nulle-part)", "nulle-part"),
        ("<!-- généré : rien -->", "bloc généré inconnu, rien"),
    ],
    ids=["lien", "ancre", "bloc"],
)
def test_a_mistake_stops_the_build(tmp_path, text, said):
    """Un lien mort, une ancre morte ou un bloc inconnu : la construction échoue, et dit lequel."""
    docs, config = tmp_path / "docs", tmp_path / "mkdocs.yml"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Essai\n\n{text}\n", encoding="utf-8")
    config.write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: {docs}\nnav: [index.md]\n"
        f"hooks: [{ROOT / 'tools/docsite/hooks.py'}]\n",
        encoding="utf-8",
    )
    done = build(tmp_path, "--config-file", str(config))
    assert done.returncode != 0
    assert said in done.stderr


def test_a_bar_in_a_table_is_shown_alone(site):
    r"""`<\|user\|>`, écrit ainsi pour GitHub, se lit sans barre oblique."""
    text = html.unescape((site / "guides/vocabulaire.html").read_text(encoding="utf-8"))
    assert "<code><|endoftext|></code>" in text
    assert "\\|endoftext" not in text


def test_the_search_index_knows_french(site):
    """L'index est dans un script, que le navigateur peut lire sans serveur."""
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("var __index = "))
    assert index["config"]["lang"] == ["fr"]
    assert any("mirostat" in each["text"].lower() for each in index["docs"])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium n'est pas installé")
def test_search_and_themes_from_a_file(site):
    """Ouvert d'un double clic : la recherche trouve, le clair devient sombre, rien ne sort."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light", viewport={"width": 390, "height": 800})
        asked, errors = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390  # un téléphone
        page.set_viewport_size({"width": 1280, "height": 900})
        # touche après touche : la page lit le champ quand une touche se relève
        page.locator(".md-search__input").press_sequentially("mirostat")
        found = page.locator(".md-search-result__link").first
        found.wait_for(timeout=20_000)
        assert "decodage.html" in found.get_attribute("href")
        page.keyboard.press("Escape")
        for scheme in ("default", "slate"):
            page.locator("form.md-header__option label:not([hidden])").first.click()
            assert page.evaluate("document.body.dataset.mdColorScheme") == scheme
        browser.close()
    assert not errors
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked)


def test_cells_are_safe():
    """Un texte du code tient dans une cellule de tableau, quoi qu'il contienne."""
    cell = tool("markdown_text").cell
    assert cell("a | b\n  c") == "a \\| b c"
    assert cell("<|fin|> et `<s>`") == "&lt;\\|fin\\|> et `<s>`"


def test_navigation_by_folder(tmp_path):
    """« dossier/* » vaut ses pages, l'index d'abord."""
    for name in ("b.md", "index.md", "a.md", "image.svg"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).touch()
    expand = tool("hooks")._expanded
    assert expand({"X": "x/*"}, tmp_path) == {"X": ["x/index.md", "x/a.md", "x/b.md"]}
    assert expand({"X": [{"Y": "x/a.md"}, "x/b.md"]}, tmp_path) == {
        "X": [{"Y": "x/a.md"}, "x/b.md"]
    }
