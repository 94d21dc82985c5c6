"""Servir un modèle : le moteur, et ce qui l'entoure.

- `api_errors` : Les erreurs telles qu'un client les reçoit : toujours dans l'enveloppe d'OpenAI.
- `app` : L'application HTTP : les routes d'OpenAI, et celles qui surveillent le service.
- `context` : Ce que les routes partagent : le moteur, le modèle qu'il sert, ses bornes, le nom des
  tokens.
- `engine/` : Le moteur du service : un thread, des emplacements, un pas qui fait tout avancer.
- `http/` : La porte du service : connexions, clés, quotas, journal, arrêt.
- `limits` : Ce qu'une requête peut demander : chaque borne est vérifiée avant que rien ne soit
  alloué.
- `metrics` : Mesures pour Prometheus, sous les noms de vLLM : ses tableaux de bord s'en servent
  tels quels.
- `openai/` : L'interface d'OpenAI : ce qu'un client envoie, ce qu'il reçoit.
- `studio/` : Le studio : la page du service, et ce qu'elle demande.
"""
