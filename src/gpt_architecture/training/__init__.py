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
- `distillation` : Distiller : l'élève apprend le texte, et les probabilités d'un professeur (Hinton
  et al., 2015).
- `distributed/` : Plusieurs processus sur un même entraînement, par `torch.distributed`.
- `evidence` : D'où « verify » lit ce qu'il rejoue : de là où l'appel le dit, et de nulle part
  ailleurs.
- `experiments` : Les essais qu'un plan prévoit : tailles, vocabulaires, durées ; et ceux qu'il
  retient.
- `faults` : Le docteur : les fautes courantes d'un entraînement, nommées d'après ce qu'on en
  observe.
- `forget_work` : Un oubli mené au bout : refait dans un dossier à part, puis mis à la place de
  l'ancien.
- `forgetting` : Oublier exactement : qui a lu ce qui est retiré, d'où repartir, à quel coût ; et
  repartir.
- `inputs` : Ce qu'un entraînement lit : ses données, et l'invite de ses exemples.
- `journals` : Ce qui s'écrit d'un entraînement à mesure : son journal, et les mesures de
  TensorBoard.
- `laboratory` : Le laboratoire d'un plan : un texte, cette machine, et les essais déjà faits, qu'il
  garde.
- `labels` : Classer et noter : la perte d'exemples étiquetés, chacun jugé sur son dernier token.
- `losses` : Les deux pertes d'un entraînement en cours, et celle de chaque source d'un mélange.
- `ngrams` : Les n-grammes de Kneser–Ney interpolés : ce que prédisent les seuls comptes d'un texte.
- `objectives` : Ce qu'une étape fait apprendre à la place de l'entropie croisée, et ce qu'elle en
  mesure.
- `optim` : Comment les poids bougent : AdamW fusionné, Muon, le taux au fil des étapes, l'état
  nommé.
- `outputs` : Ce qu'un entraînement écrit : où, sous quel nom, et sans rien écraser d'autre.
- `planner` : Le déroulement d'un plan : mesurer la machine, comparer des recettes, ajuster la loi,
  décider.
- `planning` : Ce qu'un plan conclut de ses mesures : la durée de chaque taille, sa perte, et la
  meilleure.
- `preferences` : Apprendre des préférences : DPO, ORPO et SimPO, trois pertes de la même boucle.
- `preparation` : Un entraînement prêt à partir : sa demande, ses réglages, ses données ; et ce
  qu'il coûtera.
- `reference` : Les log-probabilités de la référence d'un DPO : une passe avant la première étape,
  puis relues.
- `replay` : Rejouer des étapes d'un entraînement, et les comparer à ce que son certificat en dit.
- `run` : Un entraînement entier : commencer ou reprendre, mener au bout, enregistrer.
- `saved` : Ce qu'un entraînement laisse pour être repris : ses réglages, son point, son retrait.
- `scaling` : La loi de perte d'un corpus, ajustée sur quelques entraînements, et ce qu'elle prédit
  d'un autre.
- `session` : L'assemblage d'un entraînement : des réglages et des données à un `Trainer` prêt à
  partir.
- `shadows` : Des modèles de référence : la recette d'un entraînement, refaite sur des moitiés de
  son texte.
- `simple` : La boucle d'entraînement simple : la plus courte qui soit juste.
- `spread` : Quels points de reprise garder pour qu'un oubli coûte peu, et ce qu'il coûte alors.
- `starting` : Le modèle d'où part un affinage : sa forme, son vocabulaire, son gabarit.
- `step` : Une étape d'entraînement : ses lots, le moteur qui en tire des gradients, et un exemple.
- `survey` : Ce que les données d'un entraînement disent avant sa première étape : repères,
  recouvrement…
- `tasks` : L'objectif d'un entraînement, assemblé : sa perte, ses lots, et ce qui le mesure.
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
