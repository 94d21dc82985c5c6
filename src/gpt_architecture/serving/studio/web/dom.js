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
  if (value > 0 && value < 0.01) return "< 0,01 %";
  return `${number(value, value >= 99.95 || value === 0 ? 0 : value >= 9.95 ? 1 : 2)} %`;
}

export const counted = (count, noun) => `${number(count)} ${noun}${Math.abs(count) >= 2 ? "s" : ""}`;

const RAW = /^bytes:((?:\\x[0-9a-f]{2})+)$/;

// Les octets, en hexadécimal, d'un token qui n'est qu'un morceau de caractère ; null : un texte.
export function rawBytes(name) {
  const found = RAW.exec(name);
  return found === null ? null : found[1].slice(2).split("\\x");
}

// Ce qu'est un tel token, en titre ; null : un texte n'a rien à expliquer.
export function rawTitle(name) {
  return rawBytes(name) === null ? null : `${visible(name)} : un morceau de caractère, que les tokens voisins complètent`;
}

// Un token montré seul : ses espaces, ses fins de ligne et ses octets se voient.
export function visible(text) {
  if (text === "") return "(vide)";
  const raw = rawBytes(text);
  if (raw !== null) return `⟨${raw.length > 1 ? "octets" : "octet"} ${raw.join(" ")}⟩`;
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

// Une ligne « nom, barre, valeur » ; `name` est un token, `label` un texte ordinaire.
export function bar({ name, label = visible(name), share, mark = null, value }) {
  const track = element("span", { class: "track", "aria-hidden": "true" });
  const full = element("span", { class: "fill" });
  full.style.width = `${Math.min(100, 100 * share)}%`;
  track.append(full);
  if (mark !== null) {
    const line = element("span", { class: "mark" });
    line.style.left = `calc(${Math.min(100, 100 * mark)}% - 1px)`;
    track.append(line);
  }
  return [element("span", { class: "name", title: name === undefined ? null : rawTitle(name) }, label), track, element("span", { class: "value" }, value)];
}

// Un groupe dont un seul élément prend la tabulation ; les flèches passent de l'un à l'autre. Dans
// une grille, celles du haut et du bas sautent une ligne de `columns()` éléments.
export function roving(group, selector, columns = () => 1) {
  group.addEventListener("keydown", (event) => {
    const row = columns();
    const step = { ArrowLeft: -1, ArrowUp: -row, ArrowRight: 1, ArrowDown: row, Home: -Infinity, End: Infinity }[event.key];
    const items = [...group.querySelectorAll(selector)];
    const here = items.indexOf(event.target);
    if (here < 0) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      items[here].click();
    } else if (step !== undefined) {
      event.preventDefault();
      const wanted = here + step;
      const leaves = row > 1 && Math.abs(step) === row && (wanted < 0 || wanted >= items.length);
      const next = items[leaves ? here : Math.min(items.length - 1, Math.max(0, wanted))];
      items[here].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  });
}

// Une grille de boutons teintés : une ligne par couche, par exemple. Une case : texte, part de la
// teinte (0 à 1), nom lu à voix haute.
export function shaded(box, { caption, columns, rows, choose }) {
  const cells = rows.map(({ cells: row }, i) => row.map((cell, j) => {
    const node = element("button", {
      type: "button", tabindex: i === 0 && j === 0 ? 0 : -1, "aria-pressed": false, "aria-label": cell.label, title: cell.title, onclick: () => press(i, j),
    }, cell.text);
    node.style.backgroundColor = `rgb(var(--look) / ${(0.45 * Math.min(1, cell.share)).toFixed(3)})`;
    return node;
  }));
  const press = (i, j) => {
    for (const node of cells.flat()) {
      const mine = node === cells[i][j];
      node.setAttribute("aria-pressed", mine);
      node.tabIndex = mine ? 0 : -1;
    }
    choose?.(i, j);
  };
  const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)));
  const body = rows.map(({ name }, i) =>
    element("tr", {}, element("th", { scope: "row" }, name), ...cells[i].map((node) => element("td", {}, node))));
  const table = element("table", { class: "grid" }, element("caption", { class: "hidden-label" }, caption), element("thead", {}, head), element("tbody", {}, ...body));
  roving(table, "button", () => cells[0]?.length ?? 1);
  box.replaceChildren(table);
  return press;
}
