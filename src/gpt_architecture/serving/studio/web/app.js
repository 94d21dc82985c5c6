// Le studio : quelle vue est ouverte, et ce que le service dit de lui-même.

import { key, read } from "./api.js";
import { attention } from "./attention.js";
import { byId, facts, number } from "./dom.js";
import { compare } from "./compare.js";
import { distribution } from "./distribution.js";
import { training } from "./training.js";
import { vocabulary } from "./vocabulary.js";
import { workshop } from "./workshop.js";

const VIEWS = {
  atelier: workshop,
  distribution,
  comparer: compare,
  attention,
  vocabulaire: vocabulary,
  entrainement: training,
};
const opened = new Map();
let info = null;
let current = null;

function show() {
  const asked = location.hash.slice(1);
  const name = Object.hasOwn(VIEWS, asked) ? asked : "atelier";
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${name}`) {
      link.setAttribute("aria-current", "page");
      document.title = `${link.textContent} — Studio`;
    } else link.removeAttribute("aria-current");
  }
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
  if (info === null || current === name) return;
  opened.get(current)?.hide?.();
  current = name;
  if (!opened.has(name)) opened.set(name, VIEWS[name](info) ?? {});
  opened.get(name).show?.();
}

async function start() {
  const notice = byId("notice");
  try {
    info = await read("api/info");
  } catch (error) {
    notice.textContent = error.status === 401 && !key.get() ? "Ce service demande une clé d'accès." : error.message;
    notice.hidden = false;
    if (error.status === 503) setTimeout(start, 2000);
    return;
  }
  notice.hidden = true;
  byId("key-form").hidden = true;
  facts(byId("facts"), [
    ["Modèle", info.name],
    ["Paramètres", number(info.parameters)],
    ["Contexte", `${number(info.window)} tokens`],
    ["Vocabulaire", number(info.vocabulary)],
  ]);
  show();
}

addEventListener("hashchange", () => {
  show();
  byId("contenu").focus({ preventScroll: true });
});
addEventListener("studio-key", () => {
  byId("key-form").hidden = false;
  byId("key").focus();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  if (info === null) start();
  else byId("key-form").hidden = true;
});
show();
start();
