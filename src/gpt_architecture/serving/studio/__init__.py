"""Le studio : la page du service, et ce qu'elle demande.

- `answers` : Ce que le studio reçoit de l'intérieur du modèle, en types simples, ses tokens nommés.
- `files` : Les fichiers du studio, lus une fois, servis avec des en-têtes stricts ; sa page
  d'attente.
- `inside` : Ce que le studio montre de l'intérieur du modèle : attention, couches, têtes, neurones.
- `routes` : Le studio : ce que sa page demande au service, en plus de l'interface d'OpenAI.
"""
