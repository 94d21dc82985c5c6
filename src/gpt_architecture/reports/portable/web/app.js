// La page : lit ses poids, puis montre ses vues.

import { attach, greedyIds } from "./api.js";
import { attention } from "./attention.js";
import { distribution } from "./distribution.js";
import { byId, facts, number, say } from "./dom.js";
import { Model } from "./engine.js";
import { tokenizerOf } from "./tokenizer.js";
import { workshop } from "./workshop.js";

const VIEWS = { atelier: workshop, distribution, attention };
const CANDIDATES = 10;
const opened = new Set();
let info = null;

// Les octets de la page : base64, puis zlib. Chaque morceau est oublié une fois lu.
async function unpackBytes(onProgress) {
  const chunks = [...document.querySelectorAll("script.weights")];
  const bytes = new Uint8Array(Number(byId("weights-size").content));
  const pipe = new DecompressionStream("deflate");
  const writing = feed(pipe.writable.getWriter(), chunks, onProgress);
  let end = 0;
  for (const reader = pipe.readable.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (end + value.length > bytes.length) throw new Error("poids en trop");
    bytes.set(value, end);
    end += value.length;
  }
  await writing;
  if (end !== bytes.length) throw new Error("poids manquants");
  return bytes;
}

async function feed(writer, chunks, onProgress) {
  try {
    for (const [place, chunk] of chunks.entries()) {
      onProgress(place / chunks.length);
      await writer.write(bytesOf(chunk.textContent));
      chunk.remove();
    }
    await writer.close();
  } catch (error) {
    await writer.abort(error).catch(() => {});
  }
}

const bytesOf = (text) =>
  Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

async function start() {
  const status = byId("load-status");
  let bytes;
  try {
    bytes = await unpackBytes((share) => say(status, `Lecture du modèle : ${number(100 * share)} %.`));
  } catch {
    const old = typeof DecompressionStream === "undefined";
    say(status, old ? "Ce navigateur est trop ancien pour lire cette page : mettez-le à jour."
      : "Ce fichier est incomplet ou abîmé : demandez-en une autre copie.", { bad: true });
    return;
  }
  const size = new DataView(bytes.buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + size)));
  const products = bytesOf(byId("products").textContent);
  const model = new Model(head.model, bytes.subarray(4 + size), products);
  const tokenizer = tokenizerOf(head.tokenizer);
  attach(model, tokenizer);
  info = {
    window: head.model.window,
    max_tokens: head.model.window,
    candidates: Math.min(CANDIDATES, tokenizer.size),
    example: exampleOf(tokenizer),
    attention: true,
  };
  facts(byId("facts"), [...head.facts, ["Calcul", model.simd ? "WebAssembly" : "JavaScript"]]);
  // Pour un script ou la console : les mêmes calculs, par identifiants.
  globalThis.gpt = { encode: tokenizer.encode, decode: tokenizer.decode, greedy: greedyIds, simd: model.simd };
  byId("loading").hidden = true;
  show();
}

// Une invite que ce vocabulaire sait écrire.
function exampleOf(tokenizer) {
  try {
    tokenizer.encode("Il était une fois");
    return "Il était une fois";
  } catch {
    return tokenizer.decode([0]);
  }
}

function show() {
  if (info === null) return;
  const asked = location.hash.slice(1);
  const name = Object.hasOwn(VIEWS, asked) && byId(`view-${asked}`) !== null ? asked : "atelier";
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== `view-${name}`;
  if (opened.has(name)) return;
  opened.add(name);
  VIEWS[name](info);
}

addEventListener("hashchange", () => {
  show();
  byId("contenu").focus({ preventScroll: true });
});
start();
