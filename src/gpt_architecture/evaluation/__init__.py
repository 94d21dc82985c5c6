"""Mesurer un modèle : vraisemblance, épreuves, calibration, mémorisation, comparaisons.

- `attention_maps` : Ce que regarde chaque tête d'attention d'un modèle, sur un texte court.
- `cloze` : Deux épreuves tirées d'un texte : le dernier mot d'un passage, et le mot qui manque à
  une phrase.
- `comparison` : Des stratégies de décodage comparées : écrites en une ligne, essayées, mesurées.
- `distribution` : L'effet de la température, de top-k et de top-p sur une distribution réelle.
- `fertility` : Ce qu'un vocabulaire fait d'un texte : sa fertilité, et le découpage token par
  token.
- `likelihood` : Log-probabilité de la fin d'une séquence sachant son début : le calcul de toutes
  les mesures.
- `lm_eval` : Les épreuves de lm-eval (Gao et al., 2021) : les nôtres, locales et françaises, et les
  siennes.
- `memorisation` : Ce qu'un modèle récite : ses suites cherchées mot pour mot dans son texte
  d'entraînement.
- `minimal_pairs` : Paires minimales du français : la phrase juste est-elle plus probable que la
  fausse ?
- `perplexity` : Perte, perplexité et bits par octet d'un modèle sur des textes, par fenêtres
  glissantes.
- `reliability` : Peut-on se fier à un modèle ? Sa confiance est-elle juste ; approché, que perd-il
  de l'original.
- `repetition` : Ce qui se répète : dans un texte, d'un texte à l'autre, d'un corpus à un texte.
- `shared_prefixes` : Des séquences courtes notées ensemble : un début que plusieurs partagent est
  lu une fois.
- `task_files` : Les exemples d'une épreuve, lus en JSONL : dernier mot (LAMBADA) et choix multiple
  (HellaSwag).
- `tasks` : Deux épreuves : le dernier mot (LAMBADA) et le choix multiple (HellaSwag).
"""
