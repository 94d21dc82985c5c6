"""Le studio : la page du service, et ce qu'elle demande.

- `files` : Les fichiers du studio : lus une fois, nommés un par un, servis avec des en-têtes
  stricts.
- `routes` : Le studio : ce que sa page demande au service, en plus de l'interface d'OpenAI.
- `run_journal` : Le journal d'un dossier d'entraînement, lu pour être montré : borné, et tolérant.
"""
