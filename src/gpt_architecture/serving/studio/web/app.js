// Le studio : le modèle choisi, la vue ouverte, et ce que le service dit de lui-même.

import { choose, key, read, typeset } from "./api.js";
import { attention } from "./attention.js";
import { byId, element, facts, number, say } from "./dom.js";
import { compare } from "./compare.js";
import { distribution } from "./distribution.js";
import { judge } from "./judge.js";
import { training } from "./training.js";
import { understand } from "./understand.js";
import { vocabulary } from "./vocabulary.js";
import { workshop } from "./workshop.js";

const VIEWS = {
  atelier: (info) => (info.judges ? judge : workshop)(info),
  distribution,
  comparer: compare,
  attention,
  comprendre: understand,
  vocabulaire: vocabulary,
  entrainement: training,
};
const WRITING = ["distribution", "comparer"]; // sans objet d'un modèle qui n'écrit pas
const CARRIED = "gpt-architecture.prompt"; // l'invite, d'un modèle à l'autre
const LONGEST_CARRIED = 2000;
const opened = new Map();
let info = null;
let example = null; // celui du modèle, qu'une invite venue d'un autre remplace
let current = null;

function show() {
  const asked = location.hash.slice(1);
  const absent = info?.judges ? WRITING : [];
  const name = Object.hasOwn(VIEWS, asked) && !absent.includes(asked) ? asked : "atelier";
  for (const link of document.querySelectorAll("#views a")) {
    link.hidden = absent.includes(link.hash.slice(1));
    if (link.hash === `#${name}`) {
      link.setAttribute("aria-current", "page");
      document.title = `${link.textContent} — ${info?.models.length > 1 ? `${info.name} — ` : ""}Studio`;
    } else link.removeAttribute("aria-current");
  }
  const shown = `view-${name === "atelier" && info?.judges ? "juger" : name}`;
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== shown;
  if (info === null || current === name) return;
  opened.get(current)?.hide?.();
  current = name;
  if (!opened.has(name)) opened.set(name, VIEWS[name](info) ?? {});
  opened.get(name).show?.();
}

async function start() {
  let first;
  try {
    first = await read("api/info");
  } catch (error) {
    complain(error.status === 401 && !key.get() ? "Ce service demande une clé d'accès." : error.message);
    if (error.status === 503) setTimeout(start, 2000);
    return;
  }
  byId("notice").hidden = true;
  byId("key-form").hidden = true;
  const wanted = new URL(location.href).searchParams.get("modele") ?? first.name;
  offer(first.models, wanted);
  info = wanted === first.name ? first : await other(wanted, first);
  if (info === null) return;
  choose(info.name);
  ({ example } = info);
  info.example = sessionStorage.getItem(CARRIED) ?? example;
  sessionStorage.removeItem(CARRIED);
  facts(byId("facts"), [
    ...(info.models.length > 1 ? [] : [["Modèle", info.name]]),
    ...(info.adapter_of ? [["Adaptateur de", info.adapter_of]] : []),
    ["Paramètres", number(info.parameters)],
    ["Contexte", `${number(info.window)} tokens`],
    ["Vocabulaire", number(info.vocabulary)],
  ]);
  facts(byId("card-facts"), info.card.map(([name, value]) => [name, typeset(value)]));
  byId("card").hidden = info.card.length === 0;
  show();
}

function complain(text) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = false;
}

// Les noms du service, s'il en a plusieurs.
function offer(models, wanted) {
  const options = (kind) => models.filter((each) => each.kind === kind).map(({ name, state }) =>
    element("option", { value: name, selected: name === wanted }, [null, "chargé"].includes(state) ? name : `${name} (${state})`));
  const groups = [["Adaptateurs", options("adapter")], ["Autres modèles", options("other")]];
  byId("model").replaceChildren(...options("model"), ...groups
    .filter(([, found]) => found.length)
    .map(([label, found]) => element("optgroup", { label }, ...found)));
  byId("model-form").hidden = models.length < 2;
}

// Ce que dit de lui un autre nom que le premier ; null : il ne répond pas, et la page le dit.
async function other(wanted, first) {
  const status = byId("model-status");
  say(status, "Chargement…");
  try {
    return await read(`api/info?model=${encodeURIComponent(wanted)}`);
  } catch (error) {
    complain(error.status === 404 ? `${error.message}. Voici « ${first.name} ».` : error.message);
    if (error.status !== 404) return null;
    history.replaceState(null, "", addressOf(first.name, first.name));
    offer(first.models, first.name);
    return first;
  } finally {
    say(status, "");
  }
}

// L'adresse de la page pour un nom ; celle du premier n'en porte pas.
function addressOf(name, first) {
  const address = new URL(location.href);
  if (name === first) address.searchParams.delete("modele");
  else address.searchParams.set("modele", name);
  return address;
}

byId("model-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const select = byId("model");
  const field = [...document.querySelectorAll(".view textarea")].find((each) => each.checkVisibility());
  const text = field?.value ?? "";
  const isOwn = text.trim() !== "" && text.trim() !== example?.trim();
  if (isOwn && current !== "vocabulaire" && text.length <= LONGEST_CARRIED) sessionStorage.setItem(CARRIED, text);
  const address = addressOf(select.value, select.options[0].value);
  if (address.href === location.href) location.reload();
  else location.assign(address);
});
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
