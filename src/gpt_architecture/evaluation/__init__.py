"""Mesurer un modèle : vraisemblance, épreuves, calibration, mémorisation, comparaisons.

- `attention_maps` : Ce que regarde chaque tête d'attention d'un modèle, sur un texte court.
- `canaries` : L'exposition des canaris : ce qu'un modèle sait d'un secret qu'il n'a pu lire que
  là.
- `classification` : Ce que vaut un modèle qui classe ou note des textes : exactitude, F1,
  confusion, écarts.
- `cloze` : Deux épreuves tirées d'un texte : le dernier mot d'un passage, et le mot qui manque à
  une phrase.
- `comparison` : Des stratégies de décodage comparées : écrites en une ligne, essayées, mesurées.
- `distribution` : L'effet de la température, de top-k et de top-p sur une distribution réelle.
- `embeddings` : Le vecteur d'un texte : ses états cachés, réunis en un point de la sphère unité.
- `extraction` : L'extraction par préfixes : de ce qu'un modèle a appris, la part qu'il rend mot
  pour mot.
- `fertility` : Ce qu'un vocabulaire fait d'un texte : sa fertilité, et le découpage token par
  token.
- `harness` : Ce que lm-eval demande à un modèle : noter des suites et des textes, et écrire.
- `inside/` : Ce qui se passe dans un modèle : couches, têtes, neurones, embeddings, et ce qu'il
  apprend.
- `judgement` : Ce qu'un modèle dit d'un texte : sa classe et ses probabilités, ou sa valeur.
- `likelihood` : Log-probabilité de la fin d'une séquence sachant son début : le calcul de toutes
  les mesures.
- `lm_eval` : Les épreuves de lm-eval (Gao et al., 2021) : les nôtres, locales et françaises, et les
  siennes.
- `membership` : L'inférence d'appartenance : peut-on dire, du modèle seul, si un extrait a servi à
  l'entraîner ?
- `memorisation` : Ce qu'un modèle récite : ses suites cherchées mot pour mot dans son texte
  d'entraînement.
- `minimal_pairs` : Paires minimales du français : la phrase juste est-elle plus probable que la
  fausse ?
- `perplexity` : Perte, perplexité et bits par octet d'un modèle sur des textes, par fenêtres
  glissantes.
- `preferences` : Des paires de réponses : la préférée est-elle la plus probable ?
- `provenance` : D'où viennent les mots d'un texte : ses passages mot pour mot, leurs documents, et
  le hasard.
- `recall` : Ce qu'un modèle récite de passages désignés : leur début lui est donné, il continue.
- `reliability` : Peut-on se fier à un modèle ? Sa confiance est-elle juste ; approché, que perd-il
  de l'original.
- `repetition` : Ce qui se répète : dans un texte, d'un texte à l'autre, d'un corpus à un texte.
- `shared_prefixes` : Des séquences courtes notées ensemble : un début que plusieurs partagent est
  lu une fois.
- `task_files` : Les exemples d'une épreuve, lus en JSONL : dernier mot (LAMBADA) et choix multiple
  (HellaSwag).
- `tasks` : Deux épreuves : le dernier mot (LAMBADA) et le choix multiple (HellaSwag).
- `word_weights` : La référence d'un classement : des mots pesés (TF-IDF), puis une régression.
"""
