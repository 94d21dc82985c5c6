// Sources : d'où viennent des mots écrits, dans les données d'entraînement.

import { read } from "./api.js";
import { byId, counted, element, number, say } from "./dom.js";

const MISSING = "Ce service n'a pas d'index de ses données d'entraînement. Pour en avoir un : « gpt-architecture prepare … --index », ou « gpt-architecture evaluate --index DOSSIER », puis « gpt-architecture serve --index DOSSIER ».";

// Ce que vaut une longueur, contre celle que le hasard donne.
export function judged(length, chance) {
  if (length <= chance) return "comme dans un texte jamais vu";
  return `${length >= 2 * chance ? "bien " : ""}au-delà du hasard (${number(chance)})`;
}

// Les tokens choisis, par la souris ou par le clavier ; puis ce que le service en sait.
export function sources(info, box, tokensOf) {
  const ask = byId("sources-ask");
  const status = byId("sources-status");
  const panel = byId("sources");
  let picked = null; // [premier, dernier]
  let anchor = null;
  let asking = null;
  let from = -1;
  let dragged = false;

  const nodes = () => [...box.querySelectorAll(".tok")];

  function pick(range) {
    picked = range;
    nodes().forEach((node, place) => {
      node.classList.toggle("picked", range !== null && place >= range[0] && place <= range[1]);
    });
    ask.disabled = tokensOf().length === 0;
    ask.textContent = range === null ? "D'où vient ce texte ?" : `D'où viennent ces mots (${counted(range[1] - range[0] + 1, "token")}) ?`;
  }

  function reset() {
    asking?.abort();
    anchor = null;
    panel.hidden = true;
    say(status, "");
    pick(null);
  }

  // La souris, du token où elle s'abaisse à celui qu'elle atteint.
  const placeOf = (event) => nodes().indexOf(event.target.closest(".tok"));
  box.addEventListener("pointerdown", (event) => {
    from = event.pointerType === "mouse" ? placeOf(event) : -1;
    dragged = false;
  });
  box.addEventListener("pointerover", (event) => {
    const here = placeOf(event);
    if (event.buttons !== 1 || from < 0 || here < 0 || (here === from && !dragged)) return;
    dragged = true;
    pick([Math.min(from, here), Math.max(from, here)]);
  });
  // La sélection du navigateur (au doigt, surtout), ramenée à des tokens entiers.
  document.addEventListener("selectionchange", () => {
    const selection = getSelection();
    if (selection.isCollapsed || !box.contains(selection.anchorNode) || !box.contains(selection.focusNode)) return;
    const places = nodes().flatMap((node, place) => (selection.containsNode(node, true) ? [place] : []));
    if (places.length) pick([places[0], places.at(-1)]);
  });
  box.addEventListener("click", (event) => {
    if (event.detail > 0 && !dragged && getSelection().isCollapsed) pick(null); // 0 : le clavier
  });
  box.addEventListener("keydown", (event) => {
    const places = nodes();
    const here = places.indexOf(document.activeElement); // les flèches l'ont déjà déplacé
    const before = places.indexOf(event.target);
    if (!event.shiftKey || here < 0 || here === before) {
      if (here !== before) anchor = null;
      return;
    }
    anchor ??= before;
    pick([Math.min(anchor, here), Math.max(anchor, here)]);
    say(status, `${counted(picked[1] - picked[0] + 1, "token")} : « ${tokensOf().slice(picked[0], picked[1] + 1).map((token) => token.shown).join("").trim()} ».`);
  });

  async function search() {
    if (!info.sources) {
      panel.hidden = true;
      say(status, MISSING, { bad: true });
      return;
    }
    asking?.abort();
    asking = new AbortController();
    const chosen = picked === null ? tokensOf() : tokensOf().slice(picked[0], picked[1] + 1);
    say(status, "Recherche…");
    try {
      const found = await read("../v1/provenance", { body: { input: chosen.map((token) => token.id) }, signal: asking.signal });
      show(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      panel.hidden = true;
      say(status, error.message, { bad: true });
    }
  }

  function show(found) {
    const how = found.chance.measured ? "mesuré sur du texte inédit" : "estimé, faute de texte inédit";
    say(status, found.passages.length
      ? `${counted(found.found, "passage")} mot pour mot ; le plus long : ${counted(found.longest, "token")}, ${judged(found.longest, found.chance.length)}.`
      : "Aucun passage assez long pour être montré.");
    panel.replaceChildren(
      element("p", { class: "note" }, `${counted(found.tokens, "token")} de texte, cherchés parmi ${number(found.index.tokens)}, de ${counted(found.index.documents, "document")}. Hasard : un texte jamais vu de cette taille ne partage pas plus de ${counted(found.chance.length, "token")} de suite, 95 fois sur 100 (${how}).`),
      ...found.passages.map((passage) => article(passage, found.chance.length)),
    );
    panel.hidden = false;
    panel.focus({ preventScroll: true });
  }

  function article(passage, chance) {
    const rest = passage.occurrences - passage.places.length;
    return element("article", {},
      element("h3", {}, `${counted(passage.length, "token")} de suite, ${number(passage.occurrences)} fois`),
      element("p", { class: passage.beyond_chance ? "note far" : "note" }, `${judged(passage.length, chance)}.`),
      element("p", { class: "verbatim" }, element("mark", {}, passage.text)),
      ...passage.places.flatMap((place) => [
        element("p", { class: "note" }, `${place.name ? `${place.name}, ` : ""}document ${number(place.document)}, token ${number(place.offset)} :`),
        element("blockquote", { class: "context" }, `…${place.before}`, element("mark", {}, passage.text), `${place.after}…`),
      ]),
      rest > 0 && passage.places.length ? element("p", { class: "note" }, `Et ${number(rest)} autre${rest > 1 ? "s" : ""} fois.`) : "",
    );
  }

  ask.addEventListener("click", search);
  pick(null);
  return { reset };
}
