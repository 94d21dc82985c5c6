"""La commande `train` : ses options, ce qu'elle montre, ce qu'elle lance.

- `options` : Les options de `train` : leurs groupes, et d'où viennent celles qui ne sont pas
  données.
- `run` : Le déroulement de `train`, et ce qu'il dit : ce qui commence, où il en est, ce qu'il a
  écrit.
"""
