// Comprendre : les parties de la vue, chacune ouverte à la première demande.

import { ablation } from "./ablation.js";
import { byId, roving, say } from "./dom.js";
import { embeddings } from "./embeddings.js";
import { heads } from "./heads.js";
import { lens } from "./lens.js";
import { neurons } from "./neurons.js";

const PARTS = { heads, lens, ablation, neurons, embeddings };

export function understand(info) {
  const tabs = byId("parts");
  if (!info.attention) {
    tabs.hidden = true;
    say(byId("understand-status"), "Ce service sert un modèle quantifié, dont l'intérieur ne se voit pas : relancez-le sans --quant.", { bad: true });
    return {};
  }
  if (info.judges) {
    for (const name of Object.keys(PARTS)) byId(`tab-${name}`).hidden = name !== "embeddings";
    say(byId("understand-status"), "Ce modèle juge des textes et ne prédit aucun token : les autres parties, qui lisent ce qu'il écrirait, n'ont pas d'objet.");
  }
  const opened = new Set();

  function open(name) {
    for (const each of Object.keys(PARTS)) {
      const mine = each === name;
      byId(`part-${each}`).hidden = !mine;
      byId(`tab-${each}`).setAttribute("aria-selected", mine);
      byId(`tab-${each}`).tabIndex = mine ? 0 : -1;
    }
    if (opened.has(name)) return;
    opened.add(name);
    PARTS[name](info);
  }

  roving(tabs, "[role=tab]:not([hidden])");
  for (const name of Object.keys(PARTS)) byId(`tab-${name}`).addEventListener("click", () => open(name));
  open(info.judges ? "embeddings" : "heads");
  return {};
}
