"""Mesurer un modèle : vraisemblance, épreuves, calibration, mémorisation, comparaisons.

- `attention_maps` : Ce que regarde chaque tête d'attention d'un modèle, sur un texte court.
- `calibration` : Un modèle a-t-il raison aussi souvent qu'il le croit ? Calibration du token le
  plus probable.
- `comparison` : Comparaison mesurée de stratégies de décodage, sur des débuts de texte et des
  graines.
- `distribution` : L'effet de la température, de top-k et de top-p sur une distribution réelle.
- `examples` : Les exemples des épreuves, lus en JSONL : dernier mot (LAMBADA) et choix multiple
  (HellaSwag).
- `fertility` : Ce qu'un vocabulaire fait d'un texte : sa fertilité, et le découpage token par
  token.
- `fidelity` : Ce qu'un modèle approché (quantifié) perd sur un texte : perplexité, et tokens
  gloutons.
- `intervals` : Intervalles de confiance à 95 % : moyennes par rééchantillonnage, proportions par
  Wilson.
- `likelihood` : Log-probabilité de la fin d'une séquence sachant son début : le calcul de toutes
  les mesures.
- `lm_eval_adapter` : Un modèle du projet vu par lm-eval (Gao et al., 2021), et ses épreuves
  françaises locales.
- `lm_eval_run` : Les épreuves de lm-eval (Gao et al., 2021) : les nôtres, locales et françaises, et
  les siennes.
- `memorisation` : Ce qu'un modèle récite : ses suites cherchées mot pour mot dans son texte
  d'entraînement.
- `perplexity` : Perte, perplexité et bits par octet d'un modèle sur des textes, par fenêtres
  glissantes.
- `quality` : Mesures de textes générés : variété, répétition, ressemblance entre eux.
- `tasks` : Deux épreuves : le dernier mot (LAMBADA) et le choix multiple (HellaSwag).
- `variants` : Une variante écrite en une ligne : « top_p p=0.9 temperature=0.8 ».
- `verbatim` : La plus longue suite de tokens d'un texte qui se trouve mot pour mot dans un corpus.
"""
