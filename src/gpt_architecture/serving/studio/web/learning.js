// La même invite à chaque point de reprise d'un entraînement, et la probabilité d'un texte.

import { read } from "./api.js";
import { byId, counted, element, number, percent, say, svg, visible } from "./dom.js";

export function learning(info) {
  const form = byId("learning-form");
  const status = byId("learning-status");
  const [prompt, follow] = [byId("learning-prompt"), byId("learning-follow")];
  byId("learning").hidden = false;
  prompt.value = info.example.trim();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    say(status, "Chaque point de reprise est lu, puis écrit…");
    const body = { prompt: prompt.value };
    if (follow.value !== "") body.follow = follow.value;
    let found;
    try {
      found = await read("api/learning", { body, own: false });
    } catch (error) {
      say(status, error.message, { bad: true });
      return;
    }
    byId("learning-result").hidden = false;
    const few = found.moments.length < 2 ? " Un seul point de reprise est gardé : entraînez avec « --save-every 20 --keep 50 » pour en comparer plusieurs." : "";
    const skipped = found.skipped ? ` ${found.skipped > 1 ? `${number(found.skipped)} autres ne sont pas montrés` : "Un autre n'est pas montré"}.` : "";
    say(status, `${counted(found.moments.length, "point")} de reprise.${skipped}${few}`);
    byId("learning-title").textContent = `Probabilité de « ${visible(found.follow)} » juste après l'invite`;
    byId("learning-chart").replaceChildren(curve(found));
    byId("learning-cards").replaceChildren(...found.moments.map((each) => card(each, found)));
  });

  function card(each, found) {
    const loss = each.val_loss ?? each.train_loss;
    const pairs = [
      ["Perte", loss === null ? "—" : number(loss, 2)],
      [`« ${visible(found.follow)} »`, percent(each.probability)],
      ["Rang", number(each.rank)],
    ];
    const others = each.candidates.map(([name, share]) => `« ${visible(name)} » ${percent(share)}`).join(", ");
    return element("article", { class: "sheet card", "aria-label": `Étape ${each.step}` },
      element("h2", {}, `Étape ${number(each.step)}`),
      element("div", { class: "text" }, element("span", { class: "prompt" }, found.prompt), each.text),
      element("dl", { class: "measures" }, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
      element("p", { class: "note" }, `Les plus probables : ${others}.`));
  }

  function curve({ moments, follow: text }) {
    const [width, height, left, bottom, top, right] = [Math.max(280, byId("learning-chart").clientWidth), 220, 48, 28, 12, 16];
    const last = moments.at(-1).step || 1;
    const high = Math.max(...moments.map((each) => each.probability)) || 1;
    const x = (step) => left + ((width - left - right) * step) / last;
    const y = (share) => height - bottom - ((height - top - bottom) * share) / high;
    const points = moments.map((each) => `${x(each.step).toFixed(1)},${y(each.probability).toFixed(1)}`);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Probabilité de « ${visible(text)} » : ${moments.map((each) => `étape ${each.step}, ${percent(each.probability)}`).join(" ; ")}.` });
    for (const share of [0, 0.5, 1]) {
      chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(share * high), y2: y(share * high) }),
        svg("text", { x: left - 6, y: y(share * high) + 4, "text-anchor": "end" }, percent(share * high)));
    }
    for (const step of new Set([moments[0].step, last])) {
      chart.append(svg("text", { x: x(step), y: height - 8, "text-anchor": step === last ? "end" : "middle" }, number(step)));
    }
    chart.append(svg("path", { class: "val", d: `M${points.join(" L")}` }),
      ...moments.map((each) => svg("circle", { class: "point", cx: x(each.step), cy: y(each.probability), r: 3.5 })));
    return chart;
  }
}
