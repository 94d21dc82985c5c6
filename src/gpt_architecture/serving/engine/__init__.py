"""Le moteur du service : un thread, des emplacements, un pas qui fait tout avancer.

- `batching` : Les demandes en cours, et le pas qui les fait toutes avancer. Aucun thread ici : voir
  `engine`.
- `engine` : Le moteur : un thread possède le modèle et fait avancer toutes les demandes, un pas à
  la fois.
- `grammar_trial` : Essayer une contrainte ailleurs avant de la lire ici : une requête ne brûle pas
  un cœur sans fin.
- `grammar_worker` : Le processus qui essaie les contraintes : il lit, mesure, répond, et meurt
  plutôt que de durer.
- `messages` : Ce qu'on demande au moteur, ce qu'il en dit, et comment il le remet hors de son
  thread.
- `scheduler` : Une demande acceptée, la file où elle attend, et ce qu'elle lit d'un pas.
- `slots` : Les emplacements : un cache alloué une fois, dont chaque ligne sert une demande après
  l'autre.
"""
