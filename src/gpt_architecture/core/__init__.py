"""Le modèle : attention, couches, cache, initialisation, adaptateurs.

- `adapters` : Des adaptateurs employés sans être fondus : à chaque ligne d'un lot le sien, ou
  aucun.
- `anatomy` : La passe avant écrite pièce par pièce : chaque valeur se regarde, et se remplace.
- `attention` : Attention multi-têtes causale (Vaswani et al., 2017), sur deux moteurs équivalents.
- `documents` : Plusieurs documents dans une rangée, dont chacun ne voit que lui-même.
- `grouped_codes` : Quantification des poids par groupes, à échelle seule.
- `heads` : La tête de classe ou de valeur : sa perte, et ce qu'elle rend d'un texte.
- `kv_cache` : Cache des clés et valeurs : chaque position n'est projetée qu'une fois.
- `layers` : Les briques du Transformer : normalisation, activation, perceptron, bloc.
- `lora` : Les adaptateurs de rang faible (LoRA, Hu et al., 2021), posés de l'extérieur sur un
  GPTModel.
- `machine` : La machine : le périphérique, la mémoire du processus, ce que plusieurs threads se
  partagent.
- `model` : GPTModel : le Transformer décodeur de GPT-2.
- `utils` : Petits outils autour du modèle : texte ↔ tokens, pertes, modes et générateurs.
"""
