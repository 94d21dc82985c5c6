"""Ce que la commande `train` a en propre : ses options, son déroulement, ce qu'elle dit.

- `options` : Les options de `train` : leurs groupes, et d'où viennent celles qui ne sont pas
  données.
- `report` : Ce que `train` dit : ce qui va être entraîné, où il en est, ce qu'il a écrit, quoi
  lancer.
- `run` : Le déroulement de `train` : préparer, estimer ou entraîner, et dire.
"""
