"""Les tokens sur disque : des fragments écrits en flux, lus sans rien charger.

- `encode` : Coder des documents en tokens, dans ce processus ou dans plusieurs, toujours dans
  l'ordre.
- `job` : Une préparation en cours : lire, nettoyer s'il le faut, coder, écrire, et noter où elle en
  est.
- `layout` : Un dossier de fragments de tokens, sans PyTorch : en-têtes, index, empreintes.
- `merge` : Mettre bout à bout les fragments des tâches : chacun de ceux qui en sortent s'écrit
  seul.
- `parts` : Les tâches d'une préparation sur le disque : `DIR.taches`, un dossier de fragments par
  tâche.
- `plan` : La répartition des documents, et les tâches de codage qui en découlent.
- `prepare` : D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il
  le faut.
- `reader` : Lecture des tokens : fragments projetés en mémoire, ou suite déjà en mémoire.
- `samples` : Un échantillon de textes, tiré par une ou plusieurs machines, où apprendre un
  vocabulaire.
- `tasks` : Une préparation partagée entre machines : chaque tâche prend sa plage, une réunion les
  rassemble.
- `trove` : Une étape de pipeline datatrove qui code en fragments de tokens, avec le même encodeur.
- `work` : Une préparation en cours : `DIR.incomplete`, verrouillé, repris s'il le faut, puis `DIR`.
- `workers` : Une fonction appliquée à une suite de tâches, dans ce processus ou dans plusieurs,
  dans l'ordre.
- `writer` : Écrire des tokens à la suite, en fragments, et pouvoir reprendre à chaque point sûr.
"""
