// Les filtres du décodage, sur des logits triés du plus grand au plus petit.
//
// Mêmes opérations, même ordre et même précision que decoding/ : température, top-k, top-p, min-p ;
// logits en float32, noyau de top-p en float64. Les logits étant triés, ex æquo par identifiant,
// chaque filtre garde les premiers : son résultat est un nombre de tokens gardés.

export function applyFilters(logits, { temperature = 1, k = null, p = 1, minP = 0 }) {
  const stages = [summary("modèle", logits, logits.length, null)];
  let scores = logits;
  let kept = logits.length;
  const stage = (name, changed) => {
    if (changed) stages.push(summary(name, scores, kept, stages.at(-1)));
  };
  if (temperature === 0) {
    kept = 1;
    stage("temperature", true);
  } else {
    if (temperature !== 1) scores = divide(logits, temperature);
    stage("temperature", temperature !== 1);
    const limited = k !== null && k < kept;
    if (limited) kept = k;
    stage("top_k", limited);
    if (p < 1) kept = nucleus(scores, kept, p);
    stage("top_p", p < 1);
    if (minP > 0) kept = floor(scores, kept, minP);
    stage("min_p", minP > 0);
  }
  return { stages, kept, scores, probabilities: stages.at(-1).probabilities };
}

function divide(logits, temperature) {
  const divisor = Math.fround(temperature);
  return logits.map((each) => Math.fround(each - logits[0]) / divisor);
}

function nucleus(scores, count, p) {
  const weights = exponentials(scores, count);
  const total = sum(weights);
  let mass = 0;
  let kept = 0;
  for (const weight of weights) {
    const probability = weight / total;
    mass += probability;
    if (mass - probability >= p) break;
    kept += 1;
  }
  return Math.max(1, kept);
}

function floor(scores, count, ratio) {
  const threshold = Math.fround(scores[0] + Math.fround(Math.log(ratio)));
  let kept = count;
  while (kept > 1 && scores[kept - 1] < threshold) kept -= 1;
  return kept;
}

// Ce qu'une étape laisse : tokens gardés, entropie (bits), part de la distribution qu'elle retire.
function summary(name, scores, kept, before) {
  const weights = exponentials(scores, kept);
  const total = sum(weights);
  const probabilities = weights.map((weight) => weight / total);
  let entropy = 0;
  for (const each of probabilities) if (each > 0) entropy -= each * Math.log2(each);
  const removed = before === null ? 0 : sum(before.probabilities.subarray(kept));
  return { name, kept, entropy, removed, probabilities };
}

const exponentials = (scores, count) =>
  Float64Array.from(scores.subarray(0, count), (each) => Math.exp(each - scores[0]));

function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
