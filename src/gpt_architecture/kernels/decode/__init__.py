"""Le décodage compilé : les poids compactés, et un pas entier d'un seul appel.

- `dots` : Comment la machine multiplie des octets : l'instruction, et la forme qu'elle veut.
- `embedding_kernels` : L'embedding d'un pas : la ligne de chaque token, plus celle de sa position.
- `float_tiles` : Des lignes de poids fp32 contre des activations, en instructions vectorielles :
  trois tuiles.
- `forms` : Les formes d'un pas : comment il multiplie, et ce qu'il prépare pour cela.
- `integer_tiles` : Des bandes de poids entiers contre des activations entières, en instructions
  vectorielles.
- `linear_kernels` : Les produits « poids × activations » d'un pas, sur des poids fp32 en lignes.
- `matrix_tiles` : Les mêmes produits d'entiers que `integer_tiles`, par les registres de matrices
  (AMX).
- `packed` : Le modèle compacté : mêmes logits que `GPTModel`, poids rangés pour le décodage sur
  processeur.
- `passes` : Les passages sur les poids d'un modèle compacté : les pas compilés, et les produits de
  PyTorch.
- `row_adapters` : La part des adaptateurs dans un pas : chaque activation a le sien, de son rang,
  ou aucun.
- `row_tiles` : Ce qu'un pas fait d'une ligne hors des produits, en instructions vectorielles.
- `step` : Un pas de décodage entier, d'un seul appel, sans revenir à Python.
- `step_kernels` : Ce qui entoure les produits : normes, codes des activations, attention, GELU.
- `strip_kernels` : Les produits d'un pas sur des poids en bandes, fp32 ou entiers, un noyau pour
  chacun.
- `weights` : Les matrices d'un modèle compacté : pleines, ou quantifiées par groupes.
"""
