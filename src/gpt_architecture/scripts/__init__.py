"""Les commandes : lire les options, appeler la bibliothèque, afficher.

- `chat` : `gpt-architecture chat` : converser avec un modèle, ici ou derrière un service.
- `convert` : `gpt-architecture convert` : d'un format de poids à un autre.
- `demo` : `gpt-architecture demo` : des stratégies de décodage côte à côte, mesurées.
- `evaluate` : `gpt-architecture evaluate` : ce que vaut un modèle, mesuré.
- `infer` : `gpt-architecture infer` : continuer un texte.
- `inspect` : `gpt-architecture inspect` : ce qu'est un modèle, sans charger ses poids.
- `merge` : `gpt-architecture merge` : fondre des adaptateurs dans leur modèle de départ.
- `plan` : `gpt-architecture plan` : quoi entraîner, dans les heures qu'on a.
- `prepare` : `gpt-architecture prepare` : de textes à des fragments de tokens.
- `quantize` : `gpt-architecture quantize` : écrire un modèle quantifié, et dire ce qu'il perd.
- `serve` : `gpt-architecture serve` : un modèle derrière l'interface HTTP d'OpenAI.
- `tokenizer` : `gpt-architecture tokenizer` : apprendre un vocabulaire, en comparer, en voir le
  découpage.
- `train` : `gpt-architecture train` : d'un texte à un modèle entraîné.
- `verify` : `gpt-architecture verify` : un entraînement a-t-il eu lieu comme son certificat le
  dit ?
- `visualize` : `gpt-architecture visualize` : l'effet des réglages sur une distribution réelle.
"""
