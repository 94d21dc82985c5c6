// Mesures d'une séquence de tokens, comme evaluation/repetition.py.

const REPEATED_LENGTH = 4;

export function distinct(tokens, n) {
  const count = tokens.length - n + 1;
  if (count <= 0) return 1;
  const seen = new Set();
  for (let start = 0; start < count; start += 1) seen.add(tokens.slice(start, start + n).join());
  return seen.size / count;
}

export const repetition = (tokens) => 1 - distinct(tokens, REPEATED_LENGTH);

export const mean = (values) =>
  values.length ? values.reduce((total, value) => total + value, 0) / values.length : 0;
