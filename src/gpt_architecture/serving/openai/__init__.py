"""L'interface d'OpenAI : ce qu'un client envoie, ce qu'il reçoit.

- `answers` : Des événements du moteur aux objets d'OpenAI, entiers ou par morceaux.
- `bodies` : Les corps que le service lit, sous la forme d'OpenAI et avec des types stricts.
- `constraints` : La contrainte que demande un corps, sous l'un de ses noms : une seule, lue et
  vérifiée.
- `embeddings` : `POST /v1/embeddings` : les vecteurs de textes, faits des états cachés du modèle.
- `frames` : Les octets d'un flux (SSE) : des morceaux anonymes, comme OpenAI, ou des événements
  nommés.
- `planning` : D'un corps de requête, vérifié, aux demandes que le moteur exécute.
- `prompts` : Les invites d'un corps : des textes ou des identifiants ; et le refus d'un champ.
- `receipts` : Le reçu d'une réponse : de quoi la refaire, octet pour octet, et savoir si c'est
  elle.
- `reference` : Ce que le service dit de lui-même : les corps qu'il écrit, et le document OpenAPI en
  une page.
- `responses` : `POST /v1/responses` : la même réponse qu'à une conversation, sous l'autre forme
  d'OpenAI.
- `streaming` : Rendre une réponse, d'un coup ou en flux d'événements (SSE) : du thread du moteur à
  la boucle.
- `strict_bodies` : Ce qu'un corps reçu peut être : du JSON à la lettre, des types stricts, et quels
  champs.
"""
