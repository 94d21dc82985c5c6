// Atelier : écrire, colorer chaque token par sa probabilité, repartir d'un autre candidat.

import { stream } from "./api.js";
import { bar, byId, counted, element, number, percent, rawBytes, rawTitle, roving, say, visible } from "./dom.js";
import { sources } from "./sources.js";

const CLASSES = [
  [0.8, "80 % et plus"],
  [0.5, "50 à 80 %"],
  [0.2, "20 à 50 %"],
  [0.05, "5 à 20 %"],
  [0.01, "1 à 5 %"],
  [0, "moins de 1 %"],
];

export const heat = (p) => `p${CLASSES.findIndex(([least]) => p >= least)}`;

// Les réglages d'un formulaire, tels que le service les attend.
export function settingsOf(form) {
  const value = (name) => form.elements[name]?.value ?? "";
  const found = {};
  for (const name of ["temperature", "top_k", "top_p", "min_p", "max_tokens", "seed"]) {
    if (value(name) !== "") found[name] = Number(value(name));
  }
  return found;
}

export function workshop(info) {
  const form = byId("write-form");
  const status = byId("write-status");
  const box = byId("tokens");
  const panel = byId("candidates");
  const field = byId("prompt");
  const stop = byId("write-stop");
  const back = byId("write-back");
  const branches = [];
  let run = { prompt: null, text: "", tokens: [] };
  let selected = -1;
  let abort = null;

  field.value = info.example;
  form.elements.max_tokens.max = info.max_tokens;
  form.elements.max_tokens.value = Math.min(60, info.room ?? info.max_tokens);
  byId("legend").replaceChildren(
    element("span", {}, "Probabilité du token :"),
    ...CLASSES.map(([, text], rank) =>
      element("span", {}, element("i", { class: `swatch p${rank}`, "aria-hidden": "true" }), text),
    ),
  );
  roving(box, ".tok");
  const origins = sources(info, box, () => run.tokens);
  describe();

  async function write(prompt, body) {
    abort?.abort();
    abort = new AbortController();
    const mine = abort;
    stop.disabled = false;
    say(status, "Le modèle lit…");
    const start = performance.now();
    const first = run.tokens.length;
    let end = "";
    try {
      const chunks = stream("api/generate", { ...body, prompt, logprobs: info.candidates, stream: true }, mine.signal);
      for await (const chunk of chunks) {
        if (mine.signal.aborted) throw mine.signal.reason;
        if (chunk.prompt) {
          run.prompt ??= chunk.prompt;
          continue;
        }
        for (const token of chunk.tokens) add({ ...token, shown: "" });
        if (chunk.text && run.tokens.length) grow(chunk.text);
        if (chunk.finish) end = chunk.finish;
      }
      const seconds = (performance.now() - start) / 1000;
      const count = run.tokens.length - first;
      const why = end === "stop" ? "fin de texte" : "longueur demandée";
      say(status, `Fini (${why}) : ${counted(count, "token")} en ${number(seconds, 1)} s, ${number(count / seconds, 0)} tokens/s.`);
    } catch (error) {
      if (abort !== mine) return;
      if (error.name === "AbortError") say(status, `Arrêté après ${counted(run.tokens.length - first, "token")}.`);
      else say(status, error.message, { bad: true });
    }
    if (abort === mine) {
      abort = null;
      stop.disabled = true;
    }
  }

  function add(token) {
    run.tokens.push(token);
    box.append(tokenNode(token, run.tokens.length - 1));
    if (run.tokens.length === 1) origins.reset();
  }

  function grow(text) {
    const token = run.tokens.at(-1);
    token.shown += text;
    paint(box.lastElementChild, token);
  }

  function tokenNode(token, place) {
    const node = element("span", {
      role: "button",
      tabindex: place === 0 ? 0 : -1,
      "aria-pressed": place === selected,
      onclick: () => select(place),
    });
    paint(node, token);
    return node;
  }

  function paint(node, token) {
    const p = Math.exp(token.logprob);
    node.className = `tok ${heat(p)}${token.imposed ? " chosen" : ""}`;
    node.textContent = token.shown;
    node.classList.toggle("raw", token.shown === "");
    if (token.shown === "") node.textContent = rawBytes(token.text) ? "·" : token.text;
    node.title = rawTitle(token.text) ?? "";
    node.setAttribute("aria-label", `${visible(token.text)}, ${percent(p)}`);
  }

  function redraw() {
    box.replaceChildren(
      element("span", { class: "prompt" }, run.text),
      ...run.tokens.map((token, place) => tokenNode(token, place)),
    );
    back.disabled = branches.length === 0;
    origins.reset();
  }

  function select(place) {
    selected = place;
    for (const node of box.querySelectorAll(".tok")) {
      const mine = node === box.querySelectorAll(".tok")[place];
      node.setAttribute("aria-pressed", mine);
      node.tabIndex = mine ? 0 : -1;
    }
    describe();
  }

  function describe() {
    if (selected < 0) {
      panel.replaceChildren(
        element("h3", {}, "Candidats"),
        element("p", { class: "note" }, "Choisissez un token du texte : ses rivaux apparaissent ici, avec leurs probabilités."),
      );
      return;
    }
    const token = run.tokens[selected];
    const rivals = token.top.some(([id]) => id === token.id) ? token.top : [...token.top, [token.id, token.text, token.logprob]];
    const rank = token.top.findIndex(([id]) => id === token.id);
    const place = rank < 0 ? `au-delà du rang ${token.top.length}` : rank === 0 ? "le plus probable" : `au rang ${rank + 1}`;
    const best = Math.exp(rivals[0][2]);
    panel.replaceChildren(
      element("h3", {}, `Token ${selected + 1} : « ${visible(token.text)} »`),
      element("p", { class: "note" }, `${percent(Math.exp(token.logprob))}, ${place}. Choisissez-en un autre pour continuer de là.`),
      element("ol", { class: "bars" }, ...rivals.map(([id, text, logprob]) => {
        const p = Math.exp(logprob);
        const taken = id === token.id;
        return element("li", {}, element("button", {
          type: "button",
          class: taken ? "taken" : null,
          "aria-label": `${taken ? "Garder" : "Continuer avec"} ${visible(text)}, ${percent(p)}`,
          onclick: () => branch(selected, [id, text, logprob]),
        }, ...bar({ name: text, label: (taken ? "▸" : "") + visible(text), share: p / best, value: percent(p) })));
      })),
    );
  }

  function branch(place, [id, text, logprob]) {
    abort?.abort();
    branches.push(run);
    const shown = rawBytes(text) ? "" : text;
    const imposed = { id, text, logprob, top: run.tokens[place].top, shown, imposed: true };
    run = { ...run, tokens: [...run.tokens.slice(0, place), imposed] };
    redraw();
    select(place);
    const prompt = [...run.prompt, ...run.tokens.map((token) => token.id)];
    const body = settingsOf(form);
    body.max_tokens = Math.min(body.max_tokens, info.window - prompt.length + 1);
    if (body.max_tokens > 0) write(prompt, body);
    else say(status, "Le contexte du modèle est plein.", { bad: true });
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    branches.length = 0;
    selected = -1;
    run = { prompt: null, text: field.value, tokens: [] };
    redraw();
    describe();
    write(field.value, settingsOf(form));
  });
  back.addEventListener("click", () => {
    abort?.abort();
    abort = null;
    stop.disabled = true;
    run = branches.pop();
    selected = -1;
    redraw();
    describe();
    say(status, "Branche d'avant.");
  });
  stop.addEventListener("click", () => abort?.abort());
  byId("view-atelier").addEventListener("keydown", (event) => {
    if (event.key === "Escape") abort?.abort();
  });
}
