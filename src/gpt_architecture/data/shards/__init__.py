"""Les tokens sur disque : des fragments écrits en flux, lus sans rien charger.

- `encode` : Coder des documents en tokens, dans ce processus ou dans plusieurs, toujours dans
  l'ordre.
- `layout` : Un dossier de fragments de tokens, sans PyTorch : en-têtes, index, empreintes, travail
  en cours.
- `plan` : La répartition des documents, et les tâches de codage qui en découlent.
- `prepare` : D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il
  le faut.
- `reader` : Lecture des tokens : fragments projetés en mémoire, ou suite déjà en mémoire.
- `workers` : Une fonction appliquée à une suite de tâches, dans ce processus ou dans plusieurs,
  dans l'ordre.
- `writer` : Écrire des tokens à la suite, en fragments, et pouvoir reprendre à chaque point sûr.
"""
