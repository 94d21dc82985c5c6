"""L'entraînement : une boucle simple qui se lit, et celle qui fait tout.

- `backends` : Le choix du moteur : le pas fusionné là où il convient, autograd partout ailleurs.
- `callbacks` : Ce que la boucle reçoit de qui l'assemble, ce qu'elle raconte, et ceux qui
  l'écoutent.
- `checkpoint` : Les points de reprise d'un entraînement : écrits sans risque, vérifiés, renouvelés.
- `distributed/` : Plusieurs processus sur un même entraînement, par `torch.distributed`.
- `estimate` : Ce qu'un entraînement coûtera, mesuré sur quelques étapes ; ce que la machine fait au
  mieux.
- `evaluate` : Ce que la boucle mesure en chemin : deux pertes, et un exemple de texte.
- `inputs` : Ce qu'un entraînement lit : ses données, son point de départ, ou le point qu'il
  reprend.
- `journal_writer` : Ce qu'un entraînement note : son journal, et les mesures pour TensorBoard.
- `optim` : Comment les poids bougent : AdamW fusionné, Muon, le taux au fil des étapes, l'état
  nommé.
- `outputs` : Ce qu'un entraînement écrit : où, sous quel nom, et sans rien écraser d'autre.
- `preparation` : Un entraînement prêt à partir : ce qui est demandé, d'où il part, ses réglages,
  ses données.
- `run` : Un entraînement entier : commencer ou reprendre, mener au bout, enregistrer.
- `session` : L'assemblage d'un entraînement : des réglages et des données à un `Trainer` prêt à
  partir.
- `simple` : La boucle d'entraînement simple : la plus courte qui soit juste.
- `state` : L'état d'un entraînement : où il en est, et ce qu'il faut pour le reprendre.
- `step` : Un pas d'entraînement : ses lots, et les moteurs qui en calculent la perte et les
  gradients.
- `trainer` : La boucle d'entraînement : étapes, points de reprise, évaluations, exemples, arrêts.
"""

from gpt_architecture.training.simple import (
    evaluate_model,
    generate_and_print_sample,
    plot_losses,
    train_model_simple,
)

__all__ = ["evaluate_model", "generate_and_print_sample", "plot_losses", "train_model_simple"]
