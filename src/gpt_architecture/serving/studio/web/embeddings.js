// Les embeddings : les voisins d'un token, et leur carte à deux dimensions.

import { read } from "./api.js";
import { bar, byId, element, number, percent, rawBytes, rawTitle, say, svg, visible } from "./dom.js";

export function embeddings() {
  const form = byId("embeddings-form");
  const field = byId("embeddings-text");
  const status = byId("embeddings-status");
  field.value = "e";

  async function look(prompt) {
    say(status, "Recherche…");
    let found;
    try {
      found = await read("api/neighbours", { body: { prompt } });
    } catch (error) {
      say(status, error.message, { bad: true });
      return;
    }
    const [id, name] = found.token;
    if (Array.isArray(prompt) && !rawBytes(name)) field.value = name; // d'un voisin : ce qui s'écrit reste
    byId("embeddings-result").hidden = false;
    say(status, `Voisins de « ${visible(name)} », token ${number(id)}.`);
    byId("embeddings-list").replaceChildren(...found.neighbours.map(([token, text, similarity]) => element("li", {}, element("button", {
      type: "button", "aria-label": `${visible(text)}, cosinus ${number(similarity, 3)} : aller à ce token`, onclick: () => look([token]),
    }, ...bar({ name: text, share: Math.max(0, similarity), value: number(similarity, 3) })))));
    byId("embeddings-map").replaceChildren(...(found.points.length ? [map(found)] : []));
    byId("embeddings-shares").textContent = found.points.length
      ? `Le premier axe porte ${percent(found.shares[0])} de la variance de ces tokens, le second ${percent(found.shares[1])} : deux points voisins ici peuvent être éloignés sur les autres axes.`
      : "Trop peu de tokens pour une carte.";
  }

  // Le token en grand, ses voisins autour, à l'échelle des deux axes.
  function map(found) {
    const [width, height, margin] = [Math.max(280, byId("embeddings-map").clientWidth), 360, 34];
    const [xs, ys] = [0, 1].map((axis) => found.points.map((point) => point[axis]));
    const scale = (values, from, to) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      return (value) => from + ((to - from) * (value - low)) / (high - low || 1);
    };
    const [x, y] = [scale(xs, margin, width - margin - 24), scale(ys, height - margin, margin)];
    const names = [found.token[1], ...found.neighbours.map(([, text]) => text)];
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Carte de « ${visible(names[0])} » et de ses ${names.length - 1} voisins ; la liste les donne du plus proche au plus lointain.` });
    names.forEach((name, place) => {
      const [px, py] = [x(xs[place]), y(ys[place])];
      chart.append(svg("circle", { class: place === 0 ? "point here" : "point", cx: px, cy: py, r: place === 0 ? 6 : 3.5 }),
        svg("text", { class: place === 0 ? "here" : null, x: px + 7, y: py + 4 }, visible(name).slice(0, 14), ...(rawBytes(name) ? [svg("title", {}, rawTitle(name))] : [])));
    });
    return chart;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look(field.value);
  });
  look(field.value);
}
