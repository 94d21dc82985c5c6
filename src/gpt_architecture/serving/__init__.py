"""Servir un modèle : le moteur, et ce qui l'entoure.

- `adapters` : Les adaptateurs d'un modèle servi : leurs noms, leurs bornes, ceux qu'on ajoute et
  qu'on retire.
- `anthropic/` : L'interface d'Anthropic, pour du texte : une traduction vers celle d'OpenAI.
- `api_errors` : Les erreurs telles qu'un client les reçoit : toujours dans l'enveloppe d'OpenAI, ou
  dans celle d'Anthropic à ses adresses.
- `app` : L'application HTTP : les routes d'OpenAI, et celles qui surveillent le service.
- `catalogue` : Les modèles d'un service : le sien, ses adaptateurs, et ceux qu'il charge à la
  demande.
- `classification` : `POST /v1/classify` : la classe de chaque texte et ses probabilités, ou sa
  valeur.
- `context` : Ce que les routes partagent : le moteur, le modèle qu'il sert, ses bornes, le nom des
  tokens.
- `engine/` : Le moteur du service : un thread, des emplacements, un pas qui fait tout avancer.
- `http/` : La porte du service : connexions, clés, quotas, journal, arrêt.
- `identity` : Ce qui répond : le modèle, ses réglages, son tokenizer, le logiciel, l'arithmétique.
- `limits` : Ce qu'une requête peut demander : chaque borne est vérifiée avant que rien ne soit
  alloué.
- `metrics` : Mesures pour Prometheus, sous les noms de vLLM : ses tableaux de bord s'en servent
  tels quels.
- `openai/` : L'interface d'OpenAI : ce qu'un client envoie, ce qu'il reçoit.
- `pool` : Les autres modèles d'un service : chargés à la première demande, dans une mémoire bornée.
- `provenance` : `POST /v1/provenance` : d'où viennent les mots d'un texte, dans les données
  d'entraînement.
- `studio/` : Le studio : la page du service, et ce qu'elle demande.
- `turns` : Un calcul à la fois, hors de la boucle HTTP et du thread du moteur.
"""
