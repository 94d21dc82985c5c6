"""Ce que les commandes partagent : options, aide, progression, lancement, écriture des résultats.

- `app` : L'application : ses commandes, son lancement, la configuration de ses options, sa visite
  guidée.
- `command` : Ce dont chaque commande se sert : dire, lire une entrée, trouver le modèle ou le
  tokenizer.
- `field_help` : L'aide de chaque option, qui est la docstring de son champ : chaque module n'est lu
  qu'une fois.
- `judging` : Des textes qu'un modèle classe ou note, montrés au terminal ou à un programme.
- `launch` : Plusieurs processus, et l'arrêt en douceur : options, lanceur de PyTorch (torchrun),
  signaux.
- `logs` : Le journal sur stderr : en texte pour une personne, ou en JSON, une ligne par événement.
- `options` : Options que plusieurs commandes partagent, dont la forme de leur résultat.
- `remote` : Parler à un service : celui de `gpt-architecture serve`, ou tout autre à la manière
  d'OpenAI.
- `train/` : La commande `train` : ses options, ce qu'elle montre, ce qu'elle lance.
- `sampling` : Les réglages du décodage, en options : ce qu'une commande en offre, ce qu'ils
  donnent.
- `sources` : L'index des données d'entraînement : le construire, y chercher un texte, le dire.
- `usage` : L'usage des commandes, en français : l'aide, les erreurs, les variables mal écrites.
"""
