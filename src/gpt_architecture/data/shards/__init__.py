"""Les tokens sur disque : des fragments écrits en flux, lus sans rien charger.

- `encoding` : Coder des documents en tokens, dans ce processus ou dans plusieurs, toujours dans
  l'ordre.
- `layout` : La disposition des fragments de tokens sur disque, sans PyTorch : en-tête, index,
  empreintes.
- `prepare` : D'un corpus à un dossier de fragments de tokens : en flux, en parallèle, repris s'il
  le faut.
- `prepare_files` : Les dossiers d'une préparation : le travail dans `DIR.incomplete`, le résultat
  dans `DIR`.
- `reader` : Lecture des tokens : fragments projetés en mémoire, ou suite déjà en mémoire.
- `split_plan` : La répartition des documents, et les tâches de codage qui en découlent.
- `tally` : Le compte d'une préparation : octets lus, texte codé, et ce qui a été écarté.
- `writer` : Écriture des fragments d'une part, reprise possible à chaque point sûr.
"""
