"""Les commandes : lire les options, appeler la bibliothèque, afficher.

- `chat` : `gpt-architecture chat` : converser avec un modèle, ici ou derrière un service.
- `convert` : `gpt-architecture convert` : d'un format de poids à un autre.
- `demo` : `gpt-architecture demo` : des stratégies de décodage côte à côte, mesurées.
- `dossier` : `gpt-architecture dossier` : ce qu'un modèle retient de ses textes, d'où ils viennent.
- `evaluate` : `gpt-architecture evaluate` : ce que vaut un modèle, mesuré.
- `forget` : `gpt-architecture forget` : fait oublier un texte à un modèle, exactement.
- `infer` : `gpt-architecture infer` : continuer un texte.
- `inspect` : `gpt-architecture inspect` : ce qu'est un modèle, sans charger ses poids.
- `merge` : `gpt-architecture merge` : fondre des adaptateurs dans leur modèle de départ.
- `models` : `gpt-architecture models` : les modèles d'un dossier et du cache, sans les charger.
- `plan` : `gpt-architecture plan` : quoi entraîner, dans les heures qu'on a.
- `prepare` : `gpt-architecture prepare` : de textes à des fragments de tokens.
- `pull` : `gpt-architecture pull` : reprendre un modèle d'un dossier partagé, ou du Hub.
- `push` : `gpt-architecture push` : déposer un modèle dans un dossier partagé, ou sur le Hub.
- `quantize` : `gpt-architecture quantize` : écrire un modèle quantifié, et dire ce qu'il perd.
- `replay` : `gpt-architecture replay` : une réponse du service, refaite de son reçu.
- `serve` : `gpt-architecture serve` : un modèle derrière l'interface HTTP d'OpenAI.
- `tokenizer` : `gpt-architecture tokenizer` : apprendre un vocabulaire, en comparer, en voir le
  découpage.
- `train` : `gpt-architecture train` : d'un texte à un modèle entraîné.
- `verify` : `gpt-architecture verify` : un entraînement a-t-il eu lieu comme son certificat le
  dit ?
- `visualize` : `gpt-architecture visualize` : l'effet des réglages sur une distribution réelle.
"""
