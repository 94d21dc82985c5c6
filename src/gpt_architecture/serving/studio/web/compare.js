// Comparer : plusieurs façons de choisir, côte à côte, et leurs mesures.

import { stream } from "./api.js";
import { byId, counted, element, number, percent, say } from "./dom.js";
import { distinct, mean, repetition } from "./measures.js";
import { heat, settingsOf } from "./workshop.js";

const MOST = 6; // flux qu'un navigateur ouvre de front vers une même adresse

export function compare(info) {
  const form = byId("compare-form");
  const status = byId("compare-status");
  const rows = byId("variants").tBodies[0];
  const cards = byId("cards");
  const stop = byId("compare-stop");
  let abort = null;

  byId("compare-prompt").value = info.example;
  form.elements.max_tokens.max = info.max_tokens;
  form.elements.max_tokens.value = Math.min(60, info.room ?? info.max_tokens);
  for (const variant of info.variants) addRow(variant);

  function addRow({ label = "Autre variante", temperature = 1, top_k = "", top_p = "", min_p = "" } = {}) {
    const cell = (child) => element("td", {}, child);
    const input = (name, hint, value, options) =>
      cell(element("input", { type: "number", name, "aria-label": `${hint} de « ${label} »`, value, ...options }));
    rows.append(element("tr", {},
      cell(element("input", { type: "checkbox", name: "active", checked: rows.rows.length < MOST, "aria-label": `Comparer « ${label} »` })),
      cell(element("input", { type: "text", name: "label", value: label, maxlength: 60, "aria-label": "Nom de la variante" })),
      input("temperature", "Température", temperature, { min: 0, max: 10, step: 0.1, required: true }),
      input("top_k", "Top-k", top_k, { min: 0, step: 1 }),
      input("top_p", "Top-p", top_p, { min: 0, max: 1, step: 0.01 }),
      input("min_p", "Min-p", min_p, { min: 0, max: 1, step: 0.01 }),
    ));
  }

  function chosen() {
    const found = [];
    for (const row of rows.rows) {
      const field = (name) => row.querySelector(`[name=${name}]`);
      if (!field("active").checked) continue;
      const settings = { temperature: Number(field("temperature").value) };
      for (const name of ["top_k", "top_p", "min_p"]) {
        if (field(name).value !== "") settings[name] = Number(field(name).value);
      }
      found.push({ label: field("label").value || "Sans nom", settings });
    }
    return found;
  }

  function card(label) {
    const text = element("div", { class: "text" });
    const measures = element("dl", { class: "measures" });
    cards.append(element("article", { class: "sheet card", "aria-label": label }, element("h2", {}, label), text, measures));
    return { text, measures, tokens: [], logprobs: [], seconds: 0 };
  }

  function measure(each) {
    const pairs = [
      ["Distinct-1", number(distinct(each.tokens, 1), 2)],
      ["Distinct-2", number(distinct(each.tokens, 2), 2)],
      ["Répétition", percent(repetition(each.tokens))],
      ["Log p (nats)", number(mean(each.logprobs), 2)],
      ["Tokens", number(each.tokens.length)],
      ["Tokens/s", each.seconds > 0 ? number(each.tokens.length / each.seconds, 0) : "—"],
    ];
    each.measures.replaceChildren(...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  }

  async function write(variant, prompt, shared, signal) {
    const each = card(variant.label);
    each.text.append(element("span", { class: "prompt" }, prompt));
    const start = performance.now();
    try {
      const body = { ...shared, ...variant.settings, prompt, logprobs: 0, stream: true };
      for await (const chunk of stream("api/generate", body, signal)) {
        if (signal.aborted) break;
        for (const token of chunk.tokens ?? []) {
          each.tokens.push(token.id);
          each.logprobs.push(token.logprob);
          each.text.append(element("span", { class: `tok ${heat(Math.exp(token.logprob))}` }));
        }
        if (chunk.text) each.text.lastElementChild.append(chunk.text);
        each.seconds = (performance.now() - start) / 1000;
        measure(each);
      }
    } catch (error) {
      if (error.name !== "AbortError") each.text.append(element("p", { class: "status bad" }, error.message));
    }
    return each.tokens.length;
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const variants = chosen();
    if (variants.length === 0 || variants.length > MOST) {
      say(status, `Choisissez de une à ${MOST} variantes.`, { bad: true });
      return;
    }
    abort?.abort();
    abort = new AbortController();
    const mine = abort;
    stop.disabled = false;
    cards.replaceChildren();
    byId("compare-help").hidden = false;
    say(status, `${counted(variants.length, "variante")} en cours…`);
    const prompt = byId("compare-prompt").value;
    const counts = await Promise.all(variants.map((each) => write(each, prompt, settingsOf(form), mine.signal)));
    if (abort !== mine) return;
    stop.disabled = true;
    const total = counts.reduce((sum, count) => sum + count, 0);
    say(status, `${mine.signal.aborted ? "Arrêté" : "Fini"} : ${counted(variants.length, "variante")}, ${counted(total, "token")}.`);
  });
  stop.addEventListener("click", () => abort?.abort());
  byId("variant-add").addEventListener("click", () => {
    addRow();
    rows.lastElementChild.querySelector("[name=label]").focus();
  });
}
