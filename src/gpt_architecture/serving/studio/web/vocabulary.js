// Vocabulaire : un texte coupé en tokens pendant qu'on l'écrit.

import { read } from "./api.js";
import { byId, counted, element, facts, number, rawBytes, rawTitle, say, visible } from "./dom.js";

const COLOURS = 6;
const DRAWN = 3000; // tokens montrés : au-delà, la page ralentirait
const LISTED = 200;
const PAUSE = 200; // millisecondes sans frappe avant de demander

function bytesOf(name) {
  return rawBytes(name) ?? Array.from(new TextEncoder().encode(name), (byte) => byte.toString(16).padStart(2, "0"));
}

export function vocabulary(info) {
  const status = byId("vocabulary-status");
  const field = byId("vocabulary-text");
  let waiting = null;
  let asking = null;
  field.value = `${info.example.trim()}\nL'été, à Pâques, on dit naïveté et tokenization 🙂.`;

  async function cut() {
    asking?.abort();
    asking = new AbortController();
    const text = field.value;
    try {
      const answer = await read("../tokenize", { body: { prompt: text, return_token_strs: true }, signal: asking.signal });
      say(status, "");
      draw(text, answer.tokens, answer.token_strs);
    } catch (error) {
      if (error.name !== "AbortError") say(status, error.message, { bad: true });
    }
  }

  function draw(text, ids, names) {
    const bytes = new TextEncoder().encode(text).length;
    const counts = new Map();
    ids.forEach((id, place) => {
      const entry = counts.get(id) ?? { id, name: names[place], count: 0 };
      entry.count += 1;
      counts.set(id, entry);
    });
    facts(byId("vocabulary-facts"), [
      ["Tokens", number(ids.length)],
      ["Différents", number(counts.size)],
      ["Caractères", number([...text].length)],
      ["Octets", number(bytes)],
      ["Octets par token", ids.length ? number(bytes / ids.length, 2) : "—"],
    ]);
    byId("pieces").replaceChildren(...ids.slice(0, DRAWN).map((id, place) => {
      const name = names[place];
      const raw = rawBytes(name);
      return element("span", { class: `tok k${place % COLOURS}${raw ? " raw" : ""}`, title: `${rawTitle(name) ?? visible(name)} (token ${id})` },
        raw ? raw.join("") : name);
    }));
    if (ids.length > DRAWN) say(status, `Les ${number(DRAWN)} premiers tokens sont montrés, sur ${number(ids.length)}.`);
    const ordered = [...counts.values()].sort((a, b) => b.count - a.count || a.id - b.id).slice(0, LISTED);
    const table = byId("pieces-table");
    table.hidden = ordered.length === 0;
    table.caption.textContent = `Les tokens, du plus fréquent au moins fréquent dans ce texte (${counted(ordered.length, "ligne")})${ordered.some(({ name }) => rawBytes(name)) ? ". Un octet seul est un morceau de caractère" : ""}`;
    table.tBodies[0].replaceChildren(...ordered.map(({ id, name, count }) => element("tr", {},
      element("td", {}, element("span", { class: "name", title: rawTitle(name) }, visible(name))),
      element("td", { class: "number" }, number(id)),
      element("td", { class: "number" }, number(count)),
      element("td", {}, element("span", { class: "name" }, bytesOf(name).join(" "))),
    )));
  }

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(cut, PAUSE);
  });
  byId("vocabulary-form").addEventListener("submit", (event) => event.preventDefault());
  cut();
}
