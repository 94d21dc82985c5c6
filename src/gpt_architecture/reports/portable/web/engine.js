// Le moteur : un GPT-2 dont les poids sont des entiers, un token à la fois, avec son cache.
//
// L'arithmétique est celle de kernels/decode : activations codées sur 8 bits par groupe, sommes
// entières exactes, échelles en fp32. products.wasm fait les produits par vecteurs ; là où il ne
// se charge pas, multiplyPlainly rend les mêmes bits. Les sommes fp32 suivent l'ordre qu'elles ont
// sur une machine à AVX-512, par voies : un bit de moins et une activation s'arrondit ailleurs.
//
// Formes : D largeur, F largeur cachée, H têtes, K taille d'une tête, V vocabulaire.

const LEAST_PEAK = 1e-35; // au-dessous, 127 / max déborde
const LANES = 4; // lignes d'une bande
const { fround } = Math;

// a · b + c, arrondi une seule fois en fp32 : le produit et l'addition fondus d'une machine.
//
// Le produit de deux fp32 est exact en fp64 ; la somme y est arrondie, puis l'est encore en fp32.
// Les deux arrondis n'en valent un que si le premier ne tombe pas au milieu de deux fp32.
export function fused(a, b, c) {
  const product = a * b;
  const sum = product + c;
  const found = fround(sum);
  const other = 2 * sum - found; // l'autre voisin, si c'est le milieu
  if (other === found || fround(other) !== other) return found;
  const part = sum - product;
  const rest = product - (sum - part) + (c - part); // ce que la somme a perdu
  if (rest === 0) return found;
  return rest > 0 ? Math.max(found, other) : Math.min(found, other);
}

const GELU_SLOPE = fround(Math.sqrt(2 / Math.PI));
const GELU_CUBE = fround(0.044715);
const [LOG2E, LN2] = [fround(1.4426950408889634), fround(0.693359375 - fround(2.12194440e-4))];
const EXP = [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1].map(fround);
const BREATH = 30; // millisecondes de calcul entre deux pauses, où la page répond

const ACTIVATIONS = {
  gelu_tanh(x) {
    const u = fround(GELU_SLOPE * fused(fround(GELU_CUBE * fround(x * x)), x, x));
    return x - fround(x / fround(exponential(fround(u + u)) + 1));
  },
  gelu: (x) => 0.5 * x * (1 + errorFunction(x / Math.SQRT2)),
  relu: (x) => Math.max(0, x),
};

export class Model {
  // description : l'en-tête de la page ; data : ses octets ; products : ceux de products.wasm.
  constructor({ config, window, size, matrices, vectors }, data, products = null) {
    Object.assign(this, { config, window, size });
    const { emb_dim: width, n_layers: layers } = config;
    this.inner = config.inner_dim ?? 4 * width;
    this.vectors = Object.fromEntries(vectors.map(({ name, at, count }) =>
      [name, new Float32Array(data.buffer, data.byteOffset + at, count)]));
    this.place(matrices, data, products);
    this.keys = new Float32Array(layers * window * width);
    this.values = new Float32Array(layers * window * width);
    this.x = new Float32Array(width);
    this.normal = new Float32Array(width);
    this.qkv = new Float32Array(3 * width);
    this.context = new Float32Array(width);
    this.hidden = new Float32Array(this.inner);
    this.scores = new Float32Array(window);
    this.ids = []; // ce que le cache tient
  }

  // Range les matrices dans une mémoire que products.wasm lit : codes, puis échelles par bandes.
  place(matrices, data, products) {
    let end = 0;
    const take = (bytes) => {
      const at = end;
      end += Math.ceil(bytes / 16) * 16;
      return at;
    };
    const most = Math.max(...matrices.map((each) => each.rows));
    const widest = Math.max(...matrices.map((each) => each.padded));
    this.at = { x: take(2 * widest), factors: take((4 * widest) / this.size), out: take(4 * (most + LANES)) };
    this.matrices = {};
    for (const each of matrices) {
      const strips = Math.ceil(each.rows / LANES);
      const groups = each.padded / this.size;
      const codes = take(strips * LANES * each.padded);
      this.matrices[each.name] = { ...each, strips, groups, codes, scales: take(16 * strips * groups) };
    }
    const memory = new WebAssemblyMemory(end, products);
    this.multiply = memory.multiply ?? ((...all) => multiplyPlainly(this.heap, ...all));
    this.simd = memory.multiply !== null;
    const { buffer } = memory;
    this.heap = { bytes: new Int8Array(buffer), words: new Int16Array(buffer), floats: new Float32Array(buffer) };
    for (const matrix of Object.values(this.matrices)) this.fill(matrix, data);
    this.matrices.out_head ??= this.matrices.tok_emb; // une tête liée n'est écrite qu'une fois
  }

  fill({ rows, padded, groups, bits, codes, scales, codes_at, scales_at }, data) {
    const packed = data.subarray(codes_at, codes_at + (rows * padded * bits) / 8);
    unpackCodes(packed, bits, this.heap.bytes.subarray(codes, codes + rows * padded));
    const halves = new Uint16Array(data.buffer, data.byteOffset + scales_at, rows * groups);
    const placed = new Uint32Array(this.heap.floats.buffer, scales, Math.ceil(rows / LANES) * LANES * groups);
    for (let row = 0; row < rows; row += 1) {
      const strip = (row - (row % LANES)) * groups + (row % LANES);
      for (let g = 0; g < groups; g += 1) placed[strip + LANES * g] = halves[row * groups + g] << 16; // bf16
    }
  }

  // Code x sur 8 bits, une échelle par groupe : l'opérande des produits qui suivent.
  encode(x) {
    const { words, floats } = this.heap;
    const groups = Math.ceil(x.length / this.size);
    const padded = (Math.ceil(x.length / 128) * 128) / this.size;
    for (let g = 0; g < padded; g += 1) {
      const first = g * this.size;
      let peak = 0;
      if (g < groups) for (let j = first; j < first + this.size; j += 1) peak = Math.max(peak, Math.abs(x[j] ?? 0));
      const factor = peak <= LEAST_PEAK ? 0 : fround(127 / peak);
      for (let j = first; j < first + this.size; j += 1) {
        words[this.at.x / 2 + j] = j < x.length ? Math.floor(fround(fround(x[j] * factor) + 0.5)) : 0;
      }
      floats[this.at.factors / 4 + g] = peak < Infinity ? peak * fround(1 / 127) : NaN;
    }
  }

  // Le produit de la matrice par ce que `encode` a codé ; biais compris s'il y en a un.
  product(name, write) {
    const { codes, scales, strips, groups, rows } = this.matrices[name];
    this.multiply(codes, scales, this.at.x, this.at.factors, this.at.out, strips, groups, this.size);
    const out = this.heap.floats.subarray(this.at.out / 4, this.at.out / 4 + rows);
    const bias = this.vectors[`${name}.bias`];
    for (let n = 0; n < rows; n += 1) write(n, bias === undefined ? out[n] : fround(out[n] + bias[n]));
  }

  norm(name, x) {
    const [gain, shift] = [this.vectors[`${name}.scale`], this.vectors[`${name}.shift`]];
    const mean = fround(laneSum(x, null) / x.length);
    for (let j = 0; j < x.length; j += 1) this.normal[j] = x[j] - mean;
    const variance = fround(fround(laneSum(this.normal, this.normal) / x.length) + fround(this.config.norm_eps));
    const inverse = fround(1 / Math.sqrt(variance));
    for (let j = 0; j < x.length; j += 1) {
      this.normal[j] = fused(fround(fround(x[j] - mean) * inverse), gain[j], shift[j]);
    }
    return this.normal;
  }

  // Lit un token à sa position. `seen(couche, tête, poids)` : ce que chaque tête y regarde.
  feed(token, position, seen = null) {
    const { x, hidden } = this;
    this.embed(token, position);
    for (let layer = 0; layer < this.config.n_layers; layer += 1) {
      const block = `trf_blocks.${layer}.`;
      this.encode(this.norm(`${block}norm1`, x));
      ["query", "key", "value"].forEach((part, rank) =>
        this.product(`${block}att.W_${part}`, (n, value) => { this.qkv[rank * x.length + n] = value; }));
      this.attend(layer, position, seen);
      this.encode(this.context);
      this.product(`${block}att.out_proj`, (n, value) => { x[n] += value; });
      this.encode(this.norm(`${block}norm2`, x));
      const activate = ACTIVATIONS[this.config.activation];
      this.product(`${block}ff.layers.0`, (n, value) => { hidden[n] = activate(value); });
      this.encode(hidden);
      this.product(`${block}ff.layers.2`, (n, value) => { x[n] += value; });
    }
  }

  embed(token, position) {
    const { codes, scales, groups, padded } = this.matrices.tok_emb;
    const { bytes, floats } = this.heap;
    const place = this.vectors["pos_emb.weight"];
    const strip = scales / 4 + (token - (token % LANES)) * groups + (token % LANES);
    for (let j = 0; j < this.x.length; j += 1) {
      const scale = floats[strip + LANES * Math.floor(j / this.size)];
      this.x[j] = fround(bytes[codes + token * padded + j] * scale) + place[position * this.x.length + j];
    }
  }

  attend(layer, position, seen) {
    const { qkv, keys, values, context, scores } = this;
    const width = context.length;
    const size = width / this.config.n_heads;
    const scale = fround(1 / Math.sqrt(size));
    const first = layer * this.window * width;
    keys.set(qkv.subarray(width, 2 * width), first + position * width);
    values.set(qkv.subarray(2 * width), first + position * width);
    for (let start = 0, head = 0; start < width; start += size, head += 1) {
      let peak = -Infinity;
      for (let s = 0; s <= position; s += 1) {
        const at = first + s * width;
        scores[s] = dot(qkv, start, keys, at + start, size);
        if (!(scores[s] <= peak)) peak = scores[s];
      }
      for (let s = 0; s <= position; s += 1) scores[s] = exponential(fround(fround(scores[s] - peak) * scale));
      const inverse = fround(1 / laneSum(scores.subarray(0, position + 1), null));
      for (let j = start; j < start + size; j += 1) context[j] = 0;
      for (let s = 0; s <= position; s += 1) {
        const at = first + s * width;
        for (let j = start; j < start + size; j += 1) context[j] = fused(scores[s], values[at + j], context[j]);
      }
      for (let j = start; j < start + size; j += 1) context[j] *= inverse;
      seen?.(layer, head, scores.subarray(0, position + 1).map((each) => each * inverse));
    }
  }

  // Les logits (V,) qui suivent `ids`. Ce que le cache tient déjà n'est pas relu ; au-delà de la
  // fenêtre, les derniers tokens le sont tous, car les positions apprises ne glissent pas.
  async next(ids, { signal = null, seen = null } = {}) {
    const wanted = ids.slice(-this.window);
    let known = 0;
    if (seen === null) while (known < wanted.length - 1 && this.ids[known] === wanted[known]) known += 1;
    this.ids.length = Math.min(known, this.ids.length);
    let since = performance.now();
    for (let position = known; position < wanted.length; position += 1) {
      this.feed(wanted[position], position, seen);
      this.ids[position] = wanted[position];
      if (performance.now() - since > BREATH) {
        await breathe();
        signal?.throwIfAborted();
        since = performance.now();
      }
    }
    this.encode(this.norm("final_norm", this.x));
    const logits = new Float32Array(this.config.vocab_size);
    this.product("out_head", (n, value) => { logits[n] = value; });
    return logits;
  }
}

// Une mémoire de `size` octets, et le produit compilé qui la lit ; null s'il ne se charge pas.
class WebAssemblyMemory {
  constructor(size, products) {
    this.multiply = null;
    try {
      const memory = new WebAssembly.Memory({ initial: Math.ceil(size / 65536) });
      const { exports } = new WebAssembly.Instance(new WebAssembly.Module(products), { page: { memory } });
      [this.buffer, this.multiply] = [memory.buffer, exports.multiply];
    } catch {
      this.buffer = new ArrayBuffer(Math.ceil(size / 16) * 16);
    }
  }
}

// Ce que fait products.wasm, aux mêmes bits.
export function multiplyPlainly({ bytes, words, floats }, codes, scales, x, factors, out, strips, groups, size) {
  for (let row = 0; row < LANES * strips; row += 1) {
    const strip = scales / 4 + (row - (row % LANES)) * groups + (row % LANES);
    let place = codes + row * groups * size;
    let input = x / 2;
    let sum = 0;
    for (let g = 0; g < groups; g += 1) {
      let total = 0;
      for (let j = 0; j < size; j += 1) total = (total + bytes[place + j] * words[input + j]) | 0;
      sum = fused(total, fround(floats[strip + LANES * g] * floats[factors / 4 + g]), sum);
      place += size;
      input += size;
    }
    floats[out / 4 + row] = sum;
  }
}

// L'exponentielle fp32 de kernels/runtime/arithmetic.
function exponential(given) {
  const x = Math.min(88, Math.max(-87, given)); // un NaN reste un NaN
  const n = Math.floor(fused(x, LOG2E, 0.5));
  const r = fused(-n, LN2, x);
  let y = EXP[0];
  for (let rank = 1; rank < EXP.length; rank += 1) y = fused(y, r, EXP[rank]);
  return fround(fused(y, fround(r * r), fround(r + 1)) * powerOfTwo(n));
}

// 2^n, exact, dont les bits sont l'exposant.
const powers = new Float32Array(Int32Array.from({ length: 256 }, (_, rank) => rank << 23).buffer);
const powerOfTwo = (n) => powers[n + 127];

const lanes = new Float32Array(64);

// Σ x, ou Σ x · y : par 64 voies, puis par 8, puis un par un.
function laneSum(x, y) {
  let [total, start] = [0, 0];
  for (const width of [64, 8]) {
    const stop = x.length - ((x.length - start) % width);
    if (stop === start) continue;
    lanes.fill(0);
    lanes[0] = total;
    for (; start < stop; start += width) {
      for (let j = 0; j < width; j += 1) lanes[j] = y === null ? lanes[j] + x[start + j] : fused(x[start + j], y[start + j], lanes[j]);
    }
    if (width === 64) {
      for (let j = 0; j < 16; j += 1) lanes[j] = fround(lanes[j] + lanes[16 + j]) + fround(lanes[32 + j] + lanes[48 + j]);
    }
    total = folded(Math.min(width, 16));
  }
  for (; start < x.length; start += 1) total = y === null ? fround(total + x[start]) : fused(x[start], y[start], total);
  return total;
}

// Les voies s'ajoutent par moitiés.
function folded(count) {
  for (let half = count / 2; half >= 1; half /= 2) for (let j = 0; j < half; j += 1) lanes[j] += lanes[half + j];
  return lanes[0];
}

// Σ x · y de `size` valeurs, seize voies à la fois.
function dot(x, atX, y, atY, size) {
  if (size % 16 !== 0) return laneSum(x.subarray(atX, atX + size), y.subarray(atY, atY + size));
  for (let j = 0; j < 16; j += 1) lanes[j] = x[atX + j] * y[atY + j];
  for (let at = 16; at < size; at += 16) {
    for (let j = 0; j < 16; j += 1) lanes[j] = fused(x[atX + at + j], y[atY + at + j], lanes[j]);
  }
  return folded(16);
}

// Codes de 8, 6 ou 4 bits, rangés comme dans un fichier (core/grouped_codes) → un entier par octet.
function unpackCodes(packed, bits, out) {
  if (bits === 8) {
    out.set(new Int8Array(packed.buffer, packed.byteOffset, packed.length));
    return;
  }
  const half = 1 << (bits - 1);
  for (let from = 0, to = 0; to < out.length; from += 8 * bits, to += 64) {
    for (let lane = 0; lane < 16; lane += 1) {
      const [left, right] = [packed[from + 2 * lane], packed[from + 2 * lane + 1]];
      const high = bits === 6 ? packed[from + 32 + lane] : 0;
      out[to + lane] = ((left & 15) | ((high & 3) << 4)) - half;
      out[to + 16 + lane] = ((left >> 4) | ((high & 12) << 2)) - half;
      out[to + 32 + lane] = ((right & 15) | (high & 48)) - half;
      out[to + 48 + lane] = ((right >> 4) | ((high & 192) >> 2)) - half;
    }
  }
}

// erf, à 1,2·10⁻⁷ près (Numerical Recipes, § 6.2).
function errorFunction(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const series = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807,
    -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  const rest = t * Math.exp(-x * x + series.reduceRight((total, each) => total * t + each));
  return x >= 0 ? 1 - rest : rest - 1;
}

// Logits décroissants et leurs identifiants ; ex æquo, le plus petit d'abord.
export function ordered(logits) {
  const bits = new Int32Array(logits.buffer, logits.byteOffset, logits.length);
  const ids = 2 ** 17; // plus que de tokens : rang du logit et identifiant tiennent dans un fp64
  const sorted = Float64Array.from(bits, (each, id) => (0x7fffffff - (each ^ ((each >> 31) & 0x7fffffff))) * ids + id).sort();
  const order = Uint32Array.from(sorted, (each) => each % ids);
  return { ids: order, values: Float32Array.from(order, (id) => logits[id]) };
}

// Le plus probable ; à égalité, le plus petit identifiant.
export function greedy(logits) {
  let best = 0;
  for (let id = 1; id < logits.length; id += 1) if (logits[id] > logits[best]) best = id;
  return best;
}

// Rend la main à la page, sans attendre un minuteur.
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
