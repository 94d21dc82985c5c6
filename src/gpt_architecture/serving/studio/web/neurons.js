// Les neurones : les passages qui allument l'un d'eux, et ce qu'il pousse le modèle à écrire.

import { read } from "./api.js";
import { bar, byId, element, number, rawTitle, say, visible } from "./dom.js";

export function neurons(info) {
  const form = byId("neurons-form");
  const field = byId("neurons-text");
  const status = byId("neurons-status");
  field.value = info.example.trim();

  async function look() {
    say(status, "Lecture du texte…");
    const neuron = form.elements.neuron.value;
    const body = { prompt: field.value, layer: Number(form.elements.layer.value) - 1 };
    if (neuron !== "") body.neuron = Number(neuron) - 1;
    let found;
    try {
      found = await read("api/neuron", { body });
    } catch (error) {
      say(status, error.message, { bad: true });
      return;
    }
    form.elements.layer.max = found.layers;
    form.elements.neuron.max = found.neurons;
    byId("neurons-result").hidden = false;
    say(status, `${number(found.tokens)} tokens lus ; ${number(found.neurons)} neurones dans cette couche.`);
    byId("neurons-title").textContent = `Couche ${found.layer + 1}, neurone ${number(found.neuron + 1)}`;
    const passage = (each) => element("li", {},
      element("small", {}, `${number(each.activation, 2)}, token ${number(each.position + 1)}`),
      each.before, element("mark", { title: rawTitle(each.token) }, visible(each.token)), each.after);
    const lit = found.examples.filter((each) => each.activation > 0);
    const dark = found.examples.filter((each) => each.activation <= 0);
    byId("neurons-lit").hidden = lit.length === 0;
    byId("neurons-dark").hidden = dark.length === 0;
    byId("neurons-examples").replaceChildren(...lit.map(passage));
    byId("neurons-dark-examples").replaceChildren(...dark.map(passage));
    byId("neurons-dark-note").textContent = `${lit.length ? "Plus rien d'autre" : "Rien"} ne l'allume dans ce texte : son activation y est négative ou nulle. Ici, là où elle est la plus proche de zéro.`;
    const names = (pairs) => pairs.map(([name]) => `« ${visible(name)} »`).join(", ");
    byId("neurons-pushed").textContent = `Activation moyenne ${number(found.mean, 2)}, écart-type ${number(found.deviation, 2)}. Actif, il pousse ${names(found.raised)} ; il retient ${names(found.lowered)}.`;
    const top = found.peaks[0]?.sharpness || 1;
    byId("neurons-peaks").replaceChildren(...found.peaks.map((each) => element("li", {}, element("button", {
      type: "button",
      class: each.neuron === found.neuron ? "taken" : null,
      "aria-label": `Neurone ${each.neuron + 1} : maximum ${number(each.maximum, 2)} sur ${visible(each.name)}, à ${number(each.sharpness, 1)} écarts-types de sa moyenne`,
      onclick: () => {
        form.elements.neuron.value = each.neuron + 1;
        look();
      },
    }, ...bar({ label: `${each.neuron + 1} ${visible(each.name)}`, share: each.sharpness / top, value: number(each.sharpness, 1) })))));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  look();
}
