// Attention : toutes les têtes d'une phrase, et une tête de près.

import { read, unpack } from "./api.js";
import { bar, byId, counted, element, percent, rawBytes, rawTitle, roving, say, visible } from "./dom.js";

const MOST_LOOKED = 6;
const NAMES = 90; // pixels laissés aux noms des lignes

export function attention(info) {
  const status = byId("attention-status");
  const field = byId("attention-text");
  const form = byId("attention-form");
  if (!info.attention) {
    form.hidden = true;
    say(status, "Ce service sert un modèle quantifié, qui ne donne pas ses poids d'attention : relancez-le sans --quant.", { bad: true });
    return {};
  }
  let maps = null;
  let layer = 0;
  let head = 0;
  let query = 0;
  field.value = info.example.trim();
  roving(byId("sentence"), ".tok");
  roving(byId("heads"), "button");

  const at = (l, h, i, j) => maps.weights[((l * maps.heads + h) * maps.size + i) * maps.size + j] / 255;

  async function look() {
    say(status, "Calcul…");
    try {
      const answer = await read("api/attention", { body: { prompt: field.value } });
      maps = { ...answer, weights: unpack(answer.weights, Uint8Array), size: answer.names.length };
      [layer, head] = [Math.min(layer, maps.layers - 1), Math.min(head, maps.heads - 1)];
      query = maps.size - 1;
      byId("attention-result").hidden = false;
      say(status, `${counted(maps.size, "token")}, ${counted(maps.layers, "couche")} de ${counted(maps.heads, "tête")}.`);
      thumbnails();
      choose(layer, head);
    } catch (error) {
      say(status, error.message, { bad: true });
    }
  }

  // La carte d'une tête dans un canevas d'un pixel par case ; le style l'agrandit.
  function paint(canvas, l, h) {
    const rgb = getComputedStyle(document.documentElement).getPropertyValue("--look").trim().split(/\s+/).map(Number);
    const image = new ImageData(maps.size, maps.size);
    for (let i = 0; i < maps.size; i += 1) {
      for (let j = 0; j <= i; j += 1) {
        image.data.set([...rgb, 255 * Math.sqrt(at(l, h, i, j))], 4 * (i * maps.size + j));
      }
    }
    canvas.width = canvas.height = maps.size;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function thumbnails() {
    const grid = byId("heads");
    grid.style.gridTemplateColumns = `auto repeat(${maps.heads}, auto)`;
    const cells = [element("span")];
    for (let h = 0; h < maps.heads; h += 1) cells.push(element("span", { class: "label" }, `T${h + 1}`));
    for (let l = 0; l < maps.layers; l += 1) {
      cells.push(element("span", { class: "label" }, `C${l + 1}`));
      for (let h = 0; h < maps.heads; h += 1) {
        const canvas = element("canvas", { "aria-hidden": "true" });
        paint(canvas, l, h);
        cells.push(element("button", {
          type: "button", "data-head": `${l},${h}`, "aria-label": `Couche ${l + 1}, tête ${h + 1}`, onclick: () => choose(l, h),
        }, canvas));
      }
    }
    grid.replaceChildren(...cells);
  }

  function choose(l, h) {
    [layer, head] = [l, h];
    for (const button of byId("heads").querySelectorAll("button")) {
      const mine = button.dataset.head === `${l},${h}`;
      button.setAttribute("aria-pressed", mine);
      button.tabIndex = mine ? 0 : -1;
    }
    byId("head-title").textContent = `Couche ${l + 1}, tête ${h + 1}`;
    const canvas = byId("head-map");
    paint(canvas, l, h);
    const cell = Math.max(8, Math.min(30, Math.floor((canvas.closest(".scroll").clientWidth - NAMES) / maps.size)));
    canvas.style.width = canvas.style.height = `${cell * maps.size}px`;
    byId("head-rows").replaceChildren(...maps.names.map((name) => {
      const row = element("div", { title: rawTitle(name) }, visible(name));
      row.style.height = row.style.lineHeight = `${cell}px`;
      return row;
    }));
    canvas.setAttribute("aria-label", `Carte de la couche ${l + 1}, tête ${h + 1} : ${counted(maps.size, "token")} par ligne et par colonne.`);
    ask(query);
  }

  function ask(i) {
    query = i;
    [...byId("head-rows").children].forEach((row, j) => row.classList.toggle("here", j === i));
    const sentence = byId("sentence");
    const focused = sentence.contains(document.activeElement);
    sentence.replaceChildren(...maps.names.map((name, j) => {
      const weight = j <= i ? at(layer, head, i, j) : 0;
      const node = element("span", {
        class: "tok", role: "button", tabindex: j === i ? 0 : -1, "aria-pressed": j === i, title: rawTitle(name),
        "aria-label": `${visible(name)}${j <= i ? `, regardé à ${percent(weight)}` : ", après"}`, onclick: () => ask(j),
      }, rawBytes(name) ? "·" : name);
      node.style.backgroundColor = `rgb(var(--look) / ${(0.75 * Math.sqrt(weight)).toFixed(3)})`;
      return node;
    }));
    if (focused) sentence.children[i].focus();
    const order = Array.from({ length: i + 1 }, (_, j) => j).sort((a, b) => at(layer, head, i, b) - at(layer, head, i, a));
    byId("looks").replaceChildren(...order.slice(0, MOST_LOOKED).map((j) => {
      const weight = at(layer, head, i, j);
      return element("li", {}, element("div", { class: "row" }, ...bar({ name: maps.names[j], share: weight, value: percent(weight) })));
    }));
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    look();
  });
  byId("head-map").addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect();
    ask(Math.min(maps.size - 1, Math.floor(((event.clientY - box.top) / box.height) * maps.size)));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (maps === null) return;
    thumbnails();
    choose(layer, head);
  });
  if (!info.looked) look();
  return {
    // Une autre vue peut y envoyer voir une tête, sur un texte.
    show() {
      if (!info.looked) return;
      [layer, head] = [info.looked.layer, info.looked.head];
      field.value = info.looked.text;
      info.looked = null;
      look();
    },
  };
}
