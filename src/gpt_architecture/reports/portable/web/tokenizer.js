// Du texte aux tokens, et l'inverse : les mêmes identifiants que data/tokenizers.

const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // selon Unicode
const PATTERNS = {
  gpt2: `'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`,
  moderne: `'(?:[sSdDmMtT\\u017f]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}`
    + `| ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*|[${SPACE}]*[\\r\\n]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`,
};
const BLANK = `${SPACE}\\x1c-\\x1f`; // selon Python
const WORDS = new RegExp(`(<\\|endoftext\\|>|<\\|unk\\|>|--|[,.:;?_!"()'«»…’—]|[${BLANK}])`, "u");
const CLOSING = new RegExp(`[${BLANK}]+([,.:;?!"()'…’])`, "gu");
const WRITTEN = new RegExp(`[^${BLANK}]`, "u");
const END = "<|endoftext|>";
const UNKNOWN = "<|unk|>";

// description : kind, vocab, end (identifiant de la fin de texte, ou null) ; d'un BPE, pattern,
// special (identifiants) et merges (gauche, droite, gauche, droite…, dans l'ordre).
export function tokenizerOf(description) {
  const kinds = { bpe: bytePairs, char: characters, "simple-v1": words, "simple-v2": words };
  const found = kinds[description.kind](description);
  return { ...found, size: description.vocab.length, end: description.end, name: (id) => nameOf(found, id) };
}

// Le nom d'un token seul ; un bout de caractère se nomme par ses octets.
function nameOf({ bytes, decode }, id) {
  if (bytes === null) return decode([id]);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes(id));
  } catch {
    return `bytes:${[...bytes(id)].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

function bytePairs({ vocab, merges, pattern, special }) {
  const octets = new Map(byteCharacters().map((character, byte) => [character, byte]));
  const names = new Set(special);
  const raw = vocab.map((token, id) => (names.has(id)
    ? new TextEncoder().encode(token)
    : Uint8Array.from(token, (character) => octets.get(character))));
  const ids = new Map(vocab.map((token, id) => [token, id]));
  const first = byteCharacters().map((character) => ids.get(character)); // octet → token
  const ranks = new Map(); // paire → [rang, token formé]
  const pair = (left, right) => left * vocab.length + right;
  for (let rank = 0; 2 * rank < merges.length; rank += 1) {
    const [left, right] = [merges[2 * rank], merges[2 * rank + 1]];
    ranks.set(pair(left, right), [rank, ids.get(vocab[left] + vocab[right])]);
  }

  // Les fusions, de la première apprise à la dernière ; toutes les places d'une paire d'un coup.
  function merge(word) {
    let tokens = Array.from(new TextEncoder().encode(word), (byte) => first[byte]);
    for (;;) {
      let best = null;
      for (let place = 0; place + 1 < tokens.length; place += 1) {
        const found = ranks.get(pair(tokens[place], tokens[place + 1]));
        if (found !== undefined && (best === null || found[0] < best[0])) best = found;
      }
      if (best === null) return tokens;
      const merged = [];
      for (let place = 0; place < tokens.length; place += 1) {
        const found = place + 1 < tokens.length ? ranks.get(pair(tokens[place], tokens[place + 1])) : undefined;
        if (found?.[0] === best[0]) place += 1;
        merged.push(found?.[0] === best[0] ? best[1] : tokens[place]);
      }
      tokens = merged;
    }
  }

  const split = new RegExp(PATTERNS[pattern], "gu");
  const bytes = (id) => raw[id];
  return {
    encode: (text) => (text.match(split) ?? []).flatMap(merge),
    decode: (tokens) => [...tokens, undefined].map(decoderOf(bytes)).join(""),
    bytes,
  };
}

function characters({ vocab }) {
  const ids = new Map(vocab.map((token, id) => [token, id]));
  const bytes = (id) => new TextEncoder().encode(vocab[id]);
  return {
    encode: (text) => Array.from(text, (character) => {
      const id = ids.get(character);
      if (id === undefined) {
        const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
        throw new Error(`Caractère inconnu du modèle : « ${character} » (U+${code}). Changez-le.`);
      }
      return id;
    }),
    decode: (tokens) => tokens.map((id) => vocab[id]).join(""),
    bytes,
  };
}

function words({ kind, vocab }) {
  const ids = new Map(vocab.map((token, id) => [token, id]));
  ids.delete(END);
  return {
    encode: (text) => text.split(WORDS).filter((part) => WRITTEN.test(part)).map((part) => {
      const id = ids.get(part) ?? (kind === "simple-v2" ? ids.get(UNKNOWN) : undefined);
      if (id === undefined) throw new Error(`Mot inconnu du modèle : « ${part} ». Changez-le.`);
      return id;
    }),
    decode: (tokens) => tokens.map((id) => vocab[id]).join(" ").replace(CLOSING, "$1"),
    bytes: null,
  };
}

// Identifiant → texte devenu certain : un caractère coupé attend ses derniers octets. Sans
// argument : ce qui attendait.
export function decoderOf(bytes) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return (id) => (id === undefined ? decoder.decode() : decoder.decode(bytes(id), { stream: true }));
}

// Le caractère qui écrit chaque octet : lui-même s'il se voit, sinon un autre, dès U+0100.
function byteCharacters() {
  const visible = (byte) => (byte >= 0x21 && byte < 0x7f) || (byte >= 0xa1 && byte !== 0xad);
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(visible(byte) ? byte : next++));
}
