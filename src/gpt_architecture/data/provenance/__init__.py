"""D'où vient un passage : le texte d'entraînement, rangé pour y chercher mot pour mot.

- `build` : Construire l'index d'un dossier de fragments : par blocs, en mémoire bornée, repris s'il
  le faut.
- `chance` : Ce que le hasard donne : la longueur d'un passage commun à un texte jamais vu.
- `index` : L'index d'un texte d'entraînement, ouvert : chercher un passage, situer ses occurrences.
- `suffixes` : L'ordre des suffixes d'une suite de tokens, et ce que l'index en garde sur disque.
"""
