// Construire la page : des éléments, des nombres en français. Tout texte passe par textContent.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const number = (value, digits = 0) =>
  value.toLocaleString("fr-FR", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");

export function percent(p) {
  const value = 100 * p;
  if (value > 0 && value < 0.01) return "< 0,01 %";
  return `${number(value, value >= 99.95 || value === 0 ? 0 : value >= 9.95 ? 1 : 2)} %`;
}

export const counted = (count, noun) => `${number(count)} ${noun}${Math.abs(count) >= 2 ? "s" : ""}`;

// Un token montré seul : ses espaces et ses fins de ligne se voient.
export function visible(text) {
  if (text === "") return "(vide)";
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣");
}

export function facts(list, pairs) {
  list.replaceChildren(
    ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

export function say(status, text, { bad = false } = {}) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

// Une ligne « nom, barre, valeur ».
export function bar({ name, share, mark = null, value }) {
  const track = element("span", { class: "track", "aria-hidden": "true" });
  const full = element("span", { class: "fill" });
  full.style.width = `${Math.min(100, 100 * share)}%`;
  track.append(full);
  if (mark !== null) {
    const line = element("span", { class: "mark" });
    line.style.left = `calc(${Math.min(100, 100 * mark)}% - 1px)`;
    track.append(line);
  }
  return [element("span", { class: "name" }, visible(name)), track, element("span", { class: "value" }, value)];
}

// Un groupe dont un seul élément prend la tabulation ; les flèches passent de l'un à l'autre.
export function roving(group, selector) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity }[event.key];
    const items = [...group.querySelectorAll(selector)];
    const here = items.indexOf(event.target);
    if (here < 0) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      items[here].click();
    } else if (step !== undefined) {
      event.preventDefault();
      const next = items[Math.min(items.length - 1, Math.max(0, here + step))];
      items[here].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  });
}
