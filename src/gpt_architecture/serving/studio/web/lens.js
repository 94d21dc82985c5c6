// La lentille : ce que chaque couche écrirait, à chaque position, si le modèle s'arrêtait là.

import { read } from "./api.js";
import { bar, byId, counted, element, number, percent, rawTitle, say, shaded, visible } from "./dom.js";

export function lens(info) {
  const form = byId("lens-form");
  const field = byId("lens-text");
  const status = byId("lens-status");
  let found = null;
  field.value = info.example.trim();

  const named = (id) => visible(found.texts[id]);
  const row = (layer) => (layer === 0 ? "embedding" : `couche ${layer}`);

  async function look() {
    say(status, "Lecture…");
    try {
      found = await read("api/lens", { body: { prompt: field.value } });
    } catch (error) {
      say(status, error.message, { bad: true });
      return;
    }
    byId("lens-result").hidden = false;
    say(status, `${counted(found.names.length, "token")}, ${counted(found.ids.length - 1, "couche")}.`);
    const press = shaded(byId("lens-grid"), {
      caption: "Le token le plus probable après chaque couche, à chaque position",
      columns: ["Couche", ...found.names.map(visible)],
      rows: found.ids.map((positions, layer) => ({
        name: row(layer),
        cells: positions.map((ids, place) => {
          const p = found.probabilities[layer][place][0];
          return { text: named(ids[0]), title: rawTitle(found.texts[ids[0]]), share: p, label: `Après ${visible(found.names[place])}, ${row(layer)} : ${named(ids[0])}, ${percent(p)}` };
        }),
      })),
      choose: show,
    });
    press(found.ids.length - 1, found.names.length - 1);
  }

  function show(layer, place) {
    const p = found.probabilities[layer][place];
    const added = layer === 0 ? "" : ` L'attention de cette couche y ajoute ${number(found.attention_norms[layer - 1][place], 1)}, son perceptron ${number(found.feed_forward_norms[layer - 1][place], 1)}.`;
    byId("lens-one").replaceChildren(
      element("h3", {}, `Après « ${visible(found.names[place])} », ${row(layer)}`),
      element("ol", { class: "bars" }, ...found.ids[layer][place].map((id, rank) =>
        element("li", {}, element("div", { class: "row" }, ...bar({ name: found.texts[id], share: p[rank], value: percent(p[rank]) }))))),
      element("p", { class: "note" }, `Entropie : ${number(found.entropies[layer][place], 2)} bits ; il reste ${number(found.divergences[layer][place], 2)} bits avant ce que dit la dernière couche. Norme du flux : ${number(found.norms[layer][place], 1)}.${added}`),
    );
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  look();
}
