"""L'interface d'OpenAI : ce qu'un client envoie, ce qu'il reçoit.

- `answers` : Des événements du moteur aux objets d'OpenAI, entiers ou par morceaux.
- `bodies` : Les corps que le service lit, sous la forme d'OpenAI et avec des types stricts.
- `planning` : D'un corps de requête, vérifié, aux demandes que le moteur exécute.
- `reference` : Ce que le service dit de lui-même : les corps qu'il écrit, et le document OpenAPI en
  une page.
- `streaming` : Rendre une réponse, d'un coup ou en flux d'événements (SSE) : du thread du moteur à
  la boucle.
- `strict_bodies` : Ce qu'un corps reçu peut être : du JSON à la lettre, des types stricts, et quels
  champs.
"""
