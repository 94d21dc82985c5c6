"""Ce que les essais au navigateur cherchent dans toute page."""

import re
from contextlib import suppress

PATIENCE = 30_000  # millisecondes
with suppress(ImportError):  # sans Playwright, ces essais se passent
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
FINISHED = re.compile("^Fini")
CONTROLS = "input, select, textarea, button, [role=button], canvas[role=img]"
UNNAMED = """(controls) => [...document.querySelectorAll(controls)]
  .filter((each) => each.checkVisibility())
  .filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim()))
  .map((each) => each.outerHTML)"""
DOUBLES = """() => { const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
  return ids.filter((id, place) => ids.indexOf(id) !== place); }"""
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"
LOOSE = """() => {
  const written = ".text, .prompt, .samples, .examples, .sources, .raw, textarea, script, style";
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const { data, parentElement } = walk.currentNode;
    if (parentElement.closest(written) === null && / [;:!?»%]|« /.test(data)) found.push(data);
  }
  return found; }"""
"""Les textes d'une page, hors de ce qu'écrit un modèle, où un signe peut commencer une ligne."""


def page_of(browser, wrong, *, width=1100, scheme="light"):
    """Une page en français, dans un contexte à elle ; `wrong` reçoit ses erreurs de script."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, locale="fr-FR"
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return page
