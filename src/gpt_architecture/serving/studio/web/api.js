// Parler au service : clé d'accès, erreurs en une phrase, flux d'événements.

const KEY = "gpt-architecture.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Le nom auquel vont les demandes : un modèle du service, ou un de ses adaptateurs.
let chosen;
export const choose = (name) => {
  chosen = name;
};

// `own` : faux si la demande ne dépend pas du modèle choisi.
async function ask(path, { body, signal, own = true } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(own ? { model: chosen, ...body } : body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, "Le service ne répond pas.");
  }
  if (response.ok) return response;
  const content = await response.json().catch(() => null);
  if (response.status === 401) dispatchEvent(new CustomEvent("studio-key"));
  throw new ServiceError(response.status, sentence(content?.error?.message ?? `Erreur ${response.status}.`));
}

// Ce que dit le service, où aucun signe ne commence une ligne.
export const typeset = (text) => text.replace(/ (?=[;:!?»%])|(?<=«) /g, "\u00a0");

// Une erreur finit parfois par une seconde ligne, en anglais, pour les programmes.
export const sentence = (text) => typeset(text.charAt(0).toUpperCase() + text.slice(1).split("\n", 1)[0]);

export const read = async (path, options) => (await ask(path, options)).json();

// Les objets d'un flux d'événements, un par un, jusqu'à [DONE].
export async function* stream(path, body, signal) {
  const response = await ask(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ServiceError(0, "Le service a coupé la réponse.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        const data = event.slice(6);
        if (data === "[DONE]") return;
        const content = JSON.parse(data);
        if (content.error) throw new ServiceError(500, sentence(content.error.message));
        yield content;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Octets codés en base64 → tableau typé.
export function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Type(bytes.buffer);
}
