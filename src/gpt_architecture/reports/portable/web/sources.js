// Sources : la page n'a pas les données d'entraînement ; leur bouton n'y est donc pas.

import { byId } from "./dom.js";

export function sources() {
  byId("sources-ask").parentElement.hidden = true;
  byId("sources-hint").hidden = true;
  return { reset() {} };
}
