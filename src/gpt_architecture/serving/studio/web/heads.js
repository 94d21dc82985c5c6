// Les têtes : ce que chacune cherche, et laquelle recopie.

import { read, sentence } from "./api.js";
import { bar, byId, element, number, percent, say, shaded } from "./dom.js";

const PATTERNS = {
  induction: "recopie (la suite d'un déjà-vu)",
  duplicate: "le même token, plus tôt",
  previous: "le token d'avant",
  first: "le premier token",
};

export async function heads(info) {
  const status = byId("heads-status");
  let found = null;
  let pattern = "induction";
  let chosen = [0, 0];

  say(status, "Mesure de chaque tête…");
  try {
    found = await read(`api/heads?model=${encodeURIComponent(info.name)}`);
  } catch (error) {
    say(status, error.message, { bad: true });
    return;
  }
  say(status, `${found.rows} suites de ${found.length} tokens, répétées.`);
  byId("heads-result").hidden = false;
  const [layer, head] = best("induction");
  byId("heads-verdict").textContent = sentence(found.verdict);
  byId("heads-patterns").append(...Object.entries(PATTERNS).map(([name, text]) => element("label", {},
    element("input", { type: "radio", name: "pattern", value: name, checked: name === pattern, onchange: () => draw(name, best(name)) }), ` ${text}`)));
  draw("induction", [layer, head]);

  function best(name) {
    const all = found[name].flatMap((row, l) => row.map((note, h) => [note, l, h]));
    const [, l, h] = all.reduce((top, each) => (each[0] > top[0] ? each : top));
    return [l, h];
  }

  function removal(l, h) {
    return found.removals.find(([a, b]) => a === l && b === h);
  }

  function draw(name, [l, h]) {
    pattern = name;
    const press = shaded(byId("heads-grid"), {
      caption: `Part d'attention : ${PATTERNS[name]}`,
      columns: ["Couche", ...found[name][0].map((_, each) => `T${each + 1}`)],
      rows: found[name].map((row, each) => ({
        name: each + 1,
        cells: row.map((note, place) => ({ text: percent(note), share: note, label: `Couche ${each + 1}, tête ${place + 1} : ${percent(note)}` })),
      })),
      choose: show,
    });
    press(l, h);
  }

  function show(l, h) {
    chosen = [l, h];
    const without = removal(l, h);
    const lines = Object.entries(PATTERNS).map(([name, text]) => element("li", { class: name === pattern ? "here" : null },
      element("div", { class: "row" }, ...bar({ label: text.split(" (")[0], share: found[name][l][h], value: percent(found[name][l][h]) }))));
    const repeated = `${info.example.trim()} ${info.example.trim()}`;
    byId("heads-one").replaceChildren(
      element("h3", {}, `Couche ${l + 1}, tête ${h + 1}`),
      element("ol", { class: "bars wide" }, ...lines),
      element("p", { class: "note" }, without
        ? `Sans elle, la perte de la répétition passe de ${number(found.repeat_loss, 2)} à ${number(without[2], 2)} nats.`
        : "Son absence n'est pas mesurée : seules le sont les têtes qui recopient le plus."),
      element("p", { class: "actions" }, element("button", {
        type: "button",
        onclick: () => {
          info.looked = { layer: chosen[0], head: chosen[1], text: repeated };
          location.hash = "#attention";
        },
      }, "La voir sur une phrase répétée")),
    );
  }
}
