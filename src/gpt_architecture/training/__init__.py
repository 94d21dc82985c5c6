"""L'entraînement : une boucle simple qui se lit, et celle qui fait tout.

- `backends` : Le choix du moteur : le pas fusionné là où il convient, autograd partout ailleurs.
- `batches` : Les lots de chaque étape, lus dans une suite de tokens.
- `calculation` : Ce dont dépendent les arrondis : une reprise n'est exacte au bit près que s'il n'a
  pas changé.
- `callbacks` : Ce que l'entraînement raconte, et ceux qui l'écoutent.
- `checkpoint` : Les points de reprise d'un entraînement : écrits sans risque, vérifiés, renouvelés.
- `contracts` : Ce que la boucle d'entraînement reçoit de qui l'assemble : un rythme, et des
  appelables.
- `distributed/` : Plusieurs processus sur un même entraînement, par `torch.distributed`.
- `engine` : Le moteur d'un pas : perte et gradients d'un lot.
- `estimate` : Ce qu'un entraînement coûtera : mesuré sur quelques étapes, étendu au reste.
- `evaluate` : Ce que la boucle mesure en chemin : deux pertes, et un exemple de texte.
- `metrics` : Ce que la machine pourrait faire, et la part qu'elle en fait.
- `muon` : Muon (Jordan, 2024), orthogonalisé dans une précision que le matériel calcule.
- `notices` : Les phrases de la boucle d'entraînement : étape sautée, abandon, mémoire insuffisante.
- `optim` : Les optimiseurs : groupes de paramètres, AdamW fusionné, Muon, et leur état nommé.
- `plots` : Courbes de pertes, en PDF.
- `schedule` : Le taux d'apprentissage au fil des étapes : des fonctions pures de l'étape.
- `session` : L'assemblage d'un entraînement : des réglages et des données à un `Trainer` prêt à
  partir.
- `simple` : La boucle d'entraînement simple : la plus courte qui soit juste.
- `starting_point` : Le modèle dont part un affinage : ses poids, sa forme, son tokenizer, son
  gabarit.
- `state` : L'état d'un entraînement : où il en est, et ce qu'il faut pour le reprendre.
- `trainer` : La boucle d'entraînement : étapes, points de reprise, évaluations, exemples, arrêts.
"""

from gpt_architecture.training.simple import (
    evaluate_model,
    generate_and_print_sample,
    plot_losses,
    train_model_simple,
)

__all__ = ["evaluate_model", "generate_and_print_sample", "plot_losses", "train_model_simple"]
