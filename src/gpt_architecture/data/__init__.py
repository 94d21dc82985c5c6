"""Le texte : d'où il vient, comment il devient des tokens, puis des lots.

- `canaries` : Des canaris : des phrases au secret tiré au sort, plantées dans un texte
  d'entraînement.
- `datasets` : Les données d'un entraînement : du texte en mémoire, ou des fragments sur disque.
- `dialogues` : Les données d'un entraînement à répondre : d'un dialogue, seules les réponses
  s'apprennent.
- `hygiene/` : L'hygiène d'un corpus : ce qui ne s'apprend pas, se répète ou se trahit en est retiré
  et compté.
- `labelled` : Des exemples étiquetés en tokens : un texte par rangée, une cible à son dernier
  token.
- `labelling` : Les données d'un entraînement à classer ou à noter : lues, partagées, codées.
- `loader` : Fenêtres glissantes sur un texte, et chargeurs de lots.
- `masking` : Des données dont un retrait est masqué : la règle d'un oubli, et la seule.
- `mixtures` : Plusieurs sources en un entraînement, chacune pour sa part : les tokens, et l'ordre
  des fenêtres.
- `named_places` : Les passages que des données nomment : documents, lignes, conversations, rangs.
- `packing` : Des conversations réunies à plusieurs par rangée, au lieu d'une, complétée de
  remplissage.
- `places` : Où un texte, un document ou des lignes se trouvent dans les tokens d'un entraînement.
- `preferences` : Les paires de préférences d'un entraînement : deux rangées chacune, qui se lisent
  ensemble.
- `removal` : Un retrait : les tokens qu'un entraînement ne lit ni n'apprend, par leurs places.
- `provenance/` : D'où vient un passage : le texte d'entraînement, rangé pour y chercher mot pour
  mot.
- `sampler` : Quel lot à quelle étape : une fonction pure de (graine, étape, rang, nombre de
  processus).
- `shards/` : Les tokens sur disque : des fragments écrits en flux, lus sans rien charger.
- `splits` : Partager des exemples entiers entre l'entraînement et la validation, par une graine.
- `texts/` : Les textes : d'où ils viennent, comment ils se lisent, se nettoient et se répartissent.
- `tokenizer` : Le point d'entrée de tous les tokenizers : par leur nom, leur fichier ou leur
  description.
- `tokenizers/` : Les vocabulaires : comment un texte devient des tokens, et l'inverse.
"""
