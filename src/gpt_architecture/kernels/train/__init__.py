"""Le pas d'entraînement fusionné, écrit à la main.

- `fused_step` : Le pas d'entraînement fusionné : avant et arrière de GPT-2 écrits à la main, sur
  CPU.
- `gradients` : Où vont les gradients du pas fusionné : dans les `.grad`, ou tout de suite dans
  AdamW.
- `half_kernels` : Les noyaux du pas dont les produits sont en bf16 : ceux de `kernels`, sur
  d'autres types.
- `kernels` : Les noyaux du pas d'entraînement : embeddings, normes, résidus, GELU, attention,
  perte, AdamW.
- `keyed_dropout` : Abandon (dropout) à clés : chaque masque est une fonction pure, sans générateur
  ni mémoire.
- `layers` : Un bloc Transformer, puis la tête et sa perte, en avant et en arrière, écrits à la
  main.
"""
