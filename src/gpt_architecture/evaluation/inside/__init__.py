"""Ce qui se passe dans un modèle : couches, têtes, neurones, embeddings, et ce qu'il apprend.

Tout y est calculé par la passe avant écrite pièce par pièce (`core.anatomy`) ; les tests la
comparent à celle du modèle, où des crochets de PyTorch lisent et remplacent les mêmes valeurs.

- `ablation` : Le modèle sans une tête, sans une couche : ce que cela change à son prochain token.
- `embeddings` : Les tokens qui se ressemblent : les voisins d'un embedding, et une carte à deux
  dimensions.
- `heads` : Ce que cherche chaque tête d'attention : la place d'avant, la première, ou la suite d'un
  déjà-vu.
- `learning` : Ce qu'un entraînement apprend : la même invite, à chacun de ses points de reprise.
- `lens` : Ce que chaque couche croit : le flux résiduel lu par la tête de sortie, couche après
  couche.
- `neurons` : Ce qui allume un neurone : les passages d'un texte où il est le plus actif, et ce
  qu'il écrit.
- `sentence` : Le réseau dont on regarde l'intérieur, et la phrase qu'on lui fait lire.
"""
