"""Le décodage compilé : les poids compactés, et un pas entier d'un seul appel.

- `dot_tiles` : Une ligne de poids contre quelques activations, en instructions vectorielles.
- `grouped_codes` : Quantification des poids par groupes, à échelle seule.
- `linear_kernels` : Les produits « poids × quelques activations » : la lecture des poids fixe leur
  durée.
- `packed` : Le modèle compacté : mêmes logits que `GPTModel`, poids rangés pour le décodage sur
  processeur.
- `panel_kernels` : Ce qui entoure les produits de PyTorch, au-delà d'un pas compilé : décodage et
  GELU.
- `self_draft` : Le modèle propose lui-même ses prochains tokens, par une copie de ses poids sur 8
  bits.
- `step` : Un pas de décodage entier, d'un seul appel, sans revenir à Python.
- `step_kernels` : Ce qui entoure les produits d'un pas de décodage : normes, codes des activations,
  attention.
- `strip_kernels` : Les produits « poids × activations » dont chaque résultat ignore les autres, au
  bit près.
- `strip_tiles` : Une bande de seize lignes de poids contre quelques activations.
- `weights` : Les matrices d'un modèle compacté : pleines, ou quantifiées par groupes.
- `wide_kernels` : Les produits d'un lot d'activations : le calcul, plus que la lecture des poids,
  fixe la durée.
- `wide_tiles` : Quelques lignes de poids contre un lot d'activations rangées par colonnes.
"""
