"""Le studio : la page du service, et ce qu'elle demande.

- `files` : Les fichiers du studio, lus une fois, servis avec des en-têtes stricts ; sa page
  d'attente.
- `routes` : Le studio : ce que sa page demande au service, en plus de l'interface d'OpenAI.
"""
