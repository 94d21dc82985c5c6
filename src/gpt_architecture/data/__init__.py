"""Le texte : d'où il vient, comment il devient des tokens, puis des lots.

- `datasets` : Les données d'un entraînement : du texte en mémoire, des fragments sur disque, des
  conversations.
- `hygiene/` : L'hygiène d'un corpus : ce qui ne s'apprend pas, se répète ou se trahit en est retiré
  et compté.
- `loader` : Fenêtres glissantes sur un texte, et chargeurs de lots.
- `mixtures` : Plusieurs sources en un entraînement, chacune pour sa part : les tokens, et l'ordre
  des fenêtres.
- `packing` : Des conversations réunies à plusieurs par rangée, au lieu d'une, complétée de
  remplissage.
- `sampler` : Quel lot à quelle étape : une fonction pure de (graine, étape, rang, nombre de
  processus).
- `shards/` : Les tokens sur disque : des fragments écrits en flux, lus sans rien charger.
- `texts/` : Les textes : d'où ils viennent, comment ils se lisent, se nettoient et se répartissent.
- `tokenizer` : Le point d'entrée de tous les tokenizers : par leur nom, leur fichier ou leur
  description.
- `tokenizers/` : Les vocabulaires : comment un texte devient des tokens, et l'inverse.
"""
