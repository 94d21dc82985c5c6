// Entraînement : le journal d'un dossier, relu tant que la vue est ouverte.

import { read } from "./api.js";
import { byId, element, facts, number, say, svg } from "./dom.js";
import { learning } from "./learning.js";

const PERIOD = 2000; // millisecondes
const SILENCE = 180; // secondes sans une ligne

export function training(info) {
  const status = byId("run-status");
  if (!info.training) {
    say(status, "Ce service ne suit aucun entraînement : lancez « gpt-architecture serve MODÈLE --run-directory DOSSIER ».");
    return {};
  }
  byId("run-legend").replaceChildren(
    ...[["step", "chaque étape (avec dropout)"], ["train", "évaluation, entraînement"], ["val", "évaluation, validation"]].map(
      ([name, text]) => element("span", {}, element("i", { class: `swatch line ${name}`, "aria-hidden": "true" }), text),
    ),
  );
  let timer = null;
  let version = "";
  learning(info);

  async function poll() {
    try {
      const run = await read(`api/run?version=${encodeURIComponent(version)}`);
      if (run.version !== version) {
        version = run.version;
        draw(run);
      }
      if (run.finished) say(status, "Entraînement fini.");
      else if (run.silent > SILENCE) say(status, `Sans nouvelles depuis ${number(Math.round(run.silent / 60))} min : arrêté sans finir, ou étape très longue.`);
      else say(status, "En cours ; relu toutes les deux secondes.");
    } catch (error) {
      say(status, error.message, { bad: true });
    }
    if (timer !== null) timer = setTimeout(poll, PERIOD);
  }

  function draw(run) {
    const last = run.steps.at(-1);
    const evaluation = run.evaluations.at(-1);
    const best = run.evaluations.reduce((least, each) => Math.min(least, each[2] ?? Infinity), Infinity);
    const pairs = [["Étape", run.total_steps ? `${number((last?.[0] ?? -1) + 1)} sur ${number(run.total_steps)}` : number((last?.[0] ?? -1) + 1)]];
    if (evaluation) {
      pairs.push(["Perte d'entraînement", format(evaluation[1])], ["Perte de validation", format(evaluation[2])]);
      if (best < Infinity) pairs.push(["Meilleure", `${number(best, 3)} (perplexité ${number(Math.exp(best), 1)})`]);
    }
    if (last) pairs.push(["Débit", last[3] === null ? "—" : `${number(last[3])} tokens/s`], ["Taux d'apprentissage", last[2] === null ? "—" : last[2].toLocaleString("fr-FR", { maximumSignificantDigits: 3 })]);
    facts(byId("run-facts"), pairs);
    byId("run-result").hidden = false;
    const box = byId("run-loss");
    box.replaceChildren(curves(run, box.clientWidth));
    byId("run-samples").replaceChildren(...run.samples.toReversed().map(([step, text]) =>
      element("li", {}, element("small", {}, `étape ${number(step)}`), folded(text))));
    byId("run-table").tBodies[0].replaceChildren(...run.evaluations.toReversed().map(([step, train, val]) =>
      element("tr", {}, ...[number(step), format(train), format(val)].map((text) => element("td", { class: "number" }, text)))));
  }

  return {
    show() {
      timer = 0;
      poll();
    },
    hide() {
      clearTimeout(timer);
      timer = null;
    },
  };
}

// Un modèle qui n'a rien appris n'écrit parfois que des fins de ligne : leur compte en dit autant.
const folded = (text) => text.replace(/\n{4,}/g, (run) => `\n(${number(run.length - 1)} lignes vides)\n`);

const format = (value, digits = 3) => (value === null ? "—" : number(value, digits));

function curves(run, available) {
  const [width, height, left, bottom, top, right] = [Math.max(280, available), 340, 44, 28, 12, 12];
  const series = [
    ["step", run.steps.map(([step, loss]) => [step, loss])],
    ["train", run.evaluations.map(([step, train]) => [step, train])],
    ["val", run.evaluations.map(([step, , val]) => [step, val])],
  ].map(([name, points]) => [name, points.filter(([, value]) => value !== null)]);
  const all = series.flatMap(([, points]) => points);
  if (all.length === 0) return element("p", { class: "note" }, "Aucune étape pour l'instant.");
  const end = Math.max(1, run.total_steps - 1, ...all.map(([step]) => step));
  const values = all.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low || 1) * 0.05;
  const x = (step) => left + ((width - left - right) * step) / end;
  const y = (value) => top + ((height - top - bottom) * (high + margin - value)) / (high - low + 2 * margin);
  const label = series.filter(([, points]) => points.length).map(([name, points]) =>
    `${{ step: "étapes", train: "entraînement", val: "validation" }[name]} : de ${number(points[0][1], 2)} à ${number(points.at(-1)[1], 2)}`).join(" ; ");
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Perte par étape. ${label}.` });
  for (const value of ticks(low - margin, high + margin, 6)) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toLocaleString("fr-FR")));
  }
  for (const step of ticks(0, end, width / 110)) {
    chart.append(svg("text", { x: x(step), y: height - 8, "text-anchor": "middle" }, number(step)));
  }
  for (const [name, points] of series) {
    if (points.length === 0) continue;
    const path = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" L");
    chart.append(svg("path", { class: name, d: `M${path}` }));
  }
  return chart;
}

// Des graduations rondes.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
  const found = [];
  for (let n = Math.ceil(low / step); n * step <= high; n += 1) found.push(Number((n * step).toPrecision(12)));
  return found;
}
