"""La commande `train` : ses options, ce qu'elle montre, ce qu'elle lance.

- `options` : Les options de `train` : leurs groupes, et d'où viennent celles qui ne sont pas
  données.
- `report` : Ce que `train` dit : ce qui va être entraîné, où il en est, ce qu'il a écrit, quoi
  lancer.
- `run` : Le déroulement de `train` : préparer, estimer ou entraîner, et dire.
"""
