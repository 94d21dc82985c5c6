"""Le moteur du service : un fil, des places, un pas qui fait tout avancer.

- `drafts` : Proposer plusieurs tokens d'avance, et les vérifier d'une seule lecture du modèle.
- `engine` : Le moteur : un fil possède le modèle et fait avancer toutes les demandes, un pas à la
  fois.
- `grammar_trial` : Essayer une contrainte ailleurs avant de la lire ici : une requête ne brûle pas
  un cœur sans fin.
- `grammar_worker` : Le processus qui essaie les contraintes : il lit, mesure, répond, et meurt
  plutôt que de durer.
- `jobs` : Une demande acceptée, telle que le moteur la fait avancer.
- `messenger` : Donner les événements hors du fil du moteur.
- `passes` : Un pas du moteur : ce que chaque place lit, et les passages du modèle qui le lisent.
- `requests` : Ce qu'on demande au moteur, et ce qu'il en dit : les types que partagent moteur et
  serveur.
- `runner` : Les demandes en cours, et le pas qui les fait toutes avancer. Aucun fil ici : voir
  `engine`.
- `scheduler` : Qui passe, et combien il lit : la file d'attente, et le partage d'un pas.
- `slots` : Les places : un cache alloué une fois, dont chaque ligne sert une demande après l'autre.
"""
