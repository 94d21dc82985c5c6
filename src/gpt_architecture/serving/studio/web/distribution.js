// Distribution : les filtres recalculés dans la page, à chaque mouvement d'un réglage.

import { read, unpack } from "./api.js";
import { bar, byId, counted, element, number, percent, rawBytes, say, svg, visible } from "./dom.js";
import { applyFilters } from "./filters.js";

const SHOWN = 25;
const LABELS = { "modèle": "Modèle", temperature: "Température", top_k: "Top-k", top_p: "Top-p", min_p: "Min-p" };

export function distribution(info) {
  const status = byId("next-status");
  const field = byId("next-prompt");
  const draw = byId("draw");
  const sliders = { temperature: byId("s-temperature"), k: byId("s-k"), p: byId("s-p"), minP: byId("s-min") };
  let found = null;
  let result = null;
  let asking = null;

  field.value = info.example;
  compute(field.value);

  async function compute(prompt) {
    asking?.abort();
    asking = new AbortController();
    const mine = asking;
    say(status, "Calcul…");
    try {
      const answer = await read("api/next", { body: { prompt }, signal: mine.signal });
      found = { ...answer, logits: unpack(answer.logits, Float32Array) };
      byId("next-result").hidden = false;
      draw.disabled = false;
      say(status, `${counted(found.logits.length, "token")} possibles après ${counted(found.prompt.length, "token")} d'invite.`);
      update();
    } catch (error) {
      if (error.name !== "AbortError") say(status, error.message, { bad: true });
    }
  }

  // Le curseur de k suit une échelle logarithmique : 1 à gauche, tout le vocabulaire à droite.
  function settings() {
    const size = found.logits.length;
    const position = Number(sliders.k.value);
    const k = position >= 1 ? null : Math.max(1, Math.round(size ** position));
    return {
      temperature: Number(sliders.temperature.value),
      k: k === null || k >= size ? null : k,
      p: Number(sliders.p.value),
      minP: Number(sliders.minP.value),
    };
  }

  function update() {
    if (found === null) return;
    const wanted = settings();
    const label = (input, output, text) => {
      byId(output).textContent = text;
      input.setAttribute("aria-valuetext", text);
    };
    label(sliders.temperature, "out-temperature", number(wanted.temperature, 2));
    label(sliders.k, "out-k", wanted.k === null ? "tout" : number(wanted.k));
    label(sliders.p, "out-p", wanted.p === 1 ? "tout" : number(wanted.p, 2));
    label(sliders.minP, "out-min", wanted.minP === 0 ? "aucun" : number(wanted.minP, 3));
    result = applyFilters(found.logits, wanted);
    funnel();
    bars();
    mass();
  }

  function funnel() {
    byId("funnel").replaceChildren(...Object.keys(LABELS).map((name) => {
      const stage = result.stages.find((each) => each.name === name);
      if (stage === undefined) {
        return element("li", {}, LABELS[name], element("strong", {}, "—"), "sans effet");
      }
      const lines = [LABELS[name], element("strong", {}, number(stage.kept))];
      if (stage.removed > 0) lines.push("retire ", element("b", {}, percent(stage.removed)), " de la masse, ");
      else if (!["modèle", "temperature"].includes(name)) lines.push("ne retire rien, ");
      lines.push(`entropie ${number(stage.entropy, 2)} bits`);
      return element("li", { class: name === "modèle" ? null : "active" }, ...lines);
    }));
  }

  function removedBy(rank) {
    return LABELS[result.stages.find((stage) => rank >= stage.kept)?.name];
  }

  function bars() {
    const raw = result.stages[0].probabilities;
    const final = result.probabilities;
    const scale = Math.max(raw[0], final[0]);
    const count = Math.min(SHOWN, found.ids.length);
    const list = byId("bars");
    const focused = list.contains(document.activeElement) ? [...list.children].indexOf(document.activeElement.parentElement) : -1;
    list.replaceChildren(...Array.from({ length: count }, (_, rank) => {
      const gone = rank >= result.kept;
      const value = gone ? removedBy(rank) : percent(final[rank]);
      return element("li", { class: gone ? "removed" : null }, element("button", {
        type: "button",
        "aria-label": `Ajouter ${visible(found.names[rank])} ; ${gone ? `retiré par ${value}` : value}, sous le modèle ${percent(raw[rank])}`,
        onclick: () => take(rank),
      }, ...bar({ name: found.names[rank], share: gone ? 0 : final[rank] / scale, mark: raw[rank] / scale, value })));
    }));
    if (focused >= 0) list.children[focused]?.firstElementChild.focus();
  }

  function take(rank) {
    field.value += rawBytes(found.names[rank]) ? "" : found.names[rank];
    compute([...found.prompt, found.ids[rank]]);
  }

  // Probabilité cumulée selon le rang (échelle logarithmique), et où chaque filtre coupe.
  function mass() {
    const tempered = (result.stages.find((each) => each.name === "temperature") ?? result.stages[0]).probabilities;
    const size = found.logits.length;
    const box = byId("mass");
    const [width, height, left, bottom, top] = [Math.max(280, box.clientWidth), 260, 48, 26, 12];
    const x = (rank) => left + ((width - left - 8) * Math.log(Math.max(1, rank))) / Math.log(size);
    const y = (share) => height - bottom - (height - bottom - top) * Math.min(1, share);
    const cumulated = [];
    let total = 0;
    for (const each of tempered) cumulated.push((total += each));
    while (cumulated.length < size) cumulated.push(total);
    const ranks = [...new Set(Array.from({ length: 240 }, (_, i) => Math.round(size ** (i / 239))))];
    const path = (wanted) => wanted.map((rank) => `${x(rank).toFixed(1)},${y(cumulated[rank - 1]).toFixed(1)}`).join(" L");
    const keptRanks = [...ranks.filter((rank) => rank < result.kept), result.kept];
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": "mass-text" });
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      chart.append(svg("line", { class: "grid", x1: left, x2: width - 8, y1: y(share), y2: y(share) }),
        svg("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`));
    }
    for (let rank = 1; rank <= size; rank *= 10) {
      chart.append(svg("text", { x: x(rank), y: height - 8, "text-anchor": "middle" }, number(rank)));
    }
    chart.append(svg("path", { class: "kept", d: `M${x(1)},${y(0)} L${path(keptRanks)} L${x(result.kept)},${y(0)} Z` }));
    chart.append(svg("path", { class: "curve", d: `M${path(ranks)}` }));
    if (result.kept < size) {
      chart.append(svg("line", { class: "cut", x1: x(result.kept), x2: x(result.kept), y1: y(0), y2: y(1) }));
    }
    box.replaceChildren(chart);
    byId("mass-text").textContent = result.kept < size
      ? `Restent ${counted(result.kept, "token")} sur ${number(size)}, qui portaient ${percent(cumulated[result.kept - 1])} de la masse.`
      : `Tous les tokens restent possibles ; les dix premiers portent ${percent(cumulated[Math.min(9, size - 1)])} de la masse.`;
  }

  for (const slider of Object.values(sliders)) slider.addEventListener("input", update);
  byId("s-reset").addEventListener("click", () => {
    for (const [name, value] of Object.entries({ temperature: 1, k: 1, p: 1, minP: 0 })) sliders[name].value = value;
    update();
  });
  byId("next-form").addEventListener("submit", (event) => {
    event.preventDefault();
    compute(field.value);
  });
  draw.addEventListener("click", () => {
    let rest = Math.random();
    const rank = result.probabilities.findIndex((p) => (rest -= p) <= 0);
    if (rank >= found.ids.length) say(status, `L'échantillonnage est tombé sur le rang ${number(rank + 1)}, au-delà des ${number(found.ids.length)} tokens nommés ici : recommencez.`);
    else take(Math.max(0, rank));
  });
}
