"""L'entraînement : une boucle simple qui se lit, et celle qui fait tout.

- `arithmetic` : L'arithmétique d'un entraînement : ce dont dépendent ses arrondis, et ce que
  d'autres permettent.
- `audit` : Vérifier un certificat : sa chaîne, ses fichiers, ses lots, puis des étapes rejouées.
- `backends` : Le choix du moteur : l'étape fusionnée là où il convient, autograd partout ailleurs.
- `baselines` : Les repères d'une perte : ce que des n-grammes atteignent sur le même texte de
  validation.
- `callbacks` : Ce que la boucle reçoit de qui l'assemble, ce qu'elle raconte, et ceux qui
  l'écoutent.
- `certificate` : Le certificat d'un entraînement : ce qu'il a lu, calculé et obtenu, en empreintes
  chaînées.
- `checkpoint` : Où en est un entraînement, et ses points de reprise : écrits sans risque,
  renouvelés.
- `costs` : Ce que coûte une étape : opérations, octets, frais ; calé sur des étapes mesurées.
- `diagnosis` : Le dossier d'un entraînement : ce que le docteur en lit, et ce qu'il en dit.
- `distributed/` : Plusieurs processus sur un même entraînement, par `torch.distributed`.
- `evidence` : D'où « verify » lit ce qu'il rejoue : jamais d'un endroit que le certificat nomme.
- `experiments` : Les essais qu'un plan prévoit : tailles, vocabulaires, durées ; et ceux qu'il
  retient.
- `faults` : Le docteur : les fautes courantes d'un entraînement, nommées d'après ce qu'on en
  observe.
- `inputs` : Ce qu'un entraînement lit : ses données, son point de départ, ou le point qu'il
  reprend.
- `laboratory` : Le laboratoire d'un plan : un texte, cette machine, et les essais déjà faits, qu'il
  garde.
- `losses` : Les deux pertes d'un entraînement en cours, et celle de chaque source d'un mélange.
- `ngrams` : Les n-grammes de Kneser–Ney interpolés : ce que prédisent les seuls comptes d'un texte.
- `optim` : Comment les poids bougent : AdamW fusionné, Muon, le taux au fil des étapes, l'état
  nommé.
- `outputs` : Ce qu'un entraînement écrit : où, sous quel nom, et sans rien écraser d'autre.
- `planner` : Le déroulement d'un plan : mesurer la machine, comparer des recettes, ajuster la loi,
  décider.
- `planning` : Ce qu'un plan conclut de ses mesures : la durée de chaque taille, sa perte, et la
  meilleure.
- `preparation` : Un entraînement prêt à partir : sa demande, ses réglages, ses données ; et ce
  qu'il coûtera.
- `replay` : Rejouer des étapes d'un entraînement, et les comparer à ce que son certificat en dit.
- `run` : Un entraînement entier : commencer ou reprendre, mener au bout, enregistrer.
- `scaling` : La loi de perte d'un corpus, ajustée sur quelques entraînements, et ce qu'elle prédit
  d'un autre.
- `session` : L'assemblage d'un entraînement : des réglages et des données à un `Trainer` prêt à
  partir.
- `simple` : La boucle d'entraînement simple : la plus courte qui soit juste.
- `step` : Une étape d'entraînement : ses lots, le moteur qui en tire des gradients, et un exemple.
- `story` : Ce qu'un certificat raconte : ses maillons suivis un à un, reprises appliquées.
- `survey` : Ce que les données d'un entraînement disent avant sa première étape : repères,
  recouvrement…
- `trainer` : La boucle d'entraînement : étapes, points de reprise, évaluations, exemples, arrêts.
- `trials` : Les essais d'un plan : de courts entraînements, exactement ceux de `train`, et leurs
  mesures.
"""

from gpt_architecture.training.simple import (
    evaluate_model,
    generate_and_print_sample,
    plot_losses,
    train_model_simple,
)

__all__ = ["evaluate_model", "generate_and_print_sample", "plot_losses", "train_model_simple"]
