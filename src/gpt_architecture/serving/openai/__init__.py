"""L'interface d'OpenAI : ce qu'un client envoie, ce qu'il reçoit.

- `answers` : Des événements du moteur aux objets d'OpenAI, entiers ou par morceaux.
- `constraint_fields` : Une contrainte, sous tous les noms que lui donnent les clients, ramenée à un
  réglage d'ici.
- `errors` : Les erreurs telles qu'un client les reçoit : toujours dans l'enveloppe d'OpenAI.
- `flow` : Du fil du moteur à la boucle asyncio : les suites d'une requête, suivies ensemble.
- `foreign_fields` : Les champs qu'un client envoie et que ce service n'a pas : ignorés, ou refusés
  par leur nom.
- `generation` : D'un corps de requête aux demandes que le moteur exécute.
- `limits` : Ce qu'une requête peut demander : chaque borne est vérifiée avant que rien ne soit
  alloué.
- `reference` : La page de référence : le document OpenAPI en HTML, sans script et sans rien
  d'ailleurs.
- `response_schemas` : Les corps que le service écrit : ils servent à la page OpenAPI, et disent la
  forme d'OpenAI.
- `schemas` : Les corps que le service lit, sous la forme d'OpenAI et avec des types stricts.
- `streaming` : Rendre une réponse : d'un coup, ou en flux d'événements (SSE).
- `token_names` : Le nom d'un token pour un client : son texte, ou ses octets s'ils n'en forment pas
  un.
"""
