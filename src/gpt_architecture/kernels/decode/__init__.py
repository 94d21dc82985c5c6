"""Le décodage compilé : les poids compactés, et un pas entier d'un seul appel.

- `float_tiles` : Des lignes de poids fp32 contre des activations, en instructions vectorielles :
  trois tuiles.
- `integer_tiles` : Une ligne de poids entiers contre quelques activations, en instructions
  vectorielles.
- `linear_kernels` : Les produits « poids × activations » d'un pas, un noyau par rangement des
  poids.
- `packed` : Le modèle compacté : mêmes logits que `GPTModel`, poids rangés pour le décodage sur
  processeur.
- `passes` : Les passages sur les poids d'un modèle compacté : les pas compilés, et les produits de
  PyTorch.
- `step` : Un pas de décodage entier, d'un seul appel, sans revenir à Python.
- `step_kernels` : Ce qui entoure les produits : normes, codes des activations, attention, décodage,
  GELU.
- `weights` : Les matrices d'un modèle compacté : pleines, ou quantifiées par groupes.
"""
