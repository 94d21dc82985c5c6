// L'ablation : le prochain token, sans chaque tête, attention, perceptron ou bloc.

import { read } from "./api.js";
import { byId, element, number, percent, say, shaded, visible } from "./dom.js";

const MOST = 6;
const NAMES = {
  head: ({ layer, head }) => `la tête ${head + 1} de la couche ${layer + 1}`,
  attention: ({ layer }) => `l'attention de la couche ${layer + 1}`,
  feed_forward: ({ layer }) => `le perceptron de la couche ${layer + 1}`,
  block: ({ layer }) => `le bloc ${layer + 1} entier`,
};

export function ablation(info) {
  const form = byId("ablation-form");
  const field = byId("ablation-text");
  const status = byId("ablation-status");
  field.value = info.example.trim();

  async function look() {
    say(status, "Chaque pièce est retirée à son tour…");
    let found;
    try {
      found = await read("api/ablation", { body: { prompt: field.value, mode: form.elements.mode.value } });
    } catch (error) {
      say(status, error.message, { bad: true });
      return;
    }
    const target = visible(found.target[1]);
    const largest = Math.max(...found.effects.map((each) => each.divergence)) || 1;
    const layers = grouped(found.effects);
    const heads = found.effects.filter((each) => each.kind === "head" && each.layer === 0).length;
    const told = (each) => `Sans ${NAMES[each.kind](each)} : « ${target} » à ${percent(each.probability)}${
      each.token[0] === found.token[0] ? ", toujours choisi" : ` ; le modèle écrirait « ${visible(each.token[1])} », à ${percent(each.token_probability)}`} (écart de ${number(each.divergence, 3)} bits)`;
    byId("ablation-result").hidden = false;
    byId("ablation-verdict").textContent = `Le modèle entier écrit « ${target} », à ${percent(found.probability)}.`;
    say(status, `${found.effects.length} pièces retirées, une à une.`);
    shaded(byId("ablation-grid"), {
      caption: `Probabilité de ${target} sans chaque pièce`,
      columns: ["Couche", ...Array.from({ length: heads }, (_, each) => `T${each + 1}`), "Attention", "Perceptron", "Bloc"],
      rows: [...layers].map(([layer, effects]) => ({
        name: layer + 1,
        cells: effects.map((each) => ({ text: percent(each.probability), share: each.divergence / largest, label: told(each) })),
      })),
      choose: (i, j) => say(status, `${told([...layers.values()][i][j])}.`),
    });
    const strongest = found.effects.toSorted((a, b) => b.divergence - a.divergence).slice(0, MOST);
    byId("ablation-most").replaceChildren(...strongest.map((each) => element("li", {}, `${told(each)}.`)));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  look();
}

function grouped(effects) {
  const layers = new Map();
  for (const each of effects) layers.set(each.layer, [...(layers.get(each.layer) ?? []), each]);
  return layers;
}
