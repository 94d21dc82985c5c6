// Ce que le studio demande à un service, rendu ici par le modèle de la page : mêmes noms, mêmes
// réponses que api.js et serving/studio/routes.py.

import { greedy, ordered } from "./engine.js";
import { applyFilters } from "./filters.js";
import { decoderOf } from "./tokenizer.js";

const NAMED = 300; // tokens nommés d'une distribution
const LOOKED = 48; // tokens d'une phrase dont l'attention est montrée

let model = null;
let tokenizer = null;

export function attach(found, names) {
  [model, tokenizer] = [found, names];
}

export const unpack = (values) => values;

export async function read(path, { body, signal } = {}) {
  const ids = idsOf(body.prompt);
  return path === "api/next" ? following(ids, signal) : look(ids, signal);
}

// Les tokens d'une suite, un par un : { prompt }, puis { text, tokens, finish }.
export async function* stream(path, body, signal) {
  const prompt = idsOf(body.prompt);
  yield { prompt };
  const [ids, grow, choose] = [[...prompt], writer(prompt), chooser(body)];
  for (let count = 1; count <= body.max_tokens; count += 1) {
    const logits = await logitsAfter(ids, signal);
    const sorted = ordered(logits);
    const scale = normalizer(sorted.values);
    const id = choose(sorted);
    if (id === tokenizer.end) {
      yield { text: grow(), tokens: [], finish: "stop" };
      return;
    }
    ids.push(id);
    const top = Array.from(sorted.ids.subarray(0, body.logprobs), (each) =>
      [each, tokenizer.name(each), logits[each] - scale]);
    const token = { id, text: tokenizer.name(id), logprob: logits[id] - scale, top };
    const finish = count === body.max_tokens ? "length" : null;
    yield { text: grow(id) + (finish === null ? "" : grow()), tokens: [token], finish };
  }
}

// Les `count` identifiants les plus probables qui suivent ceux-ci, un par un.
export async function greedyIds(ids, count) {
  const found = [];
  while (found.length < count) found.push(greedy(await logitsAfter([...ids, ...found])));
  return found;
}

async function following(ids, signal) {
  const { values, ids: order } = ordered(await logitsAfter(ids, signal));
  const first = Array.from(order.subarray(0, NAMED));
  return { prompt: ids, logits: values, ids: first, names: first.map(tokenizer.name) };
}

async function look(ids, signal) {
  const most = Math.min(LOOKED, model.window);
  if (ids.length > most) {
    throw new Error(`La phrase compte ${ids.length} tokens : l'attention en montre au plus ${most}.`);
  }
  const { n_layers: layers, n_heads: heads } = model.config;
  const weights = new Uint8Array(layers * heads * ids.length ** 2);
  await model.next(ids, {
    signal,
    seen(layer, head, shares) {
      const at = ((layer * heads + head) * ids.length + shares.length - 1) * ids.length;
      shares.forEach((share, place) => { weights[at + place] = Math.round(255 * share); });
    },
  });
  return { layers, heads, names: ids.map(tokenizer.name), weights };
}

// Une invite vide est le début d'un texte : ce qui suit la fin du précédent.
function idsOf(prompt) {
  const ids = typeof prompt === "string" ? tokenizer.encode(prompt) : prompt;
  if (ids.length > 0) return ids;
  if (tokenizer.end === null) throw new Error("Écrivez quelques mots : ce vocabulaire n'a pas de fin de texte d'où partir.");
  return [tokenizer.end];
}

// Seuls les tokens qui ont un texte sont possibles.
async function logitsAfter(ids, signal) {
  const logits = (await model.next(ids, { signal })).subarray(0, tokenizer.size);
  if (!Number.isFinite(logits[greedy(logits)])) throw new Error("Le modèle a produit des logits NaN ou infinis.");
  return logits;
}

// log Σ exp(logits), pour des logits décroissants.
const normalizer = (values) =>
  values[0] + Math.log(values.reduce((total, each) => total + Math.exp(each - values[0]), 0));

// Logits triés → identifiant, d'après les réglages d'une requête.
function chooser({ temperature = 1, top_k: k = 0, top_p: p = 1, min_p: minP = 0, seed }) {
  const random = seed === undefined ? Math.random : seeded(seed);
  return ({ values, ids }) => {
    if (temperature === 0) return ids[0];
    const { probabilities } = applyFilters(values, { temperature, k: k > 0 ? k : null, p, minP });
    let rest = random();
    const rank = probabilities.findIndex((each) => (rest -= each) < 0);
    return ids[Math.max(0, rank)];
  };
}

// Un hasard qui se refait : mulberry32 (T. Ettinger).
function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Identifiant → texte nouveau. Des mots se collent selon ce qui les précède.
function writer(prompt) {
  if (tokenizer.bytes !== null) return decoderOf(tokenizer.bytes);
  const ids = [...prompt];
  return (id) => {
    if (id === undefined) return "";
    const before = tokenizer.decode(ids).length;
    ids.push(id);
    return tokenizer.decode(ids).slice(before);
  };
}
