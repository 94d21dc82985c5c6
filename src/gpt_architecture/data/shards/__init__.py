"""Les tokens sur disque : des fragments écrits en flux, lus sans rien charger.

- `encode` : Coder des documents en tokens, dans ce processus ou dans plusieurs, toujours dans
  l'ordre.
- `layout` : Les fragments de tokens sur disque, sans PyTorch : en-tête, index, empreintes,
  écriture.
- `plan` : La répartition des documents, et les tâches de codage qui en découlent.
- `prepare` : D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il
  le faut.
- `reader` : Lecture des tokens : fragments projetés en mémoire, ou suite déjà en mémoire.
- `work_folder` : Les dossiers d'une préparation : le travail dans `DIR.incomplete`, le résultat
  dans `DIR`.
"""
