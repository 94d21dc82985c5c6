// Juger : la classe d'un texte et ses probabilités, ou sa valeur, d'un modèle qui n'écrit pas.

import { read } from "./api.js";
import { bar, byId, counted, element, number, percent, say } from "./dom.js";

export function judge(info) {
  const form = byId("judge-form");
  const field = byId("judge-text");
  const status = byId("judge-status");
  const { labels } = info.judges;
  byId("judge-lede").textContent = labels.length
    ? `Ce modèle n'écrit pas : il range un texte dans l'une de ses ${number(labels.length)} classes, et dit sa probabilité.`
    : "Ce modèle n'écrit pas : il donne une valeur à un texte.";
  if (info.adapter_of) {
    form.hidden = true;
    say(status, `Un adaptateur ne change rien à ce jugement : choisissez « ${info.adapter_of} ».`, { bad: true });
    return {};
  }
  field.value = info.example.trim();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    say(status, "Lecture…");
    let answer;
    try {
      answer = await read("../v1/classify", { body: { input: field.value } });
    } catch (error) {
      say(status, error.message, { bad: true });
      return;
    }
    const [found] = answer.data;
    const cut = found.truncated ? " Le texte dépasse le contexte du modèle : seul son début a été lu." : "";
    say(status, `${counted(answer.usage.prompt_tokens, "token")} de texte.${cut}`);
    byId("judge-result").hidden = false;
    const classes = Object.entries(found.probabilities ?? {}).sort(([, a], [, b]) => b - a);
    byId("judge-verdict").textContent = found.label === null
      ? `Valeur : ${number(found.value, 3)}.`
      : `« ${found.label} », à ${percent(classes[0][1])}.`;
    byId("judge-classes").replaceChildren(...classes.map(([label, share]) =>
      element("li", {}, element("div", { class: "row" }, ...bar({ label, share, value: percent(share) })))));
  });
  return {};
}
