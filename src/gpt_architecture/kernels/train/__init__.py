"""L'étape d'entraînement fusionnée, écrite à la main.

- `fused_step` : L'étape d'entraînement fusionnée : passe avant et rétropropagation à la main, sur
  CPU.
- `gradients` : Où vont les gradients de l'étape fusionnée : dans les `.grad`, ou tout de suite dans
  AdamW.
- `half_kernels` : Les noyaux du pas dont les produits sont en bf16 : ceux de `kernels`, sur
  d'autres types.
- `kernels` : Les noyaux de l'étape d'entraînement : embeddings, normes, résidus, GELU, attention,
  perte, AdamW.
- `keyed_dropout` : Dropout à clés : chaque masque est une fonction pure, sans générateur
  ni mémoire.
- `layers` : Un bloc Transformer, puis la tête et sa perte : passe avant et rétropropagation, à la
  main.
"""
