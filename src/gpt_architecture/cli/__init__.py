"""Ce que les commandes partagent : options, aide, progression, lancement, écriture des résultats.

- `bar` : La barre de progression des commandes : au terminal seulement, et sur stderr.
- `command` : Ce que les commandes partagent : aide en français, configuration, erreurs, codes de
  sortie.
- `finetune_options` : Les options d'affinage de `train`, et le modèle de départ qu'elles désignent.
- `help` : L'aide de cyclopts, en français.
- `launch` : Plusieurs processus : les options, le lanceur de PyTorch (torchrun) et la place de
  chacun.
- `logs` : Le journal sur stderr : en texte pour une personne, ou en JSON, une ligne par événement.
- `measures` : Les mesures de `evaluate` : ce qui est lu, calculé, montré pendant le calcul.
- `opening` : Le début des exemples générés pendant l'entraînement.
- `options` : Options que plusieurs commandes partagent.
- `outputs` : Ce que l'entraînement écrit : où, sous quel nom, et sans rien écraser d'autre.
- `products` : Ce qu'un entraînement produit : un modèle entier, ou des adaptateurs.
- `progress` : Progression de l'entraînement : une barre au terminal, des lignes simples ailleurs.
- `remote` : Parler à un service : celui de `gpt-architecture serve`, ou tout autre à la manière
  d'OpenAI.
- `results` : Ce que les commandes écrivent : résultats en JSON, pages, figures, modèles.
- `signals` : Arrêt en douceur : le premier signal demande, le second impose.
- `study` : Ce qu'un modèle récite, et la page qui le montre : les options de `evaluate`, leur
  calcul.
- `tokenizers` : Le tokenizer que nomme une commande qui n'apprend rien.
- `tour` : La visite guidée : ce qu'il y a ici, ce qu'on a déjà, quoi lancer ensuite.
- `train_data` : Ce que `train` lit : du texte suivi, ou des conversations.
- `train_options` : Les options de `train` : groupes, préréglages, et celles qu'une reprise
  retrouve.
- `train_report` : Ce que `train` dit de lui-même : ce qui va être entraîné, ce que cela demande, où
  reprendre.
- `train_run` : Le déroulement de `train` : préparer, entraîner ou reprendre, enregistrer, conclure.
- `usage_errors` : Les erreurs d'usage de cyclopts, traduites en une phrase.
- `variables` : Les variables d'environnement mal écrites : dites, avec le nom le plus proche.
"""
