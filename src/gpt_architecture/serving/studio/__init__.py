"""Le studio : la page du service, et ce qu'elle demande.

- `files` : Les fichiers du studio, lus une fois, servis avec des en-têtes stricts ; sa page
  d'attente.
- `routes` : Le studio : ce que sa page demande au service, en plus de l'interface d'OpenAI.
- `run_journal` : Le journal d'un dossier d'entraînement, lu pour être montré : borné, et tolérant.
"""
